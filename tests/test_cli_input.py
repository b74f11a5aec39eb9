"Mistakes on the command line: one message that says what to do, exit code 2, no traceback, nothing half-written."
import numpy as np, pytest
from conftest import amsps

def refused(r, *said):
    assert r.returncode==2, (r.returncode, r.stdout, r.stderr)
    assert 'Traceback' not in r.stderr+r.stdout
    for s in said: assert s in r.stderr, r.stderr

PARAMETERS = [
    (['--epochs', 0], ['parameter `epochs`', 'greater than or equal to 1', 'got 0']),
    (['--epochs', 'three'], ["Invalid value for '--epochs'", 'valid integer']),
    (['--loss', 'ahlr'], ['parameter `loss`', "'infonce'", "got 'ahlr'"]),
    (['--dropout', 1.0], ['parameter `dropout`', 'less than 1']),
    (['--loss', 'aoq', '--epochs', 2], ['the active mode never begins', 'train longer']),
    (['--loss', 'sam', '--evidence', 'none'], ['need `evidence`', 'coverage or sentence']),
    (['--evidence', 'sentence'], ['frozen text encoder', '`freeze_text`']),
    (['--n-concepts', 5], ['at least 10 concepts', 'got `n_concepts` 5']),
    (['--concept-vectors', 'glove.txt'], ['set `n_concepts` too']),
    (['--n-concepts', 20, '--consensus', 'likelihood', '--concept-vectors', 'glove.txt'], ['`concept_vectors` is for the graph']),
    (['--consensus', 'bag'], ['graph', 'likelihood']),
    (['--n-concepts', 20, '--concept-vectors', '/nowhere.txt', '--scenes-train', 40, '--scenes-dev', 15, '--scenes-test', 20], ['cannot read /nowhere.txt', '`concept_vectors`']),
    (['--marginn', 0.3], ['No such option', '--margin']),
    (['--dataset', 'coco'], ['parameter `dataset`', "got 'coco'"]),
    (['--dataset', 'flickr8k'], ['needs `data_root`']),
    (['--dataset', 'flickr8k', '--data-root', '/nowhere', '--backbone', '/nowhere'], ['/nowhere is not a folder']),
    (['--dataset', 'own', '--data-root', '/', '--layout', 'scan'], ["unknown layout 'scan'", 'choose from auto, flickr8k']),
    (['--cache-dir', '/dev/null/cache'], ['cannot create the cache folder /dev/null/cache']),
]
@pytest.mark.parametrize('args,said', PARAMETERS, ids=[' '.join(map(str, a)) for a,_ in PARAMETERS])
def test_parameters(cli, args, said): refused(cli('train', *args), *said)

def test_as_a_user_calls_it(): refused(amsps('train', '--margin', -1), 'amsps: parameter `margin`', 'got -1.0')

def break_caption_of_missing_image(root): next((root/'Flicker8k_Dataset').glob('*.jpg')).unlink()
def break_empty_caption(root):
    f = root/'Flickr8k.token.txt'; f.write_text('scene00000.jpg#9\t .\n'+f.read_text())
def break_twice(root):
    f = root/'Flickr8k.token.txt'; f.write_text(f.read_text()+f.read_text().splitlines()[0]+'\n')
def break_encoding(root):
    f = root/'Flickr8k.token.txt'; f.write_bytes(f.read_bytes()+b'scene00000.jpg#9\tcaf\xe9\n')
def break_no_list(root): (root/'Flickr_8k.devImages.txt').unlink()
def break_image(root):
    f = sorted((root/'Flicker8k_Dataset').glob('*.jpg'))[3]; f.write_bytes(f.read_bytes()[:300])
def break_line(root):
    f = root/'Flickr8k.token.txt'; f.write_text('no tab here\n'+f.read_text())

@pytest.mark.parametrize('break_it,said', [
    (break_caption_of_missing_image, ['.jpg does not exist', '1 of 24 listed images']), (break_empty_caption, ["caption 'scene00000.jpg#9' is empty"]),
    (break_twice, ["caption id 'scene00000.jpg#0' occurs twice"]), (break_encoding, ['Flickr8k.token.txt, line', 'not UTF-8']), (break_no_list, ['Flickr_8k.devImages.txt']),
    (break_image, ['scene00003.jpg cannot be decoded']), (break_line, ['line 1: expected IMAGE#N<TAB>caption'])], ids=lambda x: getattr(x, '__name__', None))
def test_flickr8k(cli, small_flickr8k, backbone, tmp_path, break_it, said):
    break_it(small_flickr8k)
    refused(cli('train', '--dataset', 'flickr8k', '--data-root', small_flickr8k, '--backbone', backbone, '--cache-dir', tmp_path/'cache'), *said)
    assert not list(tmp_path.rglob('record.json')) and not list(tmp_path.rglob('features.npy'))

def test_backbone(cli, small_flickr8k, tmp_path):
    refused(cli('extract', small_flickr8k/'Flicker8k_Dataset', '--backbone', tmp_path, '--cache-dir', tmp_path/'cache'), 'cannot load the vision backbone', 'config.json')

def test_damaged_cache(cli, small_flickr8k, backbone, tmp_path):
    "A truncated array and one with NaN are refused by name"
    args = ('extract', small_flickr8k/'Flicker8k_Dataset', '--backbone', backbone, '--cache-dir', tmp_path/'cache', '--grid', 1)
    assert cli(*args).returncode==0
    f = next(tmp_path.rglob('features.npy'))
    whole = f.read_bytes()
    f.write_bytes(whole[:-100]); refused(cli(*args), 'features.npy is not a complete .npy array')
    f.write_bytes(whole[:-2]+np.float16('nan').tobytes()); refused(cli(*args), 'features.npy: image 23 has NaN')

def test_records(cli, tmp_path):
    refused(cli('report', tmp_path), 'there are no run records in')
    (tmp_path/'a.json').write_text('{"name": "a"'); refused(cli('report', tmp_path), 'a.json is not JSON')
    refused(cli('evaluate', tmp_path), 'is no finished run')
