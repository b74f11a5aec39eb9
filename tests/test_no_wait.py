"""A step on meta tensors, which have no values.

Whatever would ask a GPU for a value, and wait for it, fails here."""
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTImageProcessorPil, ViTModel
from amsps.losses import AHRL, InfoNCELoss, Mined, Offline, TripletLoss
from amsps.model import AmspsConfig, AmspsModel
from amsps.training import _similarity_log
from amsps.vision import VisionEncoder, describe_vision

B = 6
LOSSES = {
    'AHRL, smooth': AHRL(),
    'AHRL, hardest': AHRL.preset('paper'),
    'AHRL, graded': AHRL(graded_weight=.4, penalty_gradient=True),
    'hardest triplet': TripletLoss(),
    'safe triplet': AHRL.preset('selhn'),
    'InfoNCE': InfoNCELoss()}
MODELS = [dict(pooling='attention'), dict(pooling='mean'), dict(pooling='max'), dict(n_concepts=10, concept_size=8)]


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
        out = model(torch.randn(4, 5, 32), ids, ids.clone(), lengths=lengths, image_index=image)
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
