"Every package that is imported is required, and every required package is used."
import ast
import json
import re
import sys
from configparser import ConfigParser
from functools import cache
import pytest
from conftest import ROOT

parser = ConfigParser(delimiters=['='], interpolation=None)
parser.read(ROOT/'settings.ini')
SETTINGS = parser['DEFAULT']
MODULES = { # Requirement -> module, where the names differ
    'faiss-cpu':'faiss', 'ipython':'IPython', 'Jinja2':'jinja2', 'markdown-it-py':'markdown_it',
    'mdit-py-plugins':'mdit_py_plugins', 'pillow':'PIL', 'scikit-learn':'sklearn',
}
PARTS = dict(pydantic_core='pydantic', starlette='gradio') # Module -> the requirement that it comes with
TOOLS = ('jupyter', 'pytest-xdist', 'ruff') # Run, not imported
EXTRAS = ('', 'companion', 'dask', 'datasets', 'faiss', 'lora', 'onnx', 'demo', 'docs', 'dev')
NAMED = ('furo', 'myst-nb', 'sphinx-mathjax-offline') # In the configuration of the documentation

def required(extra=''):
    "Modules of the requirements, or of an extra"
    key = f'{extra}_requirements' if extra else 'requirements'
    names = [re.match(r'[\w.-]+', r)[0] for r in SETTINGS[key].split()]
    return {MODULES.get(n, n) for n in names if n not in TOOLS+NAMED}

def sources(folder):
    "The code of modules, scripts and notebooks"
    files = [f for f in (ROOT/folder).rglob('*') if '.ipynb_checkpoints' not in f.parts]
    for f in files:
        if f.suffix=='.py':
            yield f.read_text()
        if f.suffix=='.ipynb':
            cells = [c for c in json.loads(f.read_text())['cells'] if c['cell_type']=='code']
            yield '\n'.join(re.sub(r'^[%!].*$', '', ''.join(c['source']), flags=re.M) for c in cells)

def modules_of(source, late=True):
    "Packages that some code imports; those at the top only, unless `late`"
    tree = ast.parse(source)
    for node in ast.walk(tree) if late else tree.body:
        if isinstance(node, ast.Import):
            yield from (a.name.partition('.')[0] for a in node.names)
        if isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.partition('.')[0]

@cache # every file is parsed once
def found_in(folder, late):
    return {m for source in sources(folder) for m in modules_of(source, late)}

def imported(*folders, late=True):
    found = {m for folder in folders for m in found_in(folder, late)}
    found = {PARTS.get(m, m) for m in found}
    ours = {f.stem for folder in ('tests', 'benchmarks', '.ci') for f in (ROOT/folder).glob('*.py')}
    return found-set(sys.stdlib_module_names)-ours-{'amsps', 'setuptools'}

LIBRARY = [f.name for f in (ROOT/'amsps').glob('*.py')]

def of_library(late=True):
    found = {m for name in LIBRARY for m in modules_of((ROOT/'amsps'/name).read_text(), late)}
    return found-set(sys.stdlib_module_names)-{'amsps'}

def test_the_library_needs_its_requirements_only():
    assert of_library(late=False)<=required()
    assert of_library()<=required()|required('companion')|required('faiss')|required('lora')

def test_the_companion_needs_its_extra():
    optional = required('dask')|required('datasets')|required('demo')|required('onnx')
    assert imported('amsps/companion', late=False)<=required()|required('companion')
    assert imported('amsps/companion')<=required()|required('companion')|optional

def test_everything_else_needs_dev():
    everything = {m for extra in EXTRAS for m in required(extra)}
    assert imported('nbs', 'tests', 'benchmarks', '.ci')<=everything

@pytest.mark.parametrize('extra', EXTRAS)
def test_what_is_required_is_used(extra):
    assert required(extra)<=imported('amsps', 'nbs', 'tests', 'benchmarks', '.ci')

def test_named_packages_are_named():
    text = (ROOT/'.ci/docs.py').read_text()
    assert all(name.replace('-', '_') in text or name in text for name in NAMED)

def test_dev_has_the_other_extras(monkeypatch):
    "`pip install amsps[dev]` installs what all tests need"
    import setuptools
    given = {}
    monkeypatch.setattr(setuptools, 'setup', lambda **options: given.update(options))
    monkeypatch.syspath_prepend(ROOT)
    exec(compile((ROOT/'setup.py').read_text(), ROOT/'setup.py', 'exec'), {'__file__':str(ROOT/'setup.py')})
    extras = given['extras_require']
    apart = {'docs', 'demo'} # not for tests; gradio needs an older pillow than constraints.txt has
    for name in set(EXTRAS)-{'', 'dev'}-apart:
        assert set(extras[name])<=set(extras['dev'])
    assert not any(set(extras[name])&set(extras['dev']) for name in apart)
