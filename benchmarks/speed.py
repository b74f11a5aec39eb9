"""Time and memory against named references, in one run on one machine.

    python benchmarks/speed.py [NAME ...] [--threads 2] [--full] [--write FILE.json]

References are plain PyTorch or NumPy, written here from the published definitions. Each line has the median of the
repetitions (for training, of runs' median steps), their range, peak memory above the inputs where it is bounded, and
the ratio to the reference. `--full` ranks candidates at the size of Flickr30K (some minutes); otherwise at a quarter of
it in both directions."""
import argparse
import ctypes
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

NAMES = ('imports', 'recall', 'candidates', 'losses', 'training', 'pixels', 'chunks', 'extraction')


# ---------------------------------------------------------------- measuring

def peak_memory(f):
    "Peak memory of a call above what was in use before, MiB; None where the system does not tell"
    status,refs = Path('/proc/self/status'),Path('/proc/self/clear_refs')
    if not refs.exists():
        f()
        return None
    def read(key):
        line = next(l for l in status.read_text('utf-8').splitlines() if l.startswith(key))
        return int(line.split()[1])/2**10
    refs.write_text('5', 'utf-8')
    before = read('VmRSS')
    f()
    return read('VmHWM')-before


def seconds_of(f):
    start = time.perf_counter()
    f()
    return time.perf_counter()-start


def timed(f, n):
    "Seconds of n calls, after one that does not count"
    f()
    return [seconds_of(f) for _ in range(n)]


def interleaved(n, **fs):
    "Seconds of n calls of each function by turns, so that a slow moment of the machine affects all"
    for f in fs.values():
        f()
    out = {k:[] for k in fs}
    for _ in range(n):
        for k,f in fs.items():
            out[k].append(seconds_of(f))
    return out


def line(what, seconds, reference=None, *, against='', target='', memory=None):
    "A measurement, and its ratio to the seconds of a reference"
    median = statistics.median(seconds)
    ratio = reference and median/statistics.median(reference)
    return dict(what=what, median=median, low=min(seconds), high=max(seconds), ratio=ratio, against=against,
        target=target, memory=memory)


def unit(n, d, seed):
    "n unit vectors"
    import torch
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(x, dim=1)


# ---------------------------------------------------------------- imports

def imports(full):
    def run(code):
        subprocess.run([sys.executable, '-c', code], check=True)
    bare = timed(lambda: run('import torch'), 5)
    ours = timed(lambda: run('import amsps.losses, sys; assert "transformers" not in sys.modules'), 5)
    return [
        line('import torch', bare),
        line('import amsps.losses (transformers is not imported)', ours, bare, against='import torch',
             target='under 1.5 s')]


# ---------------------------------------------------------------- recall

def rank_by_argsort(images, texts, each):
    "Seconds of VSE++'s evaluation, query by query, in double precision as its arrays are; from 50 and 10 images"
    import numpy as np
    n,x,y = len(images),images.double().numpy(),texts.double().numpy()
    def rank(order, right):
        return min(np.flatnonzero(order==k)[0] for k in right)
    def i2t():
        for i in range(50):
            rank(np.argsort(np.dot(x[i], y.T))[::-1], range(each*i, each*i+each))
    def t2i():
        for i in range(10):
            for sims in np.dot(y[each*i:each*i+each], x.T):
                rank(np.argsort(sims)[::-1], [i])
    return [a/50*n+b/50*n*each for a,b in zip(timed(i2t, 3), timed(t2i, 3))]


