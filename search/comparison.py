"""Strategies compared on a table: how far from its best row they are after each evaluation.

Every strategy searches the same landscape with many seeds. The simple regret after n evaluations is the best
score of the landscape minus the best one found so far.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from search.landscape import Landscape
from search.seeding import derive_seed
from search.strategies import make_strategy

__all__ = ['BASELINE', 'STRATEGIES', 'Comparison', 'Contender', 'Estimate', 'bootstrap', 'compare']

RESAMPLES = 4000
CONFIDENCE = 0.95
CHUNK = 10
"""Seeds that a worker runs at once."""
TOP_SHARE = 0.01

Floats = NDArray[np.float64]


class Contender(NamedTuple):
    """A strategy in a comparison.

    Attributes:
        label: For tables and legends.
        strategy: What :func:`search.strategies.make_strategy` reads.
        published: Whether the settings are those of a paper's code, made for larger budgets.
    """

    label: str
    strategy: Mapping[str, Any]
    published: bool = False


BASELINE = Contender('random', {'name': 'random'})
STRATEGIES = (
    BASELINE,
    Contender('evolution, small', {'name': 'evolution', 'preset': 'small'}),
    Contender('PPO', {'name': 'ppo', 'preset': 'fast'}),
    Contender('evolution, SPOS', {'name': 'evolution', 'preset': 'spos'}, published=True),
    Contender('evolution, AutoFormer', {'name': 'evolution', 'preset': 'autoformer'}, published=True),
)
"""UniNet publishes no settings of its PPO: ours for few evaluations."""


class Estimate(NamedTuple):
    """A mean over seeds with its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """What the strategies found on a landscape.

    Args:
        landscape: Which one.
        regrets: For each strategy by its label, :class:`numpy.ndarray` (seeds, evaluations).
    """

    landscape: Landscape
    regrets: Mapping[str, Floats]

    @property
    def budget(self) -> int:
        return self.regrets[BASELINE.label].shape[1]

    def regret(self, label: str, evaluations: int) -> Estimate:
        """A strategy's mean simple regret after so many evaluations."""
        return Estimate(*(float(band[0]) for band in bootstrap(self.regrets[label][:, [evaluations - 1]])))

    def difference(self, label: str) -> Estimate:
        """The strategy's regret minus that of random search with the same seeds, after all evaluations."""
        pairs = self.regrets[label][:, -1:] - self.regrets[BASELINE.label][:, -1:]
        return Estimate(*(float(band[0]) for band in bootstrap(pairs)))

    def evaluations_to_top(self, label: str) -> float:
        """Evaluations until one of the best 1 % of the rows is found: median over seeds, infinite if most
        seeds do not find one within the budget."""
        ranked = self.landscape.ranked
        regret = ranked[0] - ranked[math.ceil(TOP_SHARE * len(ranked)) - 1]
        reached = self.regrets[label] <= regret
        first = np.where(reached.any(1), reached.argmax(1) + 1.0, math.inf)
        return float(np.sort(first)[len(first) // 2])


def bootstrap(values: Floats) -> tuple[Floats, Floats, Floats]:
    """The mean over seeds and the limits of its 95 % percentile bootstrap interval.

    Regrets are skewed and never negative, and so are these limits; whole curves are resampled, always the
    same seeds, so that the limits of one curve belong together.

    Args:
        values: (seeds, ...).
    """
    seeds = len(values)
    rng = np.random.default_rng(derive_seed('bootstrap', seeds))
    weights = rng.multinomial(seeds, [1 / seeds] * seeds, RESAMPLES) / seeds
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(np.tensordot(weights, values, 1), [tail, 100 - tail], axis=0)
    return values.mean(0), low, high


def compare(
    landscapes: Sequence[Landscape],
    budgets: Sequence[int],
    seeds: int,
    contenders: Sequence[Contender] = STRATEGIES,
    processes: int = 1,
) -> list[Comparison]:
    """Runs all strategies with the seeds 0 ... on each landscape.

    Args:
        landscapes: With one row at least that did not fail.
        budgets: Evaluations on each, at most as many as it has rows.
        seeds: How many.
        contenders: With :data:`BASELINE` among them.
        processes: That share the work; the result does not depend on it.
    """
    tasks = [
        (landscape, contender, range(start, min(start + CHUNK, seeds)))
        for landscape in range(len(landscapes))
        for contender in contenders
        for start in range(0, seeds, CHUNK)
    ]
    with _executor(processes, landscapes, budgets) as executor:
        found: dict[tuple[int, str], list[Floats]] = {}
        mapped = (
            executor.map(_search_again, tasks)
            if executor
            else map(partial(_search, landscapes, budgets), tasks)
        )
        for (landscape, contender, _), regrets in zip(tasks, mapped, strict=True):
            found.setdefault((landscape, contender.label), []).append(regrets)
    return [
        Comparison(landscape, {c.label: np.concatenate(found[i, c.label]) for c in contenders})
        for i, landscape in enumerate(landscapes)
    ]


def search_landscape(landscape: Landscape, contender: Contender, seed: int, budget: int) -> Floats:
    """The simple regret of one search after each evaluation, (budget,).

    Until a row is found that did not fail, the regret is that of the worst row. A strategy that finds nothing
    new any more keeps its regret.
    """
    strategy = make_strategy(contender.strategy, landscape, derive_seed('compare', seed))
    best = landscape.ranked[-1]
    regrets: list[float] = []
    while len(regrets) < budget and (genotype := strategy.ask()) is not None:
        score = landscape.scores[genotype]
        strategy.tell(genotype, score)
        best = max(best, score) if not math.isnan(score) else best
        regrets.append(landscape.ranked[0] - best)
    regrets += [landscape.ranked[0] - best] * (budget - len(regrets))
    return np.array(regrets)


Work = tuple[int, Contender, range]
_shared: tuple[Sequence[Landscape], Sequence[int]] = ((), ())
"""What a worker process searches."""


def _search(landscapes: Sequence[Landscape], budgets: Sequence[int], work: Work) -> Floats:
    index, contender, seeds = work
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the controller's products are tiny
    try:
        return np.array(
            [search_landscape(landscapes[index], contender, seed, budgets[index]) for seed in seeds]
        )
    finally:
        torch.set_num_threads(threads)


def _search_again(work: Work) -> Floats:
    return _search(*_shared, work)


def _share(landscapes: Sequence[Landscape], budgets: Sequence[int]) -> None:
    global _shared
    _shared = landscapes, budgets


@contextmanager
def _executor(
    processes: int, landscapes: Sequence[Landscape], budgets: Sequence[int]
) -> Iterator[Executor | None]:
    """Worker processes that know the landscapes; None for this process alone."""
    if processes == 1:
        yield None
        return
    context = get_context('spawn')
    with ProcessPoolExecutor(processes, context, _share, (landscapes, budgets)) as executor:
        yield executor
