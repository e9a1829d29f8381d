"""How long a candidate takes on a device, looked up: a sum of measured times of its modules and the rest."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.budget import BudgetSampler, Limits
from search.cost import CostModel, Factor
from search.measurements import Key, Measurements
from search.space import INACTIVE, Genotype, Space
from search.spaces import FamilySpace
from zoo.errors import ZooError

__all__ = ['LatencyModel', 'list_variants']

MAX_VARIANTS = 4096
"""Of a module: each of them is timed."""


def list_variants(space: Space, names: Sequence[str]) -> dict[Key, list[dict[int, int]]]:
    """What some choices can be together.

    Args:
        space: The space.
        names: Of choices; those that it does not have count as never active.

    Returns:
        By their values all ways to have these: indices by position, of those choices and of all that they
        depend on.

    Raises:
        ZooError: There are too many.
    """
    parents = {choice.name: choice.parent for choice in space.choices}
    needed: set[str] = set()
    for name in names:
        ancestor: str | None = name
        while ancestor in parents and ancestor not in needed:
            needed.add(ancestor)
            ancestor = parents[ancestor]
    if not needed:
        return {(None,) * len(names): [{}]}
    part = Space(space.name, tuple(choice for choice in space.choices if choice.name in needed))
    if part.size() > MAX_VARIANTS:
        raise ZooError(
            f'space: found {part.size():,} variants of a module that depends on {", ".join(names)}; at most '
            f'{MAX_VARIANTS:,} can be timed.'
        )
    positions = [space.position(choice.name) for choice in part.choices]
    variants: dict[Key, list[dict[int, int]]] = defaultdict(list)
    for genotype in part.enumerate():
        values = part.values(genotype)
        key = tuple(values.get(name) for name in names)
        variants[key].append(dict(zip(positions, genotype, strict=True)))
    return dict(variants)


class LatencyModel:
    """The latency of every architecture of a space.

    Attributes:
        space: The space.
        factors: Nanoseconds as the ``params`` of cost factors, so that whatever works with a cost, such as
            sampling within limits, works with latency.
    """

    def __init__(self, family_space: FamilySpace, num_classes: int, file: Path | str):
        """
        Args:
            family_space: The space, at its input size: the one that was measured, or a part of it.
            num_classes: Of the classifier.
            file: Complete measurements.

        Raises:
            ZooError: A file that cannot be read, is faulty or not complete, or was made for other networks.
        """
        self.space = family_space.space
        measurements = Measurements.read(file)
        _check_networks(measurements, family_space, num_classes, str(file))
        known = {choice.name for choice in self.space.choices}
        self.factors: list[Factor] = []
        self._lookups: list[tuple[Callable[[Genotype], Any], dict[Any, int]]] = []
        for path in family_space.modules:
            names, seconds = measurements.header.modules[path], measurements.seconds[path]
            positions = [self.space.position(name) for name in names if name in known]
            table: dict[tuple[int, ...], int] = {}
            for key, ways in list_variants(self.space, names).items():
                if key not in seconds:
                    values = {
                        name: value for name, value in zip(names, key, strict=True) if value is not None
                    }
                    raise ZooError(
                        f'{file}: found no time of {path} for {values}: the measurement is not complete, '
                        'the command that began it continues it.'
                    )
                table[tuple(ways[0][position] for position in positions)] = round(seconds[key] * 1e9)
            self.factors += _make_factors(self.space, positions, table)
            if len(positions) == 1:  # itemgetter gives a tuple of two or more
                self._lookups.append((itemgetter(*positions), {key: time for (key,), time in table.items()}))
            else:
                self._lookups.append((itemgetter(*positions) if positions else _no_key, table))
        self._rest = round(measurements.rest * 1e9)
        self.factors.append(Factor((), np.array(self._rest), np.array(0)))

    def latency(self, genotype: Genotype) -> float:
        """The latency of one architecture, a genotype as the space gives it, in seconds."""
        nanoseconds = self._rest
        for pick, table in self._lookups:
            nanoseconds += table[pick(genotype)]
        return nanoseconds / 1e9

    def attainable(self) -> tuple[float, float]:
        """The lowest and the highest latency of the space's architectures."""
        model = CostModel(self.space, self.factors)
        least, most = BudgetSampler(model, Limits()).attainable()['params']
        return least / 1e9, most / 1e9


def _check_networks(
    measurements: Measurements, family_space: FamilySpace, num_classes: int, where: str
) -> None:
    """Refuses measurements of other networks than those that a space means by the same values."""
    header, measured = measurements.header, measurements.load_space()
    if (header.input_size, header.num_classes) != (family_space.input_size, num_classes):
        raise ZooError(
            f'{where}: found latencies for images of {header.input_size} and {header.num_classes} classes, '
            f'those for {family_space.input_size} and {num_classes} classes are needed.'
        )
    known = {choice.name: set(choice.values) for choice in measured.space.choices}
    same = measured.family == family_space.family and set(family_space.modules) <= set(header.modules)
    same = same and all(
        set(choice.values) <= known.get(choice.name, set()) for choice in family_space.space.choices
    )
    try:
        same = same and all(
            family_space.decode_values(values) == measured.decode_values(values)
            for network in measurements.networks
            for values in [measured.space.values(network.genotype)]
        )
    except (KeyError, ValueError):  # the space cannot even say what they mean
        same = False
    if not same:
        raise ZooError(
            f'{where}: found latencies of another space of family {measured.family}; those of this space, or '
            'of one that it is a part of, are needed.'
        )


def _no_key(genotype: Genotype) -> tuple[int, ...]:
    return ()


def _make_factors(
    space: Space, positions: Sequence[int], table: Mapping[tuple[int, ...], int]
) -> list[Factor]:
    """A module's times as addends, each of which counts where all of its choices are active.

    Args:
        space: The space.
        positions: The choices on which the module depends.
        table: Nanoseconds by what they can be together.
    """
    by_active: dict[tuple[int, ...], dict[tuple[int, ...], int]] = defaultdict(dict)
    for key, time in table.items():
        active = {p: index for p, index in zip(positions, key, strict=True) if index != INACTIVE}
        by_active[tuple(active)][tuple(active.values())] = time
    addends: dict[tuple[int, ...], NDArray[np.int64]] = {}
    for some in sorted(by_active, key=len):
        addend = np.zeros([len(space.choices[position].values) for position in some], np.int64)
        for indices, time in by_active[some].items():
            chosen = dict(zip(some, indices, strict=True))
            counted = [
                other[tuple(chosen[position] for position in fewer)]
                for fewer, other in addends.items()
                if set(fewer) < set(some)
            ]
            addend[indices] = time - sum(counted)
        addends[some] = addend
    return [
        Factor(tuple(space.choices[position].name for position in some), addend, np.zeros_like(addend))
        for some, addend in addends.items()
        if addend.any()
    ]
