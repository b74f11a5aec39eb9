"""Training, mining and evaluation on one CUDA GPU, on data of the shape of Flickr30K and of MSCOCO with 36 x 2,048 regions and a Bi-GRU of 1,024.

    python benchmarks/gpu.py [NAME ...] [--profile] [--write FILE.json]
    python benchmarks/gpu.py --device cpu --small       # only that it runs

A line for each of B = 128 and 1,024, fp32 and bf16, hardest triplet and AHRL with every part: pairs a second, seconds an epoch that follow from it, the
share of the time that the GPU was busy (sampled by nvidia-smi), peak memory. Then a mining pass over the training set, and recall at the size of a test
split. Features are noise: a step costs what it costs whatever they say. `--profile` shows where the time of AHRL's steps at B = 128 goes, kernels and host."""
import argparse, json, platform, statistics, subprocess, tempfile, threading, time
from datetime import date
from pathlib import Path
import numpy as np, torch
from transformers import PrinterCallback, TrainerCallback, TrainingArguments
from transformers.utils import logging
from amsps.data import Annotations, PairCollator, PairDataset, build_tokenizer
from amsps.losses import AHRL, TripletLoss
from amsps.metrics import retrieval_ranks
from amsps.mining import Miner, SentenceEvidence
from amsps.model import AmspsConfig, AmspsModel
from amsps.scenes import scene_captions
from amsps.training import MiningCallback, RetrievalTrainer, hold_features

SHAPES = dict(flickr30k=(29000, 1000), mscoco=(113287, 5000)) # images of train and test, five captions each
SMALL = dict(flickr30k=(60, 20), mscoco=(80, 30))
EVERY = dict(margin=.1, selection='smooth', adaptive_margin=.3, offline_weight=.05, cross_weight=.02, penalty=True, hidden_confidence=.3, mining_weight=.2)

class Noise:
    "Features of n images that take the memory of a few"
    dtype = np.dtype(np.float16)
    def __init__(self, n, regions, size): self.shape,self.block = (n, regions, size),np.random.default_rng(0).standard_normal((512, regions, size), dtype=np.float32).astype(np.float16)
    def __len__(self): return self.shape[0]
    def __getitem__(self, i): return self.block[np.arange(len(self))[i]%512]

