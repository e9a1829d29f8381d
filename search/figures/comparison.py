"""Strategies on a table: mean simple regret after each evaluation, on all of it and on parts of it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from search.comparison import BASELINE, Comparison, Contender, bootstrap
from search.figures.style import to_png

__all__ = ['draw_comparison']

COLORS = '#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9'
"""Okabe and Ito's, which colour-blind people tell apart."""
GREY = '#5f5f5f'
MAX_DEPTH = 2000
"""From the top of the logarithmic axis to its bottom, at most."""


def draw_comparison(
    comparisons: Sequence[Comparison], contenders: Sequence[Contender], metric: str, noise: float | None
) -> bytes:
    """A PNG file.

    Args:
        comparisons: On the whole table, then on parts of it.
        contenders: In the order of the legend.
        metric: In whose unit the regret is.
        noise: Standard deviation between trainings of a good architecture, if it is known.
    """
    limits = find_limits(comparisons)
    columns = len(comparisons) // 2
    figure = Figure(figsize=(6.4 + 2.9 * columns, 5.2), dpi=120, layout='constrained')
    widths = [2.0, *[1.0] * columns]
    grid: Any = figure.add_gridspec(2 if columns else 1, 1 + columns, width_ratios=widths)
    cells = [grid[:, 0], *(grid[i // columns, 1 + i % columns] for i in range(len(comparisons) - 1))]
    for number, (cell, comparison) in enumerate(zip(cells, comparisons, strict=True)):
        axes = figure.add_subplot(cell)
        draw_regrets(axes, comparison, contenders, noise, limits)
        axes.set_title(
            f'{comparison.landscape.name} ({len(comparison.landscape):,} architectures)',
            fontsize='small' if number else 'medium',
        )
        if number == 0:
            axes.set_ylabel(f'mean simple regret ({metric})')
        if number == 0 or number > len(comparisons) - 1 - columns:
            axes.set_xlabel('evaluations')
    handles = [Line2D([], [], **style(contender, contenders)) for contender in contenders]
    labels = [
        f'{contender.label}, as published' if contender.published else contender.label
        for contender in contenders
    ]
    if noise is not None:
        handles.append(Line2D([], [], color=GREY, linewidth=0.8, linestyle=':'))
        labels.append('standard deviation between trainings of a good architecture')
    seeds = len(comparisons[0].regrets[BASELINE.label])
    figure.legend(handles, labels, loc='outside lower center', ncols=4, frameon=False, fontsize='small')
    figure.suptitle(f'Distance from the best architecture: mean of {seeds} seeds, 95 % bands')
    return to_png(figure)


def draw_regrets(
    axes: Axes,
    comparison: Comparison,
    contenders: Sequence[Contender],
    noise: float | None,
    limits: tuple[float, float],
) -> None:
    """A line with its band for each strategy.

    Args:
        axes: To draw in.
        comparison: On one landscape.
        contenders: Random search is drawn over the others.
        noise: See :func:`draw_comparison`.
        limits: Of the regret. A line that ends at the lower one has found the best row with nearly all seeds.
    """
    axes.set_ylim(limits)
    axes.set_yscale('log', nonpositive='clip')
    evaluations = np.arange(1, comparison.budget + 1)
    for contender in reversed(contenders):
        mean, low, high = bootstrap(comparison.regrets[contender.label])
        look = style(contender, contenders)
        axes.plot(evaluations, mean, **look)
        axes.fill_between(evaluations, low, high, color=look['color'], alpha=0.13, linewidth=0)
    if noise is not None:
        axes.axhline(noise, color=GREY, linewidth=0.8, linestyle=':')
    axes.set_xlim(0, comparison.budget)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.grid(axis='y', linewidth=0.4, alpha=0.6)
    axes.tick_params(labelsize='small')


def find_limits(comparisons: Sequence[Comparison]) -> tuple[float, float]:
    """Of the axes of all: they show the means down to the least one that is not zero."""
    means = np.concatenate([curve.mean(0) for each in comparisons for curve in each.regrets.values()])
    top = float(means.max()) or 1.0
    least = float(means[means > 0].min(initial=top))
    return max(0.7 * least, top / MAX_DEPTH), 1.3 * top


def style(contender: Contender, contenders: Sequence[Contender]) -> dict[str, Any]:
    """Of a strategy's line: random search is grey, published settings are thin and dashed."""
    others = [each.label for each in contenders if each.label != BASELINE.label]
    if contender.label == BASELINE.label:
        return {'color': GREY, 'linewidth': 2.0}
    color = COLORS[others.index(contender.label) % len(COLORS)]
    if contender.published:
        return {'color': color, 'linewidth': 1.1, 'linestyle': '--'}
    return {'color': color, 'linewidth': 2.0}
