"Grids of notebooks: comparisons, parameters, failures, repetition."
import json
import random
import nbformat
import numpy as np
import papermill as pm
import pytest
import torch
from torch.nn.functional import cross_entropy
from amsps.companion import schedule
from amsps.companion.config import RunConfig, known_losses, parse_config
from amsps.companion.grid import Row, grid_rows, questions_on, read_grid, references, row_colours, row_order
from amsps.companion.kernels import WarmKernelManager
from amsps.companion.schedule import plan_runs, run_grid
from amsps.errors import InputError
from amsps.losses import make_loss
from conftest import ROOT, SMALL

TRAIN = ROOT/'nbs/experiments/train.ipynb'
PHOTOGRAPHS = dict(data_root='d', backbone='b', text_backbone='t', freeze_text=True)


def a_row(cache, seeds=1):
    return [Row('a row', frozenset(), parse_config(SMALL|dict(cache_dir=str(cache))), seeds)]


def states(rows):
    return [p.state for p in plan_runs(rows)]


# Comparisons: what the grid file says, against the rules by name that it replaces

OF_MODEL = { # rows of a model that are compared with more than its first one, or with another one
    'Attention, AHRL': ['hardest triplet', 'InfoNCE'],
    'Tuned text encoder, AMSPS, batch only': ['InfoNCE', 'InfoNCE + consensus'],
    'Tuned text encoder, AMSPS, batch only, without adaptive margin': ['AMSPS, batch only'],
    'Tuned text encoder, AMSPS, batch only, without hidden positives': ['AMSPS, batch only'],
    'Tuned text encoder, AMSPS, graded, batch only': ['AMSPS, batch only', 'AMSPS, smoothed, batch only'],
    'Tuned text encoder, AMSPS, smoothed, batch only': ['AMSPS, batch only'],
    'Tuned text encoder, AMSPS': ['AMSPS, batch only'],
    'Tuned encoders, AMSPS, batch only': ['InfoNCE', 'InfoNCE + consensus'],
}


def references_in_model(row, rows, model):
    own = [r.name for r in read_grid().rows if r.model==model]
    named = [f'{model}, {r}' for r in OF_MODEL.get(row, [])] or own[:row!=own[0]]
    found = [[r] if r in rows else references_in_model(r, rows, model) for r in named]
    return list(dict.fromkeys(r for several in found for r in several))


def references_by_name(row, rows, models):
    "The rules that the grid's `against` was made from"
    if models.get(row):
        return references_in_model(row, rows, models[row])
    if row.startswith('Hardest triplet + candidates'):
        return ['Hardest triplet']*('Hardest triplet' in rows)
    whole = row.partition(' without ')[0]
    if row!=whole and whole in rows:
        return [whole]
    if row=='+ hidden positives' and '+ known pairs' in rows:
        others = [r for r in rows if r!='+ known pairs']
        return [*references_by_name(row, others, models), '+ known pairs']
    if row.startswith('+ ') and '+ smooth selection' in rows and row!='+ smooth selection':
        return ['+ smooth selection']
    same_level = ['Hardest triplet + consensus', 'InfoNCE + consensus']
    amsps = ['AMSPS'] if 'AMSPS' in rows else same_level
    without = dict.fromkeys([r.name for r in read_grid().rows if r.name.startswith('AMSPS without ')], same_level)
    smoothed = {'InfoNCE + consensus, smoothed': ['InfoNCE + consensus']}
    graded = {'AMSPS, graded': [*amsps, 'AMSPS, smoothed'], 'AMSPS, smoothed': amsps}
    more = without|smoothed|graded|{'AMSPS': same_level}
    found = [r for r in ('Hardest triplet', 'InfoNCE', *more.get(row, [])) if r in rows and r!=row]
    return [r for r in found if r!='InfoNCE' or rows.index(r)<rows.index(row)]


def check_references(rows, models):
    for row in rows:
        assert references(row, rows)==references_by_name(row, rows, models), (row, rows)


@pytest.mark.parametrize('dataset', read_grid().datasets)
def test_comparisons_of_every_output(dataset):
    given = {} if dataset.startswith('scenes') else PHOTOGRAPHS
    for output in read_grid().outputs:
        rows = [r for r in grid_rows(dataset, (output,), **given) if not r.sweep]
        check_references([r.name for r in rows], {r.name:r.model for r in rows})


def test_comparisons_where_rows_are_missing():
    "Records of some rows only"
    models = {r.name:r.model for r in read_grid().rows}
    rng = random.Random(0)
    for _ in range(300):
        rows = rng.sample(row_order(), rng.randint(1, 12))
        check_references(sorted(rows, key=row_order().index), models)


