"Answers of people by the command line: a run takes them, its name counts them, and evaluation leaves out the unknown."
import json
from typing import NamedTuple
import numpy as np
import pytest
from amsps.companion.answers import ORDERS, Questions, answer_by_relevance, append_answer, last_mined
from amsps.companion.answers import pairs_to_ask, read_answers
from amsps.companion.config import parse_config
from amsps.companion.datasets import load_data
from amsps.companion.runs import run_dir
from conftest import SMALL

SETTINGS = SMALL|dict(epochs=3, warmup_epochs=1, active_from=1)


class World(NamedTuple):
    folder: object # Of the cache and of files with answers
    config: object
    data: object
    record: dict


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    "A trained run on scenes, and files with answers about what it mined, and about the hardest candidates"
    from amsps.companion.runs import train_run
    folder = tmp_path_factory.mktemp('answers')
    config = parse_config(SETTINGS|dict(loss='ahrl', cache_dir=str(folder/'cache')))
    data = load_data(config)
    record = train_run(config, data)
    split = data.split('train')
    texts = last_mined(run_dir(config, data)).candidates.texts[:20,0].numpy().copy()
    hardest = Questions(np.arange(20), texts, np.zeros(20))
    for how in ORDERS:
        questions = pairs_to_ask(run_dir(config, data), 40, how)
        for asked in (questions, hardest):
            answer_by_relevance(folder/f'{how}.csv', asked, split, data.split_relevance(split))
    return World(folder, config, data, record)


def told(world, **settings):
    "The same run with answers: configuration and record"
    from amsps.companion.runs import train_run
    made = world.config.model_copy(update=dict(judgements=str(world.folder/'active.csv'))|settings)
    data = load_data(made)
    return made,data,train_run(made, data)


def test_a_run_is_named_by_what_the_answers_say(world, tmp_path):
    from amsps.companion.runs import key_of
    folder,config,record = world.folder,world.config,world.record
    assert 'judgements' not in record['config'] and 'judgements' not in record['key']['config']
    def name(text, file):
        (tmp_path/file).write_text(text, 'utf-8')
        with_file = config.model_copy(update=dict(judgements=str(tmp_path/file)))
        return key_of(with_file, load_data(with_file))
    header,*lines = (folder/'active.csv').read_text('utf-8').splitlines()
    whole = name('\n'.join([header, *lines]), 'a.csv')
    assert whole!=record['key']
    assert name('\n'.join([header, *lines[::-1]]).replace('oracle', 'Ann'), 'b.csv')==whole
    assert name('\n'.join([header, *lines[1:]]), 'a.csv')!=whole


@pytest.mark.parametrize('loss', ['hardest_triplet', 'infonce', 'ahrl', 'aoq', 'fne'])
def test_accepted_pairs_are_never_negatives(world, loss, monkeypatch):
    "Seen at the loss: in every step of every mode, an accepted pair of the batch is `known`"
    from amsps.training import RetrievalTrainer
    seen = []
    compute = RetrievalTrainer.compute_loss
    def watched(self, model, inputs, *args, **kwargs):
        image,caption = inputs['image'],inputs['caption']
        inner = self.retrieval_loss.forward
        def forward(sims, of_pairs, known=None, **more):
            pairs = self.train_dataset.accepted[image][:,caption].toarray()
            assert known.cpu().numpy()[pairs].all()
            seen.append((self.retrieval_loss.mode, int(pairs.sum()), more))
            return inner(sims, of_pairs, known, **more)
        self.retrieval_loss.forward = forward
        try: return compute(self, model, inputs, *args, **kwargs)
        finally: self.retrieval_loss.forward = inner
    monkeypatch.setattr(RetrievalTrainer, 'compute_loss', watched)
    _,data,record = told(world, loss=loss, evidence='none' if loss=='fne' else 'coverage', epochs=2, seed=1)
    assert sum(n for _,n,_ in seen)>10
    assert record['key']['config']['judgements']==data.answers.fingerprint(data.annotations)
    if loss=='ahrl':
        assert any('mined' in more for *_,more in seen)


