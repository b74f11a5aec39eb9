"""A CUDA GPU gives what the processor gives, and a step does not wait for it. Skipped where there is none."""
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertConfig, BertModel, TrainingArguments, ViTConfig, ViTImageProcessor, ViTModel
from transformers.utils import logging
from amsps.companion.config import parse_config
from amsps.companion.datasets import load_data
from amsps.companion.evaluation import embed_split, evaluate_run
from amsps.companion.runs import load_run, run_dir, train_run
from amsps.data import PairCollator, PairDataset
from amsps.losses import LOSSES, AHRL, InfoNCELoss, make_loss
from amsps.metrics import (graded_metrics, judgement_metrics, pair_ranks, recall_metrics, relevance_metrics,
                           retrieval_ranks)
from amsps.mining import Miner
from amsps.model import AmspsModel
from amsps.rivals import SAM # registers the published losses
from amsps.scenes import make_scenes
from amsps.text import extract_states
from amsps.training import RetrievalTrainer, evaluate_split, fit, hold_features
from amsps.vision import extract_features, picture_features
from conftest import SMALL
from small_runs import RESNET, VIT, WAYS, ShakyDataset, mining_of, model_of, parts, seeing

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA GPU')
DEVICES = ('cpu', 'cuda')
logging.set_verbosity_error()


@pytest.fixture
def exact(monkeypatch):
    "Recurrent networks and convolutions without TF32, which keeps 10 bits of float32"
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)


@pytest.fixture(scope='module')
def scenes():
    return make_scenes(120, 60, 1)


