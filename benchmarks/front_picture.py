"""The picture of the README: pairs that nobody annotated and that the miner found on the generated scenes.

    python benchmarks/front_picture.py [--output figures/front.png] [--cache-dir DIR]

Trains the row AMSPS of the scenes at full size with seed 0 (minutes; cached), reads the hidden positives of its last
mining pass, and draws six of them at random, of different images, wrong ones included."""
import argparse
import io
import textwrap
from pathlib import Path
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from amsps.companion.build import build_loss, build_miner
from amsps.companion.datasets import load_data
from amsps.companion.grid import grid_rows
from amsps.companion.runs import run_dir, train_run
from amsps.mining import filter_confidence

PAIRS = 6
INK, QUIET = '#222222', '#777777'
TRUE, FALSE = '#1b7837', '#b2182b'


def mined_pairs(config, data):
    "(image, caption, confidence) of the training split's hidden positives, after the last pass"
    train_run(config, data)
    train,dev = data.split('train'),data.split('dev')
    folder = run_dir(config, data)
    last = max(folder.glob('mined*.npz'), key=lambda f: int(f.stem.removeprefix('mined')))
    callback = build_miner(config, data, train, dev, folder, build_loss(config).needs)
    callback.miner.load(folder, last.stem)
    return train,filter_confidence(callback.miner.confidence, config.hidden_confidence).tocoo()


def draw(train, pairs, data, chosen, path):
    "One column a pair: the picture, its own caption, the mined caption with its confidence and whether it is true"
    relevance = data.split_relevance(train)
    fig,axes = plt.subplots(1, len(chosen), figsize=(11.5, 3.5))
    fig.subplots_adjust(left=.01, right=.99, top=.98, bottom=.40, wspace=.08)
    for ax,k in zip(axes, chosen):
        i,j,confidence = int(pairs.row[k]),int(pairs.col[k]),float(pairs.data[k])
        own = train.captions[int(np.flatnonzero(train.caption_image==i)[0])]
        true = bool(relevance[i,j])
        ax.imshow(data.scenes.picture(int(train.rows[i])))
        ax.set_axis_off()
        place = dict(transform=ax.transAxes, va='top', fontsize=8.5, linespacing=1.25)
        ax.text(0, -.06, 'written for it', color=QUIET, **place)
        ax.text(0, -.15, textwrap.fill(own, 27), color=INK, **place)
        ax.text(0, -.47, f'mined, confidence {confidence:.2f}', color=QUIET, **place)
        mark = '✓' if true else '✗'
        ax.text(0, -.56, textwrap.fill(f'{mark} {train.captions[j]}', 27), color=TRUE if true else FALSE, **place)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = io.BytesIO()
    fig.savefig(picture, dpi=110)
    Image.open(picture).convert('RGB').quantize(96).save(path, optimize=True) # a palette keeps it under 200 KiB


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--output', type=Path, default=Path('figures/front.png'))
    parser.add_argument('--cache-dir', default='')
    args = parser.parse_args()
    row = next(r for r in grid_rows('scenes-full', cache_dir=args.cache_dir) if r.name=='AMSPS')
    config = row.config
    data = load_data(config)
    train,pairs = mined_pairs(config, data)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(pairs.data))
    first_of_image = np.sort(np.unique(pairs.row[order], return_index=True)[1])
    chosen = order[first_of_image[:PAIRS]]
    draw(train, pairs, data, chosen, args.output)
    true = np.asarray(data.split_relevance(train)[pairs.row, pairs.col]).astype(bool).mean()
    print(f'{len(pairs.data):,} pairs mined, {100*true:.0f} % of them true; {args.output}')


if __name__=='__main__':
    main()
