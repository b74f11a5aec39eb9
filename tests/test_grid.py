"Grids of notebooks: parameters, failures, repetition."
import json
import nbformat, papermill as pm
from amsps.grid import run_grid
from amsps.config import RunConfig, parse_config
from conftest import ROOT, TINY, amsps

TRAIN = ROOT/'nbs/experiments/train.ipynb'
SMALL = dict(scenes_train=40, scenes_dev=15, scenes_test=20, embed_size=16, word_size=8, region_hidden=0, epochs=2)

def test_parameters_cell_is_run_config():
    known = pm.inspect_notebook(str(TRAIN))
    assert list(known)==list(RunConfig.model_fields)
    for name,f in RunConfig.model_fields.items():
        assert eval(known[name]['default'])==f.default, name
        assert type(f.default).__name__==known[name]['inferred_type_name'], name

def test_one_failure_harms_no_other_run(tmp_path):
    "The middle one of three runs fails in its notebook; the others finish, and the failure names cell and error"
    nb = nbformat.read(TRAIN, 4)
    at = next(i for i,c in enumerate(nb.cells) if 'train_run' in c.source and 'record =' in c.source)
    nb.cells[at].source = "if config.seed==1: raise RuntimeError('the power went')\n"+nb.cells[at].source
    nbformat.write(nb, tmp_path/'train.ipynb')
    configs = [parse_config(SMALL|dict(seed=s, cache_dir=str(tmp_path/'cache'))) for s in range(3)]
    said = []
    folders,failures = run_grid(configs, jobs=2, say=said.append, notebook=tmp_path/'train.ipynb')
    assert sorted(f.name.split('-')[1] for f in folders)==['s0','s2'] and len(failures)==1
    text = str(failures[0])
    assert 'RuntimeError: the power went' in text and 'train_run' in text and 'failed in cell' in text
    assert any('epoch 2/2' in s for s in said) and any('FAILED' in s for s in said)
    folders,failures = run_grid(configs, jobs=2, say=said.append)   # the mended notebook: only the missing run
    assert len(folders)==3 and not failures and '3 runs: 2 complete, 1 to do' in said

def test_failing_notebook_on_the_command_line(tmp_path):
    "amsps reproduce: a model that diverges stops with exit code 1, names cell and error; nothing is recorded"
    r = amsps('train', *TINY, '--learning-rate', 1e30, '--cache-dir', tmp_path)
    assert r.returncode==1 and 'holds NaN' in r.stderr and 'failed in cell' in r.stderr and 'Traceback' not in r.stderr, r.stderr
    assert not list(tmp_path.rglob('record.json'))

def test_bare_papermill_refuses_an_unknown_name(tmp_path):
    try: pm.execute_notebook(str(TRAIN), str(tmp_path/'o.ipynb'), dict(marginn=.3), progress_bar=False, cwd=str(ROOT))
    except pm.PapermillExecutionError as e: assert 'unknown parameter `marginn`' in e.evalue
    else: raise AssertionError('it ran')
