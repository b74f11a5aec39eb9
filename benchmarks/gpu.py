"""Training, mining and evaluation on one CUDA GPU, on data of the shape of Flickr30K and of MSCOCO with 36 x 2,048
regions and a Bi-GRU of 1,024.

    python benchmarks/gpu.py [NAME ...] [--profile] [--write FILE.json]
    python benchmarks/gpu.py --device cpu --small       # only that it runs

A line for each of B = 128 and 1,024, fp32 and bf16, hardest triplet and AHRL with every part: pairs per second, the
seconds per epoch that follow from it, the share of the time that the GPU was busy (sampled by nvidia-smi), peak memory.
Then a mining pass over the training set, and recall at the size of a test split. Features are noise, which does not
change the cost of a step. The name `pixels` is a model of the size of CLIP ViT-B/32 with random weights that trains
whole, from pixels of 224 x 224, in bf16, with random views: against a bare loop over the same modules, and with
B = 1,024 whole and in chunks. `--profile` shows where the time of AHRL's steps at B = 128 goes, on GPU and host."""
import argparse
import json
import platform
import statistics
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
import numpy as np
import torch
from transformers import CLIPConfig, CLIPImageProcessor, PrinterCallback, TrainerCallback, TrainingArguments
from transformers.utils import logging
from amsps.data import Annotations, PairCollator, PairDataset, build_tokenizer, on_device
from amsps.dual import dual_from_config
from amsps.losses import AHRL, InfoNCELoss, TripletLoss
from amsps.metrics import retrieval_ranks
from amsps.mining import Miner, SentenceEvidence
from amsps.model import AmspsConfig, AmspsModel
from amsps.scenes import scene_captions
from amsps.training import MiningCallback, RetrievalTrainer, place_features
from amsps.views import RandomViews

SHAPES = dict(flickr30k=(29000, 1000), mscoco=(113287, 5000)) # images of train and test; five captions each
SMALL = dict(flickr30k=(60, 20), mscoco=(80, 30))
EACH = 5 # captions per image
EVERY = dict(
    margin=.1, selection='smooth', adaptive_margin=.3, offline_weight=.05, cross_weight=.02, penalty=True,
    hidden_confidence=.3, mining_weight=.2)


@dataclass
class Sizes:
    "What `--small` changes"
    small: bool

    def __post_init__(self):
        self.regions = (4, 32) if self.small else (36, 2048)
        self.embed = 16 if self.small else 1024
        self.word = 8 if self.small else 300
        self.candidates = 20 if self.small else 300
        self.batches = (8, 16) if self.small else (128, 1024)
        self.skip = 2 if self.small else 20 # first steps, not timed

    def steps(self, batch):
        if self.small: return 6
        return 120 if batch==128 else 40


class Noise:
    "Features of n images in the memory of a few"
    dtype = np.dtype(np.float16)

    def __init__(self, n, regions, size):
        self.shape = (n, regions, size)
        noise = np.random.default_rng(0).standard_normal((512, regions, size), dtype=np.float32)
        self.block = noise.astype(np.float16)

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, i):
        return self.block[np.arange(len(self))[i]%512]


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_pairs(n, features):
    "Training pairs of n images; a number makes every caption unique"
    said = [c for i in range(400) for c in scene_captions(i, EACH)[2]]
    captions = [f'{said[j%len(said)]} {j}' for j in range(EACH*n)]
    annotations = Annotations(
        image_ids=[f'{i}.jpg' for i in range(n)], splits=['train']*n, captions=captions,
        caption_ids=list(map(str, range(EACH*n))), caption_image=np.arange(EACH*n)//EACH)
    return PairDataset(annotations, features, 'train')


class Clock(TrainerCallback):
    "Seconds per step, without the first ones"
    def __init__(self, skip, sync):
        self.skip = skip
        self.sync = sync

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step==self.skip:
            self.sync()
            self.start = time.perf_counter()

    def on_train_end(self, args, state, control, **kwargs):
        self.sync()
        self.seconds = (time.perf_counter()-self.start)/(state.global_step-self.skip)


class Busy:
    "Share of the time in which the GPU did something, sampled by nvidia-smi; None without it"
    query = ['nvidia-smi', '--query-gpu=utilization.gpu', '--format=csv,noheader,nounits', '-i', '0']

    def __enter__(self):
        self.samples = []
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.sample)
        self.thread.start()
        return self

    def sample(self):
        while not self.stop.wait(.2):
            try:
                found = subprocess.run(self.query, capture_output=True, check=True, encoding='utf-8')
                self.samples.append(int(found.stdout))
            except (OSError, ValueError, subprocess.CalledProcessError):
                return

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()
        self.share = statistics.median(self.samples) if self.samples else None


