"""UniNet: stages of convolution, attention or MLP, found by one search (Liu et al., arXiv 2110.04035, ECCV
2022).

Per stage the search decides an operator, a down-sampling module, an expansion ratio, a width and a number of
blocks (paper, Sec. 3.4). Strides, stem and head are a fixed frame, taken from the official code
(Sense-X/UniNet, MIT) and with it the first stage, which the paper's Table 3 does not list. That code has the
operators DWConv and SA and the modules L and LG; its only released weights, UniNet-B1's, load through
:func:`checkpoint_filter_fn`. The paper names Conv, LSA, MLP and G without giving them in full: the classes
say how each is read here.

Nothing but the token-mixing MLP depends on the input size, and that one resamples: images of any size are
accepted.
"""

import math
import re
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from timm.layers import (
    BatchNormAct2d,
    ClassifierHead,
    DropPath,
    LayerScale,
    Mlp,
    calculate_drop_path_rates,
    make_divisible,
    to_2tuple,
    trunc_normal_,
)
from timm.models import checkpoint_seq, named_apply, register_model
from torch import Tensor, nn

from zoo import arch as base
from zoo._timm_compat import generate_default_cfgs
from zoo.build import build_model
from zoo.errors import ZooError
from zoo.layers.context_downsample import ContextDownsample, LocalDownsample, PoolShortcut
from zoo.layers.folding import ConvNormAct, fold_norm, fold_norm_before, fold_scale
from zoo.layers.inplace import GELU, SqueezeExcite, add
from zoo.layers.pointwise import use_onednn
from zoo.layers.token_mixing import TokenMixing, resample_token_mixing
from zoo.layers.window_attention import SelfAttention
from zoo.staged import StagedNet

__all__ = ['Arch', 'UniNet']

WINDOW_SIZE = 7
"""Side of LSA's windows, in positions: Swin's. The paper gives none."""
LEVELS = 4
"""Feature maps come from so many resolutions, the coarsest: strides 4, 8, 16 and 32 in the paper's frame."""


class StageArch(base.Part):
    """A down-sampling module followed by equal blocks. The first stage has no such module.

    Attributes:
        operator: Depthwise or full convolution, attention (over the map or in windows), token-mixing MLP.
        downsample: L-, LG- or G-DSM; none in the first stage.
        expansion: Hidden width of a block's bottleneck or channel MLP over its input width (the paper's e).
        channels: Width (c).
        repeats: Number of blocks (r).
    """

    operator: Literal['dwconv', 'conv', 'sa', 'lsa', 'mlp']
    downsample: Literal['l', 'lg', 'g'] | None = None
    expansion: base.Ratio
    channels: base.Dim
    repeats: base.Depth


