"kill -9 during extraction, and at random moments of a grid: the same command goes on and ends equal to the bit."
import shutil, subprocess, sys, time
from pathlib import Path
import numpy as np, psutil
from conftest import ROOT, amsps

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

def test_three_plugs(tmp_path):
    "kill -9 of a grid and its report at three random moments: records, weights, tables and figures equal an undisturbed run's, byte by byte"
    sys.path.insert(0, str(ROOT/'benchmarks'))
    from unplug import unplug
    wrong,hit = unplug(3, 0, tmp_path)
    assert not wrong and sum(hit.values())==3, (wrong, hit)
    assert sum(hit[k] for k in ('training, before the first pass', 'training, active', 'writing what was mined', 'writing a record'))>0, hit
