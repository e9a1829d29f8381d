"""Architectures of a small space, each trained by itself, as a table: the truth that searches are judged by.

NAS-Bench-101 (arXiv 1902.09635) is such a table. Strategies are compared on it in seconds, and supernets by
how they rank what stands in it.
"""

import argparse
import itertools
import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from search.arguments import add_config, count, find_config
from search.candidates import open_workers
from search.config import OneShotConfig, ProxyScores, RunConfig, SearchConfig, load_config
from search.problem import Problem, versions
from search.run import Abandoned, Run
from search.seeding import derive_seed
from search.space import Genotype
from search.strategies import make_strategy
from search.table import TABLE, pack_table
from search.training import Recipe
from search.workers import WorkersConfig
from zoo.errors import ZooError
from zoo.jsonfile import format_json

__all__ = ['add_parser', 'alone_config', 'list_networks', 'tabulate']

MAX_LISTED = 1_000_000
"""Genotypes of a space that are looked at one by one."""
DIGITS = {'loss': 5, 'top1': 3}
"""Kept behind the point."""


def tabulate(
    config: RunConfig,
    folder: Path | str,
    architectures: int | None = None,
    repeated: int = 0,
    seeds: int = 3,
    recipe: Recipe | None = None,
    *,
    fault: Callable[[str], None] | None = None,
    quiet: bool = False,
) -> Path:
    """Trains architectures of a config's space to a table, or continues.

    Args:
        config: Its networks are scored on val.
        folder: Of the run (see :class:`search.run.Run`).
        architectures: Different networks within the limits, drawn at random; None for all there are.
        repeated: So many of them, drawn at random, are trained with ``seeds`` seeds.
        seeds: At least 2, where some are repeated.
        recipe: How they are trained; None: as by the config's evaluator, if it trains, or as its result.
        fault: As ``quiet``, see :class:`search.run.Run`.
        quiet: No progress on stderr.

    Returns:
        The table's file.

    Raises:
        ZooError: The config cannot work, or the space is too large to list.
        Interrupted: The user asked to stop; the same call continues.
    """
    if config.seed >= 10**18:
        raise ZooError(f'seed: found {config.seed}, a table keeps numbers of at most 18 digits.')
    problem = Problem(alone_config(config, recipe))
    networks = list_networks(problem, architectures)
    asked = {'architectures': len(networks), 'repeated': min(repeated, len(networks)), 'seeds': seeds}
    decisive = {'tabulate': asked, 'config': problem.config.decisive()}
    again = random.Random(derive_seed(config.seed, 'repeated')).sample(networks, asked['repeated'])
    about = f'training {len(networks)} architectures'
    with Run(folder, decisive, versions(), config.checkpoint_seconds, fault, quiet) as run:
        found = [
            json.loads(run.phase('seed0', 'seed0.json', partial(_train, problem, run, networks, 0, about)))
        ]
        for i in range(1, seeds if again else 1):
            about = f'training {len(again)} of them again ({i}/{seeds - 1})'
            found.append(
                json.loads(
                    run.phase(f'seed{i}', f'seed{i}.json', partial(_train, problem, run, again, i, about))
                )
            )
        header = {'config': problem.config.decisive(), **asked, 'versions': run.versions}
        run.phase('table', TABLE, lambda: pack_table(header, list(_rows(problem, networks, again, found))))
    return Path(folder) / TABLE


def alone_config(config: RunConfig, recipe: Recipe | None = None) -> OneShotConfig:
    """A config that trains every candidate of another one's space from scratch (see :func:`tabulate`).

    Raises:
        ZooError: The config says nowhere how.
    """
    search = config.search
    proxy = search.evaluator if isinstance(search, SearchConfig) else None
    recipe = recipe or (proxy.recipe if isinstance(proxy, ProxyScores) else config.retrain)
    if recipe is None:
        raise ZooError('retrain: found none, it must say how architectures are trained.')
    if search.limits.latency is not None:
        raise ZooError('search.limits.latency: a table is of params and MACs alone; leave it out.')
    workers: WorkersConfig | None = getattr(search, 'workers', None)
    return OneShotConfig(
        name=config.name,
        seed=config.seed,
        input=config.input,
        data=config.data,
        checkpoint_seconds=config.checkpoint_seconds,
        space=config.space,
        restrict=config.restrict,
        search=SearchConfig(
            evaluator=ProxyScores(kind='proxy', recipe=recipe),
            strategy={'name': 'random'},
            evaluations=1,
            objective='loss',
            batch_size=search.batch_size,
            bf16=search.bf16,
            limits=search.limits,
            workers=workers,
        ),
        retrain=recipe,
    )


