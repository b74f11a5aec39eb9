"""Time and memory against named references, in one run on one machine.

    python benchmarks/speed.py [NAME ...] [--threads 2] [--full] [--write FILE.json]

References are plain PyTorch or NumPy, written here from the published definitions. Every line: median of the repetitions (for training, of
runs' median steps), their range, peak memory above the inputs where it is bounded, and the ratio to the reference. `--full` ranks candidates at the size of Flickr30K (some minutes);
otherwise at a quarter of it in both directions."""
import argparse, json, os, platform, statistics, subprocess, sys, tempfile, time
from datetime import date
from pathlib import Path

NAMES = ('imports', 'recall', 'candidates', 'losses', 'training', 'extraction')

# ---------------------------------------------------------------- measuring

def above(f):
    "Peak memory of a call above what was there before, MiB; None where the system does not tell"
    status,refs = Path('/proc/self/status'),Path('/proc/self/clear_refs')
    if not refs.exists(): f(); return None
    def read(k): return int(next(l for l in status.read_text().splitlines() if l.startswith(k)).split()[1])/2**10
    refs.write_text('5'); before = read('VmRSS'); f()
    return read('VmHWM')-before

def timed(f, n):
    "Seconds of n calls, after one that does not count"
    f(); out = []
    for _ in range(n): start = time.perf_counter(); f(); out.append(time.perf_counter()-start)
    return out

def interleaved(n, **fs):
    "Seconds of n calls of each, in turn, so that a slow moment of the machine hits all alike"
    for f in fs.values(): f()
    out = {k:[] for k in fs}
    for _ in range(n):
        for k,f in fs.items(): start = time.perf_counter(); f(); out[k].append(time.perf_counter()-start)
    return out

def line(what, seconds, reference=None, against='', target='', memory=None):
    m = statistics.median(seconds)
    return dict(what=what, median=m, low=min(seconds), high=max(seconds), ratio=reference and m/statistics.median(reference), against=against, target=target, memory=memory)

def unit(n, d, seed):
    import torch
    return torch.nn.functional.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)

# ---------------------------------------------------------------- what is measured

def imports(full):
    def of(code):
        out = []
        for _ in range(6): start = time.perf_counter(); subprocess.run([sys.executable, '-c', code], check=True); out.append(time.perf_counter()-start)
        return out[1:]
    bare,ours = of('import torch'),of('import amsps.losses, sys; assert "transformers" not in sys.modules')
    return [line('import torch', bare), line('import amsps.losses (transformers is not imported)', ours, bare, 'import torch', 'under 1.5 s')]

def recall(full):
    import numpy as np, torch
    from amsps.metrics import retrieval_ranks
    n,each,d = 5000,5,1024
    owner = torch.arange(n*each)//each
    images = unit(n, d, 0)
    texts = torch.nn.functional.normalize(unit(n*each, d, 1)+.15*images[owner], dim=1)
    torch.mm(images[:64], texts[:64].T)
    memory,ranks = above(lambda: retrieval_ranks(images, texts, owner)),retrieval_ranks(images, texts, owner)
    for block in (64, 1000, n): assert all(map(torch.equal, ranks, retrieval_ranks(images, texts, owner, block))), 'ranks depend on the block'
    def product(): # one product and one pass, in blocks of the same size
        for rows in images.split(670): (rows@texts.T).amax(1)
    t = interleaved(5, ours=lambda: retrieval_ranks(images, texts, owner), product=product)
    x,y = images.double().numpy(),texts.double().numpy() # VSE++'s evaluation: query by query, in double precision as its arrays are
    def rank(order, right): return min(np.flatnonzero(order==k)[0] for k in right)
    i2t = timed(lambda: [rank(np.argsort(np.dot(x[i], y.T))[::-1], range(each*i, each*i+each)) for i in range(50)], 3)
    t2i = timed(lambda: [[rank(np.argsort(d)[::-1], [i]) for d in np.dot(y[each*i:each*i+each], x.T)] for i in range(10)], 3)
    whole = [a/50*n+b/50*n*each for a,b in zip(i2t, t2i)]
    shape = f'{n:,} images, {n*each:,} captions, D = {d:,}'
    return [line(f'argsort query by query ({shape}; from 50 queries each way)', whole), line('one matrix product and one pass', t['product']),
            line('recall both ways: `retrieval_ranks`', t['ours'], t['product'], 'product and pass', 'at most 1.5; under 600 MiB', memory), line('the same', t['ours'], whole, 'argsort', 'at most 1/30')]

