"Encoders that train and CLIP-like models on the command line, on drawn pictures."
import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
import pytest
import torch
from amsps.errors import InputNote
from conftest import draw_flickr8k


def save_clip(folder, captions):
    "A small random CLIP"
    from amsps.data import build_tokenizer
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel
    torch.manual_seed(0)
    tokenizer = build_tokenizer(captions, 1)
    few = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    words = few|dict(vocab_size=len(tokenizer), pad_token_id=0, eos_token_id=tokenizer.eos_token_id)
    seen = few|dict(image_size=32, patch_size=8)
    model = CLIPModel(CLIPConfig(text_config=words, vision_config=seen, projection_dim=8))
    for p in model.parameters():
        if p.ndim>1: torch.nn.init.normal_(p, std=.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = dict(height=32, width=32)
    CLIPImageProcessorPil(size=dict(shortest_edge=32), crop_size=size).save_pretrained(folder)
    return folder


def save_siglip2(folder, captions):
    "A small random SigLIP 2, which takes patches in the place of pictures"
    from amsps.data import build_tokenizer
    from transformers import Siglip2Config, Siglip2ImageProcessorPil, Siglip2Model
    torch.manual_seed(0)
    tokenizer = build_tokenizer(captions, 1)
    few = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    words = few|dict(vocab_size=len(tokenizer)+8, max_position_embeddings=24, pad_token_id=0)
    model = Siglip2Model(Siglip2Config(text_config=words, vision_config=few|dict(num_patches=16, patch_size=8)))
    for p in model.parameters():
        if p.ndim>1: torch.nn.init.normal_(p, std=.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16).save_pretrained(folder)


def save_vit(folder, height=32, width=32):
    "A small random ViT"
    from transformers import ViTConfig, ViTImageProcessorPil, ViTModel
    torch.manual_seed(0)
    few = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2)
    model = ViTModel(ViTConfig(image_size=(height, width), patch_size=8, **few))
    for p in model.parameters():
        if p.ndim>1: torch.nn.init.normal_(p, std=.2)
    model.save_pretrained(folder)
    ViTImageProcessorPil(size=dict(height=height, width=width)).save_pretrained(folder)
    return folder


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "Drawn pictures in the layout of Flickr8k, and a CLIP that knows their words"
    home = tmp_path_factory.mktemp('pixels')
    root = draw_flickr8k(home/'flickr8k')
    lines = (root/'Flickr8k.token.txt').read_text('utf-8').splitlines()
    captions = [l.partition('\t')[2] for l in lines]
    save_clip(home/'clip', captions)
    save_siglip2(home/'siglip2', captions)
    save_vit(home/'vit')
    return home


def data(place):
    return ['--dataset', 'flickr8k', '--data-root', place/'flickr8k', '--cache-dir', place/'cache']


def recall(printed):
    return re.search(r'^test: +(.*rSum.*)$', printed, re.M)[1]


def test_clip_zero_shot(cli, place, tmp_path):
    "Recall of a CLIP as it is, as a record that verifies and has a row in a table"
    clip = ['--model', place/'clip']
    r = cli('evaluate', *clip, *data(place), '--keep-record', tmp_path)
    assert r.returncode==0, r.stderr
    record = json.loads(next(tmp_path.glob('zero-shot-*.json')).read_text('utf-8'))
    assert record['zero_shot'] and record['config']['label']=='clip (zero-shot)' and not record['history']
    assert f"{record['metrics']['test']['rsum']:.1f}" in recall(r.stdout)
    r = cli('verify', tmp_path, '--data-root', place/'flickr8k', *clip)
    assert r.returncode==0 and 'evaluated again: every number equal' in r.stdout, r.stderr+r.stdout
    from amsps.companion.tables import read_records, results_frame, summary_table
    table = summary_table(results_frame(read_records(tmp_path)))
    assert list(table.index)==['clip (zero-shot)']


