"Whole commands on small data: failures, full disks, photographs, repetition."
import json
import resource
import shutil
import numpy as np
import pytest
import torch
from amsps.companion.config import parse_config
from amsps.companion.grid import records_for
from amsps.companion.tables import read_records
from conftest import ROOT, SMALL, TINY, command_line, forked
from layouts import write


def test_failing_notebook_on_the_command_line(cli, tmp_path):
    "A model that diverges ends with exit code 1, names cell and error, and leaves no record"
    r = cli('train', *TINY, '--learning-rate', 1e30, '--cache-dir', tmp_path)
    assert r.returncode==1, r.stderr
    assert 'non-finite loss at step' in r.stderr and 'failed in cell' in r.stderr and 'Traceback' not in r.stderr
    assert not list(tmp_path.rglob('record.json'))


def in_little_room(*command):
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))
    command_line(*command)


def test_disk_full_while_training(cli, tmp_path):
    "It is said, nothing is recorded; with room again the same command resumes"
    from amsps.companion.datasets import load_data
    load_data(parse_config(SMALL|dict(epochs=3, cache_dir=str(tmp_path))))
    command = ['train', *map(str, TINY), '--cache-dir', str(tmp_path)]
    process = forked(in_little_room, *command, out=tmp_path/'said')
    process.join(300)
    said = (tmp_path/'said').read_text('utf-8')
    assert process.exitcode==1 and 'File too large' in said and 'Traceback' not in said, said
    assert not list(tmp_path.rglob('record.json'))
    assert cli(*command).returncode==0 and len(list(tmp_path.rglob('record.json')))==1


def test_outputs_that_cannot_be_written(cli, tmp_path):
    (tmp_path/'file').touch()
    r = cli('train', '--cache-dir', tmp_path/'file/cache')
    assert r.returncode==2 and f"cannot create the cache folder {tmp_path/'file/cache'}" in r.stderr, r.stderr
    for option in ('--output', '--records', '--cache-dir'):
        r = cli('reproduce', '--figure', 'map', option, tmp_path/'file/x')
        assert r.returncode==2 and 'cannot create the' in r.stderr, (option, r.stderr)
        assert 'Traceback' not in r.stderr


def tiny_text_encoder(folder):
    "A random BERT in transformers' format"
    from amsps.data import build_tokenizer
    from transformers import BertConfig, BertModel
    tokenizer = build_tokenizer(['a red dog on the grass'], 1)
    size = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    tokenizer.save_pretrained(folder)
    BertModel(BertConfig(vocab_size=len(tokenizer), **size)).save_pretrained(folder)
    return folder


def test_own_photographs_and_text_encoder(cli, small_flickr8k, backbone, tmp_path):
    "Official layout, a vision backbone, a text encoder, expert judgements: one run and its report"
    judged = ['scene00020.jpg\tscene00021.jpg#0\t3\t4\t3', 'scene00020.jpg\tscene00020.jpg#0\t4\t4\t4']
    (small_flickr8k/'ExpertAnnotations.txt').write_text('\n'.join(judged)+'\n', 'utf-8')
    data = ['--dataset', 'flickr8k', '--data-root', small_flickr8k, '--backbone', backbone, '--grid', 2]
    text = ['--text-backbone', tiny_text_encoder(tmp_path/'bert'), '--freeze-text']
    r = cli('train', *data, *text, '--epochs', 1, '--seed', 2, '--cache-dir', tmp_path/'cache')
    assert r.returncode==0, r.stdout+r.stderr
    folder = next((tmp_path/'cache/runs').glob('*/record.json')).parent
    record = json.loads((folder/'record.json').read_text('utf-8'))
    assert sum(record['similarities']['hidden'])==1
    assert record['config']['seed']==2 and record['config']['text_backbone']=='bert'
    for f in (folder/'record.json', *(folder/'model').rglob('*.json')):
        assert str(tmp_path) not in f.read_text('utf-8'), f'{f.name} names a place of this machine'
    report = ['report', folder.parent, '--output', tmp_path/'out']
    r = cli(*report)
    assert r.returncode==0, r.stdout+r.stderr
    assert not list((tmp_path/'out').glob('figure_retrieval*'))
    assert cli(*report, '--data-root', small_flickr8k, '--figure', 'retrieval').returncode==0
    assert list((tmp_path/'out').glob('figure_retrieval*.png'))


