"""The documentation site from the notebooks: prose, formulas, signatures, code and executed outputs.

    python .ci/docs.py OUTPUT       (`make docs` builds _docs/)

Pages are written to a temporary folder; nothing in nbs/ changes. Sphinx builds them with myst-nb and furo. MathJax is
part of the site, so that reading it needs no network. The build fails if two pages have the same title or if an
internal link leads nowhere."""
import importlib
import inspect
import json
import os
import re
import shutil
import sys
import tempfile
from functools import reduce
from pathlib import Path
os.environ['IN_TEST'] = '1'
import nbformat
from execnb.nbio import nb2str, read_nb
from nbdev.process import NBProcessor
from nbdev.processors import add_show_docs, clean_magics, filter_stream_, hide_, hide_line, populate_language
from nbdev.processors import strip_ansi, strip_hidden_metadata
from nbdev.showdoc import BasicMarkdownRenderer, show_doc
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from sphinx.cmd.build import main as sphinx
sys.path.insert(0, str(Path(__file__).parent))
from links import dead_links
from amsps.companion.grid import read_grid
from amsps.companion.report import made_of, table_html

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT/'nbs'
FOLDERS = dict(guides='Guides', method='Library', companion='Companion', experiments='Experiments') # in reading order
PROCESSORS = [populate_language, add_show_docs, strip_ansi, hide_line, filter_stream_, clean_magics, hide_,
              strip_hidden_metadata]
CONF = '''
project, author, copyright = 'amsps', 'The amsps authors', '2026, the amsps authors'
extensions = ['myst_nb', 'sphinx-mathjax-offline']
html_theme, html_title, html_copy_source, html_show_sourcelink = 'furo', 'amsps', False, False
nb_execution_mode = 'off'
suppress_warnings = ['myst.header', 'myst.xref_missing', 'mystnb.unknown_mime_type', 'misc.highlighting_failure',
                     'toc.not_included']
myst_enable_extensions = ['dollarmath', 'amsmath', 'attrs_inline']
myst_heading_anchors = 3
nb_code_prompt_show = 'Code'
nb_code_prompt_hide = 'Code'
exclude_patterns = ['_static']
html_static_path = ['_static']
html_css_files = ['amsps.css']
html_js_files = ['amsps.js']
'''
CSS = '''
h1 { font-size:2rem }
h2 { font-size:1.5rem }
h3 { font-size:1.15rem }
.content code, .content p, .content li { overflow-wrap:anywhere }
.content pre { font-size:12px }
.content img { max-width:100%; height:auto }
.table-wrapper, .cell_output { overflow-x:auto; margin-bottom:.8rem }
.content table { font-size:.8rem; font-variant-numeric:tabular-nums; margin:0 }
table.made, table.dataframe { white-space:nowrap }
.content table p, .content table code { overflow-wrap:normal }
.content th { white-space:normal; vertical-align:bottom }
.content th span { white-space:nowrap }
table.made { border-collapse:collapse }
table.made td, table.made th { padding:.15rem .35rem; text-align:right; vertical-align:top;
                               border-bottom:1px solid var(--color-background-border) }
table.made .w, table.made td:first-child, table.made th:first-child { text-align:left }
table.made.many td.w:not(:first-child) { white-space:normal; min-width:5rem }
.sd { color:var(--color-foreground-muted); font-size:.9em; margin-left:.35em }
.many .sd { display:block }
.content table.many { font-size:.72rem }
div.cell details.hide { background:none; box-shadow:none; border:0; padding:0; margin:0 0 .3rem }
div.cell details.hide > summary { border:0; background:none }
div.cell details.hide > summary > p { background:none; color:var(--color-foreground-secondary); padding:.1rem 0;
                                      margin:0 }
div.cell details.hide > summary > p::before { display:none }
.cut::before { content:"wider than the screen: scroll it sideways \\2192"; display:block; position:sticky; left:0;
               width:max-content; max-width:100%; color:var(--color-brand-primary); font-size:.8rem }
mjx-container[display="true"] { overflow-x:auto; overflow-y:hidden; padding:.2rem 0 }
@media (min-width:63em) {
  .sidebar-drawer { width:15rem; min-width:15rem }
  .sidebar-container { width:15rem }
  .main { min-width:0 }
  .content { width:auto; max-width:70rem; flex:1; min-width:0; padding:0 2em }
  .toc-drawer { flex:0 0 13rem }
}
'''
SCRIPT = '''
addEventListener("load", () => {
  for (const box of document.querySelectorAll(".table-wrapper, .cell_output")) {
    const mark = () => box.classList.toggle("cut", box.scrollWidth > box.clientWidth + 1);
    box.tabIndex = 0;
    new ResizeObserver(mark).observe(box);
  }
});
'''


