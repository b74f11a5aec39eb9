"""The quickest record of each committed set comes out again, where this machine has what it needs. Slow, minutes each,
but for the small scenes.

Sets of Flickr8k need ../shared, and most need the text encoder too: AMSPS_TEXT_ENCODER=FOLDER."""
import json
import os
from pathlib import Path
import pytest
from conftest import ROOT

SHARED = ROOT.parent/'shared'
RESULTS = ROOT/'data/results'


def quickest(folder):
    "Configuration of the record that `amsps verify` makes again; None where a set has no records"
    records = [json.loads(f.read_text('utf-8')) for f in folder.glob('*.json')]
    return min(records, key=lambda r: r['wall_seconds'])['config'] if records else None


def places(config):
    "Options that name data and encoders; None where this machine lacks one"
    if config['dataset']=='scenes': return []
    found = {'data-root': SHARED/'data/flickr8k', 'backbone': SHARED/'weights'/config['backbone']}
    if config['text_backbone']: found['text-backbone'] = Path(os.environ.get('AMSPS_TEXT_ENCODER', '/nowhere'))
    if not all(p.exists() for p in found.values()): return None
    return [x for k,p in found.items() for x in (f'--{k}', p)]


@pytest.mark.parametrize('name', [
    pytest.param(name, marks=() if name=='scenes' else pytest.mark.slow)
    for name in sorted(p.name for p in RESULTS.iterdir())])
def test_comes_out(cli, name):
    config = quickest(RESULTS/name)
    if config is None: pytest.skip('no records')
    given = places(config)
    if given is None: pytest.skip('no data, or no encoder')
    r = cli('verify', RESULTS/name, *given)
    assert r.returncode==0, r.stdout+r.stderr
