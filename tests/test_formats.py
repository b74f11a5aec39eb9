"Every layout of the field is read, checked, trained on and searched as a user would; features stay on disk."
import csv
import json
import shutil
import subprocess
import sys
import numpy as np
import pandas as pd
import pytest
from amsps.companion.formats import read_dataset
from layouts import LAYOUTS, write

DRAWN = ('kaggle_flickr8k', 'kaggle_flickr30k', 'own_csv', 'coco') # layouts without the source's splits


def source_images(source, annotations):
    "For each image of the annotations, the position of its picture in the source, found by its captions"
    picture = {c:i for i,captions in enumerate(source.captions) for c in captions}
    order = {}
    for caption,image in zip(annotations.captions, annotations.caption_image):
        bare = caption.rstrip(' .').removesuffix(', drawn')
        order.setdefault(int(image), picture[bare])
    return [order[i] for i in range(len(annotations.image_ids))]


@pytest.mark.parametrize('layout', LAYOUTS)
def test_reads(source, layout, tmp_path):
    write(layout, source, tmp_path/'data')
    a = read_dataset(tmp_path/'data', cache=tmp_path/'cache')
    assert len(a.image_ids)==12
    assert np.bincount(a.caption_image).tolist()==[2]*12
    order = source_images(source, a)
    assert sorted(order)==list(range(12))
    if layout in DRAWN:
        assert set(a.splits)=={'train','dev','test'}
    else:
        assert a.splits==[source.splits[i] for i in order]
    if a.regions is None:
        assert all(p.is_file() for p in a.image_paths)
    else:
        scale = 255 if 'uint8' in layout else 1
        np.testing.assert_allclose(a.regions[:].astype(float)/scale, source.regions[order], atol=2e-3)


WRITERS = dict(
    pandas=dict(), excel=dict(encoding='utf-8-sig', sep=';', lineterminator='\r\n'),
    excel_unicode=dict(encoding='utf-16', sep='\t', lineterminator='\r\n'), all_quoted=dict(quoting=csv.QUOTE_ALL))


@pytest.mark.parametrize('writer', WRITERS)
def test_tables_as_written(source, writer, tmp_path):
    "Line feeds, quotes and separators in captions, lists in cells, decomposed names: as pandas reads them back"
    root = write('own_csv', source, tmp_path/'data')
    (root/'images'/source.names[0]).rename(root/'images/cafe\u0301.jpg')
    names = ['caf\xe9.jpg', *source.names[1:]]
    captions = [[f'{c}, "new";\n{c}|\tend' for c in cs] for cs in source.captions]
    for cells in (captions, [json.dumps(cs) for cs in captions], [[c.encode() for c in cs] for cs in captions]):
        table = pd.DataFrame(dict(image=names, split=source.splits, caption=cells))
        table.to_csv(root/'captions.csv', index=False, **WRITERS[writer])
        assert read_dataset(root).captions==[c for cs in captions for c in cs]
    apart = pd.DataFrame(dict(image=names, caption_0=[c[0] for c in captions], caption_1=[c[1] for c in captions]))
    apart.to_csv(root/'captions.csv', index=False, **WRITERS[writer])
    assert read_dataset(root).captions==[c for cs in captions for c in cs]


REPORTS = [
    ('precomp_float16', '12 x 36 x 16 float16, all finite'),
    ('vse_infinity', 'pictures     12, all can be decoded'),
    ('kaggle_flickr30k', 'repaired 1 line'),
    ('bottom_up', '12 x 36 x 16, all finite, in test_36.tsv, train_36.tsv; converted at first use'),
    ('coco', "not Karpathy's split"),
    ('own_csv', 'drawn by image name')]


@pytest.mark.parametrize('layout,said', REPORTS)
def test_check_says(cli, source, layout, said, tmp_path):
    write(layout, source, tmp_path/'data')
    r = cli('data', 'check', tmp_path/'data')
    assert r.returncode==0, r.stderr
    assert said in r.stdout
    assert 'fingerprint  ' in r.stdout


