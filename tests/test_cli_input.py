"Mistakes on the command line: one message that says what to do, exit code 2, no traceback, nothing half-written."
import json
import shutil
import sys
import numpy as np
import pytest
from amsps.companion.config import parse_config
from amsps.companion.datasets import load_data
from amsps.errors import InputError, InputNote
from conftest import ROOT, TINY, amsps

def refused(r, *said):
    assert r.returncode==2, (r.returncode, r.stdout, r.stderr)
    assert 'Traceback' not in r.stderr+r.stdout
    for s in said:
        assert s in r.stderr, r.stderr

SMALL = ['--scenes-train', 40, '--scenes-dev', 15, '--scenes-test', 20]
GRAPH = ['--n-concepts', 20, '--consensus', 'graph']
LIKELIHOOD = ['--n-concepts', 20, '--consensus', 'likelihood']
FLICKR8K = ['--dataset', 'flickr8k']
PARAMETERS = [
    (['--epochs', 0], ['parameter `epochs`', 'greater than or equal to 1', 'got 0']),
    (['--epochs', 'three'], ["Invalid value for '--epochs'", 'valid integer']),
    (['--loss', 'ahlr'], ['parameter `loss`', "'infonce'", "got 'ahlr'"]),
    (['--dropout', 1.0], ['parameter `dropout`', 'less than 1']),
    (['--loss', 'aoq', '--epochs', 2], ['the active mode never begins', 'train longer']),
    (['--loss', 'sam_like', '--evidence', 'none'], ['need `evidence`', 'coverage', 'sentence']),
    (['--evidence', 'sentence'], ['frozen text encoder', '`freeze_text`']),
    (['--n-concepts', 5], ['at least 10 concepts', 'got `n_concepts` 5']),
    (['--loss', 'infonce', '--concept-vectors', 'glove.txt'], ['set `n_concepts` too']),
    ([*LIKELIHOOD, '--concept-vectors', 'glove.txt'], ['`concept_vectors` is for the graph']),
    (['--consensus', 'bag'], ['graph', 'likelihood']),
    ([*GRAPH, '--concept-vectors', '/nowhere.txt', *SMALL], ['cannot read /nowhere.txt', '`concept_vectors`']),
    (['--marginn', 0.3], ['No such option', '--margin']),
    (['--dataset', 'coco'], ['parameter `dataset`', "got 'coco'"]),
    (FLICKR8K, ['needs `data_root`']),
    ([*TINY, '--train-images', 41], ['`train_images` is 41', 'choose 1 to 40, or 0 for all']),
    ([*TINY, '--captions-per-image', 6], ['`captions_per_image` is 6', 'choose 1 to 5, or 0 for all']),
    (['--train-images', -1], ['parameter `train_images`', 'greater than or equal to 0']),
    ([*FLICKR8K, '--data-root', '/nowhere', '--backbone', '/nowhere'], ['/nowhere is not a folder']),
    (['--dataset', 'own', '--data-root', '/', '--layout', 'scan'],
        ["unknown layout 'scan'", 'choose from auto, flickr8k']),
    (['--cache-dir', '/dev/null/cache'], ['cannot create the cache folder /dev/null/cache']),
    (['--grid', 2], ['--grid is not for scenes', '--dataset']),
    (['--backbone', '/nowhere'], ['--backbone is not for scenes', '--dataset']),
    (['--text-backbone', '/nowhere'], ["cannot load the text encoder '/nowhere'"]),
]

@pytest.mark.parametrize('args,said', PARAMETERS, ids=[' '.join(map(str, a)) for a,_ in PARAMETERS])
def test_parameters(cli, args, said):
    refused(cli('train', *args), *said)

OPTIONS = [ # Options that would have no effect
    (['reproduce', '--text-backbone', 'x'], '--text-backbone is not for scenes'),
    (['reproduce', '--dataset', 'scenes-full', '--data-root', 'x'], '--data-root is not for scenes'),
    (['reproduce', '--address', 'tcp://localhost:1'], 'add --executor dask'),
    (['reproduce', '--executor', 'dask', '--address', 'tcp://127.0.0.1:9'], 'no Dask scheduler answers'),
    (['reproduce', '--device', 'tpu'], "unknown device 'tpu'"),
    (['evaluate', 'x', '--accept', 2], 'give --relevance too'),
    (['evaluate', 'x', '--relevance', 'y', '--accept', -1], "Invalid value for '--accept'"),
    (['verify', '--concept-vectors', '/nowhere.txt'], 'cannot read /nowhere.txt'),
    (['search', 'x', '--image', 'x.jpg'], 'x.jpg cannot be decoded'),
    (['search', 'x', '--image', '/nowhere.jpg', '--backbone', 'x'], '/nowhere.jpg cannot be decoded'),
    (['search', 'x', '--caption', 'a dog', '--split', 'val'], "there is no split 'val'"),
    (['verify', '--data-root', 'x'], '--data-root is for records on photographs'),
    (['verify', '--text-backbone', 'x'], '--text-backbone is for records with a text encoder'),
    (['reproduce', '--explain', '--jobs', 2], '--jobs does nothing with --explain'),
    (['report', 'x', '--table', 'cost', '--palette', 'light'], '--palette is for figures'),
    (['train', '--loss', 'infonce', '--margin', 0.3], '--margin is no parameter of this --loss'),
]

