"""How time and memory grow with images, captions, dimension and processes, from which size on FAISS is faster than
exact search, and what an index of many photographs costs.

    python benchmarks/scale.py [NAME ...] [--threads 2] [--embeddings FILE.safetensors] [--write FILE.json]

Each quantity is measured at three sizes while the others stay fixed. The exponent is the slope through the three points
in logarithms: 1 is linear, 2 quadratic. Embeddings are drawn around centres, one per thirteen images, captions around
their image. `--embeddings` takes a model's own (`images`, `texts`, `owner`), to measure FAISS on real ones."""
import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
import numpy as np
import torch
from speed import check_names, machine, peak_memory, seconds_of

NAMES = ('growth', 'processes', 'faiss', 'photographs')
BASE = dict(images=4000, captions=5, dimension=512) # captions per image
SIZES = dict(images=(2000, 4000, 8000), captions=(2, 5, 10), dimension=(256, 512, 1024))
GOALS = {
    'Flickr30K': dict(images=29000, captions=5, dimension=1024),
    'MSCOCO': dict(images=113287, captions=5, dimension=1024)}


def drawn(images, captions, dimension, seed=0):
    "Unit embeddings of images and captions"
    g = torch.Generator().manual_seed(seed)
    def noise(n):
        return torch.randn(n, dimension, generator=g)/dimension**.5
    centres = noise(images//13)
    x = centres[torch.randint(images//13, (images,), generator=g)]+.8*noise(images)
    y = x.repeat_interleave(captions, 0)+.7*noise(images*captions)
    return torch.nn.functional.normalize(x, dim=1),torch.nn.functional.normalize(y, dim=1)


def slope(sizes, values):
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


# ---------------------------------------------------------------- growth

def jobs(images, captions, dimension):
    "What is quadratic in the corpus, ready to run"
    from amsps.metrics import retrieval_ranks
    from amsps.mining import SentenceEvidence, calibrate, known_pairs, mine_candidates, mine_hidden
    v,t = drawn(images, captions, dimension)
    owner = np.arange(images*captions)//captions
    known = known_pairs(owner, images)
    evidence = SentenceEvidence(drawn(images, captions, 384, seed=1)[1], owner, images)
    match = calibrate(v, t, known, evidence=evidence) # from a sample, so that its cost is constant
    return {
        'recall both ways': lambda: retrieval_ranks(v, t, torch.from_numpy(owner)),
        'candidates, h = 100': lambda: mine_candidates(v, t, known, 100),
        'hidden positives': lambda: mine_hidden(v, t, known, match=match, evidence=evidence, min_confidence=.3)}


def expected_seconds(line, dimension_exponent):
    "At the size of real datasets, from the cost of a pair at the largest size measured"
    largest,seconds = line['sizes'][-1],line['seconds'][-1]
    def at(goal):
        pairs = (goal['images']/largest)**2
        return seconds*pairs*(goal['dimension']/BASE['dimension'])**dimension_exponent
    return {name:at(goal) for name,goal in GOALS.items()}


def growth(embeddings):
    found = {}
    for variable,sizes in SIZES.items():
        for size in sizes:
            for what,f in jobs(**BASE|{variable:size}).items():
                line = dict(what=what, variable=variable, sizes=sizes, seconds=[], memory=[])
                line = found.setdefault((what, variable), line)
                line['memory'].append(peak_memory(f))
                line['seconds'].append(statistics.median(seconds_of(f) for _ in range(3)))
    for line in found.values():
        line['exponent'] = slope(line['sizes'], line['seconds'])
    for (what,variable),line in found.items():
        if variable=='images':
            line['expected'] = expected_seconds(line, found[what,'dimension']['exponent'])
    return list(found.values())


# ---------------------------------------------------------------- processes

def mining_job(folder):
    "A miner with its model and tokenizer, on noise"
    from amsps.data import Annotations, PairDataset, build_tokenizer
    from amsps.mining import Miner, SentenceEvidence
    from amsps.model import AmspsConfig, AmspsModel
    from amsps.scenes import scene_captions
    from amsps.training import MiningCallback
    n,each = 1500,5
    captions = [f'{c} {k}' for i in range(n) for k,c in enumerate(scene_captions(i, each)[2])]
    owner = np.arange(each*n)//each
    annotations = Annotations(
        [f'{i}.jpg' for i in range(n)], ['train']*n, captions, caption_ids=list(map(str, range(each*n))),
        caption_image=owner)
    noise = np.random.default_rng(0).standard_normal((n, 36, 256), dtype=np.float32)
    data = PairDataset(annotations, noise.astype(np.float16), 'train')
    tokenizer = build_tokenizer(captions)
    torch.manual_seed(0)
    model = AmspsModel(AmspsConfig(256, len(tokenizer), embed_size=256, word_size=64))
    evidence = SentenceEvidence(drawn(n, each, 384, seed=1)[1], owner, n)
    miner = MiningCallback(Miner(captions, owner, n, evidence=evidence), data, data, folder)
    miner.needs = frozenset(('offline', 'hidden'))
    return miner,model,tokenizer


def worker(folder):
    "One of the processes that share a mining pass and the embedding before it"
    from amsps.distributed import gather_objects, join_processes, rank_and_world
    torch.set_num_threads(1)
    join_processes()
    miner,model,tokenizer = mining_job(folder)
    start = time.process_time()
    miner.mine(model, tokenizer, 0)
    cpu = time.process_time()-start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**10
    found = gather_objects((cpu, memory))
    if rank_and_world()[0]==0: Path(folder, 'found.json').write_text(json.dumps(found), 'utf-8')


def run_workers(n):
    "(processor seconds, MiB) of each of n processes"
    command = [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node', str(n), __file__, '--worker']
    env = os.environ|dict(OMP_NUM_THREADS='1', TOKENIZERS_PARALLELISM='false')
    with tempfile.TemporaryDirectory() as d:
        subprocess.run([*command, d], check=True, env=env, stderr=subprocess.DEVNULL)
        return json.loads(Path(d, 'found.json').read_text('utf-8'))


def processes(embeddings):
    sizes = (1, 2, 4)
    found = [run_workers(n) for n in sizes]
    seconds = [max(cpu for cpu,_ in f) for f in found]
    memory = [max(mib for _,mib in f) for f in found]
    what = 'mining pass with its embedding, processor seconds of each process'
    return [dict(
        what=what, variable='processes', sizes=sizes, seconds=seconds, memory=memory, exponent=slope(sizes, seconds))]


# ---------------------------------------------------------------- FAISS

def corpora(embeddings):
    "(name, images, texts, image of each text)"
    if embeddings:
        from safetensors.torch import load_file
        x = load_file(embeddings)
        yield 'given embeddings',x['images'],x['texts'],x['owner'].numpy()
    else:
        for n in (4000, 16000, 64000):
            yield 'drawn',*drawn(n, 5, 512),np.arange(5*n)//5


def search_cost(search, images, texts, known, h):
    """Seconds of what is done once, seconds per anchor, and what is found. From 8,000 anchors, so that the cost per
    anchor stands out from the noise of the first."""
    search(images[:64], texts[:5000], known[:64,:5000], h=h)
    seconds = []
    for n in (1, 8000):
        start = time.perf_counter()
        found = search(images[:n], texts, known[:n], h=h)
        seconds.append(time.perf_counter()-start)
    once,many = seconds
    return once,(many-once)/(len(found)-1),found.tolist()


def faiss(embeddings):
    "Captions for images: exact search, and inverted lists of which a share is searched"
    from amsps.mining import approximate_items, hardest_items, known_pairs
    lines,h = [],100
    for name,images,texts,owner in corpora(embeddings):
        n = len(images)
        known = known_pairs(owner, n)
        _,each,exact = search_cost(hardest_items, images, texts, known=known, h=h)
        line = dict(data=name, images=n, captions=len(texts), dimension=images.shape[1], exact=each*n)
        for probe in (1/8, 1/32):
            def search(*args, h):
                return approximate_items(*args, h, probe=probe)
            once,each,found = search_cost(search, images, texts, known=known, h=h)
            recall = float(np.mean([len({*a}&{*b})/h for a,b in zip(found, exact)]))
            lines.append(line|dict(probe=probe, build=once, faiss=once+each*n, recall=recall))
    return lines


# ---------------------------------------------------------------- an index of photographs

def save_model(folder):
    "A small model with random weights that embeds pictures of 32 x 32 pixels"
    from transformers import MobileNetV2Config, MobileNetV2ImageProcessorPil, MobileNetV2Model
    from amsps.data import build_tokenizer
    from amsps.model import AmspsConfig, AmspsModel
    from amsps.processor import AmspsProcessor
    from amsps.vision import load_vision
    torch.manual_seed(0)
    MobileNetV2Model(MobileNetV2Config(image_size=32, depth_multiplier=.35)).save_pretrained(folder/'vision')
    MobileNetV2ImageProcessorPil(size=dict(height=32, width=32), do_center_crop=False).save_pretrained(folder/'vision')
    vision = load_vision(folder/'vision', 1)
    tokenizer = build_tokenizer(['a red ball on the grass', 'two dogs and a man'], 1)
    model = AmspsModel(AmspsConfig(vision.feature_size(), len(tokenizer), embed_size=256, word_size=64))
    model.set_vision(vision)
    model.save_pretrained(folder/'model')
    AmspsProcessor(vision.processor, tokenizer).save_pretrained(folder/'model')


def draw_pictures(folder, first, end):
    "Random pictures of 32 x 32 pixels, a thousand in a folder"
    from PIL import Image
    for i in range(first, end):
        place = folder/f'{i//1000:03}'
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (32,32,3), dtype=np.uint8)
        Image.fromarray(pixels).save(place/f'{i:06}.jpg')


_ALONE = """
import json, resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([code, used.ru_utime+used.ru_stime, used.ru_maxrss/2**10]))
""" # In a process of its own: a child's largest memory begins with that of its parent

def run_alone(*args):
    "Processor seconds and largest memory (MiB) of the command line"
    env = os.environ|dict(OMP_NUM_THREADS='1', HF_HUB_OFFLINE='1', TQDM_DISABLE='1')
    command = [sys.executable, '-c', _ALONE, Path(sys.executable).parent/'amsps', *map(str, args)]
    code,*used = json.loads(subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE).stdout)
    if code:
        raise SystemExit(f'amsps {args[0]} ended with {code}')
    return used


def photographs(embeddings):
    "Index a tree of tiny pictures, look again where nothing has changed, and search"
    sizes,found,drawn_before = (10_000, 30_000, 100_000),{},0
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        save_model(d)
        for n in sizes:
            draw_pictures(d/'photos', drawn_before, n)
            drawn_before = n
            index = d/f'index{n}'
            steps = {
                'index of photographs, processor seconds': ('index', d/'photos', '--model', d/'model', '-o', index),
                'the same again, nothing changed': ('index', d/'photos', '-o', index),
                'first search for a text': ('search', index, 'a red ball')}
            for what,args in steps.items():
                seconds,memory = run_alone(*args)
                line = dict(what=what, variable='photographs', sizes=sizes, seconds=[], memory=[])
                line = found.setdefault(what, line)
                line['seconds'].append(seconds)
                line['memory'].append(memory)
    for line in found.values(): line['exponent'] = slope(sizes, line['seconds'])
    return list(found.values())


# ---------------------------------------------------------------- command line

def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('names', nargs='*', metavar='NAME', help=f"of {', '.join(NAMES)}; default: all")
    p.add_argument('--threads', type=int, default=2)
    p.add_argument('--embeddings', type=Path)
    p.add_argument('--write', type=Path)
    p.add_argument('--worker', help=argparse.SUPPRESS)
    args = p.parse_args()
    check_names(p, args.names, NAMES)
    return args


def main():
    args = parse()
    if args.worker: return worker(args.worker)
    torch.set_num_threads(args.threads)
    found = {}
    for name in args.names or NAMES:
        key = 'faiss_given' if name=='faiss' and args.embeddings else name
        found[key] = globals()[name](args.embeddings)
        for line in found[key]:
            print(json.dumps(line), flush=True)
    if args.write:
        old = json.loads(args.write.read_text('utf-8')) if args.write.exists() else {}
        here = machine(args.threads)
        if args.names: # the other lines stay of the machine that they are from
            for name,lines in found.items():
                alone = dict(threads=1) if name in ('photographs', 'processes') else {}
                for line in lines: line['machine'] = here|alone
        new = old|found|({} if args.names and old else dict(machine=here))
        args.write.write_text(json.dumps(new, indent=1)+'\n', 'utf-8')


if __name__=='__main__': main()
