"Published numbers and the committed comparison tables."
import csv
import json
import re
from itertools import pairwise
import pandas as pd
import pytest
from amsps.companion.published import SIX, TABLES, comparison_table, expected_rows, read_published
from amsps.companion.published import read_published_relevance, table_stem
from amsps.errors import InputError
from conftest import ROOT

RESULTS = ROOT/'data/published/results.csv'
RELEVANCE = ROOT/'data/published/eccv_caption.csv'
COMMITTED = ROOT/'figures/comparison'
STEMS = [table_stem(*t) for t in TABLES]


def committed(stem):
    return pd.read_csv(COMMITTED/f'{stem}.csv', keep_default_na=False)


def broken(tmp_path, find, replace):
    "The committed results with one change, and the line of the change"
    text = RESULTS.read_text()
    assert text.count(find)==1, find
    file = tmp_path/'results.csv'
    file.write_text(text.replace(find, replace))
    return file,text[:text.index(find)].count('\n')+1


def test_counts_of_rows():
    counts = read_published(RESULTS).groupby(['dataset','split']).size().to_dict()
    assert counts=={('flickr8k','test'):28, ('flickr30k','test'):178, ('mscoco','1k_5fold'):129, ('mscoco','5k'):117}
    assert len(read_published_relevance(RELEVANCE))==29


def test_committed_rows_without_the_reader():
    with open(RESULTS, newline='') as f:
        rows = list(csv.DictReader(f))
    for r in rows:
        recalls = [float(r[c]) if r[c] else None for c in SIX]
        if None in recalls:
            assert not r['rsum'], r['method']
        else:
            assert abs(sum(recalls)-float(r['rsum']))<1e-6, r['method']
        for direction in (recalls[:3], recalls[3:]):
            known = [x for x in direction if x is not None]
            assert all(0<=a<=b<=100 for a,b in pairwise(known)), r['method']
        assert r['source'] and r['ensemble']=='0'


def test_its_readme_counts_the_rows():
    words = (ROOT/'data/published/README.md').read_text()
    rows = len(read_published(RESULTS))
    assert f'{rows} single models' in words
    assert f'{len(read_published_relevance(RELEVANCE))} models on MSCOCO' in words
    left_out = [int(n) for n in re.findall(r'^- \*\*.*\*\* \((\d+)', words, re.M)]
    assert rows+sum(left_out)==645


def test_an_ensemble_is_refused(tmp_path):
    row = 'IMRAM [Text],2020,CVPR,flickr8k,test,BUTD,,'
    file,line = broken(tmp_path, f'{row}0,', f'{row}1,')
    with pytest.raises(InputError, match=re.escape(f"{file}, line {line}: IMRAM [Text] has ensemble '1'")):
        read_published(file)
    published = read_published(RESULTS)
    published.loc[0,'ensemble'] = 1
    with pytest.raises(InputError, match='is not a single model'):
        comparison_table(published, [], dataset='flickr8k', split='test')


@pytest.mark.parametrize('stem', STEMS)
def test_no_ensemble_in_a_table(stem):
    single = {*read_published(RESULTS).method, *read_published_relevance(RELEVANCE).method}
    table = committed(stem)
    methods = set(table[table.ours.astype(str)=='False'].method)
    assert methods<=single
    assert not [m for m in methods if re.search(r'SGRAF|\[ALL\]|\[Full\]|star\]|dagger\]', m)]


def test_cvse_is_the_corrected_one():
    for stem,rsum in (('table_comparison_flickr30k', 482.5), ('table_comparison_mscoco_1k_5fold', 512.7)):
        table = committed(stem)
        rows = table[table.method=='CVSE']
        assert rows.rSum.astype(float).tolist()==[rsum]
        assert rows.remark.tolist()==['corrected by its authors']
    for f in (RESULTS, *COMMITTED.iterdir()):
        assert not re.search(r'\b487\.7\b|superseded', f.read_text()), f"{f.name} has CVSE's leaked result"
    one_k = read_published(RESULTS).query("dataset=='mscoco' and split=='1k_5fold'")
    assert 525.5 not in one_k.rsum.tolist()


