"""Does the code fit the page? One line for each fault; exit code 1 if there is one.

    python .ci/shape.py [FILE ...]      default: every notebook, test, benchmark and script

ruff holds what it can (line length, one statement a line, unused names; see `RUFF`). The rest is held here: at most
three names in an assignment, `raise` on a line of its own, exported classes of at most 60 lines in a cell, and over all
notebooks a median exported cell of at most 12 lines. Undefined names are sought in the exported modules, as a notebook
that imports `*` hides its own."""
import ast
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINE = 120
NAMES = 3
CLASS_LINES = 60
MEDIAN_CELL = 12
RUFF = ('E501', 'E702', 'E703', 'F401', 'F811', 'F821', 'F841')


def files():
    "Everything that people edit"
    notebooks = [p for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts]
    scripts = [p for folder in ('tests', 'benchmarks', '.ci') for p in (ROOT/folder).glob('*.py')]
    return sorted([*notebooks, *scripts, ROOT/'setup.py'])


def cells(path):
    "(name, source) of each code cell of a notebook, or of a script"
    if path.suffix!='.ipynb':
        return [(str(path.relative_to(ROOT)), path.read_text('utf-8'))]
    found = json.loads(path.read_text('utf-8'))['cells']
    name = path.relative_to(ROOT)
    code = [(i, ''.join(c['source'])) for i,c in enumerate(found) if c['cell_type']=='code']
    return [(f'{name}, cell {i}', re.sub(r'^([%!].*)$', r'# \1', source, flags=re.M)) for i,source in code]


def exported(source):
    return bool(re.match(r'#\| *export', source))


def names_of(target):
    "How many names an assignment's target has"
    return sum(map(names_of, target.elts)) if isinstance(target, (ast.Tuple, ast.List)) else 1


def lacks_encoding(node):
    "Whether a call reads or writes text in the encoding of the locale"
    if not isinstance(node, ast.Call) or any(k.arg in ('encoding', 'mode', None) for k in node.keywords):
        return False
    called,args = getattr(node.func, 'attr', '') or getattr(node.func, 'id', ''),node.args
    if called=='open' and isinstance(node.func, ast.Name):
        mode = args[1].value if len(args)>1 and isinstance(args[1], ast.Constant) else 'r'
        return 'b' not in mode
    if any(k.arg=='text' for k in node.keywords):
        return called in ('run', 'Popen', 'check_output')
    if getattr(getattr(node.func, 'value', None), 'id', '')=='formatter': # of click
        return False
    return isinstance(node.func, ast.Attribute) and (called, len(args)) in (('read_text', 0), ('write_text', 1))


def quotes_foreign_error(node):
    "Whether an `except` of other errors than ours builds a message with all that the error says"
    if not isinstance(node, ast.ExceptHandler) or not node.name or getattr(node.type, 'id', '')=='InputError':
        return False
    def is_error(x): return isinstance(x, ast.Name) and x.id==node.name
    for made in ast.walk(node):
        if isinstance(made, ast.Call) and getattr(made.func, 'id', '').endswith('Error'):
            for x in ast.walk(made):
                if isinstance(x, ast.FormattedValue) and is_error(x.value) and x.conversion<0: # not `!r`
                    return True
                if isinstance(x, ast.Call) and getattr(x.func, 'id', '')=='str' and any(map(is_error, x.args)):
                    return True
    return False


def faults_of(name, source):
    "Faults of one cell or script"
    try:
        tree = ast.parse(source)
    except SyntaxError as e:
        yield f'{name}: {e.msg}, line {e.lineno}'
        return
    lines = source.splitlines()
    for node in ast.walk(tree):
        if (exported(source) or '.ci' in name) and lacks_encoding(node):
            yield f'{name}, line {node.lineno}: text is UTF-8 whatever the locale: give the encoding'
        if exported(source) and quotes_foreign_error(node):
            yield f'{name}, line {node.lineno}: an error can say several lines, or none: quote it with `quoted(e)`'
        if isinstance(node, ast.Assign) and max(map(names_of, node.targets))>NAMES:
            yield f'{name}, line {node.lineno}: an assignment to more than {NAMES} names'
        if isinstance(node, ast.Raise) and not lines[node.lineno-1].lstrip().startswith('raise'):
            yield f'{name}, line {node.lineno}: `raise` belongs on a line of its own'
        if isinstance(node, ast.ClassDef) and exported(source):
            n = node.end_lineno-node.lineno+1
            if n>CLASS_LINES:
                yield f'{name}: class {node.name} has {n} lines in one cell, more than {CLASS_LINES}'


def ruff(paths, rules=RUFF):
    "What ruff finds"
    command = [Path(sys.executable).parent/"ruff", "check", "--isolated", "--no-cache", "--output-format", "concise"]
    command += ["--line-length", str(LINE), "--select", ",".join(rules), "--ignore", "F403,F405"]
    found = subprocess.run([*command, *map(str, paths)], capture_output=True, cwd=ROOT, encoding='utf-8')
    if found.returncode>1:
        return [found.stderr]
    return [l for l in found.stdout.splitlines() if re.search(r':\d+: ', l)]


def median_cell(paths):
    "Median number of lines of the exported cells, without their directive"
    sizes = [len(s.splitlines())-1 for p in paths if p.suffix=='.ipynb' for _,s in cells(p) if exported(s)]
    return statistics.median(sizes) if sizes else 0


def faults(paths):
    yield from ruff(paths)
    yield from ruff([ROOT/'amsps'], ('F821',))
    for p in paths:
        for name,source in cells(p):
            yield from faults_of(name, source)
    if (m:=median_cell(paths))>MEDIAN_CELL:
        yield f'the median exported cell has {m:g} lines, more than {MEDIAN_CELL}: divide the long ones'


if __name__=='__main__':
    given = [Path(p).resolve() for p in sys.argv[1:]] or files()
    found = list(faults(given))
    print('\n'.join(found) or f'{len(given)} files fit the page')
    sys.exit(bool(found))
