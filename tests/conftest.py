import os, subprocess, sys
from pathlib import Path
import numpy as np, pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent/'shared'
os.environ.setdefault('OMP_NUM_THREADS', '1')

@pytest.fixture(scope='session')
def flickr8k():
    "The real Flickr8k, where it lies beside the project"
    root = SHARED/'data/flickr8k'
    if not root.is_dir(): pytest.skip('no Flickr8k beside the project')
    return root

def amsps(*args, timeout=300, **env):
    "Run the command line as a user does"
    return subprocess.run([Path(sys.executable).parent/'amsps', *map(str, args)], capture_output=True, text=True, timeout=timeout, env=os.environ|env, cwd=ROOT)

@pytest.fixture
def cli(capfd, monkeypatch):
    "The same in this process, which saves the imports: what `amsps` prints and its exit code"
    from amsps.companion.cli import main
    def run(*args):
        monkeypatch.setattr(sys, 'argv', ['amsps', *map(str, args)]); monkeypatch.chdir(ROOT); capfd.readouterr()
        try: main(); code = 0
        except SystemExit as e: code = e.code or 0
        out = capfd.readouterr()
        return subprocess.CompletedProcess(args, code, out.out, out.err)
    return run

TINY = ['--scenes-train', 40, '--scenes-dev', 15, '--scenes-test', 20, '--embed-size', 16, '--word-size', 8, '--region-hidden', 0, '--epochs', 3]

@pytest.fixture(scope='session')
def backbone(tmp_path_factory):
    "A small random MobileNetV2 in transformers' format"
    from transformers import MobileNetV2Config, MobileNetV2ImageProcessorPil, MobileNetV2Model
    d = tmp_path_factory.mktemp('backbone')
    MobileNetV2Model(MobileNetV2Config(image_size=64, depth_multiplier=.35)).save_pretrained(d)
    MobileNetV2ImageProcessorPil(size=dict(height=64, width=64), do_center_crop=False).save_pretrained(d)
    return d

@pytest.fixture(scope='session')
def source():
    "What `layouts.py` writes in many layouts"
    from layouts import Source
    return Source()

@pytest.fixture
def small_flickr8k(tmp_path):
    "Real layout, 24 drawn images with two captions each, and one orphan caption"
    from amsps.scenes import make_scenes
    data,root = make_scenes(16, 4, 4, captions=2),tmp_path/'flickr8k'
    (root/'Flicker8k_Dataset').mkdir(parents=True)
    a = data.annotations
    for i,n in enumerate(a.image_ids): data.picture(i).save(root/f'Flicker8k_Dataset/{n}.jpg')
    for s in ('train','dev','test'): (root/f'Flickr_8k.{s}Images.txt').write_text(''.join(f'{n}.jpg\n' for n,t in zip(a.image_ids, a.splits) if t==s))
    lines = [f'{a.image_ids[i]}.jpg#{j%2}\t{c}' for j,(i,c) in enumerate(zip(a.caption_image, a.captions))]
    (root/'Flickr8k.token.txt').write_text('\n'.join(lines+['gone.jpg.1#0\tan orphan'])+'\n')
    return root
