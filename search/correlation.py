"""How far a search can trust its estimates: they beside what the same networks reach when trained alone.

The measure is Kendall's tau (tau-b) over networks that are drawn at random, with a bootstrap interval, and
over the best third of them, among which a search has to choose. What a network reaches alone is the mean of
its trainings with several seeds: one training more or less well begun can hide all differences.
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.arguments import add_overrides, count
from search.candidates import SUPERNET, make_evaluator
from search.config import SearchConfig, parse_config
from search.methods.two_level import first_level, second_level
from search.problem import Problem
from search.progress import Progress
from search.runfiles import RunFiles
from search.seeding import derive_seed
from search.space import Genotype
from search.table import Row, read_rows
from search.tabulate import tabulate
from search.variance import variance_share
from search.yamlfile import override
from zoo.errors import ZooError
from zoo.files import write_atomic
from zoo.jsonfile import format_json

__all__ = ['CORRELATION', 'Correlation', 'add_parser', 'correlate', 'describe', 'rank_correlation']

Record = dict[str, Any]
Floats = NDArray[np.float64]
CORRELATION = 'correlation.json'
"""In the folder of a run, or of a level of it."""
RESAMPLES = 2000
FEWEST = 5
"""Networks without which a correlation says nothing."""


@dataclass(frozen=True)
class Correlation:
    """Kendall's tau-b of two scores of the same networks.

    Attributes:
        tau: Over all; NaN where all estimates or all true scores are equal.
        interval: 95 % of bootstrap resamples of the networks lie within (percentiles); NaN as tau.
        n: How many networks.
    """

    tau: float
    interval: tuple[float, float]
    n: int


def rank_correlation(estimates: Sequence[float], truth: Sequence[float], seed: int = 0) -> Correlation:
    """Kendall's tau-b of estimates and true scores.

    Args:
        estimates: One for each network.
        truth: The same networks'.
        seed: Of the bootstrap.
    """
    n, x, y = len(truth), np.asarray(estimates, float), np.asarray(truth, float)
    tau = float(_taus(x, y, np.ones((1, n), int))[0])
    if math.isnan(tau):
        return Correlation(tau, (math.nan, math.nan), n)
    rng = np.random.default_rng(derive_seed(seed, 'bootstrap'))
    resamples = rng.multinomial(n, [1 / n] * n, RESAMPLES)
    taus = _taus(x, y, resamples)
    low, high = np.nanpercentile(taus, [2.5, 97.5])
    return Correlation(tau, (float(low), float(high)), n)


def _taus(x: Floats, y: Floats, resamples: NDArray[np.int64]) -> Floats:
    """Tau-b of each resample, (R,); NaN of one without an order.

    Args:
        x: (n,).
        y: (n,).
        resamples: (R, n), how often each network is in it. One with itself is a tie in both.
    """
    signs = [_order(values) for values in (x, y)]

    def total(pairs: Floats) -> Floats:
        return np.asarray(((resamples @ pairs) * resamples).sum(1))

    with np.errstate(invalid='ignore'):
        return total(signs[0] * signs[1]) / np.sqrt(total(signs[0] ** 2) * total(signs[1] ** 2))


def _order(values: Floats) -> Floats:
    """The sign of each difference, (n, n)."""
    return np.asarray(np.sign(values[:, None] - values))


def spearman(estimates: Sequence[float], truth: Sequence[float]) -> float:
    """Spearman's rho: the correlation of average ranks, half the sums of signs but for a constant."""
    ranks = [_order(np.asarray(values, float)).sum(1) for values in (estimates, truth)]
    return float(np.corrcoef(ranks)[0, 1])


