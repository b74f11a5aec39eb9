"A step in chunks has the gradients of the whole batch, with everything that is mined"
import numpy as np
import pytest
import torch
from transformers import TrainingArguments
from transformers.utils import logging
from amsps.data import PairCollator, PairDataset
from amsps.errors import InputError
from amsps.losses import LOSSES, make_loss
from amsps.rivals import SAM # registers the published losses
from amsps.scenes import make_scenes
from amsps.training import RetrievalTrainer, fit
from small_runs import RESNET, VIT, WAYS, mining_of, model_of, parts, seeing

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
def double():
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize('pooling', ['max', 'attention', 'mean'])
@pytest.mark.parametrize('name', ['ahrl', 'infonce', 'aoq', 'sam'])
def test_gradients(name, pooling, scenes, tmp_path, double, monkeypatch):
    "To 1e-6, with uneven chunks"
    regions = PairDataset.regions
    monkeypatch.setattr(PairDataset, 'regions', lambda self, image: regions(self, image).to(torch.get_default_dtype()))
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
def test_vision_encoder(config, way, scenes, tmp_path, double, monkeypatch):
    "A vision encoder that trains, from states and from pixels, with all that AHRL mines; batch norm stays frozen"
    regions = PairDataset.regions
    def in_double(self, image):
        x = regions(self, image)
        return x.to(torch.get_default_dtype()) if x.is_floating_point() else x
    monkeypatch.setattr(PairDataset, 'regions', in_double)
    def gradients_in(name, chunk_size):
        loss = make_loss('ahrl', mining_weight=.5)
        return step(*seeing(scenes, config, **WAYS[way]), loss, tmp_path/name, chunk_size)
    value,whole = gradients_in('whole', 0)
    other,chunks = gradients_in('chunks', 8)
    assert other==pytest.approx(value, rel=1e-6)
    assert any(k.startswith('vision.') for k in whole)
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
