"Grids of notebooks: comparisons, parameters, failures, repetition."
import json
import random
import resource
import subprocess
import sys
import nbformat
import numpy as np
import papermill as pm
import pytest
from amsps.companion import schedule
from amsps.companion.config import RunConfig, parse_config
from amsps.companion.grid import Row, grid_rows, read_grid, references, row_colours, row_order
from amsps.companion.kernels import WarmKernelManager
from amsps.companion.schedule import plan_runs, run_grid
from amsps.errors import InputError
from conftest import ROOT, TINY

TRAIN = ROOT/'nbs/experiments/train.ipynb'
SMALL = dict(scenes_train=40, scenes_dev=15, scenes_test=20, embed_size=16, word_size=8, region_hidden=0, epochs=2)
PHOTOGRAPHS = dict(data_root='d', backbone='b', text_backbone='t', freeze_text=True)


def a_row(cache, seeds=1):
    return [Row('a row', frozenset(), parse_config(SMALL|dict(cache_dir=str(cache))), seeds)]


def states(rows):
    return [p.state for p in plan_runs(rows)]


# Comparisons: what the grid file says, against the rules by name that it replaces

def first_of_model(row, rows, models):
    own = [r for r in rows if models.get(r)==models[row]]
    return own[:1] if row!=own[0] else []


def references_by_name(row, rows, models):
    "The rules that the grid's `against` was made from"
    if models.get(row):
        return first_of_model(row, rows, models)
    if row.startswith('AHRL without ') and 'AHRL' in rows:
        return ['AHRL']
    if row.startswith('+ ') and '+ smooth selection' in rows and row!='+ smooth selection':
        return ['+ smooth selection']
    more = {'AMSPS, graded': ['AMSPS', 'AMSPS, smoothed'], 'AMSPS, smoothed': ['AMSPS']}
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


def test_parts_of_the_whole():
    "The rows of the ablation are found by data"
    parts = [r.name for r in read_grid().rows if r.part_of]
    assert parts==[name for name in row_order() if name.startswith(('+ ', 'AHRL without '))]


def test_colours():
    names = ['Hardest triplet', 'InfoNCE', 'AHRL', 'AMSPS', 'FNE', 'AOQ', 'AMSPS, graded', 'SAM']
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


def test_failing_notebook_on_the_command_line(cli, tmp_path):
    "A model that diverges ends with exit code 1, names cell and error, and leaves no record"
    r = cli('train', *TINY, '--learning-rate', 1e30, '--cache-dir', tmp_path)
    assert r.returncode==1, r.stderr
    assert 'non-finite loss at step' in r.stderr and 'failed in cell' in r.stderr and 'Traceback' not in r.stderr
    assert not list(tmp_path.rglob('record.json'))


def test_disk_full_while_training(cli, tmp_path):
    "It is said, nothing is recorded; with room again the same command resumes"
    from amsps.companion.datasets import load_data
    load_data(parse_config(SMALL|dict(epochs=3, cache_dir=str(tmp_path))))
    command = ['train', *map(str, TINY), '--cache-dir', str(tmp_path)]
    def little_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))
    python = [sys.executable, '-c', 'from amsps.companion.cli import main; main()']
    r = subprocess.run([*python, *command], capture_output=True, cwd=ROOT, preexec_fn=little_room, encoding='utf-8')
    assert r.returncode==1 and 'File too large' in r.stderr+r.stdout, r.stdout+r.stderr
    assert 'Traceback' not in r.stderr
    assert not list(tmp_path.rglob('record.json'))
    assert cli(*command).returncode==0 and len(list(tmp_path.rglob('record.json')))==1


def test_outputs_that_cannot_be_written(cli, tmp_path):
    (tmp_path/'file').touch()
    for option in ('--output', '--records', '--cache-dir'):
        r = cli('reproduce', '--figure', 'map', option, tmp_path/'file/x')
        assert r.returncode==2 and 'cannot create the' in r.stderr, (option, r.stderr)
        assert 'Traceback' not in r.stderr


# Dask

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


# Whole commands

