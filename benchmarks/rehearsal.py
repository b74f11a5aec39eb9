"""A dress rehearsal of the real tables: SCAN's layout in the size of Flickr30K or MSCOCO, random float16 features, through the whole path
(read, mine, 20 steps, evaluate by the protocol), with wall time and peak memory.

python benchmarks/rehearsal.py flickr30k --folder DIR [--captions Flickr8k.token.txt] [any option of `amsps train`]

The feature files are sparse: of an image's 36 regions the first is random, the others are holes. The numbers of recall mean nothing."""
import argparse, json, re, subprocess, sys, time
from pathlib import Path
import numpy as np
from amsps.scenes import scene_captions

SHAPES = dict(flickr30k=dict(train=29000, dev=1014, test=1000), mscoco=dict(train=113287, dev=5000, testall=5000))
REGIONS,SIZE,EACH = 36,2048,5

def sentences(file):
    if file: return [l.split('\t')[1].strip() for l in Path(file).read_text().splitlines()]
    return [c for i in range(2000) for c in scene_captions(i, 5, 0)[2]]

def spliced(pool, n, rng):
    "n captions, each the head of one sentence and the tail of another: few are equal"
    halves = [(w[:len(w)//2], w[len(w)//2:]) for w in (s.split() for s in pool)]
    for a,b in zip(rng.integers(len(pool), size=n), rng.integers(len(pool), size=n)): yield ' '.join(halves[a][0]+halves[b][1])

def build(folder, sizes, pool):
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for split,n in sizes.items():
        (folder/f'{split}_caps.txt').write_text('\n'.join(spliced(pool, EACH*n, rng))+'\n')
        (folder/f'{split}_ids.txt').write_text(''.join(f'{i}\n' for i in range(n)))
        with open(folder/f'{split}_ims.npy', 'wb') as f:
            np.lib.format.write_array_header_1_0(f, dict(descr='<f2', fortran_order=False, shape=(n, REGIONS, SIZE)))
            start,image = f.tell(),REGIONS*SIZE*2
            for i in range(n): f.seek(start+i*image); f.write(rng.standard_normal(SIZE, dtype=np.float32).astype('<f2').tobytes())
            f.truncate(start+n*image)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('shape', choices=SHAPES); p.add_argument('--folder', type=Path, required=True); p.add_argument('--captions', type=Path)
    args,options = p.parse_known_args()
    start = time.monotonic()
    data,cache = args.folder/args.shape,args.folder/'cache'
    if not (data/'done').exists(): build(data, SHAPES[args.shape], sentences(args.captions)); (data/'done').touch()
    print(f'fixture {time.monotonic()-start:.0f} s', flush=True)
    start = time.monotonic()
    command = [Path(sys.executable).parent/'amsps', 'train', '--dataset', args.shape, '--data-root', data, '--cache-dir', cache, '--max-steps', '20', '--warmup-epochs', '0', '--active-from', '0', '--evidence', 'coverage', *options]
    r = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    if r.returncode: sys.exit(r.returncode)
    run = Path(re.search(r'^run: +(.+)$', r.stdout, re.M)[1])
    record = json.loads((run/'record.json').read_text())
    print(f"{record['data']['summary']}; features {' x '.join(map(str, record['data']['features']))}")
    print(f"whole command {time.monotonic()-start:.0f} s, run {record['wall_seconds']:.0f} s, peak memory {record['peak_memory_mib']} MiB, {record['environment']['device']}, {record['config']['threads']} threads")
    for name,m in record['metrics'].items(): print(f"{name:8} rSum {m['rsum']:.2f}, i2t R@1 {m['i2t_r1']:.2f}, median rank {m['i2t_medr']:.0f} / {m['t2i_medr']:.0f}")

if __name__=='__main__': main()
