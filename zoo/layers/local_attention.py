"""Multi-head self-attention over the k x k positions around each one (Ramachandran et al., Stand-Alone
Self-Attention in Vision Models, NeurIPS 2019)."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_function
from torch import Tensor, nn

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
    r = kernel_size // 2
    k = F.pad(k, (r, r, r, r)).unfold(3, kernel_size, 1).unfold(4, kernel_size, 1)
    v = F.pad(v, (r, r, r, r)).unfold(3, kernel_size, 1).unfold(4, kernel_size, 1)
    logits = torch.einsum('bndyx,bndyxij->bnijyx', q, k) + logits_h[:, :, :, None] + logits_w[:, :, None]
    weights = logits.flatten(2, 3).softmax(2)
    return torch.einsum('bnpyx,bndyxp->bndyx', weights, v.flatten(5))


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
    num_heads = q.shape[1]
    if rel_height.shape[0] == num_heads:
        half = q.shape[2] // 2
        logits_h = torch.einsum('bndyx,nkd->bnkyx', q[:, :, :half], rel_height)
        logits_w = torch.einsum('bndyx,nkd->bnkyx', q[:, :, half:], rel_width)
    else:
        half = num_heads // 2
        logits_h = torch.einsum('bndyx,nkd->bnkyx', q[:, :half], rel_height)
        logits_w = torch.einsum('bndyx,nkd->bnkyx', q[:, half:], rel_width)
        zeros = torch.zeros_like(logits_h)
        logits_h, logits_w = torch.cat([logits_h, zeros], 1), torch.cat([zeros, logits_w], 1)
    return logits_h, logits_w


class LocalAttention(nn.Module):
    """Local self-attention with linear queries, keys and values and relative row and column embeddings.

    Args:
        dim: Channels of the input.
        key_dim: Channels of the queries and of the keys, all heads together.
        value_dim: Channels of the values and of the output.
        num_heads: Divides ``key_dim`` and ``value_dim``; even, where ``key_dim / num_heads`` is odd.
        kernel_size: Side of the neighbourhood, odd.
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
        super().__init__()
        self.num_heads = num_heads
        self.kernel_size = kernel_size
        self.q = nn.Conv2d(dim, key_dim, 1, bias=False, **dd)
        self.k = nn.Conv2d(dim, key_dim, 1, bias=False, **dd)
        self.v = nn.Conv2d(dim, value_dim, 1, bias=False, **dd)
        head_dim = key_dim // num_heads
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
        q = self.q(x).reshape(B, self.num_heads, -1, H, W)
        k = self.k(x).reshape(B, self.num_heads, -1, H, W)
        v = self.v(x).reshape(B, self.num_heads, -1, H, W)
        logits_h, logits_w = relative_logits(q, self.rel_height, self.rel_width)
        return local_attention(q, k, v, logits_h, logits_w, self.kernel_size).flatten(1, 2)