class Arch(base.Arch):
    """The stages, and the frame around them where it differs from the paper's."""

    family: ClassVar[str] = 'uninet'

    stages: tuple[StageArch, ...] = Field(min_length=2, max_length=12)
    strides: tuple[Literal[1, 2], ...] = Field(
        (1, 2, 2, 2, 1, 2), description='of each stage; 1 for the first'
    )
    stem_channels: base.Dim = 32
    stem_stride: Literal[1, 2] = 2
    head_channels: base.Dim = 1280

    @model_validator(mode='after')
    def _check_stages(self) -> 'Arch':
        if len(self.strides) != len(self.stages):
            raise ValueError(f'strides has {len(self.strides)} values for {len(self.stages)} stages')
        if self.strides[0] != 1:
            raise ValueError('strides must begin with 1: the first stage has no down-sampling module')
        for i, stage in enumerate(self.stages):
            if (stage.downsample is None) != (i == 0):
                allowed = 'null' if i == 0 else 'l, lg or g'
                raise ValueError(
                    f'stages[{i}].downsample is {stage.downsample or "null"}, it must be {allowed}'
                )
            if int(min(self.stage_inputs(i)) * stage.expansion) < 1:
                raise ValueError(f'stages[{i}]: expansion {stage.expansion} leaves no hidden channel')
        first = self.stages[0]
        if first.operator not in ('dwconv', 'conv') and first.channels != self.stem_channels:
            raise ValueError(
                f'stages[0]: {first.operator} cannot make {first.channels} channels of {self.stem_channels}; '
                'dwconv and conv can'
            )
        return self

    def stage_inputs(self, index: int) -> list[int]:
        """Input channels of each block of a stage."""
        stage = self.stages[index]
        return [stage.channels if index else self.stem_channels] + [stage.channels] * (stage.repeats - 1)

    def map_sizes(self, img_size: tuple[int, int]) -> list[tuple[int, int]]:
        """(height, width) of each stage's map: every stride rounds up."""
        height, width = (math.ceil(side / self.stem_stride) for side in img_size)
        sizes = []
        for stride in self.strides:
            height, width = math.ceil(height / stride), math.ceil(width / stride)
            sizes.append((height, width))
        return sizes

    def reductions(self) -> list[int]:
        """Stride of each stage's map with respect to the image."""
        return [self.stem_stride * math.prod(self.strides[: i + 1]) for i in range(len(self.stages))]

    def feature_stages(self) -> list[int]:
        """Stages that give the feature maps: the last one at each of the coarsest four resolutions."""
        last_at = {reduction: i for i, reduction in enumerate(self.reductions())}
        return list(last_at.values())[-LEVELS:]

    def num_weights(self) -> int:
        """Weights of dense layers, but for token mixing's, whose number the image size decides."""
        total, before = 0, self.stem_channels
        for i, stage in enumerate(self.stages):
            width = stage.channels
            per_output = {None: 0, 'l': 2 * before, 'lg': 4 * before + width, 'g': 3 * before + width}
            total += per_output[stage.downsample] * width
            for in_chs in self.stage_inputs(i):
                hidden = int(in_chs * stage.expansion)
                total += (in_chs + width) * hidden
                if stage.operator == 'conv':
                    total += 9 * hidden**2
                if stage.operator in ('dwconv', 'conv'):
                    total += hidden**2 // 2
                elif stage.operator in ('sa', 'lsa'):
                    total += 4 * width**2
            before = width
        return total + self.head_channels * (before + 1000)


