"""Damaged data: one message that names the file, what was found and the way out; exit code 2, no traceback, nothing
half-written."""
import json
import os
import resource
import shutil
import tempfile
import zlib
from functools import cache
from pathlib import Path
import numpy as np
import pytest
from PIL import Image
from layouts import LAYOUTS, write


@pytest.fixture(scope='module')
def undamaged(source, tmp_path_factory):
    "Layout -> a folder with it, written once"
    home = tmp_path_factory.mktemp('undamaged')
    return cache(lambda layout: write(layout, source, home/layout))


@pytest.fixture
def copy_of(undamaged, tmp_path):
    "Layout -> a copy of it to damage"
    return lambda layout: shutil.copytree(undamaged(layout), tmp_path/'data')


# ---------------------------------------------------------------- damage: functions of the dataset's folder

def edit(name, old, new, n=1):
    "Replace bytes that the file is known to hold"
    def damage(root):
        text = (root/name).read_bytes()
        assert old in text, (root/name, old)
        (root/name).write_bytes(text.replace(old, new, n))
    return damage


def cut(name, n):
    "Keep the first n bytes"
    return lambda root: (root/name).write_bytes((root/name).read_bytes()[:n])


def fill(name, text):
    return lambda root: (root/name).write_text(text)


def remove(name):
    return lambda root: (root/name).unlink()


def rename(name, new):
    return lambda root: (root/name).rename(root/new)


def copy(name, new):
    return lambda root: shutil.copy(root/name, root/new)


def both(*damages):
    "One damage after the other"
    def damage(root):
        for d in damages:
            d(root)
    return damage


def change_array(name, f):
    return lambda root: np.save(root/name, f(np.load(root/name)))


def set_number(name, i, value):
    "Number i of an array"
    def f(x):
        x.flat[i] = value
        return x
    return change_array(name, f)


def change_json(name, f):
    def damage(root):
        data = json.loads((root/name).read_text())
        f(data)
        (root/name).write_text(json.dumps(data))
    return damage


KARPATHY = 'dataset_flickr30k.json'


def karpathy(**fields):
    "Other fields of the third image"
    return change_json(KARPATHY, lambda data: data['images'][2].update(fields))


def change_lines(name, f):
    "f(number, line) is the new line"
    def damage(root):
        lines = (root/name).read_text().splitlines()
        (root/name).write_text('\n'.join(f(k, line) for k,line in enumerate(lines)))
    return damage


# ---------------------------------------------------------------- damage that one layout needs

def loop(root):
    file = root/'Flicker8k_Dataset/1003.jpg'
    file.unlink()
    file.symlink_to(file.name)


def no_image(root):
    (root/'Flicker8k_Dataset/1003.jpg').write_bytes(b'\x89PNG\r\n\x1a\n'+b'\0'*40)


def utf16(root):
    file = root/'Flickr8k.token.txt'
    file.write_text(file.read_text(), encoding='utf-16-le')


def pickled(root):
    np.save(root/'train_ims.npy', np.array([dict(a=1)]), allow_pickle=True)


def archive(root):
    np.savez(root/'x.npz', np.ones(3))
    (root/'x.npz').rename(root/'train_ims.npy')


def one_row_differs(root):
    "Two images of five rows each without ids; a row of the second differs"
    x = np.repeat(np.ones((2,36,16), 'float32'), 5, axis=0)
    x[5] += 1
    (root/'train_ids.txt').unlink()
    np.save(root/'train_ims.npy', x)
    (root/'train_caps.txt').write_text('a dog\n'*10)


def other_names(root):
    for file in list(root.iterdir()):
        file.rename(root/f'my{file.name}')


def without_features(root):
    for file in (root/'precomp').glob('*.npy'):
        file.unlink()
    (root/'id_mapping.json').unlink()


def bottom_up_table(root):
    (root/'captions.csv').unlink()
    (root/'trainval.tsv').write_bytes(b'9\t640\t480\t36\tAAAA\tAAAA\n')


def empty_lists(root):
    for split in ('train', 'dev', 'test'):
        (root/f'{split}.txt').touch()


