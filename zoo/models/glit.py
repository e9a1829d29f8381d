"""GLiT: a vision transformer whose blocks share their heads between self-attention and 1-D convolution.

"GLiT: Neural Architecture Search for Global and Local Image Transformer", Chen et al., ICCV 2021, sections
3.1 and 3.2. Written from the paper and from the behaviour of the authors' code
(https://github.com/bychen515/GLiT at 0981299, which carries no licence). Where the two differ the code is
followed, since it made the published model: GELU in the MLP (paper: Swish), batch norm and SiLU after the
depth-wise convolution only, and no projection that joins the attention and the convolution part of a mixed
block.

The tokens are the class token followed by the patches in raster order, and the 1-D convolution runs along
all of them. So a kernel of K tokens covers neighbours in a row and, once K / 2 exceeds the width of the map,
some of the rows above and below; which ones depends on that width. At another input *width* the same weights
see other vertical neighbours, and a model should be fine-tuned there. (The class token counts as the left
neighbour of the first patch.)
"""

import math
import re
from functools import partial
from typing import Annotated, Any, Final

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from timm.layers import (
    Attention,
    DropPath,
    LayerNorm,
    Mlp,
    PatchEmbed,
    calculate_drop_path_rates,
    get_device_dtype,
    global_pool_nlc,
    resample_abs_pos_embed,
    to_2tuple,
    trunc_normal_,
)
from timm.models import checkpoint, checkpoint_seq, named_apply, register_model
from torch import Tensor, nn

from zoo import arch as zoo_arch
from zoo._timm_compat import (
    feature_take_indices,
    generate_default_cfgs,
    get_pretrained_grid_size,
    update_model_input_size,
)
from zoo.arch import Dim, Heads, Kernel, Part, Ratio, load_arch
from zoo.build import build_model
from zoo.errors import ZooError
from zoo.layers.folding import fold_norm
from zoo.layers.pointwise import use_onednn
from zoo.layers.table_cache import TableCache
from zoo.layers.token_conv import TokenConv

__all__ = ['Arch', 'BlockArch', 'GLiT', 'GlobalLocalBlock', 'LocalConv', 'glit_formula']

LAYER_NAMES = {'first_conv': 'patch_embed.proj', 'classifier': 'head'}
POOLS = ('', 'token', 'avg', 'max', 'avgmax')


class BlockArch(Part):
    """One global-local block: (G, L) heads, their widths, and the MLP's (paper, Table 2).

    Absent are ``qkv_dim`` without global heads, ``kernel_size`` and ``expansion`` without local heads.
    """

    global_heads: Annotated[int, Field(ge=0, le=512)]
    """G: heads that are self-attention; they take the first G / (G + L) of the channels."""
    local_heads: Annotated[int, Field(ge=0, le=512)]
    """L: heads that are one convolution over the remaining channels."""
    qkv_dim: Dim | None = None
    """d_k: width of the queries, keys and values of the global heads together."""
    kernel_size: Kernel | None = None
    """K: tokens under the depth-wise convolution of the local heads."""
    expansion: Ratio | None = None
    """E: channels of the depth-wise convolution relative to those of the local heads."""
    mlp_ratio: Ratio
    """d_z: hidden width of the MLP relative to the embedding."""

    @model_validator(mode='after')
    def _check(self) -> 'BlockArch':
        for name, kind, heads in (
            ('qkv_dim', 'global', self.global_heads),
            ('kernel_size', 'local', self.local_heads),
            ('expansion', 'local', self.local_heads),
        ):
            value = getattr(self, name)
            if heads and value is None:
                raise ValueError(f'{name} is missing, a block with {heads} {kind} heads needs it')
            if not heads and value is not None:
                raise ValueError(f'{name} is {value}, a block without {kind} heads must not have it')
        if self.qkv_dim and self.qkv_dim % self.global_heads:
            raise ValueError(
                f'qkv_dim is {self.qkv_dim}, a multiple of global_heads = {self.global_heads} is needed'
            )
        if self.kernel_size and self.kernel_size % 2 == 0:
            raise ValueError(f'kernel_size is {self.kernel_size}, an odd number is needed')
        return self

    def split(self, embed_dim: int) -> tuple[int, int]:
        """Channels of the global and of the local heads."""
        attn_dim = embed_dim * self.global_heads // max(1, self.global_heads + self.local_heads)
        return attn_dim, embed_dim - attn_dim

    def inner_dim(self, embed_dim: int) -> int:
        """Channels of the depth-wise convolution, 0 without local heads."""
        return int(self.split(embed_dim)[1] * (self.expansion or 0))

    def num_weights(self, embed_dim: int) -> int:
        """Weights of the linear layers and convolutions, biases apart."""
        attn_dim, conv_dim = self.split(embed_dim)
        inner_dim = self.inner_dim(embed_dim)
        attn = 4 * attn_dim * (self.qkv_dim or 0)
        conv = inner_dim * (3 * conv_dim + (self.kernel_size or 0))
        return attn + conv + 2 * embed_dim * int(embed_dim * self.mlp_ratio)


