"""S3: vision transformers found by searching the search space (Chen et al., NeurIPS 2021, arXiv 2111.14725).

A hierarchical transformer with shifted-window attention whose block sizes were searched: per stage an
embedding width and a number of blocks, per block a window, a number of heads (the q-k-v width is 32 x heads
and may differ from the embedding width) and an MLP ratio (paper, Sec. 3 and Sec. 4.1). The official code
(microsoft/Cream, folder AutoFormerV2, MIT) releases three networks and no search; its weights load through
:func:`checkpoint_filter_fn`, as do timm's re-hosted ones (``swin_s3_*``).

Here nothing depends on the input size: a map smaller than its window shrinks the window and uses the centre
of its relative-position table, a map that is no multiple of the window is padded and the padded keys are
masked.
"""

import math
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from timm.layers import (
    ClassifierHead,
    DropPath,
    LayerNorm,
    LayerNorm2d,
    Mlp,
    PatchEmbed,
    calculate_drop_path_rates,
    is_exporting,
    resample_patch_embed,
    resize_rel_pos_bias_table,
    to_2tuple,
    trunc_normal_,
)
from timm.models import (
    checkpoint_seq,
    named_apply,
    register_model,
    register_notrace_module,
)
from timm.models.swin_transformer import PatchMerging
from torch import nn

from zoo import arch as zoo_arch
from zoo._timm_compat import generate_default_cfgs, update_model_input_size
from zoo.arch import Dim, Heads, Kernel, Part, Ratio, load_arch
from zoo.build import build_model
from zoo.errors import ZooError
from zoo.layers.inplace import GELU
from zoo.layers.pointwise import use_onednn
from zoo.layers.table_cache import TableCache
from zoo.staged import StagedNet

__all__ = ['S3', 'Arch']

HEAD_DIM = 32
PATCH_SIZE = 4
KEPT_BYTES = 8 * 2**20
"""What an attention layer keeps of its biases: all at 224 pixels; a detector's maps take up to 170 MB."""

Window = tuple[int, int]
WindowSpec = int | Sequence[int | Sequence[Window]]


class BlockArch(Part):
    """One transformer block: heads (q-k-v width / 32), window side in tokens, MLP width / embedding width."""

    num_heads: Heads
    window_size: Kernel
    mlp_ratio: Ratio


class StageArch(Part):
    """One stage: its embedding width and its blocks. The number of blocks is the paper's depth."""

    embed_dim: Dim
    blocks: tuple[BlockArch, ...] = Field(min_length=1, max_length=256)


class Arch(zoo_arch.Arch):
    """What the search decides, stage by stage (paper, Sec. 3.1)."""

    family = 's3'
    stages: tuple[StageArch, ...] = Field(min_length=1, max_length=6)

    def num_weights(self) -> int:
        total, previous = 0.0, 0
        for stage in self.stages:
            dim = stage.embed_dim
            total += 4 * previous * dim
            for block in stage.blocks:
                table = block.num_heads * (2 * block.window_size - 1) ** 2
                total += dim * (4 * HEAD_DIM * block.num_heads + 2 * dim * block.mlp_ratio) + table
            previous = dim
        return int(total)


