"""The gates: are notebooks clean, library and README in step with them, code and front page in shape?

Changes nothing. Prints one line for each fault; exit code 1 if there is one.

    python .ci/check.py [ROOT]"""
import copy
import filecmp
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from configparser import ConfigParser
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from execnb.nbio import dict2nb, nb2str
from nbdev.clean import clean_nb
import readme
import shape

ROOT = Path(sys.argv[1] if len(sys.argv)>1 else Path(__file__).resolve().parents[1]).resolve()
MAX_NOTEBOOK_KIB = 400
README_WORDS = 1500
README_COLUMNS = 6
README_PYTHON_LINE = 60
PICTURE_KIB = 200
GUIDE_COLUMNS = 8
FLOORS = ('method', 'companion', 'guides')
# The paper's full text is not public: nothing may speak of what it shows beyond its abstract and introduction.
CLAIMS = re.compile(r"\b(the|this) paper('s)? (shows|reports|trains|puts|loss|comparison|ablation|experiments?|"
                    r"results?|tables?|figures?|numbers)\b", re.I)
HERE = re.compile(r'/(tmp|home|root|work|Users|private|var/folders)/[\w.-]+/[\w./-]*')
LINK = re.compile(r'\]\((?!https?:|#)([^)#\s]+)')
IMPORT = re.compile(r'^ *from amsps\.(?:companion\.)?(\w+) import|^ *import amsps\.(?:companion\.)?(\w+)', re.M)


def notebooks():
    return sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)


def cell_sources(path, kind):
    return [''.join(c['source']) for c in json.loads(path.read_text('utf-8'))['cells'] if c['cell_type']==kind]


def unclean():
    "Notebooks that nbdev_clean would change, that are large, or that show outputs where runs belong"
    settings = ConfigParser(interpolation=None)
    settings.read(ROOT/'settings.ini')
    keys = settings['DEFAULT'].get('allowed_cell_metadata_keys', '').split()
    for p in notebooks():
        name = p.relative_to(ROOT)
        before = json.loads(p.read_text('utf-8'))
        nb = dict2nb(copy.deepcopy(before))
        clean_nb(nb, allowed_cell_metadata_keys=keys, clean_ids=False)
        if json.loads(nb2str(nb))!=before:
            yield f'{name} is not clean: run nbdev_clean'
        size = p.stat().st_size/1024
        if size>MAX_NOTEBOOK_KIB:
            yield f'{name} has {size:.0f} KiB; keep outputs below {MAX_NOTEBOOK_KIB}'
        if p.parent.name=='experiments' and any(c.get('outputs') for c in before['cells']):
            yield f'{name} has outputs: executed copies stay in the cache; clear them'
        shown = ''.join(json.dumps(c.get('outputs', [])) for c in before['cells'])
        if found := HERE.search(shown):
            yield f'{name} shows {found[0]}, a folder of the machine that ran it: print a shorter name'


def modules(root):
    return {p.relative_to(root) for p in (root/'amsps').rglob('*.py')}


def out_of_step():
    "Modules that differ from what the notebooks export"
    with tempfile.TemporaryDirectory() as d:
        fresh = Path(d)
        shutil.copytree(ROOT/'nbs', fresh/'nbs')
        for f in ('settings.ini', 'setup.py'):
            shutil.copy(ROOT/f, fresh)
        (fresh/'amsps').mkdir()
        shutil.copy(ROOT/'amsps/__init__.py', fresh/'amsps')
        command = [Path(sys.executable).parent/'nbdev_export']
        done = subprocess.run(command, cwd=d, env=dict(os.environ, PYTHONPATH=d), capture_output=True, encoding='utf-8')
        if done.returncode:
            yield f'nbdev_export failed:\n{done.stderr[-2000:]}'
            return
        for n in sorted(modules(ROOT)|modules(fresh)):
            a,b = ROOT/n,fresh/n
            if not (a.exists() and b.exists() and filecmp.cmp(a, b, shallow=False)):
                yield f'{n} is not what the notebooks export: run nbdev_export'


def stale_readme():
    made = ROOT/'README.md'
    if not made.exists() or made.read_text('utf-8')!=readme.render(ROOT):
        yield 'README.md is not what nbs/index.ipynb gives: run make readme'