class Arch(zoo_arch.Arch):
    """What a GLiT search decides, in the frame that it keeps fixed (width, heads, patch)."""

    family = 'glit'

    embed_dim: Dim
    num_heads: Heads
    """N: heads of every block, global and local together."""
    patch_size: Kernel = 16
    """Side of a patch in pixels; 16 in the paper."""
    blocks: Annotated[tuple[BlockArch, ...], Field(min_length=1, max_length=256)]

    @model_validator(mode='after')
    def _check(self) -> 'Arch':
        for i, block in enumerate(self.blocks):
            heads = block.global_heads + block.local_heads
            if heads != self.num_heads:
                raise ValueError(
                    f'blocks[{i}] has {block.global_heads} global and {block.local_heads} local heads, '
                    f'a sum of num_heads = {self.num_heads} is needed'
                )
            if self.embed_dim * block.global_heads % heads:
                raise ValueError(
                    f'blocks[{i}]: embed_dim = {self.embed_dim} cannot be divided into '
                    f'{block.global_heads} global and {block.local_heads} local heads of whole width'
                )
            conv_dim = block.split(self.embed_dim)[1]
            for name, dim, ratio in (
                ('expansion', conv_dim, block.expansion),
                ('mlp_ratio', self.embed_dim, block.mlp_ratio),
            ):
                if ratio is not None and not (dim * ratio).is_integer():
                    raise ValueError(
                        f'blocks[{i}].{name} is {ratio}, which is {dim * ratio} channels of {dim}; '
                        'a whole number is needed'
                    )
        return self

    def num_weights(self) -> int:
        """Weights of the patch embedding (3 channels) and of the blocks, biases and classifier apart."""
        embed = 3 * self.embed_dim * self.patch_size**2
        return embed + sum(block.num_weights(self.embed_dim) for block in self.blocks)