@pytest.mark.parametrize('dataset', read_grid().datasets)
def test_questions_of_a_dataset(dataset):
    "All questions are in one table, few, and each is of two rows that differ in their settings"
    given = {} if dataset.startswith('scenes') else PHOTOGRAPHS
    rows = {r.name:r for r in grid_rows(dataset, ('table_questions',), **given)}
    asked = questions_on(read_grid().datasets[dataset].parameters['dataset'])
    assert 0<len(asked)<=8 and set(rows)=={name for q in asked for name in (q.row, q.against)}
    assert all(rows[q.row].config!=rows[q.against].config for q in asked)
    assert len({r.seeds for r in rows.values()})<=2 # as many as the dataset says, or those of another table


def test_controls_differ_in_one_part_only():
    "Each row of a question, and the parameters in which it differs from the row it is compared with"
    rows = {r.name:r.config.model_dump() for r in grid_rows('flickr8k', ('table_questions',), **PHOTOGRAPHS)}
    def differ(a, b): return {k for k in rows[a] if rows[a][k]!=rows[b][k]}
    assert differ('AMSPS, graded', 'AMSPS, smoothed')=={'graded_temperature'}
    assert differ('+ hidden positives', '+ smooth selection')=={'filter_hidden', 'mining_weight'}
    terms = {'offline_weight', 'cross_weight', 'penalty'}
    assert differ('+ candidates, cross pairs, penalty', '+ smooth selection')==terms
    assert differ('Hardest triplet + consensus', 'InfoNCE + consensus')=={'loss'}


def test_smoothed_infonce_is_label_smoothing():
    "The control of AHRL is cross-entropy with a tenth of each target spread over the batch, times the temperature"
    places = dict(data_root='d', backbone='b')
    rows = {r.name:r.config for r in grid_rows('flickr8k', ('table_questions',), **places)}
    config = rows['InfoNCE, smoothed']
    assert config.temperature==rows['InfoNCE'].temperature
    entry = known_losses()[config.loss]
    loss = make_loss(config.loss, **{k:getattr(config, k) for k in entry.parameters})
    loss.mode = 'active'
    sims = torch.rand(8, 8, generator=torch.manual_seed(0), dtype=torch.float64)
    found = loss(sims, torch.arange(8), relatedness=torch.rand(8, 8))['loss']
    target = .9*torch.eye(8, dtype=torch.float64)+.1/8
    both = sum(cross_entropy(s/config.temperature, target) for s in (sims, sims.T))
    assert found.item()==pytest.approx(config.temperature*both.item(), abs=1e-5)


def test_parts_of_the_whole():
    "The rows of the ablation are found by data"
    parts = [r.name for r in read_grid().rows if r.part_of]
    assert parts==[name for name in row_order() if name.startswith(('+ ', 'AHRL without ', 'AMSPS without '))]


@pytest.mark.parametrize('dataset,options', [('scenes-full', {}), ('flickr8k', PHOTOGRAPHS)])
def test_the_hinge_differs_by_its_parts_alone(dataset, options):
    "Margin and warm-up of the row are those of the hardest triplet, which has them from the defaults of a dataset"
    rows = {r.name:r.config for r in grid_rows(dataset, **options)}
    plain,parts = rows['Hardest triplet'],rows['Hardest triplet + candidates, cross pairs, penalty']
    warm_up = plain.warmup_epochs
    assert (parts.margin, parts.warmup_epochs, parts.active_from)==(plain.margin, warm_up, warm_up)
    assert (parts.selection, parts.adaptive_margin, parts.filter_hidden, parts.mining_weight)==('hardest', 0, False, 0)


def test_colours():
    names = ['Hardest triplet', 'InfoNCE', 'AHRL', 'AMSPS', 'FNE', 'AOQ', 'AMSPS, graded', 'InfoNCE + consensus']
    assert row_colours()=={name:slot for slot,name in enumerate(names)}


# Parameters

def test_parameters_cell_is_run_config():
    known = pm.inspect_notebook(str(TRAIN))
    assert list(known)==list(RunConfig.model_fields)
    for name,f in RunConfig.model_fields.items():
        assert eval(known[name]['default'])==f.default, name
        assert type(f.default).__name__==known[name]['inferred_type_name'], name


