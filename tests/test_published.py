"What the repository publishes comes from its committed records."
import json, re
import pytest
from amsps.grid import records_for
from amsps.tables import check_comparable, paired_differences, read_records, readable_table, results_frame, summary_table
from conftest import ROOT

RESULTS = sorted({f.parent for f in (ROOT/'data/results').glob('*/*.json')})

@pytest.mark.parametrize('folder', RESULTS, ids=lambda p: p.name)
def test_readme_shows_what_the_records_say(folder):
    records = read_records(folder); check_comparable(records)
    shown = readable_table(summary_table(results_frame(records))).reset_index().to_markdown(index=False, disable_numparse=True)
    readme = (ROOT/'README.md').read_text()
    assert shown in readme
    for d in paired_differences(results_frame(records)).itertuples():
        assert f'{d.difference:+.1f}' in readme and (d.pairs==1 or f'{d.low:+.1f} to {d.high:+.1f}' in readme)

@pytest.mark.parametrize('folder', RESULTS, ids=lambda p: p.name)
def test_records_are_whole_and_name_no_place(folder):
    for r in read_records(folder):
        assert re.fullmatch('[0-9a-f]{40}', r['environment']['commit'] or '') and r['environment']['uncommitted'] is False, f"{r['name']}: a published number needs a clean commit"
        assert r.get('evaluated', dict(uncommitted=False))['uncommitted'] is False, f"{r['name']}: metrics were added by uncommitted code"
        assert r['history'] and r['code'] and r['data']['fingerprint']
        assert not re.search(r'"/|\.\./', json.dumps(r))
        assert max(h['dev_rsum'] for h in r['history'])==r['metrics']['dev']['rsum'], 'selected on dev'

def test_links_of_the_readme():
    for target in re.findall(r'\]\((?!https?:|#)([^)]+)\)', (ROOT/'README.md').read_text()): assert (ROOT/target).exists(), target
