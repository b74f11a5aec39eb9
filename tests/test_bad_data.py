"Damaged data: one message that names the file, says what was found and the way out; exit code 2, no traceback, nothing half-written."
import json, os, resource, shutil, tempfile
from pathlib import Path
import numpy as np, pytest
from layouts import LAYOUTS, write

def edit(file, old, new, n=1):
    text = file.read_bytes()
    assert old in text, (file, old)
    file.write_bytes(text.replace(old, new, n))

def cut(file, n): file.write_bytes(file.read_bytes()[:n])
def change(file, f): np.save(file, f(np.load(file)))
def at(x, i, value): x = x.copy(); x.flat[i] = value; return x
def j(file, f): x = json.loads(file.read_text()); f(x); file.write_text(json.dumps(x))
def pickled(file): np.save(file, np.array([dict(a=1)]), allow_pickle=True)
def step(x): x = x.copy(); x[5] += 1; return x
def loop(file): file.unlink(); file.symlink_to(file.name)
def no_image(file): file.write_bytes(b'\x89PNG\r\n\x1a\n'+b'\0'*40)

def hf_without_pictures(root):
    import datasets
    shutil.rmtree(root)
    datasets.Dataset.from_dict(dict(image=[dict(bytes=b'no picture', path=None)], caption=['x']), features=datasets.Features(dict(image=datasets.Image(decode=False), caption=datasets.Value('string')))).save_to_disk(root)

