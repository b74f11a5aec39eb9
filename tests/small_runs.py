"Parts of small runs on scenes: test_cuda.py, test_chunks.py and ranks_worker.py train and compare them"
import torch
from amsps.consensus import build_graph
from amsps.data import PairDataset, build_tokenizer
from amsps.mining import Miner
from amsps.model import AmspsConfig, AmspsModel
from amsps.training import MiningCallback


def parts(scenes, kind=PairDataset):
    "Training set, dev set, tokeniser"
    train,dev = (kind(scenes.annotations, scenes.features, s) for s in ('train', 'dev'))
    return train,dev,build_tokenizer(scenes.annotations.captions, 1)


def model_of(train, tokenizer, pooling='max', consensus='likelihood'):
    "A model with both levels"
    torch.manual_seed(0)
    graph = build_graph(train.captions, 20)
    model = AmspsModel(AmspsConfig(train.features.shape[2], len(tokenizer), 16, 8, pooling=pooling,
                                   n_concepts=len(graph.words), consensus=consensus, fusion=.8))
    model.consensus.set_graph(graph, tokenizer)
    return model


def mining_of(train, dev, folder):
    folder.mkdir(parents=True, exist_ok=True)
    miner = Miner(train.captions, train.caption_image, len(train.image_ids), candidates=20, hidden_confidence=.3)
    return MiningCallback(miner, train, dev, folder, refresh=2)


class ShakyDataset(PairDataset):
    countdown = 0 # pairs until it fails

    def __getitems__(self, pairs):
        ShakyDataset.countdown -= len(pairs)
        if ShakyDataset.countdown<0:
            raise InterruptedError
        return super().__getitems__(pairs)