def test_the_notebook_itself_refuses_an_unknown_name(tmp_path):
    "papermill alone only warns"
    quick = dict(progress_bar=False, cwd=str(ROOT), kernel_manager_class=WarmKernelManager)
    with pytest.raises(pm.PapermillExecutionError, match='unknown parameter `marginn`'):
        pm.execute_notebook(str(TRAIN), str(tmp_path/'o.ipynb'), dict(marginn=.3), **quick)


def test_vocabulary_is_of_the_training_split():
    "A word that only dev and test captions have is unknown to the tokeniser of a run"
    from amsps.companion.build import build_model
    from amsps.companion.datasets import RunData
    from amsps.data import Annotations
    captions = ['red dog', 'blue dog', 'green dog']
    notes = Annotations(list('abc'), ['train', 'dev', 'test'], captions, ['a0', 'b0', 'c0'], np.arange(3))
    data = RunData(notes, np.zeros((3,1,4), np.float32), '')
    _,tokenizer = build_model(parse_config(dict(min_count=1)), data, data.split('train'))
    assert set(tokenizer.get_vocab())=={'[PAD]', '[UNK]', '[BOS]', '[EOS]', 'red', 'dog'}


# Failures

def failing_notebook(path, seed):
    "The training notebook, failing in its cell that trains"
    notebook = nbformat.read(TRAIN, 4)
    cell = next(c for c in notebook.cells if 'train_run' in c.source and 'record =' in c.source)
    cell.source = f"if config.seed=={seed}: raise RuntimeError('the power went')\n{cell.source}"
    nbformat.write(notebook, path)
    return path


@pytest.fixture(scope='module')
def power_cut(tmp_path_factory):
    "Three seeds, of which the middle one fails: made with `stop`, without it, and with the mended notebook"
    folder = tmp_path_factory.mktemp('power_cut')
    notebook,rows = failing_notebook(folder/'train.ipynb', seed=1),a_row(folder/'cache', 3)
    found = dict(rows=rows, log=folder/'cache/grid.jsonl')
    def attempt(name, **how):
        said = []
        failures = run_grid(plan_runs(rows), jobs=1, threads=1, say=said.append, **how)
        found[name] = dict(failures=failures, said=said, states=states(rows))
    attempt('stopped', stop=True, notebook=notebook)
    attempt('went on', notebook=notebook)
    attempt('mended')
    return found


def test_stop_after_a_failure(power_cut):
    "With `stop` nothing more is started"
    found = power_cut['stopped']
    assert found['states']==['cached', 'missing', 'missing'] and len(found['failures'])==1


def test_one_failure_harms_no_other_run(power_cut):
    "Without `stop` the others finish, and the failure names cell and error"
    found = power_cut['went on']
    assert found['states']==['cached', 'missing', 'cached'] and len(found['failures'])==1
    text = str(found['failures'][0])
    assert 'RuntimeError: the power went' in text and 'train_run' in text and 'failed in cell' in text
    assert any('FAILED: RuntimeError: the power went' in line for line in found['said'])


def test_only_the_missing_run_is_made(power_cut):
    found = power_cut['mended']
    assert found['states']==['cached']*3 and not found['failures']
    assert '3 runs: 2 complete, 1 to do' in found['said']


def test_log_of_a_grid(power_cut):
    events = [json.loads(line)['event'] for line in power_cut['log'].read_text('utf-8').splitlines()]
    counts = {kind:events.count(kind) for kind in ('plan', 'start', 'epoch', 'done', 'failed')}
    assert counts==dict(plan=3, start=5, epoch=6, done=3, failed=2)


# Dask

@pytest.mark.slow
def test_two_dask_workers(power_cut, tmp_path):
    "Two workers of a Dask scheduler make the same records as this machine's own processes"
    from distributed import LocalCluster
    rows = a_row(tmp_path, 2)
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        assert run_grid(plan_runs(rows), jobs=2, executor='dask', address=cluster.scheduler_address)==[]
    here,there = plan_runs(power_cut['rows'])[:2],plan_runs(rows)
    assert [p.name for p in here]==[p.name for p in there]
    for a,b in zip(here, there):
        a,b = (json.loads((p.folder/'record.json').read_text('utf-8')) for p in (a, b))
        for key in ('metrics', 'history', 'similarities', 'map', 'key'):
            assert a[key]==b[key], key


def test_no_dask_scheduler(tmp_path, monkeypatch):
    monkeypatch.setattr(schedule, 'DASK_TIMEOUT', '1s')
    with pytest.raises(InputError, match='no Dask scheduler answers at tcp://127.0.0.1:9'):
        run_grid(plan_runs(a_row(tmp_path)), executor='dask', address='tcp://127.0.0.1:9')