CASES = { # layout and name -> what is done to the folder, what is said
    'flickr8k truncated': (lambda r: cut(r/'Flickr8k.token.txt', 700), ['has no caption']),
    'flickr8k no tab': (lambda r: edit(r/'Flickr8k.token.txt', b'#0\t', b'#0 '), ['line 1: expected IMAGE#N<TAB>caption']),
    'flickr8k no list': (lambda r: (r/'Flickr_8k.devImages.txt').unlink(), ['list of the dev split', 'Flickr_8k.devImages.txt']),
    'flickr8k in two splits': (lambda r: (r/'Flickr_8k.testImages.txt').write_text('1000.jpg\n'), ["'1000.jpg' is listed twice"]),
    'flickr8k empty split': (lambda r: (r/'Flickr_8k.devImages.txt').write_text(''), ["split 'dev' is empty"]),
    'flickr8k image missing': (lambda r: (r/'Flicker8k_Dataset/1003.jpg').unlink(), ['1003.jpg does not exist', '1 of 12']),
    'flickr8k image truncated': (lambda r: cut(r/'Flicker8k_Dataset/1003.jpg', 300), ['1003.jpg cannot be decoded']),
    'flickr8k images empty': (lambda r: [cut(r/f'Flicker8k_Dataset/{i}.jpg', 0) for i in (1003,1004)], ['2 of 12 pictures cannot be decoded', '1003.jpg', '1004.jpg']),
    'flickr8k no image': (lambda r: no_image(r/'Flicker8k_Dataset/1003.jpg'), ['1003.jpg cannot be decoded']),
    'flickr8k symlink loop': (lambda r: loop(r/'Flicker8k_Dataset/1003.jpg'), ['1003.jpg is a link that leads nowhere or to itself']),
    'flickr8k latin-1': (lambda r: edit(r/'Flickr8k.token.txt', b' .\n', b' caf\xe9 .\n'), ['line 1: byte 0xe9 is not UTF-8', 'iconv']),
    'flickr8k utf-16': (lambda r: (r/'Flickr8k.token.txt').write_text((r/'Flickr8k.token.txt').read_text(), encoding='utf-16'), ['line 1: byte 0xff is not UTF-8']),
    'flickr8k empty caption': (lambda r: edit(r/'Flickr8k.token.txt', b'#1\t', b'#1\t .\n1000.jpg#7\t'), ["caption '1000.jpg#1' is empty"]),
    'flickr8k caption twice': (lambda r: edit(r/'Flickr8k.token.txt', b'1000.jpg#1', b'1000.jpg#0'), ["caption id '1000.jpg#0' occurs twice"]),
    'karpathy truncated': (lambda r: cut(r/'dataset_flickr30k.json', 900), ['not JSON', 'is the download complete?']),
    'karpathy empty': (lambda r: (r/'dataset_flickr30k.json').write_text('{"images": []}'), ['`images` is empty']),
    'karpathy other json': (lambda r: (r/'dataset_flickr30k.json').write_text('[1,2]'), ['expected an object with a list `images`']),
    'karpathy no raw': (lambda r: j(r/'dataset_flickr30k.json', lambda x: x['images'][2]['sentences'][0].pop('raw')), ['images[2] lacks', "KeyError('raw')"]),
    'karpathy unknown split': (lambda r: j(r/'dataset_flickr30k.json', lambda x: x['images'][2].update(split='holdout')), ["unknown split 'holdout'"]),
    'karpathy absolute path': (lambda r: j(r/'dataset_flickr30k.json', lambda x: x['images'][2].update(filename='/etc/x.jpg')), ["'/etc/x.jpg' is an absolute path"]),
    'karpathy parent path': (lambda r: j(r/'dataset_flickr30k.json', lambda x: x['images'][2].update(filename='../../x.jpg')), ['leaves the folder']),
    'karpathy image twice': (lambda r: j(r/'dataset_flickr30k.json', lambda x: x['images'].append(x['images'][0])), ["image id '1000.jpg' occurs twice"]),
    'karpathy two files': (lambda r: shutil.copy(r/'dataset_flickr30k.json', r/'dataset_coco.json'), ['must hold one dataset*.json', 'found 2']),
    'coco truncated': (lambda r: cut(r/'annotations/captions_val2014.json', 300), ['captions_val2014.json, line 1: not JSON']),
    'coco instances': (lambda r: j(r/'annotations/captions_val2014.json', lambda x: [a.pop('caption') for a in x['annotations']]), ["KeyError('caption')", 'is this a file of COCO captions?']),
    'coco stray caption': (lambda r: j(r/'annotations/captions_val2014.json', lambda x: x['images'].pop()), ['have no entry in `images`']),
    'coco no captions': (lambda r: j(r/'annotations/captions_val2014.json', lambda x: x['annotations'].clear()), ['has no captions']),
    'coco wrong folder': (lambda r: (r/'val2014').rename(r/'val2017'), ['does not exist (3 of 12']),
    'precomp truncated': (lambda r: cut(r/'train_ims.npy', 9000), ['train_ims.npy is not a complete .npy array']),
    'precomp empty file': (lambda r: cut(r/'train_ims.npy', 0), ['train_ims.npy is not a complete .npy array']),
    'precomp pickled': (lambda r: pickled(r/'train_ims.npy'), ['without pickles']),
    'precomp archive': (lambda r: (np.savez(r/'x.npz', np.ones(3)), (r/'x.npz').rename(r/'train_ims.npy')), ['is an archive of arrays']),
    'precomp float64': (lambda r: change(r/'dev_ims.npy', lambda x: x.astype('float64')), ['found float64', "astype('float16')"]),
    'precomp four axes': (lambda r: change(r/'dev_ims.npy', lambda x: x[None]), ['must have shape (images, regions, size)']),
    'precomp no regions': (lambda r: change(r/'dev_ims.npy', lambda x: x[:,:0]), ['none of them 0']),
    'precomp other regions': (lambda r: change(r/'dev_ims.npy', lambda x: x[:,:10]), ['features differ between files', '36 x 16', '10 x 16']),
    'precomp other type': (lambda r: change(r/'dev_ims.npy', lambda x: x.astype('float16')), ['features differ between files']),
    'precomp NaN': (lambda r: change(r/'test_ims.npy', lambda x: at(x, 600, np.nan)), ['test_ims.npy: image 1 has NaN or infinite features']),
    'precomp infinity': (lambda r: change(r/'train_ims.npy', lambda x: at(x, 0, np.inf)), ['train_ims.npy: image 0 has NaN or infinite features']),
    'precomp too few captions': (lambda r: cut(r/'train_caps.txt', 200), ['do not go together']),
    'precomp ids of others': (lambda r: (r/'train_ids.txt').write_text('1\n2\n'), ['train_ids.txt has 2 lines; expected one for each of the 9 images or each of the 18 captions']),
    'precomp id twice': (lambda r: (r/'train_ids.txt').write_text('7\n'*9), ["image id 'train/7' occurs twice"]),
    'precomp no features of dev': (lambda r: (r/'dev_ims.npy').unlink(), ['features of some splits only']),
    'precomp empty captions': (lambda r: cut(r/'dev_caps.txt', 0), ['dev_caps.txt is empty']),
    'precomp blank caption': (lambda r: (r/'dev_caps.txt').write_text('a dog\n\n'), ['is empty']),
    'precomp_repeated out of step, no ids': (lambda r: ((r/'train_ids.txt').unlink(), np.save(r/'train_ims.npy', step(np.repeat(np.ones((2,36,16), 'float32'), 5, axis=0))), (r/'train_caps.txt').write_text('a dog\n'*10)), ['some rows come in equal fives']),
    'precomp_repeated shifted by one': (lambda r: change(r/'train_ims.npy', lambda x: np.roll(x, 1, axis=0)), ["row 1: train_ids.txt says it is image '1000'", 'out of step']),
    'precomp_repeated shifted by an image': (lambda r: (r/'train_ids.txt').write_text(''.join(f'{i}\n' for i in [0]*2+[1]+[9]+[2]*2+[3]*2+[4]*2+[5]*2+[6]*2+[7]*2+[8]*2)), ['train_ids.txt calls them two images']),
    'precomp ids of too many': (lambda r: (r/'train_ids.txt').write_text('1\n'*9+'2\n'*9), ['train_ids.txt names 2 images, but train_ims.npy has 9 rows']),
    'precomp other names': (lambda r: [f.rename(r/f'my{f.name}') for f in list(r.iterdir())], ['captions of no split']),
    'coco two years': (lambda r: shutil.copy(r/'annotations/captions_train2014.json', r/'annotations/captions_train2017.json'), ['captions of 2014 and 2017, which are the same photographs']),
    'vse_infinity no mapping': (lambda r: (r/'id_mapping.json').write_text('{"1": "x.jpg"}'), ["no file name for image id '1000'"]),
    'vse_infinity no features, no mapping': (lambda r: ([f.unlink() for f in (r/'precomp').glob('*.npy')], (r/'id_mapping.json').unlink()), ['neither *_ims.npy nor id_mapping.json']),
    'bottom_up truncated': (lambda r: cut(r/'test_36.tsv', 5000), ['test_36.tsv, line 2']),
    'bottom_up five fields': (lambda r: edit(r/'test_36.tsv', b'\t333', b''), ['test_36.tsv, line 1: expected 6 tab-separated fields', 'found 5']),
    'bottom_up not base64': (lambda r: edit(r/'test_36.tsv', b'\r\n', b'!!\r\n'), ['not base64 of float32']),
    'bottom_up other boxes': (lambda r: edit(r/'test_36.tsv', b'\t36\t', b'\t18\t'), ['boxes of', 'where the first image has 18 of 32', '36 boxes']),
    'bottom_up no whole boxes': (lambda r: edit(r/'test_36.tsv', b'\t36\t', b'\t35\t'), ['no whole number of features for 35 boxes']),
    'bottom_up file missing': (lambda r: (r/'test_36.tsv').unlink(), ['is in none of train_36.tsv (6 of 12 images are missing)']),
    'bottom_up other images': (lambda r: j(r/'dataset_flickr30k.json', lambda x: x['images'][2].update(filename='1002_93b08cb0e.jpg')), ["image '1002_93b08cb0e' of the annotations has no number at its end"]),
    'bottom_up id is text': (lambda r: edit(r/'test_36.tsv', b'1006\t', b'dog.jpg\t'), ['image_id and num_boxes must be whole numbers']),
    'kaggle_flickr8k comma': (lambda r: edit(r/'captions.txt', b'"', b'', -1), ['line 2: expected 2 fields (image, caption), found 3', 'in quotes']),
    'kaggle_flickr8k quotes': (lambda r: edit(r/'captions.txt', b'drawn ."', b'drawn "quoted" ."'), ['line 2:', 'double the quotes']),
    'kaggle_flickr30k fields': (lambda r: edit(r/'results.csv', b'| 0| ', b'| '), ['results.csv, line 2: expected 3 fields']),
    'own_csv stray quotes': (lambda r: ((f:=r/'captions.csv').write_text('\n'.join(l.replace(',', ',"', 1) if k==3 else l+'"' if k==6 else l for k,l in enumerate(f.read_text().splitlines())))), ['line 4: a quoted text runs on over the next lines']),
    'own_csv stray quote': (lambda r: ((f:=r/'captions.csv').write_text('\n'.join(l.replace(',', ',"', 1) if k==3 else l for k,l in enumerate(f.read_text().splitlines())))), ['line 4:', 'quotes']),
    'own_csv odd header': (lambda r: edit(r/'captions.csv', b'image,caption', b'"image"x,caption'), ['line 1: ', 'in quotes']),
    'own_csv empty lists': (lambda r: [(r/f'{s}.txt').touch() for s in ('train','dev','test')], ['is in any list of splits']),
    'own_csv long name': (lambda r: edit(r/'captions.csv', b'1000.jpg', b'x'*300+b'.jpg'), ['line 2: the name of the image is too long for a file']),
    'own_csv a bottom-up file': (lambda r: ((r/'captions.csv').unlink(), (r/'trainval.tsv').write_bytes(b'9\t640\t480\t36\tAAAA\tAAAA\n')), ['bottom-up features and no captions', 'dataset_*.json']),
    'own_csv no header': (lambda r: edit(r/'captions.csv', b'image,caption\n', b''), ['line 1: expected a column called image or']),
    'own_csv only a header': (lambda r: (r/'captions.csv').write_text('image,caption\n'), ['has no captions']),
    'own_csv two images': (lambda r: (r/'captions.csv').write_text('image,caption\n1000.jpg,a\n1001.jpg,b\n'), ['need at least 3 images; found 2']),
    'own_csv absolute': (lambda r: edit(r/'captions.csv', b'1000.jpg', b'C:\\photos\\1000.jpg'), ['line 2:', 'is an absolute path']),
    'own_csv no name': (lambda r: edit(r/'captions.csv', b'1000.jpg', b' '), ['line 2: the name of the image is empty']),
    'own_csv two tables': (lambda r: ((r/'captions.csv').rename(r/'a.csv'), (r/'b.tsv').touch()), ['several tables (a.csv, b.tsv)']),
    'own_csv renamed image': (lambda r: (r/'images/1005.jpg').rename(r/'images/1005.JPG'), ['1005.jpg does not exist']),
    'own_jsonl torn': (lambda r: cut(r/'captions.jsonl', 200), ['line', 'not JSON']),
    'own_jsonl no caption': (lambda r: edit(r/'captions.jsonl', b'"captions"', b'"tags"'), ['line 1: expected {"image"']),
    'own_jsonl null': (lambda r: (r/'captions.jsonl').write_text('{"image": "1000.jpg", "caption": null}\n'), ['line 1: expected {"image"']),
    'own_jsonl unknown split': (lambda r: edit(r/'captions.jsonl', b'"train"', b'"training"'), ["line 1: unknown split 'training'"]),
    'own_jsonl split is a list': (lambda r: edit(r/'captions.jsonl', b'"train"', b'["train"]'), ["line 1: unknown split ['train']"]),
    'own_jsonl two splits': (lambda r: (r/'captions.jsonl').write_text((r/'captions.jsonl').read_text()+'{"image": "1000.jpg", "caption": "x", "split": "test"}\n'), ["'1000.jpg' is in test here and in train before"]),
    'huggingface torn': (lambda r: cut(next((r/'train').glob('*.arrow')), 100), ['is not a whole Hugging Face dataset']),
    'huggingface pictures': (lambda r: hf_without_pictures(r), ['row 0 of the dataset: the picture cannot be decoded']),
    'huggingface picture in two splits': (lambda r: shutil.copytree(r/'train', r/'test', dirs_exist_ok=True), ["the picture is in split 'test' here and in 'train' before"]),
    'huggingface no state': (lambda r: (r/'test/state.json').unlink(), ['is not a whole Hugging Face dataset']),
}