def num_heads(channels: int) -> int:
    """Attention heads for a width: the largest divisor of it not above max(1, channels // 32)."""
    limit = max(1, channels // 32)
    return max(heads for heads in range(1, limit + 1) if channels % heads == 0)


class ConvBlock(nn.Module):
    """DWConv and Conv (eq. 2): an inverted residual that opens with a batch norm, with
    squeeze-and-excitation.

    Conv is not in the official code: read as the same block with a full 3x3 convolution in place of the
    depthwise one. Without expansion (equal hidden width) the block begins with its 3x3 convolution.

    Args:
        in_chs: Input channels.
        out_chs: Output channels; if others, the shortcut is a max-pooling (stride 1) and a 1x1 convolution.
        hidden_chs: Channels of the 3x3 convolution.
        depthwise: DWConv if true, else Conv.
        drop_path: Rate of stochastic depth.
    """

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        hidden_chs: int,
        depthwise: bool,
        drop_path: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        super().__init__()
        expand = hidden_chs != in_chs
        self.pre_norm = nn.BatchNorm2d(in_chs, **dd) if expand else nn.Identity()
        self.expand = nn.Conv2d(in_chs, hidden_chs, 1, bias=False, **dd) if expand else nn.Identity()
        self.expand_norm = BatchNormAct2d(hidden_chs, act_layer=GELU, **dd) if expand else nn.Identity()
        groups = hidden_chs if depthwise else 1
        self.conv = nn.Conv2d(hidden_chs, hidden_chs, 3, padding=1, groups=groups, bias=False, **dd)
        self.conv_norm = BatchNormAct2d(hidden_chs, act_layer=GELU, **dd)
        squeezed = make_divisible(hidden_chs // 4, 8)
        self.se = SqueezeExcite(hidden_chs, rd_channels=squeezed, gate_layer='hard_sigmoid', **dd)
        self.project = nn.Conv2d(hidden_chs, out_chs, 1, **dd)
        self.project_norm = nn.BatchNorm2d(out_chs, **dd)
        self.shortcut = (
            PoolShortcut(in_chs, out_chs, 1, pool=True, **dd) if in_chs != out_chs else nn.Identity()
        )
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def fuse(self) -> 'ConvBlock':
        """Folds the norms into the convolutions."""
        self.pre_norm, self.expand = fold_norm_before(self.pre_norm, self.expand)
        self.expand, self.expand_norm = fold_norm(self.expand, self.expand_norm)
        self.conv, self.conv_norm = fold_norm(self.conv, self.conv_norm)
        self.project, self.project_norm = fold_norm(self.project, self.project_norm)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Tensor[B, in_chs, H, W] -> Tensor[B, out_chs, H, W]."""
        shortcut = self.shortcut(x)
        x = self.expand_norm(self.expand(self.pre_norm(x)))
        x = self.se(self.conv_norm(self.conv(x)))
        return add(shortcut, self.drop_path(self.project_norm(self.project(x))))


class AttentionBlock(nn.Module):
    """Transformer block (eq. 3 and 4): SA, and LSA where a window is given.

    A 3x3 depthwise convolution is added first, the only position encoding. LSA is not in the official code:
    read as the same block with windows that are not shifted, since that convolution joins neighbouring ones.

    Args:
        dim: Channels.
        hidden_dim: Hidden width of the channel MLP.
        window_size: Side of LSA's windows; 0 for SA.
        drop_path: Rate of stochastic depth.
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        window_size: int = 0,
        drop_path: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        super().__init__()
        self.pos_conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, **dd)
        self.add_input = True
        self.norm1 = nn.LayerNorm(dim, **dd)
        self.attn = SelfAttention(dim, num_heads(dim), window_size, **dd)
        self.ls1 = LayerScale(dim, init_values=1e-6, **dd)
        self.norm2 = nn.LayerNorm(dim, **dd)
        self.mlp = Mlp(dim, hidden_dim, **dd)
        self.ls2 = LayerScale(dim, init_values=1e-6, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def fuse(self) -> 'AttentionBlock':
        """Folds the layer scales, and the addition of its input into the position encoding."""
        self.attn.proj, self.ls1 = fold_scale(self.attn.proj, self.ls1)
        self.mlp.fc2, self.ls2 = fold_scale(self.mlp.fc2, self.ls2)
        if self.add_input:
            weight = self.pos_conv.weight.detach().clone()
            weight[:, :, 1, 1] += 1
            self.pos_conv.weight = nn.Parameter(weight)
            self.add_input = False
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Tensor[B, dim, H, W] -> Tensor[B, dim, H, W]."""
        position = self.pos_conv(x)
        x = (x + position if self.add_input else position).permute(0, 2, 3, 1).contiguous()
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x))))
        x = x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))
        return x.permute(0, 3, 1, 2)


class MixerBlock(nn.Module):
    """MLP (eq. 3 and 4): the transformer block with MLP-Mixer's token mixing in place of attention.

    Not in the official code. The hidden width of token mixing is half the channels, as in all of MLP-Mixer's
    networks; the expansion ratio is that of the channel MLP. Token mixing needs no position encoding.

    Args:
        dim: Channels.
        hidden_dim: Hidden width of the channel MLP.
        grid_size: Native (height, width) of the map, in positions.
        drop_path: Rate of stochastic depth.
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        grid_size: tuple[int, int],
        drop_path: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, **dd)
        self.token_mixing = TokenMixing(grid_size, token_hidden_dim(dim), **dd)
        self.ls1 = LayerScale(dim, init_values=1e-6, **dd)
        self.norm2 = nn.LayerNorm(dim, **dd)
        self.mlp = Mlp(dim, hidden_dim, **dd)
        self.ls2 = LayerScale(dim, init_values=1e-6, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def fuse(self) -> 'MixerBlock':
        """Folds the layer scale of the channels' MLP. That of token mixing scales another axis."""
        self.mlp.fc2, self.ls2 = fold_scale(self.mlp.fc2, self.ls2)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Tensor[B, dim, H, W] -> Tensor[B, dim, H, W]."""
        x = x.permute(0, 2, 3, 1).contiguous()
        x = x + self.drop_path(self.ls1(self.token_mixing(self.norm1(x))))
        x = x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))
        return x.permute(0, 3, 1, 2)


def token_hidden_dim(channels: int) -> int:
    """Hidden width of token mixing."""
    return max(1, channels // 2)


def make_block(
    stage: StageArch,
    in_chs: int,
    grid_size: tuple[int, int],
    drop_path: float,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """One block of a stage."""
    dd: dict[str, Any] = {'device': device, 'dtype': dtype}
    hidden = int(in_chs * stage.expansion)
    if stage.operator in ('dwconv', 'conv'):
        return ConvBlock(in_chs, stage.channels, hidden, stage.operator == 'dwconv', drop_path, **dd)
    if stage.operator == 'mlp':
        return MixerBlock(in_chs, hidden, grid_size, drop_path, **dd)
    return AttentionBlock(in_chs, hidden, WINDOW_SIZE if stage.operator == 'lsa' else 0, drop_path, **dd)


def make_downsample(
    kind: str | None,
    in_chs: int,
    out_chs: int,
    stride: int,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """The down-sampling module in front of a stage."""
    dd: dict[str, Any] = {'device': device, 'dtype': dtype}
    if kind is None:
        return nn.Identity()
    if kind == 'l':
        return LocalDownsample(in_chs, out_chs, stride, **dd)
    return ContextDownsample(in_chs, out_chs, stride, num_heads(out_chs), local=kind == 'lg', **dd)


class Stage(nn.Module):
    """A down-sampling module and blocks, on NCHW maps.

    Args:
        arch: The network's architecture.
        index: Which of its stages.
        grid_size: Native (height, width) of the stage's map, in positions.
        drop_path: Rate of stochastic depth of each block.
    """

    def __init__(
        self,
        arch: Arch,
        index: int,
        grid_size: tuple[int, int],
        drop_path: list[float],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        super().__init__()
        stage = arch.stages[index]
        self.grad_checkpointing = False
        before = arch.stages[index - 1].channels if index else arch.stem_channels
        self.downsample = make_downsample(stage.downsample, before, stage.channels, arch.strides[index], **dd)
        self.blocks = nn.Sequential(
            *[
                make_block(stage, in_chs, grid_size, rate, **dd)
                for in_chs, rate in zip(arch.stage_inputs(index), drop_path, strict=True)
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.downsample(x)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return checkpoint_seq(self.blocks, x)
        return self.blocks(x)


class UniNet(StagedNet):
    """The network of an :class:`Arch`, for images of any size from its stride on.

    Args:
        arch: The architecture.
        img_size: Native size: token-mixing MLPs are made for its maps. Nothing else is built from it.
        in_chans: Channels of the image.
        num_classes: Classes; 0 for no classifier.
        global_pool: Any pooling of timm's ``ClassifierHead``; ``''`` for none.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth of the last block, rising linearly from 0 at the first.

    Raises:
        ZooError: The token-mixing MLPs would be too large at this ``img_size``.
    """

    def __init__(
        self,
        arch: Arch | dict[str, Any],
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = 'avg',
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        super().__init__()
        self.arch = base.load_arch(Arch, arch)
        arch = self.arch
        self.img_size = to_2tuple(img_size)
        self.in_chans = in_chans
        self.num_classes = num_classes
        reductions = arch.reductions()
        self.stem_name, self.final_name, self.final_is_norm = 'stem', 'conv_head', False
        self.stride = reductions[-1]

        check_token_mixing(arch, self.img_size)
        grids = arch.map_sizes(self.img_size)
        depths = [stage.repeats for stage in arch.stages]
        rates: Any = calculate_drop_path_rates(drop_path_rate, depths, stagewise=True)
        self.stem = ConvNormAct(in_chans, arch.stem_channels, 3, arch.stem_stride, act_layer=GELU, **dd)
        self.stages = nn.Sequential(
            *[Stage(arch, i, grids[i], rates[i], **dd) for i in range(len(arch.stages))]
        )
        self.stage_ends = arch.feature_stages()
        self.feature_info = [
            {'num_chs': arch.stages[i].channels, 'reduction': reductions[i], 'module': f'stages.{i}'}
            for i in self.stage_ends
        ]
        self.num_features = arch.head_channels
        last_chs = arch.stages[-1].channels
        self.conv_head = ConvNormAct(last_chs, self.num_features, 1, act_layer=GELU, **dd)
        self.head = ClassifierHead(self.num_features, num_classes, global_pool, drop_rate, **dd)
        self.head_hidden_size = self.head.num_features
        use_onednn(self)
        self.init_weights(needs_reset=False)

    @torch.jit.ignore
    def init_weights(self, needs_reset: bool = True) -> None:
        """Draws all parameters as the official code does.

        Linear layers come from a truncated normal (0.02), the gain of the last batch norm of a convolution
        block is zero, the rest has the defaults of torch.

        Args:
            needs_reset: Also reset what has its default initialisation already when a model is newly made.
        """
        named_apply(partial(_init_weights, needs_reset=needs_reset), self)

    def embed(self, x: Tensor) -> Tensor:
        self.check_size(x)
        return self.stem(x)

    def finish(self, x: Tensor) -> Tensor:
        return self.conv_head(x)


def _init_weights(module: nn.Module, name: str = '', needs_reset: bool = True) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, ConvBlock):
        nn.init.zeros_(module.project_norm.weight)
    elif needs_reset and hasattr(module, 'reset_parameters'):
        module.reset_parameters()


def check_token_mixing(arch: Arch, img_size: tuple[int, int]) -> None:
    """Refuses token-mixing MLPs that would not fit into memory, before any is taken."""
    token_mixing = sum(
        2 * height * width * token_hidden_dim(stage.channels) * stage.repeats
        for stage, (height, width) in zip(arch.stages, arch.map_sizes(img_size), strict=True)
        if stage.operator == 'mlp'
    )
    if (weights := arch.num_weights() + token_mixing) > base.MAX_WEIGHTS:
        raise ZooError(
            f'The network has about {weights:.2g} weights at img_size {img_size[0]}x{img_size[1]}, mostly '
            f'for token mixing; at most {base.MAX_WEIGHTS:.2g} are allowed.'
        )


OFFICIAL_NAMES = {
    'residual.0.': 'shortcut.conv.',
    'residual.1.': 'shortcut.conv.',
    'b1.0.': 'pre_norm.',
    'b1.1.': 'expand.',
    'b1.2.': 'expand_norm.',
    'b2.0.': 'conv.',
    'b2.1.': 'conv_norm.',
    'b2.3.': 'se.',
    'b2.4.': 'project.',
    'b2.5.': 'project_norm.',
    'downsample.0.': 'conv.',
    'downsample.1.': 'norm.',
    'downsample.2.': 'proj.',
    'q.0.': 'q_conv.',
    'q.1.': 'q_bn.',
    'q.2.': 'q_proj.',
    'pos_embed.': 'pos_conv.',
    'gamma_1': 'ls1.gamma',
    'gamma_2': 'ls2.gamma',
}
"""What names in one of the official ``blocks`` begin with, and what ours do; others are equal."""
OFFICIAL_BLOCK = re.compile(r'blocks\.(\d+)\.')
OFFICIAL_ENDS = {
    'stem.0.': 'stem.conv.',
    'stem.1.': 'stem.bn.',
    'head.0.': 'conv_head.conv.',
    'head.1.': 'conv_head.bn.',
    'classifier.': 'head.fc.',
}


def checkpoint_filter_fn(state_dict: dict[str, Any], model: UniNet) -> dict[str, Tensor]:
    """Brings a checkpoint to this module's names and to the model's grids.

    Args:
        state_dict: In the official layout (plain, or a training checkpoint that holds it as ``model``), where
            one flat list ``blocks`` has down-sampling modules and blocks alike: renamed. Or in the native
            layout: kept. Token-mixing MLPs for maps of another size are resampled in such a way that the
            network computes on maps of the new size what it computed before.
        model: What it is for.

    Raises:
        ZooError: The checkpoint has another number of blocks, or token-mixing MLPs for an unknown grid.
    """
    state_dict = state_dict.get('model', state_dict)
    if 'stem.0.weight' in state_dict:
        state_dict = _from_official(state_dict, model.arch)
    return _resample_token_mixings(state_dict, model)


def _from_official(state_dict: dict[str, Tensor], arch: Arch) -> dict[str, Tensor]:
    places = []
    for i, stage in enumerate(arch.stages):
        places += [f'stages.{i}.downsample.'] if i else []
        places += [f'stages.{i}.blocks.{j}.' for j in range(stage.repeats)]
    found = 1 + max((int(match[1]) for key in state_dict if (match := OFFICIAL_BLOCK.match(key))), default=-1)
    if found != len(places):
        raise ZooError(f'The official UniNet checkpoint has {found} blocks, this network has {len(places)}.')

    out = {}
    for key, tensor in state_dict.items():
        place, names, rest = '', OFFICIAL_ENDS, key
        if match := OFFICIAL_BLOCK.match(key):
            place, names, rest = places[int(match[1])], OFFICIAL_NAMES, key[match.end() :]
        start = next((start for start in names if rest.startswith(start)), '')
        out[place + names.get(start, '') + rest[len(start) :]] = tensor
    return out


def _resample_token_mixings(state_dict: dict[str, Tensor], model: UniNet) -> dict[str, Tensor]:
    out = dict(state_dict)
    for name, module in model.named_modules():
        if not isinstance(module, TokenMixing):
            continue
        keys = {key: f'{name}.mlp.{key}' for key in ('fc1.weight', 'fc1.bias', 'fc2.weight', 'fc2.bias')}
        if any(key not in state_dict for key in keys.values()):
            continue  # loading names what is missing
        tokens = state_dict[keys['fc2.bias']].numel()
        if tokens == math.prod(module.grid_size):
            continue
        old_size = _source_grid(model, int(name.split('.')[1]), tokens)
        if old_size is None:
            raise ZooError(
                f"{name}: the checkpoint mixes {tokens} positions, neither a square map nor its input size's."
            )
        weights = {short: state_dict[key] for short, key in keys.items()}
        resampled = resample_token_mixing(weights, old_size, module.grid_size)
        out.update({key: resampled[short] for short, key in keys.items()})
    return out


def _source_grid(model: UniNet, stage: int, tokens: int) -> tuple[int, int] | None:
    """(height, width) of a stage's map in the checkpoint's network: from its input size, or else square."""
    img_size = getattr(model, 'pretrained_model_args', {}).get('img_size')
    if img_size is None:
        img_size = getattr(model, 'pretrained_cfg', {}).get('input_size', (3, 224, 224))[1:]
    grid_size = model.arch.map_sizes(to_2tuple(img_size))[stage]
    side = math.isqrt(tokens)
    if math.prod(grid_size) == tokens:
        return grid_size
    return (side, side) if side * side == tokens else None


def cfg(arch: Arch, input_size: tuple[int, int, int]) -> dict[str, Any]:
    """What timm's pretrained cfg of an entry needs besides its preprocessing."""
    return {
        'first_conv': 'stem.conv',
        'classifier': 'head.fc',
        'pool_size': arch.map_sizes(input_size[1:])[-1],
        'fixed_input_size': False,
    }


def build(arch: Arch, variant: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Builds a network through timm's factory.

    Args:
        arch: The architecture.
        variant: Registered name, whose cfg is used.
        pretrained: Load the cfg's weights.
        **kwargs: The factory's (``features_only``, ...) and :class:`UniNet`'s arguments.
    """
    return build_model(
        UniNet,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={'out_indices': tuple(range(len(arch.feature_stages()))), 'flatten_sequential': True},
        arch=arch,
        **kwargs,
    )


default_cfgs = generate_default_cfgs(
    {'uninet': {'first_conv': 'stem.conv', 'classifier': 'head.fc', 'pool_size': (7, 7)}}
)


@register_model
def uninet(
    pretrained: bool = False, arch: Arch | dict[str, Any] | str | None = None, **kwargs: Any
) -> nn.Module:
    """Any UniNet: `arch` is an architecture as a dict, or the path of an entry file."""
    return build(base.load_arch(Arch, arch), 'uninet', pretrained, **kwargs)
