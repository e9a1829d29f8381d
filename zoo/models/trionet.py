"""TrioNet: residual networks whose operators, convolution or one of two kinds of self-attention, were found
by one search (Pi et al., BMVC 2021, arXiv 2111.07547).

Every block of a bottleneck ResNet has its own spatial operator: a convolution, self-attention over the
neighbourhood (Stand-Alone Self-Attention) or over the axes (Axial-DeepLab), with an expansion, a kernel,
channel rates and heads of its own (paper, Sec. 3.1 and 3.2). The paper leaves the frame to the networks it
refers to; here it is the one with which all counts agree that the paper prints for its own and nearly all for
the hand-designed networks: half the channels of a ResNet, and its 7 x 7 stem. Those networks, with the full
channels where they have them, are architectures of this family too.

There is no official code. Images of any size are accepted: local attention does not depend on the size, and
the tables of axial attention are interpolated.
"""

import math
from collections import OrderedDict
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field, model_validator
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
from zoo._timm_compat import generate_default_cfgs, update_model_input_size
from zoo.build import build_model
from zoo.errors import ZooError
from zoo.layers.axial_attention import AxialAttention, resize_table
from zoo.layers.folding import ConvNormAct, fold_norm
from zoo.layers.inplace import add
from zoo.layers.local_attention import LocalAttention
from zoo.layers.pointwise import use_onednn
from zoo.staged import StagedNet

__all__ = ['Arch', 'TrioNet']

STEM_CHANNELS = 64
STRIDE = 32

Size = tuple[int, int]


def _check_odd(kernel_size: int) -> int:
    if kernel_size % 2 == 0:
        raise ValueError('kernel_size must be odd')
    return kernel_size


OddKernel = Annotated[base.Kernel, AfterValidator(_check_odd)]


class ConvArch(base.Part):
    """A convolution; width = expansion x output channels of the block."""

    operator: Literal['conv']
    expansion: base.Ratio
    kernel_size: OddKernel


class LocalArch(base.Part):
    """Attention over kernel_size x kernel_size positions; keys and values have width x rate channels."""

    operator: Literal['local']
    expansion: base.Ratio
    kernel_size: OddKernel
    qk_rate: base.Ratio
    v_rate: base.Ratio
    num_heads: base.Heads


class AxialArch(base.Part):
    """Attention over the column of a position, then over its row; channels as for local attention."""

    operator: Literal['axial']
    expansion: base.Ratio
    qk_rate: base.Ratio
    v_rate: base.Ratio
    num_heads: base.Heads


BlockArch = Annotated[ConvArch | LocalArch | AxialArch, Field(discriminator='operator')]


class Arch(base.Arch):
    """The blocks of each stage, and its output channels where they are not the paper's."""

    family: ClassVar[str] = 'trionet'

    stages: tuple[Annotated[tuple[BlockArch, ...], Field(min_length=1, max_length=64)], ...] = Field(
        min_length=4, max_length=4
    )
    out_channels: tuple[base.Dim, ...] = Field(
        (128, 256, 512, 1024), min_length=4, max_length=4, description='of each stage'
    )

    @model_validator(mode='after')
    def _check_widths(self) -> 'Arch':
        for i, stage in enumerate(self.stages):
            for j, block in enumerate(stage):
                _check_block(f'stages[{i}][{j}]', block, self.out_channels[i])
        return self

    def map_sizes(self, img_size: Size) -> list[Size]:
        """(height, width) of the stem's map and of each stage's: every stride rounds up."""
        return [
            (math.ceil(img_size[0] / stride), math.ceil(img_size[1] / stride)) for stride in (4, 4, 8, 16, 32)
        ]

    def input_sizes(self, img_size: Size) -> list[list[Size]]:
        """(height, width) of what each block of each stage takes; its operator, if attention, works there."""
        sizes = self.map_sizes(img_size)
        return [[sizes[i]] + [sizes[i + 1]] * (len(stage) - 1) for i, stage in enumerate(self.stages)]

    def num_weights(self) -> int:
        """Weights of convolutions and of the classifier."""
        total = 147 * STEM_CHANNELS + 1000 * self.out_channels[-1]
        in_chs = STEM_CHANNELS
        for stage, out_chs in zip(self.stages, self.out_channels, strict=True):
            total += in_chs * out_chs
            for block in stage:
                width, key_dim, value_dim = (int(dim) for dim in block_widths(block, out_chs))
                total += in_chs * width + value_dim * out_chs
                if isinstance(block, ConvArch):
                    total += block.kernel_size**2 * width**2
                else:
                    fed = width + value_dim if isinstance(block, AxialArch) else width
                    total += fed * (2 * key_dim + value_dim)
                in_chs = out_chs
        return total


