"""Layers that act on each position alone, computed by oneDNN in inference on a CPU.

PyTorch gives the linear layers of float32 networks, and on one thread the 1x1 convolutions of small batches,
to its BLAS. MKL, the one of its x86 builds, uses half of the vector units of a recent AMD CPU; oneDNN, which
comes with PyTorch as well, uses all of them. ``benchmarks/pointwise.py`` measures both. In bfloat16, 1x1
convolutions of few positions gain too. Training and exported programs are left to PyTorch.
"""

import torch
import torch.nn.functional as F
from timm.layers import is_exporting, register_notrace_function
from torch import Tensor, nn

__all__ = [
    'Linear',
    'PointwiseConv2d',
    'channels_last',
    'is_plain_inference',
    'linear',
    'pointwise_conv',
    'use_onednn',
]

LEAST_ROWS = 16
LEAST_MACS = 2**20
LEAST_WEIGHTS = 2**14
"""Of what oneDNN computes: below, what a call costs outweighs the gain. In compiled networks only the weights
count, since a condition on the size of a map would be one of the program."""
ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, '_linear_pointwise')
DTYPES = [torch.float32]
if ONEDNN and torch.ops.mkldnn._is_mkldnn_bf16_supported():
    DTYPES.append(torch.bfloat16)


class Linear(nn.Linear):
    """The same as ``torch.nn.Linear``."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class PointwiseConv2d(nn.Conv2d):
    """The same as a ``torch.nn.Conv2d`` of 1x1 kernels without padding and groups."""

    def forward(self, x: Tensor) -> Tensor:
        return pointwise_conv(x, self.weight, self.bias, self.stride[0], self.stride[1])


def use_onednn(model: nn.Module) -> None:
    """Turns the linear layers and 1x1 convolutions of a network into the classes of this module, in place."""
    for layer in model.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = Linear
        elif type(layer) is nn.Conv2d and (layer.kernel_size, layer.padding, layer.groups) == (
            (1, 1),
            (0, 0),
            1,
        ):
            layer.__class__ = PointwiseConv2d


@register_notrace_function
def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Tensor[..., in] -> Tensor[..., out], weight Tensor[out, in]."""
    if not torch.jit.is_scripting():  # noqa: SIM102
        if _onednn_serves(x, weight, x.shape[-1]):
            return _onednn_linear(x, weight, bias)
    return F.linear(x, weight, bias)


@register_notrace_function
def pointwise_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride_h: int = 1, stride_w: int = 1
) -> Tensor:
    """Tensor[B, in, H, W] -> Tensor[B, out, H / stride_h, W / stride_w], sizes rounded up.

    The weight is Tensor[out, in, 1, 1]. The output of oneDNN has its channels last in memory.
    """
    if not torch.jit.is_scripting():  # noqa: SIM102
        if _onednn_serves(x, weight, x.shape[1], stride_h * stride_w):
            rows = x[:, :, ::stride_h, ::stride_w].permute(0, 2, 3, 1)
            return _onednn_linear(rows, weight.flatten(1), bias).permute(0, 3, 1, 2)
    return F.conv2d(x, weight, bias, [stride_h, stride_w])


@register_notrace_function
def channels_last(x: Tensor) -> Tensor:
    """In inference on a CPU, the same map with its channels last in memory.

    Convolutions, norms and poolings of a CPU are faster on that layout, and keep it.
    """
    if not torch.jit.is_scripting():  # noqa: SIM102
        if x.device.type == 'cpu' and is_plain_inference():
            if x.shape[1] == 1:  # contiguous in both layouts: PyTorch tells them apart by the strides alone
                return x.contiguous().flatten(1, 2).unsqueeze(3).permute(0, 3, 1, 2)
            return x.contiguous(memory_format=torch.channels_last)
    return x


def is_plain_inference() -> bool:
    """Whether what happens now is neither differentiated nor recorded, but for torch.compile."""
    if torch.is_grad_enabled() or is_exporting():
        return False
    if torch.compiler.is_compiling():
        return not torch.compiler.is_exporting()
    return not (
        torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch.autograd.forward_ad._current_level >= 0
    )


def _onednn_serves(x: Tensor, weight: Tensor, channels: int, stride: int = 1) -> bool:
    if not (
        ONEDNN
        and x.device.type == 'cpu'
        and x.dtype in DTYPES
        and weight.dtype is x.dtype
        and is_plain_inference()
        and not torch.is_autocast_enabled('cpu')
    ):
        return False
    if torch.compiler.is_compiling():
        return weight.numel() >= LEAST_WEIGHTS
    rows = x.numel() // max(1, channels * stride)
    return (
        rows >= LEAST_ROWS
        and rows * weight.numel() >= LEAST_MACS
        # quantised, distributed and other subclasses know themselves how they are multiplied
        and type(x) is Tensor
        and type(weight) in (Tensor, nn.Parameter)
        and torch.backends.mkldnn.enabled
    )


def _onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if torch.compiler.is_compiling():  # which takes the operator itself with constant weights only
        return torch.ops.searchzoo.onednn_linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, 'none', [], '')


torch.library.define('searchzoo::onednn_linear', '(Tensor x, Tensor weight, Tensor? bias) -> Tensor')


@torch.library.impl('searchzoo::onednn_linear', 'CPU')
def _opaque_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, 'none', [], '')


@torch.library.register_fake('searchzoo::onednn_linear')
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])
