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

from safetensors.torch import load, save

from search.config import RunConfig
from search.cost import Cost
from search.emit import entry_bytes, measure, weights_bytes
from search.evaluate import SupernetEvaluator
from search.problem import Problem, versions
from search.run import Run
from search.sampling import SpaceSampler, sandwich
from search.seeding import derive_seed
from search.space import Genotype
from search.supernet import Supernet
from search.training import Network, autocast, device
from zoo.errors import ZooError
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
        store = run.phase('supernet', 'supernet.safetensors', lambda: train_supernet(problem, run))
        found = json.loads(run.phase('search', 'search.json', lambda: search(problem, run, store)))
        genotype = tuple(found['best']['genotype'])
        weights = run.phase(
            'weights', f'{config.name}.safetensors', lambda: make_weights(problem, run, genotype, store)
        )
        cost = {
            'supernet_steps': problem.num_steps(config.supernet.recipe),
            'evaluations': len(found['candidates']),
        }
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
    config, space = problem.config.supernet, problem.space
    supernet = problem.make_supernet()
    sampler = SpaceSampler(space.space, config.sampling == 'hierarchical')

    def networks(step: int) -> list[Network]:
        rng = random.Random(derive_seed(problem.config.seed, 'supernet', step, 'sandwich'))
        drawn = sandwich(sampler, rng, config.random, config.largest, config.smallest)
        rate = config.recipe.drop_path_rate
        return [partial(supernet, space.decode(genotype), drop_path_rate=rate) for genotype in drawn]

    problem.train(supernet, networks, config.recipe, 'supernet', 'training the supernet', run)
    return save({key: value.detach().cpu() for key, value in supernet.store.items()})


def load_supernet(problem: Problem, store: bytes) -> Supernet:
    supernet = problem.make_supernet()
    supernet.load_state_dict({key.replace('.', '/'): value for key, value in load(store).items()})
    return supernet.to(device()).eval()


def search(problem: Problem, run: Run, store: bytes) -> bytes:
    """Scores candidates on the val split with inherited weights; gives all of them and the best."""
    config = problem.config.search
    supernet, where = load_supernet(problem, store), device()
    images, labels = problem.data.images('val').tensors(config.batch_size, problem.config.data.num_workers)
    evaluator = SupernetEvaluator(
        supernet,
        images.to(where),
        labels.to(where),
        config.batch_size,
        config.objective,
        partial(autocast, where, config.bf16),
    )
    strategy = problem.make_strategy()
    candidates: list[dict[str, Any]] = []
    if (state := run.load('search')) is not None:
        state = json.loads(state)
        strategy.restore(state['strategy'])
        candidates = state['candidates']
    best = find_best(candidates)
    with run.progress('searching', config.evaluations, len(candidates), 'network') as progress:
        while len(candidates) < config.evaluations:
            genotype = strategy.ask()
            if genotype is None:  # there are no more different networks
                break
            evaluation = evaluator(genotype)
            strategy.tell(genotype, evaluation.score)
            record = {'genotype': genotype, **problem.cost(genotype)._asdict(), 'score': strategy.scores[-1]}
            candidates.append(record | evaluation.metrics)
            best = find_best([best, candidates[-1]] if best else candidates[-1:])
            run.log('search', len(candidates), **{k: v for k, v in candidates[-1].items() if k != 'genotype'})
            progress.update(f'best {best["top1"]:.1f} %' if best else '')
            run.reached('search: candidate')
            if run.due() and len(candidates) < config.evaluations:
                run.save('search', json.dumps({'strategy': strategy.state(), 'candidates': candidates}))
    if best is None:
        raise ZooError(
            f'search: none of {len(candidates)} networks has a finite score; the supernet is of no use.'
        )
    space = problem.space.space
    return format_json({'space_size': str(space.size()), 'best': best, 'candidates': candidates}).encode()


def find_best(candidates: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The highest score; the fewest MACs, then the earliest, among equals."""
    scored = [candidate for candidate in candidates if candidate['score'] is not None]
    return max(scored, key=lambda candidate: (candidate['score'], -candidate['macs']), default=None)


def make_weights(problem: Problem, run: Run, genotype: Genotype, store: bytes) -> bytes:
    """The result's weights: trained from scratch, or the supernet's."""
    arch = problem.space.decode(genotype)
    if problem.config.weights == 'inherit':
        tensors = load_supernet(problem, store).extract(arch)
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

        return json.loads(run.phase(phase, f'comparison/{phase}.json', compute))

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