def block_widths(block: ConvArch | LocalArch | AxialArch, out_chs: int) -> tuple[float, float, float]:
    """Channels of an operator: of its input, of its queries and keys (0 for a convolution), of its output."""
    width = round(block.expansion * out_chs, 6)
    if isinstance(block, ConvArch):
        return width, 0, width
    return width, round(width * block.qk_rate, 6), round(width * block.v_rate, 6)


def _check_block(where: str, block: ConvArch | LocalArch | AxialArch, out_chs: int) -> None:
    width, key_dim, value_dim = block_widths(block, out_chs)
    if width < 1 or width % 1:
        raise ValueError(f'{where}: expansion {block.expansion} of {out_chs} channels is {width:g} channels')
    if isinstance(block, ConvArch):
        return
    for key, rate, dim in (('qk_rate', block.qk_rate, key_dim), ('v_rate', block.v_rate, value_dim)):
        if dim < 1 or dim % block.num_heads:
            raise ValueError(
                f'{where}: {key} {rate} of {width:g} channels is {dim:g} channels, which {block.num_heads} '
                'heads do not divide'
            )
    if isinstance(block, LocalArch) and block.num_heads % 2 and key_dim / block.num_heads % 2:
        raise ValueError(
            f'{where}: local attention needs an even number of heads or of query channels per head, it has '
            f'{block.num_heads} and {key_dim / block.num_heads:g}'
        )


def paper_flops(arch: Arch, img_size: Size, macs: int) -> int:
    """The FLOPs that the paper counts: two a multiply-accumulate, each of them counted as equation 1 has it.

    There the query meets an embedding for each of the k x k offsets of local attention. These consist of a
    row's and a column's half, so that k products with each half do, which is what is executed.

    Args:
        arch: The architecture.
        img_size: Height and width of the image.
        macs: Multiply-accumulates that the network executes at that size.
    """
    sizes = arch.input_sizes(img_size)
    for stage, out_chs, stage_sizes in zip(arch.stages, arch.out_channels, sizes, strict=True):
        for block, (height, width) in zip(stage, stage_sizes, strict=True):
            if isinstance(block, LocalArch):
                key_dim = int(block_widths(block, out_chs)[1])
                macs += (block.kernel_size**2 - block.kernel_size) * key_dim * height * width
    return 2 * macs


