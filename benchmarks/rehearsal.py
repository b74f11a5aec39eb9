"""A rehearsal of the real tables: SCAN's layout in the size of Flickr30K or MSCOCO, with random float16 features,
through the whole path (read, mine, 20 steps, evaluate by the protocol), with wall time and peak memory.

    python benchmarks/rehearsal.py flickr30k --folder DIR [--captions Flickr8k.token.txt] [any option of `amsps train`]

The feature files are sparse: the first of an image's 36 regions is random, the others are holes. The recall numbers
have no meaning."""
import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path
import numpy as np
from amsps.scenes import scene_captions

SHAPES = dict(
    flickr30k=dict(train=29000, dev=1014, test=1000),
    mscoco=dict(train=113287, dev=5000, testall=5000))
REGIONS,SIZE,EACH = 36,2048,5


def read_sentences(file):
    "Captions to cut and join: of a token file, or of scenes"
    if file: return [line.split('\t')[1].strip() for line in Path(file).read_text('utf-8').splitlines()]
    return [c for i in range(2000) for c in scene_captions(i, 5, 0)[2]]


def spliced(sentences, n, rng):
    "n captions, each the first half of one sentence and the second half of another; few are equal"
    words = [s.split() for s in sentences]
    heads = [w[:len(w)//2] for w in words]
    tails = [w[len(w)//2:] for w in words]
    for a,b in zip(rng.integers(len(words), size=n), rng.integers(len(words), size=n)):
        yield ' '.join(heads[a]+tails[b])


def write_features(file, n, rng):
    "A sparse array of n images"
    with open(file, 'wb') as f:
        header = dict(descr='<f2', fortran_order=False, shape=(n, REGIONS, SIZE))
        np.lib.format.write_array_header_1_0(f, header)
        start,image = f.tell(),REGIONS*SIZE*2
        for i in range(n):
            f.seek(start+i*image)
            f.write(rng.standard_normal(SIZE, dtype=np.float32).astype('<f2').tobytes())
        f.truncate(start+n*image)


def build(folder, sizes, sentences):
    "All files of a dataset"
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for split,n in sizes.items():
        (folder/f'{split}_caps.txt').write_text('\n'.join(spliced(sentences, EACH*n, rng))+'\n', 'utf-8')
        (folder/f'{split}_ids.txt').write_text(''.join(f'{i}\n' for i in range(n)), 'utf-8')
        write_features(folder/f'{split}_ims.npy', n, rng)


def train(shape, folder, options):
    "The folder of a run of 20 steps"
    command = [Path(sys.executable).parent/'amsps', 'train', '--dataset', shape, '--data-root', folder/shape]
    command += ['--cache-dir', folder/'cache', '--max-steps', '20', '--warmup-epochs', '0', '--active-from', '0']
    command += ['--row', 'AHRL', '--evidence', 'coverage', *options]
    r = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, encoding='utf-8')
    if r.returncode: sys.exit(r.returncode)
    return Path(re.search(r'^run: +(.+)$', r.stdout, re.M)[1])


def report(record, seconds):
    data = record['data']
    print(f"{data['summary']}; features {' x '.join(map(str, data['features']))}")
    print(f"whole command {seconds:.0f} s, run {record['wall_seconds']:.0f} s, "
          f"peak memory {record['peak_memory_mib']} MiB, {record['environment']['device']}, "
          f"{record['config']['threads']} threads")
    for name,m in record['metrics'].items():
        print(f"{name:8} rSum {m['rsum']:.2f}, i2t R@1 {m['i2t_r1']:.2f}, "
              f"median rank {m['i2t_medr']:.0f} / {m['t2i_medr']:.0f}")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('shape', choices=SHAPES)
    p.add_argument('--folder', type=Path, required=True)
    p.add_argument('--captions', type=Path)
    args,options = p.parse_known_args()
    start = time.monotonic()
    data = args.folder/args.shape
    if not (data/'done').exists():
        build(data, SHAPES[args.shape], read_sentences(args.captions))
        (data/'done').touch()
    print(f'fixture {time.monotonic()-start:.0f} s', flush=True)
    start = time.monotonic()
    run = train(args.shape, args.folder, options)
    report(json.loads((run/'record.json').read_text('utf-8')), time.monotonic()-start)


if __name__=='__main__': main()