def refused(r, *said):
    assert r.returncode==2, (r.returncode, r.stdout, r.stderr)
    assert 'Traceback' not in r.stderr+r.stdout
    assert sum(l.startswith('amsps: ') for l in r.stderr.splitlines())==1, r.stderr
    for s in said: assert s in r.stderr, r.stderr

def snapshot(root): return {p.relative_to(root):(p.stat().st_size, p.stat().st_mtime_ns) for p in root.rglob('*') if p.is_file()}

@pytest.mark.parametrize('case', CASES)
def test_refused(cli, source, backbone, case, tmp_path):
    "By `data check`, which changes nothing; an empty split, which is no fault of the data, by `train`"
    layout,(breaks,said) = case.split()[0],CASES[case]
    root = write(layout, source, tmp_path/'data')
    breaks(root); before = snapshot(root)
    if case=='flickr8k empty split': command = ['train', '--dataset', 'flickr8k', '--data-root', root, '--backbone', backbone, '--grid', 2]
    else: command = ['data', 'check', root]
    refused(cli(*command, *([] if command[1]=='check' else ['--cache-dir', tmp_path/'cache'])), *said)
    assert snapshot(root)==before
    assert not [p for p in tmp_path.rglob('*') if p.name=='record.json' or p.suffix=='.part']

