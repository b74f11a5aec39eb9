"The real Flickr8k, where it lies beside the project."
from amsps.companion.formats import read_dataset, read_flickr8k
from amsps.companion.datasets import hidden_pairs, read_experts

def test_official_layout(flickr8k):
    a = read_flickr8k(flickr8k)
    assert [a.splits.count(s) for s in ('train','dev','test')]==[6000,1000,1000]
    assert len(a.captions)==40000 and a.skipped=={'captions of images that are in no split': 460}
    judged = read_experts(flickr8k/'ExpertAnnotations.txt', a)
    assert len(judged.grade)==5822 and judged.grade.min()==1 and judged.grade.max()==4
    assert len(hidden_pairs(judged, a)[0])==465

def test_karpathy_agrees(flickr8k):
    a,k = read_dataset(flickr8k),read_dataset(flickr8k, 'karpathy')
    assert set(zip(a.image_ids, a.splits))==set(zip(k.image_ids, k.splits))
    def pairs(x): return sorted((x.image_ids[i], c) for i,c in zip(x.caption_image, x.captions))
    assert pairs(a)==pairs(k)

def test_check_knows_it(cli, flickr8k):
    r = cli('data', 'check', flickr8k)
    assert r.returncode==0 and 'known as     images as in Flickr8k\n' in r.stdout and 'pictures     8,000, all can be decoded' in r.stdout
