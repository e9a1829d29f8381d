"""What a candidate costs, looked up: a network's parameters and MACs as a sum of table entries.

A family writes its cost once in closed form as :class:`Factor` tables over few choices each (a block's
attention, say, over width, window and heads), which the tests compare with the built network. No candidate is
ever built to be counted.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from search.space import INACTIVE, Genotype, Space

__all__ = ['Cost', 'CostModel', 'Factor', 'LayerCost', 'tabulate']

MAX_TABLE = 512
"""Factors are merged for lookup as long as the joint table has no more entries."""


class Cost(NamedTuple):
    """Number of parameters, and multiply-accumulates of one image's forward pass."""

    params: int
    macs: int


@dataclass(frozen=True, eq=False)
class Factor:
    """A part of the cost that depends on the named choices only. It counts where all of them are active.

    Args:
        names: Choices; none for a constant.
        params: int64, one axis per choice, as long as the choice has values.
        macs: Of the same shape.
    """

    names: tuple[str, ...]
    params: NDArray[np.int64]
    macs: NDArray[np.int64]


LayerCost = tuple[int, int]
"""(params, macs) of a layer."""


def tabulate(space: Space, names: tuple[str, ...], cost: Callable[..., LayerCost]) -> Factor:
    """The factor whose entries are ``cost(value of the first choice, of the second, ...)``."""
    options = [space.choices[space.position(name)].values for name in names]
    table = np.array([cost(*values) for values in itertools.product(*options)], np.int64)
    params, macs = table.T.reshape(2, *map(len, options))
    return Factor(names, params, macs)


class CostModel:
    """The cost of every architecture of a space.

    Args:
        space: The space.
        factors: Their sum is the cost.

    Raises:
        ValueError: A factor's table does not have the shape of its choices.
        ZooError: A factor names a choice that the space does not have.
    """

    def __init__(self, space: Space, factors: Sequence[Factor]) -> None:
        self.space = space
        self.factors = tuple(factors)
        for factor in self.factors:
            shape = tuple(len(space.choices[space.position(name)].values) for name in factor.names)
            if factor.params.shape != shape or factor.macs.shape != shape:
                raise ValueError(f'factor over {factor.names}: tables of shape {shape} are needed')

    def cost(self, genotype: Genotype) -> Cost:
        """The cost of one architecture, a genotype as the space gives it."""
        params = macs = 0
        for pick, table in self._lookups:
            more_params, more_macs = table[pick(genotype)]
            params += more_params
            macs += more_macs
        return Cost(params, macs)

    def costs(self, genotypes: ArrayLike) -> NDArray[np.int64]:
        """The cost of many architectures at once: (N, choices) indices to (N, 2), params and MACs."""
        columns = np.ascontiguousarray(np.asarray(genotypes).reshape(-1, len(self.space.choices)).T)
        total = np.zeros((columns.shape[1], 2), np.int64)
        for positions, table in self._tables:
            rows = np.zeros(columns.shape[1], np.intp)
            for position, size in zip(positions, table.shape[:-1], strict=True):
                rows = rows * size + columns[position] + 1
            total += table.reshape(-1, 2).take(rows, axis=0)
        return total

    @cached_property
    def _tables(self) -> list[tuple[tuple[int, ...], NDArray[np.int64]]]:
        """Merged factors: choices, and (..., 2) costs; the first entry of an axis, 0, is for inactive."""
        groups: list[tuple[int, ...]] = []
        members: list[list[Factor]] = []
        for factor in self.factors:
            positions = set(map(self.space.position, factor.names))
            unions = [tuple(sorted(positions.union(group))) for group in groups]
            fits = (i for i, union in enumerate(unions) if math.prod(self._shape(union)) <= MAX_TABLE)
            if (i := next(fits, None)) is None:
                groups.append(tuple(sorted(positions)))
                members.append([factor])
            else:
                groups[i] = unions[i]
                members[i].append(factor)
        return [
            (group, sum(self._spread(factor, group) for factor in factors))  # type: ignore[misc]
            for group, factors in zip(groups, members, strict=True)
        ]

    @cached_property
    def _lookups(self) -> list[tuple[Callable[[Genotype], Any], dict[Any, tuple[int, int]]]]:
        """Per merged table what picks the key out of a genotype, and (params, macs) by key."""
        lookups: list[tuple[Callable[[Genotype], Any], dict[Any, tuple[int, int]]]] = []
        for positions, table in self._tables:
            costs = [(params, macs) for params, macs in table.reshape(-1, 2).tolist()]
            keys = itertools.product(*(range(INACTIVE, size - 1) for size in table.shape[:-1]))
            if len(positions) > 1:
                lookups.append((itemgetter(*positions), dict(zip(keys, costs, strict=True))))
            elif positions:
                lookups.append(
                    (itemgetter(*positions), dict(zip((key for (key,) in keys), costs, strict=True)))
                )
            else:
                lookups.append((lambda _: None, {None: costs[0]}))
        return lookups

    def _shape(self, positions: Sequence[int]) -> tuple[int, ...]:
        return tuple(len(self.space.choices[i].values) + 1 for i in positions)

    def _spread(self, factor: Factor, group: tuple[int, ...]) -> NDArray[np.int64]:
        """The factor as an addend of its group's table: 0 where inactive, axes in the group's order."""
        positions = [self.space.position(name) for name in factor.names]
        axes = [positions.index(position) for position in group if position in positions]
        missing = [axis for axis, position in enumerate(group) if position not in positions]
        padded = np.pad(np.stack([factor.params, factor.macs], -1), [(1, 0)] * len(positions) + [(0, 0)])
        ordered = np.expand_dims(padded.transpose(*axes, -1), missing)
        return np.broadcast_to(ordered, (*self._shape(group), 2))
