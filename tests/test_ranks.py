"Two processes are one with the joined batch"
import json, os, subprocess, sys
from pathlib import Path
import numpy as np, pytest, torch
from conftest import TINY

WORKER = Path(__file__).with_name('ranks_worker.py')

def run(n, folder):
    folder.mkdir()
    r = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', str(n), str(WORKER), str(folder)] if n>1 else [sys.executable, str(WORKER), str(folder)],
                       capture_output=True, text=True, timeout=400, env=os.environ|dict(OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='', TOKENIZERS_PARALLELISM='false'))
    assert r.returncode==0, r.stderr[-4000:]
    return folder

@pytest.fixture(scope='module')
def both(tmp_path_factory):
    d = tmp_path_factory.mktemp('ranks')
    return run(1, d/'one'),run(2, d/'two')

def test_loss_and_gradients(both):
    "Batches of 64, of 37 (uneven shares) and of 1 (a process without a pair)"
    one,two = (torch.load(f/'gradients.pt', weights_only=True) for f in both)
    assert len(one)==len(two)==3
    for (l,g),(m,h) in zip(one, two):
        assert abs(l-m)<1e-6 and g.keys()==h.keys() and len(g)>5
        for k in g: torch.testing.assert_close(g[k], h[k], atol=1e-6, rtol=1e-5, msg=lambda s: f'{k}: {s}')
    assert max(v.abs().max() for v in one[0][1].values())>1e-3 # and there is something to compare

def test_mined_alike(both):
    one,two = (np.load(f/'mined.npz') for f in both)
    assert all(np.array_equal(one[k], two[k]) if one[k].dtype.kind=='i' else np.allclose(one[k], two[k]) for k in one.files) and (one['arr_2']>0).sum()>20

def test_training_alike(both):
    one,two = (json.loads((f/'run.json').read_text()) for f in both)
    assert (one['processes'],two['processes'])==(1,2) and len(one['history'])==len(two['history'])==4
    for a,b in zip(one['history'], two['history']): assert a.keys()==b.keys() and abs(a['loss']-b['loss'])<1e-3*abs(a['loss'])
    assert one['metrics']==pytest.approx(two['metrics'], rel=1e-4)
    for f in both: assert sorted(x.name for x in (f/'run').iterdir())==sorted(x.name for x in (both[0]/'run').iterdir())

def test_interrupted(both):
    "Two processes that were stopped go on where they were, and each hides other features"
    cut = json.loads((both[1]/'run.json').read_text())['cut']
    assert cut['history'] and cut['weights'] and cut['masks'][0]!=cut['masks'][1]

def test_command_line(cli, tmp_path):
    "`accelerate launch ... amsps train` makes the run that `amsps train` makes, in the run's precision whatever accelerate's is"
    r = subprocess.run([sys.executable, '-m', 'accelerate.commands.launch', '--multi_gpu', '--main_process_port', '0', '--num_processes', '2', '--num_machines', '1', '--mixed_precision', 'bf16', '--dynamo_backend', 'no', '--no_python',
        str(Path(sys.executable).parent/'amsps'), 'train', *map(str, TINY), '--seed', '3', '--cache-dir', str(tmp_path/'two')], capture_output=True, text=True, timeout=400, env=os.environ|dict(CUDA_VISIBLE_DEVICES='', TOKENIZERS_PARALLELISM='false'))
    assert r.returncode==0 and '(2 processes)' in r.stdout, r.stderr[-4000:]
    assert cli('train', *TINY, '--seed', 3, '--threads', 1, '--cache-dir', tmp_path/'one').returncode==0
    one,two = (json.loads(next((tmp_path/n/'runs').glob('*-s3-*/record.json')).read_text()) for n in ('one','two'))
    assert one['name']==two['name'] and one['config']['seed']==3 and one['environment']['threads']==1
    assert one['metrics']['test']==pytest.approx(two['metrics']['test'], rel=1e-4)
