"A step in chunks has the gradients of the whole batch, with everything that is mined"
import numpy as np
import pytest
import torch
from transformers import TrainingArguments
from transformers.utils import logging
from amsps.chunks import _chunk, _like, _tensors
from amsps.data import PairCollator, PairDataset
from amsps.errors import InputError
from amsps.losses import LOSSES, make_loss
from amsps.rivals import SAM # registers the published losses
from amsps.scenes import make_scenes
from amsps.training import RetrievalTrainer, fit
from small_runs import RESNET, VIT, WAYS, dual, mining_of, model_of, parts, seeing

logging.set_verbosity_error()
assert SAM


@pytest.fixture(scope='module')
def scenes():
    return make_scenes(60, 30, 1)


def gradients(scenes, loss, folder, chunk_size, **model):
    "Loss and gradients of one step of the trainer"
    train,dev,tokenizer = parts(scenes)
    return step(model_of(train, tokenizer, **model), train, dev, tokenizer, loss, folder, chunk_size)


def step(net, train, dev, tokenizer, loss, folder, chunk_size):
    args = TrainingArguments(str(folder), report_to=[], use_cpu=True, disable_tqdm=True, label_names=[],
                             remove_unused_columns=False)
    mining = None
    if loss.needs:
        mining = mining_of(train, dev, folder)
        mining.needs = frozenset(loss.needs)
        mining.mine(net, tokenizer, 0)
    net.double()
    torch.set_default_dtype(torch.float64)
    collator = PairCollator(train, tokenizer)
    trainer = RetrievalTrainer(net, args, retrieval_loss=loss, mining=mining, data_collator=collator,
                               train_dataset=train, processing_class=tokenizer, chunk_size=chunk_size)
    torch.manual_seed(1) # for random views
    batch = collator([train[j] for j in np.random.default_rng(0).permutation(len(train))[:37]])
    trainer.create_optimizer_and_scheduler(10)
    trainer.current_gradient_accumulation_steps = 1
    value = trainer.training_step(net, batch)
    torch.set_default_dtype(torch.float32)
    return value.item(),{k:p.grad.clone() for k,p in net.named_parameters() if p.grad is not None}


@pytest.fixture
def double(monkeypatch):
    "Features are of the type of the model"
    regions = PairDataset.regions
    def in_double(self, image):
        x = regions(self, image)
        return x.to(torch.get_default_dtype()) if x.is_floating_point() else x
    monkeypatch.setattr(PairDataset, 'regions', in_double)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize('pooling', ['max', 'attention', 'mean'])
@pytest.mark.parametrize('name', ['ahrl', 'infonce', 'aoq', 'sam'])
def test_gradients(name, pooling, scenes, tmp_path, double):
    "To 1e-6, with uneven chunks"
    assert name in LOSSES
    settings = dict(mining_weight=.5) if name=='ahrl' else {}
    value,whole = gradients(scenes, make_loss(name, **settings), tmp_path/'whole', 0, pooling=pooling)
    other,chunks = gradients(scenes, make_loss(name, **settings), tmp_path/'chunks', 8, pooling=pooling)
    assert other==pytest.approx(value, rel=1e-6)
    assert_same(whole, chunks)


def assert_same(whole, chunks):
    assert whole.keys()==chunks.keys() and len(whole)>5
    for k,g in whole.items():
        torch.testing.assert_close(chunks[k], g, atol=1e-6, rtol=1e-6, msg=lambda s: f'{k}: {s}')
    assert max(g.abs().max() for g in whole.values())>1e-3 # and there is something to compare


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('config', [VIT, RESNET], ids=['vit', 'batch norm'])
def test_vision_encoder(config, way, scenes, tmp_path, double):
    "A vision encoder that trains, from states and from pixels, with all that AHRL mines; batch norm stays frozen"
    def gradients_in(name, chunk_size):
        loss = make_loss('ahrl', mining_weight=.5)
        return step(*seeing(scenes, config, **WAYS[way]), loss, tmp_path/name, chunk_size)
    value,whole = gradients_in('whole', 0)
    other,chunks = gradients_in('chunks', 8)
    assert other==pytest.approx(value, rel=1e-6)
    assert any(k.startswith('vision.') for k in whole)
    assert_same(whole, chunks)


class ChunksWithGraph:
    "Encodes the same chunks with a graph, and so with all activations: the definition"
    def __init__(self, chunk_size):
        self.chunk_size = chunk_size

    def __call__(self, encode, *args, **kwargs):
        n = len(next(iter((*args, *kwargs.values()))))
        if n<=self.chunk_size or not torch.is_grad_enabled(): return encode(*args, **kwargs)
        rows = [slice(i, i+self.chunk_size) for i in range(0, n, self.chunk_size)]
        outs = [encode(*(_chunk(x, n, r) for x in args), **{k:_chunk(x, n, r) for k,x in kwargs.items()}) for r in rows]
        return _like(outs[0], iter([torch.cat(same) for same in zip(*map(_tensors, outs))]))

    def backward(self): pass


@pytest.mark.parametrize('pooling', ['max', 'attention'])
def test_dropout(pooling, scenes, tmp_path, double, monkeypatch):
    "With candidates and mined pairs: the second pass repeats the masks of the first"
    def gradients_in(name, chunk_size=8, dropout=.3):
        model = dict(pooling=pooling, dropout=dropout, word_dropout=dropout)
        return gradients(scenes, make_loss('ahrl', mining_weight=.5), tmp_path/name, chunk_size, **model)
    value,chunks = gradients_in('chunks')
    without = gradients_in('without', dropout=0.)[0]
    monkeypatch.setattr('amsps.training.GradientCache', ChunksWithGraph)
    expected,graph = gradients_in('graph')
    assert value==pytest.approx(expected, rel=1e-6) and value!=pytest.approx(without, rel=1e-3)
    assert_same(graph, chunks)


@pytest.mark.parametrize('name', LOSSES)
def test_dual_encoder(name, scenes, tmp_path, double):
    "Every registered loss on a CLIP that trains, with what it mines"
    def gradients_in(folder, chunk_size):
        settings = dict(mining_weight=.5) if name=='ahrl' else {}
        return step(*dual(scenes), make_loss(name, **settings), tmp_path/folder, chunk_size)
    value,whole = gradients_in('whole', 0)
    other,chunks = gradients_in('chunks', 8)
    assert other==pytest.approx(value, rel=1e-6)
    assert {k[:7] for k in whole}>={'vision.', 'text_en'}
    assert_same(whole, chunks)


def test_batch_norm_of_a_vision_encoder_is_accepted(scenes, tmp_path):
    "It is frozen, so that no picture sees another one"
    net,*sets,tokenizer = seeing(scenes, RESNET, tune=1, from_pixels=False)
    fit(net, tokenizer, *sets, tmp_path, make_loss('infonce'), chunk_size=50, max_steps=1, progress=False)


def test_batch_norm_is_refused(scenes, tmp_path):
    train,dev,tokenizer = parts(scenes)
    model = model_of(train, tokenizer, consensus='graph')
    with pytest.raises(InputError, match='batch norm'):
        fit(model, tokenizer, train, dev, tmp_path, make_loss('infonce'), chunk_size=8, progress=False)