def candidates(full):
    import numpy as np, torch
    from scipy.sparse import csr_array
    from amsps.mining import BLOCK_BYTES, known_pairs, mine_candidates
    n,each,d,h = (29000 if full else 7250),5,1024,300
    images,texts = unit(n, d, 0),unit(n*each, d, 1)
    known = known_pairs(np.arange(n*each)//each, n)
    torch.mm(images[:64], texts[:64].T).topk(8)
    start = time.perf_counter(); memory = above(lambda: mine_candidates(images, texts, known, h)); ours = [time.perf_counter()-start]
    def topk():
        for q,x in ((images, texts), (texts, images)):
            for rows in q.split(max(64, BLOCK_BYTES//(4*len(x)))): (rows@x.T).topk(h, 1)
    start = time.perf_counter(); topk(); floor = [time.perf_counter()-start]
    if not full:
        for k,v in interleaved(2, ours=lambda: mine_candidates(images, texts, known, h), floor=topk).items(): (ours if k=='ours' else floor).extend(v)
    return [line(f'product and topk in blocks, both ways ({n:,} images, {n*each:,} captions, D = {d:,}, h = {h})', floor), line('whole-set candidates: `mine_candidates`', ours, floor, 'product and topk', 'at most 1.3; under 1.5 GiB', memory)]

def hardest(s, m=.2): # VSE++ by its definition
    import torch
    own,eye = s.diagonal(),torch.eye(len(s), dtype=torch.bool)
    rows,columns = ((m+s-x).clamp(min=0).masked_fill(eye, 0) for x in (own[:,None], own[None]))
    return (rows.amax(1)+columns.amax(0)).mean()

def losses(full):
    import torch
    from amsps.losses import AHRL, InfoNCELoss, Mined, Offline
    every = dict(margin=.1, selection='smooth', adaptive_margin=.3, offline_weight=.05, cross_weight=.02, penalty=True, hidden_confidence=.3, mining_weight=.2)
    out = []
    for size,n in ((128,300), (1024,20)):
        g = torch.Generator().manual_seed(0)
        def r(*shape): return torch.rand(*shape, generator=g)
        s,image = unit(size, 64, 0)@unit(size, 64, 1).T,torch.arange(size)
        known = image[:,None]==image[None]
        extras = dict(relatedness=r(size, size), hidden=(r(size, size)>.99).float(), offline=Offline(*(r(size, 1) for _ in range(3)), *(r(size, 1)>.1 for _ in range(3))), mined=Mined(r(size), r(size), *((r(size)>.7).float() for _ in range(2))))
        def step(f):
            def run(): x = s.clone().requires_grad_(); f(x).backward()
            return run
        ahrl,nce = AHRL(**every),InfoNCELoss(.05)
        compiled = torch.compile(AHRL(**every))
        t = interleaved(n, hardest=step(hardest), nce=step(lambda x: nce(x, image, known)['loss']), ahrl=step(lambda x: ahrl(x, image, known, **extras)['loss']), compiled=step(lambda x: compiled(x, image, known, **extras)['loss']))
        target = f"at most {1.15 if size==128 else 1.3}"
        out += [line(f'hardest triplet, forward and backward, B = {size:,}', t['hardest']), line(f'InfoNCE, B = {size:,}', t['nce'], t['hardest'], 'hardest triplet'),
                line(f'AHRL with every part, B = {size:,}', t['ahrl'], t['hardest'], 'hardest triplet', target), line(f'AHRL under `torch.compile`, B = {size:,}', t['compiled'], t['hardest'], 'hardest triplet', target)]
    return out

def training(full):
    "The Flickr8k setting: one vector an image, the mean of a frozen text encoder's states, batches of 256"
    from contextlib import ExitStack
    from itertools import count, repeat
    from unittest.mock import patch
    import accelerate.optimizer, amsps.training, numpy as np, torch
    from transformers.utils import logging
    from amsps.data import Annotations, PairCollator, PairDataset, build_tokenizer
    from amsps.losses import InfoNCELoss
    from amsps.model import AmspsConfig, AmspsModel
    from amsps.scenes import scene_captions
    from amsps.training import RetrievalTrainer
    from transformers import PrinterCallback, TrainerCallback, TrainingArguments
    logging.set_verbosity_error()
    class Clock(TrainerCallback): # from one step's begin to the next one's, with a step of another loop between them: what slows one down slows both, and each finds the caches as the other left them
        def __init__(self, other): self.other,self.ours,self.bare,self.since = other,[],[],None
        def on_step_begin(self, args, state, control, **kwargs):
            now = time.perf_counter()
            if self.since: self.ours.append(now-self.since)
            next(self.other); self.since = time.perf_counter(); self.bare.append(self.since-now)
    optimizer = accelerate.optimizer.AcceleratedOptimizer
    beside = { # what the trainer does around what the bare loop does too: these calls, less those within them
        'the loader around dataset and collator':([(RetrievalTrainer, 'get_batch_samples')], [(PairDataset, '__getitems__'), (PairCollator, '__call__')]),
        "the optimizer's step and `zero_grad` around PyTorch's":([(optimizer, 'step'), (AmspsModel, 'zero_grad')], [(torch.optim.AdamW, 'step')]),
        'similarities for the log':([(amsps.training, '_similarity_log')], [])}
    def timed(f, sign, took):
        def g(*args, **kwargs):
            start = time.perf_counter()
            try: return f(*args, **kwargs)
            finally: took.append(sign*(time.perf_counter()-start))
        return g
    out = []
    for name,shape in (('Flickr8k setting: 1 x 1,280, frozen text encoder', (1,1280)), ('36 x 2,048 regions, attention, Bi-GRU of 256', (36,2048))):
        n,each,size = 2048,5,(256 if shape[0]==1 else 128)
        captions = [c for i in range(n) for c in scene_captions(i, each, 0)[2]]
        owner = np.arange(n*each)//each
        notes = Annotations([f'{i}.jpg' for i in range(n)], ['train']*n, captions, [f'{i}' for i in range(n*each)], owner)
        features = np.random.default_rng(0).standard_normal((n, *shape), dtype=np.float32).astype(np.float16)
        tokenizer = build_tokenizer(captions, 1)
        class States: # what `MeanStates` is to the model
            vectors = torch.randn(n*each, 1, 384, generator=torch.Generator().manual_seed(0))
            def __call__(self, caption, lengths): return self.vectors[torch.from_numpy(caption)]
        frozen = shape[0]==1
        data = PairDataset(notes, features, 'train', States() if frozen else None)
        text = dict(model_type='bert', vocab_size=len(tokenizer), hidden_size=384, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8) if frozen else None
        def model(): torch.manual_seed(0); return AmspsModel(AmspsConfig(shape[1], len(tokenizer), 512 if frozen else 256, pooling='mean' if frozen else 'attention', dropout=.5, word_dropout=.1, text_config=text, freeze_text=frozen))
        loss,steps = InfoNCELoss(.05),(60 if frozen else 6)
        collate = PairCollator(data, tokenizer)
        waited = []
        def bare(): # a generator of steps
            m = model().train()
            optimizer = torch.optim.AdamW([p for p in m.parameters() if p.requires_grad], 1e-3, weight_decay=1e-4, fused=True)
            order = np.random.default_rng(0).permutation(n*each)
            for i in count():
                start = time.perf_counter()
                batch = collate([data[j] for j in order[i*size%(n*each-size):][:size]])
                waited.append(time.perf_counter()-start)
                image,_ = torch.from_numpy(batch.pop('image')),batch.pop('caption')
                o = m(**batch)
                l = loss(o.image_embeds@o.text_embeds.T, image)['loss']
                l.backward(); torch.nn.utils.clip_grad_norm_(m.parameters(), 2.)
                optimizer.step(); optimizer.zero_grad()
                yield
        def run(folder, other): # medians of a run's steps
            args = TrainingArguments(output_dir=folder, max_steps=steps, per_device_train_batch_size=size, learning_rate=1e-3, weight_decay=1e-4, max_grad_norm=2., lr_scheduler_type='cosine', save_strategy='no', logging_strategy='no', remove_unused_columns=False, label_names=[], report_to=[], disable_tqdm=True, dataloader_pin_memory=False)
            trainer = RetrievalTrainer(model(), args, retrieval_loss=loss, data_collator=collate, train_dataset=data, processing_class=tokenizer)
            trainer.add_callback(clock := Clock(other)); trainer.remove_callback(PrinterCallback)
            trainer.train(); return statistics.median(clock.bare[1:]),statistics.median(clock.ours[1:])
        def profiled(folder): # seconds a step of each
            took = {k:[] for k in beside}
            with ExitStack() as stack:
                for k,both in beside.items():
                    for sign,places in zip((1,-1), both):
                        for owner,f in places: stack.enter_context(patch.object(owner, f, timed(getattr(owner, f), sign, took[k])))
                run(folder, repeat(None))
            return [sum(x)/steps for x in took.values()]
        with tempfile.TemporaryDirectory() as folder:
            run(folder, bare()); waited.clear()
            times = dict(zip(('bare','ours'), zip(*(run(folder, bare()) for _ in range(7)))))
            shares = zip(*(profiled(folder) for _ in range(3))) if frozen else ()
        waiting = statistics.median(waited)
        out += [line(f'bare training loop, a step ({name}, B = {size})', times['bare']), line('`RetrievalTrainer`, a step', times['ours'], times['bare'], 'bare loop', 'at most 1.05' if frozen else ''),
                line(f"of which the bare loop waits for data: {100*waiting/statistics.median(times['bare']):.0f} %", waited),
                *(line(f'of what it does beside: {k}', x) for k,x in zip(beside, shares))]
    return out

def extraction(full):
    from functools import partialmethod
    import numpy as np, torch, tqdm.auto as tqdm
    from PIL import Image
    from transformers import MobileNetV2Config, MobileNetV2ImageProcessorPil, MobileNetV2Model
    from transformers.utils import logging
    from amsps.vision import backbone_grid, extract_features
    logging.set_verbosity_error(); logging.disable_progress_bar(); tqdm.tqdm.__init__ = partialmethod(tqdm.tqdm.__init__, disable=True)
    n = 128
    with tempfile.TemporaryDirectory() as d:
        d = Path(d); rng = np.random.default_rng(0)
        backbone = MobileNetV2Model(MobileNetV2Config()).eval(); backbone.save_pretrained(d/'backbone'); MobileNetV2ImageProcessorPil().save_pretrained(d/'backbone')
        for i in range(n): Image.fromarray(rng.integers(0, 256, (24,32,3), dtype=np.uint8)).resize((500,375), Image.Resampling.BICUBIC).save(d/f'{i}.jpg', quality=90)
        pixels = torch.randn(32, 3, 320, 320)
        @torch.inference_mode()
        def forward():
            for _ in range(n//32): backbone_grid(backbone, pixels)
        def ours(): extract_features([d/f'{i}.jpg' for i in range(n)], str(d/'backbone'), Path(tempfile.mkdtemp(dir=d)), grid=1, image_size=320)
        t = interleaved(3, forward=forward, ours=ours)
    return [line(f"the backbone's own forward pass (MobileNetV2, {n} images of 320 pixels)", t['forward']), line('feature extraction from JPEG files: `extract_features`', t['ours'], t['forward'], 'forward pass', 'at most 1/0.9 = 1.11')]

# ---------------------------------------------------------------- the table

def seconds(x): return f'{x*1e3:.2f} ms' if x<1 else f'{x:.1f} s'

def table(lines):
    rows = [('', 'median', 'range', 'ratio', 'target', 'memory')]+[(l['what'], seconds(l['median']), f"{seconds(l['low'])} to {seconds(l['high'])}", f"{l['ratio']:.3g} of {l['against']}" if l['ratio'] else '', l['target'], f"{l['memory']:.0f} MiB" if l['memory'] is not None else '') for l in lines]
    return '\n'.join('| '+' | '.join(r)+' |' for r in [rows[0], ('---',)*6, *rows[1:]])

def machine(threads):
    import torch
    cpu = next((l.split(':')[1].strip() for l in Path('/proc/cpuinfo').read_text().splitlines() if l.startswith('model name')), platform.processor()) if Path('/proc/cpuinfo').exists() else platform.processor()
    return dict(cpu=cpu, cpus=os.cpu_count(), threads=threads, python=platform.python_version(), torch=torch.__version__, date=date.today().isoformat())

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('names', nargs='*', metavar='NAME', help=f"of {', '.join(NAMES)}; all by default"); p.add_argument('--threads', type=int, default=2); p.add_argument('--full', action='store_true'); p.add_argument('--write', type=Path); p.add_argument('--lines', type=Path, help=argparse.SUPPRESS)
    args = p.parse_args()
    if wrong:=[n for n in args.names if n not in NAMES]: p.error(f"there is no benchmark {wrong[0]!r}; choose from {', '.join(NAMES)}")
    if args.lines: # one benchmark, in a process of its own, so that its memory is its own
        import torch
        torch.set_num_threads(args.threads)
        args.lines.write_text(json.dumps(globals()[args.names[0]](args.full))); return
    lines = []
    with tempfile.TemporaryDirectory() as d:
        for name in args.names or NAMES:
            start = time.monotonic()
            if subprocess.run([sys.executable, __file__, name, '--threads', str(args.threads), '--lines', f'{d}/lines', *(['--full'] if args.full else [])], env=os.environ|dict(OMP_NUM_THREADS=str(args.threads), TOKENIZERS_PARALLELISM='false')).returncode: sys.exit(f'{name} failed')
            found = json.loads(Path(d, 'lines').read_text()); lines += found
            print(f'\n{name}, {time.monotonic()-start:.0f} s\n\n{table(found)}', flush=True)
    if args.write: args.write.write_text(json.dumps(dict(machine=machine(args.threads), lines=lines), indent=1)+'\n')

if __name__=='__main__': main()
