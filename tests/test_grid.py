"Grids of notebooks: parameters, failures, repetition."
import json
import nbformat, papermill as pm
from amsps.companion.config import RunConfig, parse_config
from amsps.companion.grid import Row
from amsps.companion.schedule import plan_runs, run_grid
from conftest import ROOT, TINY

TRAIN = ROOT/'nbs/experiments/train.ipynb'
SMALL = dict(scenes_train=40, scenes_dev=15, scenes_test=20, embed_size=16, word_size=8, region_hidden=0, epochs=2)

def test_parameters_cell_is_run_config():
    known = pm.inspect_notebook(str(TRAIN))
    assert list(known)==list(RunConfig.model_fields)
    for name,f in RunConfig.model_fields.items():
        assert eval(known[name]['default'])==f.default, name
        assert type(f.default).__name__==known[name]['inferred_type_name'], name

def fails_on_seed(seed, path):
    "The training notebook, failing in its cell that trains"
    nb = nbformat.read(TRAIN, 4)
    cell = next(c for c in nb.cells if 'train_run' in c.source and 'record =' in c.source)
    cell.source = f"if config.seed=={seed}: raise RuntimeError('the power went')\n"+cell.source
    nbformat.write(nb, path)

def test_one_failure_harms_no_other_run(tmp_path):
    "The middle one of three runs fails in its notebook; the others finish, and the failure names cell and error"
    fails_on_seed(1, tmp_path/'train.ipynb')
    def plan(): return plan_runs([Row('a row', frozenset(), parse_config(SMALL|dict(cache_dir=str(tmp_path/'cache'))), 3)])
    said = []
    failures = run_grid(plan(), jobs=2, say=said.append, notebook=tmp_path/'train.ipynb')
    assert [(p.config.seed, p.state) for p in plan()]==[(0,'cached'), (1,'missing'), (2,'cached')] and len(failures)==1
    text = str(failures[0])
    assert 'RuntimeError: the power went' in text and 'train_run' in text and 'failed in cell' in text
    assert any('FAILED: RuntimeError: the power went' in s for s in said)
    events = [json.loads(l) for l in (tmp_path/'cache/grid.jsonl').read_text().splitlines()]
    assert [sum(e['event']==k for e in events) for k in ('start','epoch','done','failed')]==[3,4,2,1]
    assert not run_grid(plan(), jobs=2, say=said.append) and '3 runs: 2 complete, 1 to do' in said   # the mended notebook: only the missing run

def test_stop_after_a_failure(tmp_path):
    "With `stop` nothing more is started; without it everything else is made"
    fails_on_seed(0, tmp_path/'train.ipynb')
    rows = [Row('a row', frozenset(), parse_config(SMALL|dict(cache_dir=str(tmp_path/'cache'))), 3)]
    assert len(run_grid(plan_runs(rows), jobs=1, stop=True, notebook=tmp_path/'train.ipynb'))==1
    assert [p.state for p in plan_runs(rows)]==['missing']*3
    assert len(run_grid(plan_runs(rows), jobs=1, notebook=tmp_path/'train.ipynb'))==1
    assert [p.state for p in plan_runs(rows)]==['missing','cached','cached']

def test_two_processes_share_a_grid(tmp_path):
    "Neither makes what the other makes; both end well"
    import subprocess, sys
    both = [subprocess.Popen([sys.executable, str(ROOT/'benchmarks/unplug.py'), '--work', str(tmp_path/'cache'), str(tmp_path/f'out{i}'), '2'], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT) for i in range(2)]
    said = [p.communicate(timeout=400)[0] for p in both]
    assert [p.returncode for p in both]==[0,0], said
    events = [json.loads(l) for l in (tmp_path/'cache/grid.jsonl').read_text().splitlines()]
    records = [json.loads(f.read_text()) for f in (tmp_path/'cache/runs').glob('*/record.json')]
    assert len(records)==4 and not any(r['resumed'] for r in records)
    assert sorted(e['run'] for e in events if e['event']=='done')==sorted(r['name'] for r in records), 'each run was made once'
    assert {e['process'] for e in events if e['event']=='done'}=={p.pid for p in both}, 'they shared the work'
    assert (tmp_path/'out0/figure_map.png').read_bytes()==(tmp_path/'out1/figure_map.png').read_bytes()