@pytest.mark.parametrize('args,said', OPTIONS, ids=[' '.join(map(str, a)) for a,_ in OPTIONS])
def test_options_without_effect(cli, args, said):
    refused(cli(*args), said)

def test_as_a_user_calls_it():
    refused(amsps('runs', 'diff', 'nowhere', 'nothere'), "amsps: there is no run 'nowhere'", '`amsps runs list`')

def captions_of(root):
    return root/'Flickr8k.token.txt'

def prepend(file, text):
    file.write_text(text+file.read_text('utf-8'), 'utf-8')

def picture_gone(root):
    next((root/'Flicker8k_Dataset').glob('*.jpg')).unlink()

def empty_caption(root):
    prepend(captions_of(root), 'scene00000.jpg#9\t .\n')

def caption_twice(root):
    first = captions_of(root).read_text('utf-8').splitlines()[0]
    prepend(captions_of(root), first+'\n')

def latin_1(root):
    f = captions_of(root)
    f.write_bytes(f.read_bytes()+b'scene00000.jpg#9\tcaf\xe9\n')

def no_list_of_dev(root):
    (root/'Flickr_8k.devImages.txt').unlink()

def picture_truncated(root):
    f = sorted((root/'Flicker8k_Dataset').glob('*.jpg'))[3]
    f.write_bytes(f.read_bytes()[:300])

def line_without_tab(root):
    prepend(captions_of(root), 'no tab here\n')

DAMAGES = [
    (picture_gone, ['.jpg does not exist', '1 of 24 listed images']),
    (empty_caption, ["caption 'scene00000.jpg#9' is empty"]),
    (caption_twice, ["caption id 'scene00000.jpg#0' occurs twice"]),
    (latin_1, ['Flickr8k.token.txt, line', 'not UTF-8']),
    (no_list_of_dev, ['Flickr_8k.devImages.txt']),
    (picture_truncated, ['scene00003.jpg cannot be decoded']),
    (line_without_tab, ['line 1: expected IMAGE#N<TAB>caption']),
]

@pytest.mark.parametrize('damage,said', DAMAGES, ids=[d.__name__ for d,_ in DAMAGES])
def test_flickr8k(cli, small_flickr8k, backbone, tmp_path, damage, said):
    damage(small_flickr8k)
    places = ['--data-root', small_flickr8k, '--backbone', backbone, '--cache-dir', tmp_path/'cache']
    refused(cli('train', *FLICKR8K, *places), *said)
    assert not list(tmp_path.rglob('record.json')) and not list(tmp_path.rglob('features.npy'))

def test_backbone(cli, small_flickr8k, tmp_path):
    pictures = small_flickr8k/'Flicker8k_Dataset'
    refused(cli('extract', pictures, '--backbone', tmp_path, '--cache-dir', tmp_path/'cache'),
        'cannot load the vision backbone', 'config.json')

def test_before_any_feature(cli, small_flickr8k, backbone, tmp_path, monkeypatch):
    "Nothing is extracted for a run that cannot be trained"
    places = ['--data-root', small_flickr8k, '--backbone', backbone, '--cache-dir', tmp_path/'cache']
    refused(cli('train', *FLICKR8K, *places, '--text-backbone', '/nowhere'), "cannot load the text encoder '/nowhere'")
    refused(cli('train', *FLICKR8K, *places, '--precision', 'fp16'), '`precision` fp16 needs a GPU')
    refused(cli('reproduce', *FLICKR8K, *places, '--text-backbone', '/nowhere'), "cannot load the text encoder")
    monkeypatch.setitem(sys.modules, 'peft', None)
    adapters = ['--tune-vision-layers', 1, '--lora', 4]
    refused(cli('train', *FLICKR8K, *places, *adapters), "`lora` needs the package peft: run pip install 'amsps[lora]'")
    save_bert(tmp_path/'bert', layers=2)
    tuned = ['--text-backbone', tmp_path/'bert', '--freeze-text', '--tune-text-layers', 3]
    refused(cli('train', *FLICKR8K, *places, *tuned), '`tune_text_layers` is 3, and BertModel has 2 layers')
    chosen = dict(data_root=str(small_flickr8k), backbone=str(backbone), cache_dir=str(tmp_path/'cache'), grid=1,
                  text_backbone=str(tmp_path/'bert'), freeze_text=True, tune_text_layers=3)
    with pytest.raises(InputError, match='BertModel has 2 layers'):
        load_data(parse_config(dict(dataset='flickr8k')|chosen))
    (tmp_path/'file').touch()
    refused(cli('reproduce', *FLICKR8K, *places, '--output', tmp_path/'file/x'), 'cannot create the folder')
    assert not list(tmp_path.rglob('features.*'))

