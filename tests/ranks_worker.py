"""What test_ranks.py runs in one process and in two: loss and gradients of a batch, mining, a short training.

Each process is a fork, with the environment that torchrun would give it."""
import json
import os
import signal
import socket
import sys
import traceback
import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel
from transformers import TrainingArguments
from transformers.utils import logging
from amsps.data import PairCollator
from amsps.distributed import gather_objects, nonempty_shard, rank_and_world
from amsps.losses import AHRL, InfoNCELoss
from amsps.model import AmspsConfig, AmspsModel
from amsps.scenes import make_scenes
from amsps.training import RetrievalTrainer, evaluate_split, fit
from small_runs import ShakyDataset, mining_of, model_of, parts

logging.set_verbosity_error()
EVERY = dict(mining_weight=.5) # all parts of AHRL are on
SCENES = make_scenes(60, 30, 1)


def gradients(folder, sizes):
    "Losses of batches, gradients of all weights, and what was mined"
    train,dev,tokenizer = parts(SCENES)
    plain = dict(report_to=[], use_cpu=True, disable_tqdm=True, label_names=[], remove_unused_columns=False)
    args = TrainingArguments(str(folder/'one'), **plain) # joins the processes
    return [gradient_of_batch(size, folder, train, dev, tokenizer, args) for size in sizes]


def gradient_of_batch(size, folder, train, dev, tokenizer, args):
    several = rank_and_world()[1]>1
    model,loss = model_of(train, tokenizer),AHRL(**EVERY)
    mining = mining_of(train, dev, folder)
    mining.needs = loss.needs
    mining.mine(model, tokenizer, 0)
    collator = PairCollator(train, tokenizer, nonempty_shard if several else None)
    data = dict(data_collator=collator, train_dataset=train, processing_class=tokenizer)
    trainer = RetrievalTrainer(model, args, retrieval_loss=loss, mining=mining, **data)
    whole = DistributedDataParallel(model, find_unused_parameters=True) if several else model
    batch = collator([train[j] for j in np.random.default_rng(size).permutation(len(train))[:size]])
    trainer.create_optimizer_and_scheduler(10)
    value = trainer.compute_loss(whole.train(), batch)
    value.backward()
    found = {k:p.grad.clone() for k,p in model.named_parameters() if p.grad is not None}
    if several: refuses_whole_batches(trainer, whole, train, tokenizer)
    return value.item(),found,mining.miner.mined


def refuses_whole_batches(trainer, model, train, tokenizer):
    "A collator that ignores the other processes would give all of them wrong rows"
    try:
        trainer.compute_loss(model, PairCollator(train, tokenizer)([train[j] for j in range(8)]))
    except ValueError as e:
        assert 'give the `PairCollator` its `part`' in str(e)
    else:
        raise AssertionError('a batch was encoded whole by every process')


def training(folder):
    "History and metrics of a run whose last batch is uneven"
    train,dev,tokenizer = parts(SCENES)
    model = model_of(train, tokenizer)
    options = dict(warmup_epochs=1, active_from=1, epochs=4, batch_size=64, learning_rate=5e-3, progress=False)
    loss,mining = AHRL(**EVERY),mining_of(train, dev, folder)
    history = fit(model, tokenizer, train, dev, output_dir=folder, loss=loss, mining=mining, **options)
    return history,evaluate_split(model, tokenizer, dev)


def train_with_dropout(folder, data):
    "History and weights of a run"
    train,dev,tokenizer = parts(SCENES)
    torch.manual_seed(0)
    model = AmspsModel(AmspsConfig(train.features.shape[2], len(tokenizer), 16, 8, dropout=.2))
    options = dict(epochs=3, batch_size=64, learning_rate=5e-3, progress=False)
    history = fit(model, tokenizer, data or train, dev, output_dir=folder, loss=InfoNCELoss(), **options)
    return history,torch.cat([p.detach().flatten() for p in model.parameters()])


def interrupted(folder):
    "Whether a run that was stopped in its third epoch ends like an undisturbed one; random numbers of each process"
    history,weights = train_with_dropout(folder/'straight', None)
    masks = gather_objects(torch.rand(3).tolist())
    shaky = ShakyDataset(SCENES.annotations, SCENES.features, 'train')
    ShakyDataset.countdown = int(2.5*len(shaky))
    try:
        train_with_dropout(folder/'cut', shaky)
    except InterruptedError:
        ShakyDataset.countdown = 10**9
    else:
        raise AssertionError('nothing was interrupted')
    again = train_with_dropout(folder/'cut', shaky)
    return dict(history=again[0]==history, weights=torch.equal(again[1], weights), masks=masks)


def main(folder):
    found = gradients(folder/'batch', (64, 37, 1))
    history,metrics = training(folder/'run')
    rank,world = rank_and_world()
    cut = interrupted(folder) if world>1 else {}
    if rank: return
    torch.save([(value, grads) for value,grads,_ in found], folder/'gradients.pt')
    mined = [m for _,_,m in found]
    arrays = [x for m in mined for x in (m.candidates.texts.numpy(), m.candidates.images.numpy(), m.hidden.toarray())]
    np.savez(folder/'mined.npz', *arrays)
    record = dict(history=history, metrics=metrics, cut=cut, processes=world)
    (folder/'run.json').write_text(json.dumps(record), 'utf-8')


def fork(folder, **env):
    "Process id of a process that runs `main`"
    child = os.fork()
    if child: return child
    os.environ.update({k:str(v) for k,v in env.items()})
    code = 1
    try:
        main(folder)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def wait(children):
    "Until all processes end; one that fails ends the others, as torchrun does"
    while children:
        child,status = os.wait()
        children.remove(child)
        if status:
            for other in children: os.kill(other, signal.SIGKILL)
            sys.exit(1)


def run(one, two):
    "One process writes to a folder, then two to another"
    os.environ.update(CUDA_VISIBLE_DEVICES='', TOKENIZERS_PARALLELISM='false')
    wait([fork(one)])
    world = dict(WORLD_SIZE=2, LOCAL_WORLD_SIZE=2, MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port())
    wait([fork(two, RANK=k, LOCAL_RANK=k, **world) for k in range(2)])