@pytest.fixture
def small_vit(tmp_path):
    "A random vision transformer in transformers' format, which tells colours and places apart"
    from transformers import ViTConfig, ViTImageProcessorPil, ViTModel
    torch.manual_seed(0)
    sizes = dict(hidden_size=64, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64)
    ViTModel(ViTConfig(**sizes, image_size=32, patch_size=8)).save_pretrained(tmp_path/'vit')
    ViTImageProcessorPil(size=dict(height=32, width=32)).save_pretrained(tmp_path/'vit')
    return tmp_path/'vit'


def test_a_run_embeds_by_itself(cli, small_flickr8k, small_vit, tmp_path, capfd):
    "The folder of a run evaluates, searches and embeds without the backbone that it was trained with"
    from amsps.metrics import recall_metrics, retrieval_ranks
    from amsps.processor import AmspsModel
    where = ['--data-root', small_flickr8k, '--cache-dir', tmp_path/'cache']
    r = cli('train', '--dataset', 'flickr8k', *where, '--backbone', small_vit, '--loss', 'infonce', '--epochs', 3)
    assert r.returncode==0, r.stdout+r.stderr
    folder = next((tmp_path/'cache/runs').glob('*/record.json')).parent
    shutil.rmtree(small_vit)
    r = cli('evaluate', folder, *where)
    assert r.returncode==0 and 'equal to the record' in r.stdout, r.stdout+r.stderr
    test = sorted((small_flickr8k/'Flicker8k_Dataset').glob('*.jpg'))[-4:]
    r = cli('search', folder, '--image', test[0], '--top', 2, *where)
    assert r.returncode==0 and len(r.stdout.splitlines())==2, r.stderr
    model = AmspsModel.from_pretrained(shutil.copytree(folder/'model', tmp_path/'copied'))
    lines = [l.split('\t') for l in (small_flickr8k/'Flickr8k.token.txt').read_text('utf-8').splitlines()]
    owner,captions = zip(*[(k, c) for k,p in enumerate(test) for i,c in lines if i.startswith(p.name)])
    embedded = model.encode(test, list(captions), batch_size=2, progress=True)
    found = recall_metrics(*retrieval_ranks(*embedded, torch.tensor(owner)))
    bars = capfd.readouterr().err
    assert 'embedding pictures: 100%' in bars and '2/2' in bars and 'embedding texts: 100%' in bars
    record = json.loads((folder/'record.json').read_text('utf-8'))
    assert found['rsum']==pytest.approx(record['metrics']['test']['rsum'], abs=1e-6)
    collect = ['runs', 'gc', '--cache-dir', tmp_path/'cache']
    shared = [f for f in (tmp_path/'cache/vision').iterdir() if f.is_dir()]
    assert cli(*collect).stdout=='nothing to remove\n'
    shutil.rmtree(folder)
    said = f'remove {shared[0].name}: no run links to it'
    assert f'would {said}' in cli(*collect, '--dry-run').stdout and shared[0].exists()
    assert said.replace('remove', 'removed') in cli(*collect).stdout and not list((tmp_path/'cache/vision').iterdir())


def write_others(source_root, root):
    "A table of eight drawn pictures for testing; the last two are training pictures of `source_root`, renamed"
    from amsps.scenes import make_scenes
    data = make_scenes(1, 1, 8, captions=2, seed=3)
    notes = data.annotations
    root.mkdir()
    for i,name in enumerate(notes.image_ids): data.picture(i).save(root/f'{name}.jpg')
    seen = (source_root/'Flickr_8k.trainImages.txt').read_text('utf-8').split()[:2]
    for old,new in zip(seen, notes.image_ids[-2:]): shutil.copy(source_root/'Flicker8k_Dataset'/old, root/f'{new}.jpg')
    rows = [f'{notes.image_ids[i]}.jpg,{c},{notes.splits[i]}' for i,c in zip(notes.caption_image, notes.captions)]
    (root/'captions.csv').write_text('\n'.join(['image,caption,split', *rows])+'\n', 'utf-8')
    return notes.image_ids[-2:]


