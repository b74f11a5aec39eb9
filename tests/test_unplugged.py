"Killed with kill -9 while extracting or training, the same command resumes and ends equal to the last bit."
import json
import shutil
import sys
import time
import numpy as np
import psutil
import pytest
from conftest import ROOT, command_line, forked, with_fork_server

sys.path.insert(0, str(ROOT/'benchmarks'))
import unplug


def kill_when(process, condition, seconds=600):
    "Kill a process, its workers and their kernels as soon as the condition holds"
    end = time.monotonic()+seconds
    while not condition():
        assert process.is_alive(), 'it ended before the moment to kill it'
        assert time.monotonic()<end, 'it never came to the moment to kill it'
        time.sleep(.01)
    unplug.kill_family(psutil.Process(process.pid))


def test_extraction(cli, small_flickr8k, backbone, tmp_path):
    images = small_flickr8k/'Flicker8k_Dataset'
    for i in range(200):
        shutil.copy(images/'scene00000.jpg', images/f'more{i}.jpg')
    def args(cache):
        return 'extract', images, '--backbone', backbone, '--cache-dir', tmp_path/cache, '--batch-size', 1, '--grid', 2
    def size():
        return next((p.stat().st_size for p in (tmp_path/'killed').rglob('features.part')), 0)
    def features(cache):
        return np.load(next((tmp_path/cache).rglob('features.npy')))
    three_images = 3*5*1280*2
    kill_when(forked(command_line, *args('killed'), out=tmp_path/'log'), lambda: size()>three_images)
    assert size() and not list((tmp_path/'killed').rglob('features.npy')), 'it was killed too late to prove anything'
    resumed = cli(*args('killed'))
    assert resumed.returncode==0, resumed.stderr
    assert ' 0/224' not in resumed.stderr, 'its progress bar began anew' # it starts where the killed one stood
    assert cli(*args('undisturbed')).returncode==0
    assert np.array_equal(features('killed'), features('undisturbed'))


@pytest.fixture(scope='module', autouse=True)
def one_thread():
    "Of each run, wherever it is made: sums of several threads have other last bits"
    from amsps.companion import schedule
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, 'share_cores', lambda jobs: (jobs, 1))
        yield


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
    "Records and weights of a small grid that nobody disturbs"
    cache = tmp_path_factory.mktemp('undisturbed')
    assert unplug.work(cache, None)==[]
    return unplug.everything(cache, None)


def test_one_plug(undisturbed, tmp_path):
    "A grid that is killed while it mines ends with the records and weights of an undisturbed one"
    since = time.time()
    process = forked(with_fork_server, unplug.work_alone, tmp_path, None, 1, out=tmp_path/'log')
    kill_when(process, lambda: unplug.phase(tmp_path, since)=='training, active')
    assert list((tmp_path/'runs').glob('ahrl-*.partial')), 'it was killed too late to prove anything'
    assert unplug.work(tmp_path, None)==[]
    record = json.loads(next((tmp_path/'runs').glob('ahrl-*/record.json')).read_text('utf-8'))
    assert record['resumed'], 'it began anew'
    assert 0<record['earlier']['cpu_seconds']<record['cpu_seconds'], 'the first process cost something, too'
    assert unplug.differences(undisturbed, unplug.everything(tmp_path, None))==[]


def test_two_processes_share_a_grid(undisturbed, tmp_path):
    "Neither makes what the other makes; both end well, and the records are those of one process"
    both = [forked(unplug.work_alone, tmp_path/'cache', None, 2, out=tmp_path/'log') for _ in range(2)]
    for process in both: process.join(400)
    assert [p.exitcode for p in both]==[0, 0], (tmp_path/'log').read_text('utf-8')
    events = [json.loads(line) for line in (tmp_path/'cache/grid.jsonl').read_text('utf-8').splitlines()]
    done = [e for e in events if e['event']=='done']
    records = [json.loads(f.read_text('utf-8')) for f in (tmp_path/'cache/runs').glob('*/record.json')]
    assert len(records)==4 and not any(r['resumed'] for r in records)
    assert sorted(e['run'] for e in done)==sorted(r['name'] for r in records), 'each run was made once'
    assert {e['process'] for e in done}=={p.pid for p in both}, 'they shared the work'
    found = unplug.everything(tmp_path/'cache', None)
    assert undisturbed.items()<=found.items()


@pytest.mark.slow
def test_three_plugs(tmp_path):
    "Three kills at random moments of a grid and its report"
    wrong,hit = unplug.unplug(3, 0, tmp_path)
    assert not wrong and sum(hit.values())==3, (wrong, hit)
    training = ('training, before the first pass', 'training, active', 'writing what was mined', 'writing a record')
    assert sum(hit[k] for k in training)>0, hit