def bomb(root):
    "A small PNG that says it is 60,000 x 60,000"
    head = b'IHDR'+(60_000).to_bytes(4, 'big')*2+bytes([8, 0, 0, 0, 0])
    chunk = (13).to_bytes(4, 'big')+head+zlib.crc32(head).to_bytes(4, 'big')
    (root/'images/1003.jpg').write_bytes(b'\x89PNG\r\n\x1a\n'+chunk+b'\0\0\0\x09IDAT'+bytes(99))


def strip(root):
    Image.new('RGB', (300, 1)).save(root/'images/1003.jpg')


def two_tables(root):
    (root/'captions.csv').rename(root/'a.csv')
    (root/'b.tsv').touch()


def in_both_splits(root):
    with open(root/'captions.jsonl', 'a') as f:
        f.write('{"image": "1000.jpg", "caption": "x", "split": "test"}\n')


def torn_arrow(root):
    cut(next((root/'train').glob('*.arrow')), 100)(root)


def no_pictures(root):
    import datasets
    shutil.rmtree(root)
    features = datasets.Features(dict(image=datasets.Image(decode=False), caption=datasets.Value('string')))
    data = dict(image=[dict(bytes=b'no picture', path=None)], caption=['x'])
    datasets.Dataset.from_dict(data, features=features).save_to_disk(root)


def shifted_ids(*ids):
    return fill('train_ids.txt', ''.join(f'{i}\n' for i in ids))


# ---------------------------------------------------------------- layout and name -> damage, what the message says

FLICKR8K = {
    'flickr8k truncated': (cut('Flickr8k.token.txt', 700), 'has no caption'),
    'flickr8k no tab': (edit('Flickr8k.token.txt', b'#0\t', b'#0 '), 'line 1: expected IMAGE#N<TAB>caption'),
    'flickr8k no list': (remove('Flickr_8k.devImages.txt'), 'list of the dev split', 'Flickr_8k.devImages.txt'),
    'flickr8k in two splits': (fill('Flickr_8k.testImages.txt', '1000.jpg\n'), "'1000.jpg' is listed twice"),
    'flickr8k empty split': (fill('Flickr_8k.devImages.txt', ''), "split 'dev' is empty"),
    'flickr8k empty lists': (
        both(*(fill(f'Flickr_8k.{s}Images.txt', '\n') for s in ('train', 'dev', 'test'))), 'split lists', 'are empty'),
    'flickr8k image missing': (remove('Flicker8k_Dataset/1003.jpg'), '1003.jpg does not exist', '1 of 12'),
    'flickr8k image truncated': (cut('Flicker8k_Dataset/1003.jpg', 300), '1003.jpg cannot be decoded'),
    'flickr8k images empty': (
        both(cut('Flicker8k_Dataset/1003.jpg', 0), cut('Flicker8k_Dataset/1004.jpg', 0)),
        '2 of 12 pictures cannot be decoded', '1003.jpg', '1004.jpg'),
    'flickr8k no image': (no_image, '1003.jpg cannot be decoded'),
    'flickr8k symlink loop': (loop, '1003.jpg is a broken or circular link'),
    'flickr8k latin-1': (
        edit('Flickr8k.token.txt', b' .\n', b' caf\xe9 .\n'), 'line 1: byte 0xe9 is not UTF-8', 'iconv'),
    'flickr8k utf-16 without a mark': (utf16, 'Flickr8k.token.txt, line 1: a NUL byte', 'save it as UTF-8'),
    'flickr8k bad judgements': (
        fill('ExpertAnnotations.txt', '1000.jpg\t1000.jpg#0\t1\t2\t5\n'), 'ExpertAnnotations.txt, line 1: expected'),
    'flickr8k empty caption': (
        edit('Flickr8k.token.txt', b'#1\t', b'#1\t .\n1000.jpg#7\t'), "caption '1000.jpg#1' is empty"),
    'flickr8k caption twice': (
        edit('Flickr8k.token.txt', b'1000.jpg#1', b'1000.jpg#0'), "caption id '1000.jpg#0' occurs twice"),
}