def correlate(
    folder: Path | str,
    overrides: Sequence[str] = (),
    architectures: int = 50,
    trainings: int = 1,
    table: Path | str | None = None,
    *,
    quiet: bool = False,
) -> list[tuple[str, Record]]:
    """Measures a run's estimates, and writes :data:`CORRELATION` beside them.

    Networks are drawn at random within the run's limits, those of latency aside, and trained by themselves,
    which is a run of its own in the folder ``alone`` (see :mod:`search.tabulate`): it can be interrupted. A
    run of two levels has two supernets and two correlations, the second one when the run is finished.

    Args:
        folder: Of a run that has trained its supernet, or has none and scores in another way.
        overrides: Changes of its config: where the data are, how networks are trained (``retrain``).
        architectures: To train.
        trainings: Of each, with different seeds; from two on it is known how far they can be ranked at all.
        table: Holds architectures of this space and how good they are, instead.
        quiet: No progress on stderr.

    Returns:
        The name of each searched part of the run and its record: tau, interval, n; the same of the best
        third; spearman, objective, trainings, repeatability, ceiling and the points.

    Raises:
        ZooError: The folder holds no such run, or the table is not of its space.
        Interrupted: The user asked to stop; the same call continues.
    """
    files = RunFiles.open(folder)
    found = []
    for section, problem in _find_problems(files, overrides):
        where = files.folder / section
        path = table
        if path is None:
            if (recipe := problem.config.retrain) is None:
                raise ZooError('retrain: found none, it must say how networks are trained alone.')
            config = problem.config.model_copy(update={'seed': files.config['seed']})
            again = architectures if trainings > 1 else 0
            path = tabulate(config, where / 'alone', architectures, again, trainings, recipe, quiet=quiet)
        record = _measure(problem, where, read_rows(path, problem.space.space), quiet)
        write_atomic(where / CORRELATION, format_json(record).encode())
        found.append((section, record))
    return found


def describe(record: Record) -> list[str]:
    """Lines for people."""
    lines = []
    for label, end in (('all', ''), ('the best third', '_top_third')):
        if record[f'tau{end}'] is None:
            lines.append(f'  {label:16} not measured: all scores are equal, n = {record[f"n{end}"]}')
            continue
        low, high = record[f'interval{end}']
        tau = f'{record[f"tau{end}"]:+.2f} [{low:+.2f}, {high:+.2f}]'
        lines.append(f'  {label:16} Kendall tau {tau}, n = {record[f"n{end}"]}')
    lines.append(f'  {"":16} Spearman rho {record["spearman"]:+.2f}')
    lines.append(f'  {_describe_noise(record)}')
    lines.append(f'  by {record["objective"]} on val; in brackets 95 % of {RESAMPLES} bootstrap resamples')
    return lines


def _describe_noise(record: Record) -> str:
    if record['repeatability'] is None:
        return 'correlation of two trainings of one architecture: not measured (--trainings)'
    limit = 'none' if record['ceiling'] is None else f'{record["ceiling"]:.2f}'
    return (
        f'correlation of two trainings of one architecture: {record["repeatability"]:.2f}; with '
        f'{record["trainings"]:g} of each, the truth itself would have a tau of about {limit}'
    )


def _find_problems(files: RunFiles, overrides: Sequence[str]) -> list[tuple[str, Problem]]:
    """What was searched with an evaluator of its own, and the section of the run that it stands in."""
    data = json.loads(json.dumps(files.config))
    limits = (data.get('search') or {}).get('limits') or {}
    limits.pop('latency', None)
    for text in overrides:
        override(data, text)
    problem = Problem(parse_config(data))
    if not isinstance(problem.config.search, SearchConfig):
        raise ZooError(f'{files.folder}: method {problem.config.method} scores no candidates to correlate.')
    if problem.config.method == 'space_search' and (space := files.read('space.json')) is not None:
        problem = replace(problem, config=problem.config.model_copy(update={'space': space}))
    if problem.config.method != 'two_level' or problem.config.levels == 1:  # type: ignore[attr-defined]
        found = [('', problem)]
    else:
        first = first_level(problem)
        found = [('level1', first)]
        if (result := files.result) is not None and result.get('best'):
            values = problem.space.space.values(tuple(result['best']['genotype']))
            found.append(('level2', second_level(problem, values)))
    for section, _ in found:
        if problem.has_supernet and not (path := files.folder / section / SUPERNET).is_file():
            raise ZooError(f'{path}: found nothing; the run must have trained its supernet.')
    return found


