"A small collection, one caption a picture: what the command says, and that training does not collapse."
import csv
import numpy as np
import pytest
import torch
from transformers import MobileNetV2ImageProcessorPil, ViTConfig, ViTModel


@pytest.fixture(scope='module')
def vision(tmp_path_factory):
    "A random ViT that tells colours and shapes apart"
    folder = tmp_path_factory.mktemp('vision')
    torch.manual_seed(0)
    ViTModel(ViTConfig(hidden_size=192, num_hidden_layers=1, num_attention_heads=4, intermediate_size=192,
                       image_size=96, patch_size=16)).save_pretrained(folder)
    MobileNetV2ImageProcessorPil(size=dict(height=96, width=96), do_center_crop=False).save_pretrained(folder)
    return folder


def photographs(folder, n):
    "A folder of n pictures with one caption each"
    from amsps.scenes import make_scenes
    scenes = make_scenes(n, 1, 1)
    (folder/'images').mkdir(parents=True)
    first = np.unique(scenes.annotations.caption_image, return_index=True)[1][:n]
    with open(folder/'captions.csv', 'w', encoding='utf-8', newline='') as f:
        rows = csv.writer(f)
        rows.writerow(['image', 'caption'])
        for i,j in enumerate(first):
            scenes.picture(i).save(folder/f'images/{i:03}.jpg')
            rows.writerow([f'{i:03}.jpg', scenes.annotations.captions[j]])
    return folder


def embeddings(run, folder):
    "Of all pictures and captions, by the saved model"
    from amsps.processor import AmspsModel
    with open(folder/'captions.csv', encoding='utf-8', newline='') as f: rows = list(csv.reader(f))[1:]
    model = AmspsModel.from_pretrained(run/'model')
    return model.encode(images=[folder/'images'/r[0] for r in rows], texts=[r[1] for r in rows])


def check_spread(run, folder, ahead):
    "Embeddings lie apart, and an annotated pair is more similar than a share of the others"
    images,texts = (x.numpy() for x in embeddings(run, folder))
    for x in (images, texts):
        assert (x.mean(0)**2).sum()<.8 # the mean cosine of two embeddings, 1 after a collapse
    own = (images*texts).sum(1)
    assert ((images@texts.T)<own[:,None]).mean()>ahead


def test_fifty_pictures(cli, vision, tmp_path):
    folder = photographs(tmp_path/'photos', 50)
    r = cli('train', '--dataset', 'own', '--data-root', folder, '--backbone', vision, '--cache-dir', tmp_path/'cache')
    assert r.returncode==0, r.stderr
    for said in ('small:  32 training pairs, so --loss infonce', 'expect: little: this text encoder',
                 '12 test images, drawn by',
                 'too few test images to tell this rSum from chance', '(random ranks of 12 images)'):
        assert said in r.stdout, r.stdout
    run = next(x for x in (tmp_path/'cache/runs').iterdir() if (x/'record.json').is_file())
    check_spread(run, folder, .7)


SHORT = dict(loss='ahrl', epochs=12, embed_size=128)


@pytest.mark.parametrize('options', [SHORT, pytest.param({}, marks=pytest.mark.slow)])
def test_five_hundred_pictures(vision, tmp_path, options):
    from amsps.companion.config import parse_config, preset
    from amsps.companion.datasets import load_data
    from amsps.companion.runs import run_dir, train_run
    folder = photographs(tmp_path/'photos', 500)
    settings = dict(dataset='own', data_root=str(folder), backbone=str(vision), cache_dir=str(tmp_path/'cache'))
    config = parse_config(preset(settings|options, pairs=350))
    data = load_data(config)
    if options:
        with pytest.warns(UserWarning, match='no hidden positives are mined'): record = train_run(config, data)
        assert record['mining'][-1]['mined']==0 and record['mining'][-1]['candidates']>0
    else: record = train_run(config, data)
    test = record['metrics']['test']
    assert min(test['i2t_r10'], test['t2i_r10'])>15, test # chance is 10 % of 100 pictures
    check_spread(run_dir(config, data), folder, .85)
