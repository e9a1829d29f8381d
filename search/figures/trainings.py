"""The losses of all trainings of a run, and the architecture parameters of a differentiable search."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from search.figures.style import BLUE, GREEN, GREY, ORANGE, make_axes, to_png

__all__ = ['draw_alpha', 'draw_losses', 'group_losses']

Events = Sequence[Mapping[str, Any]]
CYCLE = (BLUE, ORANGE, GREEN, '#7a4fa0', '#b8860b', '#2a9d9d', '#b0406a', '#555555')
KINDS = {
    'supernet': 'supernets',
    'self_supervised': 'search by reconstruction',
    'target': 'search on the target task',
    'random': 'random networks',
}


def kind_of(phase: str) -> str:
    """The group of a training, by the last part of its name."""
    name = phase.split('/')[-1].rstrip('0123456789')
    return KINDS.get(name, 'what was found, and its rivals')


def group_losses(events: Events) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Of each kind of training and each training, (epoch, loss); only trainings log epochs."""
    groups: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for event in events:
        if not isinstance(event.get('epoch'), (int, float)):
            continue
        curves = groups.setdefault(kind_of(event['phase']), {})
        for key, suffix in (('loss', ''), ('loss_alpha', ' (alpha)')):
            if isinstance(event.get(key), (int, float)):
                curves.setdefault(f'{event["phase"]}{suffix}', []).append((event['epoch'], event[key]))
    return groups


def draw_losses(events: Events) -> bytes:
    """A panel for each kind of training."""
    groups = group_losses(events)
    columns = min(2, len(groups))
    figure, grid = make_axes(columns, 5.6 if columns > 1 else 8.0, 3.6, math.ceil(len(groups) / columns))
    for axes, (kind, curves) in zip(grid, groups.items(), strict=False):
        for i, (name, points) in enumerate(curves.items()):
            marker = 'o' if len(points) < 3 else None
            color, style = CYCLE[i % len(CYCLE)], ('-', '--', ':', '-.')[i // len(CYCLE) % 4]
            axes.plot(
                *zip(*points, strict=True),
                style,
                color=color,
                linewidth=1.3,
                marker=marker,
                markersize=4,
                label=name,
            )
        axes.set_title(kind, fontsize='medium')
        axes.set(xlabel='epoch', ylabel='training loss')
        axes.legend(fontsize='x-small', ncols=1 + len(curves) // 9)
    for axes in grid[len(groups) :]:
        axes.set_axis_off()
    return to_png(figure)


def draw_alpha(events: Events) -> bytes:
    """Of one search by gradients: for each layer the weights of its candidates, and how settled they are.

    Args:
        events: Of its phases; their names end in that of the phase.
    """
    layers = list(dict.fromkeys(k.split('/')[1] for e in events for k in e if k.startswith('weight/')))
    columns = min(5, len(layers))
    rows = math.ceil(len(layers) / columns)
    figure, grid = make_axes(columns, 2.5, 2.2, rows, sharex=True, sharey=True)
    times, borders = join_phases(events)
    names = list(dict.fromkeys(k.split('/')[2] for e in events for k in e if k.startswith('weight/')))
    colors = {name: CYCLE[i % len(CYCLE)] for i, name in enumerate(names)}
    for axes, layer in zip(grid, layers, strict=False):
        draw_layer(axes, events, times, layer, colors)
        for border in borders:
            axes.axvline(border, color='black', linewidth=0.8, linestyle=':')
    for axes in grid[len(layers) :]:
        axes.set_axis_off()
    for i in range(rows):
        grid[i * columns].set_ylabel('weight', fontsize='small')
    for axes in grid[max(0, len(layers) - columns) : len(layers)]:
        axes.set_xlabel('step', fontsize='small')
        axes.tick_params(labelbottom=True)
    handles = [Line2D([], [], color=color) for color in colors.values()]
    handles += [Line2D([], [], color=GREY, linestyle=style) for style in ('--', ':')]
    labels = [*colors, 'entropy / its maximum', 'margin of the first']
    figure.legend(
        handles,
        labels,
        loc='outside lower center',
        ncols=min(5, len(labels)),
        frameon=False,
        fontsize='small',
    )
    return to_png(figure)


def join_phases(events: Events) -> tuple[list[float], list[float]]:
    """When each event was, in steps from the first phase on, and where a phase ends and the next begins."""
    times: list[float] = []
    borders: list[float] = []
    offset = last = 0.0
    for i, event in enumerate(events):
        if i and event['phase'] != events[i - 1]['phase']:
            offset = last
            borders.append(offset)
        last = offset + event['step']
        times.append(last)
    return times, borders


def draw_layer(
    axes: Axes, events: Events, times: Sequence[float], layer: str, colors: Mapping[str, str]
) -> None:
    """The weights of a layer's candidates, their entropy and their margin, over all phases."""
    keys = dict.fromkeys(key for event in events for key in event if key.startswith(f'weight/{layer}/'))
    limit = math.log(len(keys)) if len(keys) > 1 else 1.0
    lines = [(key, colors[key.split('/')[2]], '-', 1.0) for key in keys]
    lines += [(f'entropy/{layer}', GREY, '--', limit), (f'margin/{layer}', GREY, ':', 1.0)]
    for key, color, style, unit in lines:
        points = [(t, event[key] / unit) for t, event in zip(times, events, strict=True) if key in event]
        if points:
            marker = 'o' if len(points) < 3 else None
            axes.plot(
                *zip(*points, strict=True), style, color=color, linewidth=1.1, marker=marker, markersize=3
            )
    axes.set_ylim(-0.03, 1.03)
    axes.set_title(layer, fontsize='small')
    axes.tick_params(labelsize='x-small')