@pytest.mark.parametrize('layout', [l for l in LAYOUTS if l!='huggingface'])
def test_windows_files(source, layout, tmp_path):
    "Line ends of Windows and a byte order mark change nothing"
    from amsps.companion.formats import read_dataset
    root = write(layout, source, tmp_path/'data')
    before = read_dataset(root).fingerprint
    for f in [*root.rglob('*.txt'), *root.glob('*.csv'), *root.glob('*.json*')]: f.write_bytes(b'\xef\xbb\xbf'+f.read_bytes().replace(b'\r\n', b'\n').replace(b'\n', b'\r\n'))
    assert read_dataset(root).fingerprint==before

@pytest.fixture
def nobody():
    "Root may read everything, so that a test of permissions has to be somebody else"
    if os.geteuid(): yield; return
    os.seteuid(65534)
    try: yield
    finally: os.seteuid(0)

@pytest.mark.parametrize('layout,file', [('flickr8k','Flickr8k.token.txt'), ('precomp','train_ims.npy'), ('karpathy','dataset_flickr30k.json'), ('own_csv','images/1004.jpg'), ('own_csv','.')])
def test_no_permission(cli, source, layout, file, tmp_path, request):
    root = write(layout, source, tmp_path/'data')
    own = [p for p in (tmp_path, *tmp_path.parents) if Path(tempfile.gettempdir()) in p.parents]
    for p in own: p.chmod(0o755)
    assert cli('data', 'check', root).returncode==0 # and all is imported that somebody else may not read
    (root/file).chmod(0)
    request.getfixturevalue('nobody')
    try: refused(cli('data', 'check', root), 'ermission denied', (root/file).name)
    finally:
        if not os.getuid(): os.seteuid(0)
        (root/file).chmod(0o755)