ENCODE = """
import json, sys
from pathlib import Path
import torch
import amsps.processor
from amsps.companion.formats import read_dataset
from amsps.data import PairDataset
from amsps.metrics import recall_metrics, retrieval_ranks
from amsps.model import AmspsModel
notes = read_dataset(Path(sys.argv[2]), 'flickr8k')
test = PairDataset(notes, torch.zeros(len(notes.image_ids), 1, 1).numpy(), 'test')
path = dict(zip(notes.image_ids, notes.image_paths))
v,t = AmspsModel.from_pretrained(sys.argv[1]).encode([path[i] for i in test.image_ids], test.captions)
print(json.dumps(recall_metrics(*retrieval_ranks(v, t, torch.from_numpy(test.caption_image)))))
"""


def put_on_hub(folder, cache, name):
    "Copy a saved model to where a download from the hub lies"
    home = cache/f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, home/'snapshots/0123abcd')
    (home/'refs').mkdir()
    (home/'refs/main').write_text('0123abcd', 'utf-8')


def test_everything_trains_from_pixels(cli, place, tmp_path):
    "AMSPS over a CLIP, random views: evaluated, then embedded in a fresh process from a repository of the hub"
    clip = ['--model', place/'clip', '--row', 'AMSPS', '--n-concepts', 10, '--epochs', 3, '--batch-size', 8]
    everything = ['--tune-vision-layers', 2, '--tune-text-layers', 2, '--min-view', .5, '--mirror']
    r = cli('train', *clip, *everything, *data(place))
    assert r.returncode==0, r.stderr
    run = Path(re.search(r'^run: +(.*)', r.stdout, re.M)[1])
    shown = cli('evaluate', run, '--data-root', place/'flickr8k', '--cache-dir', place/'cache')
    assert shown.returncode==0 and 'equal to the record' in shown.stdout, shown.stderr
    put_on_hub(run/'model', tmp_path/'hub', 'someone/photographs')
    command = [sys.executable, '-c', ENCODE, 'someone/photographs', str(place/'flickr8k')]
    hub = os.environ|dict(HF_HUB_CACHE=str(tmp_path/'hub'), HF_HUB_OFFLINE='1')
    alone = subprocess.run(command, capture_output=True, encoding='utf-8', cwd=tmp_path, env=hub, timeout=120)
    assert alone.returncode==0, alone.stderr
    recorded = json.loads((run/'record.json').read_text('utf-8'))['metrics']['test']
    assert json.loads(alone.stdout)=={k:recorded[k] for k in json.loads(alone.stdout)}


def trained_run(result):
    "Folder that `amsps train` printed"
    assert result.returncode==0, result.stderr
    return Path(re.search(r'^run: +(.*)', result.stdout, re.M)[1])

def own_photographs(place, folder):
    "The drawn pictures as a person keeps them: a folder, and a table of captions"
    shutil.copytree(place/'flickr8k/Flicker8k_Dataset', folder/'images')
    splits = {}
    for split in ('train', 'dev', 'test'):
        for name in (place/f'flickr8k/Flickr_8k.{split}Images.txt').read_text('utf-8').split(): splits[name] = split
    lines = [l.split('\t') for l in (place/'flickr8k/Flickr8k.token.txt').read_text('utf-8').splitlines()]
    rows = [[name.partition('#')[0], caption] for name,caption in lines]
    with open(folder/'captions.csv', 'w', encoding='utf-8', newline='') as f:
        out = csv.writer(f)
        out.writerow(['image', 'caption', 'split'])
        out.writerows([*row, splits[row[0]]] for row in rows if row[0] in splits)
    return folder


def test_own_folder(cli, place, tmp_path):
    "A folder of photographs and captions.csv: the last block of a vision model trains, and the run is evaluated again"
    own = ['--dataset', 'own', '--data-root', own_photographs(place, tmp_path/'photos')]
    tuned = ['--backbone', place/'vit', '--tune-vision-layers', 1, '--grid', 1, '--epochs', 2]
    run = trained_run(cli('train', *own, *tuned, '--cache-dir', tmp_path/'cache'))
    assert json.loads((run/'record.json').read_text('utf-8'))['config']['tune_vision_layers']==1
    shown = cli('evaluate', run, '--data-root', tmp_path/'photos', '--cache-dir', tmp_path/'cache')
    assert shown.returncode==0 and 'equal to the record' in shown.stdout, shown.stderr


