"Mined pairs are reviewed as a person does it: over HTTP and in a browser, with hostile texts, kills and a full disk."
import csv
import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
import pytest
from conftest import SMALL, command_line, forked
from test_cli_input import refused
from test_index import EVIL, chromium

FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--virtual-time-budget=5000', '--dump-dom']
MINES = dict(loss='ahrl', warmup_epochs=1, active_from=1)


@pytest.fixture(scope='module')
def scenes_run(tmp_path_factory):
    return trained(MINES|SMALL|dict(cache_dir=str(tmp_path_factory.mktemp('cache'))))


def trained(settings):
    from amsps.companion.config import parse_config
    from amsps.companion.datasets import load_data
    from amsps.companion.runs import run_dir, train_run
    config = parse_config(settings)
    data = load_data(config)
    train_run(config, data)
    return run_dir(config, data)


@pytest.fixture(scope='module')
def photographs(tmp_path_factory, backbone):
    "A folder of photographs with hostile names and captions, and a run on it"
    from amsps.scenes import make_scenes
    root,cache = tmp_path_factory.mktemp('photos'),tmp_path_factory.mktemp('cache')
    data = make_scenes(30, 10, 10, captions=3)
    notes = data.annotations
    (root/'images').mkdir()
    names = [f'{n} "{EVIL[:35]}\U0001f600'.replace('/', '\u2044')+'.png' for n in notes.image_ids]
    for i,name in enumerate(names): data.picture(i).save(root/'images'/name)
    with open(root/'captions.csv', 'w', encoding='utf-8', newline='') as f:
        rows = csv.writer(f)
        rows.writerow(['image', 'caption', 'split'])
        for text,i in zip(notes.captions, notes.caption_image):
            rows.writerow([names[i], f'{text} {EVIL[35:]}'.replace('\n', ' '), notes.splits[i]])
    own = dict(dataset='own', data_root=str(root), backbone=str(backbone), grid=2, cache_dir=str(cache))
    sizes = {k:v for k,v in SMALL.items() if not k.startswith('scenes')}
    return root,trained(MINES|sizes|own|dict(epochs=1, warmup_epochs=0, active_from=0))


def serve(folder, *args):
    "`amsps review` in a folder; it heeds Ctrl-C, which a shell that runs the tests in the background ignores"
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    command_line('review', *args, '--no-browser')


class Page:
    "`amsps review` in a process of its own, and requests to its page"
    def __init__(self, *args, folder):
        out,err = self.files = [folder/f'said.{name}' for name in ('out', 'err')]
        for file in self.files: file.unlink(missing_ok=True)
        self.process = forked(serve, folder, *args, out=out, err=err)
        end = time.monotonic()+60
        while not (found:=re.search(r'page +(http://127\.0\.0\.1:\d+/[\w-]+/) \(on', self.said(out))):
            assert self.process.is_alive() and time.monotonic()<end, self.said(out)+self.said(err)
            time.sleep(.05)
        self.url = found[1]

    def said(self, file): return file.read_text('utf-8') if file.exists() else ''

    def ask(self, path, **body):
        "Status and answer"
        content = json.dumps(body).encode() if body else None
        request = urllib.request.Request(self.url+path, content, {'Content-Type':'application/json'})
        try:
            with urllib.request.urlopen(request, timeout=60) as reply: return reply.status,json.load(reply)
        except urllib.error.HTTPError as e: return e.code,json.load(e)

    def end(self, how):
        os.kill(self.process.pid, how)
        self.process.join(60)
        return self.process.exitcode,*map(self.said, self.files)


def rows(file):
    with open(file, encoding='utf-8', newline='') as f: return list(csv.DictReader(f))


