"Every layout of the field: read, checked, trained and searched as a user would; features never in memory as a whole."
import json, subprocess, sys
import numpy as np, pytest
from amsps.companion.formats import read_dataset
from layouts import LAYOUTS, write

@pytest.mark.parametrize('layout', LAYOUTS)
def test_reads(source, layout, tmp_path):
    write(layout, source, tmp_path/'data')
    a = read_dataset(tmp_path/'data', cache=tmp_path/'cache')
    assert len(a.image_ids)==12 and np.bincount(a.caption_image).tolist()==[2]*12
    by_caption = {c.rstrip(' .').removesuffix(', drawn'):i for c,i in zip(a.captions, a.caption_image)}
    picture = {c:i for i,cs in enumerate(source.captions) for c in cs}
    order = {}
    for c,i in by_caption.items(): order.setdefault(int(i), picture[c]) # which of the source's pictures an image is
    assert sorted(order.values())==list(range(12))
    if layout not in ('kaggle_flickr8k','kaggle_flickr30k','own_csv','coco'): assert [a.splits[i] for i in sorted(order)]==[source.splits[order[i]] for i in sorted(order)]
    else: assert set(a.splits)=={'train','dev','test'}
    if a.regions is not None: np.testing.assert_allclose(a.regions[:].astype(float)/(255 if 'uint8' in layout else 1), source.regions[[order[i] for i in range(12)]], atol=2e-3)
    assert a.regions is not None or all(p.is_file() for p in a.image_paths)

@pytest.mark.parametrize('layout,said', [('precomp_float16', '12 x 36 x 16 float16, all finite'), ('vse_infinity', 'pictures     12, all can be decoded'), ('kaggle_flickr30k', 'mended 1 line'),
    ('bottom_up', '12 x 36 x 16, all finite, in test_36.tsv, train_36.tsv; converted at first use'), ('coco', "nobody's split"), ('own_csv', 'drawn by image name')])
def test_check_says(cli, source, layout, said, tmp_path):
    write(layout, source, tmp_path/'data')
    r = cli('data', 'check', tmp_path/'data')
    assert r.returncode==0 and said in r.stdout and 'fingerprint  ' in r.stdout, r.stdout+r.stderr

TINY = ['--embed-size', 16, '--word-size', 8, '--min-count', 1, '--epochs', 1, '--warmup-epochs', 0, '--batch-size', 8]

def test_own_photographs(cli, source, backbone, tmp_path):
    "As the README says: check, prepare, train, search by text and by picture"
    write('own_csv', source, tmp_path/'data')
    common = ['--data-root', tmp_path/'data', '--backbone', backbone, '--cache-dir', tmp_path/'cache']
    r = cli('data', 'prepare', tmp_path/'data', '--backbone', backbone, '--cache-dir', tmp_path/'cache', '--grid', 2)
    assert r.returncode==0 and f'--data-root {tmp_path}/data' in r.stdout and 'prepared     12 images, 5 regions' in r.stdout, r.stderr
    r = cli('train', '--dataset', 'own', '--grid', 2, *common, *TINY)
    assert r.returncode==0, r.stderr
    run = next(l.split()[1] for l in r.stdout.splitlines() if l.startswith('run:'))
    (tmp_path/'relevance.tsv').write_text('image\tcaption\tgrade\n'+''.join(f'{n}\t{n}#0\t2\n' for n in source.names))
    r = cli('evaluate', run, '--relevance', tmp_path/'relevance.tsv', *common)
    assert r.returncode==0 and 'equal to the record' in r.stdout and r.stdout.count('nDCG')==4, r.stdout+r.stderr
    r = cli('search', run, '--caption', 'a red ball', '--top', 12, *common)
    assert r.returncode==0 and sorted(l.split()[1] for l in r.stdout.splitlines())==sorted(source.names), r.stderr
    r = cli('search', run, '--caption', 'a ball', '--data-root', write('precomp', source, tmp_path/'other'), '--cache-dir', tmp_path/'cache')
    assert r.returncode==2 and 'the features are of size 16, those that' in r.stderr and 'Traceback' not in r.stderr
    r = cli('search', run, '--image', tmp_path/'data/images/1003.jpg', *common)
    assert r.returncode==0 and len(r.stdout.splitlines())==5, r.stderr

@pytest.mark.parametrize('layout', ['precomp_uint8','bottom_up'])
def test_trains_on_region_features(cli, source, layout, tmp_path):
    write(layout, source, tmp_path/'data')
    r = cli('train', '--dataset', 'flickr30k', '--data-root', tmp_path/'data', '--cache-dir', tmp_path/'cache', *TINY)
    assert r.returncode==0 and 'rSum' in r.stdout, r.stderr
    record = json.loads(next(tmp_path.rglob('record.json')).read_text())
    assert record['data']['features']==[12,36,16]

def test_mscoco_in_bounded_memory(tmp_path):
    "A sparse file of MSCOCO's shape, 31 GiB: opening it, the order of an epoch and a batch cost less than 500 MiB"
    np.lib.format.open_memmap(tmp_path/'train_ims.npy', 'w+', np.float32, (113287,36,2048))
    (tmp_path/'train_caps.txt').write_text('a caption of some words\n'*113287*5)
    code = f'''
import resource, numpy as np, torch
from amsps.data import PairDataset, PairCollator, build_tokenizer
from amsps.companion.formats import read_dataset
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024
before = peak()
a = read_dataset({str(tmp_path)!r})
d = PairDataset(a, a.regions, 'train')
order = torch.randperm(len(d))
batch = PairCollator(d, build_tokenizer(d.captions[:9], 1))([d[int(j)] for j in order[:128]])
assert batch['regions'].shape==(128,36,2048) and len(order)==566435
print(peak()-before)
'''
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert r.returncode==0, r.stderr
    assert float(r.stdout)<500, r.stdout
