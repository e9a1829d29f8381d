"""What giving candidates up saves: those that can change neither the search nor the front of score and MACs.

    python benchmarks/give_up.py [--config search/demo.yaml] [--repeats 3] [--batch 32] [key=value ...]

Trains the config's supernet once, then searches with and without giving up, in turn, with the same supernet
and the same seeds. Prints the share of evaluated images, the ratio of CPU times, and whether the winner and
the front are the same.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from search.candidates import SUPERNET, search
from search.config import load_config
from search.phases import train_supernet
from search.problem import Problem, versions
from search.run import Run, Unrecorded
from zoo.registry import config_path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--config', default='search/demo.yaml')
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--batch', type=int, default=32, help='images at once, the grain of giving up')
    parser.add_argument('overrides', nargs='*', metavar='key=value')
    args = parser.parse_args()

    path = Path(args.config) if Path(args.config).exists() else config_path(args.config)
    problems = {}
    for give_up in (False, True):
        overrides = [f'search.give_up={str(give_up).lower()}', f'search.batch_size={args.batch}']
        problems[give_up] = Problem(load_config(path, [*args.overrides, *overrides]))
    store = train_supernet(problems[True], Unrecorded())
    total = len(problems[True].data.images('val'))
    for repeat in range(args.repeats):
        found, seconds = {}, {}
        for give_up in (False, True) if repeat % 2 else (True, False):
            found[give_up], seconds[give_up] = run_search(problems[give_up], store)
        records = found[True]['candidates']
        images = sum(record.get('images', total) for record in records) / (total * len(records))
        dropped = sum('images' in record for record in records)
        same = found[True]['best'] == found[False]['best']
        front = find_front(records) == find_front(found[False]['candidates'])
        print(
            f'{dropped} of {len(records)} candidates given up, {100 * images:.0f} % of the images evaluated, '
            f'{seconds[True]:.1f} s of CPU against {seconds[False]:.1f} s: ratio '
            f'{seconds[True] / seconds[False]:.2f}; same winner: {same}, same front: {front}'
        )


def run_search(problem: Problem, store: bytes) -> tuple[dict[str, Any], float]:
    with (
        tempfile.TemporaryDirectory() as folder,
        Run(folder, problem.config.decisive(), versions(), 1e9, quiet=True) as run,
    ):
        Path(folder, SUPERNET).write_bytes(store)
        started = time.process_time()
        found = json.loads(search(problem, run))
        return found, time.process_time() - started


def find_front(records: list[dict[str, Any]]) -> set[tuple[int, ...]]:
    """Candidates of which no other has at most as many MACs and a higher score."""
    return {
        tuple(a['genotype'])
        for a in records
        if not any(b['macs'] <= a['macs'] and b['score'] > a['score'] for b in records)
    }


if __name__ == '__main__':
    main()