def dataset(n, small):
    said = [c for i in range(400) for c in scene_captions(i, 5)[2]]
    captions = [f'{said[j%len(said)]} {j}' for j in range(5*n)] # with a number: no two are equal
    notes = Annotations([f'{i}.jpg' for i in range(n)], ['train']*n, captions, list(map(str, range(5*n))), np.arange(5*n)//5)
    return PairDataset(notes, Noise(n, *((4, 32) if small else (36, 2048))), 'train')

def model_of(data, tokenizer, small):
    torch.manual_seed(0)
    return AmspsModel(AmspsConfig(data.features.shape[2], len(tokenizer), 16 if small else 1024, 8 if small else 300, pooling='attention'))

class Clock(TrainerCallback):
    "Seconds a step, without the first ones"
    def __init__(self, skip, sync): self.skip,self.sync,self.at = skip,sync,{}
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step==self.skip: self.sync(); self.at['start'] = time.perf_counter()
    def on_train_end(self, args, state, control, **kwargs): self.sync(); self.seconds = (time.perf_counter()-self.at['start'])/(state.global_step-self.skip)

class Busy:
    "Share of the time in which the GPU did something, as nvidia-smi samples it; None without it"
    def __enter__(self):
        self.samples,self.stop = [],threading.Event()
        self.thread = threading.Thread(target=self.sample); self.thread.start(); return self
    def sample(self):
        while not self.stop.wait(.2):
            try: self.samples.append(int(subprocess.run(['nvidia-smi', '--query-gpu=utilization.gpu', '--format=csv,noheader,nounits', '-i', '0'], capture_output=True, text=True, check=True).stdout))
            except (OSError, ValueError, subprocess.CalledProcessError): return
    def __exit__(self, *_): self.stop.set(); self.thread.join(); self.share = statistics.median(self.samples) if self.samples else None

class Device:
    "What is asked of a GPU, or of the CPU where there is none"
    def __init__(self, name): self.device,self.cuda = torch.device(name),name.startswith('cuda')
    def sync(self): torch.cuda.synchronize() if self.cuda else None
    def reset(self): torch.cuda.reset_peak_memory_stats() if self.cuda else None
    def gib(self): return torch.cuda.max_memory_allocated()/2**30 if self.cuda else None
    def timed(self, f): f(); self.sync(); start = time.perf_counter(); f(); self.sync(); return time.perf_counter()-start

def trainer_of(d, data, tokenizer, loss, size, precision, steps, miner, folder, small, clock):
    args = TrainingArguments(folder, max_steps=steps, per_device_train_batch_size=size, learning_rate=5e-4, max_grad_norm=2., save_strategy='no', logging_strategy='no', remove_unused_columns=False, label_names=[], report_to=[], disable_tqdm=True,
                             dataloader_pin_memory=False, logging_nan_inf_filter=False, bf16=precision=='bf16', use_cpu=not d.cuda)
    trainer = RetrievalTrainer(model_of(data, tokenizer, small), args, retrieval_loss=loss, mining=miner, data_collator=PairCollator(data, tokenizer), train_dataset=data, processing_class=tokenizer, callbacks=[clock])
    trainer.remove_callback(PrinterCallback)
    return trainer

def measure(d, name, small, profile):
    n,n_test = (SMALL if small else SHAPES)[name]
    data = dataset(n, small)
    tokenizer = build_tokenizer(data.captions)
    on_gpu = d.cuda and hold_features(d.device, data)
    print(f"\n{name}: {n:,} images, {len(data):,} captions, features {'on the GPU' if on_gpu else 'in host memory'}", flush=True)
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        vectors = torch.randn(n, 384, generator=torch.Generator().manual_seed(0))[torch.from_numpy(data.caption_image)]
        evidence = SentenceEvidence(vectors+.5*torch.randn(len(data), 384, generator=torch.Generator().manual_seed(1)), data.caption_image, n)
        miner = MiningCallback(Miner(data.captions, data.caption_image, n, evidence, candidates=20 if small else 300), data, data, folder)
        miner.needs = AHRL(**EVERY).needs
        model = model_of(data, tokenizer, small).to(d.device)
        d.reset(); start = time.perf_counter(); miner.mine(model, tokenizer, 0); d.sync()
        lines.append(dict(data=name, what='mining pass', seconds=time.perf_counter()-start, gib=d.gib()))
        for size in (8, 16) if small else (128, 1024):
            for precision in ('fp32', 'bf16'):
                for label,loss in (('hardest triplet', TripletLoss(.2)), ('AHRL', AHRL(**EVERY))):
                    loss.mode = 'active'
                    steps = 6 if small else 120 if size==128 else 40
                    clock = Clock(2 if small else 20, d.sync)
                    trainer = trainer_of(d, data, tokenizer, loss, size, precision, steps, miner if loss.needs else None, folder, small, clock)
                    d.reset()
                    with Busy() as busy: trainer.train()
                    lines.append(dict(data=name, what=f'{label}, B = {size:,}, {precision}', seconds=clock.seconds, pairs=size/clock.seconds, epoch=len(data)/size*clock.seconds, busy=busy.share, gib=d.gib()))
                    print(row(lines[-1]), flush=True)
        if profile: print(profiled(d, data, tokenizer, miner, folder, small))
    x = [torch.nn.functional.normalize(torch.randn(k, 16 if small else 1024, generator=torch.Generator().manual_seed(k)), dim=1).to(d.device) for k in (n_test, 5*n_test)]
    d.reset(); lines.append(dict(data=name, what=f'recall both ways, {n_test:,} images', seconds=d.timed(lambda: retrieval_ranks(*x, torch.arange(5*n_test)//5)), gib=d.gib()))
    return lines

def profiled(d, data, tokenizer, miner, folder, small):
    "Time by operation over some steps"
    from torch.profiler import ProfilerActivity, profile
    loss = AHRL(**EVERY); loss.mode = 'active'
    trainer = trainer_of(d, data, tokenizer, loss, 8 if small else 128, 'fp32', 4 if small else 40, miner, folder, small, Clock(1, d.sync))
    with profile(activities=[ProfilerActivity.CPU]+[ProfilerActivity.CUDA]*d.cuda) as p: trainer.train()
    return p.key_averages().table(sort_by='self_cuda_time_total' if d.cuda else 'self_cpu_time_total', row_limit=25)

def row(l):
    def shown(k, form): return format(l[k], form) if l.get(k) is not None else ''
    return '| '+' | '.join([l['data'], l['what'], f"{1e3*l['seconds']:.1f} ms", shown('pairs', ',.0f'), shown('epoch', '.1f'), shown('busy', '.0f'), shown('gib', '.1f')])+' |'

HEAD = '| data | what | time | pairs a second | seconds an epoch | GPU busy, % | peak GiB |\n|'+' --- |'*7

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('names', nargs='*', metavar='NAME', help=f"of {', '.join(SHAPES)}; all by default"); p.add_argument('--device', default='cuda', choices=('cuda','cpu')); p.add_argument('--small', action='store_true'); p.add_argument('--profile', action='store_true'); p.add_argument('--write', type=Path)
    args = p.parse_args()
    if wrong:=[n for n in args.names if n not in SHAPES]: p.error(f"there is no data of the shape of {wrong[0]!r}; choose from {', '.join(SHAPES)}")
    if args.device=='cuda' and not torch.cuda.is_available(): p.error('no CUDA GPU is at hand; `--device cpu --small` shows that the script runs')
    logging.set_verbosity_error()
    d = Device(args.device)
    lines = [l for n in args.names or SHAPES for l in measure(d, n, args.small, args.profile)]
    print('\n'.join([HEAD, *map(row, lines)]))
    machine = dict(device=torch.cuda.get_device_name() if d.cuda else platform.processor(), torch=torch.__version__, python=platform.python_version(), date=date.today().isoformat())
    if args.write: args.write.write_text(json.dumps(dict(machine=machine, lines=lines), indent=1)+'\n')

if __name__=='__main__': main()