TINY = dict(embed_size=16, word_size=8, min_count=1, epochs=1, warmup_epochs=0, batch_size=8)
TINY_OPTIONS = [x for k,v in TINY.items() for x in (f"--{k.replace('_', '-')}", v)]


def test_own_photographs(cli, source, backbone, tmp_path):
    "The README's commands: check, prepare, train, evaluate, search by text and by picture"
    data,cache = write('own_csv', source, tmp_path/'data'),['--cache-dir', tmp_path/'cache']
    common = ['--data-root', data, '--backbone', backbone, *cache]
    r = cli('data', 'prepare', data, '--backbone', backbone, '--grid', 2, *cache)
    assert r.returncode==0, r.stderr
    assert f'--data-root {data}' in r.stdout
    assert 'prepared     12 images, 5 regions' in r.stdout

    r = cli('train', '--dataset', 'own', '--grid', 2, *common, *TINY_OPTIONS)
    assert r.returncode==0, r.stderr
    assert 'rSum' in r.stdout
    run = next(l.split()[1] for l in r.stdout.splitlines() if l.startswith('run:'))

    grades = ''.join(f'{n}\t{n}#0\t2\n' for n in source.names)
    (tmp_path/'relevance.tsv').write_text('image\tcaption\tgrade\n'+grades)
    r = cli('evaluate', run, '--relevance', tmp_path/'relevance.tsv', *common)
    assert r.returncode==0, r.stderr
    assert 'equal to the record' in r.stdout
    assert r.stdout.count('nDCG')==4

    other = json.loads((backbone/'config.json').read_text('utf-8'))
    another = shutil.copytree(backbone, tmp_path/'another')
    (another/'config.json').write_text(json.dumps(other|dict(layer_norm_eps=.5)), 'utf-8')
    for command in (['evaluate', run], ['search', run, '--caption', 'a ball']):
        r = cli(*command, '--data-root', data, '--backbone', another, *cache)
        assert r.returncode==2 and 'another is not the vision model of' in r.stderr, r.stderr

    r = cli('search', run, '--caption', 'a red ball', '--top', 12, *common)
    assert r.returncode==0, r.stderr
    assert sorted(l.split()[1] for l in r.stdout.splitlines())==sorted(source.names)

    r = cli('search', run, '--image', data/'images/1003.jpg', *common)
    assert r.returncode==0, r.stderr
    assert len(r.stdout.splitlines())==5

    r = cli('search', run, '--caption', 'a ball', '--data-root', write('precomp', source, tmp_path/'other'), *cache)
    assert r.returncode==2
    assert 'the features are of size 16, those that' in r.stderr
    assert 'Traceback' not in r.stderr


@pytest.mark.parametrize('layout', ['precomp_uint8','bottom_up'])
def test_trains_on_region_features(source, layout, tmp_path):
    from amsps.companion.config import parse_config, preset
    from amsps.companion.datasets import load_data
    from amsps.companion.runs import train_run
    write(layout, source, tmp_path/'data')
    given = dict(dataset='flickr30k', data_root=str(tmp_path/'data'), cache_dir=str(tmp_path/'cache'))
    config = parse_config(preset(given|TINY))
    record = train_run(config, load_data(config))
    assert record['data']['features']==[12,36,16]
    assert 0<=record['metrics']['test']['rsum']<=600
    written = json.loads(next(tmp_path.rglob('record.json')).read_text())
    assert written['metrics']['test']==record['metrics']['test']


def run_of(printed):
    return next(l.split()[1] for l in printed.splitlines() if l.startswith('run:'))


