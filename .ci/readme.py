"README.md from nbs/index.ipynb: stored outputs are kept, `#| hide` cells and directives are dropped. Needs no Quarto."
import re
from pathlib import Path
import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]
NOTE = '<!-- Made from nbs/index.ipynb by `make readme`: edit the notebook, not this file. -->\n\n'

def render(root=ROOT):
    "Text of the README"
    nb = nbformat.read(root/'nbs/index.ipynb', as_version=4)
    cells = []
    for c in nb.cells:
        directives = re.findall(r'^#\|\s*(.+)$', c.source, flags=re.M) if c.cell_type=='code' else []
        if 'hide' in directives: continue
        if 'echo: false' in directives: c.metadata['transient'] = {'remove_source': True}
        c.source = re.sub(r'^#\|.*\n?', '', c.source, flags=re.M)
        cells.append(c)
    nb.cells = cells
    nb.metadata['language_info'] = {'name': 'python'}
    body,resources = MarkdownExporter(exclude_input_prompt=True, exclude_output_prompt=True).from_notebook_node(nb)
    if resources.get('outputs'): raise SystemExit(f"nbs/index.ipynb has image outputs {list(resources['outputs'])}: save them under figures/ and link them")
    return NOTE+re.sub(r'\n{3,}', '\n\n', body.replace('](../', '](')).strip()+'\n'

if __name__=='__main__': (ROOT/'README.md').write_text(render())