def test_own_photographs_and_text_encoder(cli, small_flickr8k, backbone, tmp_path):
    "Official layout, features from a backbone, a transformers text encoder, hidden positives of experts: one run, and no place of this machine in what it leaves"
    from transformers import BertConfig, BertModel
    from amsps.data import build_tokenizer
    tok = build_tokenizer(['a red dog on the grass'], 1); tok.save_pretrained(tmp_path/'bert')
    BertModel(BertConfig(vocab_size=len(tok), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)).save_pretrained(tmp_path/'bert')
    (small_flickr8k/'ExpertAnnotations.txt').write_text('scene00020.jpg\tscene00021.jpg#0\t3\t4\t3\nscene00020.jpg\tscene00020.jpg#0\t4\t4\t4\n')
    r = cli('train', '--dataset', 'flickr8k', '--data-root', small_flickr8k, '--backbone', backbone, '--grid', 2, '--text-backbone', tmp_path/'bert', '--freeze-text', '--epochs', 1, '--seed', 2, '--cache-dir', tmp_path/'cache')
    assert r.returncode==0, r.stdout+r.stderr
    folder = next((tmp_path/'cache/runs').glob('*/record.json')).parent
    record = json.loads((folder/'record.json').read_text())
    assert sum(record['similarities']['hidden'])==1 and record['config']['seed']==2 and record['config']['text_backbone']=='bert'
    for f in (folder/'record.json', folder/'model/config.json'): assert str(tmp_path) not in f.read_text()
    assert cli('report', folder.parent, '--output', tmp_path/'out').returncode==0 and not list((tmp_path/'out').glob('figure_retrieval*'))
    assert cli('report', folder.parent, '--output', tmp_path/'out', '--data-root', small_flickr8k).returncode==0 and list((tmp_path/'out').glob('figure_retrieval*.png'))

def test_vocabulary_is_of_the_training_split():
    "A word that only dev and test captions have is unknown to the tokeniser of a run"
    from amsps.data import Annotations
    from amsps.companion.datasets import RunData
    from amsps.companion.build import build_model
    import numpy as np
    notes = Annotations(['a','b','c'], ['train','dev','test'], ['red dog', 'blue dog', 'green dog'], ['a0','b0','c0'], np.arange(3))
    data = RunData(notes, np.zeros((3,1,4), np.float32), '')
    _,tok = build_model(parse_config(dict(min_count=1)), data, data.split('train'))
    assert set(tok.get_vocab())=={'[PAD]','[UNK]','[BOS]','[EOS]','red','dog'}

def test_failing_notebook_on_the_command_line(cli, tmp_path):
    "amsps train: a model that diverges stops with exit code 1, names cell and error; nothing is recorded"
    r = cli('train', *TINY, '--learning-rate', 1e30, '--cache-dir', tmp_path)
    assert r.returncode==1 and 'non-finite loss at step' in r.stderr and 'failed in cell' in r.stderr and 'Traceback' not in r.stderr, r.stderr
    assert not list(tmp_path.rglob('record.json'))

def test_bare_papermill_refuses_an_unknown_name(tmp_path):
    try: pm.execute_notebook(str(TRAIN), str(tmp_path/'o.ipynb'), dict(marginn=.3), progress_bar=False, cwd=str(ROOT))
    except pm.PapermillExecutionError as e: assert 'unknown parameter `marginn`' in e.evalue
    else: raise AssertionError('it ran')

def test_two_dask_workers(tmp_path):
    "The same records from two workers of a Dask scheduler as from this machine's own processes"
    from distributed import LocalCluster
    def made(cache, **how):
        rows = [Row('a row', frozenset(), parse_config(SMALL|dict(cache_dir=str(tmp_path/cache))), 2)]
        assert run_grid(plan_runs(rows), jobs=2, **how)==[]
        return {p.name:json.loads((p.folder/'record.json').read_text()) for p in plan_runs(rows)}
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster: there = made('dask', executor='dask', address=cluster.scheduler_address)
    here = made('here')
    assert list(here)==list(there)
    for n in here:
        for k in ('metrics','history','similarities','map','key'): assert here[n][k]==there[n][k], (n, k)