def relative_position_bias(table: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Attention bias of every pair of tokens in a window, from the centre of a table of relative offsets.

    Args:
        table: (2H - 1, 2W - 1, heads), the bias by (row, column) offset of the query from the key.
        height: Rows of the window, at most H.
        width: Columns of the window, at most W.

    Returns:
        (heads, height * width, height * width), query before key.
    """
    rows = torch.arange(height, device=table.device)
    cols = torch.arange(width, device=table.device)
    row_offsets = (rows[:, None] - rows[None, :] + table.shape[0] // 2).flatten()
    col_offsets = (cols[:, None] - cols[None, :] + table.shape[1] // 2).flatten()
    bias = table.index_select(0, row_offsets).index_select(1, col_offsets)
    bias = bias.view(height, height, width, width, table.shape[2])
    return bias.permute(4, 0, 2, 1, 3).reshape(-1, height * width, height * width)


def _rolled(length: int, shift: int, device: torch.device) -> torch.Tensor:
    """Where each of an axis's positions comes from when it is rolled by -shift: (length,)."""
    return (torch.arange(length, device=device) + shift) % length


def _attends(size: int, window: int, source: torch.Tensor) -> torch.Tensor:
    """Which positions along one axis see each other: (windows, window, window) bool, query before key.

    The axis is padded to whole windows and rolled: positions come from ``source``. Positions from the two
    ends of the map, which the roll puts into one window, do not see each other; nothing sees padding, except
    padding (so that no row is empty).
    """
    wrapped = (source < torch.arange(source.shape[0], device=source.device)).view(-1, window)
    real = (source < size).view(-1, window)
    apart = wrapped[:, :, None] ^ wrapped[:, None, :]  # torch.compile's code has no `==` of truth values
    return ~apart & (real[:, None, :] | ~real[:, :, None])


def window_mask(height: int, width: int, window: Window, shift: Window, device: torch.device) -> torch.Tensor:
    """Which of a window's N tokens see each other, on a padded and shifted map: (windows, N, N) bool."""
    rows = _rolled(math.ceil(height / window[0]) * window[0], shift[0], device)
    cols = _rolled(math.ceil(width / window[1]) * window[1], shift[1], device)
    return _mask(height, width, window, rows, cols)


def _mask(height: int, width: int, window: Window, rows: torch.Tensor, cols: torch.Tensor) -> torch.Tensor:
    """As :func:`window_mask`, by where the rows and columns of the padded map come from."""
    rows = _attends(height, window[0], rows)
    cols = _attends(width, window[1], cols)
    area = window[0] * window[1]
    return (rows[:, None, :, None, :, None] & cols[None, :, None, :, None, :]).reshape(-1, area, area)


@register_notrace_module  # reason: windows depend on the size of the map
class WindowAttention(nn.Module):
    """Multi-head self-attention inside (shifted) windows with relative position bias (paper, Sec. 3.1)."""

    head_dim: torch.jit.Final[int]

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: Window,
        shifted: bool,
        always_partition: bool = False,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        device=None,
        dtype=None,
    ):
        """
        Args:
            dim: Channels of the input and output.
            num_heads: Heads of 32 channels; 32 x num_heads may differ from dim.
            window_size: (height, width) in tokens.
            shifted: Move the windows by half their size on maps that hold more than one.
            always_partition: Keep the full window and the shift on maps that are no larger than the window.
            attn_drop: Dropout rate of the attention weights.
            proj_drop: Dropout rate of the output.
        """
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = HEAD_DIM
        self.window_size = window_size
        self.shifted = shifted
        self.always_partition = always_partition
        self.qkv = nn.Linear(dim, 3 * num_heads * HEAD_DIM, **dd)
        self.relative_position_bias_table = nn.Parameter(
            torch.empty(2 * window_size[0] - 1, 2 * window_size[1] - 1, num_heads, **dd)
        )
        self.tables = TableCache(KEPT_BYTES)
        self.attn_drop = attn_drop
        self.proj = nn.Linear(num_heads * HEAD_DIM, dim, **dd)
        self.proj_drop = nn.Dropout(proj_drop)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if not self.relative_position_bias_table.is_meta:
            trunc_normal_(self.relative_position_bias_table, std=0.02)

    def window_and_shift(self, height: int, width: int) -> tuple[int, int, int, int]:
        """The window's height and width and their shifts on a map of this size.

        An axis no larger than its window has one window, as long as the axis, and no shift.
        """
        win_h, win_w = self.window_size
        shift_h, shift_w = (win_h // 2, win_w // 2) if self.shifted else (0, 0)
        if not self.always_partition:
            if height <= win_h:
                win_h, shift_h = height, 0
            if width <= win_w:
                win_w, shift_w = width, 0
        return win_h, win_w, shift_h, shift_w

    @torch.jit.ignore
    def set_window_size(self, window_size: Window) -> None:
        """Changes the window and interpolates the table to it."""
        if window_size != self.window_size:
            table = self.relative_position_bias_table
            self.relative_position_bias_table = nn.Parameter(
                resize_table(table.detach(), window_size), requires_grad=table.requires_grad
            )
            self.window_size = window_size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C) to (B, H, W, C)."""
        if not torch.jit.is_scripting():  # noqa: SIM102
            if is_exporting() and isinstance(x.shape[1], torch.SymInt):
                return self.forward_any_size(x)
        H, W = x.shape[1], x.shape[2]
        win_h, win_w, shift_h, shift_w = self.window_and_shift(H, W)
        pad_h, pad_w = (win_h - H % win_h) % win_h, (win_w - W % win_w) % win_w
        padded, shifted = pad_h > 0 or pad_w > 0, shift_h > 0 or shift_w > 0
        if torch.jit.is_scripting():
            bias = self.make_bias(H, W, x.dtype)
        else:
            bias = self.bias(H, W, x.dtype)
        if padded:
            x = F.pad(x, (0, 0, 0, pad_w, 0, pad_h))
        if shifted:
            x = torch.roll(x, shifts=(-shift_h, -shift_w), dims=(1, 2))
        x = self.attend(x, (win_h, win_w), bias, padded or shifted)
        if shifted:
            x = torch.roll(x, shifts=(shift_h, shift_w), dims=(1, 2))
        if padded:
            x = x[:, :H, :W].contiguous()
        return x

    @torch.jit.ignore
    def forward_any_size(self, x: torch.Tensor) -> torch.Tensor:
        """As :meth:`forward`, in one branch for maps of every size, which an exported program needs.

        The map is padded to whole windows, none is smaller, and always masked; the shift is a tensor, 0 where
        the map is no larger than the window.
        """
        H, W = x.shape[1], x.shape[2]
        win_h, win_w = self.window_size
        height, width = (H + win_h - 1) // win_h * win_h, (W + win_w - 1) // win_w * win_w
        rows, rows_back = self._roll_any_size(H, height, win_h, x.device)
        cols, cols_back = self._roll_any_size(W, width, win_w, x.device)
        x = F.pad(x, (0, 0, 0, width - W, 0, height - H))
        x = x.index_select(1, rows).index_select(2, cols)
        mask = _mask(H, W, self.window_size, rows, cols)
        x = self.attend(x, self.window_size, self.mask_bias(self.window_size, mask, x.dtype), True)
        x = x.index_select(1, rows_back).index_select(2, cols_back)
        return x[:, :H, :W].contiguous()

    def _roll_any_size(
        self, size: int, padded: int, window: int, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Where the positions of a padded axis come from, and where they go to."""
        position = torch.arange(padded, device=device)
        shift = window // 2 * int(self.shifted) * torch.ones_like(position[:1])
        if not self.always_partition:
            shift = shift * (torch.arange(size, device=device)[-1:] >= window)
        source, target = position + shift, position - shift
        return (
            torch.where(source < padded, source, source - padded),
            torch.where(target >= 0, target, target + padded),
        )

    @torch.jit.unused
    def bias(self, height: int, width: int, dtype: torch.dtype) -> torch.Tensor:
        """As :meth:`make_bias`, once for each size of a map where :attr:`tables` is on."""
        size = height, width, self.window_size, self.shifted, self.always_partition, dtype
        return self.tables.get(
            self.relative_position_bias_table, size, lambda: self.make_bias(height, width, dtype)
        )

    def make_bias(self, height: int, width: int, dtype: torch.dtype) -> torch.Tensor:
        """What attention adds to the logits on a map of this size: (heads, N, N), or (windows x heads, N, N)
        where it is padded or the windows are shifted."""
        win_h, win_w, shift_h, shift_w = self.window_and_shift(height, width)
        mask: torch.Tensor | None = None
        if height % win_h > 0 or width % win_w > 0 or shift_h > 0 or shift_w > 0:
            device = self.relative_position_bias_table.device
            mask = window_mask(height, width, (win_h, win_w), (shift_h, shift_w), device)
        return self.mask_bias((win_h, win_w), mask, dtype)

    def mask_bias(self, window: Window, mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
        """The bias of a window's pairs of tokens, for each of the windows if they differ in their masks."""
        bias = relative_position_bias(self.relative_position_bias_table, window[0], window[1]).to(dtype)
        if mask is not None:
            bias = torch.where(mask[:, None], bias, float('-inf')).flatten(0, 1)
        return bias

    def attend(self, x: torch.Tensor, window: Window, bias: torch.Tensor, masked: bool) -> torch.Tensor:
        """Attention inside the windows of a map that they tile, (B, H, W, C) to (B, H, W, C)."""
        B, H, W, C = x.shape
        win_h, win_w = window
        rows, cols, area = H // win_h, W // win_w, win_h * win_w
        x = x.reshape(B, rows, win_h, cols, win_w, C).permute(0, 1, 3, 2, 4, 5)
        qkv = self.qkv(x.reshape(B * rows * cols, area, C))
        qkv = qkv.reshape(B, rows * cols, area, 3, self.num_heads, self.head_dim).permute(3, 0, 1, 4, 2, 5)
        if masked:
            # windows differ in their masks, so they join the heads: one mask then serves the whole batch
            q, k, v = qkv.flatten(2, 3).unbind(0)
        else:
            q, k, v = qkv.flatten(1, 2).unbind(0)
        x = F.scaled_dot_product_attention(
            q, k, v, attn_mask=bias[None], dropout_p=self.attn_drop if self.training else 0.0
        )
        x = x.reshape(B, rows, cols, self.num_heads, win_h, win_w, self.head_dim)
        x = x.permute(0, 1, 4, 2, 5, 3, 6).reshape(B, H, W, self.num_heads * self.head_dim)
        return self.proj_drop(self.proj(x))


class Block(nn.Module):
    """Pre-norm transformer block; the stochastic depth of both branches has one rate."""

    def __init__(
        self,
        dim: int,
        arch: BlockArch,
        window_size: Window,
        shifted: bool,
        always_partition: bool = False,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        drop_path: float = 0.0,
        device=None,
        dtype=None,
    ):
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        self.norm1 = LayerNorm(dim, eps=1e-5, **dd)
        self.attn = WindowAttention(
            dim, arch.num_heads, window_size, shifted, always_partition, attn_drop, proj_drop, **dd
        )
        self.drop_path1 = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = LayerNorm(dim, eps=1e-5, **dd)
        self.mlp = Mlp(dim, int(dim * arch.mlp_ratio), act_layer=GELU, drop=proj_drop, **dd)
        self.drop_path2 = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C) to (B, H, W, C)."""
        x = x + self.drop_path1(self.attn(self.norm1(x)))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


class Stage(nn.Module):
    """Halves the map (not in the first stage) and runs blocks, of which every second has shifted windows."""

    def __init__(
        self,
        in_dim: int | None,
        arch: StageArch,
        window_sizes: Sequence[Window],
        drop_path: Sequence[float],
        device=None,
        dtype=None,
        **block_args,
    ):
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        self.grad_checkpointing = False
        dim = arch.embed_dim
        norm_layer = partial(LayerNorm, eps=1e-5)
        self.downsample = nn.Identity() if in_dim is None else PatchMerging(in_dim, dim, norm_layer, **dd)
        self.blocks = nn.Sequential(
            *[
                Block(dim, block, window, shifted=j % 2 == 1, drop_path=rate, **block_args, **dd)
                for j, (block, window, rate) in enumerate(
                    zip(arch.blocks, window_sizes, drop_path, strict=True)
                )
            ]
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to (B, C', H', W'). Inside, and in memory, channels are last."""
        x = self.downsample(x.permute(0, 2, 3, 1))
        if self.grad_checkpointing and not torch.jit.is_scripting():
            x = checkpoint_seq(self.blocks, x)
        else:
            x = self.blocks(x)
        return x.permute(0, 3, 1, 2)


