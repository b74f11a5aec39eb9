"Packaging: everything is read from settings.ini"
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

root = Path(__file__).parent
parser = ConfigParser(delimiters=['='], interpolation=None)
parser.read(root/'settings.ini', encoding='utf-8')
cfg = parser['DEFAULT']

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], keywords=cfg['keywords'].split(), author=cfg['author'],
    license='Apache-2.0', long_description=(root/'README.md').read_text(encoding='utf-8') if (root/'README.md').exists() else '', long_description_content_type='text/markdown',
    packages=find_packages(include=['amsps', 'amsps.*']), python_requires='>='+cfg['min_python'],
    install_requires=cfg['requirements'].split(), extras_require={k.removesuffix('_requirements'):v.split() for k,v in cfg.items() if k.endswith('_requirements')},
    entry_points=dict(console_scripts=cfg['console_scripts'].split('\n'), nbdev=['amsps=amsps._modidx:d']), zip_safe=False)
