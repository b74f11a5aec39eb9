"Parts of small runs on scenes: test_cuda.py, test_chunks.py and ranks_worker.py train and compare them"
import numpy as np
import torch
from transformers import AutoModel, CLIPConfig, CLIPImageProcessorPil, CLIPModel, ResNetConfig, ViTConfig
from amsps.consensus import build_graph
from amsps.data import PairDataset, build_tokenizer
from amsps.dual import divide_dual
from amsps.mining import Miner
from amsps.model import AmspsConfig, AmspsModel
from amsps.training import MiningCallback
from amsps.views import RandomViews
from amsps.vision import VisionEncoder, describe_vision


def parts(scenes, kind=PairDataset):
    "Training set, dev set, tokeniser"
    train,dev = (kind(scenes.annotations, scenes.features, s) for s in ('train', 'dev'))
    return train,dev,build_tokenizer(scenes.annotations.captions, 1)


def model_of(train, tokenizer, pooling='max', consensus='likelihood', **settings):
    "A model with both levels"
    torch.manual_seed(0)
    graph = build_graph(train.captions, 20)
    both = dict(pooling=pooling, n_concepts=len(graph.words), consensus=consensus, fusion=.8)|settings
    model = AmspsModel(AmspsConfig(train.features.shape[2], len(tokenizer), 16, 8, **both))
    model.consensus.set_graph(graph, tokenizer)
    return model


def mining_of(train, dev, folder):
    folder.mkdir(parents=True, exist_ok=True)
    miner = Miner(train.captions, train.caption_image, len(train.image_ids), candidates=20, hidden_confidence=.3)
    return MiningCallback(miner, train, dev, folder, refresh=2)


VIT = ViTConfig(image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                intermediate_size=16)
RESNET = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type='basic')
TOOL = CLIPImageProcessorPil(size=dict(shortest_edge=32), crop_size=dict(height=32, width=32))


def seeing(scenes, config, tune, from_pixels):
    "A model whose vision encoder trains, training set, dev set and tokeniser"
    torch.manual_seed(0)
    encoder = VisionEncoder(TOOL, AutoModel.from_config(config), grid=2, tune=tune, from_pixels=from_pixels)
    train,dev,tokenizer = parts(scenes)
    trains = dict(vision_config=describe_vision(encoder), tune_vision_layers=tune, from_pixels=from_pixels, grid=2)
    net = AmspsModel(AmspsConfig(16, len(tokenizer), 16, 8, pooling='max', **trains), vision=encoder)
    for p in encoder.parameters():
        torch.nn.init.normal_(p, std=.3)
    train,dev = seen_by(encoder, scenes)
    if from_pixels:
        train.views = RandomViews(np.ones(len(train.image_ids), bool))
    return net,train,dev,tokenizer


def seen_by(encoder, scenes):
    "Training set and dev set with what an encoder stores of the pictures"
    pictures = [scenes.picture(i) for i in range(len(scenes.annotations.image_ids))]
    stored = encoder.states(encoder.pixels(pictures)).numpy().astype(encoder.stored_type)
    return [PairDataset(scenes.annotations, stored, s) for s in ('train', 'dev')]


def dual(scenes):
    "A small CLIP in the place of both encoders, whose last blocks train; training set, dev set and tokeniser"
    torch.manual_seed(0)
    tokenizer = parts(scenes)[2]
    few = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2)
    words = few|dict(vocab_size=len(tokenizer), max_position_embeddings=32, eos_token_id=tokenizer.eos_token_id)
    config = CLIPConfig(text_config=words, vision_config=few|dict(image_size=32, patch_size=8), projection_dim=8)
    clip = CLIPModel(config).eval()
    for p in clip.parameters():
        torch.nn.init.normal_(p, std=.3)
    trains = dict(tune_vision_layers=1, freeze_text=True, tune_text_layers=1)
    halves = divide_dual(clip, TOOL, tokenizer, **trains)
    own = AmspsConfig(8, len(tokenizer), 8, pooling='mean', grid=1, dual_config=halves.config, **trains)
    net = AmspsModel(own, dual=halves)
    return net,*seen_by(net.vision, scenes),tokenizer


WAYS = dict(states=dict(tune=1, from_pixels=False), views=dict(tune=1, from_pixels=True),
            pixels=dict(tune=2, from_pixels=False))


class ShakyDataset(PairDataset):
    countdown = 0 # pairs until it fails

    def __getitems__(self, pairs):
        ShakyDataset.countdown -= len(pairs)
        if ShakyDataset.countdown<0:
            raise InterruptedError
        return super().__getitems__(pairs)
