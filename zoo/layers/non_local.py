"""Self-attention of every position over the whole map (Wang et al., Non-local Neural Networks, CVPR 2018)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.layers.folding import Projections

__all__ = ['NonLocalAttention', 'non_local_attention']


def non_local_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention of each position o over all positions p, with the logit ``q[o] . k[p]``.

    One head, no scale, no position term: permuting the positions of the input permutes the output. The cost
    grows with the square of the number of positions; the memory does so only in the few cases for which torch
    has no fused kernel.

    Args:
        q: Tensor[B, D, H, W].
        k: Tensor[B, D, H, W].
        v: Tensor[B, E, H, W].

    Returns:
        Tensor[B, E, H, W].
    """
    B, E, H, W = v.shape
    # contiguous: the fused kernels need each position's channels side by side
    q = q.flatten(2).transpose(1, 2).contiguous()
    k = k.flatten(2).transpose(1, 2).contiguous()
    v = v.flatten(2).transpose(1, 2).contiguous()
    x = F.scaled_dot_product_attention(q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1), scale=1.0)
    return x.squeeze(1).transpose(1, 2).reshape(B, E, H, W)


class NonLocalAttention(Projections):
    """Non-local self-attention with linear queries, keys and values, the dot-product form of the paper's
    Sec. 3.2 with its softmax.

    Args:
        dim: Channels of the input, the queries, the keys, the values and the output.
    """

    def __init__(
        self,
        dim: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(dim, dim, dim, device, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Unit variance for keys, values and, as there is no other scale, for the logits."""
        dim = self.q.in_channels
        nn.init.normal_(self.q.weight, std=1 / dim)
        nn.init.normal_(self.k.weight, std=1 / math.sqrt(dim))
        nn.init.normal_(self.v.weight, std=1 / math.sqrt(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Tensor[B, dim, H, W] -> Tensor[B, dim, H, W]."""
        q, k, v = self.project(x)
        return non_local_attention(q, k, v)