def test_siglip2(cli, place):
    "It trains, is saved, is evaluated as recorded, and its processor makes what `encode` sees"
    from amsps.model import AmspsModel
    from amsps.processor import AmspsProcessor
    sigmoid = ['--model', place/'siglip2', '--loss', 'sigmoid', '--learn-temperature', '--epochs', 2]
    run = trained_run(cli('train', *sigmoid, *data(place)))
    shown = cli('evaluate', run, '--data-root', place/'flickr8k', '--cache-dir', place/'cache')
    assert 'equal to the record' in shown.stdout, shown.stderr
    picture = next((place/'flickr8k/Flicker8k_Dataset').iterdir())
    model = AmspsModel.from_pretrained(run/'model').eval()
    with torch.no_grad():
        x = model.get_image_features(**AmspsProcessor.from_pretrained(run/'model')(images=[picture]))
    torch.testing.assert_close(x, model.encode([picture]), atol=1e-5, rtol=1e-5)


def test_another_configuration_is_another_run(cli, place, tmp_path):
    "The same weights with another activation, and with another scale"
    from safetensors.torch import load_file, save_file
    clip = ['--loss', 'infonce', '--learn-temperature', '--epochs', 1]
    def run_of(folder): return trained_run(cli('train', '--model', folder, *clip, *data(place)))
    def rsum(folder): return json.loads((run_of(folder)/'record.json').read_text('utf-8'))['history'][0]['loss']
    relu = shutil.copytree(place/'clip', tmp_path/'relu')
    config = (relu/'config.json').read_text('utf-8')
    (relu/'config.json').write_text(config.replace('quick_gelu', 'relu'), 'utf-8')
    scaled = shutil.copytree(place/'clip', tmp_path/'scaled')
    weights = load_file(scaled/'model.safetensors')
    weights['logit_scale'] = torch.tensor(1.)
    save_file(weights, scaled/'model.safetensors', metadata=dict(format='pt'))
    assert len({rsum(folder) for folder in (place/'clip', relu, scaled)})==3
    weights['logit_scale'] = torch.tensor(200.)
    save_file(weights, scaled/'model.safetensors', metadata=dict(format='pt'))
    r = cli('train', '--model', scaled, *clip, *data(place))
    assert r.returncode==2 and 'its exponential is infinite' in r.stderr, r.stderr


def test_one_caption_a_picture(cli, place, tmp_path):
    "Without captions to calibrate on, AHRL trains, mines no hidden positives, and says so before training"
    root = shutil.copytree(place/'flickr8k', tmp_path/'flickr8k')
    lines = (root/'Flickr8k.token.txt').read_text('utf-8').splitlines()
    (root/'Flickr8k.token.txt').write_text('\n'.join(l for l in lines if '#0' in l)+'\n', 'utf-8')
    one = ['--dataset', 'flickr8k', '--data-root', root, '--cache-dir', tmp_path/'cache', '--model', place/'clip']
    with pytest.warns(InputNote, match='ahrl mines no hidden positives here: .* give some images of dev several'):
        r = cli('train', *one, '--loss', 'ahrl', '--epochs', 3)
    assert 'the evidence does not tell' not in r.stderr
    mining = json.loads((trained_run(r)/'record.json').read_text('utf-8'))['mining']
    assert mining and all(m['mined']==0 and m['candidates'] for m in mining)