def recall(full):
    import torch
    from amsps.metrics import retrieval_ranks
    n,each,d = 5000,5,1024
    owner = torch.arange(n*each)//each
    images = unit(n, d, 0)
    texts = torch.nn.functional.normalize(unit(n*each, d, 1)+.15*images[owner], dim=1)
    def ours():
        return retrieval_ranks(images, texts, owner)
    def product(): # one product and one pass, in blocks of the same size
        for rows in images.split(670):
            (rows@texts.T).amax(1)
    torch.mm(images[:64], texts[:64].T)
    memory,ranks = peak_memory(ours),ours()
    for block in (64, 1000, n):
        found = retrieval_ranks(images, texts, owner, block=block)
        assert all(map(torch.equal, ranks, found)), 'ranks depend on the block'
    t = interleaved(5, ours=ours, product=product)
    whole = rank_by_argsort(images, texts, each)
    shape = f'{n:,} images, {n*each:,} captions, D = {d:,}'
    return [
        line(f'argsort query by query ({shape}; from 50 queries each way)', whole),
        line('one matrix product and one pass', t['product']),
        line('recall both ways: `retrieval_ranks`', t['ours'], t['product'], against='product and pass',
             target='at most 1.5; under 600 MiB', memory=memory),
        line('the same', t['ours'], whole, against='argsort', target='at most 1/30')]


# ---------------------------------------------------------------- candidates

