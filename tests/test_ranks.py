"Two processes give what one process gives with the joined batch"
import json
import os
import subprocess
import sys
from pathlib import Path
import numpy as np
import pytest
import torch
from conftest import TINY, forked
from ranks_worker import run

QUIET = dict(CUDA_VISIBLE_DEVICES='', TOKENIZERS_PARALLELISM='false')


@pytest.fixture(scope='module')
def both(tmp_path_factory):
    "What one process writes, and what two write"
    folders = [tmp_path_factory.mktemp(name) for name in ('one', 'two')]
    said = folders[0]/'said'
    process = forked(run, *folders, out=said)
    process.join(400)
    assert process.exitcode==0, said.read_text('utf-8')[-4000:]
    return folders


def test_loss_and_gradients(both):
    "Batches of 64, of 37 (uneven shards) and of 1 (a process without a pair)"
    one,two = (torch.load(f/'gradients.pt', weights_only=True) for f in both)
    assert len(one)==len(two)==3
    for (loss,grads),(other_loss,other_grads) in zip(one, two):
        assert abs(loss-other_loss)<1e-6
        assert grads.keys()==other_grads.keys() and len(grads)>5
        for k,g in grads.items():
            torch.testing.assert_close(g, other_grads[k], atol=1e-6, rtol=1e-5, msg=lambda s: f'{k}: {s}')
    assert max(v.abs().max() for v in one[0][1].values())>1e-3 # and there is something to compare


def test_mined_alike(both):
    one,two = (np.load(f/'mined.npz') for f in both)
    for k in one.files:
        if one[k].dtype.kind=='i': assert np.array_equal(one[k], two[k])
        else: assert np.allclose(one[k], two[k])
    assert (one['arr_2']>0).sum()>20


def test_training_alike(both):
    one,two = (json.loads((f/'run.json').read_text()) for f in both)
    assert (one['processes'],two['processes'])==(1,2)
    assert len(one['history'])==len(two['history'])==4
    for a,b in zip(one['history'], two['history']):
        assert a.keys()==b.keys()
        assert abs(a['loss']-b['loss'])<1e-3*abs(a['loss'])
    assert one['metrics']==pytest.approx(two['metrics'], rel=1e-4)
    names = [sorted(x.name for x in (f/'run').iterdir()) for f in both]
    assert names[0]==names[1]


def test_interrupted(both):
    "Two processes that were stopped resume, and each draws its own dropout masks"
    cut = json.loads((both[1]/'run.json').read_text())['cut']
    assert cut['history'] and cut['weights']
    assert cut['masks'][0]!=cut['masks'][1]


def launch_two(cache):
    "`amsps train` under accelerate, whose own settings ask for bf16"
    settings = dict(main_process_port=0, num_processes=2, num_machines=1, mixed_precision='bf16', dynamo_backend='no')
    options = [x for k,v in settings.items() for x in (f'--{k}', str(v))]
    launcher = [sys.executable, '-m', 'accelerate.commands.launch', '--multi_gpu', *options, '--no_python']
    amsps = Path(sys.executable).parent/'amsps'
    train = [str(amsps), 'train', *map(str, TINY), '--seed', '3', '--cache-dir', str(cache)]
    return subprocess.run([*launcher, *train], capture_output=True, text=True, timeout=400, env=os.environ|QUIET)


def record_in(cache): return json.loads(next((cache/'runs').glob('*-s3-*/record.json')).read_text())


def test_command_line(cli, tmp_path):
    "`accelerate launch ... amsps train` makes the run of `amsps train`, in its precision whatever accelerate's is"
    r = launch_two(tmp_path/'two')
    assert r.returncode==0 and '(2 processes)' in r.stdout, r.stderr[-4000:]
    alone = cli('train', *TINY, '--seed', 3, '--threads', 1, '--cache-dir', tmp_path/'one')
    assert alone.returncode==0
    one,two = (record_in(tmp_path/name) for name in ('one','two'))
    assert one['name']==two['name']
    assert one['config']['seed']==3 and one['environment']['threads']==1
    assert one['metrics']['test']==pytest.approx(two['metrics']['test'], rel=1e-4)
