"""What a network consists of, as a picture shows it: stages, their blocks, and the parts of each block.

One function a family says which parts its blocks have. Nothing is built.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from zoo.arch import Arch
from zoo.models import carnet, glit, s3, trionet, uninet

__all__ = ['OPERATORS', 'Block', 'Outline', 'Part', 'Stage', 'make_outline']

Size = tuple[int, int]

OPERATORS = {
    'projection': '1x1 convolution',
    'conv': 'convolution',
    'dwconv': 'depthwise convolution',
    'conv1d': 'local heads: gated 1-D convolution',
    'local': 'local attention (neighbourhood)',
    'window': 'local attention (windows)',
    'axial': 'axial attention',
    'global': 'global attention',
    'non_local': 'non-local attention',
    'token_mlp': 'token-mixing MLP',
    'mlp': 'MLP',
}
"""What parts are, by the names that they are drawn by, in the order of a legend."""


@dataclass(frozen=True)
class Part:
    """A layer of a block.

    Attributes:
        operator: One of :data:`OPERATORS`.
        size: Its height in a picture, see :attr:`Outline.sizes`; 0 for a thin line.
        text: Kernel or window (k, w), heads (h) and the like, a line each.
        share: Of the block's channels. Parts that take a share each stand side by side.
    """

    operator: str
    size: float
    text: str = ''
    share: float = 1.0


@dataclass(frozen=True)
class Block:
    """Its number within the stage, and its parts from input to output."""

    label: str
    parts: tuple[Part, ...]

    def rows(self) -> list[list[Part]]:
        """The parts in lines; those that share the channels stand side by side."""
        found: list[list[Part]] = []
        for part in self.parts:
            if part.share < 1 and found and found[-1][-1].share < 1:
                found[-1].append(part)
            else:
                found.append([part])
        return found


@dataclass(frozen=True)
class Stage:
    """Blocks at one resolution.

    Attributes:
        label: Its name.
        details: Size of its maps, stride with respect to the image, channels.
        before: What stands before its blocks: a stem, a down-sampling module.
        blocks: In order.
    """

    label: str
    details: str
    before: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Outline:
    """A network; ``sizes`` says what the height of its parts stands for."""

    stages: tuple[Stage, ...]
    sizes: str

    @property
    def blocks(self) -> list[Block]:
        return [block for stage in self.stages for block in stage.blocks]

    @property
    def parts(self) -> list[Part]:
        return [part for block in self.blocks for part in block.parts]


def make_outline(arch: Arch, img_size: Size) -> Outline:
    """The outline of an architecture of any family.

    Args:
        arch: The architecture.
        img_size: Height and width of the images.
    """
    sizes, outline = FAMILIES[arch.family]
    return Outline(tuple(outline(arch, img_size)), sizes)


def outline_carnet(arch: carnet.Arch, img_size: Size) -> list[Stage]:
    """Bottleneck blocks around an attention that ends in a projection; the first block is fixed."""
    stem = 8 if arch.stem else 1
    strides = list(accumulate([stem, *arch.strides()], lambda a, b: a * b))
    widths = [arch.channels, *arch.widths()]
    operators = [(carnet.FIRST_OPERATOR,), *arch.operators]
    stages = []
    for i, names in enumerate(operators):
        before = '3 convolutions 3x3 /2' if arch.stem and not i else ''
        if i and strides[i] > strides[i - 1]:
            before = 'pooling /2, in block 1'
        blocks = [between_projections(carnet_attention(name), 2) for name in names]
        label = f'stage {i}' if i else 'fixed block'
        stages.append(make_stage(label, img_size, strides[i], widths[i], before, blocks))
    return stages


def carnet_attention(operator: str) -> Part:
    """One of Table II's."""
    if operator == 'non_local':
        return Part('non_local', 9, 'whole\nmap')
    kernel_size, num_heads = (int(text[1:]) for text in operator.split('_')[1:])
    return Part('local', kernel_size, f'k{kernel_size}\nh{num_heads}')


def outline_glit(arch: glit.Arch, img_size: Size) -> list[Stage]:
    """Blocks of one stage: global beside local heads, then an MLP."""
    blocks = []
    for block in arch.blocks:
        parts = []
        if block.qkv_dim is not None:
            share = block.global_heads / arch.num_heads
            width = block.qkv_dim / block.split(arch.embed_dim)[0]
            text = f'h{block.global_heads}\nd{block.qkv_dim}'
            parts.append(Part('global', width, text, share))
        if block.expansion is not None:
            text = f'h{block.local_heads}\nk{block.kernel_size}\nx{block.expansion:g}'
            parts.append(Part('conv1d', block.expansion, text, block.local_heads / arch.num_heads))
        blocks.append([*parts, Part('mlp', block.mlp_ratio, f'x{block.mlp_ratio:g}')])
    size = arch.patch_size
    return [make_stage('blocks', img_size, size, arch.embed_dim, f'patches {size}x{size}', blocks)]


