"""What the figures of a report have in common: colours, axes, and the PNG file."""

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ['BLUE', 'GREEN', 'GREY', 'ORANGE', 'cut_outliers', 'make_axes', 'to_png']

BLUE, ORANGE, GREY, GREEN = '#1f5fa8', '#c8501e', '#8a8a8a', '#3f8f4f'
OUTLIER, FEW = 4.0, 0.1
"""A point is left out of a figure if it is below the median by more than so many times the distance of the
best one from it; but only this share of all points at the most."""


def make_axes(
    columns: int = 1, width: float = 7.0, height: float = 4.0, rows: int = 1, **kwargs: Any
) -> tuple[Figure, list[Axes]]:
    """A figure with a grid of axes, row by row.

    Args:
        columns: Of the grid.
        width: Of each of the axes, in inches.
        height: Of each of the axes, in inches.
        rows: Of the grid.
        kwargs: For ``Figure.subplots``.
    """
    figure = Figure(figsize=(width * columns, height * rows), dpi=120, layout='constrained')
    grid = figure.subplots(rows, columns, squeeze=False, **kwargs)
    found = [axes for row in grid for axes in row]
    for axes in found:
        axes.grid(linewidth=0.4, alpha=0.6)
        axes.set_axisbelow(True)
    return figure, found


def cut_outliers(axes: Axes, values: Sequence[float]) -> None:
    """Leaves far lower values out of the vertical range, and says how many."""
    ordered = sorted(values)
    median, best = ordered[len(ordered) // 2], ordered[-1]
    floor = median - OUTLIER * (best - median)
    hidden = sum(value < floor for value in ordered)
    if best == median or not 0 < hidden <= FEW * len(ordered):
        return
    margin = 0.05 * (best - floor)
    axes.set_ylim(floor - margin, best + margin)
    text = f'{hidden} lower not shown'
    axes.text(0.01, 0.02, text, transform=axes.transAxes, fontsize='small', color='#555555')


def to_png(figure: Figure) -> bytes:
    """The figure as a file; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png')
    return buffer.getvalue()
