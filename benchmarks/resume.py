"""How long a run with many candidates takes to go on after it was stopped.

    python benchmarks/resume.py [--candidates 10000]

For each strategy: searches a table of made-up scores, is stopped by a signal one candidate before the end,
and is begun again in a new process. Prints the seconds from there until that candidate has been evaluated,
without the imports (which are printed, too), and the size of the checkpoint.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BEGAN = time.perf_counter()

from search.config import parse_config  # noqa: E402
from search.methods import one_shot  # noqa: E402
from search.run import Interrupted  # noqa: E402
from search.spaces import load_space  # noqa: E402

IMPORTED = time.perf_counter()
STAGE = {'embed_dim': [8, 16], 'depth': [2], 'window_size': [2, 4], 'num_heads': [1, 2], 'mlp_ratio': [1, 2]}
SPACE = {'family': 's3', 'stages': [STAGE, STAGE]}
STRATEGIES = {
    'random': {'name': 'random'},
    'evolution': {'name': 'evolution', 'preset': 'spos'},
    'ppo': {'name': 'ppo'},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--candidates', type=int, default=10_000)
    parser.add_argument('--go-on', nargs=2, metavar=('STRATEGY', 'DIR'), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.go_on:
        strategy, folder = args.go_on
        print(json.dumps(search(strategy, Path(folder), args.candidates, 1)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_table(Path(folder, 'table.jsonl'))
        for strategy in STRATEGIES:
            first = search(strategy, Path(folder), args.candidates, args.candidates - 1)
            command = [sys.executable, __file__, '--candidates', str(args.candidates)]
            done = subprocess.run(
                [*command, '--go-on', strategy, folder], check=True, stdout=subprocess.PIPE
            ).stdout
            again = json.loads(done)
            size = Path(folder, strategy, 'checkpoint.pt').stat().st_size
            print(
                f'{strategy}: {args.candidates - 1:,} candidates in {first["seconds"]:.1f} s; going on '
                f'{again["seconds"]:.2f} s after imports of {again["imports"]:.1f} s; checkpoint of '
                f'{size / 1e6:.1f} MB',
                flush=True,
            )


def write_table(path: Path) -> None:
    space = load_space(SPACE, (1, 32, 32)).space
    rng = random.Random(0)
    with path.open('w') as file:
        for genotype in space.enumerate():
            file.write(json.dumps({'genotype': genotype, 'metrics': {'top1': rng.random()}}) + '\n')


def search(strategy: str, folder: Path, candidates: int, stop: int) -> dict[str, float]:
    """Searches until so many candidates more have been evaluated; gives the seconds that took."""
    began = time.perf_counter()
    seen = 0

    def fault(point: str) -> None:
        nonlocal seen
        seen += (is_candidate := point == 'search: candidate')
        if is_candidate and seen == stop:
            os.kill(os.getpid(), signal.SIGINT)

    config = parse_config(
        {
            'name': 'resumed',
            'input': {'size': [1, 32, 32], 'mean': [0.3], 'std': [0.35]},
            'space': SPACE,
            'search': {
                'evaluator': {'kind': 'table', 'file': str(folder / 'table.jsonl')},
                'strategy': STRATEGIES[strategy],
                'evaluations': candidates + 1,
            },
            'retrain': {'epochs': 1, 'batch_size': 64, 'lr': 0.01},
            'checkpoint_seconds': 1e9,
        }
    )
    try:
        one_shot(config, folder / strategy, fault=fault, quiet=True)  # type: ignore[arg-type]
    except Interrupted:
        return {'seconds': time.perf_counter() - began, 'imports': IMPORTED - BEGAN}
    raise RuntimeError('the run was not stopped')


if __name__ == '__main__':
    main()
