"""Does every internal link of a built site lead somewhere? One line for each that does not, and exit code 1.

    python .ci/links.py SITE"""
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    "The links of a page, and the places in it that links can lead to"
    def __init__(self, text):
        super().__init__()
        self.links = []
        self.anchors = {'', 'top'} # browsers know both
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        for key in ('href', 'src'):
            if attrs.get(key):
                self.links.append(attrs[key])
        for key in ('id', 'name'):
            if attrs.get(key):
                self.anchors.add(attrs[key])


def is_internal(link):
    "Whether a link leads to a file of the site"
    parts = urlsplit(link)
    return not parts.scheme and not parts.netloc


def dead_links(site):
    "(page, link) for each internal link without a target"
    site = Path(site).resolve()
    pages = {p:Page(p.read_text(encoding='utf-8')) for p in sorted(site.rglob('*.html'))}
    for path,page in pages.items():
        for link in filter(is_internal, dict.fromkeys(page.links)):
            parts = urlsplit(link)
            target = (path.parent/unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= 'index.html'
            anchors = pages[target].anchors if target in pages else {'', unquote(parts.fragment)}
            if not target.is_file() or unquote(parts.fragment) not in anchors:
                yield path.relative_to(site), link


if __name__=='__main__':
    found = [f'{page}: {link}' for page,link in dead_links(sys.argv[1])]
    print('\n'.join(found) or 'every internal link leads somewhere')
    sys.exit(bool(found))