class Step:
    "A batch, a model and a loss on one device"
    def __init__(self, scenes, loss, device, folder, **model):
        self.train,self.dev,self.tokenizer = parts(scenes)
        if device=='cuda': hold_features(torch.device('cuda'), self.train)
        plain = dict(report_to=[], disable_tqdm=True, label_names=[], remove_unused_columns=False, bf16=False)
        args = TrainingArguments(str(folder/device), use_cpu=device=='cpu', dataloader_pin_memory=False, **plain)
        self.model = model_of(self.train, self.tokenizer, **model).to(device)
        mining = self.mining(loss, folder/device) if loss.needs else None
        collator = PairCollator(self.train, self.tokenizer)
        data = dict(data_collator=collator, train_dataset=self.train, processing_class=self.tokenizer)
        self.trainer = RetrievalTrainer(self.model, args, retrieval_loss=loss, mining=mining, **data)
        self.batch = collator([self.train[j] for j in np.random.default_rng(0).permutation(len(self.train))[:64]])
        self.trainer.create_optimizer_and_scheduler(10)
        self.model.train()

    def mining(self, loss, folder):
        mining = mining_of(self.train, self.dev, folder)
        mining.needs = frozenset(loss.needs)
        mining.mine(self.model, self.tokenizer, 0)
        return mining

    def run(self):
        value = self.trainer.compute_loss(self.model, self.trainer._prepare_inputs(dict(self.batch)))
        value.backward()
        return value

    def gradients(self):
        return {k:p.grad.cpu() for k,p in self.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize('name', LOSSES)
def test_loss_and_gradients(name, scenes, tmp_path, exact):
    "Of every registered loss, with what it mines"
    settings = dict(mining_weight=.5, penalty=True) if name=='ahrl' else {}
    steps = [Step(scenes, make_loss(name, **settings), device, tmp_path) for device in DEVICES]
    values = [s.run().item() for s in steps]
    if name=='sam': # another of two nearly equal negatives has another CIDEr-D
        assert values[1]==pytest.approx(values[0], rel=5e-3)
        return
    assert values[1]==pytest.approx(values[0], rel=1e-4, abs=1e-6)
    one,two = (s.gradients() for s in steps)
    assert one.keys()==two.keys()
    for k,g in one.items():
        torch.testing.assert_close(two[k], g, atol=1e-4, rtol=1e-2, msg=lambda s: f'{k}: {s}')
    assert max(g.abs().max() for g in one.values())>1e-4 # and there is something to compare


@pytest.mark.parametrize('pooling', ['attention', 'mean', 'max'])
@pytest.mark.parametrize('name', ['ahrl', 'infonce', 'hardest_triplet'])
def test_step_does_not_wait(name, pooling, scenes, tmp_path):
    "CUDA raises where a step would ask the GPU for a value"
    step = Step(scenes, make_loss(name), 'cuda', tmp_path, pooling=pooling)
    step.run() # builds what is built once
    step.trainer.retrieval_loss.mode = 'active'
    step.run()
    torch.cuda.set_sync_debug_mode('error')
    try:
        step.run()
    finally:
        torch.cuda.set_sync_debug_mode('default')


def test_that_it_would_fail():
    torch.cuda.set_sync_debug_mode('error')
    try:
        with pytest.raises(RuntimeError, match='synchronizing'):
            torch.ones(2, device='cuda').sum().item()
    finally:
        torch.cuda.set_sync_debug_mode('default')


def seen_step(scenes, config, way, device, folder):
    "A step of a model whose vision encoder trains: its value, and a function that repeats it"
    net,*data = seeing(scenes, config, **WAYS[way])
    train,_,tokenizer = data
    if device=='cuda': hold_features(torch.device('cuda'), train)
    plain = dict(report_to=[], disable_tqdm=True, label_names=[], remove_unused_columns=False, bf16=False)
    args = TrainingArguments(str(folder/device), use_cpu=device=='cpu', dataloader_pin_memory=False, **plain)
    collator = PairCollator(train, tokenizer)
    torch.manual_seed(1) # for random views
    batch = collator([train[j] for j in range(48)])
    trainer = RetrievalTrainer(net.to(device), args, retrieval_loss=InfoNCELoss(), data_collator=collator,
                               train_dataset=train, processing_class=tokenizer)
    trainer.create_optimizer_and_scheduler(10)
    net.train()
    def run():
        value = trainer.compute_loss(net, trainer._prepare_inputs(dict(batch)))
        value.backward()
        return value
    return net,run


@pytest.mark.parametrize('config', [VIT, RESNET], ids=['vit', 'batch norm'])
@pytest.mark.parametrize('way', WAYS)
def test_trained_vision(way, config, scenes, tmp_path, exact):
    "An encoder that trains, from stored maps, random views and whole pictures; a step does not wait"
    one,run_one = seen_step(scenes, config, way, 'cpu', tmp_path)
    two,run_two = seen_step(scenes, config, way, 'cuda', tmp_path)
    assert run_two().item()==pytest.approx(run_one().item(), rel=1e-4)
    for (k,p),q in zip(one.named_parameters(), two.parameters()):
        assert (p.grad is None)==(q.grad is None), k
        if p.grad is not None: torch.testing.assert_close(q.grad.cpu(), p.grad, atol=1e-3, rtol=1e-2)
    torch.cuda.set_sync_debug_mode('error')
    try:
        run_two()
    finally:
        torch.cuda.set_sync_debug_mode('default')


def drawn(n, m, device):
    g = torch.Generator().manual_seed(0)
    unit = [torch.nn.functional.normalize(torch.randn(k, 32, generator=g), dim=1).to(device) for k in (n, m)]
    return unit


def all_metrics(device):
    images,texts = drawn(40, 200, device)
    owner = torch.arange(200)//5
    r = np.random.default_rng(0)
    relevance = (r.random((40, 200))<.05)|(owner.numpy()==np.arange(40)[:,None])
    image,caption,grade = r.integers(0, 40, 300),r.integers(0, 200, 300),r.integers(1, 5, 300)
    found = recall_metrics(*retrieval_ranks(images, texts, owner.to(device)))
    found |= relevance_metrics(images, texts, relevance)
    found |= graded_metrics(images, texts, relevance*2.)
    found |= judgement_metrics(images, texts, image, caption, grade)
    return found|{f'pair {i}':x.cpu().tolist() for i,x in enumerate(pair_ranks(images, texts, image, caption))}


def test_metrics():
    one,two = map(all_metrics, DEVICES)
    assert one.keys()==two.keys()
    for k,x in one.items(): assert two[k]==pytest.approx(x, rel=1e-5), k


def test_mining(scenes):
    "The same pairs are mined, and the same candidates are kept"
    train = parts(scenes)[0]
    found = {}
    for device in DEVICES:
        images,texts = drawn(len(train.image_ids), len(train), device)
        texts = torch.nn.functional.normalize(texts+images[torch.from_numpy(train.caption_image)], dim=1)
        miner = Miner(train.captions, train.caption_image, len(train.image_ids), candidates=20)
        found[device] = (miner.update(images, texts),miner.mined.candidates)
    one,two = (x for x,_ in found.values())
    assert one['mined']>0
    assert two==pytest.approx(one, rel=1e-3)
    kept = [c for _,c in found.values()]
    for a,b in zip((kept[0].texts, kept[0].images), (kept[1].texts, kept[1].images)):
        same = [len(set(x)&set(y))/len(x) for x,y in zip(a.tolist(), b.cpu().tolist())]
        assert np.mean(same)>.999


def test_evaluation(tmp_path):
    "A run is loaded to the GPU, and evaluated there as on the processor"
    settings = SMALL|dict(loss='infonce', n_concepts=20, consensus='likelihood', cache_dir=str(tmp_path))
    config = parse_config(settings)
    data = load_data(config)
    train_run(config, data)
    model,tokenizer,_ = load_run(run_dir(config, data))
    assert model.device.type==DEVICES[1]
    one,two = (evaluate_run(model.to(device), tokenizer, data) for device in DEVICES)
    assert two[1].keys()==one[1].keys() and 'levels' in one[1]
    assert two[0]['test']==pytest.approx(one[0]['test'], rel=.02, abs=1.)
    e = embed_split(model, tokenizer, data, 'test')
    assert (e.images.device.type,e.texts.device.type,e.ranks[0].device.type)==(DEVICES[1],DEVICES[1],'cpu')


def trained(scenes, folder, loss, kind=PairDataset, **options):
    train,dev,tokenizer = parts(scenes, kind)
    model = model_of(train, tokenizer)
    mining = mining_of(train, dev, folder) if loss.needs else None
    plain = dict(warmup_epochs=1, active_from=1, epochs=4, batch_size=64, learning_rate=5e-3, progress=False)
    history = fit(model, tokenizer, train, dev, output_dir=folder, loss=loss, mining=mining, **plain|options)
    return history,evaluate_split(model, tokenizer, dev),model


@pytest.mark.parametrize('precision', ['fp32', 'bf16', 'fp16'])
@pytest.mark.parametrize('loss', [AHRL, InfoNCELoss, SAM])
def test_training(loss, precision, scenes, tmp_path):
    "A run on the GPU learns, whatever the precision; a finished run is not repeated"
    history,metrics,model = trained(scenes, tmp_path, loss(), precision=precision)
    assert model.device.type=='cuda'
    assert all(np.isfinite(e['loss']) for e in history)
    assert history[-1]['loss']<history[1]['loss'] or metrics['rsum']>1.3*history[0]['dev_rsum']
    again = trained(scenes, tmp_path, loss(), precision=precision)[1]
    assert again==pytest.approx(metrics, rel=1e-6)


def test_resumed(scenes, tmp_path):
    "A run that is interrupted in its third epoch ends like one that was not"
    whole,metrics,_ = trained(scenes, tmp_path/'whole', AHRL(adaptive_margin=.3))
    ShakyDataset.countdown = 5*120*5//2
    with pytest.raises(InterruptedError):
        trained(scenes, tmp_path/'parts', AHRL(adaptive_margin=.3), kind=ShakyDataset)
    ShakyDataset.countdown = 10**9
    resumed,again,_ = trained(scenes, tmp_path/'parts', AHRL(adaptive_margin=.3), kind=ShakyDataset)
    assert [e['epoch'] for e in resumed]==[e['epoch'] for e in whole]
    assert [e['loss'] for e in resumed]==pytest.approx([e['loss'] for e in whole], rel=.02)
    assert again['rsum']==pytest.approx(metrics['rsum'], rel=.1)


def test_saved_and_loaded(scenes, tmp_path):
    _,metrics,model = trained(scenes, tmp_path, InfoNCELoss(), epochs=2)
    model.save_pretrained(tmp_path/'model')
    _,dev,tokenizer = parts(scenes)
    again = AmspsModel.from_pretrained(tmp_path/'model')
    assert evaluate_split(again, tokenizer, dev)==pytest.approx(metrics, rel=.02) # on the processor
    assert evaluate_split(again.to('cuda'), tokenizer, dev)==pytest.approx(metrics, rel=1e-6)


def cpu_only(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)


def test_features(tmp_path, monkeypatch):
    "Grid features of pictures"
    torch.manual_seed(0)
    ViTModel(ViTConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, image_size=64,
                       patch_size=16)).save_pretrained(tmp_path/'vit')
    ViTImageProcessor(size=dict(height=64, width=64)).save_pretrained(tmp_path/'vit')
    paths = [tmp_path/f'{i}.png' for i in range(5)]
    for i,p in enumerate(paths):
        pixels = np.random.default_rng(i).integers(0, 255, (80, 90, 3), np.uint8)
        Image.fromarray(pixels).save(p)
    on_gpu = np.array(extract_features(paths, tmp_path/'vit', tmp_path/'gpu', grid=2))
    assert np.allclose(picture_features(paths[3], tmp_path/'vit', grid=2), on_gpu[3], atol=2e-2)
    cpu_only(monkeypatch)
    on_cpu = np.array(extract_features(paths, tmp_path/'vit', tmp_path/'cpu', grid=2))
    assert np.allclose(on_gpu, on_cpu, atol=5e-3)