def test_conversion_leaves_nothing(cli, source, tmp_path):
    "A fault in the last line of the last file"
    root = write('bottom_up', source, tmp_path/'data')
    f = root/'train_36.tsv'; f.write_bytes(f.read_bytes()[:-50])
    command = ('train', '--dataset', 'flickr30k', '--data-root', root, '--cache-dir', tmp_path/'cache')
    refused(cli(*command), 'train_36.tsv, line 6')
    assert not list(tmp_path.rglob('features*'))

def test_layout_without_its_files(cli, source, tmp_path):
    root = write('own_csv', source, tmp_path/'data')
    for layout,said in (('coco','is this MSCOCO?'), ('flickr8k','no caption file'), ('karpathy','dataset*.json'), ('precomp','captions of no split'), ('bottom_up','dataset*.json'), ('huggingface','not a whole Hugging Face dataset')):
        refused(cli('data', 'check', root, '--layout', layout), said)

@pytest.fixture
def little_room():
    "No file may grow beyond 10 kB, as on a full disk"
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, old)

@pytest.mark.parametrize('layout,more', [('own_csv', True), ('bottom_up', False)])
def test_disk_full(cli, source, backbone, layout, more, tmp_path, request):
    "While features are cached: said, nothing half-written that could be taken for the whole; with room again it goes on"
    root = write(layout, source, tmp_path/'data')
    command = ['data', 'prepare', root, '--dataset', 'own', '--grid', 2, '--cache-dir', tmp_path/'cache'] + (['--backbone', backbone] if more else [])
    request.getfixturevalue('little_room')
    refused(cli(*command), 'no room to write', 'features.npy', '`cache_dir`')
    assert not list(tmp_path.rglob('features.npy'))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,)*2)
    r = cli(*command)
    assert r.returncode==0 and 'prepared     12 images' in r.stdout, r.stderr
