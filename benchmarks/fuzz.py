"""Damaged inputs by the thousand: each is read, or refused with one `InputError`. Anything else is printed with its
seed, and its input is kept.

    python benchmarks/fuzz.py pictures --minutes 2
    python benchmarks/fuzz.py text headers --minutes 10 --seed 1000
    python benchmarks/fuzz.py text --seed 1234 --count 1 # one input again
"""
import argparse
import io
import json
import random
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path
import numpy as np
from PIL import Image
from amsps.companion.datasets import check_folder
from amsps.companion.formats import check_pictures
from amsps.data import PairDataset, build_tokenizer, load_features
from amsps.errors import InputError
from amsps.pictures import load_image
from amsps.vision import _resume_point

sys.path.insert(0, str(Path(__file__).resolve().parents[1]/'tests'))
from layouts import LAYOUTS, Source, write

# ---------------------------------------------------------------- mutations of bytes

TOKENS = [b'\0', b'\xff', b'\r', b'\n', b'"', b"'", b',', b';', b'\t', b'|', b'[', b']', b'{', b'}', b'(', b'\\', b'#',
          b'..', b'/', b'-1', b'0', b'9'*40, b'9'*5000, b'1e999', b'NaN', b'null', b'true', b'""', b'\\ud83d',
          b'\xed\xa0\x80', b'\xef\xbb\xbf', b'\xff\xfe', b'['*2000, b'{"a":'*2000, b'\xcc\x81', b"b'x'", b'sep=;']


def flip(r, x):
    i = r.randrange(len(x))
    return x[:i]+bytes([x[i]^(1<<r.randrange(8))])+x[i+1:]


def cut(r, x):
    return x[:r.randrange(len(x))]


def drop(r, x):
    i = r.randrange(len(x))
    return x[:i]+x[i+r.randint(1, 20):]


def repeat(r, x):
    i = r.randrange(len(x))
    part = x[i:i+r.randint(1, 60)]
    return x[:i]+part*r.randint(2, 4)+x[i:]


def insert(r, x):
    i = r.randrange(len(x)+1)
    return x[:i]+r.choice(TOKENS)+x[i:]


def overwrite(r, x):
    i = r.randrange(len(x))
    new = r.choice(TOKENS) if r.random()<.5 else r.randbytes(r.randint(1, 8))
    return x[:i]+new+x[i+len(new):]


def mutate(r, content, first=None, most=4):
    "One to `most` changes, in the first bytes only if `first` is given"
    head,tail = (content, b'') if first is None else (content[:first], content[first:])
    for _ in range(r.randint(1, most)):
        if head: head = r.choice([flip, flip, cut, drop, repeat, insert, overwrite])(r, head)
    return head+tail


# ---------------------------------------------------------------- pictures

def pictures(home):
    "Seed -> a damaged picture of one of many formats and modes, decoded and checked"
    seeds = list(_picture_files(home))
    def trial(seed, folder):
        r = random.Random(seed)
        name,content = r.choice(seeds)
        file = folder/name
        file.write_bytes(mutate(r, content, None if r.random()<.5 else 200))
        shown = load_image(file)
        assert shown.mode=='RGB' and min(shown.size)>0
        check_pictures([file])
    return trial


