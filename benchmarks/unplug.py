"""Kill a grid and its report at random moments, start it again, and compare everything with an undisturbed run.

    python benchmarks/unplug.py 50 [SEED]

Prints one line per kill with what it hit, then a summary. The exit code is 1 if anything differs by a byte."""
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
import psutil

TINY = dict(scenes_train=60, scenes_dev=20, scenes_test=30, embed_size=16, word_size=8, region_hidden=0, epochs=8,
            patience=8, warmup_epochs=1, active_from=2, refresh=2, dropout=.1)
OUTPUTS = ('table_levels', 'figure_map')
# Of a record: time and place
NOT_COMPARED = ('resumed', 'earlier', 'wall_seconds', 'cpu_seconds', 'peak_memory_mib', 'finished', 'environment')


def tiny_rows(cache, seeds):
    "Two rows of the grid, made small"
    from amsps.companion.grid import grid_rows
    rows = grid_rows('scenes', ('figure_map', 'figure_similarity'), 1, cache_dir=str(cache), **TINY)
    wanted = [r for r in rows if r.name in ('Hardest triplet', 'AMSPS')]
    return [replace(r, config=r.config.model_copy(update=TINY), seeds=seeds) for r in wanted]


def work(cache, out, seeds=1):
    "Make the runs, and their report if `out` is given; returns the failures"
    from amsps.companion.report import make_report
    from amsps.companion.schedule import plan_runs, run_grid
    failures = run_grid(plan_runs(tiny_rows(cache, seeds)), 2)
    if out:
        failures += make_report(cache/'runs', out, cache/'notebooks', outputs=OUTPUTS)
    return failures


def work_alone(cache, out, seeds):
    "`work` as a process of its own"
    from amsps.companion.kernels import warm_up
    warm_up()
    from transformers.utils import logging
    os.environ['TOKENIZERS_PARALLELISM'] = 'false'
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    failures = work(Path(cache), Path(out) if out else None, int(seeds))
    for failure in failures:
        print(failure)
    sys.exit(bool(failures))


def start(cache, out, log, seeds=1):
    "Start `work` in a process of its own; without `out` it makes no report"
    command = [sys.executable, __file__, '--work', str(cache), str(out or ''), str(seeds)]
    return psutil.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def kill_family(process):
    "kill -9 a process, its workers and their kernels"
    try:
        family = [*process.children(recursive=True), process]
    except psutil.NoSuchProcess:
        return
    for p in family:
        try:
            p.kill()
        except psutil.NoSuchProcess:
            pass # it had ended by itself
    psutil.wait_procs(family, timeout=30)


def is_newer(file, since):
    try:
        return file.stat().st_mtime>since
    except OSError:
        return False # renamed meanwhile


def trains(cache, since):
    "Whether a run has written anything since a time"
    return any(is_newer(f, since) for f in (cache/'runs').glob('*.partial/*'))


def phase(cache, since):
    "What a process does that was started at a time"
    partial = list((cache/'runs').glob('*.partial'))
    def has(name):
        return any((f/name).exists() for f in partial)
    if any(is_newer(f, since) for f in (cache/'notebooks').glob('*.new')):
        return 'rendering'
    if not trains(cache, since):
        return 'starting, or between runs'
    if has('record.json.tmp') or has('model'):
        return 'writing a record'
    if has('mined.tmp.npz'):
        return 'writing what was mined'
    return 'training, active' if has('mining.jsonl') else 'training, before the first pass'


def comparable(record):
    "A record without time and place"
    kept = {k:v for k,v in record.items() if k not in NOT_COMPARED}
    mining = [{k:v for k,v in m.items() if k!='seconds'} for m in record['mining']]
    return json.dumps(kept | dict(mining=mining))


def everything(cache, out):
    "What must be equal: records, weights, tables and figures"
    found = {}
    for f in sorted((cache/'runs').glob('*/record.json')):
        name = f.parent.name
        found[f'record {name}'] = comparable(json.loads(f.read_text('utf-8')))
        found[f'weights {name}'] = (f.parent/'model/model.safetensors').read_bytes()
    for f in sorted(out.iterdir()) if out else ():
        if f.suffix in ('.md', '.tex', '.csv', '.pdf', '.png'):
            found[f.name] = f.read_bytes()
    return found


def differences(expected, found):
    "Lines on what differs, is missing or is there in addition"
    differs = [f'{k} differs' for k in expected if found.get(k)!=expected[k]]
    return differs+[f'{k} is additional' for k in found if k not in expected]


def finish(cache, log):
    "Run to the end without a kill"
    if start(cache, cache/'out', log).wait():
        text = Path(log.name).read_text('utf-8')
        raise SystemExit(f'it failed: {text[-3000:]}')
    return everything(cache, cache/'out')


def wait_to_kill(process, cache, since, rng, took, odd):
    "Wait until a random moment; True if the process ended before"
    moment = rng.uniform(.15, 1)*took # any moment
    if not odd: # a moment of training, which is the shorter part of such small runs
        while process.poll() is None and not trains(cache, since):
            time.sleep(.02)
        moment = rng.uniform(0, 2)
    try:
        process.wait(moment)
    except psutil.TimeoutExpired:
        return False
    return True


def unplug(kills, seed, folder, say=print):
    "Differences from an undisturbed run after so many kills, and a count of what the kills hit"
    rng,hit = random.Random(seed),Counter()
    with open(folder/'log', 'w', encoding='utf-8') as log:
        begun = time.monotonic()
        expected = finish(folder/'a', log)
        took = time.monotonic()-begun
        say(f'undisturbed: {took:.0f} s')
        rounds,wrong = 0,[]
        while kills or not rounds:
            cache,ended = folder/f'b{rounds}',False
            while kills and not ended:
                since = time.time()
                process = start(cache, cache/'out', log)
                ended = wait_to_kill(process, cache, since=since, rng=rng, took=took, odd=kills%2)
                if not ended:
                    at = phase(cache, since)
                    kill_family(process)
                    hit[at] += 1
                    kills -= 1
                    say(f'killed: {at} ({kills} to go)')
            found = finish(cache, log)
            rounds += 1
            wrong += [f'round {rounds}: {d}' for d in differences(expected, found)]
            say(f'round {rounds}: {len(found)} things compared, {wrong or "all equal"}')
    return wrong,hit


def main(kills=50, seed=0):
    with tempfile.TemporaryDirectory() as folder:
        wrong,hit = unplug(int(kills), int(seed), Path(folder))
    print('hit: '+', '.join(f'{n} {what}' for what,n in hit.most_common()))
    print('\n'.join(wrong) or 'everything equal, byte by byte')
    sys.exit(bool(wrong))


if __name__=='__main__':
    if sys.argv[1:2]==['--work']:
        work_alone(*sys.argv[2:])
    else:
        main(*sys.argv[1:])
