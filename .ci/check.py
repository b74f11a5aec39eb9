"Are the notebooks clean, and are the library and the README in step with them? Changes nothing; exit code 1 and one line for each fault."
import copy, filecmp, json, os, shutil, subprocess, sys, tempfile
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parent))
import nbformat
from execnb.nbio import dict2nb, nb2str
from nbdev.clean import clean_nb
from nbdev.config import get_config
import readme

ROOT = Path(sys.argv[1] if len(sys.argv)>1 else Path(__file__).resolve().parents[1]).resolve()
MAX_NOTEBOOK_KIB = 400

def notebooks(): return sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)

def unclean():
    "Notebooks that nbdev_clean would change, whose outputs have grown large, or that show outputs where runs belong"
    os.chdir(ROOT); keys = get_config().get('allowed_cell_metadata_keys', '').split()
    for p in notebooks():
        before = json.loads(p.read_text())
        nb = dict2nb(copy.deepcopy(before))
        clean_nb(nb, allowed_cell_metadata_keys=keys, clean_ids=False)
        if json.loads(nb2str(nb))!=before: yield f'{p.relative_to(ROOT)} is not clean: run nbdev_clean'
        if (size:=p.stat().st_size/1024)>MAX_NOTEBOOK_KIB: yield f'{p.relative_to(ROOT)} has {size:.0f} KiB; keep outputs below {MAX_NOTEBOOK_KIB}'
        if p.parent.name=='experiments' and any(c.get('outputs') for c in before['cells']): yield f'{p.relative_to(ROOT)} has outputs: executed copies stay in data/cache; clear them'

def out_of_step():
    "Modules that differ from what the notebooks export"
    with tempfile.TemporaryDirectory() as d:
        shutil.copytree(ROOT/'nbs', Path(d)/'nbs'); shutil.copy(ROOT/'settings.ini', d); shutil.copy(ROOT/'setup.py', d)
        (Path(d)/'amsps').mkdir(); shutil.copy(ROOT/'amsps/__init__.py', Path(d)/'amsps')
        env = dict(os.environ, PYTHONPATH=d)
        r = subprocess.run([Path(sys.executable).parent/'nbdev_export'], cwd=d, env=env, capture_output=True, text=True)
        if r.returncode: yield f'nbdev_export failed:\n{r.stderr[-2000:]}'; return
        names = lambda root: {str(p.relative_to(root/'amsps')) for p in (root/'amsps').rglob('*.py')}
        for n in sorted(names(ROOT)|names(Path(d))):
            a,b = ROOT/'amsps'/n,Path(d)/'amsps'/n
            if not (a.exists() and b.exists() and filecmp.cmp(a, b, shallow=False)): yield f'amsps/{n} is not what the notebooks export: run nbdev_export'

def stale_readme():
    if not (ROOT/'README.md').exists() or (ROOT/'README.md').read_text()!=readme.render(ROOT): yield 'README.md is not what nbs/index.ipynb gives: run make readme'

if __name__=='__main__':
    faults = [*unclean(), *out_of_step(), *stale_readme()]
    print('\n'.join(faults) or f'{len(notebooks())} notebooks clean; library and README in step')
    sys.exit(bool(faults))