class Device:
    "A GPU, or the CPU where there is none"
    def __init__(self, name):
        self.device = torch.device(name)
        self.cuda = name.startswith('cuda')

    def sync(self):
        if self.cuda: torch.cuda.synchronize()

    def reset(self):
        if self.cuda: torch.cuda.reset_peak_memory_stats()

    def gib(self):
        return torch.cuda.max_memory_allocated()/2**30 if self.cuda else None

    def seconds(self, f):
        self.sync()
        start = time.perf_counter()
        f()
        self.sync()
        return time.perf_counter()-start


class Bench:
    "Measurements on data of one shape"
    def __init__(self, device, name, small, folder):
        self.device = device
        self.name = name
        self.sizes = Sizes(small)
        self.folder = folder
        self.n_train,self.n_test = (SMALL if small else SHAPES)[name]
        self.data = make_pairs(self.n_train, Noise(self.n_train, *self.sizes.regions))
        self.tokenizer = build_tokenizer(self.data.captions)
        self.callback = self.make_callback()

    def model(self):
        torch.manual_seed(0)
        config = AmspsConfig(
            self.data.features.shape[2], len(self.tokenizer), embed_size=self.sizes.embed, word_size=self.sizes.word,
            pooling='attention')
        return AmspsModel(config)

    def make_callback(self):
        "The captions of an image have similar sentence vectors"
        n,m = self.n_train,len(self.data)
        images = normal(0, n, 384)[torch.from_numpy(self.data.caption_image)]
        evidence = SentenceEvidence(images+.5*normal(1, m, 384), self.data.caption_image, n)
        miner = Miner(
            self.data.captions, self.data.caption_image, n, evidence=evidence, candidates=self.sizes.candidates)
        callback = MiningCallback(miner, self.data, self.data, self.folder)
        callback.needs = AHRL(**EVERY).needs
        return callback

    def trainer(self, loss, batch, precision, steps, clock, chunk_size=0):
        args = TrainingArguments(
            self.folder, max_steps=steps, per_device_train_batch_size=batch, learning_rate=5e-4, max_grad_norm=2.,
            save_strategy='no', logging_strategy='no', remove_unused_columns=False, label_names=[], report_to=[],
            disable_tqdm=True, dataloader_pin_memory=False, logging_nan_inf_filter=False, bf16=precision=='bf16',
            use_cpu=not self.device.cuda)
        place_features(args, self.data)
        trainer = RetrievalTrainer(
            self.model(), args, retrieval_loss=loss, mining=self.callback if loss.needs else None,
            data_collator=PairCollator(self.data, self.tokenizer), train_dataset=self.data,
            processing_class=self.tokenizer, callbacks=[clock], chunk_size=chunk_size)
        trainer.remove_callback(PrinterCallback)
        return trainer

    def line(self, what, seconds, **more):
        return dict(data=self.name, what=what, seconds=seconds, gib=self.device.gib(), **more)

    def mining(self):
        model = self.model().to(self.device.device)
        self.device.reset()
        return self.line('mining pass', self.device.seconds(lambda: self.callback.mine(model, self.tokenizer, 0)))

    def training(self, label, loss, batch, precision, chunk_size=0):
        loss.mode = 'active'
        clock = Clock(self.sizes.skip, self.device.sync)
        steps = self.sizes.steps(batch)
        trainer = self.trainer(loss, batch=batch, precision=precision, steps=steps, clock=clock, chunk_size=chunk_size)
        self.device.reset()
        with Busy() as busy:
            trainer.train()
        return self.line(
            f'{label}, B = {batch:,}, {precision}', clock.seconds, pairs=batch/clock.seconds,
            epoch=len(self.data)/batch*clock.seconds, busy=busy.share)

    def recall(self):
        n,m = self.n_test,EACH*self.n_test
        images,texts = (torch.nn.functional.normalize(normal(k, k, self.sizes.embed), dim=1) for k in (n, m))
        images,texts = images.to(self.device.device),texts.to(self.device.device)
        def rank():
            retrieval_ranks(images, texts, torch.arange(m)//EACH)
        self.device.reset()
        rank() # the first call is not timed
        return self.line(f'recall both ways, {n:,} images', self.device.seconds(rank))

    def profiled(self):
        "Time by operation over some steps of AHRL"
        from torch.profiler import ProfilerActivity, profile
        loss = AHRL(**EVERY)
        loss.mode = 'active'
        batch,steps = (8, 4) if self.sizes.small else (128, 40)
        trainer = self.trainer(loss, batch=batch, precision='fp32', steps=steps, clock=Clock(1, self.device.sync))
        activities = [ProfilerActivity.CPU]+[ProfilerActivity.CUDA]*self.device.cuda
        with profile(activities=activities) as p:
            trainer.train()
        orders = ['self_cuda_time_total']*self.device.cuda+['self_cpu_time_total']
        return '\n'.join(p.key_averages().table(sort_by=k, row_limit=25, max_name_column_width=90) for k in orders)


class PixelBench(Bench):
    "A CLIP-like model that trains from pixels"
    def __init__(self, device, small, folder, images=4096):
        self.device = device
        self.name = 'pixels'
        self.sizes = Sizes(small)
        self.folder = folder
        self.callback = None
        self.side = 32 if small else 224
        n = 40 if small else images
        pixels = np.random.default_rng(0).integers(0, 255, (n, 3, self.side, self.side), dtype=np.uint8)
        self.data = make_pairs(n, pixels)
        self.data.views = RandomViews(np.ones(n, dtype=bool))
        self.tokenizer = build_tokenizer(self.data.captions)

    def model(self):
        torch.manual_seed(0)
        small = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
        large = dict(hidden_size=512, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=8)
        wide = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
        tiny = self.sizes.small
        text = (small if tiny else large)|dict(vocab_size=len(self.tokenizer), eos_token_id=self.tokenizer.eos_token_id)
        vision = (small if tiny else wide)|dict(image_size=self.side, patch_size=8 if tiny else 32)
        size = 16 if tiny else 512
        described = CLIPConfig(text_config=text, vision_config=vision, projection_dim=size).to_dict()
        n = vision['num_hidden_layers']
        processor = CLIPImageProcessor(size=dict(shortest_edge=self.side), crop_size=self.side)
        every = dict(tune_vision_layers=n, freeze_text=True, tune_text_layers=n)
        parts = dual_from_config(described, processor, self.tokenizer, **every)
        config = AmspsConfig(
            size, len(self.tokenizer), embed_size=size, pooling='mean', dual_config=parts.config, freeze_text=True,
            tune_text_layers=n, tune_vision_layers=n, grid=1, scale=float(parts.scale), learn=['scale'])
        return AmspsModel(config, dual=parts)

    def bare(self, batch, precision):
        "A plain loop over the same modules and batches"
        trainer = self.trainer(
            InfoNCELoss(), batch=batch, precision=precision, steps=1, clock=Clock(0, self.device.sync))
        model = trainer.model.to(self.device.device).train()
        optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=5e-4)
        collate,kind = trainer.data_collator,self.device.device.type
        steps,skip = self.sizes.steps(batch),self.sizes.skip
        rng = np.random.default_rng(0)
        for k in range(steps):
            if k==skip:
                self.device.sync()
                start = time.perf_counter()
            drawn = rng.choice(len(self.data), batch, replace=False).tolist()
            x = on_device(collate(self.data.__getitems__(drawn)), self.device.device)
            with torch.autocast(kind, torch.bfloat16, enabled=precision=='bf16'):
                v = model.vision.regions(x['regions'], x['views'])[:,0]
                t = model.text_encoder(x['input_ids'], x['attention_mask'], lengths=x['lengths'])[0][:,0]
            v,t = (torch.nn.functional.normalize(y.float(), dim=1) for y in (v, t))
            if 'image_index' in x: v = v[x['image_index']]
            logits = model.logit_scale.exp()*v@t.T
            place = torch.arange(batch, device=logits.device)
            loss = torch.nn.functional.cross_entropy(logits, place)+torch.nn.functional.cross_entropy(logits.T, place)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 2.)
            optimizer.step()
        self.device.sync()
        seconds = (time.perf_counter()-start)/(steps-skip)
        return self.line(f'bare loop, B = {batch:,}, {precision}', seconds, pairs=batch/seconds)

    def lines(self):
        few,many = self.sizes.batches
        self.trainer(InfoNCELoss(), batch=few, precision='bf16', steps=2, clock=Clock(1, self.device.sync))
        self.device.reset() # the pixels are on the GPU now
        yield self.bare(few, 'bf16')
        yield self.training('InfoNCE', InfoNCELoss(), batch=few, precision='bf16')
        yield self.training('InfoNCE', InfoNCELoss(), batch=many, precision='bf16')
        size = max(1, many//8)
        label = f'InfoNCE, chunks of {size}'
        yield self.training(label, InfoNCELoss(), batch=many, precision='bf16', chunk_size=size)


def measure_pixels(device, small):
    with tempfile.TemporaryDirectory() as folder:
        bench = PixelBench(device, small=small, folder=folder)
        print(f"\npixels: {len(bench.data.image_ids):,} images of {bench.side} x {bench.side}", flush=True)
        found = []
        for line in bench.lines():
            found.append(line)
            print(table_row(line), flush=True)
        return found


def measure(device, name, small, profile):
    "All lines of one shape; those of training are printed as they come"
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(device, name, small=small, folder=folder)
        print(f"\n{name}: {bench.n_train:,} images, {len(bench.data):,} captions", flush=True)
        lines = [bench.mining()]
        print(table_row(lines[-1]), flush=True)
        for batch in bench.sizes.batches:
            for precision in ('fp32', 'bf16'):
                for label,loss in (('hardest triplet', TripletLoss(.2)), ('AHRL', AHRL(**EVERY))):
                    lines.append(bench.training(label, loss, batch=batch, precision=precision))
                    print(table_row(lines[-1]), flush=True)
        place = 'in the memory of the host' if bench.data.device is None else f"on {bench.data.device}"
        print(f"features {place}", flush=True)
        if profile: print(bench.profiled(), flush=True)
        return [*lines, bench.recall()]


COLUMNS = ('data', 'what', 'time', 'pairs a second', 'seconds an epoch', 'GPU busy, %', 'peak GiB')


def table_row(line):
    def shown(key, form):
        return format(line[key], form) if line.get(key) is not None else ''
    cells = [line['data'], line['what'], f"{1e3*line['seconds']:.1f} ms"]
    cells += [shown('pairs', ',.0f'), shown('epoch', '.1f'), shown('busy', '.0f'), shown('gib', '.1f')]
    return f"| {' | '.join(cells)} |"


def table(lines):
    head = f"| {' | '.join(COLUMNS)} |\n|{' --- |'*len(COLUMNS)}"
    return '\n'.join([head, *map(table_row, lines)])


def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('names', nargs='*', metavar='NAME', help=f"of {', '.join(SHAPES)}, pixels; default: all")
    p.add_argument('--device', default='cuda', choices=('cuda', 'cpu'))
    p.add_argument('--small', action='store_true')
    p.add_argument('--profile', action='store_true')
    p.add_argument('--write', type=Path)
    args = p.parse_args()
    known = (*SHAPES, 'pixels')
    wrong = [n for n in args.names if n not in known]
    if wrong: p.error(f"there is no measurement {wrong[0]!r}; choose from {', '.join(known)}")
    if args.device=='cuda' and not torch.cuda.is_available():
        p.error('no CUDA GPU is available; `--device cpu --small` shows that the script runs')
    return args


def main():
    args = parse()
    logging.set_verbosity_error()
    device = Device(args.device)
    machine = dict(
        device=torch.cuda.get_device_name() if device.cuda else platform.processor(), torch=torch.__version__,
        python=platform.python_version(), date=date.today().isoformat())
    lines = []
    for name in args.names or (*SHAPES, 'pixels'):
        if name=='pixels': lines += measure_pixels(device, args.small)
        else: lines += measure(device, name, small=args.small, profile=args.profile)
        if args.write: args.write.write_text(json.dumps(dict(machine=machine, lines=lines), indent=1)+'\n', 'utf-8')
    print(table(lines))


if __name__=='__main__': main()