def glit_formula(arch: Arch, img_size: int | tuple[int, int], num_classes: int = 1000) -> int:
    """The MACs that the authors' code counts: the unit of every published GLiT figure.

    It is the true number of multiply-accumulates at 3 input channels, except that the first point-wise
    convolution of the local heads, which makes both halves of a gated linear unit, is counted as if it made
    one. For GLiT-Tiny at 224 pixels it gives 1.332 G where 1.473 G are executed.

    Args:
        arch: The architecture.
        img_size: Input height and width in pixels, or the side of a square input.
        num_classes: Outputs of the classifier.
    """
    height, width = to_2tuple(img_size)
    patches = (height // arch.patch_size) * (width // arch.patch_size)
    tokens = patches + 1
    macs = arch.embed_dim * (patches * 3 * arch.patch_size**2 + num_classes)
    for block in arch.blocks:
        missed = block.split(arch.embed_dim)[1] * block.inner_dim(arch.embed_dim)
        macs += tokens * (block.num_weights(arch.embed_dim) - missed) + 2 * tokens**2 * (block.qkv_dim or 0)
    return macs


class LocalConv(nn.Module):
    """The local heads: point-wise, gate, depth-wise over the tokens, norm, SiLU, point-wise (Figure 3).

    The tokens stay rows in memory: point-wise convolutions are linear layers, and the depth-wise one sees a
    map of one row, channels last.
    """

    def __init__(
        self,
        dim: int,
        inner_dim: int,
        kernel_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        super().__init__()
        self.expand = nn.Linear(dim, 2 * inner_dim, **dd)
        self.dwconv = TokenConv(inner_dim, kernel_size, **dd)
        self.norm = nn.BatchNorm2d(inner_dim, **dd)
        self.project = nn.Linear(inner_dim, dim, **dd)

    def fuse(self) -> 'LocalConv':
        """Folds the norm into the depth-wise convolution."""
        self.dwconv, self.norm = fold_norm(self.dwconv, self.norm)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Tensor[B, N, dim] -> Tensor[B, N, dim]; the first half of ``expand`` is gated by the second."""
        x = F.glu(self.expand(x), dim=-1)
        x = F.silu(self.norm(self.dwconv(x.transpose(1, 2).unsqueeze(2))))
        return self.project(x.squeeze(2).transpose(1, 2))


class GlobalLocalBlock(nn.Module):
    """Pre-norm transformer block: the first G / (G + L) of the channels attend, the others are convolved."""

    def __init__(
        self,
        embed_dim: int,
        arch: BlockArch,
        drop_path: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        super().__init__()
        self.attn_dim, self.conv_dim = arch.split(embed_dim)
        self.norm1 = LayerNorm(embed_dim, **dd)
        self.attn = nn.Identity()
        if arch.qkv_dim is not None:
            head_dim = arch.qkv_dim // arch.global_heads
            self.attn = Attention(
                self.attn_dim, arch.global_heads, attn_head_dim=head_dim, qkv_bias=True, **dd
            )
        self.conv = nn.Identity()
        if arch.kernel_size is not None:
            self.conv = LocalConv(self.conv_dim, arch.inner_dim(embed_dim), arch.kernel_size, **dd)
        self.drop_path1 = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()
        self.norm2 = LayerNorm(embed_dim, **dd)
        self.mlp = Mlp(embed_dim, int(embed_dim * arch.mlp_ratio), **dd)
        self.drop_path2 = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def mix(self, x: Tensor) -> Tensor:
        """The global-local module without its norm, Tensor[B, N, C] -> Tensor[B, N, C]."""
        if self.conv_dim == 0:
            return self.attn(x)
        if self.attn_dim == 0:
            return self.conv(x)
        x_global, x_local = x.split([self.attn_dim, self.conv_dim], dim=-1)
        return torch.cat([self.attn(x_global), self.conv(x_local)], dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        """Tensor[B, N, C] -> Tensor[B, N, C]."""
        x = x + self.drop_path1(self.mix(self.norm1(x)))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


class GLiT(nn.Module):
    """GLiT of a given architecture, with timm's interface of a vision transformer with a class token.

    The input size is fixed unless ``dynamic_img_size``; :meth:`set_input_size` changes it, and a checkpoint
    of another size is adapted when it is loaded: the position embedding is resampled (bicubic). The module's
    docstring says what another width means for the convolution. Normalisation precedes pooling whatever the
    pooling is, so that one checkpoint fits all of them.

    Args:
        arch: The architecture, as an :class:`Arch` or its dict.
        img_size: Input height and width in pixels, or the side of a square input; at least one patch.
        in_chans: Input channels.
        num_classes: Outputs of the classifier; 0 leaves it out.
        global_pool: ``token`` (the class token), ``avg``, ``max``, ``avgmax`` (the patches) or none (empty).
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth of the last block; it rises linearly from 0.
        dynamic_img_size: Take any input of whole patches, resampling the position embedding at every call, or
            once for each size where :attr:`tables` is on.
        device: Where the parameters are made; ``meta`` takes no memory.
        dtype: Of the parameters.

    Raises:
        ZooError: ``arch`` is not a valid architecture, or ``img_size`` is smaller than a patch.
        AssertionError: Unknown ``global_pool``, as in timm.
    """

    dynamic_img_size: Final[bool]

    def __init__(
        self,
        arch: Arch | dict[str, Any],
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = 'token',
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        dynamic_img_size: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        assert global_pool in POOLS, f'global_pool is {global_pool!r}, one of {POOLS} is needed.'
        arch = load_arch(Arch, arch)
        _check_img_size(img_size, arch.patch_size)
        dim, depth = arch.embed_dim, len(arch.blocks)

        self.arch = arch
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.global_pool = global_pool
        self.embed_dim = self.num_features = self.head_hidden_size = dim
        self.num_prefix_tokens = 1
        self.dynamic_img_size = dynamic_img_size
        self.grad_checkpointing = False

        flexible = {'strict_img_size': False, 'output_fmt': 'NHWC'} if dynamic_img_size else {}
        self.patch_embed = PatchEmbed(img_size, arch.patch_size, in_chans, dim, **flexible, **dd)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim, **dd))
        self.pos_embed = nn.Parameter(torch.empty(1, self.patch_embed.num_patches + 1, dim, **dd))
        self.tables = TableCache()
        rates = calculate_drop_path_rates(drop_path_rate, depth)
        self.blocks = nn.Sequential(
            *(
                GlobalLocalBlock(dim, block, drop_path=rate, **dd)
                for block, rate in zip(arch.blocks, rates, strict=True)
            )
        )
        self.feature_info = [
            {'module': f'blocks.{i}', 'num_chs': dim, 'reduction': arch.patch_size} for i in range(depth)
        ]
        self.norm = LayerNorm(dim, **dd)
        self.head_drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(dim, num_classes, **dd) if num_classes > 0 else nn.Identity()
        use_onednn(self)
        self.init_weights(needs_reset=False)

    @torch.jit.ignore
    def init_weights(self, needs_reset: bool = True) -> None:
        """Draws all parameters as the authors do.

        Args:
            needs_reset: Also reset what has its default initialisation already when a model is newly made.
        """
        trunc_normal_(self.pos_embed, std=0.02)
        trunc_normal_(self.cls_token, std=0.02)
        named_apply(partial(_init_weights, needs_reset=needs_reset), self)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters of two or more dimensions that are not decayed."""
        return {'pos_embed', 'cls_token'}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups for layer-wise learning rates: the stem, then block by block."""
        return {
            'stem': r'^cls_token|^pos_embed|^patch_embed',
            'blocks': [(r'^blocks\.(\d+)', None), (r'^norm', (99999,))],
        }

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks in the backward pass instead of storing their activations."""
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The classifier."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier by a new one, and the pooling if one is given."""
        if global_pool is not None:
            assert global_pool in POOLS, f'global_pool is {global_pool!r}, one of {POOLS} is needed.'
            self.global_pool = global_pool
        self.num_classes = num_classes
        dd = get_device_dtype(self)
        self.head = nn.Linear(self.embed_dim, num_classes, **dd) if num_classes > 0 else nn.Identity()
        self.head.train(self.training)

    @torch.jit.ignore
    def set_input_size(self, img_size: int | tuple[int, int] | None = None) -> None:
        """Resamples the position embedding for another input height and width in pixels."""
        old_grid = self.patch_embed.grid_size
        if img_size is not None:
            _check_img_size(img_size, self.arch.patch_size)
            self.patch_embed.set_input_size(img_size=to_2tuple(img_size))
        new_grid = self.patch_embed.grid_size
        if new_grid != old_grid:
            pos_embed = resample_abs_pos_embed(self.pos_embed, new_size=new_grid, old_size=old_grid)
            self.pos_embed = nn.Parameter(pos_embed.detach(), requires_grad=self.pos_embed.requires_grad)
        update_model_input_size(self, self.patch_embed.img_size)

    @torch.jit.unused
    def _resample_pos_embed(self, rows: int, columns: int) -> Tensor:
        old_size = self.patch_embed.grid_size
        return self.tables.get(
            self.pos_embed,
            (rows, columns, old_size),
            lambda: resample_abs_pos_embed(self.pos_embed, new_size=[rows, columns], old_size=old_size),
        )

    def _embed(self, x: Tensor) -> Tensor:
        """Image Tensor[B, in_chans, H, W] -> tokens Tensor[B, 1 + patches, C], the class token first."""
        x = self.patch_embed(x)
        pos_embed = self.pos_embed
        if self.dynamic_img_size:
            height, width = x.shape[1], x.shape[2]
            if torch.jit.is_scripting():
                pos_embed = resample_abs_pos_embed(
                    pos_embed, new_size=[height, width], old_size=self.patch_embed.grid_size
                )
            else:
                pos_embed = self._resample_pos_embed(height, width)
            x = x.flatten(1, 2)
        return torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + pos_embed

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = 'NCHW',
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Outputs of chosen blocks.

        Args:
            x: Tensor[B, in_chans, H, W].
            indices: Blocks to take: the last n, these (negative from the end), or all if None.
            return_prefix_tokens: Give pairs of (patches, class token Tensor[B, 1, C]); not in TorchScript.
            norm: Apply the final norm to each.
            stop_early: Leave out the blocks after the last one taken.
            output_fmt: ``NCHW`` for maps Tensor[B, C, H / patch, W / patch] or ``NLC`` for tokens.
            intermediates_only: Do not give the final features.

        Returns:
            The list, or the output of :meth:`forward_features` (after the last block that ran) and the list.
        """
        assert output_fmt in ('NCHW', 'NLC'), 'Output format must be one of NCHW or NLC.'
        intermediates: list[Tensor] = []
        take_indices, max_index = feature_take_indices(len(self.blocks), indices)

        batch, _, height, width = x.shape
        x = self._embed(x)
        if torch.jit.is_scripting() or not stop_early:  # TorchScript cannot slice
            blocks = self.blocks
        else:
            blocks = self.blocks[: max_index + 1]
        for i, block in enumerate(blocks):
            x = checkpoint(block, x) if self.grad_checkpointing and not torch.jit.is_scripting() else block(x)
            if i in take_indices:
                intermediates.append(self.norm(x) if norm else x)

        prefix_tokens = [y[:, :1] for y in intermediates]
        intermediates = [y[:, 1:] for y in intermediates]
        if output_fmt == 'NCHW':
            rows, columns = self.patch_embed.dynamic_feat_size((height, width))
            intermediates = [
                y.reshape(batch, rows, columns, -1).permute(0, 3, 1, 2).contiguous() for y in intermediates
            ]
        if not torch.jit.is_scripting() and return_prefix_tokens:
            intermediates = list(zip(intermediates, prefix_tokens, strict=True))
        if intermediates_only:
            return intermediates
        return self.norm(x), intermediates

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Removes what the chosen blocks' outputs do not need.

        Args:
            indices: As in :meth:`forward_intermediates`.
            prune_norm: Also remove the final norm.
            prune_head: Also remove pooling and classifier.

        Returns:
            The blocks chosen, counted from the start.
        """
        take_indices, max_index = feature_take_indices(len(self.blocks), indices)
        self.blocks = self.blocks[: max_index + 1]
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0, '')
        return take_indices

    def forward_features(self, x: Tensor) -> Tensor:
        """Image Tensor[B, in_chans, H, W] -> normalised tokens Tensor[B, 1 + patches, C]."""
        x = self._embed(x)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            x = checkpoint_seq(self.blocks, x)
        else:
            x = self.blocks(x)
        return self.norm(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens Tensor[B, 1 + patches, C] -> logits Tensor[B, num_classes], or what the classifier takes."""
        x = global_pool_nlc(x, pool_type=self.global_pool, num_prefix_tokens=1)
        x = self.head_drop(x)
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Image Tensor[B, in_chans, H, W] -> logits Tensor[B, num_classes]."""
        return self.forward_head(self.forward_features(x))


def _check_img_size(img_size: int | tuple[int, int], patch_size: int) -> None:
    height, width = to_2tuple(img_size)
    if min(height, width) < patch_size:
        raise ZooError(
            f'img_size is {height} x {width}, at least one patch of {patch_size} pixels is needed.'
        )


def _init_weights(module: nn.Module, name: str = '', needs_reset: bool = True) -> None:
    """Linear layers as in ViT; those of the local heads are the authors' convolutions: torch's default."""
    if isinstance(module, nn.Linear) and '.conv.' not in name:
        trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif needs_reset and hasattr(module, 'reset_parameters'):
        module.reset_parameters()


OFFICIAL_CONV = {'1': 'expand', '3.conv': 'dwconv', '4': 'norm', '6': 'project'}


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Maps a checkpoint of the authors' code to this model's names and shapes; a native one keeps them.

    Args:
        state_dict: Official (plain, or the training checkpoint that holds it as ``model``) or native.
        model: A :class:`GLiT`; the position embedding is resampled to its grid.

    Returns:
        A state dict in the native layout. What belongs to no GLiT keeps its name, for loading to refuse.
    """
    out = {}
    state_dict = state_dict.get('model', state_dict)
    for key, value in state_dict.items():
        key = re.sub(r'^blocks\.(\d+)\.0\.', r'blocks.\1.', key)
        if layer := re.fullmatch(r'(.+)\.attn\.net\.(1|3\.conv|4|6)\.(\w+)', key):
            key = f'{layer[1]}.conv.{OFFICIAL_CONV[layer[2]]}.{layer[3]}'
            if value.ndim == 3:
                value = value.unsqueeze(2) if layer[2] == '3.conv' else value.squeeze(-1)
        elif key == 'pos_embed' and value.ndim == 3:
            num_patches = value.shape[1] - 1
            old = get_pretrained_grid_size(model, state_dict.get('patch_embed.proj.weight'), num_patches)
            old = old or (math.isqrt(num_patches),) * 2
            if old[0] * old[1] == num_patches and old != model.patch_embed.grid_size:
                value = resample_abs_pos_embed(value, new_size=model.patch_embed.grid_size, old_size=old)
        out[key] = value
    return out


def cfg(arch: Arch, input_size: tuple[int, int, int]) -> dict[str, Any]:
    """The part of timm's pretrained config that follows from the family."""
    return dict(LAYER_NAMES, fixed_input_size=True, pool_size=None)


def build(arch: Arch, variant: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Makes a GLiT through timm's factory.

    Args:
        arch: The architecture.
        variant: A registered name: where the pretrained configs are.
        pretrained: Load weights.
        **kwargs: Of :class:`GLiT` and of timm's ``build_model_with_cfg``.

    Raises:
        ZooError: ``pretrained`` without weights, or weights that cannot be read or do not fit.
    """
    return build_model(
        GLiT,
        variant,
        pretrained,
        arch=arch,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={'out_indices': min(3, len(arch.blocks)), 'feature_cls': 'getter'},
        **kwargs,
    )


default_cfgs = generate_default_cfgs({'glit': dict(LAYER_NAMES, fixed_input_size=True)})


@register_model
def glit(
    pretrained: bool = False, arch: Arch | dict[str, Any] | str | None = None, **kwargs: Any
) -> nn.Module:
    """A GLiT of any architecture: ``arch`` is an :class:`Arch`, its dict, or the path of a JSON file."""
    return build(load_arch(Arch, arch), 'glit', pretrained, **kwargs)
