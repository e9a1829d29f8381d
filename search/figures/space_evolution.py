"""How a space moved, as in S3's Fig. 2 (arXiv 2111.14725): a column for each stage, a row for each size.

On the left the choices before the first iteration and after each; on the right the slopes of the E-T error
by which they moved, with their intervals.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from search.space_evolution import UNITS, Evolution

__all__ = ['draw_evolution']

LABELS = {
    'depth': 'depth\n(blocks)',
    'embed_dim': 'embedding\n(channels)',
    'window_size': 'window\n(tokens)',
    'num_heads': 'heads',
    'mlp_ratio': 'MLP ratio',
}
BLUE, ORANGE, GREY = '#1f5fa8', '#c8501e', '#8a8a8a'


def draw_evolution(
    spaces: Sequence[Mapping[str, Any]], iterations: Sequence[Mapping[str, Any]], evolution: Evolution
) -> bytes:
    """A PNG file.

    Args:
        spaces: The declarations, from the initial one to the last.
        iterations: What errors.json of each iteration holds.
        evolution: How the space moved.
    """
    sizes, stages = list(evolution.steps), len(spaces[0]['stages'])
    figure = Figure(
        figsize=(2.6 + 3.7 * max(2, stages), 1.5 + 1.55 * len(sizes)), dpi=120, layout='constrained'
    )
    parts: Any = figure.subfigures(1, 2, wspace=0.03)
    draw_choices(parts[0], spaces, sizes)
    draw_slopes(parts[1], iterations, evolution, stages)
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png')
    return buffer.getvalue()


def draw_choices(figure: SubFigure, spaces: Sequence[Mapping[str, Any]], sizes: Sequence[str]) -> None:
    """The choices of every size and stage, before the first iteration (0) and after each."""
    figure.suptitle('Choices after each iteration')
    for axes, stage, name in grid(figure, len(spaces[0]['stages']), sizes):
        lists = [sorted(space['stages'][stage][name]) for space in spaces]
        for number in range(max(map(len, lists))):  # what is dropped is dropped from below
            steps = [t for t, values in enumerate(lists) if number < len(values)]
            axes.plot(steps, [lists[t][-1 - number] for t in steps], color=BLUE, alpha=0.35, linewidth=1)
        for t, values in enumerate(lists):
            axes.plot([t] * len(values), values, 'o', color=BLUE, markersize=4.5)
        axes.set_xlim(-0.3, len(spaces) - 0.7)
        axes.margins(y=0.15)
        whole = all(isinstance(value, int) for values in lists for value in values)
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=whole))
        if not stage:
            axes.set_ylabel(LABELS.get(name, name))


def draw_slopes(
    figure: SubFigure, iterations: Sequence[Mapping[str, Any]], evolution: Evolution, stages: int
) -> None:
    """The slope of every size and stage in each iteration, and its interval."""
    unit = 'unit of the size' if evolution.paper else 'choice'
    figure.suptitle(f'Slope of the E-T error (percentage points per {unit})')
    for axes, stage, name in grid(figure, stages, list(evolution.steps)):
        axes.axhspan(-evolution.tau, evolution.tau, color=GREY, alpha=0.18, linewidth=0)
        axes.axhline(0, color=GREY, linewidth=0.8)
        for t, iteration in enumerate(iterations, 1):
            for found in iteration['dimensions']:
                if (found['stage'], found['name']) != (stage + 1, name) or 'slope' not in found:
                    continue
                low, high = found['interval']
                color = ORANGE if found['decision'] == 'moved' else GREY
                axes.plot([t, t], [low, high], color=color, linewidth=1.4, solid_capstyle='butt')
                axes.plot([t], [found['slope']], 'o', color=color, markersize=4.5)
        axes.set_xlim(0.5, len(iterations) + 0.5)
        axes.margins(y=0.15)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        if not stage:
            axes.set_ylabel(f'pp per {unit_of(name)}' if evolution.paper else name_of(name))
    moved, stayed = (Line2D([], [], color=color, marker='o', markersize=4.5) for color in (ORANGE, GREY))
    interval = f'{100 * evolution.confidence:g} % interval'
    figure.legend(
        [moved, stayed, Patch(color=GREY, alpha=0.18)],
        [f'moved, {interval}', f'stayed, {interval}', f'± tau = {evolution.tau:g}'],
        loc='outside lower center',
        ncols=3,
        frameon=False,
        fontsize='small',
    )


def name_of(name: str) -> str:
    """Of the size, without its unit."""
    return LABELS.get(name, name).split('\n')[0]


def unit_of(name: str) -> str:
    """Of the size, as the paper counts it."""
    units = {'depth': 'block', 'embed_dim': 'channel', 'window_size': 'token', 'mlp_ratio': 'unit'}
    return 'channel' if name in UNITS else units.get(name, 'unit')


def grid(figure: SubFigure, stages: int, sizes: Sequence[str]) -> list[tuple[Axes, int, str]]:
    """Axes with a column for each stage (from 0) and a row for each size."""
    axes = figure.subplots(len(sizes), stages, squeeze=False, sharex=True, sharey='row')
    for stage in range(stages):
        axes[0][stage].set_title(f'stage {stage + 1}', fontsize='medium')
        axes[-1][stage].set_xlabel('iteration')
        axes[-1][stage].xaxis.set_major_locator(MaxNLocator(integer=True))
    for row in axes:
        for cell in row:
            cell.grid(axis='y', linewidth=0.4, alpha=0.6)
            cell.tick_params(labelsize='small')
    return [(axes[i][stage], stage, name) for i, name in enumerate(sizes) for stage in range(stages)]
