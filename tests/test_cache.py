"The code in a run's key is at least the code that the run enters."
import sys
from pathlib import Path
import pytest
import amsps
from amsps.companion.cache import _module, training_cells, used_code
from amsps.companion.paths import asset
from amsps.companion.config import parse_config

FOLDER = Path(amsps.__file__).parent
SMALL = dict(scenes_train=40, scenes_dev=15, scenes_test=20, embed_size=16, word_size=8, region_hidden=0, epochs=3, warmup_epochs=1, active_from=1, candidates=20)
RUNS = {'hardest triplet':dict(), 'InfoNCE':dict(loss='infonce'), 'SAM':dict(loss='sam'), 'AOQ':dict(loss='aoq'), 'FNE':dict(loss='fne', evidence='none'), 'AHRL, GPO':dict(loss='ahrl', pooling='gpo'),
    'AMSPS':dict(loss='ahrl', n_concepts=20, consensus='likelihood', pooling='attention'), 'CVSE':dict(n_concepts=20), 'untrained BERT':dict(text_backbone='untrained'),
    'AHRL, no part on':dict(loss='ahrl', adaptive_margin=0., offline_weight=0., cross_weight=0., penalty=False, filter_hidden=False, mining_weight=0.)}

def definition_of(frame):
    "module.name of the top-level definition that a frame belongs to"
    return f'{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_qualname.split(".")[0]}'

@pytest.mark.parametrize('name', RUNS)
def test_no_run_enters_code_that_its_key_lacks(name, tmp_path):
    from amsps.companion.datasets import load_data
    from amsps.companion.runs import train_run
    config,entered = parse_config(SMALL|RUNS[name]|dict(cache_dir=str(tmp_path))),set()
    def note(frame, event, arg):
        if event=='call' and frame.f_code.co_filename.startswith(str(FOLDER)): entered.add(definition_of(frame))
    sys.setprofile(note)
    try: train_run(config, load_data(config))
    finally: sys.setprofile(None)
    used = used_code(config, training_cells(asset('nbs/experiments/train.ipynb')))
    known = {d for d in entered if d.split('.', 1)[1] in _module(d.split('.')[0])[0]} # not module bodies, which imports run
    lacks = {d for d in known if not d.startswith(('config.','cache.'))}-set(used)
    assert len(known)>40 and not lacks, lacks