def candidates(full):
    import numpy as np
    import torch
    from amsps.mining import BLOCK_BYTES, known_pairs, mine_candidates
    n,each = (29000 if full else 7250),5
    d,h = 1024,300
    images,texts = unit(n, d, 0),unit(n*each, d, 1)
    known = known_pairs(np.arange(n*each)//each, n)
    def mine():
        mine_candidates(images, texts, known, h=h)
    def topk():
        for q,x in ((images, texts), (texts, images)):
            for rows in q.split(max(64, BLOCK_BYTES//(4*len(x)))):
                (rows@x.T).topk(h, 1)
    torch.mm(images[:64], texts[:64].T).topk(8)
    memory = []
    ours = [seconds_of(lambda: memory.append(peak_memory(mine)))]
    floor = [seconds_of(topk)]
    if not full:
        more = interleaved(2, ours=mine, floor=topk)
        ours += more['ours']
        floor += more['floor']
    shape = f'{n:,} images, {n*each:,} captions, D = {d:,}, h = {h}'
    return [
        line(f'product and topk in blocks, both ways ({shape})', floor),
        line('whole-set candidates: `mine_candidates`', ours, floor, against='product and topk',
             target='at most 1.3; under 1.5 GiB', memory=memory[0])]


# ---------------------------------------------------------------- losses

EVERY = dict(
    margin=.1, selection='smooth', adaptive_margin=.3, offline_weight=.05, cross_weight=.02, penalty=True,
    hidden_confidence=.3, mining_weight=.2)


def hardest(sims, margin=.2):
    "VSE++'s loss by its definition"
    import torch
    own,eye = sims.diagonal(),torch.eye(len(sims), dtype=torch.bool)
    rows,columns = ((margin+sims-x).clamp(min=0).masked_fill(eye, 0) for x in (own[:,None], own[None]))
    return (rows.amax(1)+columns.amax(0)).mean()


def mined_inputs(size):
    "Random inputs of AHRL's other terms"
    import torch
    from amsps.losses import Mined, Offline
    g = torch.Generator().manual_seed(0)
    def r(*shape):
        return torch.rand(*shape, generator=g)
    relatedness = r(size, size)
    hidden = (r(size, size)>.99).float()
    offline = Offline(*(r(size, 1) for _ in range(3)), *(r(size, 1)>.1 for _ in range(3)))
    mined = Mined(r(size), r(size), *((r(size)>.7).float() for _ in range(2)))
    return dict(relatedness=relatedness, hidden=hidden, offline=offline, mined=mined)


def loss_lines(size, repetitions):
    "Forward and backward of each loss on a batch"
    import torch
    from amsps.losses import AHRL, InfoNCELoss
    sims = unit(size, 64, 0)@unit(size, 64, 1).T
    image = torch.arange(size)
    known = image[:,None]==image[None]
    extras = mined_inputs(size)
    def step(f):
        def run():
            x = sims.clone().requires_grad_()
            f(x).backward()
        return run
    ahrl,nce = AHRL(**EVERY),InfoNCELoss(.05)
    compiled = torch.compile(AHRL(**EVERY))
    t = interleaved(
        repetitions,
        hardest=step(hardest),
        nce=step(lambda x: nce(x, image, known)['loss']),
        ahrl=step(lambda x: ahrl(x, image, known, **extras)['loss']),
        compiled=step(lambda x: compiled(x, image, known, **extras)['loss']))
    target = f"at most {1.15 if size==128 else 1.3}"
    to_hardest = dict(reference=t['hardest'], against='hardest triplet')
    return [
        line(f'hardest triplet, forward and backward, B = {size:,}', t['hardest']),
        line(f'InfoNCE, B = {size:,}', t['nce'], **to_hardest),
        line(f'AHRL with every part, B = {size:,}', t['ahrl'], **to_hardest, target=target),
        line(f'AHRL under `torch.compile`, B = {size:,}', t['compiled'], **to_hardest, target=target)]


def losses(full):
    return loss_lines(128, 300)+loss_lines(1024, 20)


# ---------------------------------------------------------------- training

def make_clock(other):
    """A callback that times steps from one begin to the next, with a step of another loop in between: what slows one
    slows both, and each finds the caches as the other left them."""
    from transformers import TrainerCallback
    class Clock(TrainerCallback):
        ours = []
        bare = []
        since = None
        def on_step_begin(self, args, state, control, **kwargs):
            now = time.perf_counter()
            if self.since: self.ours.append(now-self.since)
            next(other)
            self.since = time.perf_counter()
            self.bare.append(self.since-now)
    return Clock()


def counted(f, sign, took):
    "f, which adds its signed seconds to a list"
    def g(*args, **kwargs):
        start = time.perf_counter()
        try:
            return f(*args, **kwargs)
        finally:
            took.append(sign*(time.perf_counter()-start))
    return g


def beside():
    "What the trainer does around what the bare loop does too: calls, and the calls within them that do not count"
    import accelerate.optimizer
    import torch
    import amsps.training
    from amsps.data import PairCollator, PairDataset
    from amsps.model import AmspsModel
    from amsps.training import RetrievalTrainer
    optimizer = accelerate.optimizer.AcceleratedOptimizer
    return {
        'the loader around dataset and collator':
            ([(RetrievalTrainer, 'get_batch_samples')], [(PairDataset, '__getitems__'), (PairCollator, '__call__')]),
        "the optimizer's step and `zero_grad` around PyTorch's":
            ([(optimizer, 'step'), (AmspsModel, 'zero_grad')], [(torch.optim.AdamW, 'step')]),
        'similarities for the log':
            ([(amsps.training, '_similarity_log')], [])}


class States:
    "The states of a frozen text encoder, as `MeanStates` gives them to the model"
    def __init__(self, n):
        import torch
        self.vectors = torch.randn(n, 1, 384, generator=torch.Generator().manual_seed(0))

    def __call__(self, caption, lengths):
        import torch
        return self.vectors[torch.from_numpy(caption)]


class Setting:
    "Data, model and loss of one setting, trained by a bare loop and by the trainer"
    images = 2048
    each = 5
    runs = 7 # of which the median is taken

    def __init__(self, name, shape, frozen):
        from amsps.data import PairCollator, build_tokenizer
        from amsps.losses import InfoNCELoss
        from amsps.scenes import scene_captions
        self.name = name
        self.shape = shape
        self.frozen = frozen # text encoder
        self.target = 'at most 1.05'
        self.batch = 256 if frozen else 128
        self.steps = 60 if frozen else 6
        self.captions = [c for i in range(self.images) for c in scene_captions(i, self.each, 0)[2]]
        self.tokenizer = build_tokenizer(self.captions, 1)
        self.data = self.make_data()
        self.collate = PairCollator(self.data, self.tokenizer)
        self.loss = InfoNCELoss(.05)
        self.waited = [] # seconds that the bare loop waits for data

    def make_data(self):
        import numpy as np
        from amsps.data import Annotations, PairDataset
        n,m = self.images,len(self.captions)
        annotations = Annotations(
            [f'{i}.jpg' for i in range(n)], ['train']*n, self.captions, caption_ids=[f'{i}' for i in range(m)],
            caption_image=np.arange(m)//self.each)
        features = np.random.default_rng(0).standard_normal((n, *self.shape), dtype=np.float32).astype(np.float16)
        states = States(m) if self.frozen else None
        return PairDataset(annotations, features, 'train', states=states)

    def model(self):
        import torch
        from amsps.model import AmspsConfig, AmspsModel
        text = dict(
            model_type='bert', vocab_size=len(self.tokenizer), hidden_size=384, num_hidden_layers=1,
            num_attention_heads=2, intermediate_size=8)
        torch.manual_seed(0)
        config = AmspsConfig(
            self.shape[1], len(self.tokenizer), embed_size=512 if self.frozen else 256,
            pooling='mean' if self.frozen else 'attention', dropout=.5, word_dropout=.1,
            text_config=text if self.frozen else None, freeze_text=self.frozen)
        return AmspsModel(config)

    def bare(self):
        "A generator of steps"
        from itertools import count
        import numpy as np
        import torch
        model = self.model().train()
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, 1e-3, weight_decay=1e-4, fused=True)
        m = len(self.captions)
        order = np.random.default_rng(0).permutation(m)
        for i in count():
            start = time.perf_counter()
            pairs = order[i*self.batch%(m-self.batch):][:self.batch]
            batch = self.collate([self.data[j] for j in pairs])
            self.waited.append(time.perf_counter()-start)
            image,_ = torch.from_numpy(batch.pop('image')),batch.pop('caption')
            out = model(**batch)
            loss = self.loss(out.image_embeds@out.text_embeds.T, image)['loss']
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 2.)
            optimizer.step()
            optimizer.zero_grad()
            yield

    def trainer(self, folder, callback):
        from amsps.training import RetrievalTrainer
        from transformers import PrinterCallback, TrainingArguments
        args = TrainingArguments(
            output_dir=folder, max_steps=self.steps, per_device_train_batch_size=self.batch, learning_rate=1e-3,
            weight_decay=1e-4, max_grad_norm=2., lr_scheduler_type='cosine', save_strategy='no',
            logging_strategy='no', remove_unused_columns=False, label_names=[], report_to=[], disable_tqdm=True,
            dataloader_pin_memory=False, logging_nan_inf_filter=False)
        trainer = RetrievalTrainer(
            self.model(), args, retrieval_loss=self.loss, data_collator=self.collate, train_dataset=self.data,
            processing_class=self.tokenizer)
        trainer.add_callback(callback)
        trainer.remove_callback(PrinterCallback)
        return trainer

    def run(self, folder, other):
        "Median seconds of a step of the other loop and of the trainer, over a run"
        clock = make_clock(other)
        self.trainer(folder, clock).train()
        return statistics.median(clock.bare[1:]),statistics.median(clock.ours[1:])

    def profiled(self, folder):
        "Seconds per step of what the trainer does beside"
        from contextlib import ExitStack
        from itertools import repeat
        from unittest.mock import patch
        took = {what:[] for what in beside()}
        with ExitStack() as stack:
            for what,(calls,within) in beside().items():
                for sign,places in ((1, calls), (-1, within)):
                    for owner,name in places:
                        f = counted(getattr(owner, name), sign, took[what])
                        stack.enter_context(patch.object(owner, name, f))
            self.run(folder, repeat(None))
        return {what:sum(x)/self.steps for what,x in took.items()}

    def lines(self):
        with tempfile.TemporaryDirectory() as folder:
            self.run(folder, self.bare())
            self.waited.clear()
            runs = [self.run(folder, self.bare()) for _ in range(self.runs)]
            profiles = [self.profiled(folder) for _ in range(3)] if self.frozen else []
        bare,ours = zip(*runs)
        share = statistics.median(self.waited)/statistics.median(bare)
        found = [
            line(f'bare training loop, a step ({self.name}, B = {self.batch})', bare),
            line('`RetrievalTrainer`, a step', ours, bare, against='bare loop', target=self.target),
            line(f'of which the bare loop waits for data: {100*share:.0f} %', self.waited)]
        for what in profiles[0] if profiles else ():
            found.append(line(f'of what it does beside: {what}', [p[what] for p in profiles]))
        return found


def training(full):
    "The Flickr8k setting: one vector per image, the mean of a frozen text encoder's states, batches of 256"
    from transformers.utils import logging
    logging.set_verbosity_error()
    settings = (
        Setting('Flickr8k setting: 1 x 1,280, frozen text encoder', (1,1280), frozen=True),
        Setting('36 x 2,048 regions, attention, Bi-GRU of 256', (36,2048), frozen=False))
    return [l for setting in settings for l in setting.lines()]


class PixelSetting(Setting):
    "A model of the size of CLIP ViT-B/32 with random weights that trains whole, from pixels, with random views"
    images = 160
    runs = 3

    def __init__(self):
        from amsps.data import PairCollator
        from amsps.losses import InfoNCELoss
        from gpu import Device, PixelBench
        self.bench = PixelBench(Device('cpu'), small=False, folder='', images=self.images)
        self.name = 'CLIP ViT-B/32 from pixels'
        self.frozen = False
        self.target = 'at most 1.05'
        self.batch = 16
        self.steps = 6
        self.captions = self.bench.data.captions
        self.tokenizer = self.bench.tokenizer
        self.data = self.bench.data
        self.collate = PairCollator(self.data, self.tokenizer)
        self.loss = InfoNCELoss(.05)
        self.waited = []

    def model(self):
        return self.bench.model()


def pixels(full):
    from transformers.utils import logging
    logging.set_verbosity_error()
    return PixelSetting().lines()


# ---------------------------------------------------------------- large batches

def peak_of_second(f):
    "Peak memory of a call after another one, whose freed memory goes back to the system first"
    f()
    if platform.libc_ver()[0]=='glibc': ctypes.CDLL(None).malloc_trim(0)
    return peak_memory(f)


def chunks(full):
    "Forward and backward pass of a batch at once and in chunks; the memory is that of activations and gradients"
    from amsps.losses import InfoNCELoss
    from gpu import EACH, Clock, Device, PixelBench
    from transformers.utils import logging
    logging.set_verbosity_error()
    size = 32
    def passes(folder, chunk_size):
        bench = PixelBench(Device('cpu'), small=False, folder=folder, images=size)
        clock = Clock(0, lambda: None)
        trainer = bench.trainer(
            InfoNCELoss(.05), batch=size, precision='fp32', steps=1, clock=clock, chunk_size=chunk_size)
        batch = trainer.data_collator(bench.data.__getitems__(range(0, EACH*size, EACH))) # one caption an image
        trainer.create_optimizer_and_scheduler(1)
        trainer.current_gradient_accumulation_steps = 1
        def both():
            trainer.training_step(trainer.model, dict(batch))
            trainer.model.zero_grad()
        return both
    with tempfile.TemporaryDirectory() as folder:
        part,whole = passes(folder, 4),passes(folder, 0)
        least,most = (peak_of_second(f) for f in (part, whole))
        t = interleaved(3, part=part, whole=whole)
    what = f'forward and backward pass (CLIP ViT-B/32 from pixels, B = {size}), at once'
    return [
        line(what, t['whole'], memory=most),
        line('the same in chunks of 4', t['part'], t['whole'], against='at once', memory=least)]


# ---------------------------------------------------------------- extraction

def write_backbone(folder):
    "A MobileNetV2 with random weights"
    from transformers import MobileNetV2Config, MobileNetV2ImageProcessorPil, MobileNetV2Model
    backbone = MobileNetV2Model(MobileNetV2Config()).eval()
    backbone.save_pretrained(folder)
    MobileNetV2ImageProcessorPil().save_pretrained(folder)
    return backbone


def write_pictures(folder, n):
    "JPEG files of 500 x 375 pixels"
    import numpy as np
    from PIL import Image
    rng = np.random.default_rng(0)
    paths = [folder/f'{i}.jpg' for i in range(n)]
    for path in paths:
        noise = Image.fromarray(rng.integers(0, 256, (24,32,3), dtype=np.uint8))
        noise.resize((500,375), Image.Resampling.BICUBIC).save(path, quality=90)
    return paths


def extraction(full):
    from functools import partialmethod
    import torch
    import tqdm.auto as tqdm
    from transformers.utils import logging
    from amsps.vision import backbone_grid, extract_features, keep_freed_memory
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    tqdm.tqdm.__init__ = partialmethod(tqdm.tqdm.__init__, disable=True)
    n = 128
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        backbone = write_backbone(folder/'backbone')
        paths = write_pictures(folder, n)
        pixels = torch.randn(32, 3, 320, 320)
        @torch.inference_mode()
        def forward():
            for _ in range(n//32):
                backbone_grid(backbone, pixels)
        def ours():
            cache = Path(tempfile.mkdtemp(dir=folder))
            extract_features(paths, str(folder/'backbone'), cache, grid=1, image_size=320)
        t = interleaved(3, forward=forward, ours=ours)
        more = []
        if keep_freed_memory():
            more = [line('the same, with memory that is kept: `keep_freed_memory`', timed(ours, 3), t['ours'],
                against='without it')]
    return [
        line(f"the backbone's own forward pass (MobileNetV2, {n} images of 320 pixels)", t['forward']),
        line('feature extraction from JPEG files: `extract_features`', t['ours'], t['forward'],
             against='forward pass', target='at most 1/0.9 = 1.11'), *more]


# ---------------------------------------------------------------- the table

COLUMNS = ('', 'median', 'range', 'ratio', 'target', 'memory')


def seconds(x):
    return f'{x*1e3:.2f} ms' if x<1 else f'{x:.1f} s'


def table_row(l):
    spread = f"{seconds(l['low'])} to {seconds(l['high'])}"
    ratio = f"{l['ratio']:.3g} of {l['against']}" if l['ratio'] else ''
    memory = f"{l['memory']:.0f} MiB" if l['memory'] is not None else ''
    return l['what'],seconds(l['median']),spread,ratio,l['target'],memory


def table(lines):
    rows = [COLUMNS, ('---',)*len(COLUMNS), *map(table_row, lines)]
    return '\n'.join(f"| {' | '.join(row)} |" for row in rows)


def cpu_name():
    cpuinfo = Path('/proc/cpuinfo')
    for l in cpuinfo.read_text('utf-8').splitlines() if cpuinfo.exists() else ():
        if l.startswith('model name'): return l.split(':')[1].strip()
    return platform.processor()


def machine(threads):
    import torch
    return dict(cpu=cpu_name(), cpus=os.cpu_count(), threads=threads, python=platform.python_version(),
        torch=torch.__version__, date=date.today().isoformat())


# ---------------------------------------------------------------- command line

def check_names(parser, names, known):
    wrong = [n for n in names if n not in known]
    if wrong: parser.error(f"there is no benchmark {wrong[0]!r}; choose from {', '.join(known)}")


def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('names', nargs='*', metavar='NAME', help=f"of {', '.join(NAMES)}; default: all")
    p.add_argument('--threads', type=int, default=2)
    p.add_argument('--full', action='store_true')
    p.add_argument('--write', type=Path)
    p.add_argument('--lines', type=Path, help=argparse.SUPPRESS)
    args = p.parse_args()
    check_names(p, args.names, NAMES)
    return args


def write_lines(args):
    "Lines of one benchmark, in this process"
    import torch
    torch.set_num_threads(args.threads)
    args.lines.write_text(json.dumps(globals()[args.names[0]](args.full)), 'utf-8')


def run_alone(name, args):
    "Lines of one benchmark, in a process of its own, so that its memory is its own"
    with tempfile.TemporaryDirectory() as d:
        file = Path(d, 'lines')
        command = [sys.executable, __file__, name, '--threads', str(args.threads), '--lines', str(file)]
        if args.full: command.append('--full')
        env = os.environ|dict(OMP_NUM_THREADS=str(args.threads), TOKENIZERS_PARALLELISM='false')
        if subprocess.run(command, env=env).returncode: sys.exit(f'{name} failed')
        return json.loads(file.read_text('utf-8'))


def main():
    args = parse()
    if args.lines: return write_lines(args)
    lines = []
    for name in args.names or NAMES:
        start = time.monotonic()
        found = run_alone(name, args)
        lines += found
        print(f'\n{name}, {time.monotonic()-start:.0f} s\n\n{table(found)}', flush=True)
    if args.write:
        args.write.write_text(json.dumps(dict(machine=machine(args.threads), lines=lines), indent=1)+'\n', 'utf-8')


if __name__=='__main__': main()
