"""Params and MACs of a network at any input size, counted by running it on the meta device, at no cost.

MACs are the multiply-accumulates that convolutions, linear layers and matrix products (attention included)
execute for one image. :func:`measure` gives the papers' other units.
"""

import copy
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from zoo.entry import Entry, Measured
from zoo.models import FAMILIES

__all__ = ['Profile', 'build_meta', 'measure', 'profile']

aten = torch.ops.aten


@dataclass(frozen=True)
class Profile:
    """What a network costs for one image.

    Attributes:
        params: Number of parameters.
        macs: Multiply-accumulates of convolutions, linear layers and matrix products.
        fvcore: What fvcore's FlopCountAnalysis gives: the MACs, 2 an element of batch norm, 5 of layer norm,
            and 1 an element that global average pooling reads.
    """

    params: int
    macs: int
    fvcore: int


def profile(model: nn.Module, input_size: tuple[int, int, int] | None = None) -> Profile:
    """Counts a network in evaluation mode. The network itself is neither run nor changed.

    Args:
        model: A network of this zoo or of timm, on any device.
        input_size: Channels, height, width; by default those of ``model.pretrained_cfg``.
    """
    cfg: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    return _count(_to_meta(model), input_size or cfg['input_size'])


def _count(twin: nn.Module, size: tuple[int, int, int]) -> Profile:
    twin.eval()
    counter = FlopCounterMode(display=False, custom_mapping=_FVCORE_EXTRAS)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        twin(torch.empty(1, *size, device='meta', dtype=next(twin.parameters()).dtype))
    counts = counter.get_flop_counts()['Global']
    extras = sum(count for op, count in counts.items() if op in _FVCORE_EXTRAS)
    macs = (sum(counts.values()) - extras) // 2
    return Profile(sum(p.numel() for p in twin.parameters()), macs, macs + extras)


def _to_meta(model: nn.Module) -> nn.Module:
    """A copy whose parameters and buffers are on the meta device; the originals are not copied on the way."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to('meta'), requires_grad=False)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.detach().to('meta')
    return copy.deepcopy(model, memo)


def _count_batch_norm(x: tuple[int, ...], weight: Any, *args: Any, **kwargs: Any) -> int:
    return prod(x) * (2 if weight is not None else 1)


def _count_layer_norm(
    x: tuple[int, ...], normalized_shape: Any, weight: Any, *args: Any, **kwargs: Any
) -> int:
    return prod(x) * (5 if weight is not None else 4)


def _count_pool(x: tuple[int, ...], dim: Any = None, *args: Any, **kwargs: Any) -> int:
    """Global average pooling arrives here as a mean over two axes, whether a layer or the network wrote it.

    fvcore itself counts the layer only: networks of this zoo that pool by ``mean`` do what the official code
    does by a layer, so both count.
    """
    return prod(x) if len(x) == 4 and dim is not None and len(dim) == 2 else 0


_FVCORE_EXTRAS = {
    aten.native_batch_norm: _count_batch_norm,
    aten._native_batch_norm_legit_no_training: _count_batch_norm,
    aten.native_layer_norm: _count_layer_norm,
    aten.mean: _count_pool,
}


def build_meta(entry: Entry, input_size: tuple[int, int, int] | None = None) -> nn.Module:
    """The entry's network on the meta device, registered or not, for its own or another input size."""
    channels, *img_size = input_size or entry.input.size
    model: nn.Module = FAMILIES[entry.family].build(
        entry.arch,
        entry.family,
        img_size=tuple(img_size),
        in_chans=channels,
        num_classes=entry.num_classes,
        device='meta',
    )
    return model


def measure(entry: Entry, input_size: tuple[int, int, int] | None = None) -> Measured:
    """What an entry should store as ``measured``: counted on its network, with the cost in the paper's unit.

    Args:
        entry: The entry, registered or not.
        input_size: Channels, height, width; by default the entry's own.
    """
    size = input_size or entry.input.size
    found = _count(build_meta(entry, size), size)
    unit = entry.published.cost.unit if entry.published and entry.published.cost else None
    cost = None
    if unit == 'fvcore':
        cost = found.fvcore
    elif unit == 'glit':
        cost = FAMILIES['glit'].glit_formula(entry.arch, tuple(size[1:]))
    elif unit == 'flops':
        cost = FAMILIES['trionet'].paper_flops(entry.arch, tuple(size[1:]), found.macs)
    return Measured(params=found.params, macs=found.macs, cost=cost)
