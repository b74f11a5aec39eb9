"""Pull the plug at random moments: kill -9 a grid and its report, start again, and compare everything with an undisturbed run, byte by byte.

    python benchmarks/unplug.py 50 [SEED]

Prints one line a kill, with what it hit, and a summary; exit code 1 if anything differs."""
import json, random, subprocess, sys, tempfile, time
from collections import Counter
from pathlib import Path
import psutil

TINY = dict(scenes_train=60, scenes_dev=20, scenes_test=30, embed_size=16, word_size=8, region_hidden=0, epochs=8, patience=8, warmup_epochs=1, active_from=2, refresh=2, dropout=.1)
OUTPUTS = ('table_levels', 'figure_map')
NOT_COMPARED = ('resumed', 'wall_seconds', 'cpu_seconds', 'peak_memory_mib', 'finished', 'environment') # of a record: time and place

def work(cache, out, seeds):
    "The grid and the report, as `amsps reproduce` makes them"
    import os
    from multiprocessing import forkserver
    from amsps.companion.kernels import fork_server
    fork_server(); forkserver.ensure_running() # it imports while this process does
    from transformers.utils import logging
    os.environ['TOKENIZERS_PARALLELISM'] = 'false'; logging.set_verbosity_error(); logging.disable_progress_bar()
    from amsps.companion.reproduction import gather_records
    from amsps.companion.grid import grid_rows
    from amsps.companion.report import make_report
    from amsps.companion.schedule import plan_runs, run_grid
    rows = [r for r in grid_rows('scenes', ('figure_map','figure_similarity'), 1, cache_dir=str(cache), **TINY) if r.name in ('Hardest triplet','AMSPS')]
    rows = [type(r)(r.name, r.feeds, r.config.model_copy(update=TINY), seeds) for r in rows] # the grid's own settings of a row come last
    plan = plan_runs(rows)
    failures = run_grid(plan, 2)
    gather_records(plan, None, cache/'records')
    failures += make_report(cache/'records', out, cache/'notebooks', outputs=OUTPUTS)
    for f in failures: print(f)
    sys.exit(bool(failures))

def start(cache, out, log):
    return psutil.Popen([sys.executable, __file__, '--work', str(cache), str(out), '1'], stdout=log, stderr=subprocess.STDOUT)

def family(p): # a process, its workers and their kernels
    try: return [*p.children(recursive=True), p]
    except psutil.NoSuchProcess: return []

def kill(p):
    try: p.kill()
    except psutil.NoSuchProcess: pass # it had ended by itself

def newer(file, since):
    try: return file.stat().st_mtime>since
    except OSError: return False # renamed meanwhile

def trains(cache, since):
    "Whether a run has written anything since a time"
    return any(newer(f, since) for f in (cache/'runs').glob('*.partial/*'))

def phase(cache, since):
    "What is going on in a process that was started at a time"
    partial = list((cache/'runs').glob('*.partial'))
    if any(newer(f, since) for f in (cache/'notebooks').glob('*.new')): return 'rendering'
    if not trains(cache, since): return 'starting, or between runs'
    if any((f/'record.json.tmp').exists() or (f/'model').exists() for f in partial): return 'writing a record'
    if any((f/'mined.tmp.npz').exists() for f in partial): return 'writing what was mined'
    if any((f/'mining.jsonl').exists() for f in partial): return 'training, active'
    return 'training, before the first pass'

def everything(cache, out):
    "What must be equal: records but for time and place, weights, tables, figures"
    found = {}
    for f in sorted((cache/'runs').glob('*/record.json')):
        record = {k:v for k,v in json.loads(f.read_text()).items() if k not in NOT_COMPARED}
        record['mining'] = [{k:v for k,v in m.items() if k!='seconds'} for m in record['mining']]
        found[f'record {f.parent.name}'] = json.dumps(record)
        found[f'weights {f.parent.name}'] = (f.parent/'model/model.safetensors').read_bytes()
    for f in sorted(out.iterdir()):
        if f.suffix in ('.md','.tex','.csv','.pdf','.png'): found[f.name] = f.read_bytes()
    return found

def unplug(kills, seed, folder, say=print):
    "Differences from an undisturbed run after so many kills; what the kills hit"
    rng,hit = random.Random(seed),Counter()
    with open(folder/'log', 'w') as log:
        begun = time.monotonic()
        if start(folder/'a', folder/'a/out', log).wait(): raise SystemExit(f'the undisturbed run failed: {(folder/"log").read_text()[-2000:]}')
        took = time.monotonic()-begun
        say(f'undisturbed: {took:.0f} s')
        expected,rounds,wrong = everything(folder/'a', folder/'a/out'),0,[]
        while kills or not rounds:
            cache = folder/f'b{rounds}'; ended = False
            while kills and not ended:
                since = time.time(); p = start(cache, cache/'out', log)
                if kills%2: moment = rng.uniform(.15, 1)*took # any
                else: # while it trains, which is the shorter part of runs as small as these
                    while p.poll() is None and not trains(cache, since): time.sleep(.02)
                    moment = rng.uniform(0, 2)
                try: p.wait(moment); ended = True # before the plug was pulled
                except psutil.TimeoutExpired:
                    at = phase(cache, since)
                    everyone = family(p)
                    for x in everyone: kill(x)
                    psutil.wait_procs(everyone, 30); kills -= 1; hit[at] += 1; say(f'killed: {at} ({kills} to go)')
            if start(cache, cache/'out', log).wait(): raise SystemExit(f'after the kills it failed: {(folder/"log").read_text()[-3000:]}')
            found = everything(cache, cache/'out'); rounds += 1
            wrong += [f'round {rounds}: {k} differs' for k in expected if found.get(k)!=expected[k]]+[f'round {rounds}: {k} is more' for k in found if k not in expected]
            say(f'round {rounds}: {len(found)} things compared, {"all equal" if not wrong else wrong}')
    return wrong,hit

if __name__=='__main__':
    if sys.argv[1:2]==['--work']: work(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
    else:
        with tempfile.TemporaryDirectory() as d: wrong,hit = unplug(int(sys.argv[1]) if sys.argv[1:] else 50, int(sys.argv[2]) if sys.argv[2:] else 0, Path(d))
        print('hit: '+', '.join(f'{n} {k}' for k,n in hit.most_common())+f"\n{'everything equal, byte by byte' if not wrong else chr(10).join(wrong)}")
        sys.exit(bool(wrong))