def test_last_blocks_of_a_vision_model(cli, place):
    "Two blocks train over stored maps; the same command resumes nothing and repeats nothing"
    blocks = ['--backbone', place/'vit', '--tune-vision-layers', 2, '--grid', 1, '--loss', 'infonce', '--epochs', 2]
    r = cli('train', *blocks, *data(place))
    run = trained_run(r)
    assert (run/'model/processor_config.json').is_file() and not (run/'model/vision').exists()
    assert recall(cli('train', *blocks, *data(place)).stdout)==recall(r.stdout)
    r = cli('search', run, '--caption', 'a ball', '--data-root', place/'flickr8k', '--cache-dir', place/'cache')
    assert r.returncode==0 and '.jpg' in r.stdout, r.stderr
    r = cli('verify', run, '--data-root', place/'flickr8k')
    assert r.returncode==0 and 'evaluated again: every number equal' in r.stdout, r.stderr
    r = cli('evaluate', run, '--backbone', place/'vit', '--data-root', place/'flickr8k')
    assert r.returncode==2 and 'has trained its own vision model' in r.stderr


REFUSED = {
    'choose 0..2':['--tune-vision-layers', 3],
    'nothing of the `model` would train':['--tune-vision-layers', 0, '--tune-text-layers', 0],
    'leave out `text_backbone`':['--text-backbone', 'bert'],
    '--embed-size is for encoders of your own':['--embed-size', 8],
    "has none that trains":['--loss', 'ahrl', '--learn-temperature'],
    'finite number':['--bias', 'nan'],
    '--learning-rate is for new weights':['--loss', 'infonce', '--learning-rate', 9],
    '--temperature is not used with':['--loss', 'infonce', '--learn-temperature', '--temperature', 1],
    '--text-learning-rate is for':['--loss', 'infonce', '--tune-text-layers', 0, '--text-learning-rate', 1],
}


@pytest.mark.parametrize('expected', REFUSED)
def test_refused(cli, place, expected):
    "One message each, before any work"
    r = cli('train', '--model', place/'clip', *data(place), *REFUSED[expected])
    assert r.returncode==2 and expected in r.stderr and 'Traceback' not in r.stderr, r.stderr


def test_damaged_models(cli, place, tmp_path):
    "A folder without its tokeniser, weights of half precision, a projection that is missing"
    from safetensors.torch import load_file, save_file
    def evaluate(folder): return cli('evaluate', '--model', folder, *data(place))
    own = shutil.copytree(place/'clip', tmp_path/'clip')
    weights = load_file(own/'model.safetensors')
    save_file({k:x.half() for k,x in weights.items()}, own/'model.safetensors', metadata=dict(format='pt'))
    assert evaluate(own).returncode==0
    save_file({k:x for k,x in weights.items() if k!='visual_projection.weight'}, own/'model.safetensors',
              metadata=dict(format='pt'))
    r = evaluate(own)
    assert r.returncode==2 and 'missing: visual_projection.weight' in r.stderr, r.stderr
    for f in own.glob('tokenizer*'): f.unlink()
    r = evaluate(own)
    assert r.returncode==2 and 'cannot load the dual encoder' in r.stderr and 'Traceback' not in r.stderr, r.stderr
    picture = next((place/'flickr8k/Flicker8k_Dataset').iterdir())
    good = picture.read_bytes()
    picture.write_bytes(good[:300])
    r = evaluate(place/'clip')
    picture.write_bytes(good)
    assert r.returncode==2 and picture.name in r.stderr and 'Traceback' not in r.stderr, r.stderr


@pytest.mark.parametrize('blocks', [2, 3], ids=['stored maps', 'pixels'])
def test_damaged_picture(cli, place, blocks, tmp_path):
    "Training names the picture and leaves no record; once it is mended, the same command trains"
    root = shutil.copytree(place/'flickr8k', tmp_path/'flickr8k')
    picture = sorted((root/'Flicker8k_Dataset').iterdir())[-1]
    good = picture.read_bytes()
    vit = ['--backbone', place/'vit', '--tune-vision-layers', blocks, '--grid', 1, '--loss', 'infonce', '--epochs', 1]
    where = ['--dataset', 'flickr8k', '--data-root', root, '--cache-dir', tmp_path/'cache']
    picture.write_bytes(good[:300])
    r = cli('train', *vit, *where)
    assert r.returncode==2 and picture.name in r.stderr and 'Traceback' not in r.stderr, r.stderr
    assert not list((tmp_path/'cache').glob('runs/*/record.json'))
    picture.write_bytes(good)
    assert trained_run(cli('train', *vit, *where)).is_dir()


