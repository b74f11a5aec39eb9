"The front page and the gates that hold it."
import re
import shlex
import shutil
import subprocess
import sys
import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT/'.ci'))


@pytest.fixture
def gates(monkeypatch, tmp_path):
    "The gates over a small copy that tests may spoil"
    import check
    (tmp_path/'nbs').mkdir()
    for d in ('method', 'guides', 'experiments'):
        shutil.copytree(ROOT/'nbs'/d, tmp_path/'nbs'/d)
    for d in ('figures', '.ci', 'nbs/companion'):
        shutil.copytree(ROOT/d, tmp_path/d, dirs_exist_ok=True)
    for f in ('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', 'LICENSE', 'setup.py'):
        shutil.copy(ROOT/f, tmp_path)
    monkeypatch.setattr(check, 'ROOT', tmp_path)
    return check


def spoil(gates, old, new):
    readme = gates.ROOT/'README.md'
    text = readme.read_text()
    assert old in text
    readme.write_text(text.replace(old, new, 1))


def test_untouched(gates):
    found = [*gates.front_page(), *gates.wide_guides(), *gates.numbering(), *gates.claims()]
    assert found==[]


@pytest.mark.parametrize('old,new,said', [
    ('## Install', '## Install\n'+'word '*1500, 'words, more than 1500'),
    ('## Install', '## Install\n\n'+'| a '*7+'|\n'+'|---'*7+'|\n', 'a table of 7 columns'),
    ('```python', '```text', 'first Python'),
    ('nbs/guides/43_results.ipynb', 'nbs/guides/gone.ipynb', 'links to nbs/guides/gone.ipynb')])
def test_front_page(gates, old, new, said):
    if said=='first Python':
        text = (gates.ROOT/'README.md').read_text()
        (gates.ROOT/'README.md').write_text('\n'*60+text)
    else:
        spoil(gates, old, new)
    assert said in '\n'.join(gates.front_page())


def test_a_large_picture(gates):
    picture = re.search(r'!\[[^]]*\]\(([^)]+)\)', (gates.ROOT/'README.md').read_text())[1]
    (gates.ROOT/picture).write_bytes(b'x'*(201*1024))
    assert 'is larger than 200 KiB' in '\n'.join(gates.front_page())


def test_numbers_of_notebooks(gates):
    shutil.copy(gates.ROOT/'nbs/method/09_losses.ipynb', gates.ROOT/'nbs/guides/09_again.ipynb')
    assert '09_again.ipynb: its number is missing or taken' in '\n'.join(gates.numbering())


def test_claims(gates):
    f = gates.ROOT/'nbs/guides/43_results.ipynb'
    f.write_text(f.read_text().replace('# Results', '# Results that the paper shows', 1))
    assert 'known by its abstract' in '\n'.join(gates.claims())


@pytest.mark.parametrize('source,said', [
    ('x = 1; y = 2', 'E702'),
    ('a,b,c,d = 1,2,3,4', 'more than 3 names'),
    ('if x: raise ValueError', '`raise` belongs on a line of its own'),
    ('y = '+'+'.join(['1']*70), 'E501'),
    ('#| export\nclass Long:\n'+'    x = 1\n'*60, 'class Long has 61 lines'),
    ('import os', 'F401')])
def test_shape(tmp_path, source, said):
    import nbformat
    cells = [nbformat.v4.new_code_cell(source)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path/'x.ipynb')
    shutil.copytree(ROOT/'.ci', tmp_path/'.ci')
    command = [sys.executable, tmp_path/'.ci/shape.py', tmp_path/'x.ipynb']
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode==1 and said in done.stdout, done.stdout+done.stderr


def test_commands_of_the_readme_are_those_of_the_tables():
    "The settings for photographs are those of the row AMSPS"
    from amsps.companion.cache import UNNAMED
    from amsps.companion.config import parse_config, preset
    from amsps.companion.grid import grid_rows
    command = re.search(r'^amsps train --dataset flickr30k[^`]*', (ROOT/'README.md').read_text(), flags=re.M)[0]
    words = shlex.split(command.replace('\\\n', ' '))[2:]
    given,values = {},iter(words)
    for w in values:
        name = w.removeprefix('--').replace('-', '_')
        given[name] = True if name=='freeze_text' else next(values)
    places = dict(data_root='DIR', backbone='VISION', text_backbone='TEXT', freeze_text=True)
    row = next(r for r in grid_rows('flickr30k', **places) if r.name=='AMSPS')
    typed = {k:type(getattr(row.config, k))(v) for k,v in given.items()}
    config = parse_config(preset(typed))
    named = [k for k in type(config).model_fields if k not in UNNAMED]
    assert {k:getattr(config, k) for k in named}=={k:getattr(row.config, k) for k in named}


def test_configuration_knows_the_registered_losses():
    "Names and labels are read from the source, without importing torch"
    from amsps.companion.config import loss_labels
    from amsps.losses import LOSSES
    assert loss_labels()=={name:entry.label for name,entry in LOSSES.items()}


@pytest.mark.parametrize('kind', ['scenes', 'photographs'])
def test_presets_are_the_settings_of_the_tables(kind):
    from amsps.companion.build import build_loss
    from amsps.companion.grid import grid_rows
    from amsps.losses import AHRL
    dataset = dict(scenes='scenes', photographs='flickr8k')[kind]
    places = dict(scenes={}, photographs=dict(data_root='DIR', backbone='V', text_backbone='T', freeze_text=True))[kind]
    row = next(r for r in grid_rows(dataset, **places) if r.name=='AHRL')
    assert repr(build_loss(row.config))==repr(AHRL.preset(kind))
    assert repr(AHRL())==repr(AHRL.preset('photographs'))
