"Packaging. Everything is read from settings.ini; a wheel also carries the companion's own files"
import atexit
import json
import shutil
import subprocess
import tempfile
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
ASSETS = (
    'nbs/experiments/grid.toml', 'nbs/experiments/*.ipynb', 'nbs/method/*.ipynb',
    'data/datasets.json', 'data/published/*', 'figures/*/*.csv',
    *(f'data/results/{name}/*.json' for name in ('scenes', 'flickr8k', 'flickr30k', 'mscoco')), # `verify`, `compare`
)


def settings():
    "The section of settings.ini"
    parser = ConfigParser(delimiters=['='], interpolation=None)
    parser.read(ROOT/'settings.ini', encoding='utf-8')
    return parser['DEFAULT']


def extras(cfg):
    "The extras of settings.ini; `dev` holds all others but `docs` and `demo`"
    found = {k.removesuffix('_requirements'): v.split() for k,v in cfg.items() if k.endswith('_requirements')}
    shared = [p for name,packages in found.items() if name not in ('dev', 'docs', 'demo') for p in packages]
    found['dev'] = sorted({*found['dev'], *shared}, key=str.lower)
    return found


def git(*args):
    "What git says in this folder, empty where it is no repository"
    try:
        done = subprocess.run(['git', '-C', str(ROOT), *args], capture_output=True, encoding='utf-8')
    except OSError:
        return ''
    return done.stdout.strip() if done.returncode==0 else ''


def commit():
    "The commit that is built, with a + behind it if the code was changed since; empty if unknown"
    if git('rev-parse', '--show-toplevel')!=str(ROOT):
        return ''
    return git('rev-parse', 'HEAD')+('+' if git('status', '--porcelain', '--', 'amsps', 'nbs') else '')


class BuildWithAssets(build_py):
    "Copies the companion's own files into the build, laid out as in the repository"
    def run(self):
        if not self.editable_mode:
            shutil.rmtree(Path(self.build_lib)/'amsps', ignore_errors=True)
        super().run()
        if not self.editable_mode:
            self.copy_assets(Path(self.build_lib)/'amsps/companion/assets')

    def copy_assets(self, target):
        for pattern in ASSETS:
            for file in sorted(ROOT.glob(pattern)):
                copy = target/file.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy_asset(file, copy)
        (target/'COMMIT').write_text(commit()+'\n', 'utf-8')


def copy_asset(file, copy):
    "Copy a file; a notebook of the method goes without its outputs, because only its text is read"
    if not file.match('nbs/method/*.ipynb'):
        shutil.copyfile(file, copy)
        return
    notebook = json.loads(file.read_text('utf-8'))
    for cell in notebook['cells']:
        if cell['cell_type']=='code':
            cell['outputs'] = []
    copy.write_text(json.dumps(notebook, ensure_ascii=False), 'utf-8')


def build_folder():
    "A folder for what is built, so that the source tree stays clean"
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


cfg = settings()
setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    keywords=cfg['keywords'].split(),
    author=cfg['author'],
    license='Apache-2.0',
    long_description=(ROOT/'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    packages=find_packages(include=['amsps', 'amsps.*']),
    python_requires='>='+cfg['min_python'],
    install_requires=cfg['requirements'].split(),
    extras_require=extras(cfg),
    entry_points=dict(console_scripts=cfg['console_scripts'].split('\n'), nbdev=['amsps=amsps._modidx:d']),
    cmdclass=dict(build_py=BuildWithAssets),
    options=dict(build=dict(build_base=build_folder())),
    zip_safe=False,
)
