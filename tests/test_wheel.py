"An installed wheel works in an empty folder: it finds its own files, and what it makes stays in that folder."
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
import pytest
from conftest import ONE_BY_ONE, ROOT, TINY

MOST_MIB = 10

@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    "The wheel, built as a user builds it, without a network"
    folder = tmp_path_factory.mktemp('wheel')
    options = ['--no-deps', '--no-build-isolation', '--no-index', '--disable-pip-version-check', '-q']
    command = [sys.executable, '-m', 'pip', 'wheel', ROOT, *options, '-w', folder]
    r = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert r.returncode==0, r.stdout+r.stderr
    return next(folder.glob('*.whl'))

@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
    "A folder of packages that holds the wheel's content, and no clone"
    site = tmp_path_factory.mktemp('site')
    with zipfile.ZipFile(wheel) as z:
        z.extractall(site)
    return site

def run(installed, folder, *args, code=None):
    "The command of the installed package in a folder"
    code = code or 'from amsps.companion.cli import main; main()'
    env = {k:v for k,v in os.environ.items() if k!='AMSPS_HOME'}|dict(PYTHONPATH=str(installed))
    command = [sys.executable, '-P', '-c', code, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=env, timeout=600)

def test_content(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assets = {n.removeprefix('amsps/companion/assets/') for n in names if n.startswith('amsps/companion/assets/')}
    patterns = ('nbs/experiments/*.ipynb', 'nbs/method/*.ipynb', 'data/published/*', 'data/results/scenes/*.json',
        'data/results/flickr8k/*.json', 'figures/*/*.csv')
    committed = {str(f.relative_to(ROOT)) for p in patterns for f in ROOT.glob(p)}
    assert assets==committed|{'nbs/experiments/grid.toml', 'data/datasets.json', 'COMMIT'}
    modules = {str(f.relative_to(ROOT)) for f in (ROOT/'amsps').rglob('*.py')}
    assert modules=={n for n in names if n.startswith('amsps/') and n.endswith('.py')}
    assert wheel.stat().st_size<MOST_MIB*2**20

def test_commit(installed):
    text = (installed/'amsps/companion/assets/COMMIT').read_text()
    if (ROOT/'.git').exists():
        assert re.fullmatch(r'[0-9a-f]{40}\+?\n', text)

def test_the_source_stays_clean(wheel):
    assert not (ROOT/'amsps/companion/assets').exists() and not (ROOT/'build').exists()

def test_a_folder_that_looks_like_a_clone(installed, tmp_path):
    "A run and its report in a folder whose packages are not imported, and whose notebook is not executed"
    (tmp_path/'nbs/experiments').mkdir(parents=True)
    (tmp_path/'amsps/companion').mkdir(parents=True)
    (tmp_path/'settings.ini').write_text('[DEFAULT]\nlib_name = amsps\n')
    hostile = f"open({str(tmp_path/'ran')!r}, 'w')"
    for f in ('amsps/__init__.py', 'amsps/companion/__init__.py', 'amsps/companion/runs.py', 'sitecustomize.py',
              'papermill.py', 'torch.py'):
        (tmp_path/f).write_text(hostile+'\n')
    own = (installed/'amsps/companion/assets/nbs/experiments/train.ipynb').read_text('utf-8')
    notebook = json.loads(own)
    notebook['cells'].insert(0, dict(notebook['cells'][-1], cell_type='code', id='0000', source=hostile))
    (tmp_path/'nbs/experiments/train.ipynb').write_text(json.dumps(notebook))
    theirs = set(tmp_path.iterdir())
    train_and_report(installed, tmp_path)
    assert not (tmp_path/'ran').exists()
    assert sorted(p.name for p in set(tmp_path.iterdir())-theirs)==['amsps_cache', 'reports']

def train_and_report(installed, folder):
    "All that is made lies in the folder"
    report = ['report', 'amsps_cache/runs', '--table', 'main']
    r = run(installed, folder, json.dumps([['train', *map(str, TINY)], report]), code=ONE_BY_ONE)
    assert r.returncode==0, r.stdout+r.stderr
    of_training,of_report,_ = r.stdout.split('--- ended\n')
    assert 'test: ' in of_training and 'report.html' in of_report, r.stdout
    trained = Path(re.search(r'^run: +(.+)$', of_training, re.M)[1])
    assert trained.parent==(folder/'amsps_cache/runs').resolve() and (trained/'record.json').is_file()
    made = folder/'reports/runs'
    assert 'AMSPS' in (made/'table_main.md').read_text() and (made/'report.html').is_file()

def test_everything_is_found(installed, tmp_path):
    "The grid, the committed records and the published numbers come from the package; nothing is written"
    show = ['runs', 'show', str(installed/'amsps/companion/assets/data/results/scenes'/a_record())]
    code = ONE_BY_ONE+'''
import amsps
from amsps.companion.agreement import compare_tables
from amsps.companion.grid import grid_rows
from amsps.companion.paths import asset, clone_root
from amsps.companion.published import read_published
assert clone_root() is None
assert len(grid_rows())>10 and len(read_published(asset('data/published/results.csv')))>100
assert len(compare_tables(asset('figures/scenes'), asset('figures/scenes')).numbers)>100
print(amsps.__file__)
'''
    r = run(installed, tmp_path, json.dumps([show]), code=code)
    assert r.returncode==0, r.stdout+r.stderr
    shown,last = r.stdout.split('--- ended\n')
    assert 'rSum' in shown and last.strip()==str(installed/'amsps/__init__.py')
    assert not list(tmp_path.iterdir())

def a_record():
    return sorted(f.name for f in (ROOT/'data/results/scenes').glob('*.json'))[0]

def test_without_the_companions_packages(installed, tmp_path):
    "One line that says what to install, and no traceback"
    for missing in ('typer', 'pydantic'):
        code = f'import sys; sys.modules["{missing}"] = None; from amsps.companion.cli import main; main()'
        r = run(installed, tmp_path, 'reproduce', '--explain', code=code)
        assert r.returncode!=0 and "pip install 'amsps[companion]'" in r.stderr, r.stderr
        assert len(r.stderr.splitlines())==1 and not r.stdout