def make_operator(
    block: ConvArch | LocalArch | AxialArch,
    out_chs: int,
    stride: int,
    size: Size,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """The spatial operator of a block. Attention works at the size of its input, whatever the stride."""
    dd: dict[str, Any] = {'device': device, 'dtype': dtype}
    width, key_dim, value_dim = (int(dim) for dim in block_widths(block, out_chs))
    if isinstance(block, ConvArch):
        kernel_size = block.kernel_size
        return nn.Conv2d(width, width, kernel_size, stride, kernel_size // 2, bias=False, **dd)
    if isinstance(block, LocalArch):
        return LocalAttention(width, key_dim, value_dim, block.num_heads, block.kernel_size, **dd)
    num_heads = block.num_heads
    axes = OrderedDict(
        height=AxialAttention(width, key_dim, value_dim, num_heads, size[0], 'height', **dd),
        width=AxialAttention(value_dim, key_dim, value_dim, num_heads, size[1], 'width', **dd),
    )
    return nn.Sequential(axes)


class Block(nn.Module):
    """Bottleneck: 1x1 convolution, operator, 1x1 convolution, each with a batch norm.

    Args:
        arch: The block's architecture.
        in_chs: Input channels.
        out_chs: Output channels.
        stride: 2 halves the map: the convolution does, or an average pooling after attention, in which an odd
            size is rounded up.
        size: Native (height, width) of the input.
        project: Project the shortcut, by a 1x1 convolution with that stride and a batch norm.
        drop_path: Rate of stochastic depth.
    """

    def __init__(
        self,
        arch: ConvArch | LocalArch | AxialArch,
        in_chs: int,
        out_chs: int,
        stride: int,
        size: Size,
        project: bool,
        drop_path: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        super().__init__()
        width, _, value_dim = (int(dim) for dim in block_widths(arch, out_chs))
        pooled = stride > 1 and not isinstance(arch, ConvArch)
        self.conv1 = nn.Conv2d(in_chs, width, 1, bias=False, **dd)
        self.bn1 = BatchNormAct2d(width, **dd)
        self.operator = make_operator(arch, out_chs, stride, size, **dd)
        self.pool = nn.AvgPool2d(2, 2, ceil_mode=True) if pooled else nn.Identity()
        self.bn2 = BatchNormAct2d(value_dim, **dd)
        self.conv3 = nn.Conv2d(value_dim, out_chs, 1, bias=False, **dd)
        self.bn3 = nn.BatchNorm2d(out_chs, **dd)
        self.shortcut = (
            ConvNormAct(in_chs, out_chs, 1, stride, apply_act=False, **dd) if project else nn.Identity()
        )
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()
        self.act = nn.ReLU(inplace=True)

    def fuse(self) -> 'Block':
        """Folds the norms, but for that after local attention, whose weights add up to less at borders."""
        self.conv1, self.bn1 = fold_norm(self.conv1, self.bn1)
        if isinstance(self.operator, nn.Conv2d):
            self.operator, self.bn2 = fold_norm(self.operator, self.bn2)
        elif isinstance(self.operator, nn.Sequential) and isinstance(self.bn2, BatchNormAct2d):
            self.operator.width.v, self.bn2 = fold_norm(self.operator.width.v, self.bn2)
        self.conv3, self.bn3 = fold_norm(self.conv3, self.bn3)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Tensor[B, in_chs, H, W] -> Tensor[B, out_chs, H / stride, W / stride], sizes rounded up."""
        shortcut = self.shortcut(x)
        x = self.pool(self.operator(self.bn1(self.conv1(x))))
        x = self.bn3(self.conv3(self.bn2(x)))
        return self.act(add(shortcut, self.drop_path(x)))


class Stage(nn.Module):
    """Blocks, of which the first has the stride and projects its shortcut.

    Args:
        blocks: Their architectures.
        in_chs: Input channels.
        out_chs: Output channels.
        stride: Of the first block.
        sizes: Native (height, width) of each block's input.
        drop_path: Rate of stochastic depth of each block.
    """

    def __init__(
        self,
        blocks: tuple[BlockArch, ...],
        in_chs: int,
        out_chs: int,
        stride: int,
        sizes: list[Size],
        drop_path: list[float],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        super().__init__()
        self.grad_checkpointing = False
        first = Block(blocks[0], in_chs, out_chs, stride, sizes[0], True, drop_path[0], **dd)
        self.blocks = nn.Sequential(
            first,
            *[
                Block(arch, out_chs, out_chs, 1, size, False, rate, **dd)
                for arch, size, rate in zip(blocks[1:], sizes[1:], drop_path[1:], strict=True)
            ],
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return checkpoint_seq(self.blocks, x)
        return self.blocks(x)


class TrioNet(StagedNet):
    """The network of an :class:`Arch`, for images of any size from its stride on.

    Args:
        arch: The architecture.
        img_size: Native size: axial attention's tables are made for its maps, and nothing else.
        in_chans: Channels of the image.
        num_classes: Classes; 0 for no classifier.
        global_pool: Any pooling of timm's ``ClassifierHead``; ``''`` for none.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth of the last block, rising linearly from 0 at the first.

    Raises:
        ZooError: ``img_size`` is below the stride.
    """

    def __init__(
        self,
        arch: Arch | dict[str, Any],
        img_size: int | Size = 224,
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
        stages, out_chs = self.arch.stages, self.arch.out_channels
        self.img_size = check_img_size(img_size)
        self.in_chans = in_chans
        self.num_classes = num_classes
        self.stem_name, self.final_name, self.final_is_norm = 'stem', 'norm', True
        self.stage_ends = list(range(len(stages)))
        self.stride = STRIDE

        in_chs = (STEM_CHANNELS, *out_chs)
        sizes = self.arch.input_sizes(self.img_size)
        rates: Any = calculate_drop_path_rates(
            drop_path_rate, [len(stage) for stage in stages], stagewise=True
        )
        self.stem = ConvNormAct(in_chans, STEM_CHANNELS, 7, stride=2, **dd)
        self.pool = nn.MaxPool2d(3, 2, padding=1)
        self.stages = nn.Sequential(
            *[
                Stage(stage, in_chs[i], out_chs[i], 2 if i else 1, sizes[i], rates[i], **dd)
                for i, stage in enumerate(stages)
            ]
        )
        self.feature_info = [
            {'num_chs': out_chs[i], 'reduction': 4 * 2**i, 'module': f'stages.{i}'} for i in self.stage_ends
        ]
        self.num_features = out_chs[-1]
        self.norm = nn.Identity()
        self.head = ClassifierHead(self.num_features, num_classes, global_pool, drop_rate, **dd)
        self.head_hidden_size = self.head.num_features
        use_onednn(self)
        self.init_weights(needs_reset=False)

    @torch.jit.ignore
    def init_weights(self, needs_reset: bool = True) -> None:
        """Draws all parameters.

        The gain of the last batch norm of a block is zero (paper, App. A). The rest is not in the paper:
        convolutions come from He's normal distribution by fan-out, as in ResNet, attention layers draw
        as they say, the classifier has the default of torch.

        Args:
            needs_reset: Also reset what has its default initialisation already when a model is newly made.
        """
        named_apply(partial(_init_weights, needs_reset=needs_reset), self)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """The embeddings of relative positions."""
        tables = ('rel_pos', 'rel_height', 'rel_width')
        return {name for name, _ in self.named_parameters() if name.endswith(tables)}

    @torch.jit.ignore
    def set_input_size(self, img_size: int | Size | None = None) -> None:
        """Resizes axial attention's tables to another native size; inputs of any size work without it."""
        self.img_size = self.img_size if img_size is None else check_img_size(img_size)
        sizes = self.arch.input_sizes(self.img_size)
        for i, stage in enumerate(self.stages):
            for (height, width), block in zip(sizes[i], stage.blocks, strict=True):
                if isinstance(block.operator, nn.Sequential):
                    block.operator.height.set_length(height)
                    block.operator.width.set_length(width)
        update_model_input_size(self, self.img_size)

    def embed(self, x: Tensor) -> Tensor:
        self.check_size(x)
        return self.pool(self.stem(x))

    def finish(self, x: Tensor) -> Tensor:
        return self.norm(x)


def check_img_size(img_size: int | Size) -> Size:
    """(height, width); ZooError if the network cannot take that."""
    height, width = to_2tuple(img_size)
    if min(height, width) < STRIDE:
        raise ZooError(f'img_size is {height}x{width}, at least {STRIDE}x{STRIDE} is needed.')
    return height, width


def _init_weights(module: nn.Module, name: str = '', needs_reset: bool = True) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')
    elif isinstance(module, (AxialAttention, LocalAttention)):  # after its convolutions
        module.reset_parameters()
    elif isinstance(module, Block):
        nn.init.zeros_(module.bn3.weight)
    elif needs_reset and hasattr(module, 'reset_parameters'):
        module.reset_parameters()


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Resizes the tables of axial attention to the model's; there is no layout but the native one."""
    out = dict(state_dict)
    for name, module in model.named_modules():
        if not isinstance(module, AxialAttention):
            continue
        table = state_dict.get(f'{name}.rel_pos')
        if table is not None and table.shape != module.rel_pos.shape and table.ndim == 2:
            out[f'{name}.rel_pos'] = resize_table(table, module.rel_pos.shape[0] // 2 + 1)
    return out


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
        **kwargs: The factory's (``features_only``, ...) and :class:`TrioNet`'s arguments.
    """
    return build_model(
        TrioNet,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={'out_indices': tuple(range(len(arch.stages))), 'flatten_sequential': True},
        arch=arch,
        **kwargs,
    )


default_cfgs = generate_default_cfgs(
    {'trionet': {'first_conv': 'stem.conv', 'classifier': 'head.fc', 'pool_size': (7, 7)}}
)


@register_model
def trionet(
    pretrained: bool = False, arch: Arch | dict[str, Any] | str | None = None, **kwargs: Any
) -> nn.Module:
    """Any TrioNet: `arch` is an architecture as a dict, or the path of an entry file."""
    return build(base.load_arch(Arch, arch), 'trionet', pretrained, **kwargs)