def test_what_is_mined(world):
    "Accepted pairs leave the candidates, refused ones are among them and never mined"
    made,data,_ = told(world)
    found,split = last_mined(run_dir(made, data)),data.split('train')
    accepted,refused = (list(zip(*x.nonzero())) for x in data.split_answers(split))
    assert len(accepted)>3 and len(refused)>3
    texts,images = found.candidates.texts.tolist(),found.candidates.images.tolist()
    hidden,known = found.hidden.toarray(),found.known.toarray()
    assert all(known[i,j] and j not in texts[i] and i not in images[j] for i,j in accepted)
    assert all(not hidden[i,j] and j in texts[i] and i in images[j] for i,j in refused)


def test_answers_are_weighted(world, monkeypatch):
    "Seen in training: the weights of a run reach the draws and the term of hidden positives"
    from amsps.mining import Miner
    drawn,weights = [0, 0],set()
    take = Miner.draw_for
    def watched(self, image, caption, step):
        draw = take(self, image, caption, step)
        drawn[0] += int(self.refused[image,draw.texts[:,0].numpy().copy()].sum())
        drawn[1] += int((np.diff(self.refused.indptr)[image]>0).sum())
        pairs = [(i, j) for i,j in zip(image, draw.mined_texts.tolist()) if j>=0 and self.accepted[i,j]]
        weights.update(float(self.mined.hidden[i,j]) for i,j in pairs)
        return draw
    monkeypatch.setattr(Miner, 'draw_for', watched)
    made,_,record = told(world, refused_weight=1000., accepted_weight=.25, seed=4)
    assert drawn[1]>20 and drawn[0]>.8*drawn[1] and weights=={.25}
    assert record['config']['refused_weight']==1000 and record['config']['accepted_weight']==.25


@pytest.mark.parametrize('settings', [dict(seed=2), dict(seed=3, correct_confidence=True, refused_weight=2.)])
def test_the_key_has_the_code_that_a_run_with_answers_enters(world, settings):
    from test_cache import lacking
    from amsps.companion.runs import key_of
    made = world.config.model_copy(update=dict(judgements=str(world.folder/'random.csv'), **settings))
    assert not lacking(made)
    code = key_of(made, load_data(made))['code']
    assert ('mining.Refused' in code)==('refused_weight' in settings)


def test_evaluate_by_answers(cli, world):
    folder,config,data = world.folder,world.config,world.data
    notes,file = data.annotations,folder/'test.csv'
    split = data.split('test')
    for i in range(10):
        for j in range(0, len(split), 7):
            grade = 'match' if data.relevance[split.rows[i],split.columns[j]] else 'no match'
            append_answer(file, split.image_ids[i], split.caption_ids[j], grade, 'Ann' if j%2 else 'Bob')
    append_answer(file, split.image_ids[0], split.caption_ids[0], 'unsure', 'Cy')
    run = run_dir(config, data)
    r = cli('evaluate', run, '--relevance', file, '--cache-dir', config.cache_dir)
    assert r.returncode==0 and 'by test.csv  i2t mAP@R' in r.stdout and '(10 images)' in r.stdout, r.stdout+r.stderr
    assert '3 people' in r.stdout and 'that nobody answered is unknown' in r.stdout
    r = cli('evaluate', run, '--relevance', file, '--json', '--cache-dir', config.cache_dir)
    graded = json.loads(r.stdout)['relevance']
    assert set(graded)=={'test'} and graded['test']['i2t_queries']==10
    assert read_answers(file, notes).matrix('unsure').nnz<=1
    r = cli('evaluate', run, '--relevance', file, '--accept', 2, '--cache-dir', config.cache_dir)
    assert r.returncode==2 and 'leave it out' in r.stderr
    r = cli('evaluate', run, '--relevance', folder/'active.csv', '--cache-dir', config.cache_dir)
    assert r.returncode==2 and 'no image and no caption of dev or test' in r.stderr


