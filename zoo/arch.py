"""What all architectures have in common: strict, frozen, bounded data that holds only what a search decides.

A family's file (``zoo/models/<family>.py``) subclasses :class:`Arch`; the network derives everything else
from it.
"""

import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from zoo.errors import ZooError

__all__ = ['Arch', 'Depth', 'Dim', 'Heads', 'Kernel', 'Part', 'Ratio', 'load_arch']

MAX_WEIGHTS = 4_000_000_000
"""Architectures with more weights than this are refused before any memory is taken (the largest entry has
0.12e9)."""

Dim = Annotated[int, Field(ge=1, le=16384)]
"""Channels of a tensor."""
Depth = Annotated[int, Field(ge=1, le=256)]
"""Number of blocks."""
Heads = Annotated[int, Field(ge=1, le=512)]
"""Attention heads."""
Kernel = Annotated[int, Field(ge=1, le=255)]
"""Side of a kernel or window, in tokens."""
Ratio = Annotated[float, Field(gt=0, le=64, allow_inf_nan=False)]
"""Width relative to another width (MLP ratio, expansion)."""


class Part(BaseModel):
    """A piece of an architecture: unknown keys, strings for numbers and in-place changes are refused."""

    model_config = ConfigDict(extra='forbid', frozen=True, strict=True, allow_inf_nan=False)


class Arch(Part):
    """A family's architecture. Subclasses add the decisions and :meth:`num_weights`."""

    family: ClassVar[str]

    def num_weights(self) -> int:
        """Weights of the convolutions and linear layers that dominate, in closed form."""
        raise NotImplementedError

    @model_validator(mode='after')
    def _check_num_weights(self) -> 'Arch':
        if (count := self.num_weights()) > MAX_WEIGHTS:
            raise ValueError(f'about {count:.2g} weights, at most {MAX_WEIGHTS:.2g} are allowed')
        return self


A = TypeVar('A', bound=Arch)


def load_arch(cls: type[A], arch: A | dict[str, Any] | str | Path | None) -> A:
    """Reads the ``arch=`` argument of a family's generic entrypoint.

    Args:
        cls: The family's Arch.
        arch: An Arch, its dict, or the path of an entry file or of a JSON file that holds the dict alone.

    Raises:
        ZooError: ``arch`` is missing, unreadable, of another family, or not a valid architecture.
    """
    if isinstance(arch, cls):
        return arch
    if arch is None:
        raise ZooError(f'{cls.family} needs arch=: an architecture as a dict, or the path of an entry file.')
    from zoo.entry import (
        describe_faults,
        parse_json,
        read_entry,
        read_file,
    )  # entry.py needs the families' Arch

    where = 'arch'
    if isinstance(arch, (str, Path)):
        where = str(arch)
        arch = parse_json(read_file(Path(arch)), where)
        if isinstance(arch, dict) and 'arch' in arch:
            entry = read_entry(where)
            if entry.family != cls.family:
                raise ZooError(f'{where}: $.family: found {entry.family!r}, {cls.family!r} is needed here.')
            return entry.arch  # type: ignore[return-value]
    if not isinstance(arch, dict):
        raise ZooError(
            f'{where}: found {type(arch).__name__}, an object with the keys of {cls.family} is needed.'
        )
    try:
        return cls.model_validate_json(json.dumps(arch))
    except (ValidationError, TypeError, ValueError, RecursionError) as error:
        raise ZooError('\n'.join(describe_faults(error, where, arch, cls))) from None
