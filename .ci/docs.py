"""The documentation site from the notebooks: prose, formulas, signatures, executed outputs, no network at view time.

    python .ci/docs.py OUTPUT       (`make docs` builds _docs/)

Sources are made in a temporary folder; nothing in nbs/ changes. Sphinx with myst-nb and furo; MathJax lies in the site."""
import os, re, shutil, sys, tempfile
from pathlib import Path
os.environ['IN_TEST'] = '1'
import nbformat
from execnb.nbio import nb2str, read_nb
from nbdev.process import NBProcessor
from nbdev.processors import add_show_docs, clean_magics, clean_show_doc, exec_show_docs, filter_stream_, hide_, hide_line, populate_language, rm_export, strip_ansi, strip_hidden_metadata
from sphinx.cmd.build import main as sphinx

ROOT = Path(__file__).resolve().parents[1]
PROCESSORS = [populate_language, add_show_docs, strip_ansi, hide_line, filter_stream_, clean_show_doc, exec_show_docs, rm_export, clean_magics, hide_, strip_hidden_metadata]
CONF = '''
project, author, copyright = 'amsps', 'The amsps authors', '2026, the amsps authors'
extensions = ['myst_nb', 'sphinx-mathjax-offline']
html_theme, html_title, html_copy_source, html_show_sourcelink = 'furo', 'amsps', False, False
nb_execution_mode, suppress_warnings = 'off', ['myst.header', 'myst.xref_missing', 'mystnb.unknown_mime_type', 'misc.highlighting_failure']
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

def shows_doc(source): return re.search(r'^\s*(nbdev\.)?show_doc\(', re.sub(r'^#\|.*\n?', '', source, flags=re.M))

def links(text, here):
    "Links between notebooks as links between pages; links into the repository as text, for the site stands alone"
    def to(m):
        label,target = m[1],m[2]
        if re.match(r'https?:|#|mailto:', target): return m[0]
        name,_,anchor = target.partition('#')
        path = (here.parent/name).resolve() if not name.startswith('nbs/') else ROOT/name
        if path.suffix=='.ipynb' and path.exists(): return f"[{label}](/{page_name(path.relative_to(ROOT/'nbs')).with_suffix('')}{'#'+anchor if anchor else ''})"
        if path.suffix in ('.png','.svg') and path.exists(): return f'[{label}](/_files/{path.relative_to(ROOT)})'
        return f'{label}' if text[m.start()-1:m.start()]=='!' else f'{label} (`{path.relative_to(ROOT) if path.is_relative_to(ROOT) else name}`)'
    return re.sub(r'\[([^\]]*)\]\(([^)\s]+)\)', to, text)

def page(path):
    "A notebook as it is read: hidden cells and directives gone, signatures as prose"
    nb = read_nb(path)
    try: NBProcessor(nb=nb, procs=PROCESSORS).process()
    except Exception as e: raise SystemExit(f'{path.relative_to(ROOT)}: {type(e).__name__}: {e}')
    nb = nbformat.reads(nb2str(nb), as_version=4)
    nb.metadata.update(language_info={'name':'python'}, kernelspec=dict(name='python3', display_name='Python 3', language='python'))
    cells = []
    for c in nb.cells:
        if c.cell_type=='raw': continue
        if c.cell_type=='markdown': c.source = links(c.source, path)
        elif shows_doc(c.source):
            cells += [nbformat.v4.new_markdown_cell(re.sub(r'\{target=[^}]*\}', '', md).replace('---\n', '', 1)) for o in c.outputs if (md:=o.get('data', {}).get('text/markdown'))]
            continue
        else:
            if 'echo: false' in c.source: c.metadata['tags'] = ['remove-input']
            c.source = re.sub(r'^#\|.*\n?', '', c.source, flags=re.M)
            for o in c.outputs:
                if 'text/markdown' in o.get('data', {}): o['data']['text/markdown'] = links(''.join(o['data']['text/markdown']), path)
            if not c.source.strip() and not c.outputs: continue
        cells.append(c)
    nb.cells = cells
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
        sources(Path(d))
        sys.exit(sphinx(['-q', '-b', 'html', '-W', '--keep-going', '-d', f'{d}/.doctrees', d, sys.argv[1]]))
