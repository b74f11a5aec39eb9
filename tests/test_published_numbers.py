"Published numbers and the committed comparison tables."
import csv, re
from itertools import pairwise
import pandas as pd, pytest
from amsps.errors import InputError
from amsps.companion.published import NAMES, OURS, SIX, TABLES, comparison_table, make_comparison, read_published, read_published_relevance, table_stem
from conftest import ROOT

RESULTS,RELEVANCE = (ROOT/'data/published'/f for f in ('results.csv','eccv_caption.csv'))
COMMITTED = ROOT/'figures/comparison'
STEMS = [table_stem(*t) for t in TABLES]

def committed(stem): return pd.read_csv(COMMITTED/f'{stem}.csv', keep_default_na=False)

def broken(tmp_path, find, replace):
    "The committed results with one change"
    text = RESULTS.read_text(); assert text.count(find)==1, find
    f = tmp_path/'results.csv'; f.write_text(text.replace(find, replace))
    return f,text[:text.index(find)].count('\n')+1

def test_committed_files_are_valid():
    p = read_published(RESULTS)
    assert p.groupby(['dataset','split']).size().to_dict()=={('flickr8k','test'):28, ('flickr30k','test'):178, ('mscoco','1k_5fold'):129, ('mscoco','5k'):117}
    assert len(read_published_relevance(RELEVANCE))==29
    with open(RESULTS, newline='') as f: rows = list(csv.DictReader(f))
    for r in rows: # once more, without the reader
        recalls = [float(r[c]) if r[c] else None for c in SIX]
        if None not in recalls: assert abs(sum(recalls)-float(r['rsum']))<1e-6, r['method']
        else: assert not r['rsum']
        for d in (recalls[:3], recalls[3:]): assert all(0<=a<=b<=100 for a,b in pairwise([x for x in d if x is not None])), r['method']
        assert r['source'] and r['ensemble']=='0'

def test_readme_counts_the_rows():
    words = (ROOT/'data/published/README.md').read_text()
    p = read_published(RESULTS)
    assert f'{len(p)} single models' in words and f'{len(read_published_relevance(RELEVANCE))} models on MSCOCO' in words
    left_out = [int(n) for n in re.findall(r'^- \*\*.*\*\* \((\d+)', words, re.M)]
    assert len(p)+sum(left_out)==645

def test_no_ensemble_in_a_table(tmp_path):
    f,line = broken(tmp_path, 'IMRAM [Text],2020,CVPR,flickr8k,test,BUTD,,0,', 'IMRAM [Text],2020,CVPR,flickr8k,test,BUTD,,1,')
    with pytest.raises(InputError, match=re.escape(f"{f}, line {line}: IMRAM [Text] has ensemble '1'")): read_published(f)
    p = read_published(RESULTS); p.loc[0,'ensemble'] = 1
    with pytest.raises(InputError, match='is not a single model'): comparison_table(p, [], 'flickr8k', 'test')
    single = set(read_published(RESULTS).method)|set(read_published_relevance(RELEVANCE).method)
    for stem in STEMS:
        t = committed(stem); shown = set(t[t.ours=='False'].method) if t.ours.dtype==object else set(t[~t.ours].method)
        assert shown<=single and not {m for m in shown if re.search(r'SGRAF|\[ALL\]|\[Full\]|star\]|dagger\]', m)}

def test_cvse_is_the_corrected_one():
    for stem,rsum in (('table_comparison_flickr30k', 482.5), ('table_comparison_mscoco_1k_5fold', 512.7)):
        t = committed(stem); rows = t[t.method=='CVSE']
        assert rows.rSum.astype(float).tolist()==[rsum] and rows.remark.tolist()==['corrected by its authors']
    for f in [RESULTS, *COMMITTED.iterdir()]: assert not re.search(r'\b487\.7\b|superseded', f.read_text()), f"{f.name} has CVSE's leaked result"
    assert 525.5 not in read_published(RESULTS).query("dataset=='mscoco' and split=='1k_5fold'").rsum.tolist()

