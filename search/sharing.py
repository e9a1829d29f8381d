"""How a sub-network's tensor is a part of the supernet's stored tensor: weight sharing as data.

A tensor of a sub-network has the name of the stored tensor and, axis by axis, is its leading part (weight
entanglement, AutoFormer) unless a :class:`Rule` of the family's space says otherwise. Reading a leading or
centred part is a view; a grouped axis (three of q-k-v, four positions of patch merging, the heads of
Multi-Head Sharing) is a small copy that autograd sees through.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

__all__ = ['Crop', 'Groups', 'Layout', 'Lead', 'Rule', 'resolve', 'share']


@dataclass(frozen=True)
class Lead:
    """The first entries of the axis."""

    def take(self, tensor: torch.Tensor, axis: int, size: int) -> torch.Tensor:
        return tensor.narrow(axis, 0, size)


@dataclass(frozen=True)
class Crop:
    """The middle entries of the axis: a small window or kernel is the centre of a large one."""

    def take(self, tensor: torch.Tensor, axis: int, size: int) -> torch.Tensor:
        margin = tensor.shape[axis] - size
        if margin % 2:
            raise ValueError(f'no centre of {size} entries in {tensor.shape[axis]}')
        return tensor.narrow(axis, margin // 2, size)


@dataclass(frozen=True)
class Groups:
    """The axis holds n equal groups side by side: the first entries of each."""

    n: int

    def take(self, tensor: torch.Tensor, axis: int, size: int) -> torch.Tensor:
        if tensor.shape[axis] == size:
            return tensor
        stored = tensor.unflatten(axis, (self.n, -1))
        return stored.narrow(axis + 1, 0, size // self.n).flatten(axis, axis + 1)


Layout: TypeAlias = Lead | Crop | Groups


@dataclass(frozen=True)
class Rule:
    """Where the tensors are stored whose name contains a match of the pattern, and which part they are.

    Args:
        pattern: Of names in the zoo's network.
        layouts: One for each axis; none for leading parts.
        store: What stands in the stored tensor's name in place of the match (as in ``re.sub``), for
            sub-networks in which the same name means another layer; None for the same name.
    """

    pattern: str
    layouts: tuple[Layout, ...] = ()
    store: str | None = None


def resolve(name: str, ndim: int, rules: Sequence[Rule]) -> tuple[str, tuple[Layout, ...]]:
    """The stored tensor's name and the layouts of a tensor, by the first rule that matches its name.

    Raises:
        ValueError: The rule has another number of axes than the tensor.
    """
    for rule in rules:
        if match := re.search(rule.pattern, name):
            if rule.layouts and len(rule.layouts) != ndim:
                raise ValueError(f'rule {rule.pattern!r} has {len(rule.layouts)} axes, {name} has {ndim}')
            place = match.expand(rule.store) if rule.store is not None else match[0]
            stored = name[: match.start()] + place + name[match.end() :]
            return stored, rule.layouts or (Lead(),) * ndim
    return name, (Lead(),) * ndim


def share(stored: torch.Tensor, shape: torch.Size, layouts: tuple[Layout, ...]) -> torch.Tensor:
    """The part of a stored tensor that a sub-network's tensor of this shape is. Gradients flow back."""
    for axis, (layout, size) in enumerate(zip(layouts, shape, strict=True)):
        stored = layout.take(stored, axis, size)
    return stored