KARPATHY_JSON = {
    'karpathy truncated': (cut(KARPATHY, 900), 'not JSON', 'is the download complete?'),
    'karpathy empty': (fill(KARPATHY, '{"images": []}'), '`images` is empty'),
    'karpathy other json': (fill(KARPATHY, '[1,2]'), 'expected an object with a list `images`'),
    'karpathy no raw': (
        change_json(KARPATHY, lambda data: data['images'][2]['sentences'][0].pop('raw')),
        'images[2] lacks', "KeyError('raw')"),
    'karpathy unknown split': (karpathy(split='holdout'), "unknown split 'holdout'"),
    'karpathy absolute path': (karpathy(filename='/etc/x.jpg'), "'/etc/x.jpg' is an absolute path"),
    'karpathy parent path': (karpathy(filename='../../x.jpg'), 'leaves the folder'),
    'karpathy image twice': (
        change_json(KARPATHY, lambda data: data['images'].append(data['images'][0])),
        "image id '1000.jpg' occurs twice"),
    'karpathy nested': (fill(KARPATHY, '['*100_000), 'dataset_flickr30k.json, line 1: JSON that cannot be read'),
    'karpathy long number': (fill(KARPATHY, '{"images": %s}' % ('9'*5000)), 'JSON that cannot be read'),
    'karpathy half a character': (
        change_json(KARPATHY, lambda data: data['images'][2]['sentences'][0].update(raw='a \ud83d dog')),
        "caption '1002.jpg#4' holds half a character"),
    'karpathy two files': (copy(KARPATHY, 'dataset_coco.json'), 'must hold one dataset*.json', 'found 2'),
}

VAL2014 = 'annotations/captions_val2014.json'
TRAIN2014 = 'annotations/captions_train2014.json'
COCO = {
    'coco truncated': (cut(VAL2014, 300), 'captions_val2014.json, line 1: not JSON'),
    'coco instances': (
        change_json(VAL2014, lambda data: [a.pop('caption') for a in data['annotations']]),
        "KeyError('caption')", 'is this a file of COCO captions?'),
    'coco stray caption': (change_json(VAL2014, lambda data: data['images'].pop()), 'have no entry in `images`'),
    'coco mixed ids': (
        change_json(VAL2014, lambda data: data['images'][0].update(id='7')), 'found int and str'),
    'coco id twice': (
        change_json(VAL2014, lambda data: data['images'].append(data['images'][0])), 'repeat the id of another'),
    'coco no captions': (change_json(VAL2014, lambda data: data['annotations'].clear()), 'has no captions'),
    'coco wrong folder': (rename('val2014', 'val2017'), 'does not exist (3 of 12'),
    'coco two years': (
        copy(TRAIN2014, 'annotations/captions_train2017.json'),
        'captions of 2014 and 2017, which are the same photographs'),
}