def notebooks():
    "All notebooks in the order of the site"
    outputs = read_grid().outputs
    def place(path): # in the order of the report
        return (outputs.index(path.stem)+1 if path.stem in outputs else 0, path.name)
    found = [NOTEBOOKS/'index.ipynb']
    for folder in FOLDERS:
        found += sorted((NOTEBOOKS/folder).glob('*.ipynb'), key=place)
    others = {p for p in NOTEBOOKS.rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts}-set(found)
    if others:
        sys.exit(f"{min(others).relative_to(ROOT)} is in no folder that the site has; they are {', '.join(FOLDERS)}")
    return found


def page_name(notebook):
    "Where a notebook's page is, without a suffix: nbs/method/13_losses.ipynb -> method/losses"
    path = notebook.relative_to(NOTEBOOKS).with_suffix('')
    return path.with_name(re.sub(r'^\d+[a-z]?_', '', path.name))


def source_link(thing, page):
    "A link from a page to the line where an exported function or class begins"
    thing = inspect.unwrap(thing.fget if isinstance(thing, property) else thing)
    path = Path(inspect.getsourcefile(thing)).resolve().relative_to(ROOT).with_suffix('')
    line = inspect.getsourcelines(thing)[1]
    up = '../'*(len(page.parts)-1)
    return f'<a href="{up}source/{path}.html#L-{line}">source</a>'


def source_page(module):
    "A module with an anchor at each line"
    formatter = HtmlFormatter(linenos='inline', lineanchors='L', anchorlinenos=True)
    code = highlight(module.read_text('utf-8'), PythonLexer(), formatter)
    name = module.relative_to(ROOT)
    return f'---\norphan: true\n---\n# {name}\n\n```````{{raw}} html\n{code}\n```````\n'


def shown_doc(source):
    "The name whose signature a cell shows"
    found = re.search(r'^show_doc\(([\w.]+)', source, flags=re.M)
    return found and found[1]


def signature(module, name, page):
    "Signature, docstring and parameters of what a module exports, as Markdown"
    thing = reduce(getattr, name.split('.'), importlib.import_module(f'amsps.{module}'))
    text = show_doc(thing, renderer=BasicMarkdownRenderer)._repr_markdown_()
    text = re.sub(r'\[source\]\([^)]*\)(\{[^}]*\})?', '', text).replace('---\n', '', 1)
    text = re.sub(r'\{target=[^}]*\}', '', text).replace('*Call self as a function.*', '') # without a docstring
    return re.sub(r'^(#+ .*)$', lambda m: f'{m[0]}\n\n{source_link(thing, page)}', text, count=1, flags=re.M)


def page_link(match, here, dead):
    "A Markdown link between notebooks as one between pages; a link to another file of the repository as text"
    sign,label,target = match.groups()
    if re.match(r'https?:|#|mailto:', target):
        return match[0]
    name,_,anchor = target.partition('#')
    path = ROOT/name if name.startswith('nbs/') else (here.parent/name).resolve()
    if not path.exists():
        dead.append(f'{here.relative_to(ROOT)}: {target}')
    elif path.suffix=='.ipynb':
        return f"{sign}[{label}](/{page_name(path)}{'#'*bool(anchor)}{anchor.lower()})"
    elif path.is_relative_to(ROOT/'figures') and path.suffix in ('.png', '.md'):
        return f'{sign}[{label}](/_files/{path.relative_to(ROOT)})'
    if sign:
        return label
    return f'{label} (`{path.relative_to(ROOT) if path.is_relative_to(ROOT) else name}`)'