def test_answers_survive(scenes_run, tmp_path):
    "Answer, kill, go on, run out of room, go on, end: no answer is lost, and none is asked for twice"
    page = Page(scenes_run, '--who', 'Ann', '--pairs', 20, folder=tmp_path)
    first = [page.ask(f'pair/{k}')[1] for k in range(3)]
    for k in range(3): assert page.ask('answer', number=k, grade='match')[0]==200
    assert page.ask('answer', number=1, grade='unsure')[1]['given'][-1]==[1, 'unsure'] # a correction
    assert page.end(signal.SIGKILL)[0]==-signal.SIGKILL
    file = tmp_path/'answers.csv'
    assert [(r['image'], r['grade']) for r in rows(file)]==[
        *((p['image'], 'match') for p in first), (first[1]['image'], 'unsure')]
    page = Page(scenes_run, '--who', 'Ann', '--pairs', 20, folder=tmp_path)
    asked = [page.ask(f'pair/{k}')[1] for k in range(page.ask('state')[1]['total'])]
    assert not {(p['image'], p['caption']) for p in asked} & {(p['image'], p['caption']) for p in first}
    whole = file.stat().st_size
    for room in (0, 5): # a full disk: nothing of the line is written, or a part of it
        resource.prlimit(page.process.pid, resource.RLIMIT_FSIZE, (whole+room, resource.RLIM_INFINITY))
        status,said = page.ask('answer', number=0, grade='match')
        assert status==507 and re.search('make room', said['error']), said
        assert page.ask('state')[1]['given']==[]
    resource.prlimit(page.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    status,said = page.ask('answer', number=0, grade='match')
    assert status==200 and 'line 6: expected 5 fields' in said['summary'] # the torn line is named
    lines = file.read_bytes().split(b'\n')
    file.write_bytes(b'\n'.join(lines[:5]+lines[6:]))
    assert page.ask('state')[1]['summary'].startswith('1 person, 4 pairs: 3 match, 0 no match, 1 unsure')
    code,out,err = page.end(signal.SIGINT)
    assert code==0 and '1 person, 4 pairs' in out and '--judgements answers.csv' in out and not err, err


def browser(tmp_path, page, script=''):
    "The page as a browser shows it"
    flags = [*FLAGS, f'--user-data-dir={tmp_path}/browser']
    return subprocess.run([chromium(), *flags, page.url], capture_output=True, timeout=180, encoding='utf-8').stdout


def test_page_in_a_browser(photographs, tmp_path):
    "Hostile names and captions are text, no script of them runs; the picture is shown"
    root,run = photographs
    page = Page(run, '--data-root', root, '--who', 'Zo\u00eb <b>', folder=tmp_path)
    try:
        pair = page.ask('pair/0')[1]
        assert '<script>' in pair['image'] and 'onerror' in pair['text'] and len(pair['own'])==3
        dom = browser(tmp_path, page)
    finally: page.end(signal.SIGTERM)
    assert '<title>Review of ' in dom and '<title>hit' not in dom, dom[:500]
    assert 'src="data:image/jpeg;base64,' in dom and 'onerror=' in dom and '<img src="x"' not in dom
    assert '&lt;script&gt;' in dom and '<main id="pair">' in dom and dom.count('<li>')==3
    assert 'Zo\u00eb &lt;b&gt; go to answers.csv' in dom


def test_mistakes(cli, scenes_run, photographs, tmp_path):
    root,run = photographs
    refused(cli('review', tmp_path), 'has no mined pairs')
    refused(cli('review', run), 'name the folder of its pictures with --data-root')
    refused(cli('review', scenes_run, '--data-root', root), '--data-root is not for')
    refused(cli('review', scenes_run, '--answers', tmp_path), 'expected the name of a file')
    refused(cli('review', scenes_run, '--who', ' '), 'the name of a person')
    refused(cli('review', scenes_run, '--order', 'all'), "unknown --order 'all'; choose from active, random")
    refused(cli('review', scenes_run, '--split', 'val'), "unknown --split 'val'; choose from train, dev, test")
    refused(cli('review', scenes_run, '--split', 'dev', '--order', 'random'), '--order is for the mined pairs')
    refused(cli('review', scenes_run, '--backbone', 'x'), '--backbone is for --split dev or test')
    refused(cli('review', scenes_run, '--split', 'test', '--answers', tmp_path), 'expected the name of a file')
    file = tmp_path/'other.csv'
    file.write_text('image,caption,grade,who,when\nx,y,match,Ann,2026-01-31T12:00:00+00:00\n', 'utf-8')
    refused(cli('review', scenes_run, '--answers', file), "other.csv, line 2: unknown image 'x'")
    shutil.copytree(root, tmp_path/'moved')
    shutil.rmtree(tmp_path/'moved/images')
    refused(cli('review', run, '--data-root', tmp_path/'moved'), 'moved')
    rows = (root/'captions.csv').read_text('utf-8').split('\n')
    (tmp_path/'less').mkdir()
    shutil.copytree(root/'images', tmp_path/'less/images')
    (tmp_path/'less/captions.csv').write_text('\n'.join([rows[0], *rows[4:]]), 'utf-8')
    refused(cli('review', run, '--data-root', tmp_path/'less'), 'was trained on 30 images with 90 captions')


def test_port_is_taken(cli, scenes_run, tmp_path):
    import socket
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        s.listen()
        taken = s.getsockname()[1]
        refused(cli('review', scenes_run, '--answers', tmp_path/'a.csv', '--port', taken), f'port {taken}', 'is taken')


def test_ended_without_answers(cli, scenes_run, tmp_path, monkeypatch):
    "A file that does not exist is not recommended"
    from amsps.companion import cli as commands
    monkeypatch.setattr(commands, '_serve', lambda server, no_browser: None)
    r = cli('review', scenes_run, '--answers', tmp_path/'a.csv')
    assert r.returncode==0 and 'page ' in r.stdout and '--judgements' not in r.stdout, r.stderr


def test_damaged_settings(cli, scenes_run, tmp_path):
    "An interrupted run whose settings cannot be read"
    run = shutil.copytree(scenes_run, tmp_path/'run')
    (run/'record.json').unlink()
    for text in ('{}', '[]', '{"config": {"dataset": "scenes"}}', '{"config": {"hidden_confidence": "x"}}'):
        (run/'key.json').write_text(text, 'utf-8')
        refused(cli('review', run), 'key.json lacks the settings of a run')


@pytest.mark.parametrize('split', ['dev', 'test'])
def test_answers_that_count(cli, scenes_run, photographs, tmp_path, monkeypatch, split):
    "Answers about a split are counted by `evaluate` and not taken by training; those about training are neither"
    from amsps.companion import cli as commands
    from amsps.companion.review import give_answer
    def answer_all(server, no_browser):
        for k in range(len(server.review.pairs)): give_answer(server.review, k, 'no match')
    monkeypatch.setattr(commands, '_serve', answer_all)
    root,on_photographs = photographs
    for run,place in ((scenes_run, ['--cache-dir', scenes_run.parents[1]]), (on_photographs, ['--data-root', root])):
        file = tmp_path/f'{run.name}.csv'
        r = cli('review', run, '--split', split, '--pairs', 15, '--answers', file, *place)
        told = shlex.join(map(str, ['amsps', 'evaluate', run, *place, '--relevance', file]))
        assert r.returncode==0 and told in r.stdout, r.stdout+r.stderr
        assert len(rows(file))==15
        r = cli(*shlex.split(told)[1:], '--json') # the command that was printed
        graded = json.loads(r.stdout)['relevance']
        assert set(graded)=={split} and graded[split]['i2t_queries']==len({x['image'] for x in rows(file)}), r.stderr
    r = cli('review', scenes_run, '--pairs', 9, '--answers', tmp_path/'mined.csv')
    assert r.returncode==0 and 'train with them' in r.stdout, r.stderr
    refused(cli('evaluate', scenes_run, '--relevance', tmp_path/'mined.csv', '--cache-dir', scenes_run.parents[1]),
            'answers of training', '`amsps review RUN --split test` asks about pairs that do')


def test_a_run_that_mines_nothing(cli, tmp_path, monkeypatch):
    from amsps.companion import cli as commands
    monkeypatch.setattr(commands, '_serve', lambda server, no_browser: None)
    run = trained(SMALL|dict(loss='infonce', cache_dir=str(tmp_path/'cache')))
    refused(cli('review', run), 'has no mined pairs')
    r = cli('review', run, '--split', 'test', '--answers', tmp_path/'a.csv', '--cache-dir', tmp_path/'cache')
    assert r.returncode==0 and 'page ' in r.stdout, r.stderr
