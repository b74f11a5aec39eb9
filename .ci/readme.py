"README.md from nbs/index.ipynb: stored outputs are kept; hidden cells and directives are dropped. Needs no Quarto."
import re
from pathlib import Path
import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]
NOTE = '<!-- Made from nbs/index.ipynb by `make readme`: edit the notebook, not this file. -->\n\n'


def shown_cells(cells):
    "Cells without hidden ones and without directives"
    for c in cells:
        directives = re.findall(r'^#\|\s*(.+)$', c.source, flags=re.M) if c.cell_type=='code' else []
        if 'hide' in directives:
            continue
        if 'echo: false' in directives:
            c.metadata['transient'] = {'remove_source': True}
        c.source = re.sub(r'^#\|.*\n?', '', c.source, flags=re.M)
        yield c


def render(root=ROOT):
    "Text of the README"
    nb = nbformat.read(root/'nbs/index.ipynb', as_version=4)
    nb.cells = list(shown_cells(nb.cells))
    nb.metadata['language_info'] = {'name': 'python'}
    exporter = MarkdownExporter(exclude_input_prompt=True, exclude_output_prompt=True)
    body,resources = exporter.from_notebook_node(nb)
    if resources.get('outputs'):
        images = list(resources['outputs'])
        raise SystemExit(f'nbs/index.ipynb has image outputs {images}: save them under figures/ and link them')
    body = body.replace('](../', '](')
    return NOTE+re.sub(r'\n{3,}', '\n\n', body).strip()+'\n'


if __name__=='__main__':
    (ROOT/'README.md').write_text(render(), 'utf-8')
