"""UniNet's down-sampling modules (arXiv 2110.04035, Sec. 3.3, Figure 3): by local context, global context, or
both.

L-DSM and LG-DSM are those of the official code (Sense-X/UniNet, MIT), which has no G-DSM.
A map of any size (H, W) becomes (ceil(H / stride), ceil(W / stride)) in every branch.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.layers.folding import fold_norm_before
from zoo.layers.inplace import add
from zoo.layers.pooling import MaxPool2d

__all__ = ['ContextDownsample', 'LocalDownsample', 'PoolShortcut']


class PoolShortcut(nn.Module):
    """3x3 max-pooling, then a 1x1 convolution with bias.

    Args:
        in_chs: Input channels.
        out_chs: Output channels.
        stride: Of the pooling.
        pool: False: the convolution alone (stride 1 only).
    """

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        stride: int,
        pool: bool,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.pool = MaxPool2d(stride) if pool else nn.Identity()
        self.conv = nn.Conv2d(in_chs, out_chs, 1, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.pool(x))


class LocalDownsample(nn.Module):
    """L-DSM: a strided depthwise-separable convolution plus a max-pooling shortcut.

    Args:
        in_chs: Input channels.
        out_chs: Output channels.
        stride: 1 or 2.
    """

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        stride: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        super().__init__()
        self.conv = nn.Conv2d(in_chs, in_chs, 3, stride, padding=1, groups=in_chs, **dd)
        self.norm = nn.BatchNorm2d(in_chs, **dd)
        self.proj = nn.Conv2d(in_chs, out_chs, 1, **dd)
        self.shortcut = PoolShortcut(in_chs, out_chs, stride, pool=stride > 1, **dd)

    def fuse(self) -> 'LocalDownsample':
        """Folds the norm into what follows it."""
        self.norm, self.proj = fold_norm_before(self.norm, self.proj)
        return self

    def forward(self, x: Tensor) -> Tensor:
        return add(self.shortcut(x), self.proj(self.norm(self.conv(x))))


class ContextDownsample(nn.Module):
    """LG-DSM and G-DSM: attention whose queries are down-sampled and whose keys and values are the whole map.

    - LG: the queries come from a strided 3x3 depthwise convolution, and a max-pooling shortcut is added.
    - G: the paper says only that a "Conv1D with stride 2" makes the queries and that no direct local context
      is preserved. Read here as two 1-D depthwise convolutions of length 3 and stride ``stride``, along the
      width and then along the height (one alone would leave half of the tokens, not a quarter), and from
      there on as LG, but without the shortcut, which would carry local context.

    Args:
        in_chs: Input channels.
        out_chs: Output channels.
        stride: 1 or 2.
        num_heads: Divides ``out_chs``.
        local: LG if true, else G.
    """

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        stride: int,
        num_heads: int,
        local: bool,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        super().__init__()
        self.num_heads = num_heads
        groups: dict[str, Any] = {'groups': in_chs, **dd}
        self.q_conv = (
            nn.Conv2d(in_chs, in_chs, 3, stride, padding=1, **groups)
            if local
            else nn.Sequential(
                nn.Conv2d(in_chs, in_chs, (1, 3), (1, stride), padding=(0, 1), **groups),
                nn.Conv2d(in_chs, in_chs, (3, 1), (stride, 1), padding=(1, 0), **groups),
            )
        )
        self.q_bn = nn.BatchNorm2d(in_chs, **dd)
        self.q_proj = nn.Conv2d(in_chs, out_chs, 1, **dd)
        self.q_norm = nn.LayerNorm(out_chs, **dd)
        self.kv_norm = nn.LayerNorm(in_chs, **dd)
        self.kv = nn.Linear(in_chs, 2 * out_chs, **dd)
        self.proj = nn.Linear(out_chs, out_chs, **dd)
        self.shortcut = PoolShortcut(in_chs, out_chs, stride, pool=stride > 1, **dd) if local else None

    def fuse(self) -> 'ContextDownsample':
        """Folds the queries' batch norm into what follows it."""
        self.q_bn, self.q_proj = fold_norm_before(self.q_bn, self.q_proj)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Tensor[B, in_chs, H, W] -> Tensor[B, out_chs, ceil(H / stride), ceil(W / stride)]."""
        q = self.q_proj(self.q_bn(self.q_conv(x)))
        B, C, H, W = q.shape[0], q.shape[1], q.shape[2], q.shape[3]
        head_dim = C // self.num_heads
        q = (
            self.q_norm(q.flatten(2).transpose(1, 2))
            .reshape(B, H * W, self.num_heads, head_dim)
            .transpose(1, 2)
        )
        kv = self.kv(self.kv_norm(x.flatten(2).transpose(1, 2)))
        k, v = (
            kv.reshape(B, x.shape[2] * x.shape[3], 2, self.num_heads, head_dim)
            .permute(2, 0, 3, 1, 4)
            .unbind(0)
        )
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, H, W, C)
        y = self.proj(y).permute(0, 3, 1, 2)
        if self.shortcut is not None:
            y = add(self.shortcut(x), y)
        return y
