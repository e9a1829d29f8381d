"""The phases that methods are made of. Each leaves a file in the run's folder and continues from there."""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

from search.baseline import score_again, score_random
from search.candidates import SUPERNET, calibration, load_supernet, search
from search.checklist import write_checklist
from search.config import OneShotConfig, RunConfig
from search.cost import Cost
from search.emit import entry_bytes, measure, weights_bytes
from search.fingerprint import describe_data
from search.measurements import read_latencies
from search.problem import Problem, versions
from search.run import Run, Unrecorded
from search.sampling import SpaceSampler, sandwich
from search.section import Section
from search.seeding import derive_seed
from search.space import Genotype
from search.spaces import FamilySpace
from search.supernet import Supernet
from search.training import Network
from zoo.jsonfile import format_json

__all__ = [
    'Result',
    'Trained',
    'compare',
    'count_cost',
    'draw_near',
    'draw_networks',
    'emit',
    'find',
    'open_run',
    'train_best',
    'train_rival',
    'train_supernet',
    'train_weights',
]

AnyRun = Run | Section
Record = dict[str, Any]


@dataclass(frozen=True)
class Result:
    """What a run found.

    Attributes:
        entry: The entry's file; its weights lie beside it.
        best: Of the search: genotype, params, macs, and the metrics that it was judged by.
        again: One record for each training of the result, the emitted one first.
        random: One for each random architecture of equal cost.
        family: Entries that were scaled from the result, if any.
    """

    entry: Path
    best: Record
    again: list[Record]
    random: list[Record]
    family: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Trained:
    """A network with its weights.

    Attributes:
        best: Its record among the candidates.
        weights: A safetensors file.
    """

    best: Record
    weights: bytes

    @property
    def genotype(self) -> Genotype:
        return tuple(self.best['genotype'])


@contextmanager
def open_run(
    problem: Problem, folder: Path | str, fault: Callable[[str], None] | None = None, quiet: bool = False
) -> Iterator[Run]:
    """A problem's run (see :class:`search.run.Run`), with the latencies that it goes by in its folder. At its
    end stand what data it saw (``data.json``) and what can be said about it (:mod:`search.checklist`)."""
    config = problem.config
    with Run(folder, config.decisive(), versions(), config.checkpoint_seconds, fault, quiet) as run:
        if (latency := config.search.limits.latency) is not None:
            run.phase('latency', 'latency.jsonl', partial(read_latencies, latency.file))
        yield run
        run.phase('data', 'data.json', partial(describe_data, problem.data, config.test))
        write_checklist(run.folder)


# ---- searching


def find(problem: Problem, run: AnyRun) -> list[Record]:
    """Trains the supernet, if there is one, and searches; then takes what tells how good the search is.

    Returns:
        The candidates that have a score, the best first; of equal ones the smaller, then the earlier.
    """
    if problem.has_supernet:
        run.phase('supernet', SUPERNET, partial(train_supernet, problem, run), together=True)
    found = json.loads(run.phase('search', 'search.json', partial(search, problem, run)))
    score_random(problem, run, found)
    score_again(problem, run, found)
    scored = [candidate for candidate in found['candidates'] if candidate['score'] is not None]
    return sorted(scored, key=lambda candidate: (-candidate['score'], candidate['macs']))


def train_supernet(problem: Problem, run: AnyRun | Unrecorded) -> bytes:
    """Trains all sub-networks at once; gives the stored tensors."""
    config = problem.supernet_config
    supernet = problem.make_supernet()
    recipe, penalty = config.recipe, None
    if config.decay == 'largest':
        penalty = partial(penalize_largest, problem, supernet)
        recipe = recipe.model_copy(update={'weight_decay': 0.0})
    networks = partial(draw_networks, problem, supernet)
    label = 'training the supernet'
    problem.train(supernet, networks, recipe, 'supernet', label, run, config.images, penalty)
    return save({key: value.detach().cpu() for key, value in supernet.store.items()})


def draw_networks(problem: Problem, supernet: Supernet, step: int) -> list[Network]:
    """The sub-networks of a step: a sandwich, within operators that are drawn first where there are several
    (TrioNet, Sec. 3.4)."""
    config = problem.supernet_config
    space, rng = _settle(problem, step)
    sampler = SpaceSampler(space.space, config.sampling == 'hierarchical')
    drawn = sandwich(sampler, rng, config.random, config.largest, config.smallest)
    rates = {name: getattr(config.recipe, name) for name in ('drop_path_rate', 'drop_rate')}
    return [partial(supernet, space.decode(genotype), **rates) for genotype in drawn]


def penalize_largest(problem: Problem, supernet: Supernet, step: int) -> torch.Tensor:
    """Weight decay on the largest sub-network of a step alone, as a penalty (TrioNet, appendix)."""
    recipe = problem.supernet_config.recipe
    space, _ = _settle(problem, step)
    arch = space.decode(space.space.largest())
    exempt: set[str] = supernet.subnet(arch).module.no_weight_decay()  # type: ignore[operator]
    tensors = supernet.tensors(arch)
    squares = [x.square().sum() for name, x in tensors.items() if x.ndim > 1 and name not in exempt]
    return recipe.weight_decay / 2 * torch.stack(squares).sum()


def _settle(problem: Problem, step: int) -> tuple[FamilySpace, random.Random]:
    """The subspace of the operators of a step, and the generator that drew them."""
    rng = random.Random(derive_seed(problem.config.seed, 'supernet', step, 'sandwich'))
    return problem.space.settle(rng, problem.supernet_config.sampling == 'hierarchical'), rng


