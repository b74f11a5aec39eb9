"A step on meta tensors, which have no values: whatever would ask a GPU for one, and wait for it, fails here"
import numpy as np, pytest, torch
from amsps.losses import AHRL, InfoNCELoss, Mined, Offline, TripletLoss
from amsps.model import AmspsConfig, AmspsModel
from amsps.training import _similarity_log

B,EVERY = 6,dict(margin=.1, kappa=.3, offline_weight=.05, cross_weight=.02, penalty=True, filter_above=.3, mining_weight=.2)

@pytest.mark.parametrize('loss', [AHRL(**EVERY, selection='smooth'), AHRL(**EVERY, selection='hardest'), TripletLoss(), InfoNCELoss()], ids=lambda l: type(l).__name__+getattr(l, 'selection', ''))
@pytest.mark.parametrize('kind', [dict(pooling='attention'), dict(pooling='mean'), dict(pooling='max'), dict(n_concepts=10, concept_size=8)], ids=str)
def test_step_asks_for_nothing(kind, loss):
    with torch.device('meta'):
        model = AmspsModel(AmspsConfig(feature_size=32, vocab_size=50, embed_size=16, word_size=8, dropout=.1, word_dropout=.1, **kind)).train()
        ids,image = torch.ones(B, 7, dtype=torch.int64),torch.zeros(B, dtype=torch.int64)
        out = model(torch.randn(4, 5, 32), ids, ids.clone(), lengths=np.array([7,3,5,5,2,6]), image_index=image)
        sims = out.image_embeds@out.text_embeds.T
        offline,mined = Offline(*(torch.rand(B, 1) for _ in range(3)), *(torch.rand(B, 1)>.1 for _ in range(3))),Mined(*(torch.rand(B) for _ in range(4)))
        extras = dict(relatedness=torch.rand(B, B), hidden=torch.rand(B, B), offline=offline, mined=mined) if isinstance(loss, AHRL) else {}
        loss.mode = 'active'
        terms = loss(sims, image, image[:,None]==image[None], **extras)
        terms['loss'].backward()
        log = _similarity_log(sims.detach(), image)
    assert {t.device.type for t in (*terms.values(), *log.values())}=={'meta'} and all(p.grad is not None for p in model.text_encoder.parameters())

def test_that_it_would_fail():
    "Without lengths on the host the mask is asked"
    with torch.device('meta'):
        model,ids = AmspsModel(AmspsConfig(feature_size=32, vocab_size=50, embed_size=16, word_size=8)),torch.ones(B, 7, dtype=torch.int64)
        with pytest.raises(NotImplementedError, match='meta'): model(torch.randn(B, 5, 32), ids, ids)
