"Each gate of `make test` and `make docs` can fail."
import shutil
import subprocess
import sys
from pathlib import Path
import nbformat
import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT/'.ci'))
from links import dead_links

LOSSES = 'nbs/method/09_losses.ipynb'
FIGURES = 'nbs/companion/33_figures.ipynb'


@pytest.fixture
def copy(tmp_path):
    "The notebooks and what is made from them"
    for d in ('nbs', 'amsps', 'figures', '.ci'):
        shutil.copytree(ROOT/d, tmp_path/d, ignore=shutil.ignore_patterns('__pycache__'))
    for f in ('settings.ini', 'setup.py', 'README.md', 'CONTRIBUTING.md', 'CHANGELOG.md'):
        shutil.copy(ROOT/f, tmp_path)
    return tmp_path


def check(root):
    "Run the gate of `make test` on a copy"
    return subprocess.run([sys.executable, root/'.ci/check.py', root], capture_output=True, text=True)


def refused(root, contains):
    "Assert that the gate fails, and says why"
    r = check(root)
    assert r.returncode==1 and contains in r.stdout, r.stdout+r.stderr


def edit(path, change):
    nb = nbformat.read(path, 4)
    change(nb)
    nbformat.write(nb, path)


def first_code(nb):
    return next(c for c in nb.cells if c.cell_type=='code')


def add_to_export(nb):
    "Change an exported cell"
    next(c for c in nb.cells if c.source.startswith('#| export')).source += '\n# changed'


def test_untouched(copy):
    r = check(copy)
    assert r.returncode==0, r.stdout+r.stderr


def test_dirty_notebook(copy):
    edit(copy/LOSSES, lambda nb: first_code(nb).update(execution_count=7))
    refused(copy, f'{LOSSES} is not clean')


def test_foreign_metadata(copy):
    edit(copy/LOSSES, lambda nb: nb.cells[1].metadata.update(collapsed=True))
    refused(copy, f'{LOSSES} is not clean')


def test_executed_experiment(copy):
    def change(nb):
        first_code(nb).outputs = [nbformat.v4.new_output('stream', text='x')]
    edit(copy/'nbs/experiments/train.ipynb', change)
    refused(copy, 'train.ipynb has outputs')


def test_parameters_tag_is_kept(copy):
    nb = nbformat.read(copy/'nbs/experiments/train.ipynb', 4)
    assert any('parameters' in c.metadata.get('tags', []) for c in nb.cells)


@pytest.mark.parametrize('notebook, module', [(LOSSES, 'losses.py'), (FIGURES, 'companion/figures.py')])
def test_stale_module(copy, notebook, module):
    edit(copy/notebook, add_to_export)
    refused(copy, f'amsps/{module} is not what the notebooks export')


@pytest.mark.parametrize('module', ['metrics.py', 'companion/tables.py'])
def test_hand_edit(copy, module):
    path = copy/'amsps'/module
    path.write_text(path.read_text()+'\n# by hand\n')
    refused(copy, f'amsps/{module}')


def test_stale_readme(copy):
    edit(copy/'nbs/index.ipynb', lambda nb: nb.cells[0].update(source='# Another title'))
    refused(copy, 'README.md is not what')


def test_failing_notebook(copy):
    edit(copy/LOSSES, lambda nb: nb.cells.append(nbformat.v4.new_code_cell('assert 1+1==3')))
    command = [Path(sys.executable).parent/'nbdev_test', '--path', copy/LOSSES]
    r = subprocess.run(command, capture_output=True, text=True, cwd=copy)
    assert r.returncode!=0 and '09_losses' in r.stdout+r.stderr


@pytest.mark.parametrize('code, fault', [
    ('x = 1; y = 2', 'E702'), ('x = '+'1+'*70+'1', 'E501'), ('import os', 'F401'),
    ('a,b,c,d = range(4)', 'more than 3 names'), ('if True: raise ValueError', 'a line of its own')])
def test_shape(copy, code, fault):
    path = copy/'.ci/odd.py'
    path.write_text(code+'\n')
    r = subprocess.run([sys.executable, copy/'.ci/shape.py', path], capture_output=True, text=True)
    assert r.returncode==1 and fault in r.stdout, r.stdout+r.stderr


@pytest.fixture
def site(tmp_path):
    "Two pages whose links all lead somewhere"
    (tmp_path/'a').mkdir()
    (tmp_path/'index.html').write_text('<a href="a/b.html#here">b</a> <a href="#">top</a> <a href="https://x.org/y">x</a>')
    (tmp_path/'a/b.html').write_text('<h1 id="here">b</h1> <a href="../index.html">up</a> <a href="../">up</a>')
    return tmp_path


def test_site_without_dead_links(site):
    assert not list(dead_links(site))


@pytest.mark.parametrize('link', ['gone.html', 'index.html#gone', '#gone', '../b.html', 'losses.py#LNone'])
def test_dead_link(site, link):
    page = site/'a/b.html'
    page.write_text(f'{page.read_text()}<a href="{link}">x</a>')
    assert [(str(p), l) for p,l in dead_links(site)]==[('a/b.html', link)]


def test_missing_picture(site):
    (site/'index.html').write_text('<img src="gone.png">')
    assert [l for _,l in dead_links(site)]==['gone.png']