def list_networks(problem: Problem, count: int | None) -> list[Genotype]:
    """Different networks within the limits: all, in the order of the space, or so many at random."""
    if count is None:
        size = problem.space.space.size()
        if size > MAX_LISTED:
            raise ZooError(
                f'space: found {size:,} architectures, at most {MAX_LISTED:,} can be listed; say how many.'
            )
        allowed = filter(problem.sampler.allows, problem.space.space.enumerate())
        return list({problem.space.decode(genotype): genotype for genotype in allowed}.values())
    seed = derive_seed(problem.config.seed, 'tabulate')
    strategy = make_strategy({'name': 'random'}, problem.sampler, seed, problem.space.decode)
    drawn = list(itertools.islice(iter(strategy.ask, None), count))
    if len(drawn) < count:
        raise ZooError(
            f'architectures: found {count}, only {len(drawn)} different ones are within the limits.'
        )
    return drawn


def _train(problem: Problem, run: Run, networks: Sequence[Genotype], number: int, label: str) -> bytes:
    """Metrics of each network after a training with the seed of a number; None of one that failed."""
    phase = f'seed{number}'
    found: list[dict[str, float] | None] = []
    if (state := run.load(phase)) is not None:
        found = json.loads(state)
    seeded = Problem(problem.config.model_copy(update={'seed': problem.config.seed + number}))

    def save() -> None:
        run.save(phase, json.dumps(found))

    def look_up() -> None:
        if run.stop_asked:
            save()

    left = iter(networks[len(found) :])
    try:
        with (
            open_workers(seeded, run) as workers,
            run.progress(label, len(networks), len(found), 'network') as bar,
        ):
            while len(found) < len(networks):
                while len(workers) < workers.capacity and (genotype := next(left, None)) is not None:
                    workers.submit(genotype, -math.inf)
                _, outcome = workers.next(look_up)
                metrics = outcome.metrics
                failed = outcome.failure is not None
                found.append(None if failed else {key: round(metrics[key], n) for key, n in DIGITS.items()})
                bar.update('' if failed else f'loss {metrics["loss"]:.3f}')
                run.reached(f'{phase}: network')
                if run.due() and len(found) < len(networks):
                    save()
    except Abandoned:
        save()
    return format_json(found).encode()


def _rows(
    problem: Problem, networks: Sequence[Genotype], again: Sequence[Genotype], found: Sequence[list[Any]]
) -> Iterator[dict[str, Any]]:
    """The table's, in the order of training; what failed when it was repeated is left out."""
    repeats: dict[Genotype, list[Any]] = {
        genotype: [metrics[i] for metrics in found[1:] if metrics[i] is not None]
        for i, genotype in enumerate(again)
    }
    for genotype, metrics in zip(networks, found[0], strict=True):
        row = {'values': problem.space.space.values(genotype), 'metrics': metrics}
        yield row | ({'again': repeats[genotype]} if repeats.get(genotype) else {})


def add_parser(add: Callable[..., argparse.ArgumentParser]) -> None:
    """The subcommand."""
    about = 'train architectures of a small space, each by itself, to a table that searches are judged by'
    command = add('tabulate', about, handler=_run)
    add_config(command, 'search', 'search.evaluator.recipe.epochs=10')
    command.add_argument('--out', required=True, type=Path, metavar='DIR', help='folder of the run')
    about = 'different networks, drawn at random; by default all within the limits'
    command.add_argument('--architectures', type=count, metavar='N', help=about)
    about = 'so many of them, drawn at random, are trained with several seeds'
    command.add_argument('--repeated', type=count, default=0, metavar='N', help=about)
    command.add_argument('--seeds', type=count, default=3, metavar='N', help='for those, by default 3')


def _run(args: argparse.Namespace) -> None:
    config = load_config(find_config(args.config), args.overrides)
    path = tabulate(config, args.out, args.architectures, args.repeated, args.seeds)
    print(f'{path}; to compare strategies on it: searchzoo search compare {path}')
