"""Elementwise operations that overwrite an argument in inference.

New memory for a large map costs a CPU more than the arithmetic: the system hands it out page by page. What is
overwritten is what a layer has just made, as with activations that timm makes in place. Training, compiled
and exported programs get the usual operations.
"""

import timm.layers
import torch
import torch.nn.functional as F
from timm.layers import register_notrace_function
from torch import Tensor, nn

from zoo.layers.pointwise import is_plain_inference

__all__ = ['GELU', 'SqueezeExcite', 'add', 'gelu', 'multiply']


@register_notrace_function
def add(shortcut: Tensor, x: Tensor) -> Tensor:
    """``shortcut + x``, of the same shape, in the memory of x."""
    if not torch.jit.is_scripting():  # noqa: SIM102
        if _may_overwrite() and x.dtype is shortcut.dtype:
            return x.add_(shortcut)
    return shortcut + x


@register_notrace_function
def multiply(x: Tensor, y: Tensor) -> Tensor:
    """``x * y``, of which y is broadcast to x, in the memory of x."""
    if not torch.jit.is_scripting():  # noqa: SIM102
        if _may_overwrite() and x.dtype is y.dtype:
            return x.mul_(y)
    return x * y


@register_notrace_function
def gelu(x: Tensor) -> Tensor:
    """The exact one, in the memory of x."""
    if not torch.jit.is_scripting():  # noqa: SIM102
        if _may_overwrite():
            return torch.ops.aten.gelu_(x)
    return F.gelu(x)


class GELU(nn.GELU):
    """After a layer whose output nobody else needs."""

    def forward(self, x: Tensor) -> Tensor:
        return gelu(x)


class SqueezeExcite(timm.layers.SqueezeExcite):
    """timm's squeeze-and-excitation of a map that nobody else needs, by its mean."""

    def forward(self, x: Tensor) -> Tensor:
        """Tensor[B, C, H, W] -> Tensor[B, C, H, W]."""
        squeezed = x.mean((2, 3), keepdim=True)
        return multiply(x, self.gate(self.fc2(self.act(self.bn(self.fc1(squeezed))))))


def _may_overwrite() -> bool:
    return is_plain_inference() and not torch.compiler.is_compiling()
