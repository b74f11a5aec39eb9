"Photographs are indexed and searched as a user does it: odd pictures and names, kills, two processes, a browser."
import errno
import io
import json
import multiprocessing
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
import numpy as np
import pytest
from PIL import Image, TiffImagePlugin
from conftest import ROOT, amsps
from test_cli_input import refused
from amsps.errors import InputNote

EVIL = 'a<script>document.title="hit"</script>"\'\n\u202e\U0001f600<img src=x onerror="document.title=`hit`">.png'


@pytest.fixture(scope='session')
def model(tmp_path_factory, backbone):
    "A small model with random weights, in the folder of a saved model"
    import torch
    from amsps.data import build_tokenizer
    from amsps.model import AmspsConfig, AmspsModel
    from amsps.processor import AmspsProcessor
    from amsps.vision import load_vision
    torch.manual_seed(0)
    vision = load_vision(backbone, 2)
    tokenizer = build_tokenizer(['a red ball on the grass', 'two dogs and a man']*4, 1)
    sizes = dict(feature_size=vision.feature_size(), vocab_size=len(tokenizer), embed_size=16, word_size=8)
    made = AmspsModel(AmspsConfig(**sizes)).eval()
    made.set_vision(vision)
    folder = tmp_path_factory.mktemp('model')
    made.save_pretrained(folder)
    AmspsProcessor(vision.processor, tokenizer).save_pretrained(folder)
    return folder


def draw(folder, n, start=0):
    "Small pictures of noise"
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(start, start+n):
        noise = np.random.default_rng(i).integers(0, 255, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder/f'{i:03}.png')


@pytest.fixture
def photos(tmp_path):
    draw(tmp_path/'photos', 6)
    return tmp_path/'photos'


def paths_of(index):
    from amsps.companion.index import open_index
    opened = open_index(index)
    return [opened.entry(i)['path'] for i in range(len(opened))]


def test_captions(cli, photos, model, tmp_path):
    "Captions of a table are shown by searches and stay; names of no picture are reported"
    index,table = tmp_path/'index',tmp_path/'captions.csv'
    table.write_text('image,caption\n000.png,<script>alert(1)</script>\n001.png,"a ball, red"\nnone.png,x\n')
    r = cli('index', photos, '--model', model, '-o', index, '--captions', table)
    assert 'captions     2 pictures have some' in r.stdout and '1 names of the table' in r.stdout, r.stderr
    assert 'captions     2 pictures have some' in cli('index', photos, '-o', index).stdout
    page = tmp_path/'page.html'
    r = cli('search', index, '--image', photos/'002.png', '--top', 9, '--html', page)
    assert '\n       a ball, red\n' in r.stdout and '<script' not in page.read_text()
    table.write_text('image,caption\nnone.png,x\n')
    r = cli('index', photos, '-o', index, '--captions', table)
    refused(r, 'it names none.png')
    refused(cli('index', photos, '-o', index, '--captions', tmp_path/'no.csv'), 'is no file')


def test_index_and_search(cli, photos, model, tmp_path):
    "Index, search by text and by picture, add and remove; the form for a run stays"
    index = tmp_path/'index'
    r = cli('index', photos, '--model', model, '-o', index)
    assert r.returncode==0 and '6 pictures (6 added)' in r.stdout, r.stderr
    assert f'amsps search {index} "TEXT"' in r.stdout
    r = cli('search', index, 'a red xylophone', '--top', 3)
    assert len(re.findall(r'^-?\d\.\d{3}  \d{3}\.png$', r.stdout, re.M))==3, r.stdout
    assert 'the model has never seen: xylophone' in r.stderr
    shutil.copy(photos/'002.png', photos/'copy.png')
    (photos/'003.png').unlink()
    r = cli('index', photos, '-o', index)
    assert '6 pictures (1 added, 1 removed)' in r.stdout
    r = cli('search', index, '--image', photos/'copy.png', '--json', '--top', 9)
    found = json.loads(r.stdout)
    assert {x['path'] for x in found['results']}=={'000.png', '001.png', '004.png', '005.png'}
    assert Path(found['results'][0]['file']).is_file()
    draw(tmp_path/'new', 1, start=50)
    r = cli('search', index, '--image', tmp_path/'new/050.png', '--top', 9)
    assert len(r.stdout.splitlines())==5 and 'with the same content' in r.stdout