def links(text, here, dead):
    "Text with its links between notebooks turned into links between pages; `dead` gets those without a target"
    return re.sub(r'(!?)\[([^\]]*)\]\(([^)\s]+)\)', lambda m: page_link(m, here, dead), text)


def table_block(text):
    "A pipe table as it is in the report: deviations are smaller and stand below their means where columns are many"
    shown = re.sub(r'<table(?: class="(many)")?>', r'<table class="made \1">', table_html(text))
    return f'```{{raw}} html\n<div class="table-wrapper">{shown}</div>\n```'


def with_tables(text):
    "Markdown with its pipe tables of plain text and numbers as in the report"
    def shown(match):
        return match[0] if re.search(r'[`*<\[]', match[0]) else f'{table_block(match[0])}\n'
    return re.sub(r'(?:^[|].*(?:\n|$)){3,}', shown, text, flags=re.M)


def made_part(folder, stem):
    "One table or figure, as Markdown"
    provenance,table = folder/f'{stem}.json',folder/f'{stem}.md'
    caption = json.loads(provenance.read_text('utf-8'))['caption'] if provenance.exists() else ''
    if (folder/f'{stem}.png').exists():
        return f'![{caption}](/_files/figures/{folder.name}/{stem}.png)\n\n{caption}'
    if not table.exists():
        return ''
    return with_tables(table.read_text('utf-8'))


def made(output):
    "What an experiment has made, dataset by dataset, from the committed tables and figures"
    for path in sorted((ROOT/'figures').glob(f'*/made/{output}.json')):
        folder = path.parents[1]
        found = made_of(output, folder)
        stems = dict.fromkeys(Path(name).stem for name in found['files'])
        parts = [part for part in (made_part(folder, stem) for stem in stems) if part]
        answer = [f"**{found['answer']}**"] if found.get('answer') else []
        if parts:
            yield '\n\n'.join([f'## On {folder.name}', *answer, *parts])


def code_cell(cell, path, module, dead):
    "The cells that a code cell becomes"
    name = shown_doc(cell.source)
    if name:
        return [nbformat.v4.new_markdown_cell(signature(module, name, page_name(path)))]
    if 'echo: false' in cell.source:
        cell.metadata['tags'] = ['remove-input']
    cell.source = re.sub(r'^#\|.*\n?', '', cell.source, flags=re.M)
    shown = [''.join(o['data']['text/markdown']) for o in cell.outputs if 'text/markdown' in o.get('data', {})]
    if shown:
        return [nbformat.v4.new_markdown_cell(links(with_tables(text), path, dead)) for text in shown]
    return [cell] if cell.source.strip() or cell.outputs else []


def joined(cells):
    "Cells in which neighbours whose code is folded away are one"
    found = []
    for cell in cells:
        last = found[-1] if found else cell
        if all(c.metadata.get('tags')==['hide-input'] and not c.outputs for c in (last, cell)) and last is not cell:
            last.source += f'\n\n{cell.source}'
        else:
            found.append(cell)
    return found


def processed(path):
    "A notebook without its hidden cells, and the module that it exports"
    nb = read_nb(path)
    code = [c.source for c in nb.cells if c.cell_type=='code']
    module = next((m[1] for s in code if (m:=re.search(r'#\|\s*default_exp\s+(\S+)', s))), None)
    try:
        NBProcessor(nb=nb, procs=PROCESSORS).process()
    except Exception as e:
        sys.exit(f'{path.relative_to(ROOT)}: {type(e).__name__}: {e}')
    for cell in nb.cells:
        if set(getattr(cell, 'directives_', None) or ()) & {'export', 'exporti', 'exports'}:
            cell.metadata['tags'] = ['hide-input'] # the signature follows
    return nbformat.reads(nb2str(nb), as_version=4),module


