"""Full-attention nets (Zhou et al., Full-attention based Neural Architecture Search using Context
Auto-regression, arXiv 2111.07139).

Every layer is a bottleneck block around one of seven attention operators, which a search chooses layer by
layer: local multi-head attention over 3x3, 5x5 or 7x7 positions with 4 or 8 heads, or non-local attention
(paper, Sec. III-A, Tables I and II). No code and no weights are known. The published params fix some of what
the text leaves open; these are readings, not facts of the paper:

* The bottleneck is half the output's width, and both operators end in an output projection. The first block
  of a stage has a 1x1 convolution and a batch norm as its shortcut, although the text says identity. With
  identities wherever shapes allow it and three projections, the published params are missed by 18 %; with
  this reading they are met within 2 %.
* Batch norms follow every linear layer but queries, keys and values. Nothing follows the addition.
* The fixed first block (Table I's "stem") has the convolutional shortcut as well, and stays behind the
  convolutional stem.
* Networks for 224 pixels begin with three 3x3 convolutions of stride 2, each with batch norm and ReLU: the
  paper says nothing of it, but compares with networks of DARTS, which begin so.

Nothing depends on the input size: images of any size are accepted. Mind that non-local attention costs the
square of the number of positions, which at a detector's image sizes is most of the cost.
"""

import math
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from timm.layers import (
    BatchNormAct2d,
    ClassifierHead,
    DropPath,
    calculate_drop_path_rates,
    to_2tuple,
)
from timm.models import checkpoint_seq, named_apply, register_model
from torch import Tensor, nn

from zoo import arch as base
from zoo._timm_compat import generate_default_cfgs
from zoo.build import build_model
from zoo.layers.folding import ConvNormAct, fold_norm
from zoo.layers.inplace import add
from zoo.layers.local_attention import LocalAttention
from zoo.layers.non_local import NonLocalAttention
from zoo.layers.pointwise import use_onednn
from zoo.staged import StagedNet

__all__ = ['Arch', 'CARNet']

Operator = Literal[
    'local_k3_h4', 'local_k3_h8', 'local_k5_h4', 'local_k5_h8', 'local_k7_h4', 'local_k7_h8', 'non_local'
]
"""Table II: ``k`` is the side of the neighbourhood, ``h`` the number of heads."""
FIRST_OPERATOR: Operator = 'local_k3_h8'
"""Of Table I's fixed first block."""
FRAMES = {
    5: ((1, 2, 2, 4, 4), (1, 2, 1, 2, 1)),
    8: ((1, 1, 2, 2, 2, 4, 4, 4), (1, 1, 2, 1, 1, 2, 1, 1)),
}
"""Widths (as multiples of the first) and strides by the number of stages: Table I, and the deeper network of
Sec. IV-G, in which stages 1, 3 and 5 occur twice."""


