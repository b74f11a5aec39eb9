"Some hundred damaged inputs; `python benchmarks/fuzz.py --minutes 10` tries many more."
import warnings
import pytest
from conftest import ROOT


@pytest.mark.parametrize('loop', ['pictures', 'text', 'headers'])
def test_damaged_inputs_are_refused(loop, monkeypatch, capfd):
    "A file is read or refused with one message; another set of seeds than that of the benchmark's default"
    monkeypatch.syspath_prepend(str(ROOT/'benchmarks'))
    import fuzz
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        done,read,failed = fuzz.run(loop, range(10**6, 10**6+200), seconds=60, keep=None)
    assert not failed
    assert done>100 and 0<read<done


def test_an_error_is_reported(monkeypatch, tmp_path, capfd):
    monkeypatch.syspath_prepend(str(ROOT/'benchmarks'))
    import fuzz
    def broken(home):
        def trial(seed, folder):
            (folder/'x').touch()
            if seed==2:
                raise KeyError('x')
        return trial
    monkeypatch.setitem(fuzz.LOOPS, 'text', broken)
    assert fuzz.run('text', range(4), seconds=9, keep=tmp_path)[2]==[(2, "KeyError: 'x'")]
    assert (tmp_path/'text-2/x').exists()
    assert 'text seed 2' in capfd.readouterr().out
