"""Position tables for maps of another size, made once for each size as long as nothing trains them."""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ['TableCache']

MOST = 16
"""Sizes that are kept: images of a data set come in many, and a table for a large map has megabytes."""


class TableCache:
    """What was made of a parameter for the last sizes of a map.

    Nothing is kept while gradients must reach the parameter. A change of its values is noticed, unless it
    goes through ``.data``, as in some averages of weights: so nothing is kept either until ``on`` is set, by
    someone who calls :meth:`clear` where that can happen.
    """

    def __init__(self) -> None:
        self.on = False
        self.clear()

    def clear(self) -> None:
        """Forgets everything."""
        self.made: dict[tuple[object, bool], Tensor] = {}
        self.version = (0, 0)

    def get(self, table: Tensor, size: object, make: Callable[[], Tensor]) -> Tensor:
        """What ``make`` gives, or has given before.

        Args:
            table: The parameter.
            size: All that ``make`` depends on besides the parameter.
            make: Computes it.
        """
        trained = torch.is_grad_enabled() and table.requires_grad
        if not self.on or trained or table.is_inference() or torch.compiler.is_compiling():
            return make()
        version = id(table), table._version
        if self.version != version:
            self.clear()
            self.version = version
        key = size, torch.is_inference_mode_enabled()  # autograd refuses what was made in inference mode
        if key not in self.made:
            if len(self.made) == MOST:
                self.made.pop(next(iter(self.made)))
            self.made[key] = make()
        return self.made[key]
