"""What test_ranks.py starts with one process and with two: a batch's loss and gradients, mining, and a whole short training."""
import json, sys
from pathlib import Path
import numpy as np, torch
from torch.nn.parallel import DistributedDataParallel
from transformers import TrainingArguments
from transformers.utils import logging
from amsps.consensus import build_graph
from amsps.data import PairCollator, PairDataset, build_tokenizer
from amsps.losses import AHRL, InfoNCELoss
from amsps.mining import CoverageEvidence
from amsps.model import AmspsConfig, AmspsModel
from amsps.distributed import filled, gather_objects, ranks, share
from amsps.scenes import make_scenes
from amsps.training import Miner, RetrievalTrainer, evaluate_split, fit

logging.set_verbosity_error()
EVERY = dict(margin=.1, selection='smooth', adaptive_margin=.3, offline_weight=.05, cross_weight=.02, penalty=True, hidden_confidence=.3, mining_weight=.5)

def parts():
    data = make_scenes(60, 30, 1)
    tokenizer = build_tokenizer(data.annotations.captions, 1)
    train,dev = (PairDataset(data.annotations, data.features, s) for s in ('train','dev'))
    return train,dev,tokenizer

def model_of(train, tokenizer):
    torch.manual_seed(0)
    graph = build_graph(train.captions, 20)
    model = AmspsModel(AmspsConfig(train.features.shape[2], len(tokenizer), 16, 8, pooling='max', n_concepts=len(graph.words), consensus='likelihood', fusion=.8))
    model.consensus.set_graph(graph, tokenizer)
    return model

def miner_of(train, dev, folder): return Miner(train, dev, folder, CoverageEvidence(train.captions, train.caption_image, len(train.image_ids)), candidates=20, threshold=.3, refresh=2)

def gradients(folder, sizes):
    "Losses of batches and the gradients of all weights"
    train,dev,tokenizer = parts()
    out = []
    args = TrainingArguments(str(folder/'one'), report_to=[], use_cpu=True, disable_tqdm=True, label_names=[], remove_unused_columns=False) # joins the processes
    part = (lambda n: filled(share(n))) if ranks()[1]>1 else None
    for size in sizes:
        model,loss = model_of(train, tokenizer),AHRL(**EVERY)
        miner = miner_of(train, dev, folder); miner.needs = loss.needs
        folder.mkdir(parents=True, exist_ok=True); miner.mine(model, tokenizer, 0)
        trainer = RetrievalTrainer(model, args, retrieval_loss=loss, miner=miner, data_collator=PairCollator(train, tokenizer, part), train_dataset=train, processing_class=tokenizer)
        whole = DistributedDataParallel(model, find_unused_parameters=True) if ranks()[1]>1 else model
        batch = trainer.data_collator([train[j] for j in np.random.default_rng(size).permutation(len(train))[:size]])
        trainer.create_optimizer_and_scheduler(10)
        l = trainer.compute_loss(whole.train(), batch)
        l.backward()
        out.append((l.item(), {k:p.grad.clone() for k,p in model.named_parameters() if p.grad is not None}, miner.mined))
        if part: refuses_whole_batches(trainer, whole, train, tokenizer)
    return out

def refuses_whole_batches(trainer, model, train, tokenizer):
    "A collator that does not know of the other processes would give wrong rows to all"
    try: trainer.compute_loss(model, PairCollator(train, tokenizer)([train[j] for j in range(8)]))
    except ValueError as e: assert 'give the `PairCollator` its `part`' in str(e)
    else: raise AssertionError('a batch was encoded whole by every process')

def training(folder):
    "History and metrics of a run whose last batch is uneven"
    train,dev,tokenizer = parts()
    model = model_of(train, tokenizer)
    history = fit(model, tokenizer, train, dev, folder, AHRL(**EVERY), miner_of(train, dev, folder), warmup_epochs=1, active_from=1, epochs=4, batch_size=64, learning_rate=5e-3, progress=False)
    return history,evaluate_split(model, tokenizer, dev)

class ShakyDataset(PairDataset):
    countdown = 0
    def __getitems__(self, pairs):
        ShakyDataset.countdown -= len(pairs)
        if ShakyDataset.countdown<0: raise InterruptedError
        return super().__getitems__(pairs)

def interrupted(folder):
    "History and weights of a run with dropout, straight and stopped in its third epoch; whether processes draw different masks"
    train,dev,tokenizer = parts()
    def run(name, data):
        torch.manual_seed(0)
        model = AmspsModel(AmspsConfig(train.features.shape[2], len(tokenizer), 16, 8, dropout=.2))
        history = fit(model, tokenizer, data, dev, folder/name, InfoNCELoss(), epochs=3, batch_size=64, learning_rate=5e-3, progress=False)
        return history,torch.cat([p.detach().flatten() for p in model.parameters()])
    whole = run('straight', train)
    masks = gather_objects(torch.rand(3).tolist())
    data = make_scenes(60, 30, 1)
    shaky = ShakyDataset(data.annotations, data.features, 'train')
    ShakyDataset.countdown = int(2.5*len(train))
    try: run('cut', shaky)
    except InterruptedError: ShakyDataset.countdown = 10**9
    else: raise AssertionError('nothing was interrupted')
    again = run('cut', shaky)
    return dict(history=again[0]==whole[0], weights=torch.equal(again[1], whole[1]), masks=masks)

def main(folder):
    found = gradients(folder/'batch', (64, 37, 1))
    history,metrics = training(folder/'run')
    cut = interrupted(folder) if ranks()[1]>1 else {}
    if ranks()[0]==0:
        torch.save([(l, g) for l,g,_ in found], folder/'gradients.pt')
        np.savez(folder/'mined.npz', *(a for _,_,m in found for a in (m.candidates.texts.numpy(), m.candidates.images.numpy(), m.hidden.toarray())))
        (folder/'run.json').write_text(json.dumps(dict(history=history, metrics=metrics, cut=cut, processes=ranks()[1])))

if __name__=='__main__': main(Path(sys.argv[1]))
