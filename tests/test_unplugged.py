"kill -9 during extraction and during training: the same command goes on and ends equal to the bit."
import json, os, signal, subprocess, sys, time
from pathlib import Path
import numpy as np
from safetensors.numpy import load_file
from conftest import ROOT, TINY, amsps

def start(*args): return subprocess.Popen([Path(sys.executable).parent/'amsps', *map(str, args)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT, start_new_session=True)

def kill_when(process, condition, seconds=120):
    "kill -9 the process and all it started, as soon as the condition holds"
    end = time.monotonic()+seconds
    while not condition():
        assert process.poll() is None and time.monotonic()<end, 'it ended, or never came to the point where it is killed'
        time.sleep(.02)
    os.killpg(process.pid, signal.SIGKILL); process.wait()

def test_extraction(small_flickr8k, backbone, tmp_path):
    def args(cache): return ('extract', small_flickr8k/'Flicker8k_Dataset', '--backbone', backbone, '--cache-dir', tmp_path/cache, '--batch-size', 1)
    def part(): return next((tmp_path/'a').rglob('features.part'), None)
    kill_when(start(*args('a')), lambda: part() is not None and part().stat().st_size>3*10*1280*2)
    kept = part().stat().st_size
    assert not list((tmp_path/'a').rglob('features.npy'))
    r = amsps(*args('a')); assert r.returncode==0, r.stderr
    assert ' 0/24' not in r.stderr, 'it began again'      # the bar starts where the killed one stood
    assert amsps(*args('b')).returncode==0
    a,b = (np.load(next((tmp_path/c).rglob('features.npy'))) for c in 'ab')
    assert kept>0 and np.array_equal(a, b)

def test_training(tmp_path):
    def args(cache): return ('train', *TINY[:-1], 6, '--dropout', .1, '--cache-dir', tmp_path/cache)
    killed = start(*args('a'))
    kill_when(killed, lambda: any((tmp_path/'a').rglob('checkpoint-*/trainer_state.json')))
    for k in (tmp_path/'a').rglob('*.partial'): assert not (k/'record.json').exists()
    for cache in 'ab': r = amsps(*args(cache)); assert r.returncode==0, r.stdout+r.stderr
    a,b = (next((tmp_path/c/'runs').glob('*/record.json')) for c in 'ab')
    ra,rb = (json.loads(f.read_text()) for f in (a, b))
    for k in ('name','config','metrics','history','similarities','examples'): assert ra[k]==rb[k], k
    wa,wb = (load_file(f.parent/'model/model.safetensors') for f in (a, b))
    assert all(np.array_equal(wa[k], wb[k]) for k in wb)
    again = amsps(*args('a')); assert '1 complete, 0 to do' in again.stdout
    e = amsps('evaluate', a.parent, '--cache-dir', tmp_path/'a'); assert 'equal to the record' in e.stdout, e.stdout+e.stderr
