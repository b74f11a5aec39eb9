"""How time and memory grow with images, captions, dimension and processes, and from which size on FAISS is quicker than exact search.

    python benchmarks/scale.py [NAME ...] [--threads 2] [--embeddings FILE.safetensors] [--write FILE.json]

Each quantity is measured at three sizes, the others held; the exponent is the slope through the three in logarithms: 1 is linear, 2 quadratic. Embeddings
are drawn around centres, one for thirteen images, captions around their image. `--embeddings` takes a model's own (`images`, `texts`, `owner`), for FAISS on real ones."""
import argparse, json, os, resource, subprocess, sys, tempfile, time
from pathlib import Path
import numpy as np, torch
from speed import above, machine

NAMES = ('growth', 'processes', 'faiss')
BASE = dict(images=4000, captions=5, dimension=512) # captions: an image
SIZES = dict(images=(2000, 4000, 8000), captions=(2, 5, 10), dimension=(256, 512, 1024))
GOALS = {'Flickr30K':dict(images=29000, captions=5, dimension=1024), 'MSCOCO':dict(images=113287, captions=5, dimension=1024)}

def drawn(images, captions, dimension, seed=0):
    "Unit embeddings of images and captions"
    g = torch.Generator().manual_seed(seed)
    def noise(n): return torch.randn(n, dimension, generator=g)/dimension**.5
    x = noise(images//13)[torch.randint(images//13, (images,), generator=g)]+.8*noise(images)
    return tuple(torch.nn.functional.normalize(v, dim=1) for v in (x, x.repeat_interleave(captions, 0)+.7*noise(images*captions)))

def slope(sizes, values): return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])

def jobs(images, captions, dimension):
    "What is quadratic in the corpus, ready to run"
    from amsps.metrics import retrieval_ranks
    from amsps.mining import SentenceEvidence, calibrate, known_pairs, mine_candidates, mine_hidden
    v,t = drawn(images, captions, dimension)
    owner = np.arange(images*captions)//captions
    known = known_pairs(owner, images)
    evidence = SentenceEvidence(drawn(images, captions, 384, 1)[1], owner, images)
    match = calibrate(v, t, known, evidence) # from a sample: always the same cost
    return {'recall both ways':lambda: retrieval_ranks(v, t, torch.from_numpy(owner)), 'candidates, h = 100':lambda: mine_candidates(v, t, known, 100), 'hidden positives':lambda: mine_hidden(v, t, known, match, evidence, .3)}

def growth(threads, embeddings):
    found = {}
    for variable,sizes in SIZES.items():
        for size in sizes:
            for what,f in jobs(**BASE|{variable:size}).items():
                l = found.setdefault((what, variable), dict(what=what, variable=variable, sizes=sizes, seconds=[], memory=[]))
                l['memory'].append(above(f)); seconds = []
                for _ in range(3): start = time.perf_counter(); f(); seconds.append(time.perf_counter()-start)
                l['seconds'].append(sorted(seconds)[1])
    lines = [l|dict(exponent=slope(l['sizes'], l['seconds'])) for l in found.values()]
    for l in lines:
        if l['variable']!='images': continue
        by_size = next(x['exponent'] for x in lines if x['what']==l['what'] and x['variable']=='dimension')
        l['expected'] = {g:l['seconds'][-1]*(goal['images']/l['sizes'][-1])**2*(goal['dimension']/BASE['dimension'])**by_size for g,goal in GOALS.items()} # what a pair costs at the largest size
    return lines

