"""Max-pooling of stride 1, computed as maxima of shifted maps in inference on a CPU.

PyTorch's kernel also finds where each maximum is, and compares nine positions for it; along one axis after
the other there are three and three. With a stride of 2 its kernel is no slower.
"""

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_function
from torch import Tensor, nn

from zoo.layers.pointwise import is_plain_inference

__all__ = ['MaxPool2d', 'max_pool']


class MaxPool2d(nn.MaxPool2d):
    """3x3 max-pooling, padded by one position."""

    def __init__(self, stride: int) -> None:
        super().__init__(3, stride, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Tensor[B, C, H, W] -> Tensor[B, C, ceil(H / stride), ceil(W / stride)]."""
        return max_pool(x, self.stride)


@register_notrace_function
def max_pool(x: Tensor, stride: int) -> Tensor:
    """As :class:`MaxPool2d`: the maximum of each ``stride``-th position and its eight neighbours.

    Tensor[B, C, H, W] -> Tensor[B, C, ceil(H / stride), ceil(W / stride)]; with a stride of 1 in x's layout.
    """
    if stride == 1 and not torch.jit.is_scripting():  # noqa: SIM102
        if x.device.type == 'cpu' and is_plain_inference() and not torch.compiler.is_compiling():
            return _max_of_rows(_max_of_rows(x).transpose(2, 3)).transpose(2, 3)
    return F.max_pool2d(x, 3, stride, 1)


def _max_of_rows(x: Tensor) -> Tensor:
    found = torch.empty_like(x)
    found[:, :, :1] = x[:, :, :1]
    torch.maximum(x[:, :, 1:], x[:, :, :-1], out=found[:, :, 1:])
    torch.maximum(found[:, :, :-1], x[:, :, 1:], out=found[:, :, :-1])
    return found