PRECOMP = {
    'precomp truncated': (cut('train_ims.npy', 9000), 'train_ims.npy is not a complete .npy array'),
    'precomp empty file': (cut('train_ims.npy', 0), 'train_ims.npy is not a complete .npy array'),
    'precomp pickled': (pickled, 'without pickles'),
    'precomp archive': (archive, 'is an archive of arrays'),
    'precomp big-endian': (
        change_array('dev_ims.npy', lambda x: x.astype('>f4')), 'dev_ims.npy', 'byte order', "x.astype('float32')"),
    'precomp open bracket': (edit('dev_ims.npy', b'(1, 36, 16), ', b'((((((((((((('), 'dev_ims.npy is not a complete'),
    'precomp huge shape': (edit('dev_ims.npy', b'(1, 36, 16)', b'(%s,)' % (b'9'*9)), 'dev_ims.npy is not a complete'),
    'precomp float64': (
        change_array('dev_ims.npy', lambda x: x.astype('float64')), 'found float64', "astype('float16')"),
    'precomp four axes': (change_array('dev_ims.npy', lambda x: x[None]), 'must have shape (images, regions, size)'),
    'precomp no regions': (change_array('dev_ims.npy', lambda x: x[:,:0]), 'none of them 0'),
    'precomp other regions': (
        change_array('dev_ims.npy', lambda x: x[:,:10]), 'features differ between files', '36 x 16', '10 x 16'),
    'precomp other type': (
        change_array('dev_ims.npy', lambda x: x.astype('float16')), 'features differ between files'),
    'precomp NaN': (
        set_number('test_ims.npy', 600, np.nan), 'test_ims.npy: image 1 has NaN or infinite features'),
    'precomp infinity': (
        set_number('train_ims.npy', 0, np.inf), 'train_ims.npy: image 0 has NaN or infinite features'),
    'precomp too few captions': (cut('train_caps.txt', 200), '9 images and', 'captions do not match'),
    'precomp ids of others': (
        fill('train_ids.txt', '1\n2\n'),
        'train_ids.txt has 2 lines; expected one for each of the 9 images or each of the 18 captions'),
    'precomp id twice': (fill('train_ids.txt', '7\n'*9), "image id 'train/7' occurs twice"),
    'precomp ids of too many': (
        fill('train_ids.txt', '1\n'*9+'2\n'*9), 'train_ids.txt names 2 images, but train_ims.npy has 9 rows'),
    'precomp no features of dev': (remove('dev_ims.npy'), 'features of some splits only'),
    'precomp nothing of dev': (
        both(remove('dev_ims.npy'), fill('dev_ids.txt', '')), 'dev_ids.txt is empty'),
    'precomp empty captions': (cut('dev_caps.txt', 0), 'dev_caps.txt is empty'),
    'precomp blank caption': (fill('dev_caps.txt', 'a dog\n\n'), 'is empty'),
    'precomp other names': (other_names, 'captions of no split'),
    'precomp_repeated misaligned, no ids': (one_row_differs, 'some images have five equal rows'),
    'precomp_repeated shifted by one': (
        change_array('train_ims.npy', lambda x: np.roll(x, 1, axis=0)),
        "row 1: train_ids.txt says it is image '1000'", 'misaligned'),
    'precomp_repeated shifted by an image': (
        shifted_ids(0, 0, 1, 9, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8), 'train_ids.txt lists two images'),
    'vse_infinity no mapping': (fill('id_mapping.json', '{"1": "x.jpg"}'), "no file name for image id '1000'"),
    'vse_infinity no features, no mapping': (without_features, 'neither *_ims.npy nor id_mapping.json'),
}

BOTTOM_UP = {
    'bottom_up truncated': (cut('test_36.tsv', 5000), 'test_36.tsv, line 2'),
    'bottom_up five fields': (
        edit('test_36.tsv', b'\t333', b''), 'test_36.tsv, line 1: expected 6 tab-separated fields', 'found 5'),
    'bottom_up not base64': (edit('test_36.tsv', b'\r\n', b'!!\r\n'), 'not base64 of float32'),
    'bottom_up other boxes': (
        edit('test_36.tsv', b'\t36\t', b'\t18\t'), 'boxes of', 'where the first image has 18 of 32', '36 boxes'),
    'bottom_up no whole boxes': (edit('test_36.tsv', b'\t36\t', b'\t35\t'), 'cannot be divided into 35 boxes'),
    'bottom_up file missing': (remove('test_36.tsv'), 'is in none of train_36.tsv (6 of 12 images are missing)'),
    'bottom_up other images': (
        karpathy(filename='1002_93b08cb0e.jpg'),
        "image '1002_93b08cb0e' of the annotations has no number at its end"),
    'bottom_up id is text': (
        edit('test_36.tsv', b'1006\t', b'dog.jpg\t'), 'image_id and num_boxes must be whole numbers'),
}

