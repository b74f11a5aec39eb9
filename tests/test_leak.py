"A caption's score with an image depends on that caption and that image, and on nothing else."
from dataclasses import replace
import numpy as np
import pytest
import torch
from amsps.companion.build import build_miner, build_model
from amsps.companion.config import parse_config
from amsps.companion.datasets import load_data
from amsps.data import PairDataset
from amsps.training import embed

SMALL = dict(embed_size=32, word_size=16, n_concepts=40, pooling='attention')


@pytest.fixture(scope='module', params=['graph','likelihood'])
def world(request, tmp_path_factory):
    sizes = dict(scenes_train=60, scenes_dev=20, scenes_test=30)
    config = parse_config(SMALL|sizes|dict(cache_dir=str(tmp_path_factory.mktemp('leak')), consensus=request.param))
    data = load_data(config)
    model,tokenizer = build_model(config, data, data.split('train'))
    if request.param=='likelihood': torch.nn.init.normal_(model.consensus.head.weight) # a fresh one says nothing
    return data,model.eval(),tokenizer


def scores(data, model, tokenizer, notes):
    "Score of each (image id, caption id) of the test split"
    split = PairDataset(notes, data.features, 'test')
    images,texts = embed(model, tokenizer, split, batch_size=7)
    return by_name(split, images@texts.T)


def by_name(split, sims):
    s = sims.numpy()
    return {(i,c):s[a,b] for a,i in enumerate(split.image_ids) for b,c in enumerate(split.caption_ids)}


def same(a, b, captions=None):
    "Whether scores agree, of all captions or of some"
    pairs = [k for k in b if captions is None or k[1] in captions]
    assert len(pairs)>100
    assert max(abs(a[k]-b[k]) for k in pairs)<1e-6


def keep(notes, chosen, **kw):
    "Annotations with some captions, in a given order"
    captions,ids = ([x[j] for j in chosen] for x in (notes.captions, notes.caption_ids))
    return replace(notes, captions=captions, caption_ids=ids, caption_image=notes.caption_image[chosen], **kw)


def first_captions(notes): return np.unique(notes.caption_image, return_index=True)[1]


def test_permuted_captions(world):
    data,model,tokenizer = world
    notes = data.annotations
    order = np.random.default_rng(0).permutation(len(notes.captions))
    same(scores(data, model, tokenizer, notes), scores(data, model, tokenizer, keep(notes, order)))


def test_removed_captions(world):
    "One caption of each image is left: a model that reads an image's other captions scores differently"
    data,model,tokenizer = world
    notes = data.annotations
    few = keep(notes, first_captions(notes))
    same(scores(data, model, tokenizer, notes), scores(data, model, tokenizer, few))


def test_changed_captions(world):
    data,model,tokenizer = world
    notes = data.annotations
    other = 'a small red dog sleeping in the snow'
    changed = replace(notes, captions=[c if j%5==0 else other for j,c in enumerate(notes.captions)])
    unchanged = {c for j,c in enumerate(notes.caption_ids) if j%5==0}
    same(scores(data, model, tokenizer, notes), scores(data, model, tokenizer, changed), unchanged)


def test_withheld_map(world):
    "The map from captions to images is scrambled within the test split"
    data,model,tokenizer = world
    notes = data.annotations
    test = np.flatnonzero(np.array(notes.splits)[notes.caption_image]=='test')
    scrambled = notes.caption_image.copy()
    scrambled[test] = np.random.default_rng(1).permutation(scrambled[test])
    blind = replace(notes, caption_image=scrambled)
    same(scores(data, model, tokenizer, notes), scores(data, model, tokenizer, blind))


def only_training_captions(notes):
    "Annotations in which the captions of dev and test say nothing"
    train = np.array(notes.splits)[notes.caption_image]=='train'
    return replace(notes, captions=[c if t else 'nothing to see here' for c,t in zip(notes.captions, train)])


def test_the_graph_knows_training_captions_only(world):
    data,model,tokenizer = world
    config = parse_config(SMALL|dict(consensus=model.config.consensus))
    other = replace(data, annotations=only_training_captions(data.annotations))
    again,_ = build_model(config, other, other.split('train'))
    assert again.config.concepts==model.config.concepts
    # the graph or the frequencies, and how concepts are spelled
    fixed,again_fixed = (dict(m.consensus.named_buffers()) for m in (model, again))
    assert fixed and all(torch.equal(v, again_fixed[k]) for k,v in fixed.items())


def leaking_scores(data, model, tokenizer, notes):
    "Scores of a model that adds the mean of an image's captions to each of them"
    split = PairDataset(notes, data.features, 'test')
    images,texts = embed(model, tokenizer, split)
    owner = torch.from_numpy(split.caption_image)
    mean = torch.zeros(len(images), texts.shape[1]).index_add_(0, owner, texts)
    return by_name(split, images@(texts+mean[owner]).T)


def test_a_leak_would_be_seen(world):
    "The test itself: a leaking model fails it"
    data,model,tokenizer = world
    notes = data.annotations
    few = keep(notes, first_captions(notes))
    with pytest.raises(AssertionError):
        same(leaking_scores(data, model, tokenizer, notes), leaking_scores(data, model, tokenizer, few))


def mined_by(data, model, tokenizer, folder):
    folder.mkdir()
    config,needs = parse_config(dict(loss='ahrl', candidates=10)),frozenset({'hidden','offline'})
    splits = dict(train_set=data.split('train'), dev_set=data.split('dev'))
    mining = build_miner(config, data, **splits, output_dir=folder, needs=needs)
    mining.needs = needs
    mining.mine(model, tokenizer, 0)
    return mining.miner.mined,(folder/'mining.jsonl').read_text()


def test_the_miner_sees_the_training_split_only(world, tmp_path):
    "Exact relevance is for its log alone, and captions of other splits do not change what it finds"
    data,model,tokenizer = world
    changed = replace(data, annotations=only_training_captions(data.annotations))
    variants = dict(whole=data, blind=replace(data, relevance=None), changed=changed)
    found = {name:mined_by(d, model, tokenizer, tmp_path/name) for name,d in variants.items()}
    first,log = found['whole']
    assert first.hidden.nnz
    assert 'precision' in log and 'precision' not in found['blind'][1]
    for name in ('blind','changed'):
        other = found[name][0]
        assert (other.hidden!=first.hidden).nnz==0
        assert torch.equal(other.candidates.texts, first.candidates.texts)