def test_model_of_region_features(cli, source, tmp_path):
    "A run that started from a run on region features is evaluated on them, and on other data as a whole"
    data,cache = write('precomp', source, tmp_path/'data'),['--cache-dir', tmp_path/'cache']
    own = ['--dataset', 'own', '--data-root', data, *cache]
    r = cli('train', *own, '--train-images', 5, *TINY_OPTIONS)
    assert r.returncode==0, r.stderr
    first = run_of(r.stdout)
    r = cli('train', *own, '--model', first, '--epochs', 1, '--batch-size', 8)
    assert r.returncode==0, r.stderr
    r = cli('evaluate', run_of(r.stdout), '--data-root', data, *cache)
    assert r.returncode==0 and 'equal to the record' in r.stdout, r.stdout+r.stderr
    other = write('precomp_float16', source, tmp_path/'other')
    for f in other.glob('train_*'): f.unlink()
    r = cli('evaluate', first, '--data-root', other, '--keep-record', tmp_path/'kept', *cache)
    assert r.returncode==0, r.stderr
    kept = json.loads(next((tmp_path/'kept').glob('*.json')).read_text('utf-8'))
    assert kept['transfer']['trained_on']=='5 images / 10 captions' and 'trained_on' not in kept['data']


def test_shows_stored_pictures(cli, source, backbone, tmp_path):
    "Retrieved examples are drawn from pictures inside a dataset, and left out where a folder has only features"
    data,cache = write('huggingface', source, tmp_path/'data'),['--cache-dir', tmp_path/'cache']
    own = ['--dataset', 'own', '--grid', 2, '--data-root', data, '--backbone', backbone]
    r = cli('train', *own, *cache, *TINY_OPTIONS)
    assert r.returncode==0, r.stderr
    report = ['report', tmp_path/'cache/runs', '--output', tmp_path/'report', *cache]
    shutil.rmtree(tmp_path/'cache/pictures')
    r = cli(*report, '--figure', 'retrieval', '--data-root', data)
    assert r.returncode==0, r.stderr
    assert list((tmp_path/'report').glob('figure_retrieval_*.png'))
    features = write('bottom_up', source, tmp_path/'features')
    r = cli(*report, '--data-root', features, '--table', 'main', '--figure', 'retrieval')
    assert r.returncode==2
    assert f'{features} has no pictures' in r.stderr
    assert not (tmp_path/'cache/bottom_up').exists()
    f = next((tmp_path/'cache/runs').glob('*/record.json'))
    record = json.loads(f.read_text('utf-8'))
    record['finished'],record['examples']['t2i'][0]['found'][0]['image'] = '2030','elsewhere.jpg'
    f.write_text(json.dumps(record), 'utf-8')
    r = cli(*report, '--figure', 'retrieval', '--data-root', data)
    assert r.returncode==1
    assert f'{data} has no elsewhere.jpg' in r.stdout+r.stderr
    assert 'name the folder that the run read' in r.stdout+r.stderr


MEMORY = '''
import resource
import torch
from amsps.companion.formats import read_dataset
from amsps.data import PairCollator, PairDataset, build_tokenizer

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024

before = peak()
annotations = read_dataset(FOLDER)
pairs = PairDataset(annotations, annotations.regions, 'train')
torch.manual_seed(0)
order = torch.randperm(len(pairs))
different = 5*(order[:200]//5).unique()[:128] # pairs of different images
collate = PairCollator(pairs, build_tokenizer(pairs.captions[:9], 1))
batch = collate([pairs[j] for j in different.tolist()])
assert batch['regions'].shape==(128,36,2048)
assert len(order)==5*N_IMAGES
print(peak()-before)
'''


@pytest.mark.parametrize('n,limit', [(20_000, 100), pytest.param(113287, 500, marks=pytest.mark.slow)])
def test_large_features_in_bounded_memory(tmp_path, n, limit):
    "A sparse file of 5.5 GiB, or of MSCOCO's 31: to open it, order an epoch and make a batch needs little"
    np.lib.format.open_memmap(tmp_path/'train_ims.npy', 'w+', np.float32, shape=(n,36,2048))
    (tmp_path/'train_caps.txt').write_text('a caption of some words\n'*n*5)
    code = f'FOLDER = {str(tmp_path)!r}\nN_IMAGES = {n}\n{MEMORY}'
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert r.returncode==0, r.stderr
    assert float(r.stdout)<limit, r.stdout