class Arch(base.Arch):
    """What the search decides, and the width.

    Attributes:
        channels: Width of the first block and the first stage (the paper's initial channels, C).
        operators: Per stage, the operator of each block. The paper has 5 or 8 stages of 3 blocks.
        stem: ``conv`` reduces images by 8 in front of the first block; none leaves them as they are.
    """

    family: ClassVar[str] = 'carnet'

    channels: base.Dim
    operators: tuple[Annotated[tuple[Operator, ...], Field(min_length=1, max_length=256)], ...]
    stem: Literal['conv'] | None = None

    @field_validator('channels')
    @classmethod
    def _check_channels(cls, channels: int) -> int:
        if channels % 16:
            raise ValueError('must be a multiple of 16, so that 4 and 8 heads divide half of it')
        return channels

    @field_validator('operators')
    @classmethod
    def _check_stages(cls, operators: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(operators) not in FRAMES:
            raise ValueError(f'must be the operators of 5 or 8 stages, found {len(operators)}')
        return operators

    def widths(self) -> list[int]:
        """Output channels of each stage."""
        return [self.channels * factor for factor in FRAMES[len(self.operators)][0]]

    def strides(self) -> tuple[int, ...]:
        """Stride of each stage."""
        return FRAMES[len(self.operators)][1]

    def num_weights(self) -> int:
        channels = self.channels
        total = block_weights(channels if self.stem else 3, channels, first=True)
        if self.stem:
            total += 9 * (3 * channels // 2 + channels**2 // 2 + channels**2)
        in_chs = channels
        for width, operators in zip(self.widths(), self.operators, strict=True):
            total += block_weights(in_chs, width, first=True)
            total += (len(operators) - 1) * block_weights(width, width, first=False)
            in_chs = width
        return total + 1000 * in_chs


def block_weights(in_chs: int, out_chs: int, first: bool) -> int:
    """Weights of a block's 1x1 convolutions, which do not depend on its operator."""
    return (in_chs + out_chs) * out_chs // 2 + out_chs**2 + (in_chs * out_chs if first else 0)


def make_attention(
    operator: str, dim: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> nn.Module:
    """One of Table II's operators, without its output projection."""
    if operator == 'non_local':
        return NonLocalAttention(dim, device=device, dtype=dtype)
    kernel_size, num_heads = (int(part[1:]) for part in operator.split('_')[1:])
    return LocalAttention(dim, dim, dim, num_heads, kernel_size, device=device, dtype=dtype)


class Block(nn.Module):
    """The bottleneck block of Fig. 1c and 1d: linear layer, attention, linear layer, pooling.

    Args:
        in_chs: Input channels.
        out_chs: Output channels.
        operator: The attention, on half of ``out_chs``.
        stride: 2 averages 2x2 positions after the last linear layer and in front of the shortcut's; at the
            border of an odd map it averages those that exist.
        first: Of its stage: the shortcut has a linear layer.
        drop_path: Rate of stochastic depth.
    """

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        operator: str,
        stride: int = 1,
        first: bool = False,
        drop_path: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        super().__init__()
        dim = out_chs // 2
        self.reduce = nn.Conv2d(in_chs, dim, 1, bias=False, **dd)
        self.norm1 = BatchNormAct2d(dim, act_layer=nn.ReLU, **dd)
        self.attn = make_attention(operator, dim, **dd)
        self.proj = nn.Conv2d(dim, dim, 1, bias=False, **dd)
        self.norm2 = BatchNormAct2d(dim, act_layer=nn.ReLU, **dd)
        self.expand = nn.Conv2d(dim, out_chs, 1, bias=False, **dd)
        self.pool = nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False) if stride == 2 else nn.Identity()
        self.norm3 = nn.BatchNorm2d(out_chs, **dd)
        self.shortcut = ConvNormAct(in_chs, out_chs, 1, apply_act=False, **dd) if first else nn.Identity()
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def fuse(self) -> 'Block':
        """Folds the norms, and pools in front of the last linear layer, which then has a quarter to do."""
        self.reduce, self.norm1 = fold_norm(self.reduce, self.norm1)
        self.proj, self.norm2 = fold_norm(self.proj, self.norm2)
        self.expand, self.norm3 = fold_norm(self.expand, self.norm3)
        if isinstance(self.pool, nn.AvgPool2d):
            self.expand = nn.Sequential(self.pool, self.expand)
            self.shortcut = nn.Sequential(self.pool, self.shortcut)
            self.pool = nn.Identity()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Tensor[B, in_chs, H, W] -> Tensor[B, out_chs, H / stride, W / stride], sizes rounded up."""
        shortcut = self.shortcut(self.pool(x))
        x = self.norm1(self.reduce(x))
        x = self.norm2(self.proj(self.attn(x)))
        x = self.norm3(self.pool(self.expand(x)))
        return add(shortcut, self.drop_path(x))


class Stage(nn.Module):
    """Blocks, and what precedes them.

    Args:
        downsample: What precedes them.
        blocks: The blocks.
    """

    def __init__(self, downsample: nn.Module, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.downsample = downsample
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = self.downsample(x)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return checkpoint_seq(self.blocks, x)
        return self.blocks(x)


class CARNet(StagedNet):
    """The network of an :class:`Arch`, for images of any size from its stride on.

    ``stages.1`` to ``stages.5`` (or 8) are Table I's. ``stages.0`` is what comes before: the fixed first
    block or, with a convolutional stem, the stem's second convolution, which gives the map of stride 4.
    Feature maps have strides 1, 2, 4, and with the stem 4, 8, 16, 32.

    Args:
        arch: The architecture.
        img_size: Native size. Nothing is built from it.
        in_chans: Channels of the image.
        num_classes: Classes; 0 for no classifier.
        global_pool: Any pooling of timm's ``ClassifierHead``; ``''`` for none.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth of the last block, rising linearly from 0 at stage 1's first.
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
        channels, widths, strides = self.arch.channels, self.arch.widths(), self.arch.strides()
        self.img_size = to_2tuple(img_size)
        self.in_chans = in_chans
        self.num_classes = num_classes
        self.stem_name, self.final_name, self.final_is_norm = 'stem', 'norm', True
        self.stride = total_stride(self.arch)

        downsample: nn.Module = nn.Identity()
        if self.arch.stem == 'conv':
            self.stem = ConvNormAct(in_chans, channels // 2, 3, 2, act_layer=nn.ReLU, **dd)
            stem2 = ConvNormAct(channels // 2, channels, 3, 2, act_layer=nn.ReLU, **dd)
            stem3 = ConvNormAct(channels, channels, 3, 2, act_layer=nn.ReLU, **dd)
            stages = [Stage(downsample, [stem2])]
            first = Block(channels, channels, FIRST_OPERATOR, first=True, **dd)
            downsample = nn.Sequential(stem3, first)
        else:
            self.stem = nn.Identity()
            stages = [Stage(downsample, [Block(in_chans, channels, FIRST_OPERATOR, first=True, **dd)])]
        depths = [len(stage) for stage in self.arch.operators]
        rates: Any = calculate_drop_path_rates(drop_path_rate, depths, stagewise=True)
        in_chs = channels
        for i, operators in enumerate(self.arch.operators):
            blocks: list[nn.Module] = []
            for j, operator in enumerate(operators):
                stride = 1 if j else strides[i]
                blocks.append(Block(in_chs, widths[i], operator, stride, j == 0, rates[i][j], **dd))
                in_chs = widths[i]
            stages.append(Stage(downsample if i == 0 else nn.Identity(), blocks))
        self.stages = nn.Sequential(*stages)

        levels = feature_levels(self.arch)
        self.stage_ends = list(levels)
        self.feature_info = [
            {'num_chs': widths[max(i - 1, 0)], 'reduction': reduction, 'module': f'stages.{i}'}
            for i, reduction in levels.items()
        ]
        self.num_features = in_chs
        self.norm = nn.Identity()
        self.head = ClassifierHead(in_chs, num_classes, global_pool, drop_rate, **dd)
        self.head_hidden_size = self.head.num_features
        use_onednn(self)

    @torch.jit.ignore
    def init_weights(self, needs_reset: bool = True) -> None:
        """Draws the parameters: the operators' own initialisation (logits of unit variance), torch's default
        elsewhere, of which the paper says nothing.

        Args:
            needs_reset: Draw them anew. A new network has been initialised by its layers already.
        """
        if needs_reset:
            named_apply(_reset_parameters, self)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        return {name for name, _ in self.named_parameters() if name.endswith(('rel_height', 'rel_width'))}

    def embed(self, x: Tensor) -> Tensor:
        self.check_size(x)
        return self.stem(x)

    def finish(self, x: Tensor) -> Tensor:
        return self.norm(x)


def _reset_parameters(module: nn.Module, name: str = '') -> None:
    if hasattr(module, 'reset_parameters'):
        module.reset_parameters()


def feature_levels(arch: Arch) -> dict[int, int]:
    """Index in ``CARNet.stages`` and stride of each feature map: the last one at each resolution."""
    strides = [8 if arch.stem else 1, *arch.strides()]
    last_at = {math.prod(strides[: i + 1]): i for i in range(len(strides))}
    stem = {0: 4} if arch.stem else {}
    return stem | {i: reduction for reduction, i in last_at.items()}


def total_stride(arch: Arch) -> int:
    """Stride of the last map."""
    return list(feature_levels(arch).values())[-1]


def checkpoint_filter_fn(state_dict: dict[str, Any], model: CARNet) -> dict[str, Tensor]:
    """Returns the checkpoint as it is: there is no other layout than this module's own."""
    return state_dict


def cfg(arch: Arch, input_size: tuple[int, int, int]) -> dict[str, Any]:
    """What timm's pretrained cfg of an entry needs besides its preprocessing."""
    first_block = ('stages.0.blocks.0.reduce', 'stages.0.blocks.0.shortcut.conv')
    stride = total_stride(arch)
    return {
        'first_conv': 'stem.conv' if arch.stem else first_block,
        'classifier': 'head.fc',
        'pool_size': tuple(math.ceil(side / stride) for side in input_size[1:]),
        'fixed_input_size': False,
    }


def build(arch: Arch, variant: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Builds a network through timm's factory.

    Args:
        arch: The architecture.
        variant: Registered name, whose cfg is used.
        pretrained: Load the cfg's weights.
        **kwargs: The factory's (``features_only``, ...) and :class:`CARNet`'s arguments.
    """
    return build_model(
        CARNet,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={'out_indices': tuple(range(len(feature_levels(arch)))), 'flatten_sequential': True},
        arch=arch,
        **kwargs,
    )


default_cfgs = generate_default_cfgs(
    {'carnet': {'first_conv': 'stem.conv', 'classifier': 'head.fc', 'pool_size': (7, 7)}}
)


@register_model
def carnet(
    pretrained: bool = False, arch: Arch | dict[str, Any] | str | None = None, **kwargs: Any
) -> nn.Module:
    """Any full-attention net: `arch` is an architecture as a dict, or the path of an entry file."""
    arch = base.load_arch(Arch, arch)
    if not kwargs.get('pretrained_cfg'):  # that of a published network says all this itself
        size = (3, 224, 224) if arch.stem else (3, 32, 32)
        overlay = kwargs.get('pretrained_cfg_overlay') or {}
        kwargs['pretrained_cfg_overlay'] = {'input_size': size, **cfg(arch, size), **overlay}
    return build(arch, 'carnet', pretrained, **kwargs)
