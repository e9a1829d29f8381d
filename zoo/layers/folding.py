"""Layers for inference: a fixed rule before or after a linear layer becomes a part of its weights.

Every function leaves its arguments as they are. Layers of the zoo call these from a method ``fuse``, by which
timm's ``reparameterize_model`` knows them.
"""

import copy
from typing import Any

import timm.layers
import torch
from timm.layers import LayerScale
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from zoo.layers.pointwise import PointwiseConv2d, channels_last

__all__ = ['ConvNormAct', 'Projections', 'fold_norm', 'fold_norm_before', 'fold_scale', 'merge_convs']


class ConvNormAct(timm.layers.ConvNormAct):
    """timm's convolution with batch norm and activation, which can be made one convolution with a bias.

    In inference on a CPU its output, and with it what follows, has channels last in memory.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Tensor[B, in_channels, H, W] -> Tensor[B, out_channels, H', W']."""
        return self.bn(self.conv(channels_last(x)))

    def fuse(self) -> 'ConvNormAct':
        """Folds the norm; what is left in its place is the activation."""
        self.conv, self.bn = fold_norm(self.conv, self.bn)
        return self


class Projections(nn.Module):
    """Linear queries, keys and values of a map, which can be made one convolution.

    Args:
        dim: Channels of the map.
        key_dim: Channels of the queries and of the keys, all heads together.
        value_dim: Channels of the values.
    """

    def __init__(
        self,
        dim: int,
        key_dim: int,
        value_dim: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        super().__init__()
        self.key_dim = key_dim
        self.value_dim = value_dim
        self.q = nn.Conv2d(dim, key_dim, 1, bias=False, **dd)
        self.k = nn.Conv2d(dim, key_dim, 1, bias=False, **dd)
        self.v = nn.Conv2d(dim, value_dim, 1, bias=False, **dd)
        self.qkv = None

    def fuse(self) -> 'Projections':
        """Merges the three; ``qkv`` takes their place."""
        if self.qkv is None:
            self.qkv = merge_convs(self.q, self.k, self.v)
            del self.q, self.k, self.v
        return self

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tensor[B, dim, H, W] -> two of Tensor[B, key_dim, H, W], Tensor[B, value_dim, H, W]."""
        if self.qkv is None:
            return self.q(x), self.k(x), self.v(x)
        q, k, v = self.qkv(x).split([self.key_dim, self.key_dim, self.value_dim], dim=1)
        return q, k, v


def fold_norm(conv: Any, norm: nn.Module) -> tuple[Any, nn.Module]:
    """A convolution that does what the two do, in evaluation mode, but for the norm's activation, and that.

    Args:
        conv: A convolution. What lies between it and the norm, if anything, averages positions.
        norm: Its batch norm. In place of anything else there is nothing to fold, and both are given back.
    """
    if not isinstance(norm, _BatchNorm):
        return conv, norm
    return fuse_conv_bn_eval(conv, norm), getattr(norm, 'act', nn.Identity())


def fold_norm_before(norm: nn.Module, conv: nn.Module) -> tuple[nn.Module, nn.Module]:
    """A pointwise convolution that does, in evaluation mode, what it does after a norm without activation.

    Args:
        norm: The batch norm. In place of anything else there is nothing to fold, and both are given back.
        conv: The 1x1 convolution, without padding.

    Returns:
        What is left in place of the norm, and the convolution.
    """
    if not isinstance(norm, _BatchNorm):
        return norm, conv
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    shift = norm.bias - norm.running_mean * scale
    bias = conv.weight.flatten(1) @ shift.to(conv.weight.dtype)
    folded = copy.deepcopy(conv)
    folded.weight = nn.Parameter(conv.weight * scale.to(conv.weight.dtype)[:, None, None])
    folded.bias = nn.Parameter(bias if conv.bias is None else bias + conv.bias)
    return nn.Identity(), folded


def fold_scale(linear: nn.Linear, scale: nn.Module) -> tuple[nn.Linear, nn.Module]:
    """A linear layer that does what a layer scale makes of it, and what is left in place of that."""
    if not isinstance(scale, LayerScale):
        return linear, scale
    folded = copy.deepcopy(linear)
    folded.weight = nn.Parameter(linear.weight * scale.gamma[:, None])
    folded.bias = nn.Parameter(linear.bias * scale.gamma)
    return folded, nn.Identity()


def merge_convs(*convs: nn.Conv2d) -> nn.Conv2d:
    """A 1x1 convolution that gives the channels of several, which have the same input, side by side."""
    weight = torch.cat([conv.weight for conv in convs])
    merged = PointwiseConv2d(weight.shape[1], weight.shape[0], 1, bias=False, device='meta')
    merged.weight = nn.Parameter(weight)
    if any(conv.bias is not None for conv in convs):
        biases = [
            conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias for conv in convs
        ]
        merged.bias = nn.Parameter(torch.cat(biases))
    return merged