class S3(StagedNet):
    """The network of an :class:`Arch`; takes images of any size, (B, in_chans, H, W)."""

    def __init__(
        self,
        arch: Arch | dict[str, Any],
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = 'avg',
        window_size: WindowSpec | None = None,
        always_partition: bool = False,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        device=None,
        dtype=None,
    ):
        """
        Args:
            arch: The architecture.
            img_size: Nominal size, the one that :meth:`set_input_size` scales windows from. Nothing is built
            from it.
            in_chans: Channels of the image.
            num_classes: Classes; 0 for no classifier.
            global_pool: Any pooling of timm's ``ClassifierHead``; ``''`` for none.
            window_size: Replaces the windows of arch: one for all, or per stage either one or a (height,
                width) for each block.
            always_partition: Shift windows also on maps no larger than the window, as timm's Swin option
            does.
            drop_rate: Dropout before the classifier.
            proj_drop_rate: Dropout after projections and in MLPs.
            attn_drop_rate: Dropout of attention weights.
            drop_path_rate: Stochastic depth of the last block, rising linearly from 0 at the first.
        """
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        self.arch = load_arch(Arch, arch)
        stages = self.arch.stages
        dims = [stage.embed_dim for stage in stages]
        depths = [len(stage.blocks) for stage in stages]
        windows = [[to_2tuple(block.window_size) for block in stage.blocks] for stage in stages]
        if window_size is not None:
            windows = resolve_window_sizes(window_size, depths)
        self.img_size = to_2tuple(img_size)
        self.in_chans = in_chans
        self.num_classes = num_classes
        self.global_pool = global_pool
        self.stem_name, self.final_name, self.final_is_norm = 'patch_embed', 'norm', True
        self.stage_ends = list(range(len(stages)))
        self.stride = PATCH_SIZE * 2 ** (len(stages) - 1)

        norm_layer = partial(LayerNorm2d, eps=1e-5)
        self.patch_embed = PatchEmbed(
            img_size=None,
            patch_size=PATCH_SIZE,
            in_chans=in_chans,
            embed_dim=dims[0],
            norm_layer=norm_layer,
            flatten=False,
            strict_img_size=False,
            dynamic_img_pad=True,
            **dd,
        )
        rates = calculate_drop_path_rates(drop_path_rate, depths, stagewise=True)
        block_args = dict(
            always_partition=always_partition, attn_drop=attn_drop_rate, proj_drop=proj_drop_rate
        )
        self.stages = nn.Sequential(
            *[
                Stage(dims[i - 1] if i else None, stages[i], windows[i], rates[i], **block_args, **dd)
                for i in range(len(stages))
            ]
        )
        self.feature_info = [
            dict(num_chs=dim, reduction=PATCH_SIZE * 2**i, module=f'stages.{i}') for i, dim in enumerate(dims)
        ]
        self.num_features = dims[-1]
        self.norm = norm_layer(self.num_features, **dd)
        self.head = ClassifierHead(
            self.num_features, num_classes, pool_type=global_pool, drop_rate=drop_rate, **dd
        )
        self.head_hidden_size = self.head.num_features
        use_onednn(self)
        self.init_weights(needs_reset=False)

    @torch.jit.ignore
    def init_weights(self, needs_reset: bool = True) -> None:
        """Truncated normal (0.02) for linear layers and tables, as in the official code; torch's default
        elsewhere."""
        named_apply(partial(_init_weights, needs_reset=needs_reset), self)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        return {name for name, _ in self.named_parameters() if 'relative_position_bias_table' in name}

    @torch.jit.ignore
    def set_input_size(
        self,
        img_size: int | tuple[int, int] | None = None,
        window_size: WindowSpec | None = None,
        always_partition: bool | None = None,
    ) -> None:
        """Adapts the windows to another nominal size; inputs of any size work without it.

        Args:
            img_size: New nominal size. Without window_size every window keeps its ratio to the map, as in
            timm.
            window_size: New windows, as in the constructor.
            always_partition: Changes that option if given.
        """
        new_size = to_2tuple(img_size) if img_size is not None else self.img_size
        if window_size is not None:
            windows = resolve_window_sizes(window_size, [len(stage.blocks) for stage in self.stages])
        else:
            grids = [[math.ceil(s / PATCH_SIZE) for s in size] for size in (new_size, self.img_size)]
            windows = [
                [
                    tuple(
                        max(1, w * new // old)
                        for w, new, old in zip(block.attn.window_size, *grids, strict=True)
                    )
                    for block in stage.blocks
                ]
                for stage in self.stages
            ]
        for stage, stage_windows in zip(self.stages, windows, strict=True):
            for block, window in zip(stage.blocks, stage_windows, strict=True):
                block.attn.set_window_size(window)
                if always_partition is not None:
                    block.attn.always_partition = always_partition
        self.img_size = new_size
        update_model_input_size(self, new_size, window_size=windows, always_partition=always_partition)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        self.check_size(x)
        return self.patch_embed(x)

    def finish(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x)


def _init_weights(module: nn.Module, name: str = '', needs_reset: bool = True) -> None:
    if isinstance(module, nn.Linear):
        if module.weight.is_meta:  # supernets build many networks there, and trunc_normal_ takes most of that
            return
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif needs_reset and hasattr(module, 'reset_parameters'):
        module.reset_parameters()


def resolve_window_sizes(window_size: WindowSpec, depths: Sequence[int]) -> list[list[Window]]:
    """Expands a `window_size` argument to a (height, width) for every block of every stage."""
    stages = [window_size] * len(depths) if isinstance(window_size, int) else list(window_size)
    if len(stages) != len(depths):
        raise ZooError(f'window_size: found {len(stages)} stages, {len(depths)} are needed.')
    windows = []
    for i, (stage, depth) in enumerate(zip(stages, depths, strict=True)):
        blocks = [to_2tuple(w) for w in ([stage] * depth if isinstance(stage, int) else stage)]
        if len(blocks) != depth or any(len(w) != 2 or min(w) < 1 for w in blocks):
            raise ZooError(
                f'window_size: found {stage!r} for stage {i}, a positive integer or {depth} (height, width) '
                'pairs are needed.'
            )
        windows.append(blocks)
    return windows


def resize_table(table: torch.Tensor, window_size: Window) -> torch.Tensor:
    """Interpolates a relative-position table (2H - 1, 2W - 1, heads) to another window."""
    height, width = 2 * window_size[0] - 1, 2 * window_size[1] - 1
    if table.shape[:2] == (height, width):
        return table
    heads = table.shape[2]
    resized = resize_rel_pos_bias_table(table.permute(2, 0, 1), window_size, (heads, height, width))
    return resized.permute(1, 2, 0).contiguous()


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, torch.Tensor]:
    """Maps the official layout, timm's ``swin_s3_*`` layout or our own to this model's keys and window sizes.

    The official code merges patches at the end of a stage and names the classifier ``head``; timm merges at
    the start of the next and names it ``head.fc``, as we do. Both flatten the two axes of the
    relative-position tables.
    """
    state_dict = state_dict.get('model', state_dict)
    official = 'layers.0.downsample.reduction.weight' in state_dict
    out = {}
    for key, value in state_dict.items():
        if key.endswith(('relative_position_index', 'attn_mask')):
            continue
        if official:
            key = re.sub(r'^layers\.(\d+)\.downsample', lambda m: f'layers.{int(m[1]) + 1}.downsample', key)
            key = re.sub(r'^head\.(weight|bias)$', r'head.fc.\1', key)
        key = re.sub(r'^layers\.', 'stages.', key)
        if key.endswith('relative_position_bias_table'):
            if value.ndim == 2:
                side = math.isqrt(value.shape[0])
                value = value.reshape(side, side, -1)
            try:
                window = model.get_submodule(key.rpartition('.')[0]).window_size
            except AttributeError:
                window = None  # a checkpoint of a deeper network: loading names the unexpected key
            if window is not None:
                value = resize_table(value, window)
        elif key == 'patch_embed.proj.weight' and value.shape[-2:] != (PATCH_SIZE, PATCH_SIZE):
            value = resample_patch_embed(value, [PATCH_SIZE, PATCH_SIZE])
        out[key] = value
    return out


def cfg(arch: Arch, input_size: tuple[int, int, int]) -> dict[str, Any]:
    """What timm needs to know of a network of this family at this input size."""
    stride = PATCH_SIZE * 2 ** (len(arch.stages) - 1)
    return dict(
        first_conv='patch_embed.proj',
        classifier='head.fc',
        fixed_input_size=False,
        pool_size=(math.ceil(input_size[1] / stride), math.ceil(input_size[2] / stride)),
    )


def build(arch: Arch, variant: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Builds a network through timm, which handles weights, features and pretrained configs."""
    out_indices = kwargs.pop('out_indices', tuple(range(len(arch.stages))))
    return build_model(
        S3,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg=dict(out_indices=out_indices, flatten_sequential=True),
        arch=arch,
        **kwargs,
    )


default_cfgs = generate_default_cfgs({'s3': dict(first_conv='patch_embed.proj', classifier='head.fc')})


@register_model
def s3(pretrained: bool = False, arch: Arch | dict[str, Any] | str | None = None, **kwargs: Any) -> nn.Module:
    """Any S3 network: `arch` is an architecture as a dict, or the path of an entry file."""
    return build(load_arch(Arch, arch), 's3', pretrained, **kwargs)
