"What the repository publishes comes from its committed records."
import hashlib, json, re
import nbformat, pytest
from amsps.companion.grid import records_for
from amsps.companion.tables import check_comparable, paired_differences, read_records, readable_differences, readable_table, results_frame, summary_table
from conftest import ROOT

RESULTS = sorted({f.parent for f in (ROOT/'data/results').glob('*/*.json')})
FIGURES = sorted(f.parent for f in (ROOT/'figures').glob('*/made'))
README = (ROOT/'README.md').read_text()

def pipes(frame): return frame.reset_index().to_markdown(index=False, disable_numparse=True)

def test_every_folder_of_records_has_its_figures(): assert [f.name for f in RESULTS]==[f.name for f in FIGURES]

@pytest.mark.parametrize('folder', RESULTS, ids=lambda p: p.name)
def test_main_table_is_what_the_records_say(folder):
    records = records_for(read_records(folder), 'table_main'); check_comparable(records)
    if not records: # rows of other models only
        frame = results_frame(records_for(read_records(folder), 'table_generality'))
        assert pipes(readable_table(summary_table(frame))) in (ROOT/f'figures/{folder.name}/table_generality.md').read_text(); return
    frame = results_frame(records)
    assert pipes(readable_table(summary_table(frame))) in (ROOT/f'figures/{folder.name}/table_main.md').read_text()
    assert pipes(readable_differences(paired_differences(frame).set_index('loss'))) in (ROOT/f'figures/{folder.name}/table_differences.md').read_text()

@pytest.mark.parametrize('folder', FIGURES, ids=lambda p: p.name)
def test_everything_was_made_from_the_committed_records(folder):
    "Every table and figure is of records that are here, unchanged since it was made; every row of it names its runs"
    records = {r['name']:r for r in read_records(ROOT/f'data/results/{folder.name}')}
    for f in (folder/'made').glob('*.json'):
        made = json.loads(f.read_text())
        assert made['inputs']['runs'] and all(records[n].get('evaluated', records[n])['finished']==t for n,t in made['inputs']['runs'].items()), f
        for name,d in made['files'].items():
            if name.startswith('figure_retrieval') and not (folder/name).exists(): continue # photographs are not ours to redistribute
            assert hashlib.sha256((folder/name).read_bytes()).hexdigest()==d, f'{folder.name}/{name} was changed by hand'
            if name.endswith('.json'):
                p = json.loads((folder/name).read_text())
                assert p['caption'] and p['rows'] and all(r['run'] in records and r['commit']==records[r['run']]['environment']['commit'][:10] and r['data']==records[r['run']]['data']['fingerprint'][:12] for runs in p['rows'].values() for r in runs)
                for line in p['sources'] or []: assert all(row in p['rows'] for row in line) and (line or 'comparison' in name), (name, line)

def test_readme_shows_the_committed_tables():
    shown = re.findall(r"^table\('([^']+)'\)", '\n'.join(c.source for c in nbformat.read(ROOT/'nbs/index.ipynb', 4).cells if c.cell_type=='code'), re.M)
    assert len(shown)>5
    for name in shown: assert (ROOT/f'figures/{name}.md').read_text().strip() in README, f'execute nbs/index.ipynb again: {name}'

@pytest.mark.parametrize('folder', RESULTS, ids=lambda p: p.name)
def test_records_are_whole_and_name_no_place(folder):
    for r in read_records(folder):
        assert re.fullmatch('[0-9a-f]{40}', r['environment']['commit'] or '') and r['environment']['uncommitted'] is False, f"{r['name']}: a published number needs a clean commit"
        assert r.get('evaluated', dict(uncommitted=False))['uncommitted'] is False, f"{r['name']}: metrics were added by uncommitted code"
        assert r['history'] and (r.get('code') or r['key']['code']) and r['data']['fingerprint']
        assert not re.search(r'"/|\.\./', json.dumps({k:v for k,v in r.items() if k not in ('map','ranks')})) # these hold base64
        assert max(h['dev_rsum'] for h in r['history'])==r['metrics']['dev']['rsum'], 'selected on dev'

def test_links_of_the_readme():
    for target in re.findall(r'\]\((?!https?:|#)([^)]+)\)', README): assert (ROOT/target).exists(), target
