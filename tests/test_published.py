"What the repository publishes comes from its committed records."
import ast
import hashlib
import json
import re
from functools import cache
import nbformat
import pytest
from amsps.companion.grid import records_for
from amsps.companion.tables import check_comparable, compact_table, paired_differences, question_table, read_records
from amsps.companion.tables import readable_differences, readable_questions, results_frame, summary_table
from conftest import ROOT

RESULTS = sorted({f.parent for f in (ROOT/'data/results').glob('*/*.json')})
FIGURES = sorted(f.parent for f in (ROOT/'figures').glob('*/made'))
PAGES = [ROOT/'nbs/index.ipynb', *sorted((ROOT/'nbs/guides').glob('*results.ipynb'))]
README = (ROOT/'README.md').read_text()


@cache
def records_in(folder):
    return read_records(folder)


def name_of(path):
    return path.name


def pipes(frame):
    return frame.reset_index().to_markdown(index=False, disable_numparse=True)


def shown(folder, table):
    "The committed Markdown of a table"
    return (ROOT/f'figures/{folder.name}/{table}.md').read_text()


def test_every_folder_of_records_has_its_figures():
    assert [f.name for f in RESULTS]==[f.name for f in FIGURES]


@pytest.mark.parametrize('folder', RESULTS, ids=name_of)
def test_main_table_is_what_the_records_say(folder):
    records = records_for(records_in(folder), 'table_main')
    check_comparable(records)
    if not records: # rows of other models only
        frame = results_frame(records_for(records_in(folder), 'table_generality'))
        assert pipes(compact_table(summary_table(frame))) in shown(folder, 'table_generality')
        return
    frame = results_frame(records)
    assert pipes(compact_table(summary_table(frame))) in shown(folder, 'table_main')
    differences = paired_differences(frame).set_index('loss')
    assert pipes(readable_differences(differences)) in shown(folder, 'table_differences')


@pytest.mark.parametrize('folder', RESULTS, ids=name_of)
def test_questions_are_answered_by_the_records(folder):
    records = records_for(records_in(folder), 'table_questions')
    questions = question_table(results_frame(records)) if records else []
    if len(questions):
        assert pipes(readable_questions(questions)) in shown(folder, 'table_questions')
    else:
        assert not (ROOT/f'figures/{folder.name}/table_questions.md').exists()


@pytest.mark.parametrize('folder', FIGURES, ids=name_of)
def test_tables_fit_a_page(folder):
    for f in folder.glob('table_*.md'):
        header = next(line for line in f.read_text().splitlines() if line.startswith('|'))
        widest = 13 if f.name.startswith('table_comparison') else 8
        assert len(header.split('|'))-2<=widest, f


def check_provenance(file, records):
    "Every row of a table or figure names runs that are here"
    made = json.loads(file.read_text())
    assert made['caption'] and made['rows']
    for run in [r for runs in made['rows'].values() for r in runs]:
        record = records[run['run']]
        assert run['commit']==record['environment']['commit'][:10]
        assert run['data']==record['data']['fingerprint'][:12]
    for line in made['sources'] or []:
        assert all(row in made['rows'] for row in line), (file, line)
        assert line or 'comparison' in file.name, file


@pytest.mark.parametrize('folder', FIGURES, ids=name_of)
def test_everything_was_made_from_the_committed_records(folder):
    "Every table and figure comes from records that are here and has not changed since it was made"
    records = {r['name']:r for r in read_records(ROOT/f'data/results/{folder.name}')}
    for f in (folder/'made').glob('*.json'):
        made = json.loads(f.read_text())
        runs = made['inputs']['runs']
        assert runs, f
        for run,finished in runs.items():
            assert records[run].get('evaluated', records[run])['finished']==finished, (f, run)
        for name,digest in made['files'].items():
            if name.startswith('figure_retrieval') and not (folder/name).exists():
                continue # photographs are not ours to redistribute
            found = hashlib.sha256((folder/name).read_bytes()).hexdigest()
            assert found==digest, f'{folder.name}/{name} was changed by hand'
            if name.endswith('.json'):
                check_provenance(folder/name, records)


def value_of(source, names):
    "Run a cell; the value of its last expression, or None"
    *body,last = ast.parse(source).body
    if not isinstance(last, ast.Expr):
        body,last = [*body, last],None
    exec(compile(ast.Module(body, []), '<cell>', 'exec'), names)
    return eval(compile(ast.Expression(last.value), '<cell>', 'eval'), names) if last else None


@pytest.mark.parametrize('page', PAGES, ids=name_of)
def test_pages_show_the_committed_tables(page, monkeypatch):
    "Numbers on the front page and on the results page are computed from the committed tables"
    monkeypatch.chdir(ROOT)
    names,checked = {},0
    for cell in nbformat.read(page, 4).cells:
        if cell.cell_type!='code' or not re.match(r'#\| *(hide|echo: *false)', cell.source):
            continue
        value = value_of(cell.source, names)
        stored = [o.data['text/markdown'] for o in cell.outputs if 'text/markdown' in o.get('data', {})]
        if stored:
            assert ''.join(stored[0])==value.data, f'execute {page.name} again: {cell.source[:80]}'
            checked += 1
    assert checked, f'{page.name} shows no number'


def test_readme_is_the_front_page():
    "The tables and sentences that nbs/index.ipynb computes are in README.md; its links begin at the root"
    cells = nbformat.read(PAGES[0], 4).cells
    tables = [o.data['text/markdown'] for c in cells if c.cell_type=='code' for o in c.outputs
              if 'text/markdown' in o.get('data', {})]
    assert tables
    for table in tables:
        assert table.strip().replace('](../nbs/', '](nbs/') in README, 'run `make readme`'


@pytest.mark.parametrize('folder', RESULTS, ids=name_of)
def test_records_are_whole_and_name_no_place(folder):
    for r in read_records(folder):
        name,env = r['name'],r['environment']
        clean = re.fullmatch('[0-9a-f]{40}', env['commit'] or '') and env['uncommitted'] is False
        assert clean, f'{name}: a published number needs a clean commit'
        if 'evaluated' in r:
            assert r['evaluated']['uncommitted'] is False, f'{name}: metrics were added by uncommitted code'
        assert r['history'] and (r.get('code') or r['key']['code']) and r['data']['fingerprint']
        text = json.dumps({k:v for k,v in r.items() if k not in ('map', 'ranks')}) # these hold base64
        assert not re.search(r'"/|\.\./', text), f'{name} names a place'
        best = max(h['dev_rsum'] for h in r['history'])
        assert best==r['metrics']['dev']['rsum'], f'{name} was not selected on dev'


def test_links_of_the_readme():
    for target in re.findall(r'\]\((?!https?:|#)([^)]+)\)', README):
        assert (ROOT/target).exists(), target