TABLES = {
    'kaggle_flickr8k comma': (
        edit('captions.txt', b'"', b'', n=-1), 'line 2: expected 2 fields (image, caption), found 3', 'in quotes'),
    'kaggle_flickr8k quotes': (
        edit('captions.txt', b'drawn ."', b'drawn "quoted" ."'), 'line 2:', 'double the quotes'),
    'kaggle_flickr30k fields': (edit('results.csv', b'| 0| ', b'| '), 'results.csv, line 2: expected 3 fields'),
    'own_csv stray quotes': (
        change_lines('captions.csv', lambda k, l: l.replace(',', ',"', 1) if k==3 else l+'"' if k==6 else l),
        'line 4: a quoted text runs on over the next rows'),
    'own_csv stray quote': (
        change_lines('captions.csv', lambda k, l: l.replace(',', ',"', 1) if k==3 else l), 'line 4:', 'quotes'),
    'own_csv odd header': (edit('captions.csv', b'image,caption', b'"image"x,caption'), 'line 1: ', 'in quotes'),
    'own_csv empty lists': (empty_lists, 'is in a split list'),
    'own_csv long name': (
        edit('captions.csv', b'1000.jpg', b'x'*300+b'.jpg'), 'line 2:', 'is too long for a file'),
    'own_csv a bottom-up file': (bottom_up_table, 'bottom-up features and no captions', 'dataset_*.json'),
    'own_csv no header': (edit('captions.csv', b'image,caption\n', b''), 'line 1: expected a column called image or'),
    'own_csv only a header': (fill('captions.csv', 'image,caption\n'), 'has no captions'),
    'own_csv two images': (
        fill('captions.csv', 'image,caption\n1000.jpg,a\n1001.jpg,b\n'), 'need at least 3 images; found 2'),
    'own_csv absolute': (
        edit('captions.csv', b'1000.jpg', b'C:\\photos\\1000.jpg'), 'line 2:', 'is an absolute path'),
    'own_csv no name': (edit('captions.csv', b'1000.jpg', b' '), 'line 2: the name of the image is empty'),
    'own_csv list of no texts': (
        edit('captions.csv', b'1000.jpg,', b'''1000.jpg,"['a dog', nan]"\n1000.jpg,'''),
        'line 2:', 'write a line for each'),
    'own_csv cp1252': (
        edit('captions.csv', b'1000.jpg,', b'1000.jpg,caf\xe9 '),
        'line 2: byte 0xe9 is not UTF-8', 'in Excel: CSV UTF-8'),
    'own_csv bomb': (bomb, '1003.jpg cannot be decoded', 'exceeds limit'),
    'own_csv line of pixels': (strip, '1003.jpg cannot be decoded (300 x 1 pixels'),
    'own_csv two tables': (two_tables, 'several tables (a.csv, b.tsv)'),
    'own_csv renamed image': (rename('images/1005.jpg', 'images/1005.JPG'), '1005.jpg does not exist'),
    'own_jsonl torn': (cut('captions.jsonl', 200), 'line', 'not JSON'),
    'own_jsonl no caption': (edit('captions.jsonl', b'"captions"', b'"tags"'), 'line 1: expected {"image"'),
    'own_jsonl null': (
        fill('captions.jsonl', '{"image": "1000.jpg", "caption": null}\n'), 'line 1: captions must be texts'),
    'own_jsonl unknown split': (
        edit('captions.jsonl', b'"train"', b'"holdout"'), "line 1: unknown split 'holdout'"),
    'own_jsonl split is a list': (
        edit('captions.jsonl', b'"train"', b'["train"]'), "line 1: unknown split ['train']"),
    'own_jsonl two splits': (in_both_splits, "'1000.jpg' is in test here and in train before"),
}

HUGGINGFACE = {
    'huggingface torn': (torn_arrow, 'is not a complete Hugging Face dataset'),
    'huggingface pictures': (no_pictures, 'row 0 of the dataset cannot be decoded'),
    'huggingface picture in two splits': (
        lambda root: shutil.copytree(root/'train', root/'test', dirs_exist_ok=True),
        "the picture is in split 'test' here and in 'train' before"),
    'huggingface no state': (remove('test/state.json'), 'is not a complete Hugging Face dataset'),
}

CASES = FLICKR8K | KARPATHY_JSON | COCO | PRECOMP | BOTTOM_UP | TABLES | HUGGINGFACE


# ---------------------------------------------------------------- tests

def refused(result, *said):
    output = result.stderr+result.stdout
    assert result.returncode==2, (result.returncode, output)
    assert 'Traceback' not in output
    assert sum(line.startswith('amsps: ') for line in result.stderr.splitlines())==1, result.stderr
    for text in said:
        assert text in result.stderr, result.stderr


def snapshot(root):
    "File -> size and time of change"
    files = [p for p in root.rglob('*') if p.is_file()]
    return {p.relative_to(root):(p.stat().st_size, p.stat().st_mtime_ns) for p in files}


