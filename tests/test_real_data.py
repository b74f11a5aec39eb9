"The real Flickr8k, if it lies beside the project."
import pytest
from amsps.companion.datasets import hidden_pairs, read_experts
from amsps.companion.formats import read_dataset, read_flickr8k


@pytest.fixture(scope='module')
def official(flickr8k):
    return read_flickr8k(flickr8k)


def test_official_layout(official):
    assert [official.splits.count(s) for s in ('train', 'dev', 'test')]==[6000,1000,1000]
    assert len(official.captions)==40000
    assert official.skipped=={'captions of images that are in no split': 460}


def test_expert_judgements(official, flickr8k):
    judged = read_experts(flickr8k/'ExpertAnnotations.txt', official)
    assert len(judged.grade)==5822
    assert judged.grade.min()==1
    assert judged.grade.max()==4
    images,_ = hidden_pairs(judged, official)
    assert len(images)==465


def pairs(annotations):
    images = [annotations.image_ids[i] for i in annotations.caption_image]
    return sorted(zip(images, annotations.captions))


def test_karpathy_agrees(official, flickr8k):
    assert read_dataset(flickr8k).fingerprint==official.fingerprint
    karpathy = read_dataset(flickr8k, 'karpathy')
    assert set(zip(official.image_ids, official.splits))==set(zip(karpathy.image_ids, karpathy.splits))
    assert pairs(official)==pairs(karpathy)


@pytest.mark.slow # decodes 8,000 pictures
def test_check_knows_it(cli, flickr8k):
    r = cli('data', 'check', flickr8k)
    assert r.returncode==0, r.stderr
    assert 'standard     Flickr8k: same counts\n' in r.stdout
    assert 'pictures     8,000, all can be decoded' in r.stdout