def tiny_text_encoder(folder):
    "A random BERT in transformers' format"
    from amsps.data import build_tokenizer
    from transformers import BertConfig, BertModel
    tokenizer = build_tokenizer(['a red dog on the grass'], 1)
    size = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    tokenizer.save_pretrained(folder)
    BertModel(BertConfig(vocab_size=len(tokenizer), **size)).save_pretrained(folder)
    return folder


def test_own_photographs_and_text_encoder(cli, small_flickr8k, backbone, tmp_path):
    "Official layout, a vision backbone, a text encoder, expert judgements: one run and its report"
    judged = ['scene00020.jpg\tscene00021.jpg#0\t3\t4\t3', 'scene00020.jpg\tscene00020.jpg#0\t4\t4\t4']
    (small_flickr8k/'ExpertAnnotations.txt').write_text('\n'.join(judged)+'\n', 'utf-8')
    data = ['--dataset', 'flickr8k', '--data-root', small_flickr8k, '--backbone', backbone, '--grid', 2]
    text = ['--text-backbone', tiny_text_encoder(tmp_path/'bert'), '--freeze-text']
    r = cli('train', *data, *text, '--epochs', 1, '--seed', 2, '--cache-dir', tmp_path/'cache')
    assert r.returncode==0, r.stdout+r.stderr
    folder = next((tmp_path/'cache/runs').glob('*/record.json')).parent
    record = json.loads((folder/'record.json').read_text('utf-8'))
    assert sum(record['similarities']['hidden'])==1
    assert record['config']['seed']==2 and record['config']['text_backbone']=='bert'
    for f in (folder/'record.json', folder/'model/config.json'):
        assert str(tmp_path) not in f.read_text('utf-8'), f'{f.name} names a place of this machine'
    report = ['report', folder.parent, '--output', tmp_path/'out']
    r = cli(*report)
    assert r.returncode==0, r.stdout+r.stderr
    assert not list((tmp_path/'out').glob('figure_retrieval*'))
    assert cli(*report, '--data-root', small_flickr8k).returncode==0
    assert list((tmp_path/'out').glob('figure_retrieval*.png'))


@pytest.fixture
def concepts(cli, tmp_path):
    "`amsps reproduce --figure concepts` with one seed: what it prints, and its picture"
    command = ['reproduce', '--figure', 'concepts', '--seeds', 1, '--cache-dir', tmp_path/'cache']
    def run(*more):
        return cli(*command, '--output', tmp_path/'out', *more)
    def said(*more):
        r = run(*more)
        assert r.returncode==0, r.stderr
        return r.stdout
    return run,said,tmp_path/'out/figure_concepts.png'


def test_explain_and_force(concepts):
    "reproduce --figure makes just that; --explain says why; --force makes it again, to the same bytes"
    run,said,picture = concepts
    assert '1 run: 1 missing' in said('--explain') and not picture.parent.exists()
    assert '1 run: 0 complete, 1 to do' in said()
    first = picture.read_bytes()
    assert [p.name for p in picture.parent.glob('*.png')]==['figure_concepts.png']
    assert (picture.parent/'report.html').exists()
    explained = said('--explain')
    assert 'cached       AMSPS, seed 0' in explained and 'made         figure_concepts' in explained
    assert 'up to date: nothing to do' in said()

    assert 'stale        figure_concepts: forced' in said('--explain', '--force', 'figure_concepts')
    assert 'missing      AMSPS, seed 0: forced' in said('--explain', '--force', 'AMSPS')
    assert 'up to date: nothing to do' in said(), '--explain changes nothing'
    assert 'figure_concepts' in said('--force', 'figure_concepts')
    assert '1 run: 0 complete, 1 to do' in said('--force', 'AMSPS') and picture.read_bytes()==first

    picture.write_bytes(b'')
    assert 'stale        figure_concepts: figure_concepts.png was changed by hand' in said('--explain')
    for unknown in (['--force', 'AHLR'], ['--force', 'table_main', '--explain']):
        r = run(*unknown)
        assert r.returncode==2 and f'{" ".join(unknown[:2])}: no run, row, table or figure of this grid' in r.stderr
