"""What a result is worth: beside random networks of equal cost, by rank correlation, and in hours."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from search.figures.style import BLUE, GREY, ORANGE, make_axes, to_png

__all__ = ['draw_comparison', 'draw_correlation', 'draw_times']

Record = Mapping[str, Any]
SPREAD = 0.16
"""Width over which the points of a group are spread, to either side."""
SHORT = 0.01
"""Phases that take a smaller share of the whole have no bar of their own."""


def draw_comparison(again: Sequence[Record], random: Sequence[Record]) -> bytes:
    """Accuracies of all trainings of the result and of random networks; mean and standard deviation.

    Args:
        again: Records of the trainings of the result, the emitted one first.
        random: Records of random networks of equal cost.
    """
    metrics = [m for m in ('val_top1', 'test_top1') if all(m in row for row in [*again, *random])]
    figure, grid = make_axes(len(metrics), 4.4, 4.2)
    for axes, metric in zip(grid, metrics, strict=True):
        for x, (rows, color) in enumerate(((again, BLUE), (random, GREY))):
            values = [row[metric] for row in rows]
            steps = [x - SPREAD + 2 * SPREAD * (i + 0.5) / len(values) for i in range(len(values))]
            axes.plot(steps, values, 'o', color=color, markersize=6, alpha=0.8)
            spread = stdev(values) if len(values) > 1 else 0.0
            axes.errorbar(
                x + 0.3, mean(values), spread, fmt='_', color=ORANGE, markersize=14, capsize=5, linewidth=1.6
            )
        axes.set_xlim(-0.5, 1.6)
        axes.set_xticks([0.08, 1.08], [f'found (n={len(again)})', f'random (n={len(random)})'])
        axes.set_ylabel(f'top-1 on {metric.split("_")[0]} (%)')
    return to_png(figure)


def draw_correlation(found: Record, what: str) -> bytes:
    """What the search estimated against stand-alone results.

    Args:
        found: What correlation.json holds.
        what: Networks are scored by, with its unit.
    """
    figure, (axes,) = make_axes(1, 6.4, 5.0)
    points = found['points']
    estimates, alone = [p['supernet'] for p in points], [p['alone'] for p in points]
    axes.plot(estimates, alone, 'o', color=BLUE, alpha=0.7, markersize=5)
    title = f'Kendall tau {found["tau"]:.2f}, n = {found["n"]}'
    if None not in found['interval']:
        low, high = found['interval']
        title = f'Kendall tau {found["tau"]:.2f}, 95 % interval {low:.2f} to {high:.2f}, n = {found["n"]}'
    axes.set_title(title, fontsize='medium')
    axes.set(xlabel=f'as estimated in the search: {what}', ylabel=f'trained alone: {what}')
    return to_png(figure)


def draw_times(phases: Sequence[Record]) -> bytes:
    """Wall time of each phase; those of less than a hundredth of the whole together.

    Args:
        phases: ``name`` and ``seconds``.
    """
    least = SHORT * sum(phase['seconds'] for phase in phases)
    short = [phase['seconds'] for phase in phases if phase['seconds'] < least]
    phases = [phase for phase in phases if phase['seconds'] >= least]
    if short:
        phases.append({'name': f'{len(short)} short ones', 'seconds': sum(short)})
    longest = max(phase['seconds'] for phase in phases)
    unit, seconds = next(
        (unit, size)
        for unit, size in (('h', 3600), ('min', 60), ('s', 1))
        if longest >= 2 * size or size == 1
    )
    figure, (axes,) = make_axes(1, 8.0, 0.9 + 0.27 * len(phases))
    values = [phase['seconds'] / seconds for phase in phases]
    bars = axes.barh([phase['name'] for phase in phases], values, color=BLUE, height=0.7)
    axes.bar_label(bars, [f'{value:.3g}' for value in values], padding=3, fontsize='small')
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.tick_params(labelsize='small')
    axes.set_xlabel(f'wall time ({unit})')
    axes.grid(axis='y', visible=False)
    return to_png(figure)
