"""How supernets on the digits rank networks, with and without the papers' rules of sampling and of sharing.

    OMP_NUM_THREADS=1 python benchmarks/correlation.py --out DIR [--families s3 ...] [--seeds 2]

For every family networks are drawn at random and trained alone, once for all its supernets and with several
seeds each. These trainings are short: at the end of the digits' long ones networks hardly differ, and what
does, does not repeat. So what is ranked is how fast networks learn. Then each supernet is trained with every
seed. Prints Kendall's tau-b and its 95 % bootstrap interval over the networks, of all of them and of the best
third. What is done stands in the folder: the same command continues, and two commands for different families
can run side by side.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from search.candidates import SUPERNET
from search.config import load_config
from search.correlation import CORRELATION, correlate
from search.phases import open_run, train_supernet
from search.problem import Problem
from search.tabulate import tabulate
from zoo.registry import config_path

NO_SANDWICH = ['supernet.largest=false', 'supernet.smallest=false', 'supernet.random=4', 'supernet.decay=all']
UNIFORM, NO_MHS = 'supernet.sampling=uniform', 'space.multi_head_sharing=false'
SANDWICH = [
    'supernet.largest=true',
    'supernet.smallest=true',
    'supernet.random=2',
    'supernet.recipe.epochs=15',
]
FAMILIES: dict[str, tuple[str, int, list[str], list[str], dict[str, list[str]]]] = {
    'trionet': (
        'search/trionet_digits.yaml',
        4,
        ['retrain.epochs=4', 'retrain.warmup_epochs=1'],
        [],
        {
            'HS, MHS, sandwich (paper)': [],
            'without HS': [UNIFORM],
            'without MHS': [NO_MHS],
            'without sandwich': NO_SANDWICH,
            'without all three': [UNIFORM, NO_MHS, *NO_SANDWICH],
        },
    ),
    'glit': (
        'search/glit_digits.yaml',
        2,
        ['levels=1', 'retrain.epochs=8', 'retrain.warmup_epochs=1'],
        ['levels=1'],
        {
            'single path, own tensors (paper)': ['space.sharing=candidate'],
            'single path, shared tensors': [],
            'sandwich, own tensors': ['space.sharing=candidate', *SANDWICH],
            'sandwich, shared tensors': SANDWICH,
        },
    ),
    's3': (
        'search/demo.yaml',
        2,
        ['retrain.epochs=20', 'retrain.warmup_epochs=2', 'retrain.lr=5e-3'],
        [],
        {'sandwich (paper)': [], 'without sandwich': NO_SANDWICH},
    ),
}
"""Config; trainings of each network; changes of the config for these; for all supernets; for each of them.
All of a family take equally many passes of a network through the data: a sandwich has a quarter of the steps
of a single path."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--families', nargs='+', choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument('--seeds', type=int, default=2)
    parser.add_argument('--networks', type=int, default=50)
    args = parser.parse_args()

    for family in args.families:
        config, trainings, alone, common, variants = FAMILIES[family]
        table = tabulate(
            load_config(config_path(config), alone),
            args.out / family / 'alone',
            args.networks,
            args.networks,
            trainings,
        )
        print(f'{family}: {args.networks} networks of {config}')
        for name, overrides in variants.items():
            folder = args.out / family / name.replace(' ', '_')
            records = [
                measure(config, [*common, *overrides], seed, folder / f'seed{seed}', table)
                for seed in range(args.seeds)
            ]
            print(describe(name, records), flush=True)
        print(
            f'  two trainings of one network correlate with {records[0]["repeatability"]:.2f}; with means of '
            f'{trainings} the true order would have a tau of about {records[0]["ceiling"]:.2f}'
        )


def measure(config: str, overrides: Sequence[str], seed: int, folder: Path, table: Path) -> dict[str, Any]:
    """Trains a supernet, unless it is there, and ranks the table's networks by it."""
    problem = Problem(load_config(config_path(config), [*overrides, f'seed={seed}']))
    if not (path := folder / CORRELATION).is_file():
        with open_run(problem, folder) as run:
            run.phase('supernet', SUPERNET, partial(train_supernet, problem, run), together=True)
        correlate(folder, table=table)
    record: dict[str, Any] = json.loads(path.read_bytes())
    return record


def describe(name: str, records: Sequence[dict[str, Any]]) -> str:
    """A line for all supernets of a kind: tau for each seed, with its interval."""
    columns = []
    for end in ('', '_top_third'):
        taus = [record[f'tau{end}'] for record in records]
        each = ', '.join(
            '{:+.2f} [{:+.2f}, {:+.2f}]'.format(r[f'tau{end}'], *r[f'interval{end}']) for r in records
        )
        columns.append(f'{statistics.mean(taus):+.2f} ({each})')
    return f'  {name:34} tau {columns[0]}   best third {columns[1]}'


if __name__ == '__main__':
    main()
