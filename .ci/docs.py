"""The documentation site from the notebooks: prose, formulas, signatures, executed outputs, no network at view time.

    python .ci/docs.py OUTPUT       (`make docs` builds _docs/)

Sources are made in a temporary folder; nothing in nbs/ changes. Sphinx with myst-nb and furo; MathJax lies in the site."""
import importlib, json, os, re, shutil, sys, tempfile
from functools import reduce
from pathlib import Path
os.environ['IN_TEST'] = '1'
import nbformat
from execnb.nbio import nb2str, read_nb
from nbdev.process import NBProcessor
from nbdev.processors import add_show_docs, clean_magics, filter_stream_, hide_, hide_line, populate_language, rm_export, strip_ansi, strip_hidden_metadata
from nbdev.showdoc import BasicMarkdownRenderer, show_doc
from sphinx.cmd.build import main as sphinx

ROOT = Path(__file__).resolve().parents[1]
PROCESSORS = [populate_language, add_show_docs, strip_ansi, hide_line, filter_stream_, rm_export, clean_magics, hide_, strip_hidden_metadata]
CONF = '''
project, author, copyright = 'amsps', 'The amsps authors', '2026, the amsps authors'
extensions = ['myst_nb', 'sphinx-mathjax-offline']
html_theme, html_title, html_copy_source, html_show_sourcelink = 'furo', 'amsps', False, False
nb_execution_mode, suppress_warnings = 'off', ['myst.header', 'myst.xref_missing', 'mystnb.unknown_mime_type', 'misc.highlighting_failure', 'toc.not_included']
myst_enable_extensions = ['dollarmath', 'amsmath', 'attrs_inline']
myst_heading_anchors = 3
exclude_patterns = ['_static']
html_static_path = ['_static']
html_css_files = ['amsps.css']
'''
CSS = '''
.cell_output table, .markdown-table table { font-size: .82rem; font-variant-numeric: tabular-nums; }
.cell_output, .content table { overflow-x: auto; }
table.docutils, table.dataframe { display: block; overflow-x: auto; max-width: 100%; white-space: nowrap; }
mjx-container[display="true"] { overflow-x: auto; overflow-y: hidden; padding: .2rem 0; }
.content img { max-width: 100%; height: auto; }
'''

def page_name(rel): return rel.with_name(re.sub(r'^\d+[a-z]?_', '', rel.name)) # 06_losses -> losses

def shown_doc(source): # the name whose signature a cell shows
    m = re.search(r'^show_doc\(([\w.]+)', source, flags=re.M)
    return m and m[1]

def signature(module, name):
    "Signature, docstring and parameters of what a module exports, as Markdown"
    text = show_doc(reduce(getattr, name.split('.'), importlib.import_module(f'amsps.{module}')), renderer=BasicMarkdownRenderer)._repr_markdown_()
    return re.sub(r'\{target=[^}]*\}', '', text).replace('---\n', '', 1)

def links(text, here):
    "Links between notebooks as links between pages; links into the repository as text, for the site stands alone"
    def to(m):
        sign,label,target = m[1],m[2],m[3]
        if re.match(r'https?:|#|mailto:', target): return m[0]
        name,_,anchor = target.partition('#')
        path = (here.parent/name).resolve() if not name.startswith('nbs/') else ROOT/name
        if path.suffix=='.ipynb' and path.exists(): return f"{sign}[{label}](/{page_name(path.relative_to(ROOT/'nbs')).with_suffix('')}{'#'+anchor if anchor else ''})"
        if path.suffix in ('.png','.md') and path.exists() and path.is_relative_to(ROOT/'figures'): return f'{sign}[{label}](/_files/{path.relative_to(ROOT)})'
        return label if sign else f'{label} (`{path.relative_to(ROOT) if path.is_relative_to(ROOT) else name}`)'
    return re.sub(r'(!?)\[([^\]]*)\]\(([^)\s]+)\)', to, text)

