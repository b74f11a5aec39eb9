"MSCOCO's 5,000 test images: recall compared with `eccv_caption`, with and without ties; ECCV Caption and CxC."
from types import SimpleNamespace
import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from amsps import metrics
from amsps.metrics import eccv_metrics, fold_metrics, recall_metrics, retrieval_ranks


@pytest.fixture(scope='module')
def coco():
    "Image and caption ids in the order of the library's folds, and the image of each caption"
    library = metrics._eccv()
    images_of = library.coco_gts['t2i']
    caption_ids = library.coco_ids.tolist()
    image_ids = list(dict.fromkeys(images_of[c][0] for c in caption_ids))
    position = {i:k for k,i in enumerate(image_ids)}
    return image_ids,caption_ids,torch.tensor([position[images_of[c][0]] for c in caption_ids])


def unit(x):
    return torch.nn.functional.normalize(x)


def embeddings(owner, ties):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(5000, 24, generator=g)
    y = x[owner]+(.5 if ties else 2)*torch.randn(len(owner), 24, generator=g)
    if ties: # at most 8,192 different embeddings
        x = x[:,:13].sign()
        y = y[:,:13].sign()
    return unit(x),unit(y)


@pytest.mark.parametrize('ties', [False,True], ids=['random','tied'])
def test_recall_agrees(coco, ties):
    image_ids,caption_ids,owner = coco
    images,texts = embeddings(owner, ties)
    ours = recall_metrics(*retrieval_ranks(images, texts, owner))
    own = csr_array((np.ones(25000, bool), (owner.numpy(), np.arange(25000))), shape=(5000,25000))
    iids,cids = np.array(image_ids),np.array(caption_ids)
    top = 10 if ties else 100 # 100 include the first of each fold
    i2t = metrics._rank_items(images, texts, own, query_ids=iids, item_ids=cids, top=top)
    t2i = metrics._rank_items(texts, images, csr_array(own.T), query_ids=cids, item_ids=iids, top=top)
    names = ('coco_5k_recalls',) if ties else ('coco_5k_recalls', 'coco_1k_r1')
    theirs = metrics._eccv().compute_all_metrics(i2t, t2i, target_metrics=names, Ks=(1, 5, 10))
    for d in ('i2t', 't2i'):
        for k in (1, 5, 10):
            assert 100*theirs[f'coco_5k_r{k}'][d]==pytest.approx(ours[f'{d}_r{k}'])
    if not ties:
        folds = fold_metrics(images, texts, owner)
        for d in ('i2t', 't2i'):
            assert 100*theirs['coco_1k_r1'][d]==pytest.approx(folds[f'{d}_r1'])
    assert ours['i2t_r10']>0


@pytest.fixture(scope='module')
def oracle(coco):
    "A model that ranks exactly the annotated pairs first, without ties; its metrics, and what the library was given"
    image_ids,caption_ids,owner = coco
    g = torch.Generator().manual_seed(1)
    x = unit(torch.randn(5000, 64, generator=g))
    y = unit(x[owner]+.01*torch.randn(25000, 64, generator=g))
    kept = []
    make = metrics._eccv_rankings
    def spy(*args, **kwargs):
        kept.extend(make(*args, **kwargs))
        return kept
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, '_eccv_rankings', spy)
        found = eccv_metrics(x, y, image_ids, caption_ids=caption_ids)
    return SimpleNamespace(images=x, texts=y, metrics=found, i2t=kept[0], t2i=kept[1])


def test_oracle(oracle):
    "Recall is 100; matches that annotators missed are missing from mAP@R"
    assert oracle.metrics['cxc_t2i_r1']>99.9
    assert oracle.metrics['cxc_i2t_r1']>99
    assert 20<oracle.metrics['eccv_i2t_map_at_r']<60


def test_order_of_ids_changes_nothing(coco, oracle):
    image_ids,caption_ids,_ = coco
    g = torch.Generator().manual_seed(2)
    p,q = torch.randperm(5000, generator=g),torch.randperm(25000, generator=g)
    iids,cids = [image_ids[i] for i in p],[caption_ids[j] for j in q]
    found = eccv_metrics(oracle.images[p], oracle.texts[q], iids, caption_ids=cids)
    assert found==pytest.approx(oracle.metrics)


def deepest(direction):
    "The most positives of a query in ECCV Caption"
    return max(map(len, metrics._eccv().eccv_gts[direction].values()))


def first_of(queries, items, positive):
    "(rows, order) of some queries, by the plain definition of the order"
    rows = np.arange(0, len(queries), len(queries)//200)
    sims = (queries[rows]@items.T).numpy()
    return rows,metrics._pessimistic_order(sims, positive[rows].toarray())


def test_rankings_are_deep_enough(coco, oracle):
    "The library reads ten items of a ranking, and as many as a query has positives; their order is the plain one"
    image_ids,caption_ids,_ = coco
    assert all(len(oracle.i2t[i])>=max(10, deepest('i2t')) for i in image_ids)
    assert all(len(oracle.t2i[c])>=max(10, deepest('t2i')) for c in caption_ids)
    positive = metrics._positives(np.array(image_ids), np.array(caption_ids))
    assert positive.sum()>40000
    rows,order = first_of(oracle.images, oracle.texts, positive)
    assert np.array_equal(oracle.i2t.order[rows], order[:,:oracle.i2t.order.shape[1]])
    rows,order = first_of(oracle.texts, oracle.images, csr_array(positive.T))
    assert np.array_equal(oracle.t2i.order[rows], order[:,:oracle.t2i.order.shape[1]])


def test_chance(coco):
    "A constant model gains nothing from ties"
    image_ids,caption_ids,_ = coco
    same = torch.ones(25000, 2)/2**.5
    found = eccv_metrics(same[:5000], same, image_ids, caption_ids=caption_ids)
    assert all(v==0 for v in found.values())