def test_other_data(cli, small_flickr8k, small_vit, tmp_path):
    "A run meets another folder: said so, pictures it was trained on are counted, records of both make a table"
    cache,kept = ['--cache-dir', tmp_path/'cache'],tmp_path/'kept'
    where = ['--data-root', small_flickr8k, *cache]
    train = ['train', '--dataset', 'flickr8k', *where, '--backbone', small_vit, '--loss', 'infonce', '--epochs', 1]
    shutil.copy(small_flickr8k/'Flicker8k_Dataset/scene00000.jpg', small_flickr8k/'Flicker8k_Dataset/scene00023.jpg')
    r = cli(*train)
    assert r.returncode==0 and 'chance: ' in r.stdout and '(random ranks of 4 images)' in r.stdout, r.stdout+r.stderr
    assert 'overlap: 1 of 4 test images is a training image of the run' in r.stdout
    run = next((tmp_path/'cache/runs').glob('*/record.json')).parent
    seen = write_others(small_flickr8k, tmp_path/'photos')
    evaluate = ['evaluate', run, *cache]
    r = cli(*evaluate, '--data-root', tmp_path/'photos', '--keep-record', kept)
    assert r.returncode==0, r.stderr
    own = json.loads((run/'record.json').read_text('utf-8'))
    said = ["other data than the run's own", f"flickr8k: {own['data']['summary']}; fingerprint",
            'photos: train 1 images / 2 captions; dev 1 images / 2 captions; test 8 images / 16 captions; fingerprint',
            f'2 of 8 test images are training images of the run (byte for byte): {seen[0]}.jpg, {seen[1]}.jpg.',
            '(random ranks of 8 images)', '95 %:']
    assert all(s in r.stdout for s in said) and 'record:  ' not in r.stdout and 'equal to' not in r.stdout, r.stdout
    moved = json.loads(next(kept.glob('transfer-*.json')).read_text('utf-8'))
    assert moved['config']['label']=='InfoNCE (flickr8k to photos)' and moved['transfer']['overlap']['count']==2
    shutil.copy(run/'record.json', kept/'own.json')
    r = cli('report', kept, '--output', tmp_path/'out', '--cache-dir', tmp_path/'cache')
    assert r.returncode==0, r.stdout+r.stderr
    table = (tmp_path/'out/table_main.md').read_text('utf-8')
    assert 'on flickr8k (4 test images) and photos' in table
    assert '| InfoNCE (flickr8k to photos)' in table and '| InfoNCE ' in table
    r = cli(*evaluate, '--data-root', tmp_path/'photos', '--json')
    out = json.loads(r.stdout)
    assert set(out)=={'dev', 'test', 'chance', 'intervals', 'overlap'} and out['overlap']['count']==2
    low,high = out['intervals']['i2t_r1']
    assert low<=out['test']['i2t_r1']<=high and 'other data' in r.stderr and 'overlap:' in r.stderr
    shutil.copytree(small_flickr8k, tmp_path/'twin')
    pictures = tmp_path/'twin/Flicker8k_Dataset'
    shutil.copy(pictures/'scene00001.jpg', pictures/'scene00002.jpg')
    r = cli(*evaluate, '--data-root', tmp_path/'twin', '--keep-record', tmp_path/'twins')
    assert r.returncode==2 and 'add --dataset own' in r.stderr, r.stdout+r.stderr
    assert not [*(tmp_path/'twins').glob('*')]
    table = tmp_path/'photos/captions.csv'
    every = table.read_text('utf-8')
    table.write_text(every.replace(',test', ',train'), 'utf-8')
    r = cli(*evaluate, '--data-root', tmp_path/'photos')
    assert r.returncode==2 and 'photos has no test images' in r.stderr and '`test` in every row' in r.stderr, r.stderr
    table.write_text(every, 'utf-8')
    (run/'train-pictures.txt').unlink()
    assert 'overlap:  not known' in cli(*evaluate, '--data-root', tmp_path/'photos').stdout
    said = 'overlap:  1 of 4 test images is a training image of the run (byte for byte): scene00023.'
    r = cli(*evaluate, '--data-root', small_flickr8k)
    assert said in r.stdout and 'equal to the record' in r.stdout and 'other data' not in r.stdout, r.stdout
    assert 'overlap      1 of 4 test images' in cli('runs', 'show', run).stdout


