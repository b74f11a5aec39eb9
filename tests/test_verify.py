"""The quickest record of each committed set comes out again, where this machine has what it needs. Slow, minutes each,
but for those of scenes and of few photographs.

Sets of Flickr8k need ../shared, and most need the text encoder too: AMSPS_TEXT_ENCODER=FOLDER."""
import json
import os
from pathlib import Path
import pytest
from conftest import ROOT

SHARED = ROOT.parent/'shared'
RESULTS = ROOT/'data/results'
QUICK = ('scenes', 'scenes-full', 'flickr8k-small') # About a minute each
SMALL = dict(train=600, dev=100, test=200) # Images of `flickr8k-small`: the first of each split of Flickr8k


def quickest(folder):
    "Configuration of the record that `amsps verify` makes again; None where a set has no records"
    records = [json.loads(f.read_text('utf-8')) for f in folder.glob('*.json')]
    return min(records, key=lambda r: r['wall_seconds'])['config'] if records else None


def small_flickr8k(folder, of):
    "A folder in the layout of Flickr8k with a part of its images; pictures and captions are links to the whole"
    folder.mkdir()
    for name in ('Flicker8k_Dataset', 'Flickr8k.token.txt'):
        (folder/name).symlink_to((of/name).absolute())
    for split,n in SMALL.items():
        name = f'Flickr_8k.{split}Images.txt'
        first = (of/name).read_text('utf-8').splitlines()[:n]
        (folder/name).write_text('\n'.join(first)+'\n', 'utf-8')
    return folder


def places(config, photographs):
    "Options that name data and encoders; None where this machine lacks one"
    if config['dataset']=='scenes': return []
    found = {'data-root': photographs, 'backbone': SHARED/'weights'/config['backbone']}
    if config['text_backbone']: found['text-backbone'] = Path(os.environ.get('AMSPS_TEXT_ENCODER', '/nowhere'))
    if not all(p.exists() for p in found.values()): return None
    return [x for k,p in found.items() for x in (f'--{k}', p)]


@pytest.mark.parametrize('name', [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name in sorted(p.name for p in RESULTS.iterdir())])
def test_comes_out(cli, tmp_path, name):
    config = quickest(RESULTS/name)
    if config is None: pytest.skip('no records')
    whole = SHARED/'data/flickr8k'
    part = name=='flickr8k-small' and whole.exists()
    given = places(config, small_flickr8k(tmp_path/'small', whole) if part else whole)
    if given is None: pytest.skip('no data, or no encoder')
    r = cli('verify', RESULTS/name, *given)
    assert r.returncode==0, r.stdout+r.stderr


@pytest.mark.parametrize('option', ['concept_vectors', 'judgements'])
def test_files_of_one_record(option, tmp_path):
    "A single record that is trained again takes the files that it needs; a finished run does not"
    from amsps.companion.cli import _check_verify
    from amsps.errors import InputError
    record = json.loads(next((ROOT/'data/results/scenes').glob('ahrl-*.json')).read_text('utf-8'))
    record['config'][option] = 'needed.txt'
    (tmp_path/'needed.txt').write_text('')
    (tmp_path/'record.json').write_text(json.dumps(record), 'utf-8')
    given = {option:str(tmp_path/'needed.txt')}
    _check_verify(tmp_path/'record.json', None, given)
    (tmp_path/'model').mkdir()
    with pytest.raises(InputError, match='is for records'):
        _check_verify(tmp_path, None, given)


def test_forced_work_is_not_forced_again(cli, monkeypatch, tmp_path):
    "After an interruption the same command with --force would remove what it had made"
    from amsps.companion import reproduction
    def interrupted(*args, **more):
        raise KeyboardInterrupt
    monkeypatch.setattr(reproduction, 'reproduce', interrupted)
    for more,said in (([], 'same command resumes'), (['--force', 'AHRL'], 'same command without --force resumes')):
        r = cli('reproduce', '--cache-dir', tmp_path, *more)
        assert r.returncode==130 and said in r.stderr, r.stderr


def test_overlap_of_the_model_that_a_run_started_from(monkeypatch):
    "On a run's own data, what its start was trained on counts too; an older run without the list counts its own images"
    from types import SimpleNamespace
    from amsps.companion import runs
    from amsps.companion.cli import _overlap_with
    data,record = SimpleNamespace(fingerprint='a'),dict(data=dict(fingerprint='a'))
    monkeypatch.setattr(runs, 'own_overlap', lambda data: dict(count=1))
    for seen,count in ((dict(count=3), 3), (None, 1)):
        monkeypatch.setattr(runs, 'train_overlap', lambda run, data: seen)
        assert _overlap_with('run', record, data)['count']==count