def save_bert(folder, layers):
    from transformers import BertConfig, BertModel
    from amsps.data import build_tokenizer
    tokenizer = build_tokenizer(['a red ball on the grass'], 1)
    tokenizer.save_pretrained(folder)
    size = dict(hidden_size=8, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=8)
    BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=128, **size)).save_pretrained(folder)

def test_prepare_before_reading(cli, small_flickr8k, backbone, tmp_path):
    "Without features in the folder or a backbone, nothing is decoded"
    picture_truncated(small_flickr8k)
    where = [small_flickr8k, '--dataset', 'flickr8k', '--cache-dir', tmp_path/'cache']
    refused(cli('data', 'prepare', *where), 'no region features: name a vision model with --backbone')
    refused(cli('data', 'prepare', *where, '--backbone', '/nowhere'), "cannot load the vision backbone '/nowhere'")
    refused(cli('data', 'prepare', *where, '--grid', 2), '--grid is for features of a --backbone')
    refused(cli('data', 'prepare', *where, '--backbone', backbone), "`grid` 3 is finer than the backbone's own 2 x 2")
    refused(cli('data', 'prepare', *where, '--backbone', backbone, '--grid', 2), 'scene00003.jpg cannot be decoded')

def test_damaged_cache(cli, small_flickr8k, backbone, tmp_path):
    "A torn array is made again; without a digest, one that is cut and one with NaN are refused by name"
    where = ['--backbone', backbone, '--cache-dir', tmp_path/'cache', '--grid', 1]
    args = ['extract', small_flickr8k/'Flicker8k_Dataset', *where]
    assert cli(*args).returncode==0
    f = next(tmp_path.rglob('features.npy'))
    whole = f.read_bytes()
    for torn in (whole[:-100], b'', whole[:128]+b'\1'*(len(whole)-128)):
        f.write_bytes(torn)
        with pytest.warns(InputNote, match='is not as it was written'): assert cli(*args).returncode==0
        assert f.read_bytes()==whole
    f.with_name('whole.json').unlink() # as earlier versions left it
    assert cli(*args).returncode==0
    f.write_bytes(whole[:-100])
    refused(cli(*args), 'features.npy is not a complete .npy array')
    f.write_bytes(whole[:-2]+np.float16('nan').tobytes())
    refused(cli(*args), 'features.npy: image 23 has NaN')

def test_damaged_pictures(cli, small_flickr8k, backbone, tmp_path):
    "One message counts them; after the repair only what is behind the first one is decoded; gc removes what is left"
    from amsps.companion.cache import partial_features
    pictures,cache = small_flickr8k/'Flicker8k_Dataset',tmp_path/'cache'
    args = ['extract', pictures, '--backbone', backbone, '--grid', 1, '--batch-size', 4, '--cache-dir', cache]
    damaged = sorted(pictures.iterdir())[13:24:5]
    kept = [f.read_bytes() for f in damaged]
    for f in damaged: f.write_bytes(f.read_bytes()[:300])
    refused(cli(*args), f'3 of 24 pictures cannot be decoded: {damaged[0]}, {damaged[1]}, {damaged[2]}; replace the')
    for f,content in zip(damaged, kept): f.write_bytes(content)
    r = cli(*args)
    assert r.returncode==0 and '| 12/24 [' in r.stderr, r.stdout+r.stderr # it begins there
    assert not list(cache.rglob('features.part')) and len(list(cache.rglob('features.npy')))==1
    again = np.load(next(cache.rglob('features.npy')))
    assert cli(*args[:-1], tmp_path/'other').returncode==0
    np.testing.assert_array_equal(np.load(next((tmp_path/'other').rglob('features.npy'))), again)
    assert len(partial_features(cache))==1
    r = cli('runs', 'gc', '--cache-dir', cache)
    assert r.returncode==0 and 'features of an interrupted extraction' in r.stdout, r.stdout+r.stderr
    assert len(list((cache/'features').iterdir()))==1
    assert 'nothing to remove' in cli('runs', 'gc', '--cache-dir', cache).stdout

