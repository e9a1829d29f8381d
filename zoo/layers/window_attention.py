"""Self-attention over a feature map, everywhere (SA) or inside windows (LSA), for maps of any size."""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_function
from torch import Tensor, nn

__all__ = ['SelfAttention', 'global_attention', 'window_attention']


def global_attention(qkv: Tensor, num_heads: int) -> Tensor:
    """Softmax attention of every position over all positions.

    Args:
        qkv: Tensor[B, H, W, 3 * C], queries, keys and values side by side, each head by head.
        num_heads: Divides C.

    Returns:
        Tensor[B, H, W, C].
    """
    B, H, W, C = qkv.shape[0], qkv.shape[1], qkv.shape[2], qkv.shape[3] // 3
    q, k, v = qkv.reshape(B, H * W, 3, num_heads, C // num_heads).permute(2, 0, 3, 1, 4).unbind(0)
    x = F.scaled_dot_product_attention(q, k, v)
    return x.transpose(1, 2).reshape(B, H, W, C)


@register_notrace_function
def window_attention(qkv: Tensor, num_heads: int, window_size: int) -> Tensor:
    """Softmax attention of every position over the positions of its window.

    Windows start at the top left corner and do not overlap. Those cut by the right or bottom border hold
    fewer positions: the map is padded to whole windows and padded keys are masked. No window is larger than
    the map.

    Args:
        qkv: Tensor[B, H, W, 3 * C], queries, keys and values side by side, each head by head.
        num_heads: Divides C.
        window_size: Side of a window, in positions.

    Returns:
        Tensor[B, H, W, C].
    """
    B, H, W, C = qkv.shape[0], qkv.shape[1], qkv.shape[2], qkv.shape[3] // 3
    window_h, window_w = min(window_size, H), min(window_size, W)
    rows, cols = (H + window_h - 1) // window_h, (W + window_w - 1) // window_w
    pad_h, pad_w = rows * window_h - H, cols * window_w - W

    qkv = F.pad(qkv, (0, 0, 0, pad_w, 0, pad_h))
    qkv = qkv.reshape(B, rows, window_h, cols, window_w, 3, num_heads, C // num_heads)
    qkv = qkv.permute(5, 0, 1, 3, 6, 2, 4, 7)
    q, k, v = qkv.reshape(3, B * rows * cols, num_heads, window_h * window_w, C // num_heads).unbind(0)
    if pad_h > 0 or pad_w > 0:
        real_h = torch.arange(H + pad_h, device=qkv.device) < H
        real_w = torch.arange(W + pad_w, device=qkv.device) < W
        real = (real_h[:, None] & real_w[None, :]).reshape(rows, window_h, cols, window_w).permute(0, 2, 1, 3)
        real = real.reshape(rows * cols, 1, 1, window_h * window_w).repeat(B, 1, 1, 1)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=real)
    else:
        x = F.scaled_dot_product_attention(q, k, v)

    x = x.reshape(B, rows, cols, num_heads, window_h, window_w, C // num_heads).permute(0, 1, 4, 2, 5, 3, 6)
    return x.reshape(B, H + pad_h, W + pad_w, C)[:, :H, :W]


class SelfAttention(nn.Module):
    """Multi-head self-attention with biases, without any position term.

    Args:
        dim: Channels of input and output.
        num_heads: Divides ``dim``.
        window_size: Side of the windows in positions; 0: one window, the map.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.qkv = nn.Linear(dim, 3 * dim, **dd)
        self.proj = nn.Linear(dim, dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """Tensor[B, H, W, dim] -> Tensor[B, H, W, dim]."""
        qkv = self.qkv(x)
        if self.window_size > 0:
            x = window_attention(qkv, self.num_heads, self.window_size)
        else:
            x = global_attention(qkv, self.num_heads)
        return self.proj(x)
