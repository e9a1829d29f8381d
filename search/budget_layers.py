"""A cost model unrolled along the choices of its space, for dynamic programming over them."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from search.cost import CostModel, Factor
from search.space import INACTIVE, Space

__all__ = ['Layer', 'build_layers']

MAX_OPTIONS = 128
"""Consecutive choices are decided together as long as they have no more combinations."""
LAYER_WORK = 16
"""What one more layer costs and blurs, in options."""

Context = tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """Consecutive choices that are decided together.

    What the choices so far mean for the later ones is a *context*: the values of those on which later choices
    or costs depend. The first layer has one context, and the last leads to one. Contexts have different
    numbers of options; rows are filled up with options of target -1.

    Args:
        start: Position of the first choice.
        genes: (contexts, options, choices) their values.
        costs: (contexts, options, 2) int64, the params and MACs that an option adds.
        target: (contexts, options) the context of the next layer to which it leads.
    """

    start: int
    genes: NDArray[np.int16]
    costs: NDArray[np.int64]
    target: NDArray[np.intp]


def build_layers(model: CostModel) -> list[Layer]:
    """Unrolls a cost model; a part of the cost is added where the last choice it depends on is decided."""
    parts = [(tuple(map(model.space.position, factor.names)), factor) for factor in model.factors]
    last_use = _last_uses(model.space, [positions for positions, _ in parts])
    layers = []
    contexts: list[Context] = [()]
    for start, stop in itertools.pairwise(_find_cuts(model.space, last_use)):
        before, after = _live(last_use, start), _live(last_use, stop)
        added = [
            (positions, factor) for positions, factor in parts if start <= max(positions, default=0) < stop
        ]
        rows: list[list[tuple[Context, Context, tuple[int, int]]]] = []
        for context in contexts:
            genotype = [INACTIVE] * len(last_use)
            for position, index in zip(before, context, strict=True):
                genotype[position] = index
            options = _complete(model.space, genotype, start, stop)
            rows.append(
                [(tuple(g[start:stop]), tuple(g[i] for i in after), _cost(added, g)) for g in options]
            )
        contexts = list(dict.fromkeys(following for row in rows for _, following, _ in row))
        numbers = {context: i for i, context in enumerate(contexts)}
        shape = len(rows), max(map(len, rows))
        layer = Layer(
            start,
            np.full((*shape, stop - start), INACTIVE, np.int16),
            np.zeros((*shape, 2), np.int64),
            np.full(shape, -1, np.intp),
        )
        for i, row in enumerate(rows):
            for j, (genes, following, cost) in enumerate(row):
                layer.genes[i, j], layer.costs[i, j], layer.target[i, j] = genes, cost, numbers[following]
        layers.append(layer)
    return layers


def _last_uses(space: Space, factors: list[tuple[int, ...]]) -> list[int]:
    """For each choice the last position whose activity, or whose share of the cost, depends on it."""
    last_use = list(range(len(space.choices)))
    for i, choice in enumerate(space.choices):
        if choice.parent is not None:
            last_use[space.position(choice.parent)] = i
    for positions in factors:
        for position in positions:
            last_use[position] = max(last_use[position], *positions)
    return last_use


def _live(last_use: list[int], cut: int) -> list[int]:
    """The choices before a cut on which something after it depends."""
    return [i for i in range(cut) if last_use[i] >= cut]


def _find_cuts(space: Space, last_use: list[int]) -> list[int]:
    """Where layers begin and the last one ends, so that contexts x options are few in all."""
    end = len(space.choices)
    sizes = [len(choice.values) + (choice.parent is not None) for choice in space.choices]
    best: list[tuple[float, int]] = [(0, 0)] + [(math.inf, 0)] * end
    for start in range(end):
        contexts = math.prod(sizes[i] for i in _live(last_use, start))
        for stop in range(start + 1, end + 1):
            options = _count_options(space, start, stop)
            if options > MAX_OPTIONS and stop > start + 1:
                break
            best[stop] = min(best[stop], (best[start][0] + contexts * (options + LAYER_WORK), start))
    cuts = [end]
    while cuts[-1]:
        cuts.append(best[cuts[-1]][1])
    return cuts[::-1]


def _count_options(space: Space, start: int, stop: int) -> int:
    """Combinations of the choices of a layer, if all that depend on earlier ones are active."""
    names = {choice.name for choice in space.choices[start:stop]}
    choices = [
        choice if choice.parent in names else replace(choice, parent=None, when=())
        for choice in space.choices[start:stop]
    ]
    return Space(space.name, tuple(choices)).size()


def _complete(space: Space, genotype: list[int], start: int, stop: int) -> Iterator[list[int]]:
    """All values that the choices from start to stop can have after the earlier ones of a genotype."""
    if start == stop:
        yield genotype
    elif space.is_active(start, genotype):
        for index in range(len(space.choices[start].values)):
            yield from _complete(space, [*genotype[:start], index, *genotype[start + 1 :]], start + 1, stop)
    else:
        yield from _complete(space, genotype, start + 1, stop)


def _cost(parts: list[tuple[tuple[int, ...], Factor]], genotype: list[int]) -> tuple[int, int]:
    """The sum of some factors, given with the positions of their choices."""
    params = macs = 0
    for positions, factor in parts:
        index = tuple(genotype[i] for i in positions)
        if INACTIVE not in index:
            params += int(factor.params[index])
            macs += int(factor.macs[index])
    return params, macs