def page(path, dead):
    "A notebook as it is read"
    nb,module = processed(path)
    kernel = dict(name='python3', display_name='Python 3', language='python')
    nb.metadata.update(language_info=dict(name='python'), kernelspec=kernel)
    cells = []
    for cell in nb.cells:
        if cell.cell_type=='markdown':
            cell.source = links(cell.source, path, dead)
            cells.append(cell)
        elif cell.cell_type=='code':
            cells += code_cell(cell, path, module, dead)
    if path.parent.name=='experiments':
        cells += map(nbformat.v4.new_markdown_cell, made(path.stem))
        nb.metadata['hide-toc'] = True # tables need the room
    nb.cells = joined(cells)
    return nb


def title_of(nb):
    "The first heading"
    found = re.search(r'^# (.+)', '\n'.join(c.source for c in nb.cells if c.cell_type=='markdown'), flags=re.M)
    return found[1].strip() if found else ''


def contents(paths):
    "The navigation, as Markdown"
    trees = []
    for folder,caption in FOLDERS.items():
        entries = '\n'.join(str(page_name(p)) for p in paths if p.parent.name==folder)
        trees.append(f'```{{toctree}}\n:caption: {caption}\n:hidden:\n\n{entries}\n```')
    return nbformat.v4.new_markdown_cell('\n\n'.join(trees))


def check_titles(pages):
    "End if two pages could not be told apart in the navigation"
    seen = {}
    for path,nb in pages.items():
        title = title_of(nb)
        if not title:
            sys.exit(f'{path.relative_to(ROOT)} has no title; its first cell begins with "# Title"')
        if title in seen:
            sys.exit(f'{path.relative_to(ROOT)} and {seen[title].relative_to(ROOT)} have the same title, {title!r}')
        seen[title] = path


def write_pages(target):
    "All pages; links between notebooks that lead nowhere"
    dead,paths = [],notebooks()
    pages = {p:page(p, dead) for p in paths}
    check_titles(pages)
    pages[paths[0]].cells.append(contents(paths[1:]))
    for path,nb in pages.items():
        out = target/f'{page_name(path)}.ipynb'
        out.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(nb, out)
    for module in (ROOT/'amsps').rglob('*.py'):
        out = target/'source'/module.relative_to(ROOT).with_suffix('.md')
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(source_page(module), 'utf-8')
    return dead


def write_files(target):
    "Style, configuration and pictures"
    (target/'_static').mkdir()
    (target/'_static/amsps.css').write_text(CSS, 'utf-8')
    (target/'_static/amsps.js').write_text(SCRIPT, 'utf-8')
    (target/'conf.py').write_text(CONF, 'utf-8')
    left_out = shutil.ignore_patterns('*.html', '*.pdf', '*.tex', '*.json', 'made')
    shutil.copytree(ROOT/'figures', target/'_files/figures', ignore=left_out)


def build(site):
    "Build the site; number of faults"
    with tempfile.TemporaryDirectory() as d:
        pages,built = Path(d)/'pages',Path(d)/'out/html'
        pages.mkdir()
        faults = [f'no such file: {link}' for link in write_pages(pages)]
        write_files(pages)
        failed = sphinx(['-q', '-b', 'html', '-W', '--keep-going', '-d', f'{d}/doctrees', str(pages), str(built)])
        shutil.rmtree(site, ignore_errors=True)
        shutil.move(built, site)
    faults += [f'dead link: {page}: {link}' for page,link in dead_links(site)]
    print('\n'.join(faults) or f'{site}: every internal link leads somewhere')
    return failed or len(faults)


if __name__=='__main__':
    sys.exit(bool(build(sys.argv[1])))
