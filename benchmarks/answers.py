"""What answers of people change: runs on scenes with 0, 100, 300 and 1,000 answers of the exact relevance, about
active and random pairs, over ten seeds; and with every match told, which no more answers can exceed.

    python benchmarks/answers.py --folder DIR [--answers 100 300 1000] [--seeds 10] [--images 1000]

Each setting adds a line to DIR/answers.jsonl as soon as it is finished. The same command continues where it stopped:
settings that have a line are left out, runs that are finished are read, interrupted ones resume. At the end the mean
differences over the seeds are printed, with standard errors, and all lines are written as DIR/answers.csv."""
import argparse
import json
from pathlib import Path
import numpy as np
import pandas as pd
from amsps.companion.answers import ORDERS, answer_metrics, train_with_answers
from amsps.companion.config import parse_config
from amsps.companion.datasets import load_data
from amsps.companion.grid import row_parameters
from amsps.training import append_line

KEPT = ('seed', 'how', 'answers', 'images')


def read_lines(file):
    "Finished settings; a torn line is none"
    def parsed(line):
        try: return json.loads(line)
        except ValueError: return None
    lines = file.read_text('utf-8').splitlines() if file.exists() else []
    return [x for x in map(parsed, lines) if isinstance(x, dict) and set(KEPT)<=set(x)]


def run_setting(setting, folder, row):
    "A line of the log"
    own = dict(seed=setting['seed'], scenes_train=setting['images'], cache_dir=str(folder/'cache'))
    config = parse_config(row_parameters(row, 'scenes')|own)
    file = folder/'answers-{seed}-{how}-{answers}-{images}.csv'.format(**setting)
    run = train_with_answers(config, load_data(config), setting['answers'], setting['how'], file)
    return setting|answer_metrics(run)|dict(commit=run.after['environment']['commit'])


def print_means(lines):
    "Mean and standard error of what answers change"
    for how,n in sorted({(x['how'], x['answers']) for x in lines}):
        of = [x for x in lines if (x['how'], x['answers'])==(how, n)]
        print(f'{how:7}{f"{n:6,} answers" if n else "every match"}, {len(of)} seeds', end='')
        for name in ('map_at_r', 'precision', 'reinforced'):
            change = np.array([x[f'after_{name}']-x[f'before_{name}'] for x in of])
            error = change.std(ddof=1)/len(of)**.5 if len(of)>1 else np.nan
            print(f'   {name} {change.mean():+.3f} ± {error:.3f}', end='')
        print()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--folder', type=Path, required=True)
    parser.add_argument('--answers', type=int, nargs='+', default=[100, 300, 1000])
    parser.add_argument('--seeds', type=int, default=10)
    parser.add_argument('--images', type=int, default=1000)
    parser.add_argument('--row', default='AHRL')
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    file = args.folder/'answers.jsonl'
    finished = [{k:x[k] for k in KEPT} for x in read_lines(file)]
    kinds = [(h, n) for n in args.answers for h in ORDERS]+[('all', 0)]
    for seed in range(args.seeds):
        for setting in (dict(seed=seed, how=h, answers=n, images=args.images) for h,n in kinds):
            if setting in finished: continue
            line = run_setting(setting, args.folder, args.row)
            append_line(file, json.dumps(line))
            print(json.dumps(line))
    lines = read_lines(file)
    print_means(lines)
    pd.DataFrame(lines).to_csv(args.folder/'answers.csv', index=False, float_format='%.4f', lineterminator='\n')


if __name__=='__main__': main()