CVSE = '73.5,92.1,95.8,52.9,80.4,87.8,482.5'
MRNN = '\nm-RNN,2015,ICLR,flickr8k,test,AlexNet,'
MISTAKES = dict(
    sum=(CVSE, CVSE.replace('482.5', '482.6'), 'CVSE has rsum 482.6, but its six recalls add up to 482.50'),
    order=(CVSE, '93.5,92.1,95.8,52.9,80.4,87.8,502.5', 'CVSE has i2t recalls that do not ascend'),
    range=(CVSE, '73.5,92.1,195.8,52.9,80.4,87.8,582.5',
           "CVSE has i2t_r10 '195.8'; expected a number from 0 to 100"),
    twice=(MRNN, MRNN.replace('m-RNN', 'UVSE (Kiros et al.)'),
           'UVSE (Kiros et al.) is there twice with the same encoders, first in line'))


@pytest.mark.parametrize('mistake', MISTAKES)
def test_a_mistake_is_refused_by_name_and_line(tmp_path, mistake):
    find,replace,message = MISTAKES[mistake]
    file,line = broken(tmp_path, find, replace)
    line += find.startswith('\n')
    with pytest.raises(InputError, match=re.escape(f'{file}, line {line}: {message}')):
        read_published(file)


def execute(notebook, parameters):
    "Run the code of a notebook in this process, as papermill would run it in another"
    names = {}
    for cell in json.loads(notebook.read_text())['cells']:
        if cell['cell_type']!='code':
            continue
        exec(''.join(cell['source']), names)
        if 'parameters' in cell['metadata'].get('tags', []):
            names |= parameters


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "All tables, made again from the committed records and published files"
    folder = tmp_path_factory.mktemp('comparison')
    for dataset in dict(TABLES):
        records = ROOT/f'data/results/{dataset}'
        places = dict(records=str(records) if records.is_dir() else '', output=str(folder))
        execute(ROOT/'nbs/experiments/table_comparison.ipynb', places|dict(dataset=dataset))
    return folder


def test_all_tables_are_committed(made):
    assert sorted(p.name for p in made.iterdir())==sorted(p.name for p in COMMITTED.iterdir())


@pytest.mark.parametrize('stem', STEMS)
def test_committed_tables_are_what_the_files_give(made, stem):
    new,old = pd.read_csv(made/f'{stem}.csv'),pd.read_csv(COMMITTED/f'{stem}.csv')
    pd.testing.assert_frame_equal(new, old, rtol=1e-9)
    for suffix in ('md','tex'):
        name = f'{stem}.{suffix}'
        assert (made/name).read_text()==(COMMITTED/name).read_text(), f'{name}: make it again with `amsps compare`'


@pytest.mark.parametrize('dataset,split', TABLES)
def test_our_rows(dataset, split):
    table = pd.read_csv(COMMITTED/f'{table_stem(dataset, split)}.csv').set_index('method')
    ours = table[table.ours]
    assert {f'{name} (ours)' for name in expected_rows()}<=set(ours.index)
    assert table.ours.is_monotonic_increasing, 'ours come after all others'
    columns = [c for c in ours if c.startswith(('i2t', 't2i', 'rSum')) and not c.endswith(' sd')]
    empty = ours[columns].isna().all(axis=1)
    assert (ours[columns].notna().all(axis=1)|empty).all()
    assert (empty==ours['filled by'].notna()).all()
    command = f'amsps reproduce --dataset {dataset} --table comparison --data-root DIR'
    assert (ours.loc[empty, 'filled by']==command).all()
    assert ours.loc[~empty, ['seeds','image backbone','text encoder']].notna().all(axis=None)


def test_flickr8k_has_all_our_rows():
    assert expected_rows()==['Hardest triplet', 'InfoNCE', 'AHRL', 'AMSPS']
    table = committed('table_comparison_flickr8k').set_index('method')
    assert not table.loc[[f'{name} (ours)' for name in expected_rows()], 'filled by'].any()


@pytest.mark.parametrize('stem', STEMS)
def test_latex_is_whole(stem):
    tex = (COMMITTED/f'{stem}.tex').read_text()
    assert tex.isascii()
    plain = re.sub(r'\\[&%$#_{}\\]', '', re.sub(r'^%.*$', '', tex, flags=re.M))
    assert plain.count('{')==plain.count('}')
    assert plain.replace(r'$\pm$', '').count('$')==0
    assert not re.search('[#_~^%]', re.sub(r'\\label\{[^}]*\}', '', plain))
    columns = len(re.search(r'\\begin\{longtable\}\{(\w+)\}', tex)[1])
    heads = (r'\caption', r'\multicolumn')
    rows = [l for l in tex.splitlines() if l.endswith(r'\\') and not l.startswith(heads)]
    assert {len(re.findall(r'(?<!\\)&', l))+1 for l in rows}=={columns}
    assert len(rows)==len(committed(stem))+2, 'two heads'