@pytest.mark.parametrize('find,replace,message', [
    ('73.5,92.1,95.8,52.9,80.4,87.8,482.5', '73.5,92.1,95.8,52.9,80.4,87.8,482.6', 'CVSE has rsum 482.6, but its six recalls add up to 482.50'),
    ('73.5,92.1,95.8,52.9,80.4,87.8,482.5', '93.5,92.1,95.8,52.9,80.4,87.8,502.5', 'CVSE has i2t recalls that do not ascend'),
    ('73.5,92.1,95.8,52.9,80.4,87.8,482.5', '73.5,92.1,195.8,52.9,80.4,87.8,582.5', "CVSE has i2t_r10 '195.8'; expected a number from 0 to 100"),
    ('\nm-RNN,2015,ICLR,flickr8k,test,AlexNet,', '\nUVSE (Kiros et al.),2015,ICLR,flickr8k,test,AlexNet,', 'UVSE (Kiros et al.) is there twice with the same encoders, first in line')], ids=['sum','order','range','twice'])
def test_a_broken_file_is_refused_by_name_and_line(tmp_path, find, replace, message):
    f,line = broken(tmp_path, find, replace)
    line += find.startswith('\n')
    with pytest.raises(InputError, match=re.escape(f'{f}, line {line}: {message}')): read_published(f)

@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "All tables again, from the committed records and published files"
    folder = tmp_path_factory.mktemp('comparison')
    assert make_comparison(folder/'tables', folder/'cache')==[]
    return folder/'tables'

def test_committed_tables_are_what_the_files_give(made):
    assert sorted(p.name for p in made.iterdir())==sorted(p.name for p in COMMITTED.iterdir())
    for stem in STEMS:
        pd.testing.assert_frame_equal(pd.read_csv(made/f'{stem}.csv'), pd.read_csv(COMMITTED/f'{stem}.csv'), rtol=1e-9)
        for suffix in ('md','tex'): assert (made/f'{stem}.{suffix}').read_text()==(COMMITTED/f'{stem}.{suffix}').read_text(), f'{stem}.{suffix}: make it again with amsps.published.make_comparison'

def test_our_rows():
    for dataset,split in TABLES:
        t = pd.read_csv(COMMITTED/f'{table_stem(dataset, split)}.csv').set_index('method')
        ours = t[t.ours]; assert {f'{l} (ours)' for l in OURS}<=set(ours.index) and t.ours.is_monotonic_increasing # after all others
        numbers = ours[[c for c in ours if c.startswith(('i2t','t2i','rSum')) and not c.endswith(' sd')]]
        empty = numbers.isna().all(axis=1)
        assert (numbers.notna().all(axis=1)|empty).all() and (empty==ours['filled by'].notna()).all()
        assert (ours.loc[empty, 'filled by']==f'amsps reproduce --dataset {dataset} --table comparison --data-root DIR').all()
        assert ours.loc[~empty, ['seeds','image backbone','text encoder']].notna().all(axis=None)
    flickr8k = committed('table_comparison_flickr8k').set_index('method')
    assert not flickr8k.loc[[f'{l} (ours)' for l in OURS], 'filled by'].any()

@pytest.mark.parametrize('stem', STEMS)
def test_latex_is_whole(stem):
    tex = (COMMITTED/f'{stem}.tex').read_text()
    assert tex.isascii()
    bare = re.sub(r'\\[&%$#_{}\\]', '', re.sub(r'^%.*$', '', tex, flags=re.M))
    assert bare.count('{')==bare.count('}') and bare.replace(r'$\pm$', '').count('$')==0 and not re.search('[#_~^%]', re.sub(r'\\label\{[^}]*\}', '', bare))
    columns = len(re.search(r'\\begin\{longtable\}\{(\w+)\}', tex)[1])
    rows = [l for l in tex.splitlines() if l.endswith(r'\\') and not l.startswith((r'\caption', r'\multicolumn'))]
    assert {len(re.findall(r'(?<!\\)&', l))+1 for l in rows}=={columns} and len(rows)==len(committed(stem))+2 # two heads
