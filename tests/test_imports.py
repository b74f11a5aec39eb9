"""The library can be imported without the companion's packages, the loss with PyTorch alone, and no module of the
library imports the companion."""
import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path
import pytest
from conftest import ROOT

LIBRARY = ROOT/'amsps'
MODULES = sorted(p.stem for p in LIBRARY.glob('*.py') if not p.stem.startswith('_'))
GROUP_OF = dict(losses='torch', mining='numeric', metrics='numeric') # other modules may import the core requirements
PLANTED = { # group -> module that is added to the library -> the import in it, which must fail, and the missing package
    'torch': dict(
        planted_scipy=('import scipy.sparse', 'scipy'),
        planted_core=('from transformers import AutoModel', 'transformers')),
    'numeric': dict(
        planted_core=('from transformers import AutoModel', 'transformers'),
        planted_pillow=('import PIL', 'PIL')),
    'core': dict(
        planted_pandas=('import pandas', 'pandas'),
        planted_typer=('import typer', 'typer'),
        planted_networkx=('import networkx', 'networkx'), # torch requires it, and the library may not
        planted_companion=('from .companion import paths', 'amsps.companion')),
}

def modules_of(group):
    return [m for m in MODULES if GROUP_OF.get(m, 'core')==group]

@pytest.fixture(scope='module')
def errors(tmp_path_factory):
    "(group, module) -> error of importing it, or None"
    found = {}
    for group,planted in PLANTED.items():
        root = tmp_path_factory.mktemp(group)
        shutil.copytree(LIBRARY, root/'amsps', ignore=shutil.ignore_patterns('companion', '__pycache__'))
        for name,(code,_) in planted.items():
            (root/f'amsps/{name}.py').write_text(code+'\n')
        command = [sys.executable, Path(__file__).with_name('imports_worker.py'), group, root]
        done = subprocess.run([*command, *modules_of(group), *planted], capture_output=True, text=True)
        assert done.returncode==0, done.stderr
        found |= {(group, module):error for module,error in map(json.loads, done.stdout.splitlines())}
    return found

@pytest.mark.parametrize('module', MODULES)
def test_imports_with_few_packages(errors, module):
    assert errors[GROUP_OF.get(module, 'core'), module] is None

@pytest.mark.parametrize('group,module', [(g, m) for g,planted in PLANTED.items() for m in planted])
def test_that_it_would_fail(errors, group, module):
    package = PLANTED[group][module][1]
    assert f"No module named '{package}" in errors[group, module]

def test_every_group_has_a_module():
    assert set(GROUP_OF)<=set(MODULES)
    assert all(map(modules_of, PLANTED))

def companion_imports(source):
    "What a module imports of the companion, anywhere in it"
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.startswith('amsps.companion')]
        if isinstance(node, ast.ImportFrom):
            origin = ('amsps.' if node.level else '')+(node.module or '')
            found += [f'{origin}.{a.name}' for a in node.names if 'companion' in f'{origin}.{a.name}'.split('.')]
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found += [node.value] if node.value.startswith('amsps.companion') else []
    return found

@pytest.mark.parametrize('module', MODULES)
def test_library_does_not_import_the_companion(module):
    assert not companion_imports((LIBRARY/f'{module}.py').read_text())

@pytest.mark.parametrize('source', [
    'import amsps.companion.paths',
    'from amsps import companion',
    'from . import companion',
    'from .companion import paths',
    'from .companion.paths import asset',
    'def f():\n    from amsps.companion.paths import asset',
    "import_module('amsps.companion.paths')"])
def test_that_a_companion_import_would_be_found(source):
    assert companion_imports(source)
