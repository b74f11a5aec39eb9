"`make reproduce` changes no tracked file; it compares what it makes with what is committed."
import json
import os
import shutil
import subprocess
import sys
import pytest
from conftest import ONE_BY_ONE, ROOT

GRID = '''
outputs = ["table_main"]
baseline = "Hardest triplet"
sweeps = []

[datasets.scenes]
about = "a few scenes"
kind = "scenes"
seeds = { default = 1 }
[datasets.scenes.parameters]
dataset = "scenes"
scenes_train = 40
scenes_dev = 15
scenes_test = 20
embed_size = 16
word_size = 8
region_hidden = 0
epochs = 2

[settings]

[[rows]]
name = "Hardest triplet"
feeds = ["table_main"]

[[rows]]
name = "InfoNCE"
parameters = { loss = "infonce" }
feeds = ["table_main"]
'''

def git(folder, *args):
    identity = ['-c', 'user.name=test', '-c', 'user.email=test@example.org']
    r = subprocess.run(['git', *identity, *args], cwd=folder, capture_output=True, text=True)
    assert r.returncode==0, r.stderr
    return r.stdout

@pytest.fixture
def clone(tmp_path):
    "The working tree as a repository of its own, with a grid of two small runs"
    folder = tmp_path/'clone'
    tracked = git(ROOT, 'ls-files', '--cached', '--others', '--exclude-standard').splitlines()
    for name in tracked:
        if (ROOT/name).is_file():
            (folder/name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT/name, folder/name)
    (folder/'nbs/experiments/grid.toml').write_text(GRID)
    git(folder, 'init', '-q')
    git(folder, 'add', '-A')
    git(folder, 'commit', '-q', '-m', 'all')
    return folder

def reproduce_twice(clone):
    "As `make reproduce` does, with the clone's own package, on a processor whose numbers differ in their last bits"
    env = {k:v for k,v in os.environ.items() if k!='AMSPS_HOME'}
    env |= dict(PYTHONPATH=str(clone), ATEN_CPU_CAPABILITY='default')
    command = [sys.executable, '-P', '-c', ONE_BY_ONE, json.dumps([['reproduce']]*2)]
    return subprocess.run(command, cwd=clone, env=env, capture_output=True, text=True, timeout=600)

@pytest.mark.skipif(not (ROOT/'.git').exists(), reason='no repository')
def test_the_clone_stays_clean(clone):
    r = reproduce_twice(clone)
    assert r.returncode==0, r.stdout+r.stderr
    assert git(clone, 'status', '--porcelain')==''
    assert (clone/'reports/scenes/report.html').is_file() and (clone/'data/cache/runs').is_dir()
    said,again,rest = r.stdout.split('--- ended\n')
    assert said.count('The main table is complete:')==1
    assert said.index('The main table')<said.index('[1/1] table_main') # before any notebook of a table
    assert 'Compared with the committed tables of figures/scenes:' in said
    assert 'in all: ' in said and 'within seed noise' in said
    assert 'table_main: rows only in the committed table: ' in said and 'AMSPS' in said
    assert 'table_main: 3 seeds committed, 1 made' in said
    assert not rest and 'tables and figures are up to date: nothing to do' in again

def make(*args):
    "as typed in a shell: a make that runs these tests would name the folders that it enters"
    env = {k:v for k,v in os.environ.items() if k not in ('MAKEFLAGS', 'MAKELEVEL', 'MFLAGS')}
    return subprocess.run(['make', *args], cwd=ROOT, env=env, capture_output=True, text=True)

@pytest.mark.skipif(not shutil.which('make'), reason='no make')
def test_targets():
    "`make help` lists the targets that users need; only `make figures` writes to the committed folders"
    targets = ('help', 'env', 'reproduce', 'check', 'test', 'test-slow', 'figures', 'readme', 'docs', 'bench')
    assert [l.split()[1] for l in make('help').stdout.splitlines()]==list(targets)
    recipes = {t:make('-n', t).stdout for t in targets}
    assert [t for t in targets if 'figures/scenes' in recipes[t]]==['figures']
    assert '--records data/results/scenes --output figures/scenes' in recipes['figures']
    assert all(part in recipes['test'] for part in ('.ci/check.py', 'nbdev_test', 'pytest', 'tests/test_verify.py'))
    assert '--slow -m slow' in recipes['test-slow']
