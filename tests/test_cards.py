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
             ('publish', run, '--to', tmp_path/'x', '--license', 'not a licence: "x"'): 'is no name of a licence',
             ('publish', run, '--to', 'a/b', '--push', '--license', 'no'): 'is no name of a licence',
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


def test_a_title_is_text(cli, run, tmp_path):
    "The code of the card loads the folder, whatever the title is"
    from amsps.processor import AmspsModel
    from huggingface_hub import ModelCard
    r = cli('publish', run, '--to', tmp_path/'shared', '--name', 'My <b>model</b> of/\n`1`')
    assert r.returncode==0, r.stderr
    card = (tmp_path/'shared/README.md').read_text('utf-8')
    assert '<b>' not in card.split('---')[2].replace('\\<b\\>', '') and "from_pretrained('shared')" in card
    assert ModelCard(card).data.model_name=='My <b>model</b> of/ `1`'
    code = card.split('```python\n')[1].split('```')[0].replace("'shared'", repr(str(tmp_path/'shared')))
    names = {}
    exec(code, names) # the lines of the card
    assert isinstance(names['model'], AmspsModel)


@pytest.fixture
def encoders(tmp_path, backbone):
    "Folders with names that nobody else should read"
    import torch
    from amsps.data import build_tokenizer
    from transformers import BertConfig, BertModel
    shutil.copytree(backbone, tmp_path/'secret_vision')
    tokenizer = build_tokenizer(['a dog runs', 'two red balls'], 1)
    tokenizer.save_pretrained(tmp_path/'secret_text')
    torch.manual_seed(0)
    layers = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    BertModel(BertConfig(vocab_size=len(tokenizer), **layers)).save_pretrained(tmp_path/'secret_text')
    return dict(backbone=str(tmp_path/'secret_vision'), text_backbone=str(tmp_path/'secret_text'), freeze_text=True)


@pytest.mark.parametrize('how', ['weights', 'reference'])
def test_folders_are_not_named(cli, small_flickr8k, encoders, tmp_path, how):
    "Neither encoders nor the model that a run started from, in no file that is shared"
    from amsps.companion.config import parse_config, preset
    from amsps.companion.datasets import load_data
    from amsps.companion.runs import run_dir, train_run
    def trained(**more):
        places = dict(dataset='own', data_root=str(small_flickr8k), cache_dir=str(tmp_path/'cache'))
        config = parse_config(preset(places|more)|dict(epochs=1, batch_size=8)|more)
        data = load_data(config)
        train_run(config, data)
        return run_dir(config, data)
    def shared(run, *names):
        to = tmp_path/f'shared{len(list(tmp_path.iterdir()))}'
        r = cli('publish', run, '--to', to)
        assert r.returncode==0 and f"does not name {' and '.join(names)} of the run" in r.stderr, r.stderr
        for file in to.rglob('*'):
            assert file.is_dir() or b'secret' not in file.read_bytes(), file
        return to
    sizes = dict(embed_size=16, region_hidden=0, grid=1)
    first = trained(**encoders, **sizes, save_vision=how)
    card = (shared(first, '--backbone', '--text-backbone')/'README.md').read_text('utf-8')
    assert card.count('a pretrained vision model that this card does not name')==2
    assert ("vision='FOLDER OF THE VISION MODEL'" in card)==(how=='reference')
    if how=='weights':
        start = shutil.copytree(first/'model', tmp_path/'secret_startmodel')
        shared(trained(model=str(start)), '--model')