def test_no_dask_scheduler(tmp_path):
    import pytest
    from amsps.errors import InputError
    rows = [Row('a row', frozenset(), parse_config(SMALL|dict(cache_dir=str(tmp_path))), 1)]
    with pytest.raises(InputError, match='no Dask scheduler answers at tcp://127.0.0.1:9'): run_grid(plan_runs(rows), executor='dask', address='tcp://127.0.0.1:9')

def test_disk_full_while_training(tmp_path):
    "Said, nothing recorded; with room again the same command goes on"
    import resource, subprocess, sys
    from pathlib import Path
    from amsps.companion.datasets import load_data
    load_data(parse_config(SMALL|dict(epochs=3, cache_dir=str(tmp_path))))
    command = [Path(sys.executable).parent/'amsps', 'train', *map(str, TINY), '--cache-dir', str(tmp_path)]
    def little(): resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))
    r = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, preexec_fn=little)
    assert r.returncode==1 and 'File too large' in r.stderr+r.stdout and 'Traceback' not in r.stderr, r.stdout+r.stderr
    assert not list(tmp_path.rglob('record.json'))
    assert subprocess.run(command, capture_output=True, cwd=ROOT).returncode==0 and len(list(tmp_path.rglob('record.json')))==1

def test_outputs_that_cannot_be_written(cli, tmp_path):
    (tmp_path/'file').touch()
    for option in ('--output', '--records', '--cache-dir'):
        r = cli('reproduce', '--figure', 'map', option, tmp_path/'file/x')
        assert r.returncode==2 and 'cannot create the' in r.stderr and 'Traceback' not in r.stderr, (option, r.stderr)

def test_explain_and_force(cli, tmp_path):
    "reproduce --figure makes just that; --explain says why; --force makes it again, to the same bytes"
    def amsps(*more): r = cli('reproduce', '--figure', 'concepts', '--seeds', 1, '--cache-dir', tmp_path/'cache', '--output', tmp_path/'out', *more); assert r.returncode==0, r.stderr; return r.stdout
    assert '1 runs: 1 missing' in amsps('--explain') and not (tmp_path/'out').exists()
    assert '1 runs: 0 complete, 1 to do' in amsps()
    first = (tmp_path/'out/figure_concepts.png').read_bytes()
    assert {p.name for p in (tmp_path/'out').glob('*.png')}=={'figure_concepts.png'} and (tmp_path/'out/report.html').exists()
    said = amsps('--explain'); assert 'cached       AMSPS, seed 0' in said and 'made         figure_concepts' in said
    assert 'up to date: nothing to do' in amsps() and 'figure_concepts' in amsps('--force', 'figure_concepts')
    r = cli('reproduce', '--figure', 'concepts', '--force', 'table_main', '--explain', '--seeds', 1, '--cache-dir', tmp_path/'cache')
    assert r.returncode==2 and '--force table_main: no run, row, table or figure of this grid' in r.stderr
    assert '1 runs: 0 complete, 1 to do' in amsps('--force', 'AMSPS') and (tmp_path/'out/figure_concepts.png').read_bytes()==first
    assert 'missing      AMSPS, seed 0: forced' in amsps('--explain', '--force', 'AMSPS')
    assert 'stale        figure_concepts: forced' in amsps('--explain', '--force', 'figure_concepts') and 'up to date: nothing to do' in amsps()
    (tmp_path/'out/figure_concepts.png').write_bytes(b''); assert 'stale        figure_concepts: figure_concepts.png was changed by hand' in amsps('--explain')
    r = cli('reproduce', '--figure', 'concepts', '--force', 'AHLR', '--seeds', 1, '--cache-dir', tmp_path/'cache', '--output', tmp_path/'out')
    assert r.returncode==2 and '--force AHLR: no run, row, table or figure' in r.stderr