def test_records(cli, tmp_path):
    refused(cli('report', tmp_path), 'there are no run records in')
    (tmp_path/'a.json').write_text('{"name": "a"', 'utf-8')
    refused(cli('report', tmp_path), 'a.json is not JSON')
    refused(cli('evaluate', tmp_path), 'is no finished run')
    refused(cli('evaluate', tmp_path/'nowhere'), 'there is no folder')
    refused(cli('verify', tmp_path/'nowhere'), 'there is no', 'nowhere')
    (tmp_path/'a.json').unlink()
    refused(cli('verify', tmp_path), 'has no run record that can be made again')
    (tmp_path/'gone.json').symlink_to(tmp_path/'nowhere.json')
    refused(cli('report', tmp_path), 'gone.json cannot be read')
    (tmp_path/'gone.json').unlink()
    committed = next((ROOT/'data/results/flickr8k').glob('*.json'))
    shutil.copy(committed, tmp_path/'a.json')
    refused(cli('verify', tmp_path), 'were trained on photographs', '--data-root')
    refused(cli('report', tmp_path, '--table', 'bogus', '--output', tmp_path/'out'), 'there is no table_bogus')
    shutil.copy(committed, tmp_path/'b.json')
    refused(cli('report', tmp_path, '--output', tmp_path/'out'), 'a.json', 'b.json', 'are records of one run',
            'move one of them out')
    assert not (tmp_path/'out').exists()

def test_a_finished_run(cli, tmp_path):
    "It keeps its label, --runs means nothing for it, scenes meet no photographs, its name never leads out of a folder"
    cache = ['--cache-dir', tmp_path/'cache']
    assert cli('train', *TINY, *cache).returncode==0
    again = cli('train', *TINY, *cache, '--label', 'another')
    refused(again, "keeps its label 'AMSPS'")
    run = next((tmp_path/'cache/runs').glob('*/record.json')).parent
    refused(cli('verify', run, '--runs', 2), '--runs is for a folder of records')
    (tmp_path/'grades.csv').write_text('image,caption,grade\nscene00060,scene00061#0,1\n', 'utf-8')
    by_grades = ['--relevance', tmp_path/'grades.csv', '--keep-record', tmp_path/'graded']
    assert cli('evaluate', run, *cache, *by_grades).returncode==0
    kept = json.loads((tmp_path/f'graded/{run.name}.json').read_text('utf-8'))['graded']
    assert kept['by']==['grades.csv'] and 0<=kept['metrics']['test']['i2t_ndcg']<=100
    assert cli('evaluate', run, *cache, '--keep-record', tmp_path/'graded').returncode==0
    assert json.loads((tmp_path/f'graded/{run.name}.json').read_text('utf-8'))['graded']==kept
    refused(cli('verify', run/'record.json', '--runs', 2), '--runs is for a folder of records')
    (tmp_path/'grades.csv').write_text('image,caption,grade\nscene00060,scene00061#0,0\n', 'utf-8')
    refused(cli('evaluate', run, *cache, *by_grades[:2], '--accept', 0), 'no pair of dev or test with a grade above 0')
    table = tmp_path/'photos/captions.csv'
    table.parent.mkdir()
    table.write_text('image,caption\na.jpg,a dog\n', 'utf-8')
    refused(cli('evaluate', run, *cache, '--data-root', table.parent), '--data-root: ', 'trained on generated scenes',
        f'no vision encoder for what lies in {table.parent} (layout ', '--backbone NAME')
    refused(cli('evaluate', run, *cache, '--dataset', 'own'), '--dataset: ', 'no vision encoder for other data')
    record = json.loads((run/'record.json').read_text('utf-8'))
    (tmp_path/'cache/precious').mkdir()
    changed = record|dict(name='../precious', key=record['key']|dict(code={}))
    (run/'record.json').write_text(json.dumps(changed), 'utf-8')
    refused(cli('evaluate', run, *cache, '--keep-record', tmp_path/'kept'), "'../precious'")
    cli('runs', 'gc', *cache)
    assert (tmp_path/'cache/precious').is_dir() and not (tmp_path/'kept').exists()


def test_report_of_two_datasets(cli, tmp_path):
    "Refused before any notebook runs"
    for name in ('scenes', 'flickr8k'):
        record = next(f for f in sorted((ROOT/'data/results'/name).glob('*.json')) if f.name!='summary.json')
        shutil.copy(record, tmp_path)
    refused(cli('report', tmp_path, '--output', tmp_path/'out'), 'do not belong in one table',
            '2 values of dataset, flickr8k (', 'to a folder of its own')
    assert not list(tmp_path.rglob('*.ipynb'))