def widest_table(text):
    "Number of columns of the widest Markdown table"
    rules = re.findall(r'^\|[\s:|-]+\|\s*$', text, flags=re.M)
    return max((r.strip().count('|')-1 for r in rules), default=0)


def front_page():
    "A README that a stranger understands in two minutes"
    text = (ROOT/'README.md').read_text('utf-8')
    words = len(text.split())
    if words>README_WORDS:
        yield f'README.md has {words} words, more than {README_WORDS}: move results and details to nbs/guides'
    if widest_table(text)>README_COLUMNS:
        yield f'README.md has a table of {widest_table(text)} columns, more than {README_COLUMNS}'
    first = next((i for i,l in enumerate(text.splitlines(), 1) if l.strip()=='```python'), None)
    if first is None or first>README_PYTHON_LINE:
        yield f'README.md shows its first Python in line {first}; keep it within {README_PYTHON_LINE}'
    for target in LINK.findall(text):
        if not (ROOT/target).exists():
            yield f'README.md links to {target}, which does not exist'
    for picture in re.findall(r'!\[[^]]*\]\((?!https?:)([^)]+)\)', text):
        if (ROOT/picture).exists() and (ROOT/picture).stat().st_size>PICTURE_KIB*1024:
            yield f'{picture} is larger than {PICTURE_KIB} KiB; README.md shows it'


def wide_guides():
    "Tables of the guides that do not fit a page"
    for p in notebooks():
        if p.parent.name!='guides':
            continue
        outputs = [o for c in json.loads(p.read_text('utf-8'))['cells'] for o in c.get('outputs', [])]
        shown = [''.join(o.get('data', {}).get('text/markdown', '')) for o in outputs]
        columns = max(map(widest_table, [*shown, *cell_sources(p, 'markdown')]), default=0)
        if columns>GUIDE_COLUMNS:
            yield f'{p.relative_to(ROOT)} has a table of {columns} columns, more than {GUIDE_COLUMNS}'


def numbering():
    "Numbers of notebooks are unique over the floors: they give the reading order"
    names = [p for p in notebooks() if p.parent.name in FLOORS]
    numbers = Counter(p.name.partition('_')[0] for p in names)
    for p in names:
        number = p.name.partition('_')[0]
        if not number.isdigit() or numbers[number]>1:
            yield f'{p.relative_to(ROOT)}: its number is missing or taken; numbers are unique'


def later_imports():
    "Exported code reads only notebooks with smaller numbers"
    numbers = {p.stem.partition('_')[2]:int(p.name[:2]) for p in notebooks() if p.parent.name in FLOORS}
    for p in notebooks():
        if p.parent.name not in ('method', 'companion'):
            continue
        exported = '\n'.join(c for c in cell_sources(p, 'code') if c.startswith('#| export'))
        for name in {a or b for a,b in IMPORT.findall(exported)}:
            if numbers.get(name, -1)>=int(p.name[:2]):
                yield f'{p.relative_to(ROOT)} imports amsps.{name}, which is explained later: renumber the notebooks'


def dead_notebook_links():
    "Relative links in the prose of notebooks lead to files"
    for p in notebooks():
        for target in LINK.findall('\n'.join(cell_sources(p, 'markdown'))):
            if not (p.parent/target).exists():
                yield f'{p.relative_to(ROOT)} links to {target}, which does not exist'


def claims():
    "Sentences on what the paper shows"
    for p in notebooks():
        for text in [*cell_sources(p, 'markdown'), *cell_sources(p, 'code')]:
            for m in CLAIMS.finditer(text):
                yield f'{p.relative_to(ROOT)} says {m[0]!r}: the paper is known by its abstract and introduction only'


def shapeless():
    shape.ROOT = ROOT
    yield from shape.faults(shape.files())


GATES = (unclean, out_of_step, stale_readme, front_page, wide_guides, numbering, later_imports, dead_notebook_links,
         claims, shapeless)

if __name__=='__main__':
    faults = [fault for gate in GATES for fault in gate()]
    print('\n'.join(faults) or f'{len(notebooks())} notebooks are clean; library, README and code pass the gates')
    sys.exit(bool(faults))
