"""The GPU's benchmark, on a CPU with small data; memory."""
import json
import os
import platform
import subprocess
import sys
import pytest
from conftest import ROOT


@pytest.fixture
def gpu_script(monkeypatch):
    "Run the script in this process"
    monkeypatch.syspath_prepend(str(ROOT/'benchmarks'))
    import gpu
    def run(*args):
        monkeypatch.setattr(sys, 'argv', ['gpu.py', *map(str, args)])
        gpu.main()
    return run


def test_gpu_script(gpu_script, tmp_path, capsys):
    gpu_script('flickr30k', '--device', 'cpu', '--small', '--profile', '--write', tmp_path/'gpu.json')
    lines = json.loads((tmp_path/'gpu.json').read_text())['lines']
    expected = [
        f'{loss}, B = {size}, {precision}'
        for size in (8, 16) for precision in ('fp32', 'bf16') for loss in ('hardest triplet', 'AHRL')]
    assert [l['what'] for l in lines if 'pairs' in l]==expected
    assert [l['what'] for l in lines if 'pairs' not in l]==['mining pass', 'recall both ways, 20 images']
    assert all(l['seconds']>0 for l in lines)
    printed = capsys.readouterr().out
    assert all(l['what'] in printed for l in lines)
    assert 'CPU time total' in printed # of the profile


def test_gpu_script_refuses(gpu_script, capsys):
    with pytest.raises(SystemExit) as e:
        gpu_script('flickr8k', '--device', 'cpu')
    assert e.value.code==2
    assert "no measurement 'flickr8k'" in capsys.readouterr().err


def test_pixels(gpu_script, tmp_path):
    "The part that trains from pixels: a bare loop, whole batches, chunks"
    gpu_script('pixels', '--device', 'cpu', '--small', '--write', tmp_path/'gpu.json')
    lines = json.loads((tmp_path/'gpu.json').read_text())['lines']
    assert [l['what'] for l in lines]==['bare loop, B = 8, bf16', 'InfoNCE, B = 8, bf16', 'InfoNCE, B = 16, bf16',
                                        'InfoNCE, chunks of 2, B = 16, bf16']
    assert all(l['seconds']>0 for l in lines)


@pytest.mark.slow # under memory pressure the system takes pages all the same
@pytest.mark.skipif(platform.libc_ver()[0]!='glibc', reason='keeps memory in glibc alone')
def test_freed_memory_is_kept():
    code = """
import resource
import torch
from amsps.vision import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10): torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt-before
faults()
given_back = faults()
keep_freed_memory()
faults()
kept = faults()
assert kept<given_back/5, (kept, given_back)
"""
    env = {k: v for k, v in os.environ.items() if not k.startswith('MALLOC_')}
    subprocess.run([sys.executable, '-c', code], env=env, check=True)