@pytest.mark.parametrize('case', CASES)
def test_refused(cli, copy_of, backbone, case, tmp_path):
    "By `data check`, which changes nothing. An empty split is no fault of the data and is refused by `train`."
    damage,*said = CASES[case]
    root = copy_of(case.split()[0])
    damage(root)
    before = snapshot(root)
    if case=='flickr8k empty split':
        command = ['train', '--dataset', 'flickr8k', '--data-root', root, '--backbone', backbone, '--grid', 2]
        command += ['--cache-dir', tmp_path/'cache']
    else:
        command = ['data', 'check', root]
    refused(cli(*command), *said)
    assert snapshot(root)==before
    assert not [p for p in tmp_path.rglob('*') if p.name=='record.json' or p.suffix=='.part']


@pytest.mark.parametrize('layout', [l for l in LAYOUTS if l!='huggingface'])
def test_windows_files(copy_of, layout):
    "Windows line ends and a byte order mark change nothing"
    from amsps.companion.formats import read_dataset
    root = copy_of(layout)
    before = read_dataset(root).fingerprint
    for f in [*root.rglob('*.txt'), *root.glob('*.csv'), *root.glob('*.json*')]:
        text = f.read_bytes().replace(b'\r\n', b'\n').replace(b'\n', b'\r\n')
        f.write_bytes(b'\xef\xbb\xbf'+text)
    assert read_dataset(root).fingerprint==before


@pytest.fixture
def nobody():
    "Another user, because root may read everything"
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


UNREADABLE = [
    ('flickr8k', 'Flickr8k.token.txt'), ('precomp', 'train_ims.npy'), ('karpathy', KARPATHY),
    ('own_csv', 'images/1004.jpg'), ('own_csv', '.')]


@pytest.mark.parametrize('layout,file', UNREADABLE)
def test_no_permission(cli, copy_of, layout, file, tmp_path, request):
    root = copy_of(layout)
    for p in (tmp_path, *tmp_path.parents):
        if Path(tempfile.gettempdir()) in p.parents: p.chmod(0o755)
    assert cli('data', 'check', root).returncode==0 # also imports what another user may not read
    (root/file).chmod(0)
    request.getfixturevalue('nobody')
    try:
        refused(cli('data', 'check', root), 'ermission denied', (root/file).name)
    finally:
        if not os.getuid(): os.seteuid(0)
        (root/file).chmod(0o755)


def test_conversion_leaves_nothing(cli, copy_of, tmp_path):
    "A fault in the last line of the last file"
    root = copy_of('bottom_up')
    file = root/'train_36.tsv'
    file.write_bytes(file.read_bytes()[:-50])
    result = cli('train', '--dataset', 'flickr30k', '--data-root', root, '--cache-dir', tmp_path/'cache')
    refused(result, 'train_36.tsv, line 6')
    assert not list(tmp_path.rglob('features*'))


WITHOUT_FILES = dict(
    coco='is this MSCOCO?', flickr8k='no caption file', karpathy='dataset*.json', precomp='captions of no split',
    bottom_up='dataset*.json', huggingface='not a complete Hugging Face dataset')


def test_layout_without_its_files(cli, undamaged):
    for layout,said in WITHOUT_FILES.items():
        refused(cli('data', 'check', undamaged('own_csv'), '--layout', layout), said)


@pytest.mark.parametrize('layout,needs_backbone', [('own_csv', True), ('bottom_up', False)])
def test_disk_full(cli, undamaged, backbone, layout, needs_backbone, tmp_path, request):
    "While features are cached: a message, and no partial file that looks complete. With room again, the command works."
    root = undamaged(layout)
    command = ['data', 'prepare', root, '--dataset', 'own', '--cache-dir', tmp_path/'cache']
    if needs_backbone: command += ['--backbone', backbone, '--grid', 2]
    request.getfixturevalue('little_room')
    refused(cli(*command), 'no room to write', 'features.npy', '`cache_dir`')
    assert not list(tmp_path.rglob('features.npy'))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,)*2)
    result = cli(*command)
    assert result.returncode==0, result.stderr
    assert 'prepared     12 images' in result.stdout