# ---- training what was found


def train_best(problem: Problem, run: AnyRun, candidates: Sequence[Record]) -> Trained:
    """Trains the best candidates as the config says, and keeps the one that is then the best on val.

    GLiT trains five (Sec. 4.1), UniNet five too (Sec. 3.4).
    """
    config = problem.config
    top = config.top if isinstance(config, OneShotConfig) else 1
    if top == 1:
        weights = run.phase(
            'weights',
            f'{config.name}.safetensors',
            lambda: train_weights(problem, run, candidates[0]['genotype'], 'retrain', 'training the result'),
            together=config.weights != 'inherit',
        )
        return Trained(candidates[0], weights)
    rivals = [
        train_rival(problem, run, candidate, f'top{i}', f'training the best ({i}/{top})')
        for i, candidate in enumerate(candidates[:top], 1)
    ]
    best = max(rivals, key=lambda trained: trained.best['trained']['score'])
    weights = run.phase('weights', f'{config.name}.safetensors', lambda: best.weights)
    return Trained(best.best, weights)


def train_rival(problem: Problem, run: AnyRun, candidate: Record, phase: str, label: str) -> Trained:
    """Trains a candidate and scores it on val; its record says how well it did, under ``trained``."""
    weights = run.phase(
        phase,
        f'top/{phase}.safetensors',
        lambda: train_weights(problem, run, candidate['genotype'], phase, label),
        together=problem.config.weights != 'inherit',
    )

    def score() -> bytes:
        model = problem.build(problem.space.decode(tuple(candidate['genotype'])))
        model.load_state_dict(load(weights))
        return format_json(problem.score(model)).encode()

    trained = json.loads(run.phase(f'{phase} on val', f'top/{phase}.json', score))
    return Trained(candidate | {'trained': trained}, weights)


def train_weights(
    problem: Problem, run: AnyRun, genotype: Sequence[int], phase: str, label: str, how: str | None = None
) -> bytes:
    """A network's weights: trained from scratch, the supernet's, or the supernet's trained further.

    Args:
        problem: As the config says.
        run: Holds the supernet, where its weights are taken.
        genotype: Of the network.
        phase: Name of the training.
        label: For the progress bar.
        how: Instead of the config's ``weights``.
    """
    config, arch = problem.config, problem.space.decode(tuple(genotype))
    how = how or config.weights
    tensors = None
    if how != 'retrain':
        supernet = load_supernet(problem, (run.folder / SUPERNET).read_bytes())
        tensors = supernet.extract(arch, calibration(problem, supernet))
    if how != 'inherit':
        assert config.retrain is not None
        tensors = problem.train_alone(arch, config.retrain, phase, label, run, tensors).state_dict()
    assert tensors is not None
    return weights_bytes(problem, arch, tensors)


# ---- what a run leaves behind


def emit(
    problem: Problem, run: AnyRun, trained: Trained, cost: Record, how: str, asked: RunConfig | None = None
) -> Path:
    """Writes the entry of a trained network.

    Args:
        problem: What was searched.
        run: Where.
        trained: What was found.
        cost: What the search took, in steps and evaluations.
        how: A sentence: by what method it was found, and how candidates were judged.
        asked: The run's config, where that is not the problem's.
    """
    name = f'{problem.config.name}.json'
    commit = run.versions.get('commit')
    run.phase(
        'entry',
        name,
        lambda: entry_bytes(problem, trained.genotype, trained.weights, cost, commit, how, asked),
    )
    return run.folder / name


def count_cost(problem: Problem, evaluations: int) -> dict[str, int]:
    """What a search by :func:`find` and :func:`train_best` took, in steps of its trainings."""
    config = problem.config
    assert isinstance(config, OneShotConfig)
    cost = {'evaluations': evaluations}
    if config.supernet is not None:
        cost['supernet_steps'] = problem.num_steps(config.supernet.recipe, config.supernet.images)
    if config.search.evaluator.kind == 'proxy':
        cost['proxy_steps'] = evaluations * problem.num_steps(config.search.evaluator.recipe)
    if config.weights != 'inherit' and config.retrain is not None:
        cost['retrain_steps'] = min(config.top, evaluations) * problem.num_steps(config.retrain)
    return cost


def compare(
    problem: Problem, run: AnyRun, genotype: Genotype, entry: Path
) -> tuple[list[Record], list[Record]]:
    """Trains the result with other seeds, and random architectures of nearly its MACs in the same way.

    Returns:
        A record (genotype, params, macs, metrics) for each training of the result, the emitted one first, and
        for each random architecture.
    """
    config, recipe = problem.config.compare, problem.config.retrain
    emitted = json.loads(entry.read_bytes())
    metrics = next(iter(emitted['weights'].values()))['metrics']
    again = [{'genotype': list(genotype), **emitted['measured'], **metrics}]
    if config is None or recipe is None:
        return again, []
    inherits = problem.config.weights == 'inherit'
    how = 'retrain' if inherits else problem.config.weights

    def train_and_measure(genotype: Genotype, phase: str, label: str) -> Record:
        def compute() -> bytes:
            weights = train_weights(problem, run, genotype, phase, label, how)
            cost = problem.cost(genotype)._asdict()
            metrics = measure(problem, problem.space.decode(genotype), load(weights))
            return format_json({'genotype': genotype, **cost, **metrics}).encode()

        return json.loads(run.phase(phase, f'comparison/{phase}.json', compute, together=True))

    first = 0 if inherits else 1
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
