"""A step on meta tensors, which have no values.

Whatever would ask a GPU for a value, and wait for it, fails here."""
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTImageProcessorPil, ViTModel
from amsps.data import on_device
from amsps.losses import AHRL, InfoNCELoss, Mined, Offline, TripletLoss
from amsps.model import AmspsConfig, AmspsModel
from amsps.rivals import AOQ, FNE
from amsps.training import _similarity_log
from amsps.vision import VisionEncoder, describe_vision

B = 6
LOSSES = {
    'AHRL, smooth': AHRL(adaptive_margin=.3),
    'AHRL, hardest': AHRL.preset('paper'),
    'AHRL, graded': AHRL(graded_weight=.4, penalty_gradient=True),
    'hardest triplet': TripletLoss(),
    'safe triplet': AHRL.preset('selhn'),
    'InfoNCE': InfoNCELoss()}
MODELS = [dict(pooling='attention'), dict(pooling='mean'), dict(pooling='max'), dict(pooling='centre'),
          dict(n_concepts=10, concept_size=8)]


def model_of(**kind):
    size = dict(feature_size=32, vocab_size=50, embed_size=16, word_size=8)
    return AmspsModel(AmspsConfig(**size, dropout=.1, word_dropout=.1, **kind)).train()


def extras_of(loss):
    "What the active mode of a loss needs, without values"
    if not isinstance(loss, AHRL): return {}
    candidates,masks = [torch.rand(B, 1) for _ in range(3)],[torch.rand(B, 1)>.1 for _ in range(3)]
    mined = Mined(*(torch.rand(B) for _ in range(4)))
    offline = Offline(*candidates, *masks)
    return dict(relatedness=torch.rand(B, B), hidden=torch.rand(B, B), offline=offline, mined=mined)


@pytest.mark.parametrize('name', LOSSES)
@pytest.mark.parametrize('kind', MODELS, ids=str)
def test_step_asks_for_nothing(kind, name):
    loss = LOSSES[name]
    with torch.device('meta'):
        model = model_of(**kind)
        ids,image = torch.ones(B, 7, dtype=torch.int64),torch.zeros(B, dtype=torch.int64)
        lengths = np.array([7,3,5,5,2,6])
        out = model(torch.randn(4, 10, 32), ids, ids.clone(), lengths=lengths, image_index=image)
        sims = out.image_embeds@out.text_embeds.T
        loss.mode = 'active'
        terms = loss(sims, image, image[:,None]==image[None], **extras_of(loss))
        terms['loss'].backward()
        log = _similarity_log(sims.detach(), image)
    assert {t.device.type for t in (*terms.values(), *log.values())}=={'meta'}
    assert all(p.grad is not None for p in model.text_encoder.parameters())


@pytest.mark.parametrize('tune,from_pixels', [(1, False), (1, True), (2, False)], ids=['states', 'views', 'pixels'])
def test_trained_vision_asks_for_nothing(tune, from_pixels):
    "An encoder that trains: stored maps, random views, whole pictures"
    tool = ViTImageProcessorPil(size=dict(height=32, width=32))
    few = dict(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8)
    vit = ViTModel(ViTConfig(image_size=32, patch_size=8, **few))
    encoder = VisionEncoder(tool, vit, grid=2, tune=tune, from_pixels=from_pixels)
    stored = encoder.states(encoder.pixels([Image.new('RGB', (40, 32))]*B))
    trains = dict(vision_config=describe_vision(encoder), tune_vision_layers=tune, from_pixels=from_pixels, grid=2)
    config = AmspsConfig(feature_size=8, vocab_size=50, embed_size=16, word_size=8, **trains)
    model = AmspsModel(config, vision=encoder).train().to('meta')
    ids,image = (torch.ones(*size, dtype=torch.int64, device='meta') for size in ((B, 7), (B,)))
    views = torch.ones(B, 4, device='meta') if from_pixels else None
    lengths = np.array([7,3,5,5,2,6])
    out = model(stored.to('meta'), ids, ids.clone(), lengths=lengths, image_index=image, views=views)
    loss = InfoNCELoss()(out.image_embeds@out.text_embeds.T, image)['loss']
    loss.backward()
    assert loss.is_meta and any(p.grad is not None for p in encoder.parameters())


