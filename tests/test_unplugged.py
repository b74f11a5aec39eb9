"kill -9 during extraction and during training: the same command goes on and ends equal to the bit."
import json, shutil, subprocess, sys, time
from pathlib import Path
import numpy as np, psutil
from safetensors.numpy import load_file
from conftest import ROOT, TINY, amsps

def start(*args): return psutil.Popen([Path(sys.executable).parent/'amsps', *map(str, args)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)

def kill_when(process, condition, seconds=120):
    "kill -9 the process, its workers and their kernels, as soon as the condition holds"
    end = time.monotonic()+seconds
    while not condition():
        assert process.poll() is None and time.monotonic()<end, 'it ended, or never came to the point where it is killed'
        time.sleep(.01)
    everyone = [*process.children(recursive=True), process]
    for p in everyone: p.kill()
    psutil.wait_procs(everyone, timeout=30)

def test_extraction(small_flickr8k, backbone, tmp_path):
    for i in range(200): shutil.copy(small_flickr8k/'Flicker8k_Dataset/scene00000.jpg', small_flickr8k/f'Flicker8k_Dataset/more{i}.jpg')
    def args(cache): return ('extract', small_flickr8k/'Flicker8k_Dataset', '--backbone', backbone, '--cache-dir', tmp_path/cache, '--batch-size', 1, '--grid', 2)
    def size(): return next((p.stat().st_size for p in (tmp_path/'a').rglob('features.part')), 0)
    kill_when(start(*args('a')), lambda: size()>3*5*1280*2)
    assert size() and not list((tmp_path/'a').rglob('features.npy')), 'it was killed too late to prove anything'
    r = amsps(*args('a')); assert r.returncode==0, r.stderr
    assert ' 0/224' not in r.stderr, 'it began again'      # the bar starts where the killed one stood
    assert amsps(*args('b')).returncode==0
    a,b = (np.load(next((tmp_path/c).rglob('features.npy'))) for c in 'ab')
    assert np.array_equal(a, b)

def test_training(tmp_path):
    "AMSPS whole: consensus level, every part of AHRL, mining refreshed every second epoch"
    whole = ('--loss', 'ahrl', '--n-concepts', 20, '--consensus', 'likelihood', '--adaptive-margin', .3, '--warmup-epochs', 1, '--active-from', 1, '--refresh', 2, '--candidates', 20)
    def args(cache): return ('train', *TINY[:-1], 25, '--patience', 25, '--dropout', .1, '--word-dropout', .1, *whole, '--cache-dir', tmp_path/cache)
    def passes(): return sum(l.startswith('{') for f in (tmp_path/'a').rglob('mining.jsonl') for l in f.read_text().splitlines())
    kill_when(start(*args('a')), lambda: passes()>=2)
    assert list((tmp_path/'a').rglob('checkpoint-*')) and list((tmp_path/'a/runs').glob('*.partial')) and not list((tmp_path/'a').rglob('record.json')), 'it was killed too late to prove anything'
    for cache in 'ab': r = amsps(*args(cache)); assert r.returncode==0, r.stdout+r.stderr
    a,b = (next((tmp_path/c/'runs').glob('*/record.json')) for c in 'ab')
    ra,rb = (json.loads(f.read_text()) for f in (a, b))
    assert ra['resumed'] and not rb['resumed']
    for k in ('name','config','metrics','history','similarities','examples'): assert ra[k]==rb[k], k
    def found(r): return [{k:v for k,v in m.items() if k!='seconds'} for m in r['mining']]
    assert len(found(rb))==12 and found(ra)==found(rb)
    wa,wb = (load_file(f.parent/'model/model.safetensors') for f in (a, b))
    assert all(np.array_equal(wa[k], wb[k]) for k in wb)
    again = amsps(*args('a')); assert '1 complete, 0 to do' in again.stdout
    e = amsps('evaluate', a.parent, '--cache-dir', tmp_path/'a'); assert 'equal to the record' in e.stdout, e.stdout+e.stderr
