"Each gate of `make test` and `make docs` can fail."
import shutil
import subprocess
import sys
from pathlib import Path
import nbformat
import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT/'.ci'))
import check
import shape
from links import dead_links

PATCHING = 'nbs/method/00_patching.ipynb'
LOSSES = 'nbs/method/13_losses.ipynb'
FIGURES = 'nbs/companion/34_figures.ipynb'


@pytest.fixture
def copy(tmp_path):
    "The notebooks and what is made from them"
    for d in ('nbs', 'amsps', 'benchmarks', '.ci'):
        shutil.copytree(ROOT/d, tmp_path/d, ignore=shutil.ignore_patterns('__pycache__'))
    (tmp_path/'figures').mkdir()
    shutil.copy(ROOT/'figures/front.png', tmp_path/'figures')
    for folder in (ROOT/'figures').glob('*/'):
        (tmp_path/'figures'/folder.name).symlink_to(folder)
    for f in ('settings.ini', 'setup.py', 'README.md', 'CONTRIBUTING.md', 'CHANGELOG.md'):
        shutil.copy(ROOT/f, tmp_path)
    return tmp_path


def faults(root, *gates):
    "What these gates of `make check` say of a copy; without names, all of them"
    gates = [getattr(check, g) for g in gates] or check.GATES
    check.ROOT = root
    try:
        return [fault for gate in gates for fault in gate()]
    finally:
        check.ROOT = ROOT


def refused(root, gate, contains):
    "Assert that a gate says this of the copy, and that `make check` runs the gate"
    assert getattr(check, gate) in check.GATES
    assert contains in '\n'.join(faults(root, gate))


def edit(path, change):
    nb = nbformat.read(path, 4)
    change(nb)
    nbformat.write(nb, path)


def first_code(nb):
    return next(c for c in nb.cells if c.cell_type=='code')


def add_to_export(nb):
    "Change an exported cell"
    next(c for c in nb.cells if c.source.startswith('#| export')).source += '\n# changed'


def add_markdown(text):
    return lambda nb: nb.cells.append(nbformat.v4.new_markdown_cell(text))


def test_exit_code(copy):
    (copy/'README.md').write_text('another')
    r = subprocess.run([sys.executable, copy/'.ci/check.py', copy], capture_output=True, text=True)
    assert r.returncode==1 and 'README.md is not what' in r.stdout, r.stdout+r.stderr


def test_dirty_notebook(copy):
    edit(copy/LOSSES, lambda nb: first_code(nb).update(execution_count=7))
    refused(copy, 'unclean', f'{LOSSES} is not clean')


def test_foreign_metadata(copy):
    edit(copy/LOSSES, lambda nb: nb.cells[1].metadata.update(collapsed=True))
    refused(copy, 'unclean', f'{LOSSES} is not clean')


def test_executed_experiment(copy):
    def change(nb):
        first_code(nb).outputs = [nbformat.v4.new_output('stream', text='x')]
    edit(copy/'nbs/experiments/train.ipynb', change)
    refused(copy, 'unclean', 'train.ipynb has outputs')


def test_folder_of_a_machine(copy):
    def change(nb):
        first_code(nb).outputs = [nbformat.v4.new_output('stream', text='written to /home/ann/amsps/figures')]
    edit(copy/LOSSES, change)
    refused(copy, 'unclean', f'{LOSSES} shows /home/ann/amsps/figures')


def test_large_notebook(copy):
    edit(copy/LOSSES, add_markdown('word '*100_000))
    refused(copy, 'unclean', f'{LOSSES} has ')


@pytest.mark.parametrize('text, fault', [
    ('word '*1600, 'words, more than 1500'), ('|a'*7+'|\n'+'|-'*7+'|\n', 'a table of 7 columns'),
    ('[x](nbs/gone.ipynb)', 'links to nbs/gone.ipynb'), ('![x](figures/front.png)', 'figures/front.png is larger')])
def test_front_page(copy, text, fault):
    picture = copy/'figures/front.png'
    picture.write_bytes(picture.read_bytes()+bytes(200*1024))
    readme = copy/'README.md'
    readme.write_text(f'{readme.read_text()}\n{text}\n')
    refused(copy, 'front_page', fault)


def test_late_python(copy):
    readme = copy/'README.md'
    readme.write_text('\n'*60+readme.read_text())
    refused(copy, 'front_page', 'shows its first Python in line')


def test_wide_table_of_a_guide(copy):
    edit(copy/'nbs/guides/43_results.ipynb', add_markdown('|a'*9+'|\n'+'|-'*9+'|\n'))
    refused(copy, 'wide_guides', '43_results.ipynb has a table of 9 columns')


def test_numbers_are_unique(copy):
    shutil.copy(copy/LOSSES, copy/'nbs/companion/09_more.ipynb')
    refused(copy, 'numbering', '09_more.ipynb: its number is missing or taken')


@pytest.mark.parametrize('code', [
    'from amsps.mining import *', 'def f():\n    from amsps.companion.tables import table'])