def test_wrong_shapes_are_found_without_values():
    with torch.device('meta'):
        sims,image = torch.rand(B, B),torch.zeros(B, dtype=torch.int64)
        extras = extras_of(AHRL())
        with pytest.raises(ValueError, match='`hidden` must have the shape'):
            AHRL()(sims, image, **extras | dict(hidden=torch.rand(B)))
        with pytest.raises(ValueError, match='AHRL needs `mined`'):
            AHRL()(sims, image, **extras | dict(mined=None))


def test_that_it_would_fail():
    "Without lengths on the host the mask is asked"
    with torch.device('meta'):
        model,ids = model_of(),torch.ones(B, 7, dtype=torch.int64)
        with pytest.raises(NotImplementedError, match='meta'):
            model(torch.randn(B, 5, 32), ids, ids)


def trainer_of(loss, folder, monkeypatch):
    "The trainer of a run that has mined, before its first step"
    import amsps.training as training
    from amsps.consensus import build_graph
    from amsps.data import PairDataset, build_tokenizer
    from amsps.mining import CoverageEvidence, Miner
    from amsps.scenes import make_scenes
    scenes = make_scenes(40, 15, 20)
    train,dev = (PairDataset(scenes.annotations, scenes.features, s) for s in ('train', 'dev'))
    tokenizer = build_tokenizer(train.captions, 1)
    size = dict(feature_size=scenes.features.shape[2], vocab_size=len(tokenizer), embed_size=16, word_size=8)
    graph = build_graph(train.captions, 10)
    level = dict(n_concepts=len(graph.words), concepts=graph.words, concept_size=8)
    model = AmspsModel(AmspsConfig(**size, **level))
    model.consensus.set_graph(graph, tokenizer)
    items = train.captions,train.caption_image,len(train.image_ids)
    mining = training.MiningCallback(Miner(*items, CoverageEvidence(*items), candidates=5), train, dev, folder)
    found = []
    monkeypatch.setattr(training, '_run', lambda trainer, *rest: found.append(trainer))
    training.fit(model, tokenizer, train, dev, folder, loss, mining, epochs=2, batch_size=B, progress=False)
    mining.mine(model, tokenizer, 1)
    return found[0]


def without_values(trainer):
    "Move a trainer to the meta device"
    trainer.args.__dict__['_setup_devices'] = torch.device('meta') # `args.device`
    trainer.model.train().to('meta')
    trainer.retrieval_loss.to('meta')
    miner = trainer.mining.miner
    if miner.stored is not None: miner.stored = tuple(x.to('meta') for x in miner.stored)
    trainer.create_optimizer_and_scheduler(2)


@pytest.mark.parametrize('name', ['ahrl', 'aoq', 'fne'])
def test_loss_of_the_trainer_asks_for_nothing(name, tmp_path, monkeypatch):
    "Encoders, drawn items, levels, terms of the loss and the log, as `fit` has them"
    loss = {'ahrl': AHRL(adaptive_margin=.3, graded_weight=.1), 'aoq': AOQ(), 'fne': FNE()}[name]
    trainer = trainer_of(loss, tmp_path, monkeypatch)
    without_values(trainer)
    batch = trainer.data_collator([trainer.train_dataset[j] for j in range(B)])
    loss.mode = 'active'
    found = trainer.compute_loss(trainer.model, on_device(batch, torch.device('meta')))
    found.backward()
    assert found.is_meta and trainer._unchecked[0].values.is_meta
    assert all(p.grad is not None for p in trainer.model.text_encoder.parameters())