def test_data_that_a_run_cannot_use(cli, source, small_vit, tmp_path):
    "Pictures for a run on region features, region features or scenes for one with an encoder"
    cache = ['--cache-dir', tmp_path/'cache']
    regions,pictures = write('precomp', source, tmp_path/'regions'),write('own_csv', source, tmp_path/'pictures')
    small = ['--loss', 'infonce', '--epochs', 1, '--min-count', 1, *cache]
    def trained(*args):
        r = cli('train', *args, *small)
        assert r.returncode==0, r.stderr
        return next(l.split()[1] for l in r.stdout.splitlines() if l.startswith('run:'))
    by_regions = trained('--dataset', 'own', '--data-root', regions)
    r = cli('evaluate', by_regions, '--data-root', pictures, *cache)
    assert r.returncode==2 and 'was trained on region features (36 x 16 an image) and has no vision' in r.stderr
    other = write('precomp', source, tmp_path/'other')
    np.save(other/'test_ims.npy', np.load(other/'test_ims.npy')+1)
    r = cli('evaluate', by_regions, '--data-root', other, '--dataset', 'own', *cache)
    assert 'none of 2 test images is a training image of the run (by their region features)' in r.stdout, r.stderr
    assert 'equal to the record' in cli('evaluate', by_regions, '--data-root', regions, *cache).stdout
    by_pictures = trained('--dataset', 'own', '--data-root', pictures, '--backbone', small_vit)
    r = cli('evaluate', by_pictures, '--data-root', regions, *cache)
    assert r.returncode==2 and 'the features are of size 16, those that' in r.stderr and 'Traceback' not in r.stderr
    r = cli('evaluate', by_pictures, '--data-root', pictures, '--dataset', 'scenes', *cache)
    assert r.returncode==2 and '--dataset: scenes have no pictures' in r.stderr


def test_adapters(cli, small_flickr8k, small_vit, tmp_path):
    "A run with adapters saves a plain model, whose vision model differs from its start by matrices of their rank"
    from amsps.model import AmspsModel
    from transformers import ViTModel
    where = ['--data-root', small_flickr8k, '--cache-dir', tmp_path/'cache']
    train = ['train', '--dataset', 'flickr8k', *where, '--backbone', small_vit, '--loss', 'infonce', '--epochs', 2]
    r = cli(*train, '--tune-vision-layers', 1, '--lora', 3)
    assert r.returncode==0, r.stdout+r.stderr
    folder = next((tmp_path/'cache/runs').glob('*/record.json')).parent
    after = AmspsModel.from_pretrained(folder/'model').vision.backbone.state_dict()
    before = ViTModel.from_pretrained(small_vit).state_dict()
    changed = [k for k,x in after.items() if not torch.equal(x, before[k])]
    assert changed and all(torch.linalg.matrix_rank(after[k]-before[k], rtol=1e-3)==3 for k in changed)
    shutil.rmtree(small_vit)
    r = cli('evaluate', folder, *where)
    assert r.returncode==0 and 'equal to the record' in r.stdout, r.stdout+r.stderr


def test_a_vision_model_by_reference(cli, small_flickr8k, small_vit, tmp_path):
    "The folder of a run has the digest of its vision model alone, and takes no other model"
    from transformers import ViTModel
    where = ['--data-root', small_flickr8k, '--cache-dir', tmp_path/'cache']
    train = ['train', '--dataset', 'flickr8k', *where, '--loss', 'infonce', '--epochs', 1]
    r = cli(*train, '--backbone', small_vit, '--save-vision', 'reference')
    assert r.returncode==0, r.stdout+r.stderr
    folder = next((tmp_path/'cache/runs').glob('*/record.json')).parent
    assert (folder/'model/vision.json').is_file() and not (folder/'model/vision').exists()
    assert str(tmp_path) not in (folder/'model/vision.json').read_text('utf-8')
    commands = [['evaluate', folder, *where], ['search', folder, '--caption', 'red', *where]]
    for command in commands:
        r = cli(*command)
        assert r.returncode==2 and 'was saved without its vision model (vit)' in r.stderr and '--backbone' in r.stderr
    moved = small_vit.rename(tmp_path/'moved')
    assert 'equal to the record' in cli(*commands[0], '--backbone', moved).stdout
    assert cli(*commands[1], '--backbone', moved).returncode==0
    assert 'evaluated again: every number equal' in cli('verify', folder, *where[:2], '--backbone', moved).stdout
    changed = ViTModel.from_pretrained(moved)
    with torch.no_grad(): next(changed.parameters()).add_(.01)
    changed.save_pretrained(moved)
    r = cli(*commands[0], '--backbone', moved)
    assert r.returncode==2 and "moved' is not that of its training" in r.stderr, r.stderr
    (folder/'model/vision.json').unlink()
    r = cli(*commands[0], '--backbone', moved)
    assert r.returncode==2 and 'vision.json is gone' in r.stderr, r.stderr