def test_a_run_with_answers_is_evaluated_and_verified(cli, world, tmp_path):
    weights = dict(refused_weight=2., accepted_weight=.5, correct_confidence=True)
    made,data,record = told(world, **weights)
    run = run_dir(made, data)
    r = cli('evaluate', run, '--cache-dir', made.cache_dir)
    assert r.returncode==0 and 'equal to the record' in r.stdout, r.stderr
    (tmp_path/f"{record['name']}.json").write_text(json.dumps(record))
    r = cli('verify', tmp_path)
    assert r.returncode==2 and 'was made with the answers active.csv' in r.stderr
    r = cli('verify', tmp_path, '--judgements', world.folder/'active.csv')
    assert r.returncode==0 and 'equal' in r.stdout, r.stdout+r.stderr


def test_mistakes(cli, world, tmp_path):
    folder = world.folder
    (tmp_path/'bad.csv').write_text('image,caption,grade,who,when\nx,y,match,Ann,2026-01-31T12:00:00Z\n')
    sizes = [x for k,v in SETTINGS.items() for x in (f"--{k.replace('_', '-')}", v)]
    place = ['--cache-dir', world.config.cache_dir]
    wrong = {tmp_path/'none.csv': 'check `judgements`', tmp_path/'bad.csv': "line 2: unknown image 'x'",
             folder/'records.csv': 'check `judgements`'}
    for file,said in wrong.items():
        r = cli('train', '--loss', 'ahrl', *sizes, *place, '--judgements', file)
        assert r.returncode==2 and said in r.stderr and 'Traceback' not in r.stderr, r.stderr
    r = cli('verify', '--judgements', folder/'active.csv')
    assert r.returncode==2 and "none of these did" in r.stderr


@pytest.mark.parametrize('options, said', [
    (['--loss', 'infonce'], 'have no effect, because this loss draws no candidates; --loss ahrl makes hard negatives'),
    (['--loss', 'ahrl', '--offline-weight', 0, '--cross-weight', 0, '--no-penalty'],
     'only keep pairs from being mined, because this loss draws no candidates; --offline-weight above 0 makes'),
    (['--loss', 'ahrl'], ''), (['--loss', 'ahrl', '--refused-weight', 3], ''), (['--loss', 'aoq'], '')])
def test_answers_without_effect_are_named(cli, world, monkeypatch, options, said):
    "Pairs that people refuse become candidates, and not every loss draws some"
    from amsps.companion import cli as commands
    monkeypatch.setattr(commands, '_train_alone', lambda config, given: None)
    config = world.config
    sizes = ['--scenes-train', config.scenes_train, '--scenes-dev', config.scenes_dev, '--scenes-test',
             config.scenes_test, '--epochs', 3, '--cache-dir', config.cache_dir]
    active = [] if options[1]=='infonce' else ['--active-from', 1]
    r = cli('train', *sizes, *options, *active, '--warmup-epochs', 1, '--judgements', world.folder/'active.csv')
    n = (read_answers(world.folder/'active.csv', world.data.annotations).grade==0).sum()
    assert r.returncode==0 and n
    assert r.stderr.count('\n')==bool(said) and (f'note: {n} answers of no match {said}' in r.stderr)==bool(said)


def test_weights_without_effect(cli, world, tmp_path, monkeypatch):
    from amsps.companion import cli as commands
    monkeypatch.setattr(commands, '_train_alone', lambda config, given: None)
    config,file = world.config,tmp_path/'yes.csv'
    split = world.data.split('train')
    append_answer(file, split.image_ids[0], split.caption_ids[-1], 'match', 'Ann')
    def train(*options):
        return cli('train', '--scenes-train', config.scenes_train, '--scenes-dev', config.scenes_dev, '--scenes-test',
                   config.scenes_test, '--epochs', 3, '--warmup-epochs', 1, *options)
    given = '--judgements', file, '--active-from', 1
    r = train('--loss', 'ahrl', '--refused-weight', 3, *given)
    assert r.returncode==0 and "note: --refused-weight has no effect, because no answer is 'no match'" in r.stderr
    assert not train('--loss', 'ahrl', '--accepted-weight', .5, *given).stderr
    for loss,option,why in (('aoq', '--refused-weight', 'draws candidates one by one'),
                            ('infonce', '--accepted-weight', 'reinforces hidden positives')):
        r = train('--loss', loss, option, .5, '--judgements', file)
        assert r.returncode==2 and option in r.stderr and why in ' '.join(r.stderr.split()), r.stderr
    r = train('--loss', 'ahrl', '--refused-weight', 3, '--active-from', 1)
    assert r.returncode==2 and "weight of people's answers" in ' '.join(r.stderr.split()), r.stderr