def odd_pictures(folder):
    "Pictures of all kinds that have their own way through the decoder; the same scene on its side and upright"
    folder.mkdir()
    upright = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 20, 3), dtype=np.uint8))
    upright.save(folder/'upright.png')
    exif = Image.Exif()
    exif[274] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(folder/'turned.png', exif=exif)
    deep = np.random.default_rng(1).integers(0, 65535, (20, 20), dtype=np.uint16)
    Image.fromarray(deep).save(folder/'deep.png')
    upright.convert('CMYK').save(folder/'cmyk.jpg')
    upright.convert('RGBA').save(folder/'clear.webp')
    frames = [upright, upright.rotate(180)]
    frames[0].save(folder/'animated.gif', save_all=True, append_images=frames[1:])
    TiffImagePlugin.WRITE_LIBTIFF = False
    upright.save(folder/'paper.tif')
    content = (folder/'upright.png').read_bytes()
    (folder/'torn.png').write_bytes(content[:len(content)//2])
    (folder/'empty.jpg').touch()
    (folder/'text.jpg').write_text('no picture', 'utf-8')
    for name in ('film.mp4', 'letter.pdf', 'notes.txt'): (folder/name).write_bytes(b'%PDF-1.4')
    upright.rotate(180).save(folder/EVIL.replace('/', '\u2044'))
    upright.convert('L').save(folder/os.fsdecode(b'latin\xff.png'))


def test_odd_pictures_and_names(cli, model, tmp_path):
    folder,index = tmp_path/'odd',tmp_path/'odd.index'
    odd_pictures(folder)
    r = cli('index', folder, '--model', model, '-o', index)
    assert r.returncode==0, r.stderr
    assert '9 pictures (9 added)' in r.stdout and '3 files that are no pictures' in r.stdout
    for name in ('torn.png', 'empty.jpg', 'text.jpg'): assert f'  {name}: ' in r.stdout
    r = cli('search', index, '--image', folder/'upright.png', '--json', '--top', 20)
    found = {x['path']:x['similarity'] for x in json.loads(r.stdout)['results']}
    assert found['turned.png']>.9999 # EXIF orientation
    r = cli('search', index, 'a red ball', '--top', 20)
    assert '\\n' in r.stdout and '\u202e' not in r.stdout and len(r.stdout.splitlines())==9, r.stdout
    again = cli('index', folder, '-o', index)
    assert '(nothing new)' in again.stdout


def chromium():
    found = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    if not found: pytest.skip('no browser')
    return found


def test_page_in_a_browser(cli, model, tmp_path):
    "Hostile names and queries are text in the page: no script runs, nothing is loaded, pictures are shown"
    odd_pictures(tmp_path/'odd')
    index,page = tmp_path/'index',tmp_path/'page.html'
    assert cli('index', tmp_path/'odd', '--model', model, '-o', index).returncode==0
    assert cli('search', index, EVIL+' ball', '--top', 20, '--html', page).returncode==0
    text = page.read_text('utf-8')
    assert '<script' not in text and text.count('data:image/jpeg')==9
    flags = ['--headless', '--no-sandbox', '--disable-gpu', f'--user-data-dir={tmp_path}/browser', '--dump-dom']
    done = subprocess.run([chromium(), *flags, page.as_uri()], capture_output=True, timeout=180, encoding='utf-8')
    assert '<title>hit' not in done.stdout and '<main>' in done.stdout, done.stderr[-500:]


def slow_update(answers, *args):
    "An update in batches of two, with a pause before each; for a process of its own"
    from amsps.companion import indexing
    made = indexing._embed
    def slow(model, pictures):
        time.sleep(.05)
        return made(model, pictures)
    indexing._embed = slow
    answers.put(len(indexing.update_index(*args, batch_size=2, progress=False).added))


def started(*args):
    "A process that updates, forked because its imports take seconds; and where it puts its answer"
    from amsps.companion import indexing # noqa: F401, for the fork
    context = multiprocessing.get_context('fork')
    answers = context.SimpleQueue()
    process = context.Process(target=slow_update, args=(answers, *args))
    process.start()
    return process,answers


def test_killed(model, tmp_path):
    "A process that is killed loses no more than the batch that it was in"
    from amsps.companion.index import open_index
    from amsps.companion.indexing import read_journal, update_index
    draw(tmp_path/'photos', 30)
    index = tmp_path/'index'
    process,_ = started(tmp_path/'photos', index, model)
    journal = index/'journal.jsonl'
    while not journal.is_file() or journal.read_bytes().count(b'\n')<8:
        assert process.is_alive()
        time.sleep(.005)
    process.kill()
    process.join()
    kept = len(read_journal(journal, 16)[0])
    assert 8<=kept<30
    assert len(open_index(index))==0
    update_index(tmp_path/'photos', index, progress=False)
    assert len(open_index(index))==30 and open_index(index).manifest['complete']
    update_index(tmp_path/'photos', tmp_path/'whole', model, batch_size=2, progress=False)
    np.testing.assert_allclose(open_index(index).vectors, open_index(tmp_path/'whole').vectors, atol=2e-3)


def interrupted(*args, **more):
    raise KeyboardInterrupt


@pytest.mark.parametrize('place', ['index.write_manifest', 'indexing._keep_random'])
def test_killed_at_the_beginning(photos, model, tmp_path, monkeypatch, place):
    "The same command makes an index that was killed before it had a manifest"
    from amsps.companion.indexing import update_index
    with monkeypatch.context() as m:
        m.setattr(f'amsps.companion.{place}', interrupted)
        with pytest.raises(KeyboardInterrupt): update_index(photos, tmp_path/'index', model, progress=False)
    (tmp_path/'index/random.npy.tmp').touch()
    update_index(photos, tmp_path/'index', model, progress=False)
    assert len(paths_of(tmp_path/'index'))==6


def other_model(model, folder):
    "The same model with one number more in its settings, which is another one by its digest"
    shutil.copytree(model, folder)
    settings = json.loads((folder/'config.json').read_text('utf-8'))
    (folder/'config.json').write_text(json.dumps(settings|dict(note=1)), 'utf-8')
    return folder


@pytest.mark.parametrize('place', ['_keep_random', 'append_journal', 'finish', '_keep_chance', '_take_place'])
def test_killed_rebuild(cli, photos, model, tmp_path, monkeypatch, place):
    "The old index is searched until the new one is whole; the same command goes on"
    from amsps.companion import indexing
    from amsps.companion.index import open_index
    index,other = tmp_path/'index',other_model(model, tmp_path/'other')
    indexing.update_index(photos, index, model, progress=False)
    before = open_index(index).manifest
    with monkeypatch.context() as m:
        m.setattr(indexing, place, interrupted)
        with pytest.raises(KeyboardInterrupt): indexing.update_index(photos, index, other, rebuild=True, progress=False)
    assert open_index(index).manifest==before and len(paths_of(index))==6
    assert cli('search', index, 'a red ball').stdout.count('.png')==5
    with pytest.warns(InputNote, match='an interrupted --rebuild'): cli('index', photos, '-o', index)
    assert len(indexing.update_index(photos, index, other, rebuild=True, progress=False).added)==6
    assert open_index(index).manifest['model']==str(other) and not (index/'rebuild').exists()
    assert cli('search', index, 'a red ball').stdout.count('.png')==5


def test_killed_rebuild_goes_on(photos, model, tmp_path, monkeypatch):
    "What a killed rebuild has embedded is not embedded again by the same one, and is by one with another model"
    from amsps.companion import indexing
    index,other = tmp_path/'index',other_model(model, tmp_path/'other')
    indexing.update_index(photos, index, model, progress=False)
    made,calls = indexing._embed,[]
    def counted(model, pictures):
        calls.append(len(pictures))
        return made(model, pictures)
    monkeypatch.setattr(indexing, '_embed', counted)
    again = dict(rebuild=True, progress=False)
    for chosen,expected in ((other, [1, 6]), (other, []), (model, [1, 6])): # the first one measures the size
        calls.clear()
        with monkeypatch.context() as m:
            m.setattr(indexing, '_take_place', interrupted)
            with pytest.raises(KeyboardInterrupt): indexing.update_index(photos, index, chosen, **again)
        assert calls==expected


def test_rebuild_keeps_captions(cli, photos, model, tmp_path):
    "Captions and the model are those of the old index, also where it is damaged or of another version"
    index,table = tmp_path/'index',tmp_path/'captions.csv'
    table.write_text('image,caption\n000.png,a ball\n001.png,a dog\n', 'utf-8')
    assert cli('index', photos, '--model', model, '-o', index, '--captions', table).returncode==0
    (photos/'001.png').rename(photos/'moved.png')
    r = cli('index', photos, '-o', index, '--rebuild')
    assert '6 pictures (6 added)' in r.stdout and '2 pictures have some' in r.stdout, r.stderr
    manifest = json.loads((index/'manifest.json').read_bytes())
    (index/'manifest.json').write_text(json.dumps(manifest|dict(version=1)), 'utf-8')
    assert '2 pictures have some' in cli('index', photos, '-o', index, '--rebuild').stdout
    (index/'manifest.json').write_bytes(b'torn')
    refused(cli('index', photos, '-o', index, '--rebuild'), 'name the model', '--model')
    assert '2 pictures have some' in cli('index', photos, '-o', index, '--rebuild', '--model', model).stdout
    lines = next(index.glob('table-*')).read_bytes().splitlines(keepends=True)
    next(index.glob('table-*')).write_bytes(b''.join([lines[0][:9]+b'\n', *lines[1:]]))
    with pytest.warns(InputNote, match='1 lines of the table'): r = cli('index', photos, '-o', index, '--rebuild')
    assert '1 pictures have some' in r.stdout, r.stderr
    (photos/'005.png').unlink()
    assert '5 pictures (5 added, 1 removed)' in cli('index', photos, '-o', index, '--rebuild').stdout


def test_other_photographs(cli, model, tmp_path):
    "A folder that lacks most of an index, or a folder of it that is empty now, needs --remove-gone"
    photos,index = tmp_path/'photos',tmp_path/'index'
    draw(photos/'a', 30)
    draw(photos/'b', 32, start=30)
    assert cli('index', photos, '--model', model, '-o', index).returncode==0
    draw(tmp_path/'few/a', 3)
    for more in ((), ('--rebuild',)):
        refused(cli('index', tmp_path/'few', '-o', index, *more), 'lacks 59 of the 62', 'a/003.png', '--remove-gone')
    (photos/'a').rename(tmp_path/'a')
    (photos/'a').mkdir() # where a disk would be mounted
    refused(cli('index', photos, '-o', index), 'lacks 30 of the 62', 'is a disk not mounted?')
    (photos/'a').rmdir()
    assert '32 pictures (30 removed)' in cli('index', photos, '-o', index).stdout
    (tmp_path/'a').rename(photos/'a')
    assert '62 pictures (30 added)' in cli('index', photos, '-o', index).stdout
    for name in ('a', 'b'): (photos/name).rename(photos/f'new {name}')
    assert '62 pictures (62 moved)' in cli('index', photos, '-o', index).stdout
    assert '3 pictures (' in cli('index', tmp_path/'few', '-o', index, '--remove-gone').stdout
    empty = tmp_path/'none'
    empty.mkdir()
    refused(cli('index', empty, '-o', index, '--remove-gone'), 'there are no pictures in')


def test_links(cli, model, tmp_path):
    "Linked folders are followed; a link to nowhere is named, and what the index has below it stays"
    photos,outside,index = tmp_path/'photos',tmp_path/'outside',tmp_path/'index'
    draw(outside/'2023', 3)
    photos.mkdir()
    (photos/'2023').symlink_to(outside/'2023')
    (outside/'2023/circle').symlink_to(photos)
    assert '3 pictures (3 added)' in cli('index', photos, '--model', model, '-o', index).stdout
    draw(photos, 1, start=9)
    (outside/'2023').rename(tmp_path/'elsewhere')
    r = cli('index', photos, '-o', index)
    assert '4 pictures (1 added)' in r.stdout and 'links        1 that lead nowhere' in r.stdout, r.stderr


def test_phone_pictures(cli, photos, model, tmp_path):
    "Pictures that cannot be read are named by their ends, with the way out"
    for name in ('a.HEIC', 'b.heic', 'c.cr2', 'd.txt'): (photos/name).write_bytes(b'x')
    said = '2 .heic, 1 .cr2, 1 .txt; convert .heic and .cr2 to JPEG'
    r = cli('index', photos, '--model', model, '-o', tmp_path/'index')
    assert '4 files that are no pictures' in r.stdout and said in r.stdout
    for f in photos.glob('*.png'): f.unlink()
    refused(cli('index', photos, '--model', model, '-o', tmp_path/'new'), 'there are no pictures', said)


def test_waits_for_another_process(photos, model, tmp_path, monkeypatch):
    "An update that waits says so, and sees what was added meanwhile"
    import threading
    from amsps.companion import indexing
    index,waits,said = tmp_path/'index',threading.Event(),[]
    indexing.update_index(photos, index, model, progress=False)
    def heard(text):
        said.append(text)
        waits.set()
    monkeypatch.setattr(indexing, 'note', heard)
    second = threading.Thread(target=lambda: indexing.update_index(photos, index, progress=False))
    with indexing._locked(index):
        second.start()
        assert waits.wait(20)
        draw(photos, 1, start=30)
    second.join(60)
    assert said==[f'another process updates {index}; this one begins when it has ended']
    assert '030.png' in paths_of(index)


def test_two_processes(model, tmp_path):
    "Two processes that update one index leave the index of one"
    draw(tmp_path/'photos', 8)
    both = [started(tmp_path/'photos', tmp_path/'index', model) for _ in range(2)]
    for process,_ in both: process.join(120)
    assert [process.exitcode for process,_ in both]==[0, 0]
    assert sorted(answers.get() for _,answers in both)==[0, 8] # the second one finds all of it done
    assert paths_of(tmp_path/'index')==[f'{i:03}.png' for i in range(8)]


@pytest.mark.parametrize('place', ['append_journal', 'write_generation'])
def test_full_disk(cli, photos, model, tmp_path, monkeypatch, place):
    "One message, the index of before stays, and the same command goes on"
    from amsps.companion import indexing
    index = tmp_path/'index'
    cli('index', photos, '--model', model, '-o', index)
    draw(photos, 2, start=60)
    def full(*args, **more):
        raise OSError(errno.ENOSPC, 'No space left on device', str(index/'file'))
    with monkeypatch.context() as m:
        m.setattr(indexing, place, full)
        r = cli('index', photos, '-o', index)
    refused(r, 'No space left', 'the same command resumes')
    assert len(paths_of(index))==6
    assert '8 pictures (2 added)' in cli('index', photos, '-o', index).stdout


def test_full_disk_is_named(cli, photos, model, tmp_path, request):
    "The message names the file, for an index and for a page"
    index,page = tmp_path/'index',tmp_path/'page.html'
    assert cli('index', photos, '--model', model, '-o', index).returncode==0
    draw(photos, 150, start=100)
    rng = np.random.default_rng(0)
    large = Image.fromarray(rng.integers(0, 255, (400, 400, 3), dtype=np.uint8))
    large.save(photos/'000.png')
    request.getfixturevalue('little_room')
    refused(cli('index', photos, '-o', index), 'cannot write or read', 'File too large', str(index/'journal.jsonl'))
    refused(cli('search', index, 'a ball', '--html', page), 'cannot write or read', 'File too large', str(page))
    from amsps.companion.index import replacing
    with pytest.raises(OSError) as e, replacing(tmp_path/'x.npy') as f: np.save(f, np.zeros(9999)) # as texts of chance
    assert e.value.errno and e.value.filename==str(tmp_path/'x.npy')


def test_copies(photos, model, tmp_path):
    "Each of several files with one content is added, moved and removed"
    from amsps.companion.indexing import update_index
    index = tmp_path/'index'
    for name in ('a', 'b'): shutil.copy(photos/'000.png', photos/f'{name}.png')
    update_index(photos, index, model, progress=False)
    for name in ('000', 'a', 'b'): (photos/f'{name}.png').rename(tmp_path/f'{name}.png')
    (tmp_path/'b.png').rename(photos/'c.png')
    found = update_index(photos, index, progress=False)
    assert (found.moved, found.removed, found.added)==({'c.png':'000.png'}, ['a.png', 'b.png'], [])


def test_check_tries_again(photos, model, tmp_path, monkeypatch):
    "What could not be decoded once is decoded with --check: a plugin was missing, or memory"
    from amsps.companion import indexing
    index = tmp_path/'index'
    def fails(content, name):
        from amsps.errors import InputError
        raise InputError(f'image {name} cannot be decoded (no plugin); replace the file')
    for f in photos.iterdir(): os.utime(f, (1, 1))
    with monkeypatch.context() as m:
        m.setattr(indexing, 'load_image', fails)
        assert len(indexing.update_index(photos, index, model, progress=False).skipped)==6
    assert len(indexing.update_index(photos, index, progress=False).skipped)==6
    assert len(indexing.update_index(photos, index, check=True, progress=False).added)==6


def test_closed_folder(photos, model, tmp_path, monkeypatch):
    "Pictures of a folder that cannot be read stay, also where they are all that was known"
    from amsps.companion import indexing
    from amsps.errors import InputError
    whole,index = tmp_path/'whole',tmp_path/'index'
    whole.mkdir()
    photos.rename(whole/'old')
    indexing.update_index(whole, index, model, progress=False)
    draw(whole/'new', 1, start=40)
    scandir = os.scandir
    def closed(path):
        if Path(path)==closed.at:
            raise PermissionError(errno.EACCES, 'Permission denied', str(path))
        return scandir(path)
    closed.at = whole/'old'
    monkeypatch.setattr(os, 'scandir', closed)
    found = indexing.update_index(whole, index, progress=False)
    assert (found.closed, found.added, found.removed, found.unchanged)==(['old'], ['new/040.png'], [], 6)
    closed.at = whole
    with pytest.raises(InputError, match='cannot read the folder'): indexing.update_index(whole, index)


def test_damaged(cli, photos, model, tmp_path):
    "A damaged line of the table is named; embeddings of random texts are made again"
    index = tmp_path/'index'
    assert cli('index', photos, '--model', model, '-o', index).returncode==0
    (index/'random.npy').write_bytes(b'torn')
    draw(photos, 1, start=20)
    r = cli('index', photos, '-o', index)
    assert '7 pictures (1 added)' in r.stdout, r.stderr
    (index/'random.npy').unlink()
    (photos/'020.png').unlink()
    assert cli('index', photos, '-o', index).returncode==0
    assert json.loads((index/'manifest.json').read_bytes())['chance']['texts']
    table = next(index.glob('table-*'))
    table.write_bytes(table.read_bytes().replace(b'"sha256"', b'"sha255"', 1))
    for command in (('search', index, 'a ball'), ('index', photos, '-o', index)):
        refused(cli(*command), f'{table.name}, line 1 is damaged', '--rebuild')


def test_odd_queries(cli, photos, model, tmp_path, monkeypatch):
    "Bytes that are no UTF-8, NUL in a name and special files get a message, and the search goes on"
    index = tmp_path/'index'
    assert cli('index', photos, '--model', model, '-o', index).returncode==0
    refused(cli('search', index, os.fsdecode(b'\xff dog')), 'is no Unicode')
    typed = io.TextIOWrapper(io.BytesIO(b'\xff dog\n@a\0b\n@/dev/zero\n@\na red ball\n'), encoding='utf-8')
    monkeypatch.setattr(sys, 'stdin', typed)
    r = cli('search', index, '--interactive', '--top', 1)
    said = r.stderr.splitlines()
    assert r.returncode==0 and len(r.stdout.splitlines())==1, r.stderr
    for k,words in enumerate(('is no Unicode', "'a\\x00b'", '/dev/zero: it is no file', '@ stands before')):
        assert words in said[k], said[k]


def test_typed_queries(cli, photos, model, tmp_path, monkeypatch):
    "Empty lines of a pipe are skipped; names of pictures may have quotes and ~; a long query is cut and says so"
    index = tmp_path/'index'
    assert cli('index', photos, '--model', model, '-o', index).returncode==0
    (photos/'000.png').rename(photos/'a b.png')
    monkeypatch.setenv('HOME', str(photos))
    lines = ['a red ball', '', ' ', '"@~/a b.png"', "@'~/a b.png'", '@~/a b.png', 'dog '*200]
    monkeypatch.setattr(sys, 'stdin', io.StringIO('\n'.join(lines)))
    r = cli('search', index, '--interactive', '--top', 1)
    assert len(r.stdout.splitlines())==5 and 'amsps:' not in r.stderr, r.stderr
    assert 'the query is cut after 128 tokens' in r.stderr


def test_pages_replace_pages(cli, photos, model, tmp_path):
    "--html replaces no picture and no write-protected page, and writes through a link"
    index,page,link = tmp_path/'index',tmp_path/'page.html',tmp_path/'link.htm'
    assert cli('index', photos, '--model', model, '-o', index).returncode==0
    content = (photos/'000.png').read_bytes()
    refused(cli('search', index, 'a ball', '--html', photos/'000.png'), 'a name that ends in .html, such as 000.html')
    assert (photos/'000.png').read_bytes()==content
    page.write_text('mine', 'utf-8')
    page.chmod(0o444)
    refused(cli('search', index, 'a ball', '--html', page), 'is write-protected')
    page.chmod(0o644)
    link.symlink_to(page)
    assert cli('search', index, 'a ball', '--html', link).returncode==0
    assert link.is_symlink() and '<main>' in page.read_text('utf-8')


def test_gone_files(cli, photos, model, tmp_path):
    "A search says that the files it finds are gone, and how the index finds them again"
    index = tmp_path/'index'
    assert cli('index', photos, '--model', model, '-o', index).returncode==0
    assert 'are gone' not in cli('search', index, 'a ball').stderr
    photos.rename(tmp_path/'moved')
    assert f'5 of these files are gone from {photos}' in cli('search', index, 'a ball').stderr
    assert 'are gone from' in json.loads(cli('search', index, 'a ball', '--json').stdout)['notes'][-1]
    assert '(nothing new)' in cli('index', tmp_path/'moved', '-o', index).stdout
    assert 'are gone' not in cli('search', index, 'a ball').stderr


def test_messages(cli, photos, model, tmp_path):
    "Advice that can be followed"
    index,table = tmp_path/'index',tmp_path/'captions.csv'
    assert cli('index', photos, '--model', model, '-o', index).returncode==0
    table.touch()
    r = cli('index', photos, '-o', index, '--captions', table)
    refused(r, 'captions.csv has no captions')
    table.write_text('image,caption\n000.png,\n001.png,x\n', 'utf-8')
    assert '1 pictures have some' in cli('index', photos, '-o', index, '--captions', table).stdout
    (tmp_path/'torn.jpg').write_bytes(b'\xff\xd8\xff')
    r = cli('search', index, '--image', tmp_path/'torn.jpg')
    refused(r, 'replace the file, or leave the picture out')
    refused(cli('search', index, 'a ball', '--html', '/dev/null'), 'is a pipe or a device; name a file')
    (index/'query.npz').unlink()
    (index/'query.npz').mkdir()
    refused(cli('search', index, 'a ball'), 'cannot read', 'query.npz', 'check its permissions')
    for command in (('index', '', '-o', tmp_path/'e'), ('index', photos, '-o', ''), ('data', 'check', '')):
        refused(cli(*command), 'is empty; name a file or a folder')


def test_mistakes(cli, photos, model, backbone, tmp_path):
    index = tmp_path/'index'
    empty = tmp_path/'empty'
    empty.mkdir()
    refused(cli('index', empty, '--model', model, '-o', index), 'there are no pictures in')
    assert not index.exists()
    refused(cli('index', photos, '-o', index), 'name the model', '--model')
    refused(cli('index', photos, '--model', empty, '-o', index), 'is no model')
    assert cli('index', photos, '--model', model, '-o', index).returncode==0
    for option,value in (('--split', 'dev'), ('--data-root', 'x')):
        refused(cli('search', index, 'a', option, value), f'{option} is for a run')
    for command in (['search', index, 'a'], ['index', photos, '-o', index]):
        refused(cli(*command, '--backbone', 'x'), '--backbone x: it is for a model that was saved by reference')
    refused(cli('search', index, 'a', '--caption', 'b'), 'give either --caption TEXT or --image FILE')
    refused(cli('search', index, '--image', tmp_path/'no.jpg'), 'cannot read the picture')
    refused(cli('search', index, '?!'), 'is empty')
    r = cli('search', index, 'a', '--html', empty)
    refused(r, 'expected the name of a file')
    assert not r.stdout # it is said before the search
    refused(cli('search', empty, 'a'), 'is neither an index', 'nor a finished run')
    for place in (photos/'000.png/x', tmp_path/('x'*300)):
        refused(cli('index', photos, '--model', model, '-o', place), str(place))
    (model/'.DS_Store').write_text('x') # a file manager has looked at it
    assert cli('index', photos, '-o', index).returncode==0
    manifest = (index/'manifest.json').read_text()
    (index/'manifest.json').write_text(manifest.replace(str(model), '/gone'))
    refused(cli('index', photos, '-o', index), '/gone is no model', 'say where it lies now with --model')
    (index/'manifest.json').write_text(manifest)
    shutil.copytree(model, tmp_path/'other')
    settings = json.loads((tmp_path/'other/config.json').read_text())
    (tmp_path/'other/config.json').write_text(json.dumps(settings|dict(note=1)))
    refused(cli('index', photos, '--model', tmp_path/'other', '-o', index), 'was made with another model', '--rebuild')
    refused(cli('search', index, 'a ball', '--model', tmp_path/'other'), 'is not the one that made the index')
    manifest = json.loads((index/'manifest.json').read_text())
    (index/'manifest.json').write_text(json.dumps(manifest|dict(version=0)))
    refused(cli('search', index, 'a ball'), 'it is of version 0', '--rebuild')
    r = cli('index', photos, '--model', model, '-o', index, '--rebuild')
    assert '6 pictures (6 added)' in r.stdout, r.stderr


def test_one_picture(cli, model, tmp_path):
    draw(tmp_path/'one', 1)
    assert cli('index', tmp_path/'one', '--model', model, '-o', tmp_path/'index').returncode==0
    assert '000.png' in cli('search', tmp_path/'index', 'a red ball').stdout
    draw(tmp_path/'other', 1, start=9)
    r = cli('search', tmp_path/'index', '--image', tmp_path/'other/009.png')
    assert 'cannot be told from fewer than 20' in r.stderr
    r = cli('search', tmp_path/'index', '--image', tmp_path/'one/000.png')
    assert not r.stdout and 'nothing was found: the index has no other picture' in r.stderr


def test_no_picture(cli, model, tmp_path):
    (tmp_path/'torn').mkdir()
    (tmp_path/'torn/a.png').write_bytes(b'x')
    assert '0 pictures' in cli('index', tmp_path/'torn', '--model', model, '-o', tmp_path/'index').stdout
    for command in (('a red ball',), ('--image', tmp_path/'torn/a.png')):
        r = cli('search', tmp_path/'index', *command)
        assert 'Traceback' not in r.stderr and not r.stdout
    assert 'the index has no picture' in cli('search', tmp_path/'index', 'a red ball').stderr


def test_search_is_light(photos, model, tmp_path):
    "A search by text imports neither PyTorch nor transformers; queries are read line by line"
    index = tmp_path/'index'
    from amsps.companion.indexing import update_index
    update_index(photos, index, model, progress=False)
    code = ("import sys; from amsps.companion.cli import main; sys.argv = ['amsps', *sys.argv[1:]]\n"
            "try: main()\nexcept SystemExit as e: assert not e.code\n"
            "heavy = {'torch','transformers','pandas','datasets','scipy','sklearn','PIL'}&set(sys.modules)\n"
            "assert not heavy, heavy")
    command = [sys.executable, '-c', code, 'search', str(index), '--interactive', '--top', '1']
    env = os.environ|dict(PYTHONPATH=str(ROOT))
    def seconds(): return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    start = seconds()
    typed = f'a red ball\n?!\n@{photos}/001.png\n\n'
    done = subprocess.run(command, input=typed, capture_output=True, env=env, encoding='utf-8')
    assert done.returncode==0, done.stderr
    assert len(done.stdout.splitlines())==2 and 'is empty' in done.stderr
    assert seconds()-start<2


def test_onnx(cli, photos, model, tmp_path, monkeypatch):
    "A new picture is searched with, without PyTorch and transformers, and finds what the whole model finds"
    plain,index = tmp_path/'plain',tmp_path/'index'
    monkeypatch.setitem(sys.modules, 'onnxscript', None) # as if it were not installed
    refused(cli('index', photos, '--model', model, '-o', index, '--onnx'), "pip install 'amsps[onnx]'")
    assert not index.exists()
    monkeypatch.undo()
    assert cli('index', photos, '--model', model, '-o', plain).returncode==0
    shutil.copytree(plain, index)
    assert cli('index', photos, '-o', index, '--onnx').returncode==0
    (side,) = index.glob('picture-*.onnx')
    draw(tmp_path/'new', 1, start=50)
    query = ['--image', tmp_path/'new/050.png', '--json', '--top', 9]
    found = [json.loads(cli('search', i, *query).stdout)['results'] for i in (plain, index)]
    assert len(found[0])==6 and [r['path'] for r in found[0]]==[r['path'] for r in found[1]]
    for a,b in zip(*found): assert abs(a['similarity']-b['similarity'])<2e-4
    code = ("import sys\nfrom amsps.companion.cli import main\nsys.argv = ['amsps', *sys.argv[1:]]\n"
            "try: main()\nexcept SystemExit: pass\nprint(sorted({'torch', 'transformers'}&set(sys.modules)))")
    r = subprocess.run([sys.executable, '-c', code, 'search', str(index), *map(str, query)], capture_output=True,
                       encoding='utf-8')
    assert r.stdout.endswith('[]\n') and json.loads(r.stdout[:-3])['results']==found[1], r.stderr
    made = side.stat().st_mtime_ns
    assert cli('index', photos, '-o', index, '--onnx').returncode==0 and side.stat().st_mtime_ns==made
    assert cli('index', photos, '-o', index, '--rebuild').returncode==0 and side.exists() # it is of the same model
    side.write_bytes(side.read_bytes()[:-99])
    refused(cli('search', index, *query), f'{side.name} is damaged', 'amsps index --onnx')
    assert cli('search', index, 'a red ball').returncode==0


def test_torn_onnx(cli, photos, model, tmp_path, monkeypatch):
    "A full disk, or a kill while a side is written: the index is searched as before, and the same command goes on"
    from amsps.companion.onnx_sides import keep_onnx
    index,image,content = tmp_path/'index',['--image', photos/'000.png'],b'x'*300_000
    def write(folder, model, digest):
        keep_onnx(folder, 'picture', digest, content)
        return ''
    monkeypatch.setattr('amsps.companion.indexing.write_picture_side', write)
    assert cli('index', photos, '--model', model, '-o', index).returncode==0
    before = cli('search', index, *image).stdout
    digest = json.loads((index/'manifest.json').read_text('utf-8'))['model_sha256']
    torn = index/f'picture-{digest[:12]}-{"0"*12}.onnx.tmp'
    def refused_while_torn(make):
        torn.write_bytes(content[:1000]) # of a process that was killed
        assert cli('search', index, *image).stdout==before
        r = make()
        assert not list(index.glob('*.onnx*')) and cli('search', index, *image).stdout==before
        return r
    def killed():
        move = os.replace
        with monkeypatch.context() as m:
            m.setattr(os, 'replace', lambda a, b: interrupted() if str(b).endswith('.onnx') else move(a, b))
            return cli('index', photos, '-o', index, '--onnx')
    def full():
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(content)-1, limits[1]))
        try: return cli('index', photos, '-o', index, '--onnx')
        finally: resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert refused_while_torn(killed).returncode!=0
    refused(refused_while_torn(full), 'cannot write or read', 'File too large', '.onnx', 'the same command resumes')
    assert cli('index', photos, '-o', index, '--onnx').returncode==0
    (side,) = index.glob('*.onnx*')
    assert side.read_bytes()==content
    (index/f'picture-{"1"*12}-{"0"*12}.onnx.tmp').touch() # of another model
    draw(photos, 1, start=70)
    assert cli('index', photos, '-o', index).returncode==0 and list(index.glob('*.onnx*'))==[side]


