"""Small datasets in the file layouts of the field, as their makers write them: twelve drawn pictures with two captions
each (9 train, 1 dev, 2 test)."""
import base64
import json
from functools import partial
import numpy as np
from amsps.scenes import make_scenes

SIZES = dict(train=9, dev=1, test=2)
BOXES = 36
SIZE = 16


class Source:
    "Pictures, captions, splits and region features that every layout holds"
    def __init__(self):
        self.scenes = make_scenes(*SIZES.values(), captions=2)
        notes = self.scenes.annotations
        n = len(notes.splits)
        self.splits = notes.splits
        self.captions = [notes.captions[2*i:2*i+2] for i in range(n)]
        self.regions = np.random.default_rng(0).random((n, BOXES, SIZE), dtype=np.float32)
        self.names = [f'{1000+i}.jpg' for i in range(n)]

    def write_pictures(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        for i,name in enumerate(self.names):
            self.scenes.picture(i).save(folder/name)

    def of(self, split):
        "Positions of a split's images"
        return [i for i,s in enumerate(self.splits) if s==split]

    def pairs(self):
        "(image name, number of the caption within the image, caption)"
        return [(name, k, c) for name,captions in zip(self.names, self.captions) for k,c in enumerate(captions)]


def write_lines(path, lines):
    path.write_text(''.join(f'{line}\n' for line in lines), 'utf-8')


def flickr8k(s, root):
    s.write_pictures(root/'Flicker8k_Dataset')
    write_lines(root/'Flickr8k.token.txt', [f'{name}#{k}\t{c} .' for name,k,c in s.pairs()])
    for split in SIZES:
        write_lines(root/f'Flickr_8k.{split}Images.txt', [s.names[i] for i in s.of(split)])


def kaggle_flickr8k(s, root):
    s.write_pictures(root/'Images')
    write_lines(root/'captions.txt', ['image,caption', *(f'{name},"{c}, drawn ."' for name,_,c in s.pairs())])


def kaggle_flickr30k(s, root):
    s.write_pictures(root/'flickr30k_images')
    rows = [f'{name}| {k}| {c} .' for name,k,c in s.pairs()]
    rows[3] = rows[3].replace('| 1| ', '| 1   ') # as in the line of 2199200615.jpg
    write_lines(root/'results.csv', ['image_name| comment_number| comment', *rows])


def flickr30k(s, root):
    s.write_pictures(root/'flickr30k-images')
    write_lines(root/'results_20130124.token', [f'{name}#{k}\t{c} .' for name,k,c in s.pairs()])
    for split,name in dict(train='train', dev='val', test='test').items():
        write_lines(root/f'{name}.txt', [s.names[i].removesuffix('.jpg') for i in s.of(split)])


def karpathy(s, root, name='flickr30k', images=True):
    if images:
        s.write_pictures(root/'images')
    entries = [karpathy_entry(s, i) for i in range(len(s.names))]
    (root/f'dataset_{name}.json').write_text(json.dumps(dict(images=entries, dataset=name)), 'utf-8')


def karpathy_entry(s, i):
    split = dict(train='train', dev='val', test='test')[s.splits[i]]
    sentences = [dict(tokens=c.lower().split(), raw=c+'.', imgid=i, sentid=2*i+k) for k,c in enumerate(s.captions[i])]
    return dict(sentids=[2*i,2*i+1], imgid=i, sentences=sentences, split='restval' if i==1 else split,
                filename=s.names[i])


def coco(s, root):
    (root/'annotations').mkdir(parents=True)
    coco_part(s, root, 'train2014', ('train',))
    coco_part(s, root, 'val2014', ('dev', 'test'))


def coco_part(s, root, part, splits):
    own = [i for i in range(len(s.names)) if s.splits[i] in splits]
    names = {i:f'COCO_{part}_{1000+i:012d}.jpg' for i in own}
    (root/part).mkdir()
    for i in own:
        s.scenes.picture(i).save(root/part/names[i])
    images = [dict(id=1000+i, file_name=names[i], height=64, width=64) for i in own]
    captions = [dict(image_id=1000+i, id=2*i+k, caption=c+'. ') for i in own for k,c in enumerate(s.captions[i])]
    data = dict(info={}, licenses=[], images=images, annotations=captions)
    (root/f'annotations/captions_{part}.json').write_text(json.dumps(data), 'utf-8')


def precomp(s, root, repeat=False, dtype='float32'):
    "As SCAN and VSE++ share them; with `repeat` an image has a row for each of its captions"
    root.mkdir(parents=True, exist_ok=True)
    times = 2 if repeat else 1
    for split in SIZES:
        own = s.of(split)
        x = (255*s.regions[own]).round() if dtype=='uint8' else s.regions[own]
        np.save(root/f'{split}_ims.npy', np.repeat(x, times, axis=0).astype(dtype))
        write_lines(root/f'{split}_caps.txt', [c for i in own for c in s.captions[i]])
        write_lines(root/f'{split}_ids.txt', [1000+i for i in own for _ in range(times)])


def vse_infinity(s, root):
    precomp(s, root/'precomp')
    s.write_pictures(root/'images')
    (root/'id_mapping.json').write_text(json.dumps({n.split('.')[0]:n for n in s.names}), 'utf-8')


def bottom_up(s, root):
    karpathy(s, root, images=False)
    half = len(s.names)//2
    for name,own in (('train_36.tsv', range(half)), ('test_36.tsv', range(half, len(s.names)))):
        (root/name).write_bytes(b''.join(bottom_up_line(s, i) for i in own))


def bottom_up_line(s, i):
    boxes = base64.b64encode(np.zeros((BOXES,4), '<f4').tobytes())
    features = base64.b64encode(s.regions[i].astype('<f4').tobytes())
    return b'\t'.join([b'%d' % (1000+i), b'500', b'333', b'%d' % BOXES, boxes, features])+b'\r\n'


def own_csv(s, root):
    s.write_pictures(root/'images')
    write_lines(root/'captions.csv', ['image,caption', *(f'{name},{c}' for name,_,c in s.pairs())])


def own_jsonl(s, root):
    s.write_pictures(root)
    rows = [dict(image=n, captions=cs, split=t) for n,cs,t in zip(s.names, s.captions, s.splits)]
    write_lines(root/'captions.jsonl', map(json.dumps, rows))


def huggingface(s, root):
    import datasets
    datasets.disable_progress_bars()
    columns = datasets.Features(dict(
        image=datasets.Image(), caption=datasets.List(datasets.Value('string')), img_id=datasets.Value('int64')))
    def part(own):
        rows = dict(image=[s.scenes.picture(i) for i in own], caption=[s.captions[i] for i in own], img_id=own)
        return datasets.Dataset.from_dict(rows, features=columns)
    names = dict(train='train', validation='dev', test='test')
    datasets.DatasetDict({name:part(s.of(split)) for name,split in names.items()}).save_to_disk(root)


LAYOUTS = dict(
    flickr8k=flickr8k,
    flickr30k=flickr30k,
    kaggle_flickr8k=kaggle_flickr8k,
    kaggle_flickr30k=kaggle_flickr30k,
    karpathy=karpathy,
    coco=coco,
    precomp=precomp,
    precomp_repeated=partial(precomp, repeat=True),
    precomp_float16=partial(precomp, dtype='float16'),
    precomp_uint8=partial(precomp, dtype='uint8'),
    vse_infinity=vse_infinity,
    bottom_up=bottom_up,
    own_csv=own_csv,
    own_jsonl=own_jsonl,
    huggingface=huggingface)


def write(layout, source, root):
    "Write the source in a layout below a new folder"
    root.mkdir(parents=True)
    LAYOUTS[layout](source, root)
    return root