def test_what_needs_a_vision_model_by_reference(cli, small_flickr8k, small_vit, tmp_path):
    "An index, its update, a search for a picture and further training take the vision model by --backbone"
    where = ['--data-root', small_flickr8k, '--cache-dir', tmp_path/'cache', '--dataset', 'flickr8k']
    train = ['train', *where, '--loss', 'infonce', '--epochs', 1]
    assert cli(*train, '--backbone', small_vit, '--save-vision', 'reference').returncode==0
    run = next((tmp_path/'cache/runs').glob('*/record.json')).parent
    photos,new = tmp_path/'photos',tmp_path/'new.jpg'
    shutil.copytree(small_flickr8k/'Flicker8k_Dataset', photos)
    next(photos.iterdir()).rename(new)
    index = ['index', photos, '-o', tmp_path/'index']
    says = "was a folder, and is not saved with it: say where the encoder lies with `vision` (--backbone)"
    for command in ([*index, '--model', run], [*train, '--model', run]):
        r = cli(*command)
        assert r.returncode==2 and says in r.stderr, r.stdout+r.stderr
    assert not (tmp_path/'index/manifest.json').exists()
    r = cli(*index, '--model', run, '--backbone', small_vit)
    assert r.returncode==0 and '(23 added)' in r.stdout, r.stdout+r.stderr
    search = ['search', tmp_path/'index', '--image', new]
    found = cli(*search).stdout
    assert len(found.splitlines())==5 and cli('search', tmp_path/'index', 'a red ball').returncode==0
    moved = small_vit.rename(tmp_path/'moved')
    r = cli(*search)
    assert r.returncode==2 and f'there is no folder {small_vit}' in r.stderr and '--backbone' in r.stderr, r.stderr
    assert cli(*search, '--backbone', moved).stdout==found
    shutil.copy(new, photos/'again.jpg')
    assert cli(*index).returncode==2
    r = cli(*index, '--backbone', moved)
    assert r.returncode==0 and '(1 added)' in r.stdout, r.stdout+r.stderr
    other = tmp_path/'other.jpg'
    other.write_bytes(new.read_bytes()+b'0')
    assert cli('search', tmp_path/'index', '--image', other).returncode==0 # its new place is known
    r = cli(*train, '--model', run, '--backbone', moved)
    assert r.returncode==0, r.stdout+r.stderr
    second = next(f.parent for f in (tmp_path/'cache/runs').glob('*/record.json') if f.parent!=run)
    assert (second/'model/vision').is_dir()
    assert 'equal to the record' in cli('evaluate', second, *where[:4]).stdout
    r = cli('index', photos, '-o', tmp_path/'second', '--model', second, '--backbone', moved)
    assert r.returncode==2 and 'saved by reference, without its vision encoder' in r.stderr, r.stderr
    r = cli(*train, '--model', second, '--backbone', moved)
    assert r.returncode==2 and 'leave out `backbone`' in r.stderr, r.stderr


@pytest.fixture
def precomputed(tmp_path):
    "A folder of region features: few scenes"
    from amsps.scenes import make_scenes
    data = make_scenes(30, 10, 10)
    notes,folder = data.annotations,tmp_path/'precomp'
    folder.mkdir()
    for split in ('train', 'dev', 'test'):
        rows = np.flatnonzero(np.array(notes.splits)==split)
        captions = [c for c,i in zip(notes.captions, notes.caption_image) if i in set(rows)]
        np.save(folder/f'{split}_ims.npy', data.features[rows])
        (folder/f'{split}_caps.txt').write_text('\n'.join(captions)+'\n', 'utf-8')
    return folder