def test_onnx_side(scenes, tmp_path):
    "A model on the GPU is exported on the processor, and is on the GPU again afterwards"
    for name in ('onnxscript', 'onnxruntime'): pytest.importorskip(name)
    from amsps.companion.onnx_sides import read_picture_side, write_picture_side
    net = seeing(scenes, VIT, **WAYS['states'])[0].eval().cuda()
    assert write_picture_side(tmp_path, net, 'a'*64)==''
    assert all(p.is_cuda for p in net.parameters())
    picture = scenes.picture(0)
    whole = net.encode(images=[picture])[0].cpu().numpy()
    np.testing.assert_allclose(read_picture_side(tmp_path, 'a'*64)(picture), whole, atol=2e-3)


def test_text_states(scenes, tmp_path, monkeypatch):
    "States of a frozen text encoder, which is back on the processor afterwards"
    torch.manual_seed(0)
    tokenizer = parts(scenes)[2]
    small = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
    bert = BertModel(BertConfig(vocab_size=len(tokenizer), **small))
    captions = scenes.annotations.captions[:50]
    on_gpu = extract_states(captions, tokenizer, bert, tmp_path/'gpu', 'key')
    assert bert.device.type=='cpu'
    bert.train()(input_ids=torch.ones(1, 3, dtype=torch.int64)).last_hidden_state.sum().backward() # it can be trained
    cpu_only(monkeypatch)
    on_cpu = extract_states(captions, tokenizer, bert, tmp_path/'cpu', 'key')
    assert np.allclose(on_gpu.tokens, on_cpu.tokens, atol=5e-3)
