"The page of a model, where Gradio is installed: on the loopback address, without foreign addresses or telemetry."
import os
import re
import subprocess
import urllib.error
import urllib.request
import pytest
from test_cli_input import refused
from test_index import EVIL, chromium, draw, model # noqa: F401, a fixture

FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--virtual-time-budget=20000', '--dump-dom']
NOT_LOADED = 'https://raw.githubusercontent.com/gradio-app/', 'https://gradio.app' # Texts about Gradio for other sites


@pytest.fixture
def page(model, tmp_path, monkeypatch): # noqa: F811
    "A page over an index of some pictures, one with a hostile name; its address"
    pytest.importorskip('gradio')
    from amsps.companion import demo
    from amsps.companion.indexing import update_index
    draw(tmp_path/'photos', 3)
    (tmp_path/'photos/000.png').rename(tmp_path/'photos'/EVIL.replace('/', '\u2044'))
    update_index(tmp_path/'photos', tmp_path/'index', model, progress=False)
    monkeypatch.setattr(os, 'environ', os.environ.copy())
    gr = demo.import_gradio(str(tmp_path/'temporary'))
    made = demo.build_page(gr, demo.open_demo(model, tmp_path/'index'), 'amsps: a <model>')
    assert not made.analytics_enabled
    yield demo.launch(gr, made)
    made.close(verbose=False)


def test_page(page, tmp_path):
    port = int(re.fullmatch(r'http://127\.0\.0\.1:(\d+)/', page)[1])
    with urllib.request.urlopen(page, timeout=20) as reply:
        html,policy = reply.read().decode(),reply.headers['Content-Security-Policy']
    foreign = {a for a in re.findall(r'https?://[^"\'\s<>\\]+', html) if not a.startswith(page.rstrip('/'))}
    assert all(a.startswith(NOT_LOADED) for a in foreign), foreign
    assert policy.startswith("default-src 'self' data: blob:; ") and 'http' not in policy
    with pytest.raises(urllib.error.HTTPError, match='400'):
        urllib.request.urlopen(urllib.request.Request(page, headers={'Host':f'evil.example:{port}'}), timeout=20)
    flags = [*FLAGS, f'--user-data-dir={tmp_path}/browser']
    dom = subprocess.run([chromium(), *flags, page], capture_output=True, timeout=180, encoding='utf-8').stdout
    assert all(f'>{tab}' in dom for tab in ('Search', 'Describe', 'Why')), dom[:2000]


def test_mistakes(cli, model, tmp_path): # noqa: F811
    try: import gradio # noqa: F401
    except ModuleNotFoundError:
        refused(cli('demo', model), "run pip install 'amsps[demo]'")
        return
    refused(cli('demo', tmp_path), 'is no model')
    refused(cli('demo', model, tmp_path), 'is no index')
    refused(cli('demo', model, '--data-root', tmp_path), '--data-root is for the folder of a run')
