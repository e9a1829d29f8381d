"""A search space as data: a forest of choices, some of which exist only under certain values of another.

An architecture is a *genotype*: for every choice the index of its value, or -1 where the choice is inactive.
That form is canonical, so two genotypes are equal exactly if they decide the same, and everything here counts
and draws those.
"""

import json
import math
from bisect import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from random import Random
from typing import Any

from pydantic import TypeAdapter, ValidationError, with_config

from search.choice import STRICT, Choice, Value, listing
from zoo.entry import describe_faults
from zoo.errors import ZooError

__all__ = ['INACTIVE', 'Choice', 'Genotype', 'Space', 'Value']

Genotype = tuple[int, ...]
INACTIVE = -1


@with_config(STRICT)
@dataclass(frozen=True)
class Space:
    """All architectures that some choices span.

    Args:
        name: For messages and records.
        choices: Every choice after its parent. Genotypes follow this order.

    Raises:
        ZooError: Repeated names, or a parent that is not an earlier choice with the values named in ``when``.
    """

    name: str
    choices: tuple[Choice, ...]

    def __post_init__(self) -> None:
        if not self.choices:
            raise ZooError(f'Space {self.name!r}: found no choices, at least one is needed.')
        known: dict[str, Choice] = {}
        for choice in self.choices:
            if choice.name in known:
                raise ZooError(
                    f'Space {self.name!r}: found two choices named {choice.name!r}, names must be unique.'
                )
            if choice.parent is not None:
                if choice.parent not in known:
                    raise ZooError(
                        f'Choice {choice.name!r}: found parent {choice.parent!r}, '
                        f'a choice that stands before it is needed.'
                    )
                if not set(choice.when) <= set(allowed := known[choice.parent].values):
                    raise ZooError(
                        f'Choice {choice.name!r}: when: found {choice.when!r}, '
                        f'allowed are values of {choice.parent!r}: {listing(allowed)}.'
                    )
            known[choice.name] = choice

    def size(self) -> int:
        """Number of canonical architectures, exactly."""
        return math.prod(self._totals[root] for root in self._roots)

    def unrank(self, rank: int) -> Genotype:
        """The architecture at position ``rank`` of :meth:`enumerate`, in 0 ... size() - 1."""
        if not 0 <= rank < self.size():
            raise IndexError(f'rank {rank} is outside of 0 ... {self.size() - 1}')
        genotype = [INACTIVE] * len(self.choices)
        ranks = [0] * len(self.choices)
        for root in reversed(self._roots):
            rank, ranks[root] = divmod(rank, self._totals[root])
        for i in range(len(genotype)):
            if not self.is_active(i, genotype):
                continue
            rank, index, counts = ranks[i], 0, self._counts[i]
            while rank >= counts[index]:
                rank -= counts[index]
                index += 1
            genotype[i] = index
            for child in reversed(self._children[i][index]):
                rank, ranks[child] = divmod(rank, self._totals[child])
        return tuple(genotype)

    def enumerate(self) -> Iterator[Genotype]:
        """All architectures, each once."""
        return map(self.unrank, range(self.size()))

    def sample(self, rng: Random) -> Genotype:
        """Draws uniformly from all canonical architectures."""
        return self.unrank(rng.randrange(self.size()))

    def sample_hierarchical(self, rng: Random) -> Genotype:
        """Draws every active choice uniformly from its values, parents first (as TrioNet does)."""
        return self._build(lambda i: rng.randrange(len(self.choices[i].values)))

    def mutate(self, genotype: Genotype, rng: Random, prob: float | Sequence[float]) -> Genotype:
        """Draws each active choice anew with probability ``prob``, uniformly and its old value included.

        Choices that become active are drawn uniformly; all others keep their value.

        Args:
            prob: One probability for all choices, or one for each.
        """
        probs = [prob] * len(self.choices) if isinstance(prob, (int, float)) else prob

        def pick(i: int) -> int:
            if genotype[i] == INACTIVE or rng.random() < probs[i]:
                return rng.randrange(len(self.choices[i].values))
            return genotype[i]

        return self._build(pick)

    def crossover(self, a: Genotype, b: Genotype, rng: Random) -> Genotype:
        """Picks each choice's value from one of two architectures with equal chance.

        A choice that is active in the child is active in the parent that gave it its own parent's value, so
        the child holds nothing that neither had: where only one of them has a choice, its value is taken.
        """

        def pick(i: int) -> int:
            both = a[i] != INACTIVE and b[i] != INACTIVE
            return (a, b)[rng.randrange(2)][i] if both else max(a[i], b[i])

        return self._build(pick)

    def largest(self) -> Genotype:
        """The architecture that takes the greatest number at every choice.

        Raises:
            ZooError: A choice has several values that are not numbers; :meth:`restrict` it first.
        """
        return self._build(lambda i: self._extremes[i][1])

    def smallest(self) -> Genotype:
        """The architecture that takes the smallest number at every choice.

        Raises:
            ZooError: A choice has several values that are not numbers; :meth:`restrict` it first.
        """
        return self._build(lambda i: self._extremes[i][0])

    def canonical(self, indices: Sequence[int]) -> Genotype:
        """The genotype that ``indices`` mean: what stands at inactive choices is dropped.

        Raises:
            ZooError: Another number of indices than choices, or an active one out of range.
        """
        if len(indices) != len(self.choices):
            raise ZooError(
                f'Space {self.name!r}: found {len(indices)} indices, {len(self.choices)} are needed.'
            )

        def pick(i: int) -> int:
            choice = self.choices[i]
            if not isinstance(indices[i], int) or not 0 <= indices[i] < len(choice.values):
                raise ZooError(
                    f'Choice {choice.name!r}: found index {indices[i]!r}, '
                    f'allowed are 0 ... {len(choice.values) - 1}.'
                )
            return indices[i]

        return self._build(pick)

    def values(self, genotype: Genotype) -> dict[str, Value]:
        """The chosen value of every active choice by name."""
        return {
            choice.name: choice.values[index]
            for choice, index in zip(self.choices, genotype, strict=True)
            if index != INACTIVE
        }

    def genotype(self, values: Mapping[str, Value]) -> Genotype:
        """The inverse of :meth:`values`.

        Raises:
            ZooError: A name that is not a choice, a value that is not allowed, an active choice that is
                missing, or a value for an inactive one.
        """
        for name in values:
            self.position(name)

        def pick(i: int) -> int:
            choice = self.choices[i]
            if choice.name not in values:
                raise ZooError(
                    f'Choice {choice.name!r}: found nothing, allowed are {listing(choice.values)}.'
                )
            return choice.index(values[choice.name])

        genotype = self._build(pick)
        for name, value in values.items():
            if genotype[i := self.position(name)] == INACTIVE:
                choice = self.choices[i]
                raise ZooError(
                    f'Choice {name!r}: found {value!r}, it exists only where {choice.parent!r} is '
                    f'one of {listing(choice.when)}.'
                )
        return genotype

    def restrict(self, allowed: Mapping[str, Value | Sequence[Value]]) -> 'Space':
        """The subspace in which the named choices take only the given values.

        Choices that can no longer be active are left out. ``space.genotype(subspace.values(g))`` leads back.

        Raises:
            ZooError: An unknown choice, a value that it does not have, or none.
        """
        wanted = {
            self.choices[self.position(name)].name: (values,) if isinstance(values, Value) else tuple(values)
            for name, values in allowed.items()
        }
        kept: dict[str, Choice] = {}
        for choice in self.choices:
            indices = {choice.index(value) for value in wanted.get(choice.name, choice.values)}
            values = tuple(choice.values[index] for index in sorted(indices))
            if choice.parent is None:
                kept[choice.name] = replace(choice, values=values)
            elif choice.parent in kept:
                when = tuple(value for value in choice.when if value in kept[choice.parent].values)
                if when:
                    kept[choice.name] = replace(choice, values=values, when=when)
        return Space(self.name, tuple(kept.values()))

    def settle(self, rng: Random, hierarchical: bool = True) -> 'Space':
        """The subspace in which every choice among names, such as operators, is decided by a draw.

        What is left are numbers, of which there is a greatest and a smallest.

        Args:
            rng: Source of the draws.
            hierarchical: Each name is equally likely, or else as likely as in :meth:`sample`.
        """
        names: dict[str, Value | Sequence[Value]] = {}
        for i, choice in enumerate(self.choices):
            if len(choice.values) > 1 and any(isinstance(value, str) for value in choice.values):
                rank = rng.randrange(len(choice.values) if hierarchical else self._totals[i])
                index = rank if hierarchical else bisect(list(accumulate(self._counts[i])), rank)
                names[choice.name] = choice.values[index]
        return self.restrict(names) if names else self

    def shift(self, steps: Mapping[str, int | float]) -> 'Space':
        """The space in which a step is added to every value of the named choices; results <= 0 are dropped.

        S3 evolves its space like this (Eq. 8). A choice on which others depend cannot be shifted here, since
        only its family knows which choices the new values bring along (see ``search.spaces``).

        Raises:
            ZooError: An unknown choice, values that are not numbers, a choice on which others depend, or
                nothing left.
        """
        for name in steps:
            if any(self._children[self.position(name)]):
                raise ZooError(f'Choice {name!r} cannot be shifted: other choices depend on its values.')
        moved = (
            choice.shift(steps[choice.name]) if choice.name in steps else choice for choice in self.choices
        )
        return Space(self.name, tuple(moved))

    def is_active(self, position: int, genotype: Sequence[int]) -> bool:
        """Whether a choice exists in an architecture of which at least the choices before it are known."""
        parent, when = self._conditions[position]
        return parent is None or genotype[parent] in when

    def position(self, name: str) -> int:
        """Index of a choice in the genotype.

        Raises:
            ZooError: There is no such choice.
        """
        if name not in self._positions:
            raise ZooError(
                f'Space {self.name!r}: found choice {name!r}, allowed are {listing(tuple(self._positions))}.'
            )
        return self._positions[name]

    def to_data(self) -> dict[str, Any]:
        """The space as what JSON and YAML can hold."""
        data: dict[str, Any] = _ADAPTER.dump_python(self, mode='json')
        return data

    @staticmethod
    def from_data(data: Any) -> 'Space':
        """The inverse of :meth:`to_data`.

        Raises:
            ZooError: Unknown or missing keys, other types, or what the constructors refuse.
        """
        try:
            return _ADAPTER.validate_json(json.dumps(data))
        except (ValidationError, TypeError, ValueError, RecursionError) as error:
            raise ZooError('\n'.join(describe_faults(error, 'space', data))) from None

    def _build(self, pick: Callable[[int], int]) -> Genotype:
        """Asks ``pick(i)`` for the value of each active choice, parents first."""
        genotype = [INACTIVE] * len(self.choices)
        for i in range(len(genotype)):
            if self.is_active(i, genotype):
                genotype[i] = pick(i)
        return tuple(genotype)

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {choice.name: i for i, choice in enumerate(self.choices)}

    @cached_property
    def _conditions(self) -> list[tuple[int | None, frozenset[int]]]:
        """For each choice its parent's position and the indices of the parent's values that activate it."""
        conditions: list[tuple[int | None, frozenset[int]]] = []
        for choice in self.choices:
            if choice.parent is None:
                conditions.append((None, frozenset()))
            else:
                parent = self._positions[choice.parent]
                conditions.append((parent, frozenset(map(self.choices[parent].values.index, choice.when))))
        return conditions

    @cached_property
    def _roots(self) -> list[int]:
        return [i for i, choice in enumerate(self.choices) if choice.parent is None]

    @cached_property
    def _children(self) -> list[list[list[int]]]:
        """``_children[i][index]``: the choices that become active when choice i takes that value."""
        children: list[list[list[int]]] = [[[] for _ in choice.values] for choice in self.choices]
        for i, (parent, when) in enumerate(self._conditions):
            if parent is not None:
                for index in when:
                    children[parent][index].append(i)
        return children

    @cached_property
    def _counts(self) -> list[list[int]]:
        """``_counts[i][index]``: in how many ways what depends on choice i can be decided after that."""
        counts: list[list[int]] = [[] for _ in self.choices]
        for i in reversed(range(len(self.choices))):
            counts[i] = [
                math.prod(sum(counts[child]) for child in children) for children in self._children[i]
            ]
        return counts

    @cached_property
    def _totals(self) -> list[int]:
        return [sum(counts) for counts in self._counts]

    @cached_property
    def _extremes(self) -> list[tuple[int, int]]:
        return [choice.extremes() for choice in self.choices]


_ADAPTER = TypeAdapter(Space)