def worker(folder):
    "One of the processes that share a mining pass and the embedding before it"
    from amsps.data import Annotations, PairDataset, build_tokenizer
    from amsps.mining import Miner, SentenceEvidence
    from amsps.model import AmspsConfig, AmspsModel
    from amsps.distributed import gather_objects, join_processes, rank_and_world
    from amsps.scenes import scene_captions
    from amsps.training import MiningCallback
    torch.set_num_threads(1); join_processes()
    n = 1500
    captions = [f'{c} {k}' for i in range(n) for k,c in enumerate(scene_captions(i, 5)[2])]
    owner = np.arange(5*n)//5
    data = PairDataset(Annotations([f'{i}.jpg' for i in range(n)], ['train']*n, captions, list(map(str, range(5*n))), owner), np.random.default_rng(0).standard_normal((n, 36, 256), dtype=np.float32).astype(np.float16), 'train')
    tokenizer = build_tokenizer(captions)
    torch.manual_seed(0)
    model = AmspsModel(AmspsConfig(256, len(tokenizer), 256, 64))
    miner = MiningCallback(Miner(captions, owner, n, SentenceEvidence(drawn(n, 5, 384)[1], owner, n)), data, data, folder)
    miner.needs = frozenset(('offline','hidden'))
    cpu = time.process_time(); miner.mine(model, tokenizer, 0); cpu = time.process_time()-cpu
    all_of = gather_objects((cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**10))
    if rank_and_world()[0]==0: Path(folder, 'found.json').write_text(json.dumps(all_of))

def processes(threads, embeddings):
    line = dict(what='mining pass with its embedding, processor seconds of each process', variable='processes', sizes=(1, 2, 4), seconds=[], memory=[])
    for n in line['sizes']:
        with tempfile.TemporaryDirectory() as d:
            subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node', str(n), __file__, '--worker', d], check=True, env=os.environ|dict(OMP_NUM_THREADS='1', TOKENIZERS_PARALLELISM='false'), stderr=subprocess.DEVNULL)
            found = json.loads(Path(d, 'found.json').read_text())
        line['seconds'].append(max(c for c,_ in found)); line['memory'].append(max(m for _,m in found))
    return [line|dict(exponent=slope(line['sizes'], line['seconds']))]

def faiss(threads, embeddings):
    "Captions for images: exactly, and by inverted lists, of which a share is searched"
    from amsps.mining import approximate_items, hardest_items, known_pairs
    if embeddings:
        from safetensors.torch import load_file
        x = load_file(embeddings)
        sets = [('given embeddings', x['images'], x['texts'], x['owner'].numpy())]
    else: sets = [('drawn', *drawn(n, 5, 512), np.arange(5*n)//5) for n in (4000, 16000, 64000)]
    lines,h = [],100
    for name,images,texts,owner in sets:
        known = known_pairs(owner, len(images))
        def measured(f): # seconds of what is done once, and an anchor; from 8,000 anchors, so that the second is not lost in the noise of the first
            f(images[:64], texts[:5000], known[:64,:5000], h); t = []
            for k in (1, 8000): start = time.perf_counter(); found = f(images[:k], texts, known[:k], h); t.append(time.perf_counter()-start)
            return t[0],(t[1]-t[0])/(len(found)-1),found.tolist()
        _,each,exact = measured(hardest_items)
        line = dict(data=name, images=len(images), captions=len(texts), dimension=images.shape[1], exact=each*len(images))
        for probe in (1/8, 1/32):
            once,each,found = measured(lambda *a: approximate_items(*a, probe=probe))
            lines.append(line|dict(probe=probe, build=once, faiss=once+each*len(images), recall=float(np.mean([len({*a}&{*b})/h for a,b in zip(found, exact)]))))
    return lines

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('names', nargs='*', metavar='NAME', help=f"of {', '.join(NAMES)}; all by default"); p.add_argument('--threads', type=int, default=2); p.add_argument('--embeddings', type=Path); p.add_argument('--write', type=Path); p.add_argument('--worker', help=argparse.SUPPRESS)
    args = p.parse_args()
    if wrong:=[n for n in args.names if n not in NAMES]: p.error(f"there is no benchmark {wrong[0]!r}; choose from {', '.join(NAMES)}")
    if args.worker: return worker(args.worker)
    torch.set_num_threads(args.threads)
    found = {}
    for name in args.names or NAMES:
        found[name] = globals()[name](args.threads, args.embeddings)
        for l in found[name]: print(json.dumps(l), flush=True)
    if args.write:
        old = json.loads(args.write.read_text()) if args.write.exists() else {}
        key = 'faiss_given' if args.embeddings else 'faiss'
        args.write.write_text(json.dumps(old | {key if n=='faiss' else n:l for n,l in found.items()} | dict(machine=machine(args.threads)), indent=1)+'\n')

if __name__=='__main__': main()