def test_onnx_of_clip(cli, photos, tmp_path):
    "Texts and new pictures are searched with as by the whole model, without PyTorch and transformers"
    from amsps.data import build_tokenizer
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel
    tokenizer = build_tokenizer(['a red ball on the grass', 'two dogs and a man']*4, 1)
    size = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2)
    words = size|dict(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    config = CLIPConfig(text_config=words, vision_config=size|dict(image_size=32, patch_size=16), projection_dim=8)
    for part in (CLIPModel(config), CLIPImageProcessorPil(size=dict(shortest_edge=32), crop_size=32), tokenizer):
        part.save_pretrained(tmp_path/'clip')
    plain,index = tmp_path/'plain',tmp_path/'index'
    assert cli('index', photos, '--model', tmp_path/'clip', '-o', plain).returncode==0
    assert cli('index', photos, '--model', tmp_path/'clip', '-o', index, '--onnx').returncode==0
    draw(tmp_path/'new', 1, start=50)
    code = ("import sys\nfor barred in ('torch', 'transformers'): sys.modules[barred] = None\n"
            "from amsps.companion.cli import main\nsys.argv = ['amsps', *sys.argv[1:]]\nmain()")
    for query in (['two dogs, and a red ball'], ['--image', str(tmp_path/'new/050.png')]):
        a = json.loads(cli('search', plain, *query, '--json').stdout)['results']
        command = [sys.executable, '-c', code, 'search', str(index), *query, '--json']
        r = subprocess.run(command, capture_output=True, encoding='utf-8')
        assert r.returncode==0, r.stderr
        b = json.loads(r.stdout)['results']
        assert len(b)==5 and all(abs(x['similarity']-y['similarity'])<2e-4 for x,y in zip(a, b))


def test_onnx_of_another_model(cli, photos, model, tmp_path, monkeypatch):
    "A rebuild with another model leaves no image side of the one before, and may make its own"
    from amsps.companion.onnx_sides import keep_onnx
    def write(folder, model, digest):
        keep_onnx(folder, 'picture', digest, b'x')
        return ''
    monkeypatch.setattr('amsps.companion.indexing.write_picture_side', write)
    index,other = tmp_path/'index',tmp_path/'other'
    shutil.copytree(model, other)
    config = json.loads((other/'config.json').read_bytes())
    (other/'config.json').write_text(json.dumps(config), 'utf-8') # in another form
    assert cli('index', photos, '--model', model, '-o', index, '--onnx').returncode==0
    (before,) = index.glob('picture-*.onnx')
    assert cli('index', photos, '--model', other, '-o', index, '--rebuild').returncode==0
    assert not list(index.glob('picture-*.onnx'))
    assert cli('index', photos, '--model', model, '-o', index, '--rebuild', '--onnx').returncode==0
    assert [f.name for f in index.glob('*.onnx')]==[before.name] and not (index/'rebuild').exists()


@pytest.mark.slow
def test_command(photos, model, tmp_path):
    "The installed command, as a user starts it"
    assert amsps('index', photos, '--model', model, '-o', tmp_path/'index').returncode==0
    assert amsps('search', tmp_path/'index', 'a red ball').stdout.count('.png')==5
