"""Multi-head self-attention over the k x k positions around each one (Ramachandran et al., Stand-Alone
Self-Attention in Vision Models, NeurIPS 2019).

:func:`local_attention` runs as one operator, whose forward and backward go over the k * k offsets by
arithmetic on whole maps, a few heads at a time, so that what they work on stays in a CPU's cache and nothing
but the inputs is kept for the backward. ``benchmarks/attention.py`` has the measurements behind it.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import is_exporting, register_notrace_function
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

from zoo.errors import ZooError
from zoo.layers.folding import Projections

__all__ = ['LocalAttention', 'local_attention', 'relative_logits']


@register_notrace_function
def local_attention(
    q: Tensor, k: Tensor, v: Tensor, logits_h: Tensor, logits_w: Tensor, kernel_size: int
) -> Tensor:
    """Softmax attention of each position o over the ``kernel_size`` x ``kernel_size`` positions p around it.

    The logit of p is ``q[o] . k[p] + logits_h[row of p] + logits_w[column of p]``, without a scale. The map
    is padded by zero keys and zero values: a position outside it has the logit ``logits_h + logits_w``, takes
    its part of the softmax and gives nothing, so that the weights inside the map add up to less than one at
    its border.

    Under autocast the inputs are cast to its dtype. Half precision is computed in float32 and rounded once.
    Scripts, traces, exported programs and the transforms of ``torch.func`` get the same computation as plain
    operations; elsewhere a second derivative is an error, and forward mode is not supported.

    Args:
        q: Tensor[B, num_heads, D, H, W].
        k: Tensor[B, num_heads, D, H, W].
        v: Tensor[B, num_heads, E, H, W].
        logits_h: Tensor[B, num_heads, kernel_size, H, W], the query's product with the embedding of each row
            offset, from -(kernel_size // 2) up.
        logits_w: Tensor[B, num_heads, kernel_size, H, W], the same for column offsets.
        kernel_size: Odd; may be larger than the map.

    Returns:
        Tensor[B, num_heads, E, H, W].
    """
    if not torch.jit.is_scripting():  # noqa: SIM102
        if not (torch.jit.is_tracing() or is_exporting() or torch._C._are_functorch_transforms_active()):
            inputs = (q, k, v, logits_h, logits_w)
            device = q.device.type
            if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
                inputs = tuple(x.to(torch.get_autocast_dtype(device)) for x in inputs)
            return _local_attention(*inputs, kernel_size)
    return _plain_local_attention(q, k, v, logits_h, logits_w, kernel_size)


@register_notrace_function
def relative_logits(q: Tensor, rel_height: Tensor, rel_width: Tensor) -> tuple[Tensor, Tensor]:
    """Products of the queries with the embeddings of row and column offsets.

    Half of the channels carry the row's embedding and half the column's: the halves of each head, or, where
    heads have an odd number of channels, the first half of the heads and the second.

    Args:
        q: Tensor[B, num_heads, D, H, W].
        rel_height: Tensor[num_heads, kernel_size, D / 2], or Tensor[num_heads / 2, kernel_size, D].
        rel_width: The same for columns.

    Returns:
        Two of Tensor[B, num_heads, kernel_size, H, W], for rows and for columns.
    """
    num_heads, (H, W) = q.shape[1], q.shape[3:]
    q = q.flatten(3)
    if rel_height.shape[0] == num_heads:
        half = q.shape[2] // 2
        logits_h = rel_height @ q[:, :, :half]
        logits_w = rel_width @ q[:, :, half:]
    else:
        half = num_heads // 2
        logits_h = rel_height @ q[:, :half]
        logits_w = rel_width @ q[:, half:]
        zeros = torch.zeros_like(logits_h)
        logits_h, logits_w = torch.cat([logits_h, zeros], 1), torch.cat([zeros, logits_w], 1)
    logits_h, logits_w = logits_h.unflatten(3, (H, W)), logits_w.unflatten(3, (H, W))
    return logits_h, logits_w


class LocalAttention(Projections):
    """Local self-attention with linear queries, keys and values and relative row and column embeddings.

    Args:
        dim: Channels of the input.
        key_dim: Channels of the queries and of the keys, all heads together.
        value_dim: Channels of the values and of the output.
        num_heads: Divides ``key_dim`` and ``value_dim``; even, where ``key_dim / num_heads`` is odd.
        kernel_size: Side of the neighbourhood, odd.

    Raises:
        ZooError: Arguments that do not fit together.
    """

    def __init__(
        self,
        dim: int,
        key_dim: int,
        value_dim: int,
        num_heads: int,
        kernel_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        if min(dim, key_dim, value_dim, num_heads) < 1:
            found = f'dim {dim}, key_dim {key_dim}, value_dim {value_dim}, num_heads {num_heads}'
            raise ZooError(f'local attention has {found}; each is at least 1')
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ZooError(f'local attention has kernel_size {kernel_size}; it is an odd number from 1 up')
        for name, channels in (('key_dim', key_dim), ('value_dim', value_dim)):
            if channels % num_heads:
                raise ZooError(
                    f'local attention has {name} {channels}; it is a multiple of num_heads, {num_heads}'
                )
        head_dim = key_dim // num_heads
        if head_dim % 2 and num_heads % 2:
            raise ZooError(
                f'local attention has {num_heads} heads of {head_dim} key channels; one of the two numbers '
                'is even, to be shared between rows and columns'
            )
        super().__init__(dim, key_dim, value_dim, **dd)
        self.num_heads = num_heads
        self.kernel_size = kernel_size
        if head_dim % 2 == 0:
            shape = (num_heads, kernel_size, head_dim // 2)
        else:
            shape = (num_heads // 2, kernel_size, head_dim)
        self.rel_height = nn.Parameter(torch.empty(shape, **dd))
        self.rel_width = nn.Parameter(torch.empty(shape, **dd))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Unit variance for keys, values and, as there is no other scale, for the logits."""
        dim, head_dim = self.q.in_channels, self.q.out_channels // self.num_heads
        nn.init.normal_(self.q.weight, std=1 / math.sqrt(dim * head_dim))
        nn.init.normal_(self.k.weight, std=1 / math.sqrt(dim))
        nn.init.normal_(self.v.weight, std=1 / math.sqrt(dim))
        nn.init.normal_(self.rel_height)
        nn.init.normal_(self.rel_width)

    def forward(self, x: Tensor) -> Tensor:
        """Tensor[B, dim, H, W] -> Tensor[B, value_dim, H, W]."""
        B, _, H, W = x.shape
        q, k, v = self.project(x)
        q = q.reshape(B, self.num_heads, -1, H, W)
        k = k.reshape(B, self.num_heads, -1, H, W)
        v = v.reshape(B, self.num_heads, -1, H, W)
        logits_h, logits_w = relative_logits(q, self.rel_height, self.rel_width)
        return local_attention(q, k, v, logits_h, logits_w, self.kernel_size).flatten(1, 2)


def _plain_local_attention(
    q: Tensor, k: Tensor, v: Tensor, logits_h: Tensor, logits_w: Tensor, kernel_size: int
) -> Tensor:
    r = kernel_size // 2
    k = F.pad(k, (r, r, r, r)).unfold(3, kernel_size, 1).unfold(4, kernel_size, 1)
    v = F.pad(v, (r, r, r, r)).unfold(3, kernel_size, 1).unfold(4, kernel_size, 1)
    logits = torch.einsum('bndyx,bndyxij->bnijyx', q, k) + logits_h[:, :, :, None] + logits_w[:, :, None]
    weights = logits.flatten(2, 3).softmax(2)
    return torch.einsum('bnpyx,bndyxp->bndyx', weights, v.flatten(5))


@torch.library.custom_op('searchzoo::local_attention', mutates_args=())
def _local_attention(
    q: Tensor, k: Tensor, v: Tensor, logits_h: Tensor, logits_w: Tensor, kernel_size: int
) -> Tensor:
    out = v.new_empty(v.shape)
    inputs = [x.flatten(0, 1) for x in (q, k, v, logits_h, logits_w)]  # copies parts of a larger tensor: once
    for heads in _chunks(q, v, kernel_size):
        chunk = _Chunk([x[heads] for x in inputs], kernel_size)
        out.flatten(0, 1)[heads] = chunk.forward()
    return out


@torch.library.custom_op('searchzoo::local_attention_backward', mutates_args=())
def _local_attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, logits_h: Tensor, logits_w: Tensor, kernel_size: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    grads = [x.new_empty(x.shape) for x in (q, k, v, logits_h, logits_w)]
    inputs = [x.flatten(0, 1) for x in (q, k, v, logits_h, logits_w)]
    grad = grad.flatten(0, 1)
    for heads in _chunks(q, v, kernel_size):
        chunk = _Chunk([x[heads] for x in inputs], kernel_size)
        for whole, part in zip(grads, chunk.backward(grad[heads]), strict=True):
            whole.flatten(0, 1)[heads] = part
    return grads[0], grads[1], grads[2], grads[3], grads[4]


def _chunks(q: Tensor, v: Tensor, kernel_size: int) -> Iterator[slice]:
    """The images' heads that are computed together: on a CPU, those with 2 MB of weights, keys and values."""
    B, num_heads, head_dim, H, W = q.shape
    size = (kernel_size**2 + head_dim + v.shape[2]) * H * (W + kernel_size // 2)
    step = max(1, (2**19 if q.device.type == 'cpu' else 2**26) // size)
    return (slice(i, i + step) for i in range(0, B * num_heads, step))


class _Chunk:
    """Local attention of G heads, taken one by one from their images: Tensor[G, C, H, W] in and out.

    Inside, a map is one row of numbers: its H rows of W and r = kernel_size // 2 zeros each. The neighbour at
    the offset (y, x) then lies y * (W + r) + x further for every position, and all neighbours at one offset
    are a contiguous run, which begins by one number later for the next offset.
    """

    def __init__(self, inputs: list[Tensor], kernel_size: int) -> None:
        q, k, v, logits_h, logits_w = inputs
        self.dtype = torch.promote_types(q.dtype, torch.float32)
        self.size, self.kernel_size, self.r = q.shape[2:], kernel_size, kernel_size // 2
        self.row = self.size[1] + self.r
        self.length = self.size[0] * self.row
        self.margin = self.r * self.row + self.r
        self.q = self.to_row(q)
        self.k = self.neighbours(self.to_row(k, self.margin))
        self.v = self.neighbours(self.to_row(v, self.margin))
        logits = self.q.new_empty(kernel_size, kernel_size, q.shape[0], self.length)
        h, w = self.to_row(logits_h).transpose(0, 1), self.to_row(logits_w).transpose(0, 1)
        torch.add(h[:, None], w, out=logits)
        self.weights = self.add_products(logits, self.q, self.k).flatten(0, 1).softmax(0).view_as(logits)

    def forward(self) -> Tensor:
        return self.from_row(self.combine(self.weights, self.v))

    def backward(self, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Gradients of q, k, v, logits_h and logits_w."""
        grad = self.to_row(grad)
        weights = self.weights
        grad_logits = self.add_products(torch.zeros_like(weights), grad, self.v)
        grad_logits = torch.ops.aten._softmax_backward_data(
            grad_logits.flatten(0, 1), weights.flatten(0, 1), 0, self.dtype
        ).view_as(weights)
        grad_q = self.combine(grad_logits, self.k)
        grad_k, grad_v = (x.new_zeros(*x.shape[2:4], self.length + 2 * self.margin) for x in (self.k, self.v))
        to_k, to_v = self.neighbours(grad_k), self.neighbours(grad_v)
        for i, j in self.offsets():
            g = grad_logits[i, j, :, None]
            to_k[i, j].addcmul_(g, self.q)
            to_v[i, j].addcmul_(weights[i, j, :, None], grad)
        return (
            self.from_row(grad_q),
            self.from_row(grad_k, self.margin),
            self.from_row(grad_v, self.margin),
            self.from_row(grad_logits.sum(1).transpose(0, 1)),
            self.from_row(grad_logits.sum(0).transpose(0, 1)),
        )

    def add_products(self, out: Tensor, x: Tensor, neighbours: Tensor) -> Tensor:
        """Adds, for each offset, the sum over channels of a position's x and its neighbour's."""
        for c in range(x.shape[1]):
            out.addcmul_(x[:, c], neighbours[:, :, :, c])
        return out

    def combine(self, weights: Tensor, neighbours: Tensor) -> Tensor:
        """Sums the neighbours of each position by weight: Tensor[G, C, length]."""
        out = neighbours.new_zeros(neighbours.shape[2:])
        for i, j in self.offsets():
            out.addcmul_(weights[i, j, :, None], neighbours[i, j])
        return out

    def neighbours(self, x: Tensor) -> Tensor:
        """A view, Tensor[kernel_size, kernel_size, G, C, length], of Tensor[G, C, length + 2 margins]."""
        size = (self.kernel_size, self.kernel_size, *x.shape[:2], self.length)
        return x.as_strided(size, (self.row, 1, x.stride(0), x.stride(1), 1))

    def offsets(self) -> Iterator[tuple[int, int]]:
        return ((i, j) for i in range(self.kernel_size) for j in range(self.kernel_size))

    def to_row(self, x: Tensor, margin: int = 0) -> Tensor:
        row = x.new_zeros(*x.shape[:2], self.length + 2 * margin, dtype=self.dtype)
        self.from_row(row, margin).copy_(x)
        return row

    def from_row(self, x: Tensor, margin: int = 0) -> Tensor:
        """A view, Tensor[G, C, H, W]."""
        H, W = self.size
        return x[:, :, margin : margin + self.length].unflatten(2, (H, self.row))[..., :W]


@_local_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, logits_h: Tensor, logits_w: Tensor, kernel_size: int) -> Tensor:
    return v.new_empty(v.shape)


@_local_attention_backward.register_fake
def _(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, logits_h: Tensor, logits_w: Tensor, kernel_size: int
) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in (q, k, v, logits_h, logits_w))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.kernel_size = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*_local_attention_backward(grad, *ctx.saved_tensors, ctx.kernel_size), None)


_local_attention.register_autograd(_differentiate, setup_context=_save)


Shape = tuple[int, ...]


@register_flop_formula(torch.ops.searchzoo.local_attention)
def _flops(q: Shape, k: Shape, v: Shape, logits_h: Shape, *args: Any, **kwargs: Any) -> int:
    """Of the two products; those that make the relative logits are counted there."""
    B, num_heads, kernel_size, H, W = logits_h
    return 2 * B * num_heads * H * W * kernel_size**2 * (q[2] + v[2])


@register_flop_formula(torch.ops.searchzoo.local_attention_backward)
def _backward_flops(
    grad: Shape, q: Shape, k: Shape, v: Shape, logits_h: Shape, *args: Any, **kwargs: Any
) -> int:
    """Of the four products of the gradients; what is computed again is not counted."""
    B, num_heads, kernel_size, H, W = logits_h
    return 4 * B * num_heads * H * W * kernel_size**2 * (q[2] + v[2])
