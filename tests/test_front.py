"The front page says what the tables say."
import re
import shlex
import pytest
from typer.testing import CliRunner
from conftest import ROOT


def test_commands_of_the_readme_are_those_of_the_tables(monkeypatch):
    "The command for photographs trains the row AMSPS"
    from amsps.companion import cli
    from amsps.companion.cache import UNNAMED
    from amsps.companion.grid import grid_rows
    asked = []
    monkeypatch.setattr(cli, 'check_run', lambda config, given: asked.append(config))
    monkeypatch.setattr(cli, '_train_alone', lambda config, given: None)
    command = re.search(r'^amsps train --row[^`]*', (ROOT/'README.md').read_text(), flags=re.M)[0]
    done = CliRunner().invoke(cli.app, shlex.split(command.replace('\\\n', ' '))[1:])
    assert done.exit_code==0, done.output
    places = dict(data_root='DIR', backbone='VISION', text_backbone='TEXT', freeze_text=True)
    row = next(r for r in grid_rows('flickr30k', **places) if r.name=='AMSPS')
    named = [k for k in type(row.config).model_fields if k not in UNNAMED]
    assert {k:getattr(asked[0], k) for k in named}=={k:getattr(row.config, k) for k in named}


def test_configuration_knows_the_registered_losses():
    "Names, labels, parameters and needs are read from the source, without importing torch"
    from amsps.companion.config import known_losses
    import amsps.rivals # noqa: F401 registers its losses
    from amsps.losses import LOSSES
    assert known_losses()=={name:(e.label, e.parameters, e.needs) for name,e in LOSSES.items()}


@pytest.mark.parametrize('off', [(), ('adaptive_margin',), ('offline_weight', 'cross_weight', 'penalty'),
                                 ('filter_hidden', 'mining_weight')])
def test_configuration_knows_what_a_loss_needs(off):
    from amsps.companion.build import build_loss
    from amsps.companion.config import RunConfig, loss_labels, loss_needs
    for name in loss_labels():
        config = RunConfig(loss=name, **{k:type(RunConfig.model_fields[k].default)(0) for k in off})
        assert loss_needs(config)==build_loss(config).needs, name


@pytest.mark.parametrize('kind', ['scenes', 'photographs'])
def test_presets_are_the_settings_of_the_tables(kind):
    from amsps.companion.build import build_loss
    from amsps.companion.grid import grid_rows
    from amsps.losses import AHRL
    dataset = dict(scenes='scenes', photographs='flickr8k')[kind]
    places = dict(scenes={}, photographs=dict(data_root='DIR', backbone='V', text_backbone='T', freeze_text=True))[kind]
    row = next(r for r in grid_rows(dataset, **places) if r.name=='AHRL without adaptive margin')
    assert repr(build_loss(row.config))==repr(AHRL.preset(kind))
    assert repr(AHRL())==repr(AHRL.preset('photographs'))


@pytest.mark.parametrize('name', ['sam', 'aoq', 'fne'])
def test_a_published_loss_by_its_name_is_its_row(name):
    "`amsps train --loss NAME` trains what the table shows under the published name"
    from amsps.companion.cli import _settings
    from amsps.companion.config import loss_labels, parse_config
    row = dict(row=loss_labels()[name])
    assert parse_config(_settings(dict(loss=name)))==parse_config(_settings(row))