def _measure(problem: Problem, folder: Path, rows: dict[Genotype, Row], quiet: bool) -> Record:
    """Scores the networks of a table by a run's evaluator."""
    objective = problem.search_config.objective
    sign = 1 if objective == 'top1' else -1
    points: list[Record] = []
    groups: list[list[float]] = []
    evaluator = make_evaluator(problem, folder)
    with Progress('scoring', len(rows), unit='network', quiet=quiet) as progress:
        for genotype, row in rows.items():
            estimate = evaluator(genotype).score
            if row.metrics is not None and math.isfinite(estimate):
                reached = [metrics[objective] for metrics in (row.metrics, *row.again)]
                groups.append(reached)
                alone = sign * statistics.fmean(reached)
                points.append({'genotype': genotype, 'supernet': estimate, 'alone': alone})
            progress.update('')
    if len(points) < FEWEST:
        raise ZooError(
            f'{folder}: found {len(points)} networks with both scores, at least {FEWEST} are needed.'
        )
    summary = summarize(points)
    if summary['tau'] is None:
        raise ZooError(f'{folder}: all of {len(points)} networks have the same score; nothing can be ranked.')
    trainings = statistics.fmean(map(len, groups))
    share = variance_share(groups).share if sum(len(group) > 1 for group in groups) > 1 else None
    return summary | {
        'objective': objective,
        'trainings': trainings,
        'repeatability': share,
        'ceiling': _ceiling(share, trainings),
        'points': points,
    }


def _ceiling(share: float | None, trainings: float) -> float | None:
    """Tau of the true order with that of means of several trainings, if both parts are normal.

    Args:
        share: The correlation of two trainings of one architecture.
        trainings: Of each.
    """
    if share is None or math.isnan(share):
        return None
    reliability = trainings * share / (1 + (trainings - 1) * share)  # Spearman-Brown
    return 2 / math.pi * math.asin(math.sqrt(min(max(reliability, 0.0), 1.0)))


def summarize(points: Sequence[Record]) -> Record:
    """The correlations of points that have both scores, of which more is better."""
    best = sorted(points, key=lambda point: -point['alone'])[: max(2, len(points) // 3)]
    record: Record = {}
    for end, chosen in (('', points), ('_top_third', best)):
        found = rank_correlation(*_scores(chosen))
        if math.isnan(found.tau):
            record |= {f'tau{end}': None, f'interval{end}': None, f'n{end}': found.n}
            continue
        record |= {f'tau{end}': found.tau, f'interval{end}': list(found.interval), f'n{end}': found.n}
    return record | {'spearman': None if record['tau'] is None else spearman(*_scores(points))}


def _scores(points: Sequence[Record]) -> tuple[list[float], list[float]]:
    return [point['supernet'] for point in points], [point['alone'] for point in points]


def add_parser(add: Callable[..., argparse.ArgumentParser]) -> None:
    """The subcommand."""
    about = "measure how a run's estimates rank networks that are then trained by themselves, or continue"
    command = add('correlate', about, handler=_run)
    command.add_argument('out', type=Path, metavar='RUN', help='folder of a run')
    add_overrides(command, 'retrain.epochs=10')
    about = 'networks to draw and train, by default 50'
    command.add_argument('--architectures', type=count, default=50, metavar='N', help=about)
    about = 'of each network, whose mean is ranked; from 2 on they tell how far ranks can be trusted'
    command.add_argument('--trainings', type=count, default=1, metavar='N', help=about)
    about = 'made by `searchzoo search tabulate` of the same space: no networks are trained'
    command.add_argument('--table', type=Path, metavar='FILE', help=about)


def _run(args: argparse.Namespace) -> None:
    for section, record in correlate(
        args.out, args.overrides, args.architectures, args.trainings, args.table
    ):
        print(f'{args.out / section}: {record["n"]} networks, as the search scores them and trained alone')
        print('\n'.join(describe(record)))
