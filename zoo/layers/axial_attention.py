"""Multi-head self-attention along one axis of a map (Wang et al., Axial-DeepLab, ECCV 2020), in which, as in
TrioNet, relative positions meet the queries only."""

import math
from typing import Any, Literal

import torch
from timm.layers import is_exporting, register_notrace_function
from torch import Tensor, nn

from zoo.layers.folding import Projections
from zoo.layers.table_cache import TableCache

__all__ = ['AxialAttention', 'axial_attention', 'relative_embeddings', 'resize_table']


def axial_attention(q: Tensor, k: Tensor, v: Tensor, embeddings: Tensor) -> Tensor:
    """Softmax attention of each position over all positions of its row.

    The logit of column p for the query in column o is ``q[o] . k[p] + q[o] . embeddings[o, p]``, unscaled.

    Args:
        q: Tensor[B, num_heads, D, H, W].
        k: Tensor[B, num_heads, D, H, W].
        v: Tensor[B, num_heads, E, H, W].
        embeddings: Tensor[W, W, D], of query before key; all heads and rows share them.

    Returns:
        Tensor[B, num_heads, E, H, W].
    """
    B, num_heads, _, H, W = q.shape
    q = q.transpose(2, 3).flatten(0, 2)
    k = k.transpose(2, 3).flatten(0, 2)
    v = v.transpose(2, 3).flatten(0, 2)
    logits = torch.bmm(q.permute(2, 0, 1), embeddings.transpose(1, 2)).transpose(0, 1)
    weights = torch.baddbmm(logits, q.transpose(1, 2), k).softmax(2)
    return torch.bmm(v, weights.transpose(1, 2)).reshape(B, num_heads, H, -1, W).transpose(2, 3)


@register_notrace_function
def relative_embeddings(table: Tensor, length: int) -> Tensor:
    """The embedding of each pair of positions on an axis.

    Args:
        table: Tensor[2 * L - 1, D], by offset of the key from the query, from -(L - 1) up; resized if L is
            not ``length``.
        length: Positions on the axis.

    Returns:
        Tensor[length, length, D], query before key.
    """
    if is_exporting() or table.shape[0] != 2 * length - 1:  # an exported program has one branch for all sizes
        table = resize_table(table, length)
    position = torch.arange(length, device=table.device)
    offset = position[None, :] - position[:, None] + (length - 1)
    return table.index_select(0, offset.flatten()).reshape(length, length, -1)


def resize_table(table: Tensor, length: int) -> Tensor:
    """Interpolates a table of relative offsets linearly to an axis of another length.

    The ends stay the ends and the centre (offset 0) the centre, of which an axis of one position has nothing
    else. At its own length the table stays as it is, exactly.

    Args:
        table: Tensor[2 * L - 1, D].
        length: New number of positions.

    Returns:
        Tensor[2 * length - 1, D].
    """
    reach = table.shape[0] // 2
    offset = torch.arange(1 - length, length, device=table.device)
    index = reach + offset * reach / offset[-1:].clamp(min=1)
    low = index.floor()
    start = table.index_select(0, low.long())
    end = table.index_select(0, index.ceil().long())
    return start + (index - low).to(table.dtype)[:, None] * (end - start)


class AxialAttention(Projections):
    """Self-attention along the height or the width, with linear queries, keys and values.

    Args:
        dim: Channels of the input.
        key_dim: Channels of the queries and of the keys, all heads together.
        value_dim: Channels of the values and of the output.
        num_heads: Divides ``key_dim`` and ``value_dim``.
        length: Positions on the axis that the table of relative offsets is made for; maps of any other size
            have it resized on the fly, or once for each size where :attr:`tables` is on.
        axis: What positions see: their column ('height') or their row ('width').
    """

    def __init__(
        self,
        dim: int,
        key_dim: int,
        value_dim: int,
        num_heads: int,
        length: int,
        axis: Literal['height', 'width'],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        super().__init__(dim, key_dim, value_dim, **dd)
        self.num_heads = num_heads
        self.vertical = axis == 'height'
        self.rel_pos = nn.Parameter(torch.empty(2 * length - 1, key_dim // num_heads, **dd))
        self.tables = TableCache()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Unit variance for keys, values and, as there is no other scale, for the logits."""
        dim, head_dim = self.q.in_channels, self.rel_pos.shape[1]
        nn.init.normal_(self.q.weight, std=1 / math.sqrt(dim * head_dim))
        nn.init.normal_(self.k.weight, std=1 / math.sqrt(dim))
        nn.init.normal_(self.v.weight, std=1 / math.sqrt(dim))
        nn.init.normal_(self.rel_pos)

    @torch.jit.ignore
    def set_length(self, length: int) -> None:
        """Resizes the table for good."""
        table = self.rel_pos
        if table.shape[0] != 2 * length - 1:
            resized = resize_table(table.detach(), length)
            self.rel_pos = nn.Parameter(resized, requires_grad=table.requires_grad)

    @torch.jit.unused
    def embeddings(self, length: int) -> Tensor:
        """The embedding of each pair of positions on an axis of that length."""
        return self.tables.get(self.rel_pos, length, lambda: relative_embeddings(self.rel_pos, length))

    def forward(self, x: Tensor) -> Tensor:
        """Tensor[B, dim, H, W] -> Tensor[B, value_dim, H, W]."""
        if self.vertical:
            x = x.transpose(2, 3)
        B, _, H, W = x.shape
        q, k, v = self.project(x)
        q = q.reshape(B, self.num_heads, -1, H, W)
        k = k.reshape(B, self.num_heads, -1, H, W)
        v = v.reshape(B, self.num_heads, -1, H, W)
        if torch.jit.is_scripting():
            embeddings = relative_embeddings(self.rel_pos, W)
        else:
            embeddings = self.embeddings(W)
        x = axial_attention(q, k, v, embeddings).flatten(1, 2)
        if self.vertical:
            x = x.transpose(2, 3)
        return x