def test_files_of_several_people(cli, world, tmp_path, monkeypatch):
    "Named with commas, or put one after the other; never one of them silently left out"
    from amsps.companion import cli as commands
    from amsps.companion.runs import key_of
    taken = []
    monkeypatch.setattr(commands, '_train_alone', lambda config, given: taken.append(key_of(config, load_data(config))))
    header,*lines = (world.folder/'active.csv').read_text('utf-8').splitlines()
    half = len(lines)//2
    ann,cal,cat = tmp_path/'ann.csv',tmp_path/'cal.csv',tmp_path/'cat.csv'
    ann.write_text('\n'.join([header, *lines[:half+5]])+'\n', 'utf-8')
    cal.write_text('\n'.join([header, *lines[half:]]).replace('oracle', 'Cal')+'\n', 'utf-8')
    cat.write_bytes(ann.read_bytes()+b'\xef\xbb\xbf'+cal.read_bytes())
    sizes = [x for k,v in SETTINGS.items() for x in (f"--{k.replace('_', '-')}", v)]
    train = ['train', '--loss', 'ahrl', *sizes, '--cache-dir', world.config.cache_dir]
    for files in (f'{ann},{cal}', cat, world.folder/'active.csv'):
        r = cli(*train, '--judgements', files)
        assert r.returncode==0 and ('answers: 2 people' in r.stdout)==(files!=world.folder/'active.csv'), r.stderr
        assert (' 5 by several, who agree in 100%' in r.stdout)==(files!=world.folder/'active.csv'), r.stdout
    assert taken[0]==taken[1]==taken[2]
    r = cli(*train, '--judgements', ann, '--judgements', cal)
    assert r.returncode==2 and 'is given 2 times' in r.stderr and 'several files go with commas' in r.stderr
    r = cli(*train, '--judgements', f'{ann},{tmp_path}/none.csv')
    assert r.returncode==2 and 'none.csv; check `judgements` (--judgements)' in r.stderr, r.stderr
    assert len(taken)==3


def test_evaluate_by_several_files(cli, world, tmp_path):
    split,files = world.data.split('test'),[tmp_path/'ann.csv', tmp_path/'bob.csv']
    for k,file in enumerate(files):
        for i in range(5): append_answer(file, split.image_ids[i+3*k], split.caption_ids[-1], 'no match', file.stem)
    place = ['--cache-dir', world.config.cache_dir]
    run,both = run_dir(world.config, world.data),','.join(map(str, files))
    r = cli('evaluate', run, '--relevance', both, *place)
    assert r.returncode==0 and '2 people, 8 pairs' in r.stdout and 'by ann.csv,bob.csv' in r.stdout, r.stderr
    assert '(8 images)' in r.stdout
    (tmp_path/'grades.csv').write_text(f'image,caption\n{split.image_ids[0]},{split.caption_ids[0]}\n')
    r = cli('evaluate', run, '--relevance', f"{both},{tmp_path/'grades.csv'}", *place)
    assert r.returncode==2 and "grades.csv has no people's answers" in r.stderr, r.stderr
    (tmp_path/'excel.csv').write_text('image;caption;grade;who;when\n')
    r = cli('review', run, '--answers', tmp_path/'excel.csv')
    assert r.returncode==2 and 'with commas between them' in r.stderr, r.stderr