@pytest.mark.parametrize('blocks', [0, 2, 3], ids=['features', 'stored maps', 'pixels'])
def test_oblong_vision_model(cli, place, blocks, tmp_path):
    "Its cells are no square grid"
    vit = save_vit(tmp_path/'vit', height=32, width=48)
    r = cli('train', '--backbone', vit, '--tune-vision-layers', blocks, '--loss', 'infonce', *data(place))
    assert r.returncode==2 and 'pictures of 32 x 48 pixels, which give no square grid' in r.stderr, r.stderr
    assert 'Traceback' not in r.stderr


def test_gradient_checkpointing(cli, place):
    "Blocks that run again change no number of a run, whose parts are both halves of a CLIP, random views and mining"
    clip = ['--model', place/'clip', '--loss', 'ahrl', '--epochs', 3, '--batch-size', 8, '--min-view', .5]
    def results(*options):
        run = trained_run(cli('train', *clip, *options, *data(place)))
        record = json.loads((run/'record.json').read_text('utf-8'))
        assert record['config'].get('gradient_checkpointing', False)==bool(options)
        return record['history'],record['metrics'],record['saved']
    assert results('--gradient-checkpointing')==results()
    r = cli('train', '--gradient-checkpointing', *data(place))
    assert r.returncode and 'is for encoders that train' in r.stderr


@pytest.mark.parametrize('views', [{}, dict(min_view=.5, mirror=True)], ids=['whole', 'views'])
def test_other_processes_may_prepare_the_batches(views, place, tmp_path, monkeypatch):
    "Pictures that do not fit on a GPU are read by workers; with whole pictures every number is that without workers"
    import amsps.training as training
    from amsps.companion.config import parse_config
    from amsps.companion.datasets import load_data
    from amsps.companion.runs import train_run
    def trained(workers):
        def placed(args, *splits):
            args.dataloader_num_workers = workers
            args.dataloader_persistent_workers = workers>0
        monkeypatch.setattr(training, 'place_features', placed)
        chosen = dict(dataset='flickr8k', data_root=str(place/'flickr8k'), backbone=str(place/'vit'), loss='infonce',
                      tune_vision_layers=3, grid=2, embed_size=16, word_size=8, epochs=2, batch_size=16)
        config = parse_config(chosen|views|dict(cache_dir=str(tmp_path/str(workers))))
        return train_run(config, load_data(config))
    alone,helped = trained(0),trained(2)
    assert alone['data']['features'][1:]==[3, 32, 32]
    assert len(helped['history'])==2 and all(0<e['loss']<100 for e in helped['history'])
    if not views: assert helped['history']==alone['history'] and helped['metrics']==alone['metrics']


@pytest.mark.parametrize('trained', [[], ['--tune-vision-layers', 1]], ids=['frozen', 'last block'])
def test_the_middle_of_pictures(trained, cli, place, tmp_path):
    "The pooling `centre`: trained, evaluated as recorded, and embedded by the saved folder alone"
    from amsps.model import AmspsModel
    centre = ['--backbone', place/'vit', '--pooling', 'centre', '--loss', 'infonce', '--epochs', 2]
    run = trained_run(cli('train', *centre, '--grid', 4, *trained, *data(place)))
    shown = cli('evaluate', run, '--data-root', place/'flickr8k', '--cache-dir', place/'cache')
    assert 'equal to the record' in shown.stdout, shown.stderr
    model = AmspsModel.from_pretrained(shutil.copytree(run/'model', tmp_path/'model'))
    assert model.region_encoder.linear.in_features==2*16
    pictures = sorted((place/'flickr8k/Flicker8k_Dataset').iterdir())[:3]
    assert model.encode(pictures).shape==(3, model.config.embed_size)
    r = cli('train', *centre, '--grid', 1, *trained, *data(place))
    assert r.returncode==2 and '`pooling` centre needs cells, and `grid` is 1' in r.stderr
