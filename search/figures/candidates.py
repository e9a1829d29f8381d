"""The candidates of a search: their scores against their MACs, and in the order in which they were asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import itemgetter
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from search.evidence import pareto_front
from search.figures.style import BLUE, GREEN, GREY, ORANGE, cut_outliers, make_axes, to_png

__all__ = ['Searched', 'draw_front', 'draw_history']

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Searched:
    """What a search has seen.

    Attributes:
        candidates: Their records in the order in which they were asked.
        random: Records of random candidates, if such were scored; the first ones may be candidates too.
        result: The record of what was found, if it is known.
        is_final: The run's result, and not that of an earlier level.
        score: What the score is, with its unit.
        limits: The least and the most MACs that are allowed, if there are limits.
    """

    candidates: Sequence[Record]
    random: Sequence[Record]
    result: Record | None
    is_final: bool
    score: str
    limits: tuple[float, float] | None

    @property
    def scored(self) -> list[Record]:
        """Candidates with a score of their own."""
        return [c for c in self.candidates if c['score'] is not None and not is_given_up(c)]

    @property
    def given_up(self) -> list[Record]:
        """Candidates whose evaluation was stopped; the score is one that they could at best have had."""
        return [c for c in self.candidates if c['score'] is not None and is_given_up(c)]

    @property
    def metrics(self) -> dict[str, str]:
        """What is drawn against MACs, with its label: the accuracy that a reward is made of, the score, the
        accuracy where it was measured beside the score."""
        if all('accuracy' in record for record in self.scored):
            return {'accuracy': 'accuracy that is rewarded (%)', 'score': self.score}
        if all('top1' in record and record['top1'] != record['score'] for record in self.scored):
            return {'score': self.score, 'top1': 'top-1 on val (%)'}
        return {'score': self.score}

    @property
    def front(self) -> list[Record]:
        """The candidates that no other one beats, by the first of the metrics."""
        return pareto_front(self.scored, itemgetter(next(iter(self.metrics))))


def is_given_up(record: Record) -> bool:
    return 'images' in record


def draw_front(searched: Searched) -> bytes:
    """Score against MACs, and accuracy, where it was measured and is not the score."""
    metrics = searched.metrics
    figure, grid = make_axes(len(metrics), 6.2 if len(metrics) > 1 else 8.0, 4.6)
    for axes, (key, label) in zip(grid, metrics.items(), strict=True):
        draw_metric(axes, searched, key)
        axes.set(xlabel='MACs (M)', ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(6))
    grid[0].legend(fontsize='small', loc='best')
    return to_png(figure)


def draw_metric(axes: Axes, searched: Searched, key: str) -> None:
    """A metric of all that have it."""
    front = pareto_front(searched.scored, itemgetter(key))
    groups = (
        (searched.random, 'o', GREY, 20, 'random'),
        (searched.given_up, 'v', '#c9b7a8', 18, 'given up: at best'),
        (searched.scored, 'o', BLUE, 24, 'candidate'),
    )
    shown: list[float] = []
    for records, marker, color, size, label in groups:
        having = [record for record in records if record.get(key) is not None]
        if not having:
            continue
        x, y = [record['macs'] / 1e6 for record in having], [record[key] for record in having]
        label = f'{label} ({len(having)})'
        axes.scatter(x, y, size, color, marker=marker, linewidths=0, alpha=0.65, label=label)
        shown += y
    steps = [record['macs'] / 1e6 for record in front], [record[key] for record in front]
    axes.step(*steps, color=ORANGE, linewidth=1.4, where='post', label=f'Pareto front ({len(front)})')
    axes.plot(*steps, 'o', color=ORANGE, markersize=4)
    if (result := searched.result) is not None and result.get(key) is not None:
        axes.plot(
            result['macs'] / 1e6, result[key], '*', color=GREEN, markersize=16, markeredgecolor='white',
            label='the result' if searched.is_final else 'the best',
        )  # fmt: skip
    if searched.limits is not None:
        for limit in {limit for limit in searched.limits if limit > 0}:
            axes.axvline(limit / 1e6, color='black', linewidth=0.9, linestyle=':')
    cut_outliers(axes, shown)


def draw_history(searched: Searched) -> bytes:
    """Scores in the order asked, and the best so far beside that of random search."""
    figure, (axes,) = make_axes(1, 8.0, 4.4)
    numbered = [(i, c) for i, c in enumerate(searched.candidates, 1) if c['score'] is not None]
    shown: list[float] = []
    for given_up, marker, color, label in (
        (True, 'v', '#c9b7a8', 'given up: at best'),
        (False, 'o', BLUE, 'candidate'),
    ):
        having = [(i, c['score']) for i, c in numbered if is_given_up(c) == given_up]
        if having:
            numbers, scores = zip(*having, strict=True)
            axes.scatter(numbers, scores, 18, color, marker=marker, linewidths=0, alpha=0.6, label=label)
            shown += scores
    for records, color, style, label in (
        (searched.random, GREY, '--', 'random search, best so far'),
        (searched.candidates, ORANGE, '-', 'this search, best so far'),
    ):
        line = best_so_far(records)
        if line:
            axes.step(
                *zip(*line, strict=True),
                color=color,
                linestyle=style,
                linewidth=1.8,
                where='post',
                label=label,
            )
    axes.set(xlabel='networks evaluated', ylabel=searched.score)
    axes.legend(fontsize='small', loc='lower right')
    cut_outliers(axes, shown)
    return to_png(figure)


def best_so_far(records: Sequence[Record]) -> list[tuple[int, float]]:
    """The number of evaluations and the best score until then, from the first score on."""
    lowest = float('-inf')
    scores = [lowest if r['score'] is None or is_given_up(r) else r['score'] for r in records]
    return [(i, best) for i, best in enumerate(accumulate(scores, max), 1) if best > lowest]
