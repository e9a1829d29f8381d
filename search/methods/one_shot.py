"""One-shot search: train a supernet, search among its sub-networks, train what was found.

As in S3 (arXiv 2111.14725, Sec. 2.4): sandwich training without limits on cost, then a search under limits.
Each phase leaves a file in the run's folder and continues from there.
"""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import save

from search.candidates import SUPERNET, calibration, load_supernet, search
from search.config import RunConfig
from search.cost import Cost
from search.emit import entry_bytes, measure, weights_bytes
from search.measurements import read_latencies
from search.problem import Problem, versions
from search.run import Run
from search.sampling import SpaceSampler, sandwich
from search.seeding import derive_seed
from search.space import Genotype
from search.supernet import Supernet
from search.training import Network
from zoo.jsonfile import format_json

__all__ = ['Result', 'one_shot']


@dataclass(frozen=True)
class Result:
    """What a run found.

    Attributes:
        entry: The entry's file; its weights lie beside it.
        best: Of the search: genotype, params, macs, and the metrics with the supernet's weights.
        again: One record for each training of the result, the emitted one first.
        random: One for each random architecture of equal cost.
    """

    entry: Path
    best: dict[str, Any]
    again: list[dict[str, Any]]
    random: list[dict[str, Any]]


def one_shot(
    config: RunConfig, folder: Path | str, *, fault: Callable[[str], None] | None = None, quiet: bool = False
) -> Result:
    """Runs a config in a folder, or continues it there.

    Args:
        config: What to do.
        folder: See :class:`search.run.Run`, as for the other arguments.

    Raises:
        ZooError: The config cannot work (unknown data, infeasible limits), or the folder is of another run.
        Interrupted: The user asked to stop; the same call continues.
    """
    problem = Problem(config)
    with Run(folder, config.decisive(), versions(), config.checkpoint_seconds, fault, quiet) as run:
        if (latency := config.search.limits.latency) is not None:
            run.phase('latency', 'latency.jsonl', partial(read_latencies, latency.file))
        store = b''
        if config.supernet is not None:
            store = run.phase('supernet', SUPERNET, lambda: train_supernet(problem, run), together=True)
        found = json.loads(run.phase('search', 'search.json', lambda: search(problem, run)))
        genotype = tuple(found['best']['genotype'])
        weights = run.phase(
            'weights',
            f'{config.name}.safetensors',
            lambda: make_weights(problem, run, genotype, store),
            together=config.weights == 'retrain',
        )
        cost = {'evaluations': len(found['candidates'])}
        if config.supernet is not None:
            cost['supernet_steps'] = problem.num_steps(config.supernet.recipe)
        if config.weights == 'retrain' and config.retrain is not None:
            cost['retrain_steps'] = problem.num_steps(config.retrain)
        entry = run.phase(
            'entry',
            f'{config.name}.json',
            lambda: entry_bytes(problem, genotype, weights, cost, run.versions.get('commit')),
        )
        first = json.loads(entry)
        again, others = compare(problem, run, genotype, first)
    return Result(run.folder / f'{config.name}.json', found['best'], again, others)


def train_supernet(problem: Problem, run: Run) -> bytes:
    """Trains all sub-networks at once; gives the stored tensors."""
    config = problem.config.supernet
    assert config is not None
    supernet = problem.make_supernet()
    networks = partial(draw_networks, problem, supernet)
    problem.train(supernet, networks, config.recipe, 'supernet', 'training the supernet', run)
    return save({key: value.detach().cpu() for key, value in supernet.store.items()})


def draw_networks(problem: Problem, supernet: Supernet, step: int) -> list[Network]:
    """The sub-networks of a step: a sandwich, within operators that are drawn first where there are several
    (TrioNet, Sec. 3.4)."""
    config = problem.config.supernet
    assert config is not None
    hierarchical = config.sampling == 'hierarchical'
    rng = random.Random(derive_seed(problem.config.seed, 'supernet', step, 'sandwich'))
    space = problem.space.settle(rng, hierarchical)
    sampler = SpaceSampler(space.space, hierarchical)
    drawn = sandwich(sampler, rng, config.random, config.largest, config.smallest)
    rate = config.recipe.drop_path_rate
    return [partial(supernet, space.decode(genotype), drop_path_rate=rate) for genotype in drawn]


def make_weights(problem: Problem, run: Run, genotype: Genotype, store: bytes) -> bytes:
    """The result's weights: trained from scratch, or the supernet's."""
    arch = problem.space.decode(genotype)
    if problem.config.weights == 'inherit':
        supernet = load_supernet(problem, store)
        tensors = supernet.extract(arch, calibration(problem, supernet))
    else:
        assert problem.config.retrain is not None
        tensors = problem.train_alone(
            arch, problem.config.retrain, 'retrain', 'training the result', run
        ).state_dict()
    return weights_bytes(problem, arch, tensors)


def compare(
    problem: Problem, run: Run, genotype: Genotype, entry: dict[str, Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Trains the result with other seeds, and random architectures of nearly its MACs in the same way.

    Returns:
        A record (genotype, params, macs, metrics) for each training of the result, the emitted one first, and
        for each random architecture.
    """
    config, recipe = problem.config.compare, problem.config.retrain
    metrics = next(iter(entry['weights'].values()))['metrics']
    again = [{'genotype': list(genotype), **entry['measured'], **metrics}]
    if config is None or recipe is None:
        return again, []

    def train_and_measure(genotype: Genotype, phase: str, label: str) -> dict[str, Any]:
        def compute() -> bytes:
            arch = problem.space.decode(genotype)
            tensors = problem.train_alone(arch, recipe, phase, label, run).state_dict()
            cost = problem.cost(genotype)._asdict()
            return format_json({'genotype': genotype, **cost, **measure(problem, arch, tensors)}).encode()

        return json.loads(run.phase(phase, f'comparison/{phase}.json', compute, together=True))

    first = 1 if problem.config.weights == 'retrain' else 0
    for i in range(first, config.seeds):
        label = f'training the result again ({i + 1 - first}/{config.seeds - first})'
        again.append(train_and_measure(genotype, f'again{i}', label))
    drawn = draw_near(problem, genotype, config.random, config.macs_within)
    label = 'training a random network of equal cost'
    others = [
        train_and_measure(other, f'random{i}', f'{label} ({i}/{len(drawn)})')
        for i, other in enumerate(drawn, 1)
    ]
    return again, others


def draw_near(problem: Problem, genotype: Genotype, count: int, within: float) -> list[Genotype]:
    """Random different networks of nearly the same MACs; fewer than ``count`` if there are no more."""
    cost = Cost(*problem.cost(genotype))
    sampler = problem.sampler_near(cost, within)
    drawn = {problem.space.decode(genotype): genotype}
    for attempt in range(100 * count):
        rng = random.Random(derive_seed(problem.config.seed, 'compare', attempt))
        other = sampler.sample(rng)
        drawn.setdefault(problem.space.decode(other), other)
        if len(drawn) > count:
            break
    return list(drawn.values())[1:]
