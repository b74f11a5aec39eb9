"What the repository publishes comes from its committed records."
import json, re
from pathlib import Path
import pytest
from amsps.report import paired_differences, read_records, readable_table, results_frame, summary_table
from conftest import ROOT

RESULTS = sorted(p for p in (ROOT/'data/results').iterdir() if list(p.glob('*.json')))

@pytest.mark.parametrize('folder', RESULTS, ids=lambda p: p.name)
def test_table_is_made_from_the_records(folder):
    shown = readable_table(summary_table(results_frame(read_records(folder)))).reset_index().to_markdown(index=False, disable_numparse=True)
    assert shown in (ROOT/'figures'/folder.name/'table_main.md').read_text()

@pytest.mark.parametrize('name', ['scenes/table_main','scenes/table_differences','flickr8k/table_main','flickr8k/table_differences'])
def test_readme_shows_the_tables(name):
    assert (ROOT/'figures'/f'{name}.md').read_text().strip() in (ROOT/'README.md').read_text()

@pytest.mark.parametrize('folder', RESULTS, ids=lambda p: p.name)
def test_records_are_whole_and_name_no_place(folder):
    for r in read_records(folder):
        assert re.fullmatch('[0-9a-f]{40}', r['environment']['commit']) and not r['environment']['uncommitted'], f"{r['name']}: a published number needs a clean commit"
        assert r['history'] and r['code'] and r['data']['fingerprint']
        assert not re.search(r'"/|\.\./', json.dumps(r))
        assert max(h['dev_rsum'] for h in r['history'])==r['metrics']['dev']['rsum'], 'selected on dev'

def test_links_of_the_readme():
    for target in re.findall(r'\]\((?!https?:|#)([^)]+)\)', (ROOT/'README.md').read_text()): assert (ROOT/target).exists(), target
