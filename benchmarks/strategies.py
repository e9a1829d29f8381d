"""What a strategy costs per candidate: asking, telling and learning, without any evaluation.

    python benchmarks/strategies.py [--spaces uninet s3] [--candidates 400] [--repeats 5] [--restored 10000]

For every strategy and preset the mean time of a candidate over a search, as median and range over repeats
with different seeds; then the time to restore a strategy of many candidates from its state as JSON text, and
the size of that. One core; times are CPU times.
"""

import argparse
import json
import statistics
import time
from random import Random

import torch

from search.sampling import SpaceSampler
from search.seeding import derive_seed
from search.space import Genotype, Space
from search.spaces import load_space
from search.strategies import Strategy, make_strategy

STRATEGIES = {
    'random': {'name': 'random'},
    'evolution, spos': {'name': 'evolution', 'preset': 'spos'},
    'evolution, autoformer': {'name': 'evolution', 'preset': 'autoformer'},
    'ppo, fast': {'name': 'ppo', 'preset': 'fast'},
    'ppo, steady': {'name': 'ppo', 'preset': 'steady'},
}


def score(genotype: Genotype) -> float:
    return Random(derive_seed(*genotype)).random() + sum(genotype)


def search(strategy: Strategy, candidates: int) -> float:
    """CPU milliseconds a candidate."""
    spent = 0.0
    for _ in range(candidates):
        started = time.process_time()
        genotype = strategy.ask()
        spent += time.process_time() - started
        assert genotype is not None
        value = score(genotype)
        started = time.process_time()
        strategy.tell(genotype, value)
        spent += time.process_time() - started
    return 1000 * spent / candidates


def restore(data: dict, space: Space, candidates: int) -> tuple[float, int]:
    """CPU seconds from JSON text to the next candidate, and bytes of that text."""
    strategy = make_strategy(data, SpaceSampler(space), 0)
    search(strategy, candidates)
    text = json.dumps(strategy.state())
    started = time.process_time()
    again = make_strategy(data, SpaceSampler(space), 0)
    again.restore(json.loads(text))
    asked = again.ask()
    seconds = time.process_time() - started
    assert asked == strategy.ask()
    return seconds, len(text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--spaces', nargs='+', default=['uninet', 's3'])
    parser.add_argument('--candidates', type=int, default=400)
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--restored', type=int, default=10_000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.spaces:
        space = load_space(name).space
        print(f'{name}: {space.size():.3g} architectures of {len(space.choices)} choices')
        for label, data in STRATEGIES.items():
            times = [
                search(make_strategy(data, SpaceSampler(space), seed), args.candidates)
                for seed in range(args.repeats)
            ]
            line = f'{statistics.median(times):.2f} ms a candidate ({min(times):.2f} to {max(times):.2f})'
            if args.restored:
                seconds, size = restore(data, space, args.restored)
                line += f'; {args.restored:,} restored in {seconds:.2f} s from {size / 1e6:.1f} MB'
            print(f'  {label:<22} {line}')


if __name__ == '__main__':
    main()
