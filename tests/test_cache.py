"""The code in a run's key is at least the code that the run enters.

The key is made from the syntax (see the notebook on the cache), and `USED_WHEN` says what a configuration switches off.
Here small runs are traced: every definition of amsps that they enter must be in their key."""
import ast
import sys
from functools import cache
from pathlib import Path
import pytest
import amsps
from amsps.companion.cache import _module, _targets, training_cells, used_code
from amsps.companion.config import parse_config
from amsps.companion.paths import asset

FOLDER = Path(amsps.__file__).parent
UNCOUNTED = ('companion.config.', 'companion.cache.', 'companion.paths.') # They check, name and place values
SMALL = dict(scenes_train=40, scenes_dev=15, scenes_test=20, embed_size=16, word_size=8, region_hidden=0, epochs=3,
             warmup_epochs=1, active_from=1, candidates=20)
NOTHING_ON = dict(loss='ahrl', adaptive_margin=0., offline_weight=0., cross_weight=0., penalty=False,
                  filter_hidden=False, mining_weight=0.)
RUNS = {
    'hardest triplet': dict(),
    'InfoNCE': dict(loss='infonce'),
    'SAM': dict(loss='sam'),
    'AOQ': dict(loss='aoq'),
    'FNE': dict(loss='fne', evidence='none'),
    'AHRL, GPO': dict(loss='ahrl', pooling='gpo'),
    'AHRL, no part on': NOTHING_ON,
    'AMSPS': dict(loss='ahrl', n_concepts=20, consensus='likelihood', pooling='attention'),
    'CVSE': dict(n_concepts=20),
    'untrained BERT': dict(text_backbone='untrained'),
    'averaged regions': dict(pooling='mean'),
}


@cache
def definitions(file):
    "(first line, last line, names) of each top-level definition of a module; a patched method belongs to its class"
    found = []
    for node in ast.parse(Path(file).read_text('utf-8')).body:
        first = min([node.lineno, *[d.lineno for d in getattr(node, 'decorator_list', [])]])
        found.append((first, node.end_lineno, _targets(node)))
    return found


@cache
def module_of(file):
    return '.'.join(Path(file).relative_to(FOLDER).with_suffix('').parts)


def definition_of(code):
    "module.name of the top-level definition that a code object belongs to, or None for the body of a module"
    if code.co_name=='<module>':
        return None
    module = module_of(code.co_filename)
    names = [n for first,last,names in definitions(code.co_filename) if first<=code.co_firstlineno<=last for n in names]
    assert names, f'{module}: no definition holds line {code.co_firstlineno}'
    return f'{module}.{names[0]}'


def traced(train):
    "Definitions of amsps that a function enters"
    codes = set()
    def note(frame, event, arg):
        if event=='call' and frame.f_code.co_filename.startswith(str(FOLDER)):
            codes.add(frame.f_code)
    sys.setprofile(note)
    try:
        train()
    finally:
        sys.setprofile(None)
    found = {definition_of(c) for c in codes}-{None}
    return {d for d in found if not d.endswith('.')} # not statements for their effect, which importing runs


def lacking(config):
    "Definitions that a run enters and its key lacks"
    from amsps.companion.datasets import load_data
    from amsps.companion.runs import train_run
    entered = traced(lambda: train_run(config, load_data(config)))
    counted = {d for d in entered if not d.startswith(UNCOUNTED)}
    assert len(counted)>40
    return counted-set(used_code(config, training_cells(asset('nbs/experiments/train.ipynb'))))


@pytest.mark.parametrize('name', RUNS)
def test_no_run_enters_code_that_its_key_lacks(name, tmp_path):
    assert not lacking(parse_config(SMALL|RUNS[name]|dict(cache_dir=str(tmp_path))))


@pytest.mark.parametrize('tune_text_layers,lora', [(0, 0), (1, 0), (1, 2)])
def test_nor_does_a_run_with_a_frozen_text_encoder(tune_text_layers, lora, tmp_path):
    from transformers import BertConfig, BertModel
    from amsps.data import build_tokenizer
    from amsps.scenes import make_scenes
    tokenizer = build_tokenizer(make_scenes(40, 15, 20).annotations.captions, 1)
    layers = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
    tokenizer.save_pretrained(tmp_path/'bert')
    BertModel(BertConfig(vocab_size=len(tokenizer), **layers)).save_pretrained(tmp_path/'bert')
    text = dict(text_backbone=str(tmp_path/"bert"), freeze_text=True, tune_text_layers=tune_text_layers,
                lora=lora, evidence="sentence")
    assert not lacking(parse_config(SMALL|text|dict(loss='ahrl', pooling='mean', cache_dir=str(tmp_path))))


def test_methods_that_are_patched_belong_to_their_class(tmp_path):
    "The trace and the key see the same definitions"
    file = tmp_path/'m.py'
    method = '@patch_to(A)\ndef f(self):\n    def inner(): return 1\n    return inner()\n'
    file.write_text(f'class A: pass\n\n{method}\nb = 1\n', 'utf-8')
    assert [names for _,_,names in definitions(str(file))]==[['A'], ['A'], ['b']]
    assert definitions(str(file))[1][:2]==(3, 6)


def test_the_trace_finds_what_runs():
    "The test itself: definitions of subpackages and nested functions are named"
    from amsps.companion.config import preset
    from amsps.data import build_tokenizer
    entered = traced(lambda: (preset({}), build_tokenizer(['a red dog'], 1)))
    assert {'companion.config.preset', 'data.build_tokenizer', 'words.words_of'}<=entered
    assert all(d.rpartition('.')[2] in _module(d.rpartition('.')[0])[0] for d in entered)