def _picture_files(home):
    colour = Image.fromarray(np.random.default_rng(0).integers(0, 255, (12, 16, 4), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    modes = dict(png=('1','L','LA','P','RGB','RGBA','I;16'), jpg=('L','RGB','CMYK'), gif=('L','P','RGBA'),
                 tiff=('1','L','LA','P','RGB','RGBA','CMYK','I','F','I;16'), webp=('RGB','RGBA'),
                 bmp=('1','L','P','RGB'), ppm=('L','RGB'), tga=('L','RGBA'), ico=('RGBA',),
                 jp2=('L','RGB','RGBA'), pcx=('L','RGB'), sgi=('L','RGB'), im=('L','RGB'),
                 dds=('RGBA',), avif=('RGB',), icns=('RGBA',), qoi=('RGBA',))
    for suffix,known in modes.items():
        for mode in known:
            name = f'{suffix}_{mode.replace(";", "")}.{suffix}'
            im = colour.convert('I').convert(mode) if mode=='I;16' else colour.convert('RGB').convert(mode)
            try:
                im.save(home/name, **(dict(exif=exif) if suffix in ('png','tiff','jpg','webp') else {}))
            except (OSError, KeyError, ValueError): # a format that this Pillow cannot write
                continue
            yield name,(home/name).read_bytes()


# ---------------------------------------------------------------- text of every layout

TEXTS = ('.txt', '.csv', '.json', '.jsonl', '.tsv', '.token', '.arrow')


def text(home):
    "Seed -> a layout with one damaged text file; checked, and whatever is called fine can be tokenised"
    source = Source()
    roots = {name:write(name, source, home/name) for name in LAYOUTS}
    _write_judgements(source, roots['flickr8k'])
    def trial(seed, folder):
        r = random.Random(seed)
        root = roots[r.choice(sorted(roots))]
        file = r.choice(sorted(p for p in root.rglob('*') if p.suffix in TEXTS))
        whole = file.read_bytes()
        damaged = mutate(r, _encoded(r, whole, file))
        (folder/file.name).write_bytes(damaged) # kept where the trial fails
        try:
            file.write_bytes(damaged)
            _checked(root)
        finally:
            file.write_bytes(whole)
    return trial


def _encoded(r, content, file):
    "Sometimes as other programs encode a text"
    if file.suffix in ('.arrow','.tsv') or r.random()<.8: return content
    written = content.decode().replace('\n', r.choice(['\n', '\r\n', '\r']))
    return written.encode(r.choice(['utf-16', 'utf-8-sig', 'cp1252']))


def _write_judgements(source, root):
    lines = [f'{n}\t{n}#0\t1\t2\t3\n' for n in source.names]
    (root/'ExpertAnnotations.txt').write_text(''.join(lines))


def _checked(root):
    check_folder(root)
    from amsps.companion.formats import read_dataset
    a = read_dataset(root)
    build_tokenizer(a.captions, 1)(a.captions)
    a.summary().encode()


# ---------------------------------------------------------------- headers of arrays and of JSON

def headers(home):
    "Seed -> a .npy or JSON file with a damaged head; loaded, and what is loaded can be indexed"
    x = np.random.default_rng(0).random((4, 3, 5))
    arrays = [_npy(x.astype(t)) for t in ('<f4','<f2','u1','>f4','<f8','<c8')]
    arrays.append(_npy(np.asfortranarray(x.astype('<f4'))))
    archive = io.BytesIO()
    np.savez(archive, x=x)
    arrays.append(archive.getvalue())
    record = json.dumps(dict(images=[dict(filename='a.jpg', split='train', sentences=[dict(raw='a dog')])])).encode()
    (home/'json/images').mkdir(parents=True)
    Image.new('RGB', (8, 8)).save(home/'json/images/a.jpg')
    def trial(seed, folder):
        r = random.Random(seed)
        if r.random()<.3:
            (folder/'dataset_x.json').write_bytes(mutate(r, record))
            shutil.copy(folder/'dataset_x.json', home/'json')
            _checked(home/'json')
            return
        file = folder/'features.npy'
        file.write_bytes(mutate(r, r.choice(arrays), 140, most=1+r.randrange(3)))
        _train_on(file)
    return trial


def _npy(x):
    file = io.BytesIO()
    np.save(file, x)
    return file.getvalue()


def _train_on(file):
    "What a run does with features"
    from amsps.data import Annotations
    shutil.copy(file, part := file.with_suffix('.part'))
    _resume_point(part, 4)
    part.unlink()
    x = load_features(file)
    ids = [str(i) for i in range(len(x))]
    if len(x)>1000: return
    notes = Annotations(ids, ['train']*len(x), ['a']*len(x), caption_ids=ids, caption_image=np.arange(len(x)))
    PairDataset(notes, x, 'train').regions(np.arange(len(x)))


# ---------------------------------------------------------------- the loop

LOOPS = dict(pictures=pictures, text=text, headers=headers)


def run(name, seeds, seconds, keep):
    "Try seeds until the time is up; (number tried, number read, seeds that failed)"
    done,read,failed = 0,0,[]
    end = time.monotonic()+seconds
    with tempfile.TemporaryDirectory() as home:
        trial = LOOPS[name](Path(home))
        for seed in seeds:
            if time.monotonic()>end: break
            folder = Path(home)/'input'
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            try:
                trial(seed, folder)
                read += 1
            except InputError as e:
                if '\n' in str(e) and 'no known layout' not in str(e): failed.append((seed, f'several lines: {e}'))
            except Exception as e:
                failed.append((seed, f'{type(e).__name__}: {e}'))
            if failed and failed[-1][0]==seed:
                print(f'{name} seed {seed}: {failed[-1][1][:300]!r}', flush=True)
                if keep: shutil.copytree(folder, keep/f'{name}-{seed}', dirs_exist_ok=True)
            done += 1
    return done,read,failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('loops', nargs='*', choices=[*LOOPS, []], default=list(LOOPS))
    parser.add_argument('--minutes', type=float, default=2., help='time for each loop')
    parser.add_argument('--seed', type=int, default=0, help='first seed')
    parser.add_argument('--count', type=int, default=10**9, help='number of seeds at most')
    parser.add_argument('--keep', type=Path, default=Path('fuzz'), help='folder of the inputs that fail')
    given = parser.parse_args()
    warnings.simplefilter('ignore')
    bad = 0
    for name in given.loops:
        done,read,failed = run(name, range(given.seed, given.seed+given.count), 60*given.minutes, given.keep)
        print(f'{name}: {done:,} inputs, {read:,} read, {done-read-len(failed):,} refused, {len(failed):,} failed')
        bad += len(failed)
    sys.exit(bool(bad))


if __name__=='__main__':
    main()
