"The pages at the widths of a desk and of a telephone, in a browser that Playwright drives (`pip install playwright`)."
import os
import re
import signal
from pathlib import Path
import pytest
from test_demo import page # noqa: F401, a fixture
from test_index import EVIL, chromium, draw, model # noqa: F401, fixtures
from test_review import Page, photographs, scenes_run # noqa: F401, fixtures

WINDOWS = dict(desk=(1400, 900), telephone=(390, 844))
WIDE = """() => [...document.querySelectorAll('button, input, textarea, img, kbd, label, figure, [role=tab]')]
    .filter(e => e.checkVisibility({visibilityProperty: true}) && e.getBoundingClientRect().width > 0)
    .map(e => [e.tagName, e.innerText || e.alt || e.type, ...['left', 'right'].map(s => e.getBoundingClientRect()[s])])
    .filter(([,, left, right]) => left < -1 || right > innerWidth + 1)"""


@pytest.fixture(params=list(WINDOWS))
def window(request, tmp_path):
    "A browser window of one size; its errors end the test"
    playwright = pytest.importorskip('playwright.sync_api')
    width,height = WINDOWS[request.param]
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium(), args=['--no-sandbox'])
        tab = browser.new_page(viewport=dict(width=width, height=height), has_touch=width<500)
        errors = []
        tab.on('pageerror', lambda e: errors.append(str(e)))
        tab.on('dialog', lambda d: errors.append(f'a dialog: {d.message}') or d.dismiss())
        yield tab
        browser.close()
    assert not errors, errors


def check_width(tab, name):
    "Nothing lies outside the window, and there is nothing to scroll to the side; a picture of it is kept where asked"
    if folder := os.environ.get('AMSPS_SCREENSHOTS'):
        Path(folder).mkdir(parents=True, exist_ok=True)
        tab.screenshot(path=f"{folder}/{name}-{tab.viewport_size['width']}.png", full_page=True)
    assert tab.evaluate('document.documentElement.scrollWidth')<=tab.viewport_size['width'], name
    assert tab.evaluate(WIDE)==[], name


def test_demo(page, window, tmp_path): # noqa: F811
    draw(tmp_path/'given', 1)
    window.goto(page)
    window.get_by_role('tab', name='Search').wait_for()
    check_width(window, 'search')
    window.get_by_label('Text').first.fill(f'a ball {EVIL}')
    window.get_by_role('button', name='Search').click()
    window.locator('.results img').nth(2).wait_for()
    shown = window.locator('.results img').count()
    assert shown==3, shown
    check_width(window, 'found')
    window.get_by_role('tab', name='Describe').click()
    window.locator('input[type=file]').first.set_input_files(tmp_path/'given/000.png')
    window.get_by_role('button', name='Describe').click()
    window.locator('.results img:visible').first.wait_for()
    check_width(window, 'described')
    window.get_by_role('tab', name='Why').click()
    window.locator('input[type=file]').last.set_input_files(tmp_path/'given/000.png')
    window.get_by_label('Text').last.fill('a red ball')
    window.get_by_role('button', name='Why are they similar?').click()
    window.get_by_text('Similarity that is lost without the word').wait_for()
    check_width(window, 'why')


def test_review(photographs, window, tmp_path): # noqa: F811
    root,run = photographs
    served = Page(run, '--data-root', root, '--who', 'Ann', folder=tmp_path)
    try:
        window.goto(served.url)
        window.locator('main img').first.wait_for()
        check_width(window, 'review')
        for n,key in enumerate('mn', 1): # a key counts once the next pair is shown
            window.keyboard.press(key)
            window.wait_for_function('n => place === n && !busy', arg=n)
        check_width(window, 'answered')
    finally: served.end(signal.SIGTERM)
    lines = (tmp_path/'answers.csv').read_text('utf-8').splitlines()[1:]
    assert [re.search(',(match|no match),Ann', x)[1] for x in lines]==['match', 'no match']


def test_gallery(cli, model, window, tmp_path): # noqa: F811
    draw(tmp_path/'photos', 5)
    (tmp_path/'photos/001.png').rename(tmp_path/'photos'/('a long name '*12+'.png'))
    assert cli('index', tmp_path/'photos', '--model', model, '-o', tmp_path/'index').returncode==0
    assert cli('search', tmp_path/'index', EVIL+' ball', '--html', tmp_path/'page.html').returncode==0
    window.goto((tmp_path/'page.html').as_uri())
    assert window.locator('img').count()==5
    check_width(window, 'gallery')
