"""Import modules of amsps where only some packages can be imported, each in a process of its own.

    python imports_worker.py GROUP ROOT MODULE ...

ROOT is the folder with the package. Prints one JSON object a module: its name, and the error or null."""
import importlib
import json
import os
import re
import sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

CORE = ('torch', 'numpy', 'scipy', 'safetensors', 'transformers', 'accelerate', 'pillow', 'tqdm')
BARRED = frozenset(
    'pandas matplotlib seaborn typer pydantic papermill jupyter jupyter_client jupyter_core nbclient nbformat '
    'nbconvert ipykernel sklearn networkx jinja2 fastcore nbdev execnb IPython eccv_caption faiss peft datasets dask '
    'distributed textblob nltk onnx onnxruntime onnxscript'.split())


class OnlySome(PathFinder):
    "Finds what the interpreter would find, but for packages that are not allowed: they seem not to be installed"
    allowed = frozenset()

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        spec = PathFinder.find_spec(fullname, path, target)
        name = fullname.partition('.')[0]
        return None if spec and third_party(spec) and name not in cls.allowed|{'amsps'} else spec


def third_party(spec):
    places = [spec.origin or '', *(spec.submodule_search_locations or [])]
    return any(re.search('site-packages|dist-packages', place) for place in places)


def loaded():
    "Top-level names of everything that was imported"
    return {name.partition('.')[0] for name in sys.modules}


def normal(distribution):
    return re.sub('[-_.]+', '-', distribution).lower()


def required(distributions):
    "Distributions and all that they require, without extras and without what holds for other platforms"
    from packaging.requirements import Requirement
    found,todo = set(),list(distributions)
    while todo:
        name = normal(todo.pop())
        if name in found:
            continue
        try:
            lines = requires(name) or []
        except PackageNotFoundError:
            continue
        found.add(name)
        needs = map(Requirement, lines)
        todo += [r.name for r in needs if r.marker is None or r.marker.evaluate(dict(extra=''))]
    return found


def restrict(group):
    "From now on only the packages of a group can be imported"
    if group=='torch':
        import torch # noqa: F401
        allowed = loaded()
    elif group=='numeric':
        import torch # noqa: F401
        import scipy.optimize
        import scipy.sparse
        import scipy.stats # noqa: F401
        allowed = loaded()
    else:
        core = required(CORE)
        allowed = {name for name,of in packages_distributions().items() if core & set(map(normal, of))}
    OnlySome.allowed = frozenset(allowed)-BARRED
    sys.meta_path[:] = [BuiltinImporter, FrozenImporter, OnlySome]
    if group=='core': # once, for all processes
        from transformers import AutoModel, Trainer # noqa: F401


def attempt(module, root):
    "Import a module in a child process, which prints the result"
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    error = None
    try:
        found = importlib.import_module(f'amsps.{module}')
        if not found.__file__.startswith(root):
            error = f'{found.__file__} is not in {root}'
    except Exception as e:
        error = f'{type(e).__name__}: {e}'
    print(json.dumps([module, error]), flush=True)
    os._exit(0)


if __name__=='__main__':
    group,root,*modules = sys.argv[1:]
    sys.path.insert(0, root)
    restrict(group)
    for module in modules:
        attempt(module, root)