def outline_s3(arch: s3.Arch, img_size: Size) -> list[Stage]:
    """Attention in windows, then an MLP."""
    stages = []
    for i, stage in enumerate(arch.stages):
        blocks = [
            [
                Part(
                    'window',
                    block.num_heads * s3.HEAD_DIM / stage.embed_dim,
                    f'w{block.window_size}\nh{block.num_heads}',
                ),
                Part('mlp', block.mlp_ratio, f'x{block.mlp_ratio:g}'),
            ]
            for block in stage.blocks
        ]
        before = 'patch merging 2x2' if i else f'patches {s3.PATCH_SIZE}x{s3.PATCH_SIZE}'
        stride = s3.PATCH_SIZE * 2**i
        stages.append(make_stage(f'stage {i + 1}', img_size, stride, stage.embed_dim, before, blocks))
    return stages


def outline_trionet(arch: trionet.Arch, img_size: Size) -> list[Stage]:
    """Bottleneck blocks around one operator."""
    stages = []
    for i, (stage, width) in enumerate(zip(arch.stages, arch.out_channels, strict=True)):
        blocks = []
        for block in stage:
            kernel = '' if isinstance(block, trionet.AxialArch) else f'k{block.kernel_size}\n'
            heads = '' if isinstance(block, trionet.ConvArch) else f'h{block.num_heads}\n'
            text = f'{kernel}{heads}x{block.expansion:.4g}'
            blocks.append(between_projections(Part(block.operator, block.expansion, text), 1))
        before = 'stride 2, in block 1' if i else '7x7 /2, pooling /2'
        stages.append(make_stage(f'stage {i + 1}', img_size, 4 * 2**i, width, before, blocks))
    return stages


UNINET_BEFORE = {'l': 'L-DSM', 'lg': 'LG-DSM', 'g': 'G-DSM'}
UNINET_MIXERS = {'sa': 'global', 'lsa': 'window', 'mlp': 'token_mlp'}


def outline_uninet(arch: uninet.Arch, img_size: Size) -> list[Stage]:
    """Inverted residuals, or a token mixer and an MLP; a down-sampling module before each stage but one."""
    stages = []
    reductions = arch.reductions()
    for i, stage in enumerate(arch.stages):
        width, ratio = stage.channels, f'x{stage.expansion:g}'
        before = f'convolution 3x3 /{arch.stem_stride}'
        if stage.downsample is not None:
            stride = '' if arch.strides[i] == 1 else f' /{arch.strides[i]}'
            before = f'{UNINET_BEFORE[stage.downsample]}{stride}'
        blocks = []
        for in_chs in arch.stage_inputs(i):
            if stage.operator in ('conv', 'dwconv'):
                operator = Part(stage.operator, stage.expansion, f'k3\n{ratio}')
                expands = int(in_chs * stage.expansion) != in_chs
                blocks.append(between_projections(operator, 1, expands))
                continue
            heads = f'h{uninet.num_heads(width)}'
            text = {'sa': heads, 'lsa': f'w{uninet.WINDOW_SIZE}\n{heads}', 'mlp': 'tokens'}[stage.operator]
            mixer = Part(UNINET_MIXERS[stage.operator], 1.0, text)
            blocks.append([mixer, Part('mlp', stage.expansion, ratio)])
        stages.append(make_stage(f'stage {i + 1}', img_size, reductions[i], width, before, blocks))
    return stages


def between_projections(operator: Part, after: int, expands: bool = True) -> list[Part]:
    """An operator with its 1x1 convolutions: one in front if it expands, so many behind."""
    thin = Part('projection', 0)
    return [*([thin] if expands else []), operator, *[thin] * after]


def make_stage(
    label: str, img_size: Size, stride: int, channels: int, before: str, blocks: list[list[Part]]
) -> Stage:
    """A stage whose maps are smaller than the image by a stride, rounded up."""
    height, width = (math.ceil(side / stride) for side in img_size)
    details = f'{height}x{width}, stride {stride}\n{channels} channels'
    numbered = tuple(Block(str(i), tuple(parts)) for i, parts in enumerate(blocks, 1))
    return Stage(label, details, before, numbered)


FAMILIES: dict[str, tuple[str, Callable[[Any, Size], list[Stage]]]] = {
    'carnet': ('kernel (9 for the whole map)', outline_carnet),
    'glit': ('width of the part / width of its channels', outline_glit),
    's3': ('width of the part / embedding', outline_s3),
    'trionet': ('expansion', outline_trionet),
    'uninet': ('width of the part / channels', outline_uninet),
}
"""What the height of a part is, and the outline, by family."""