def test_later_import(copy, code):
    edit(copy/LOSSES, lambda nb: nb.cells.append(nbformat.v4.new_code_cell(f'#| export\n{code}')))
    refused(copy, 'later_imports', f'{LOSSES} imports amsps.')


def test_dead_notebook_link(copy):
    edit(copy/LOSSES, add_markdown('see [mining](10_mining.ipynb)'))
    refused(copy, 'dead_notebook_links', f'{LOSSES} links to 10_mining.ipynb')


@pytest.mark.parametrize('text', ['as the paper shows', "the paper's loss", 'The paper trains a Bi-GRU'])
def test_claims(copy, text):
    edit(copy/LOSSES, add_markdown(text))
    refused(copy, 'claims', f'{LOSSES} says ')


def test_parameters_tag_is_kept(copy):
    nb = nbformat.read(copy/'nbs/experiments/train.ipynb', 4)
    assert any('parameters' in c.metadata.get('tags', []) for c in nb.cells)


def test_modules_and_notebooks_differ(copy):
    "Notebooks that were not exported, and modules that were edited by hand"
    for notebook in (LOSSES, FIGURES):
        edit(copy/notebook, add_to_export)
    for module in ('metrics.py', 'companion/tables.py'):
        path = copy/'amsps'/module
        path.write_text(path.read_text()+'\n# by hand\n')
    found = '\n'.join(faults(copy, 'out_of_step'))
    for module in ('losses.py', 'companion/figures.py', 'metrics.py', 'companion/tables.py'):
        assert f'amsps/{module} is not what the notebooks export' in found, found
    assert 'vision.py' not in found


def test_stale_readme(copy):
    edit(copy/'nbs/index.ipynb', lambda nb: nb.cells[0].update(source='# Another title'))
    refused(copy, 'stale_readme', 'README.md is not what')


def test_failing_notebook(copy):
    edit(copy/PATCHING, lambda nb: nb.cells.append(nbformat.v4.new_code_cell('assert 1+1==3')))
    command = [Path(sys.executable).parent/'nbdev_test', '--path', copy/PATCHING]
    r = subprocess.run(command, capture_output=True, text=True, cwd=copy)
    assert r.returncode!=0 and '00_patching' in r.stdout+r.stderr


FAULTS = [
    ('x = 1; y = 2', 'E702'), ('x = '+'1+'*70+'1', 'E501'), ('import os', 'F401'),
    ('a,b,c,d = range(4)', 'more than 3 names'), ('if True: raise ValueError', 'a line of its own'),
    ('#| export\ntry: f()\nexcept OSError as e:\n    raise InputError(f"bad ({e})") from None', 'quote it with'),
    ('#| export\nx = p.read_text()', 'give the encoding'), ("#| export\nx = open('a', 'w')", 'give the encoding'),
    ('#| export\nclass Long:\n'+'    x = 1\n'*60, 'class Long has 61 lines')]


@pytest.mark.parametrize('code, fault', FAULTS)
def test_shape_of_notebooks(monkeypatch, tmp_path, code, fault):
    monkeypatch.setattr(shape, 'ROOT', tmp_path)
    odd = tmp_path/'odd.ipynb'
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)]), odd)
    assert fault in '\n'.join(shape.faults([odd]))


@pytest.mark.parametrize('code, fault', FAULTS[:-1])
def test_shape_of_scripts(monkeypatch, tmp_path, code, fault):
    monkeypatch.setattr(shape, 'ROOT', tmp_path)
    (tmp_path/'odd.py').write_text(code+'\n')
    assert fault in '\n'.join(shape.faults([tmp_path/'odd.py']))


def test_undefined_name_of_a_module(monkeypatch, tmp_path):
    "A notebook that imports `*` hides a name that nothing defines; the module that it exports does not"
    monkeypatch.setattr(shape, 'ROOT', tmp_path)
    (tmp_path/'amsps').mkdir()
    (tmp_path/'amsps/odd.py').write_text('def f(): return replacing(1)\n')
    assert 'F821' in '\n'.join(shape.faults([]))


def test_every_file_has_a_shape(copy):
    "`make check` looks at notebooks, tests, benchmarks and its own scripts"
    files = ('nbs/guides/odd.ipynb', 'nbs/experiments/odd.ipynb', 'benchmarks/odd.py', '.ci/odd.py')
    for f in files:
        if f.endswith('.py'):
            (copy/f).write_text('x = 1; y = 2\n')
        else:
            nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell('x = 1; y = 2')]), copy/f)
    found = '\n'.join(faults(copy, 'shapeless'))
    assert all(f'{f}:' in found for f in files), found


@pytest.fixture
def site(tmp_path):
    "Two pages whose links all lead somewhere"
    (tmp_path/'a').mkdir()
    links = ('<a href="a/b.html#here">b</a>', '<a href="#">top</a>', '<a href="https://x.org/y">x</a>')
    (tmp_path/'index.html').write_text(' '.join(links))
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
