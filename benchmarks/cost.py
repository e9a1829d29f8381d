"""How fast candidates are counted and drawn within a budget.

    python benchmarks/cost.py [--space s3] [--size 224] [--candidates 20000] [--repeats 7]

Counting: the cost tables, one candidate at a time and in one batch, against building the network on the meta
device and counting what it executes; the costs are compared first. Drawing: uniformly from the whole space,
and within a loose and two tight budgets on MACs. One core; times are CPU times, of which the median and the
range over the repeats are printed.
"""

import argparse
import gc
import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from random import Random

import numpy as np
import torch

from search.budget import BudgetSampler, Limits
from search.cost import Cost
from search.sampling import Sampler, SpaceSampler
from search.space import Genotype
from search.spaces import load_space
from zoo.models import FAMILIES
from zoo.profile import profile

DRAWS = 200


def report(name: str, number: int, repeats: int, work: Callable[[], object]) -> float:
    """Prints and returns how many a second."""
    rates = []
    for _ in range(repeats):
        gc.collect()
        started = time.process_time()
        work()
        rates.append(number / (time.process_time() - started))
    median = statistics.median(rates)
    print(f'  {name:<58} {median:>12,.0f} a second ({min(rates):,.0f} to {max(rates):,.0f})')
    return median


def draw(sampler: Sampler) -> list[Genotype]:
    return [sampler.sample(Random(seed)) for seed in range(DRAWS)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--space', default='s3')
    parser.add_argument('--size', type=int, default=224)
    parser.add_argument('--candidates', type=int, default=20_000)
    parser.add_argument('--built', type=int, default=5)
    parser.add_argument('--repeats', type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)

    input_size = (3, args.size, args.size)
    family_space = load_space(args.space, input_size)
    space, model = family_space.space, family_space.cost_model(1000)
    rng = Random(0)
    genotypes = [space.sample(rng) for _ in range(args.candidates)]
    array = np.array(genotypes, np.int16)

    def build_and_count(genotype: Genotype) -> Cost:
        family = FAMILIES[family_space.family]
        arch, img_size = family_space.decode(genotype), input_size[1:]
        network = family.build(arch, family_space.family, img_size=img_size, device='meta')
        counted = profile(network, input_size)
        return Cost(counted.params, counted.macs)

    built = genotypes[: args.built]
    assert [model.cost(genotype) for genotype in built] == [build_and_count(genotype) for genotype in built]
    costs = model.costs(array)
    assert costs.tolist() == [list(model.cost(genotype)) for genotype in genotypes]

    print(f'{family_space.family}: {space.size():.4g} architectures of {len(space.choices)} choices')
    print('counting params and MACs (all ways agree)')
    single = report('tables, one by one', len(genotypes), args.repeats, lambda: [*map(model.cost, genotypes)])
    report('tables, a batch', len(genotypes), args.repeats, lambda: model.costs(array))
    slow = report('building and counting', len(built), args.repeats, lambda: [*map(build_and_count, built)])
    print(f'  one by one, {single / slow:,.0f} x the rate of building')

    print('drawing')
    middle, least = np.quantile(costs[:, 1], 0.5), np.quantile(costs[:, 1], 3e-4)
    width = 3e-4 / 2 * math.sqrt(2 * math.pi) * costs[:, 1].std()
    limits = {
        'half of the space': Limits(macs=(0, middle)),
        'the cheapest 0.03 %': Limits(macs=(0, least)),
        '0.03 % in the middle': Limits(macs=(middle - width, middle + width)),
    }
    report('uniform', DRAWS, args.repeats, partial(draw, SpaceSampler(space)))
    for name, limit in limits.items():
        started = time.process_time()
        sampler = BudgetSampler(model, limit)
        seconds = time.process_time() - started
        name = f'{name} (share {sampler.share():.2g}, made in {seconds:.2f} s)'
        report(name, DRAWS, args.repeats, partial(draw, sampler))


if __name__ == '__main__':
    main()
