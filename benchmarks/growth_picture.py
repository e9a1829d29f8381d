"""The picture of `growth.py`: what was measured beside what theory says."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from search.figures.style import BLUE, GREEN, GREY, ORANGE, make_axes, to_png

PURPLE, OCHRE = '#7a4fa0', '#b8860b'


def order_name(order: float) -> str:
    return {1.0: 'n', 1.5: 'n√n', 2.0: 'n²'}[order]


def draw(found: dict[str, Any]) -> bytes:
    """A panel for each family's image sizes, one for batches, and two for searches."""
    panels = [*found.get('size', {}), *(part for part in ('batch', 'candidates', 'workers') if part in found)]
    columns = min(4, len(panels))
    figure, grid = make_axes(columns, 3.5, 3.3, -(-len(panels) // columns))
    for axes, panel in zip(grid, panels, strict=False):
        if panel == 'batch':
            draw_batches(axes, found['batch'])
        elif panel in ('candidates', 'workers'):
            draw_search(axes, panel, found[panel])
        else:
            draw_sizes(axes, panel, found['size'][panel])
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    device = 'CPU time of one thread' if 'one thread' in found['device'] else found['device']
    figure.suptitle(
        f'How cost grows ({device}; medians and ranges, rounds: {found["repeats"]}). '
        'n: pixels of the image; time of a pixel, so that O(n) is flat.\n'
        'Lines: the counted MACs at the mean measured rate, and the terms that they consist of.',
        fontsize='medium',
    )
    return to_png(figure)


def draw_sizes(axes: Any, name: str, network: dict[str, Any]) -> None:
    """Time of a pixel over the side of the image, with what the MACs say: what grows as n is flat."""
    points = {point['value']: point for point in network['points']}
    measured = {
        side: [1000 * ms / side**2 for ms in point['ms']] for side, point in points.items() if 'ms' in point
    }
    macs = {side: point['macs'] / side**2 for side, point in points.items()}
    rate = np.exp(np.mean([np.log(np.median(times) / macs[side]) for side, times in measured.items()]))
    sides = np.geomspace(min(points), max(points), 50)
    for term, power, style in zip(network['terms'], (1.0, network['order']), ('--', ':'), strict=False):
        values = rate * term * sides ** (2 * power - 2)
        axes.plot(sides, values, style, color=GREY, linewidth=1.6, label=f'MACs in {order_name(power)}')
    axes.plot(
        [*macs], [rate * each for each in macs.values()], color=ORANGE, linewidth=1.2, label='MACs, all'
    )
    draw_points(axes, measured, 'measured')
    axes.set(xscale='log', xlabel='side of the image', ylabel='µs a pixel')
    axes.set_ylim(0, 1.35 * axes.get_ylim()[1])
    label_ticks(axes, [side for side in (128, 256, 512, 1024) if min(points) <= side <= max(points)])
    axes.set_title(f'{name}: O({order_name(network["order"])})', fontsize='medium')
    axes.legend(fontsize='x-small', loc='upper left', ncols=2)


def draw_batches(axes: Any, networks: dict[str, Any]) -> None:
    """Time of an image over the batch size, as a multiple of that in the smallest batch."""
    colors = (BLUE, ORANGE, GREEN, PURPLE, OCHRE)
    for color, (name, network) in zip(colors, networks.items(), strict=False):
        each = {p['value']: np.median(p['ms']) / p['value'] for p in network['points'] if 'ms' in p}
        first = each[min(each)]
        axes.plot(
            [*each],
            [t / first for t in each.values()],
            'o-',
            color=color,
            markersize=3.5,
            linewidth=1.2,
            label=name,
        )
    axes.axhline(1, color=GREY, linestyle='--', linewidth=1.4, label='O(batch)')
    axes.set(xscale='log', xlabel='batch size', ylabel='time of an image, relative')
    axes.set_ylim(0, 1.1 * axes.dataLim.ymax)
    label_ticks(axes, sorted(each))
    axes.set_title('all: O(batch)', fontsize='medium')
    axes.legend(fontsize='x-small', loc='lower left')


def draw_search(axes: Any, part: str, found: dict[str, Any]) -> None:
    """Seconds of the search over candidates or workers, with the plan or the ideal."""
    points = {point['value']: point['s'] for point in found['points']}
    if part == 'candidates':
        planned = [found['planned_s_each'][0] * value for value in points]
        axes.plot([*points], planned, '--', color=GREY, linewidth=1.4, label='search plan, O(candidates)')
        axes.set(xlabel='candidates')
    else:
        alone = np.median(points[0])
        ideal = [alone / max(1, value) for value in points]
        axes.plot([*points], ideal, '--', color=GREY, linewidth=1.4, label='O(1 / workers)')
        axes.set(xlabel='worker processes (0: none)')
    draw_points(axes, points, 'measured')
    axes.set_ylabel('s of the search, wall time')
    axes.set_ylim(0, 1.35 * max(max(times) for times in points.values()))
    label_ticks(axes, [*points])
    axes.set_title(f'search, {part}', fontsize='medium')
    axes.legend(fontsize='x-small', loc='upper left')


def draw_points(axes: Any, points: dict[int, list[float]], label: str) -> None:
    middle, low, high = (np.array([f(values) for values in points.values()]) for f in (np.median, min, max))
    ends = np.stack([middle - low, high - middle])
    axes.errorbar(
        [*points], middle, ends, fmt='o', color=BLUE, markersize=4, capsize=2, linewidth=1, label=label
    )


def label_ticks(axes: Any, values: Sequence[int]) -> None:
    axes.set_xticks(values, [str(value) for value in values])
    axes.minorticks_off()
