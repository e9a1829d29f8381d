"""One decision of a search space."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pydantic import ConfigDict, with_config

from zoo.errors import ZooError

__all__ = ['STRICT', 'Choice', 'Value', 'listing']

STRICT = ConfigDict(extra='forbid', strict=True)
"""How spaces are read from JSON."""

Value = int | float | str


@with_config(STRICT)
@dataclass(frozen=True)
class Choice:
    """One decision of a space.

    Args:
        name: Unique in its space.
        values: What can be chosen: distinct numbers or strings.
        parent: The choice it depends on, or None if it is always active.
        when: The values of ``parent`` under which it is active (never, if ``parent`` is inactive itself).

    Raises:
        ZooError: No values, repeated ones, values of another type, or only one of ``parent`` and ``when``.
    """

    name: str
    values: tuple[Value, ...]
    parent: str | None = None
    when: tuple[Value, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ZooError(f'Choice: name: found {self.name!r}, a non-empty string is needed.')
        for field, values in (('values', self.values), ('when', self.when)):
            fault = f'Choice {self.name!r}: {field}: found {values!r}'
            if not isinstance(values, tuple) or not all(map(_is_value, values)):
                raise ZooError(f'{fault}, finite numbers or strings are needed.')
            if len(set(values)) != len(values):
                raise ZooError(f'{fault}, they must be distinct.')
        if not self.values:
            raise ZooError(f'Choice {self.name!r}: values: found none, at least one is needed.')
        if (self.parent is None) != (not self.when):
            raise ZooError(
                f'Choice {self.name!r}: found parent {self.parent!r} and when {self.when!r}, either both or '
                f'neither are needed.'
            )

    def index(self, value: Value) -> int:
        """Position of a value.

        Raises:
            ZooError: It is not one of the values.
        """
        if not _is_value(value) or value not in self.values:
            raise ZooError(f'Choice {self.name!r}: found {value!r}, allowed are {listing(self.values)}.')
        return self.values.index(value)

    def extremes(self) -> tuple[int, int]:
        """Positions of the smallest and of the greatest value.

        Raises:
            ZooError: There are several values, and not all of them are numbers.
        """
        if len(self.values) == 1:
            return 0, 0
        numbers = [value for value in self.values if not isinstance(value, str)]
        if len(numbers) < len(self.values):
            raise ZooError(
                f'Choice {self.name!r}: found {listing(self.values)}, of which none is the greatest or '
                f'smallest: a space restricted to one of them is needed.'
            )
        return numbers.index(min(numbers)), numbers.index(max(numbers))

    def shift(self, step: int | float) -> 'Choice':
        """The choice with a step added to every value; results <= 0 are dropped.

        Raises:
            ZooError: Not all values are numbers, or none is left.
        """
        numbers = [value for value in self.values if not isinstance(value, str)]
        if len(numbers) < len(self.values):
            raise ZooError(
                f'Choice {self.name!r}: found {listing(self.values)}, only numbers can be shifted.'
            )
        moved = [value + step for value in numbers]
        kept = tuple(value if isinstance(value, int) else round(value, 9) for value in moved if value > 0)
        if not kept:
            raise ZooError(
                f'Choice {self.name!r}: found a shift by {step}, which leaves none of {listing(numbers)} '
                f'above zero.'
            )
        return replace(self, values=kept)


def listing(values: Sequence[Value]) -> str:
    """Values for a message, at most twelve of them."""
    shown = ', '.join(map(repr, values[:12]))
    return shown if len(values) <= 12 else f'{shown}, ... ({len(values)} in all)'


def _is_value(value: object) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, str) or (isinstance(value, (int, float)) and math.isfinite(value))
