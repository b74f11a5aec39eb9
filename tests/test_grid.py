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

def test_own_photographs_and_text_encoder(cli, small_flickr8k, backbone, tmp_path):
    "Official layout, features from a backbone, a transformers text encoder, hidden positives of experts: one run, and no place of this machine in what it leaves"
    from transformers import BertConfig, BertModel
    from amsps.data import build_tokenizer
    tok = build_tokenizer(['a red dog on the grass'], 1); tok.save_pretrained(tmp_path/'bert')
    BertModel(BertConfig(vocab_size=len(tok), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)).save_pretrained(tmp_path/'bert')
    (small_flickr8k/'ExpertAnnotations.txt').write_text('scene00020.jpg\tscene00021.jpg#0\t3\t4\t3\nscene00020.jpg\tscene00020.jpg#0\t4\t4\t4\n')
    r = cli('train', '--dataset', 'flickr8k', '--data-root', small_flickr8k, '--backbone', backbone, '--grid', 2, '--text-backbone', tmp_path/'bert', '--freeze-text', '--epochs', 1, '--cache-dir', tmp_path/'cache')
    assert r.returncode==0, r.stdout+r.stderr
    folder = next((tmp_path/'cache/runs').glob('*/record.json')).parent
    record = json.loads((folder/'record.json').read_text())
    assert sum(record['similarities']['hidden'])==1 and record['config']['text_backbone']=='bert'
    for f in (folder/'record.json', folder/'model/config.json'): assert str(tmp_path) not in f.read_text()
    assert cli('report', folder.parent, '--output', tmp_path/'out').returncode==0 and not (tmp_path/'out/figure_retrieval.png').exists()
    assert cli('report', folder.parent, '--output', tmp_path/'out', '--data-root', small_flickr8k).returncode==0 and (tmp_path/'out/figure_retrieval.png').exists()

def test_vocabulary_is_of_the_training_split():
    "A word that only dev and test captions have is unknown to the tokeniser of a run"
    from amsps.data import Annotations
    from amsps.runs import RunData, build_model
    import numpy as np
    notes = Annotations(['a','b','c'], ['train','dev','test'], ['red dog', 'blue dog', 'green dog'], ['a0','b0','c0'], np.arange(3))
    data = RunData(notes, np.zeros((3,1,4), np.float32), '')
    _,tok = build_model(parse_config(dict(min_count=1)), data, data.split('train'))
    assert set(tok.get_vocab())=={'[PAD]','[UNK]','[BOS]','[EOS]','red','dog'}

def test_failing_notebook_on_the_command_line(tmp_path):
    "amsps reproduce: a model that diverges stops with exit code 1, names cell and error; nothing is recorded"
    r = amsps('train', *TINY, '--learning-rate', 1e30, '--cache-dir', tmp_path)
    assert r.returncode==1 and 'non-finite loss at step' in r.stderr and 'failed in cell' in r.stderr and 'Traceback' not in r.stderr, r.stderr
    assert not list(tmp_path.rglob('record.json'))

def test_bare_papermill_refuses_an_unknown_name(tmp_path):
    try: pm.execute_notebook(str(TRAIN), str(tmp_path/'o.ipynb'), dict(marginn=.3), progress_bar=False, cwd=str(ROOT))
    except pm.PapermillExecutionError as e: assert 'unknown parameter `marginn`' in e.evalue
    else: raise AssertionError('it ran')
