"The GPU's benchmark, on a CPU with small data"
import json, subprocess, sys
from conftest import ROOT

def run(*args): return subprocess.run([sys.executable, ROOT/'benchmarks/gpu.py', *map(str, args)], capture_output=True, text=True, timeout=300)

def test_gpu_script(tmp_path):
    r = run('flickr30k', '--device', 'cpu', '--small', '--write', tmp_path/'gpu.json')
    assert r.returncode==0, r.stderr[-2000:]
    lines = json.loads((tmp_path/'gpu.json').read_text())['lines']
    assert [l['what'] for l in lines if 'pairs' in l]==[f'{loss}, B = {size}, {precision}' for size in (8,16) for precision in ('fp32','bf16') for loss in ('hardest triplet','AHRL')]
    assert all(l['seconds']>0 for l in lines) and all(str(l['what']) in r.stdout for l in lines)

def test_gpu_script_refuses():
    r = run('flickr8k', '--device', 'cpu')
    assert r.returncode==2 and "no data of the shape of 'flickr8k'" in r.stderr and 'Traceback' not in r.stderr
