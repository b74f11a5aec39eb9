"MSCOCO's 5,000 test images: our recall against `eccv_caption`'s, on random and on tied scores; ECCV Caption and CxC of a model that knows them."
import numpy as np, pytest, torch
from scipy.sparse import csr_array
from amsps.metrics import _eccv, _eccv_rankings, _positives, _ranked, eccv_metrics, fold_metrics, recall_metrics, retrieval_ranks

@pytest.fixture(scope='module')
def coco():
    "Ids in the order of the library's folds, and the image of each caption"
    gts = _eccv().coco_gts['t2i']
    cids = _eccv().coco_ids.tolist()
    iids = list(dict.fromkeys(gts[c][0] for c in cids))
    at = {i:k for k,i in enumerate(iids)}
    return iids,cids,torch.tensor([at[gts[c][0]] for c in cids])

def embeddings(owner, ties):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(5000, 24, generator=g)
    y = x[owner]+(.5 if ties else 2)*torch.randn(len(owner), 24, generator=g)
    if ties: x,y = x[:,:13].sign(),y[:,:13].sign() # at most 8,192 different embeddings: ties everywhere
    return tuple(torch.nn.functional.normalize(v) for v in (x, y))

@pytest.mark.parametrize('ties', [False,True], ids=['random','tied'])
def test_recall_agrees(coco, ties):
    iids,cids,owner = coco
    images,texts = embeddings(owner, ties)
    ours = recall_metrics(*retrieval_ranks(images, texts, owner))
    own = csr_array((np.ones(25000, bool), (owner.numpy(), np.arange(25000))), shape=(5000,25000))
    top = 10 if ties else 500 # the first of a fold of five is among them
    rankings = _ranked(images, texts, own, np.array(iids), np.array(cids), top),_ranked(texts, images, csr_array(own.T), np.array(cids), np.array(iids), top)
    theirs = _eccv().compute_all_metrics(*rankings, target_metrics=('coco_5k_recalls',) if ties else ('coco_5k_recalls','coco_1k_r1'), Ks=(1,5,10))
    for d in ('i2t','t2i'):
        for k in (1,5,10): assert 100*theirs[f'coco_5k_r{k}'][d]==pytest.approx(ours[f'{d}_r{k}'])
        if not ties: assert 100*theirs['coco_1k_r1'][d]==pytest.approx(fold_metrics(images, texts, owner)[f'{d}_r1'])
    assert ours['i2t_r10']>0

def test_oracle_and_chance(coco):
    "A model that ranks just the annotated pairs first has recall 100, all that annotators missed is missing from mAP@R; the order of ids given changes nothing"
    iids,cids,owner = coco
    g = torch.Generator().manual_seed(1)
    x = torch.nn.functional.normalize(torch.randn(5000, 64, generator=g))
    y = torch.nn.functional.normalize(x[owner]+.01*torch.randn(25000, 64, generator=g)) # no ties
    oracle = eccv_metrics(x, y, iids, cids)
    assert oracle['cxc_t2i_r1']>99.9 and oracle['cxc_i2t_r1']>99 and 20<oracle['eccv_i2t_map_at_r']<60
    p,q = torch.randperm(5000, generator=g),torch.randperm(25000, generator=g)
    shuffled = eccv_metrics(x[p], y[q], [iids[i] for i in p], [cids[j] for j in q])
    assert shuffled==pytest.approx(oracle)
    (kept,kept_images),own = _eccv_rankings(x, y, iids, cids),_positives(np.array(iids), np.array(cids))
    whole = _ranked(x, y, own, np.array(iids), np.array(cids), 25000)
    deepest,deepest_images = (max(map(len, _eccv().eccv_gts[d].values())) for d in ('i2t','t2i'))
    assert all(len(kept_images[c])>=max(10, deepest_images) for c in cids) and all(len(kept[i])>=max(10, deepest) and kept[i]==whole[i][:len(kept[i])] for i in iids) # the library looks at no more
    chance = eccv_metrics(torch.ones(5000, 2)/2**.5, torch.ones(25000, 2)/2**.5, iids, cids)
    assert all(v==0 for v in chance.values()) # ties get nothing for free
    assert _positives(np.array(iids), np.array(cids)).sum()>40000
