"""Position tables for maps of a size, made once for each size as long as nothing trains them."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ['TableCache']

MOST = 16
"""Sizes that are kept: images of a data set come in many, and a table for a large map has megabytes."""


class TableCache:
    """What was made of a parameter for the last sizes of a map.

    Nothing is kept while gradients must reach the parameter. A change of its values is noticed, unless it
    goes through ``.data``, as in some averages of weights: so nothing is kept either until ``on`` is set, by
    someone who calls :meth:`clear` where that can happen. Copies and files of a cache are empty.

    Args:
        most_bytes: What is kept takes no more memory.
    """

    def __init__(self, most_bytes: float = math.inf) -> None:
        self.most_bytes = most_bytes
        self.on = False
        self.clear()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), 'made': {}, 'version': (0, 0)}

    def clear(self) -> None:
        """Forgets everything."""
        self.made: dict[tuple[object, ...], Tensor] = {}
        self.version = (0, 0)

    def get(self, table: Tensor, size: object, make: Callable[[], Tensor]) -> Tensor:
        """What ``make`` gives, or has given before.

        Args:
            table: The parameter.
            size: All that ``make`` depends on besides the parameter.
            make: Computes it.
        """
        if not self.on or torch.compiler.is_compiling():
            return make()
        if table.is_inference() or (torch.is_grad_enabled() and table.requires_grad):
            return make()
        version = id(table), table._version
        if self.version != version:
            self.clear()
            self.version = version
        # autograd refuses what was made in inference mode
        key = size, table.dtype, table.device, torch.is_inference_mode_enabled()
        if key in self.made:
            return self.made[key]
        made = make()
        if made.nbytes <= self.most_bytes:
            self.made[key] = made
        while len(self.made) > MOST or sum(x.nbytes for x in self.made.values()) > self.most_bytes:
            self.made.pop(next(iter(self.made)))
        return made
