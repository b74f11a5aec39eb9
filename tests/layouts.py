"Small datasets in the field's file layouts, as their makers write them: twelve drawn pictures, two captions each (9 train, 1 dev, 2 test)."
import base64, json
import numpy as np
from amsps.scenes import make_scenes

SIZES = dict(train=9, dev=1, test=2)
BOXES,SIZE = 36,16

class Source:
    "Pictures, captions, splits and region features that every layout below holds"
    def __init__(self):
        self.scenes = make_scenes(*SIZES.values(), captions=2)
        a = self.scenes.annotations
        self.splits,self.captions = a.splits,[[c for c,o in zip(a.captions, a.caption_image) if o==i] for i in range(len(a.splits))]
        self.regions = np.random.default_rng(0).random((len(a.splits), BOXES, SIZE), dtype=np.float32)
        self.names = [f'{1000+i}.jpg' for i in range(len(a.splits))]

    def write_pictures(self, folder, names=None):
        folder.mkdir(parents=True, exist_ok=True)
        for i,n in enumerate(names or self.names): self.scenes.picture(i).save(folder/n)

    def of(self, split): return [i for i,s in enumerate(self.splits) if s==split]

def flickr8k(s, root):
    s.write_pictures(root/'Flicker8k_Dataset')
    (root/'Flickr8k.token.txt').write_text(''.join(f'{n}#{k}\t{c} .\n' for n,cs in zip(s.names, s.captions) for k,c in enumerate(cs)))
    for split in SIZES: (root/f'Flickr_8k.{split}Images.txt').write_text(''.join(f'{s.names[i]}\n' for i in s.of(split)))

def kaggle_flickr8k(s, root):
    s.write_pictures(root/'Images')
    (root/'captions.txt').write_text('image,caption\n'+''.join(f'{n},"{c}, drawn ."\n' for n,cs in zip(s.names, s.captions) for c in cs))

def kaggle_flickr30k(s, root):
    s.write_pictures(root/'flickr30k_images')
    rows = [f'{n}| {k}| {c} .' for n,cs in zip(s.names, s.captions) for k,c in enumerate(cs)]
    rows[3] = rows[3].replace('| 1| ', '| 1   ') # as in the line of 2199200615.jpg
    (root/'results.csv').write_text('image_name| comment_number| comment\n'+'\n'.join(rows)+'\n')

def karpathy(s, root, name='flickr30k', images=True):
    if images: s.write_pictures(root/'images')
    split = dict(train='train', dev='val', test='test')
    def sentences(i): return [dict(tokens=c.lower().split(), raw=c+'.', imgid=i, sentid=2*i+k) for k,c in enumerate(s.captions[i])]
    entries = [dict(sentids=[2*i,2*i+1], imgid=i, sentences=sentences(i), split='restval' if i==1 else split[s.splits[i]], filename=n) for i,n in enumerate(s.names)]
    (root/f'dataset_{name}.json').write_text(json.dumps(dict(images=entries, dataset=name)))

def coco(s, root):
    (root/'annotations').mkdir(parents=True)
    for part,split in (('train2014', ('train',)), ('val2014', ('dev','test'))):
        own = [i for i in range(len(s.names)) if s.splits[i] in split]
        names = {i:f'COCO_{part}_{1000+i:012d}.jpg' for i in own}
        (root/part).mkdir(); [s.scenes.picture(i).save(root/part/names[i]) for i in own]
        data = dict(info={}, licenses=[], images=[dict(id=1000+i, file_name=names[i], height=64, width=64) for i in own], annotations=[dict(image_id=1000+i, id=2*i+k, caption=c+'. ') for i in own for k,c in enumerate(s.captions[i])])
        (root/f'annotations/captions_{part}.json').write_text(json.dumps(data))

def precomp(s, root, repeat=False, dtype='float32'):
    root.mkdir(parents=True, exist_ok=True)
    for split in SIZES:
        own = s.of(split)
        x = s.regions[own] if dtype!='uint8' else (255*s.regions[own]).round()
        np.save(root/f'{split}_ims.npy', (np.repeat(x, 2, axis=0) if repeat else x).astype(dtype))
        (root/f'{split}_caps.txt').write_text(''.join(f'{c}\n' for i in own for c in s.captions[i]))
        (root/f'{split}_ids.txt').write_text(''.join(f'{1000+i}\n' for i in own for _ in range(2 if repeat else 1)))

def vse_infinity(s, root):
    precomp(s, root/'precomp'); s.write_pictures(root/'images')
    (root/'id_mapping.json').write_text(json.dumps({n.split('.')[0]:n for n in s.names}))

def bottom_up(s, root):
    karpathy(s, root, images=False)
    def line(i): return b'\t'.join([b'%d' % (1000+i), b'500', b'333', b'%d' % BOXES, base64.b64encode(np.zeros((BOXES,4), '<f4').tobytes()), base64.b64encode(s.regions[i].astype('<f4').tobytes())])+b'\r\n'
    half = len(s.names)//2
    for f,own in (('train_36.tsv', range(half)), ('test_36.tsv', range(half, len(s.names)))): (root/f).write_bytes(b''.join(map(line, own)))

def own_csv(s, root):
    s.write_pictures(root/'images')
    (root/'captions.csv').write_text('image,caption\n'+''.join(f'{n},{c}\n' for n,cs in zip(s.names, s.captions) for c in cs))

def own_jsonl(s, root):
    s.write_pictures(root)
    (root/'captions.jsonl').write_text(''.join(json.dumps(dict(image=n, captions=cs, split=t))+'\n' for n,cs,t in zip(s.names, s.captions, s.splits)))

def huggingface(s, root):
    import datasets
    datasets.disable_progress_bars()
    def part(own): return datasets.Dataset.from_dict(dict(image=[s.scenes.picture(i) for i in own], caption=[s.captions[i] for i in own], img_id=own), features=datasets.Features(dict(image=datasets.Image(), caption=datasets.List(datasets.Value('string')), img_id=datasets.Value('int64'))))
    datasets.DatasetDict({n:part(s.of(split)) for n,split in (('train','train'), ('validation','dev'), ('test','test'))}).save_to_disk(root)

LAYOUTS = dict(flickr8k=flickr8k, kaggle_flickr8k=kaggle_flickr8k, kaggle_flickr30k=kaggle_flickr30k, karpathy=karpathy, coco=coco, precomp=precomp, precomp_repeated=lambda s,r: precomp(s, r, repeat=True), precomp_float16=lambda s,r: precomp(s, r, dtype='float16'),
               precomp_uint8=lambda s,r: precomp(s, r, dtype='uint8'), vse_infinity=vse_infinity, bottom_up=bottom_up, own_csv=own_csv, own_jsonl=own_jsonl, huggingface=huggingface)

def write(layout, source, root):
    "The source in a layout below a new folder"
    root.mkdir(parents=True)
    LAYOUTS[layout](source, root)
    return root