@pytest.fixture
def concepts(cli, precomputed, tmp_path):
    "`amsps reproduce --figure concepts` with one seed and few images: what it prints, and its picture"
    data = ['--dataset', 'flickr8k', '--data-root', precomputed]
    command = ['reproduce', *data, '--figure', 'concepts', '--seeds', 1, '--cache-dir', tmp_path/'cache']
    def run(*more):
        return cli(*command, '--output', tmp_path/'out', *more)
    def said(*more):
        r = run(*more)
        assert r.returncode==0, r.stderr
        return r.stdout
    return run,said,tmp_path/'out/figure_concepts.png'


def test_explain_makes_nothing(cli, small_flickr8k, backbone, tmp_path):
    "No features for an explanation; a run is known again without them"
    cache = tmp_path/'cache'
    data = ['--dataset', 'flickr8k', '--data-root', small_flickr8k, '--backbone', backbone, '--cache-dir', cache]
    data += ['--text-backbone', tiny_text_encoder(tmp_path/'bert')]
    explain = ['reproduce', *data, '--table', 'main', '--seeds', 1, '--explain']
    r = cli(*explain)
    assert r.returncode==0 and 'missing      InfoNCE, seed 0' in r.stdout, r.stderr
    assert not list(cache.rglob('*.npy'))
    r = cli('train', '--row', 'InfoNCE', '--freeze-text', *data)
    assert r.returncode==0, r.stderr
    for features in (cache/'features').iterdir(): shutil.rmtree(features)
    assert 'cached       InfoNCE, seed 0' in cli(*explain).stdout
    assert not list(cache.rglob('features.npy'))


def test_explain_and_force(concepts):
    "reproduce --figure makes just that; --explain says why; --force makes it again, to the same bytes"
    run,said,picture = concepts
    assert '1 run: 1 missing' in said('--explain') and not picture.parent.exists()
    assert '1 run: 0 complete, 1 to do' in said()
    first = picture.read_bytes()
    assert [p.name for p in picture.parent.glob('*.png')]==['figure_concepts.png']
    assert (picture.parent/'report.html').exists()
    explained = said('--explain')
    assert 'cached       AMSPS, seed 0' in explained and 'made         figure_concepts' in explained
    assert 'up to date: nothing to do' in said()

    assert 'stale        figure_concepts: forced' in said('--explain', '--force', 'figure_concepts')
    assert 'missing      AMSPS, seed 0: forced' in said('--explain', '--force', 'AMSPS')
    assert 'up to date: nothing to do' in said(), '--explain changes nothing'
    assert 'figure_concepts' in said('--force', 'figure_concepts')
    assert '1 run: 0 complete, 1 to do' in said('--force', 'AMSPS') and picture.read_bytes()==first

    picture.write_bytes(b'')
    assert 'stale        figure_concepts: figure_concepts.png was changed by hand' in said('--explain')
    for unknown in (['--force', 'AHLR'], ['--force', 'table_main', '--explain']):
        r = run(*unknown)
        assert r.returncode==2 and f'{" ".join(unknown[:2])}: no run, row, table or figure of this grid' in r.stderr


def test_a_figure_of_differences_needs_two_seeds(cli, tmp_path):
    "A report of fewer seeds takes back the figure that it cannot draw any more"
    own,copied = ROOT/'data/results/scenes',tmp_path/'records'
    copied.mkdir()
    for r in records_for(read_records(own), 'table_main'):
        if r['row'] in ('Hardest triplet', 'InfoNCE') and r['config']['seed']<2:
            shutil.copy(own/f"{r['name']}.json", copied/f"{r['config']['seed']}-{r['name']}.json")
    report = ['report', copied, '--output', tmp_path/'out', '--cache-dir', tmp_path/'cache', '--table', 'main']
    drawn = [tmp_path/f'out/figure_main.{suffix}' for suffix in ('pdf', 'png', 'json')]
    r = cli(*report, '--palette', 'light')
    assert r.returncode==0 and all(f.exists() for f in drawn), r.stdout+r.stderr
    assert 'exploratory' in json.loads(drawn[2].read_text('utf-8'))['caption']
    for f in copied.glob('1-*.json'):
        f.unlink()
    r = cli(*report)
    assert r.returncode==0 and not any(f.exists() for f in drawn), r.stdout+r.stderr
    assert '| InfoNCE' in (tmp_path/'out/table_differences.md').read_text('utf-8')