def made(output):
    "What an experiment has made, dataset by dataset, from the committed tables and figures"
    for f in sorted((ROOT/'figures').glob(f'*/made/{output}.json')):
        folder,cells = f.parents[1],[]
        for stem in dict.fromkeys(Path(n).stem for n in json.loads(f.read_text())['files']):
            caption = json.loads((folder/f'{stem}.json').read_text())['caption'] if (folder/f'{stem}.json').exists() else ''
            if (folder/f'{stem}.png').exists(): cells.append(f'![{caption}](/_files/figures/{folder.name}/{stem}.png)\n\n{caption}')
            elif (folder/f'{stem}.md').exists(): cells.append((folder/f'{stem}.md').read_text())
        if cells: yield '\n\n'.join([f'## On {folder.name}', *cells])

def page(path):
    "A notebook as it is read: hidden cells and directives gone, signatures as prose"
    nb = read_nb(path)
    module = next((m[1] for c in nb.cells if c.cell_type=='code' and (m:=re.search(r'#\|\s*default_exp\s+(\S+)', c.source))), None)
    try: NBProcessor(nb=nb, procs=PROCESSORS).process()
    except Exception as e: raise SystemExit(f'{path.relative_to(ROOT)}: {type(e).__name__}: {e}')
    nb = nbformat.reads(nb2str(nb), as_version=4)
    nb.metadata.update(language_info={'name':'python'}, kernelspec=dict(name='python3', display_name='Python 3', language='python'))
    cells = []
    for c in nb.cells:
        if c.cell_type=='raw': continue
        if c.cell_type=='markdown': c.source = links(c.source, path)
        elif name:=shown_doc(c.source):
            cells.append(nbformat.v4.new_markdown_cell(signature(module, name)))
            continue
        else:
            if 'echo: false' in c.source: c.metadata['tags'] = ['remove-input']
            c.source = re.sub(r'^#\|.*\n?', '', c.source, flags=re.M)
            said = [''.join(o['data']['text/markdown']) for o in c.outputs if 'text/markdown' in o.get('data', {})]
            if said: cells += [nbformat.v4.new_markdown_cell(links(t, path)) for t in said]; continue
            if not c.source.strip() and not c.outputs: continue
        cells.append(c)
    nb.cells = cells+[nbformat.v4.new_markdown_cell(m) for m in (made(path.stem) if path.parent.name=='experiments' else ())]
    return nb

def sources(target):
    "All pages, and the contents"
    pages = sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
    for p in pages:
        out = target/page_name(p.relative_to(ROOT/'nbs')); out.parent.mkdir(parents=True, exist_ok=True)
        nb = page(p)
        if p.name=='index.ipynb':
            def entries(of): return '\n'.join(str(page_name(q.relative_to(ROOT/'nbs')).with_suffix('')) for q in of)
            library,experiments = [q for q in pages if q.parent.name=='nbs' and q.name!='index.ipynb'],[q for q in pages if q.parent.name=='experiments']
            nb.cells.append(nbformat.v4.new_markdown_cell(f'```{{toctree}}\n:caption: Library\n:hidden:\n\n{entries(library)}\n```\n\n```{{toctree}}\n:caption: Experiments\n:hidden:\n\n{entries(experiments)}\n```'))
        nbformat.write(nb, out)
    (target/'_static').mkdir(); (target/'_static/amsps.css').write_text(CSS); (target/'conf.py').write_text(CONF)
    shutil.copytree(ROOT/'figures', target/'_files/figures', ignore=shutil.ignore_patterns('*.html', '*.pdf', '*.tex', '*.json', 'made'))

if __name__=='__main__':
    with tempfile.TemporaryDirectory() as d:
        (Path(d)/'pages').mkdir(); sources(Path(d)/'pages')
        code = sphinx(['-q', '-b', 'html', '-W', '--keep-going', '-d', f'{d}/doctrees', f'{d}/pages', f'{d}/out/html'])
        shutil.rmtree(sys.argv[1], ignore_errors=True); shutil.move(f'{d}/out/html', sys.argv[1])
        sys.exit(code)
