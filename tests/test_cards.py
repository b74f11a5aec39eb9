"A run is shared by the command line: the folder loads, and nothing in it is of this machine."
import json
import shutil
import pytest
from conftest import TINY


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "The folder of a small run"
    from amsps.companion.config import parse_config
    from amsps.companion.datasets import load_data
    from amsps.companion.runs import run_dir, train_run
    names = [name.removeprefix('--').replace('-', '_') for name in TINY[::2]]
    config = parse_config(dict(zip(names, TINY[1::2]))|dict(cache_dir=str(tmp_path_factory.mktemp('cache')), epochs=1))
    data = load_data(config)
    train_run(config, data)
    return run_dir(config, data)


def test_a_folder_to_share(cli, run, tmp_path):
    from amsps.processor import AmspsModel
    from transformers import AutoModel
    r = cli('publish', run, '--to', tmp_path/'a/shared', '--license', 'mit', '--name', 'someone/scenes')
    assert r.returncode==0 and 'README.md' in r.stdout, r.stderr
    folder = tmp_path/'a/shared'
    assert isinstance(AutoModel.from_pretrained(folder, trust_remote_code=False), AmspsModel)
    card = (folder/'README.md').read_text('utf-8')
    record = json.loads((run/'record.json').read_text('utf-8'))
    assert 'license: mit' in card and f"{record['metrics']['test']['rsum']:.1f}" in card and 'someone/scenes' in card
    for file in folder.rglob('*'):
        if file.suffix in ('.json', '.md'):
            assert str(run.parents[1]) not in file.read_text('utf-8'), file.name
    assert not list(folder.rglob('*.txt')) and not (folder/'record.json').exists()
    assert [p.name for p in (tmp_path/'a').iterdir()]==['shared']


def test_nothing_is_sent_or_lost(cli, run, tmp_path):
    "Mistakes get one message, and leave nothing half-written"
    (tmp_path/'full').mkdir()
    (tmp_path/'full/mine.txt').write_text('mine')
    broken = shutil.copytree(run, tmp_path/'broken')
    (broken/'model/model.safetensors').unlink()
    (tmp_path/'link').symlink_to(tmp_path/'none')
    wrong = {('publish', run, '--to', tmp_path/'full'): 'is not empty',
             ('publish', broken, '--to', tmp_path/'x'): 'model.safetensors is gone',
             ('publish', tmp_path, '--to', tmp_path/'x'): 'is no finished run',
             ('publish', run, '--to', tmp_path/'full/mine.txt/x'): 'cannot create the folder',
             ('publish', run, '--to', tmp_path/'link'): 'is no folder',
             ('publish', run, '--to', run/'model/x'): 'lies in the folder of the run',
             ('publish', run, '--to', tmp_path/('x'*300)): 'File name too long',
             ('publish', run, '--to', tmp_path/'x', '--name', 'x', '--push'): '--name is not for --push',
             ('publish', run, '--to', 'a/b/c', '--push'): 'write USER/NAME',
             ('publish', run, '--to', tmp_path/'x', '--public'): '--public is for --push'}
    for command,said in wrong.items():
        r = cli(*command)
        assert r.returncode==2 and said in r.stderr and 'Traceback' not in r.stderr, (command, r.stderr)
    assert not (tmp_path/'x').exists() and [p.name for p in (tmp_path/'full').iterdir()]==['mine.txt']


def test_here(run, tmp_path, monkeypatch):
    "The current folder stays the one that the shell is in"
    from amsps.companion.cards import publish_folder
    from amsps.errors import InputError
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match='the current folder cannot become'): publish_folder(run, '.')


def test_nothing_beside_is_touched(run, tmp_path, monkeypatch):
    "Neither files with a similar name, nor anything after a failure"
    from amsps.companion import cards
    (tmp_path/'shared.part').mkdir()
    (tmp_path/'shared.part/mine.txt').write_text('mine')
    monkeypatch.setattr(cards, '_pictures', lambda folder: 1/0)
    with pytest.raises(ZeroDivisionError): cards.publish_folder(run, tmp_path/'shared')
    assert [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob('*'))]==['shared.part', 'shared.part/mine.txt']
