"Each gate of `make test` can fail: a dirty notebook, a stale module, a hand edit, a stale README, a failing notebook."
import shutil, subprocess, sys
from pathlib import Path
import nbformat, pytest
from conftest import ROOT

@pytest.fixture
def copy(tmp_path):
    for d in ('nbs','amsps','figures','.ci'): shutil.copytree(ROOT/d, tmp_path/d, ignore=shutil.ignore_patterns('__pycache__'))
    for f in ('settings.ini','setup.py','README.md'): shutil.copy(ROOT/f, tmp_path)
    return tmp_path

def check(root): return subprocess.run([sys.executable, root/'.ci/check.py', root], capture_output=True, text=True)

def edit(path, change):
    nb = nbformat.read(path, 4); change(nb); nbformat.write(nb, path)

def test_untouched(copy): r = check(copy); assert r.returncode==0, r.stdout+r.stderr

def test_dirty_notebook(copy):
    edit(copy/'nbs/06_losses.ipynb', lambda nb: next(c for c in nb.cells if c.cell_type=='code').update(execution_count=7))
    r = check(copy); assert r.returncode==1 and 'nbs/06_losses.ipynb is not clean' in r.stdout, r.stdout+r.stderr

def test_foreign_metadata(copy):
    edit(copy/'nbs/06_losses.ipynb', lambda nb: nb.cells[1].metadata.update(collapsed=True))
    r = check(copy); assert r.returncode==1 and 'nbs/06_losses.ipynb is not clean' in r.stdout

def test_executed_experiment(copy):
    def change(nb): next(c for c in nb.cells if c.cell_type=='code').outputs = [nbformat.v4.new_output('stream', text='x')]
    edit(copy/'nbs/experiments/train.ipynb', change)
    r = check(copy); assert r.returncode==1 and 'train.ipynb has outputs' in r.stdout

def test_parameters_tag_is_kept(copy):
    nb = nbformat.read(copy/'nbs/experiments/train.ipynb', 4)
    assert any('parameters' in c.metadata.get('tags', []) for c in nb.cells)

def test_stale_module(copy):
    def change(nb): next(c for c in nb.cells if 'class TripletLoss' in c.source).source += '\n# changed'
    edit(copy/'nbs/06_losses.ipynb', change)
    r = check(copy); assert r.returncode==1 and 'amsps/losses.py is not what the notebooks export' in r.stdout, r.stdout+r.stderr

def test_hand_edit(copy):
    f = copy/'amsps/metrics.py'; f.write_text(f.read_text()+'\n# by hand\n')
    r = check(copy); assert r.returncode==1 and 'amsps/metrics.py' in r.stdout

def test_stale_readme(copy):
    edit(copy/'nbs/index.ipynb', lambda nb: nb.cells[0].update(source='# Another title'))
    r = check(copy); assert r.returncode==1 and 'README.md is not what' in r.stdout

def test_failing_notebook(copy):
    def change(nb): nb.cells.append(nbformat.v4.new_code_cell('assert 1+1==3'))
    edit(copy/'nbs/06_losses.ipynb', change)
    r = subprocess.run([Path(sys.executable).parent/'nbdev_test', '--path', copy/'nbs/06_losses.ipynb'], capture_output=True, text=True, cwd=copy)
    assert r.returncode!=0 and '06_losses' in r.stdout+r.stderr
