"A caption's score with an image depends on that caption and that image, on nothing else."
from dataclasses import replace
import numpy as np, pytest, torch
from amsps.companion.config import parse_config
from amsps.data import Annotations, PairDataset
from amsps.losses import AHRL
from amsps.companion.build import build_miner, build_model
from amsps.companion.datasets import load_data
from amsps.training import embed

SMALL = dict(embed_size=32, word_size=16, n_concepts=40, pooling='attention')

@pytest.fixture(scope='module', params=['graph','likelihood'])
def world(request, tmp_path_factory):
    config = parse_config(SMALL | dict(cache_dir=str(tmp_path_factory.mktemp('leak')), scenes_train=60, scenes_dev=20, scenes_test=30, consensus=request.param))
    data = load_data(config)
    model,tokenizer = build_model(config, data, data.split('train'))
    if request.param=='likelihood': torch.nn.init.normal_(model.consensus.head.weight) # a fresh one says nothing
    return data,model.eval(),tokenizer

def scores(data, model, tokenizer, notes):
    "Score of each (image id, caption id) of the test split"
    split = PairDataset(notes, data.features, 'test')
    images,texts = embed(model, tokenizer, split, batch_size=7)
    s = (images@texts.T).numpy()
    return {(i,c):s[a,b] for a,i in enumerate(split.image_ids) for b,c in enumerate(split.caption_ids)}

def same(a, b, captions=None):
    pairs = [k for k in b if captions is None or k[1] in captions]
    assert len(pairs)>100 and max(abs(a[k]-b[k]) for k in pairs)<1e-6

def keep(notes, chosen, **kw):
    return replace(notes, captions=[notes.captions[j] for j in chosen], caption_ids=[notes.caption_ids[j] for j in chosen], caption_image=notes.caption_image[chosen], **kw)

def test_permuted_captions(world):
    data,model,tokenizer = world; notes = data.annotations
    order = np.random.default_rng(0).permutation(len(notes.captions))
    same(scores(data, model, tokenizer, notes), scores(data, model, tokenizer, keep(notes, order)))

def test_removed_captions(world):
    "One caption an image is left: a model that read an image's other captions would score differently"
    data,model,tokenizer = world; notes = data.annotations
    first = np.unique(notes.caption_image, return_index=True)[1]
    same(scores(data, model, tokenizer, notes), scores(data, model, tokenizer, keep(notes, first)))

def test_changed_captions(world):
    data,model,tokenizer = world; notes = data.annotations
    changed = [c if j%5==0 else 'a small red dog sleeping in the snow' for j,c in enumerate(notes.captions)]
    same(scores(data, model, tokenizer, notes), scores(data, model, tokenizer, replace(notes, captions=changed)), {c for j,c in enumerate(notes.caption_ids) if j%5==0})

def test_withheld_map(world):
    "Which caption belongs to which image is scrambled within the test split"
    data,model,tokenizer = world; notes = data.annotations
    test = np.flatnonzero(np.array(notes.splits)[notes.caption_image]=='test')
    scrambled = notes.caption_image.copy(); scrambled[test] = np.random.default_rng(1).permutation(scrambled[test])
    same(scores(data, model, tokenizer, notes), scores(data, model, tokenizer, replace(notes, caption_image=scrambled)))

def test_the_graph_knows_training_captions_only(world):
    data,model,tokenizer = world; notes = data.annotations
    config = parse_config(SMALL | dict(consensus=model.config.consensus))
    train = np.array(notes.splits)[notes.caption_image]=='train'
    other = replace(data, annotations=replace(notes, captions=[c if t else 'nothing to see here' for c,t in zip(notes.captions, train)]))
    again,_ = build_model(config, other, other.split('train'))
    assert again.config.concepts==model.config.concepts
    fixed,again_fixed = (dict(m.consensus.named_buffers()) for m in (model, again)) # the graph or the frequencies, and how concepts are spelled
    assert fixed and all(torch.equal(v, again_fixed[k]) for k,v in fixed.items())

def test_a_leak_would_be_seen(world):
    "The test itself: a model that adds the mean of an image's captions to each of them fails it"
    data,model,tokenizer = world; notes = data.annotations
    def leaking(notes):
        split = PairDataset(notes, data.features, 'test'); images,texts = embed(model, tokenizer, split)
        mean = torch.zeros(len(images), texts.shape[1]).index_add_(0, torch.from_numpy(split.caption_image), texts)
        s = (images@(texts+mean[split.caption_image]).T).numpy()
        return {(i,c):s[a,b] for a,i in enumerate(split.image_ids) for b,c in enumerate(split.caption_ids)}
    first = np.unique(notes.caption_image, return_index=True)[1]
    with pytest.raises(AssertionError): same(leaking(notes), leaking(keep(notes, first)))

def test_the_miner_sees_the_training_split_only(world, tmp_path):
    "Exact relevance is for its log alone, and other splits' captions do not move what it finds"
    data,model,tokenizer = world; notes = data.annotations
    config = parse_config(dict(loss='ahrl', candidates=10))
    train = np.array(notes.splits)[notes.caption_image]=='train'
    changed = replace(data, annotations=replace(notes, captions=[c if t else 'nothing to see here' for c,t in zip(notes.captions, train)]))
    found = []
    for k,d in enumerate((data, replace(data, relevance=None), changed)):
        (tmp_path/str(k)).mkdir()
        miner = build_miner(config, d, d.split('train'), d.split('dev'), tmp_path/str(k), AHRL.preset('hardest_triplet').needs|{'hidden','offline'})
        miner.needs = frozenset({'hidden','offline'}); miner.mine(model, tokenizer, 0)
        found.append(miner.mined)
    assert found[0].hidden.nnz and 'precision' in (tmp_path/'0/mining.jsonl').read_text() and 'precision' not in (tmp_path/'1/mining.jsonl').read_text()
    for other in found[1:]: assert (other.hidden!=found[0].hidden).nnz==0 and torch.equal(other.candidates.texts, found[0].candidates.texts)
