import asyncio
import gc
import os
import resource
import subprocess
import sys
import threading
from functools import cache, partial
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
import pytest
from tqdm import tqdm
from tqdm.auto import tqdm as auto_tqdm

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent/'shared'
os.environ['OMP_NUM_THREADS'] = '1' # a copy of a process lacks its threads, and would wait for them


def pytest_addoption(parser):
    parser.addoption('--slow', action='store_true', help="run the tests marked slow, too")


def pytest_configure(config):
    config.addinivalue_line('markers', 'slow: takes minutes; skipped without --slow')


def pytest_collection_modifyitems(config, items):
    if config.getoption('--slow'):
        return
    for item in items:
        if 'slow' in item.keywords:
            item.add_marker(pytest.mark.skip(reason='slow: run it with --slow, or `make test-slow`'))


@pytest.fixture(scope='session')
def flickr8k():
    "The real Flickr8k, where it lies beside the project"
    root = SHARED/'data/flickr8k'
    if not root.is_dir():
        pytest.skip('no Flickr8k beside the project')
    return root


def amsps(*args, timeout=300, **env):
    "Run the command line as a user does"
    command = [Path(sys.executable).parent/'amsps', *map(str, args)]
    return subprocess.run(command, capture_output=True, timeout=timeout, env=os.environ|env, cwd=ROOT, encoding='utf-8')


@pytest.fixture
def cli(capfd, monkeypatch):
    "The same in this process, which saves the imports: what `amsps` prints and its exit code"
    from amsps.companion.cli import main
    def run(*args):
        monkeypatch.setattr(sys, 'argv', ['amsps', *map(str, args)])
        monkeypatch.chdir(ROOT)
        capfd.readouterr()
        try:
            main()
            code = 0
        except SystemExit as e:
            code = e.code or 0
        out = capfd.readouterr()
        return subprocess.CompletedProcess(args, code, out.out, out.err)
    return run


@cache
def copies():
    "The way to start a process: a copy of this one, where that is safe; CUDA works in no copy"
    import torch
    return get_context('fork' if sys.platform=='linux' and not torch.cuda.is_available() else 'spawn')


_started = [] # Copies that a test has started


def forked(function, *args, out, err=None):
    "Start a function in a copy of this process, which has the imports; what it prints goes to files"
    process = copies().Process(target=_printing_to, args=(out, err or out, function, args))
    process.start()
    _started.append(process)
    return process


@pytest.fixture(autouse=True)
def no_copy_is_left():
    "pytest would wait for a copy that a failed test leaves"
    yield
    for process in _started:
        process.kill()
        process.join()
    _started.clear()


def _printing_to(out, err, function, args):
    for stream,file in enumerate((out, err), 1):
        os.dup2(os.open(file, os.O_WRONLY|os.O_CREAT|os.O_APPEND), stream)
    sys.stdout,sys.stderr = (open(n, 'w', buffering=1, encoding='utf-8', closefd=False) for n in (1, 2))
    _own_locks()
    function(*args)


def _own_locks():
    "A copy that is killed while it draws a progress bar would leave the lock of all copies closed"
    for kind in (tqdm, auto_tqdm): kind.set_lock(threading.RLock())


def with_fork_server(function, *args):
    "In a copy: kernels come from a fork server again, as they do outside of tests"
    _patched.undo()
    function(*args)


def command_line(*args):
    "What `amsps` does with these arguments, in a process of its own"
    from amsps.companion.cli import main
    sys.argv = ['amsps', *map(str, args)]
    main()


ONE_BY_ONE = '''
import json, sys
from amsps.companion.cli import main
for command in json.loads(sys.argv[1]):
    sys.argv[1:] = command
    try: main()
    except SystemExit as e:
        if e.code: raise
    print("--- ended", flush=True)
''' # Several commands in a new process, which imports once


@pytest.fixture(scope='session', autouse=True)
def kernels_are_copies():
    "Kernels are copies of a test's own process, which has imported what they need; a fork server imports it again"
    import torch
    from amsps.companion import kernels, schedule
    if copies().get_start_method()!='fork':
        yield
        return
    for name in kernels.PRELOAD: import_module(name)
    gc.collect()
    gc.freeze() # a garbage collection in a copy would write to the pages that both share
    asked = [1] # number of threads
    _patched.setattr(kernels, '_kernel', partial(_copied_kernel, kernels._kernel))
    _patched.setattr(kernels, 'fork_server', copies)
    for module in (kernels, schedule): _patched.setattr(module, 'warm_up', lambda: None)
    _patched.setattr(torch, 'set_num_threads', lambda n: asked.__setitem__(0, n))
    _patched.setattr(torch, 'get_num_threads', lambda: asked[0])
    yield
    _patched.undo()


_patched = pytest.MonkeyPatch()


def _copied_kernel(kernel, *args):
    asyncio.set_event_loop(asyncio.new_event_loop()) # the copied one is running in the process that was copied
    _own_locks()
    kernel(*args)


SMALL = dict(scenes_train=40, scenes_dev=15, scenes_test=20, embed_size=16, word_size=8, region_hidden=0, epochs=2)
TINY = ['--scenes-train', 40, '--scenes-dev', 15, '--scenes-test', 20, '--embed-size', 16, '--word-size', 8,
    '--region-hidden', 0, '--epochs', 3]


@pytest.fixture(scope='session')
def backbone(tmp_path_factory):
    "A small random MobileNetV2 in transformers' format"
    import torch
    from transformers import MobileNetV2Config, MobileNetV2ImageProcessorPil, MobileNetV2Model
    d = tmp_path_factory.mktemp('backbone')
    torch.manual_seed(0)
    model = MobileNetV2Model(MobileNetV2Config(image_size=64, depth_multiplier=.35))
    for p in model.parameters():
        if p.ndim>1: torch.nn.init.kaiming_normal_(p) # as small as they are made, features are 0 in half precision
    model.save_pretrained(d)
    MobileNetV2ImageProcessorPil(size=dict(height=64, width=64), do_center_crop=False).save_pretrained(d)
    return d


@pytest.fixture
def little_room():
    "No file may grow beyond 10 kB; as on a full disk, the error of the system names no file"
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.fixture(scope='session')
def source():
    "What `layouts.py` writes in many layouts"
    from layouts import Source
    return Source()


@pytest.fixture
def small_flickr8k(tmp_path):
    "Real layout, 24 drawn images with two captions each, and one orphan caption"
    return draw_flickr8k(tmp_path/'flickr8k')


def draw_flickr8k(root):
    from amsps.scenes import make_scenes
    data = make_scenes(16, 4, 4, captions=2)
    notes = data.annotations
    (root/'Flicker8k_Dataset').mkdir(parents=True)
    for i,name in enumerate(notes.image_ids):
        data.picture(i).save(root/f'Flicker8k_Dataset/{name}.jpg')
    for split in ('train', 'dev', 'test'):
        names = [f'{n}.jpg\n' for n,s in zip(notes.image_ids, notes.splits) if s==split]
        (root/f'Flickr_8k.{split}Images.txt').write_text(''.join(names), 'utf-8')
    captions = enumerate(zip(notes.caption_image, notes.captions))
    lines = [f'{notes.image_ids[i]}.jpg#{j%2}\t{c}' for j,(i,c) in captions]
    (root/'Flickr8k.token.txt').write_text('\n'.join(lines+['gone.jpg.1#0\tan orphan'])+'\n', 'utf-8')
    return root
