"""The space of UniNet (Liu et al., arXiv 2110.04035v1, Sec. 3.4): operator, down-sampling and size of five
stages.

Per stage an operator (Sec. 3.2), a down-sampling module (Sec. 3.3), an expansion ratio, a width and a number
of blocks: (5 * 3 * 5 * 5 * 5) ** 5 = 2.3e16 architectures. The paper gives widths as multiples {0.5, 0.75, 1,
1.25, 1.5} and numbers of blocks as differences {-2, ..., 2} of "a given architecture" that it does not name.
It is read here as widths 48, 80, 128, 128, 256 and 4, 4, 4, 4, 6 blocks: with these the published UniNet-B0
(Table 3: 2, 4, 4, 4, 8 blocks) lies in the space. Widths are rounded to multiples of 8. Choices hold the
resulting numbers. Stem, strides, head and the first stage, which is not searched, are those of B0 (see
:mod:`zoo.models.uninet`); ``stage1`` is the stage after that.

Attention in windows no smaller than the map is attention over the map, and decoded as such.

The paper evaluates candidates by short trainings of their own (Sec. 3.5): there is no supernet.

A user declares another space stage by stage, and the frame where it differs::

    family: uninet
    stages:
      - {operator: [dwconv, conv], downsample: [l], expansion: [2, 4], channels: [16, 24], repeats: [1, 2]}
      - {operator: [sa, mlp], downsample: [l, lg, g], expansion: [2], channels: [32], repeats: [1, 2, 3]}
    strides: [1, 2, 2]
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import mul
from typing import Any, Literal, get_args

import numpy as np
from pydantic import Field, ValidationError, model_validator
from timm.layers import make_divisible

from search.cost import Factor, LayerCost, tabulate
from search.space import Choice, Genotype, Space
from search.spaces.family_space import FamilySpace, Options, read_declaration
from zoo.arch import Depth, Dim, Part, Ratio
from zoo.entry import describe_faults
from zoo.errors import ZooError
from zoo.models.uninet import WINDOW_SIZE, Arch, StageArch, check_token_mixing, token_hidden_dim

__all__ = ['Declaration', 'load']

Operator = Literal['sa', 'lsa', 'conv', 'dwconv', 'mlp']
Downsample = Literal['l', 'lg', 'g']
HEAVIEST_FIRST = 'conv', 'sa', 'lsa', 'mlp', 'dwconv', 'lg', 'g', 'l'
MIXING_FIRST = 'mlp', *HEAVIEST_FIRST
"""The weights of token mixing grow with the image."""
WIDTHS, DEPTHS = (48, 80, 128, 128, 256), (4, 4, 4, 4, 6)
"""Of the architecture that the paper's multiples and differences refer to, as it is read here."""
STAGE_CHOICES = 'downsample', 'channels', 'operator', 'expansion', 'repeats'
FRAME = 'strides', 'stem_channels', 'stem_stride', 'head_channels'
Size = tuple[int, int]
"""(height, width) of a map."""


class StageOptions(Part):
    """What can be chosen in a stage."""

    operator: Options[Operator] = get_args(Operator)
    downsample: Options[Downsample] = get_args(Downsample)
    expansion: Options[Ratio] = (2.0, 3.0, 4.0, 5.0, 6.0)
    channels: Options[Dim]
    repeats: Options[Depth]


PAPER_STAGES = tuple(
    StageOptions(
        channels=tuple(make_divisible(width * factor, 8) for factor in (0.5, 0.75, 1, 1.25, 1.5)),
        repeats=tuple(range(depth - 2, depth + 3)),
    )
    for width, depth in zip(WIDTHS, DEPTHS, strict=True)
)


class Declaration(Part):
    """A space of this family; without stages that of the paper."""

    family: Literal['uninet'] = 'uninet'
    stages: tuple[StageOptions, ...] = Field(PAPER_STAGES, min_length=1, max_length=11)
    first: StageArch = StageArch(operator='dwconv', expansion=1.0, channels=24, repeats=1)
    strides: tuple[Literal[1, 2], ...] = Field((1, 2, 2, 2, 1, 2), description='of the first and all stages')
    stem_channels: Dim = 32
    stem_stride: Literal[1, 2] = 2
    head_channels: Dim = 1280

    @model_validator(mode='after')
    def _check(self) -> 'Declaration':
        if len(self.strides) != len(self.stages) + 1:
            raise ValueError(
                f'strides has {len(self.strides)} values, {len(self.stages)} stages and the one before them '
                f'need {len(self.stages) + 1}'
            )
        return self


def load(data: Mapping[str, Any], input_size: tuple[int, int, int]) -> FamilySpace:
    """Reads a :class:`Declaration` (see :func:`search.spaces.load_space`)."""
    declaration = read_declaration(Declaration, data)
    stride = declaration.stem_stride * math.prod(declaration.strides)
    if min(input_size) < 1 or min(input_size[1:]) < stride:
        raise ZooError(
            f'space: found images of {input_size}, strides {declaration.strides} after a stem of stride '
            f'{declaration.stem_stride} need (channels, height, width) of at least (1, {stride}, {stride}).'
        )
    maps = map_sizes(declaration, input_size)
    family_space = FamilySpace(
        'uninet',
        build_space(declaration),
        input_size,
        lambda arch: (),
        refuse_supernet,
        partial(decode, declaration, maps),
        partial(cost_factors, declaration, maps, input_size[0]),
        timed_modules(declaration),
    )
    check(declaration, maps, family_space)
    return family_space


def build_space(declaration: Declaration) -> Space:
    """The choices stage by stage, each stage's way in first."""
    return Space(
        'uninet',
        tuple(
            Choice(f'stage{i}.{name}', getattr(stage, name))
            for i, stage in enumerate(declaration.stages, 1)
            for name in STAGE_CHOICES
        ),
    )


def refuse_supernet(space: Space) -> list[Genotype]:
    """Candidates share no tensors."""
    raise ZooError(
        'space: uninet has no supernet, since its candidates share no tensors: they are scored by training '
        'each of them (proxy training).'
    )


def check(declaration: Declaration, maps: Sequence[Size], family_space: FamilySpace) -> None:
    """Refuses a space whose smallest or largest network is not valid."""
    _, *size = family_space.input_size
    try:
        for number, order in ((min, HEAVIEST_FIRST), (max, HEAVIEST_FIRST), (max, MIXING_FIRST)):
            values = {
                choice.name: min(choice.values, key=order.index)
                if isinstance(choice.values[0], str)
                else number(choice.values)
                for choice in family_space.space.choices
            }
            check_token_mixing(decode(declaration, maps, values), (size[0], size[1]))
    except ValidationError as error:
        raise ZooError('\n'.join(describe_faults(error, 'space: a network of it'))) from None


def map_sizes(declaration: Declaration, input_size: tuple[int, int, int]) -> list[Size]:
    """Of the stem's map and of each stage's, the first stage included; every stride rounds up."""
    reductions = itertools.accumulate((declaration.stem_stride, *declaration.strides), mul)
    return [(math.ceil(input_size[1] / r), math.ceil(input_size[2] / r)) for r in reductions]


def decode(declaration: Declaration, maps: Sequence[Size], values: Mapping[str, Any]) -> Arch:
    """The architecture that some values mean, with windows only where the map is larger."""
    stages = [declaration.first]
    for i in range(1, len(declaration.stages) + 1):
        stage = {name: values[f'stage{i}.{name}'] for name in STAGE_CHOICES}
        if stage['operator'] == 'lsa' and max(maps[i + 1]) <= WINDOW_SIZE:
            stage['operator'] = 'sa'
        stages.append(StageArch(**stage))
    frame = {name: getattr(declaration, name) for name in FRAME}
    return Arch(stages=tuple(stages), **frame)


def timed_modules(declaration: Declaration) -> dict[str, tuple[str, ...]]:
    """The modules of :class:`zoo.models.uninet.UniNet` whose latency is measured, and the choices it depends
    on."""
    modules: dict[str, tuple[str, ...]] = {}
    before: tuple[str, ...] = ()
    for i in range(1, len(declaration.stages) + 1):
        names = {name: f'stage{i}.{name}' for name in STAGE_CHOICES}
        modules[f'stages.{i}.downsample'] = *before, names['channels'], names['downsample']
        sizes = names['operator'], names['expansion'], names['channels'], names['repeats']
        modules[f'stages.{i}.blocks'] = sizes
        before = (names['channels'],)
    modules['conv_head'] = before
    return modules


def cost_factors(
    declaration: Declaration,
    maps: Sequence[Size],
    in_chans: int,
    space: Space,
    num_classes: int,
) -> list[Factor]:
    """Params and MACs of :class:`zoo.models.uninet.UniNet`."""
    first, width = declaration.first, declaration.stem_channels
    stem = conv_norm_cost(maps[0], 9 * in_chans, width)
    inputs = [width] + [first.channels] * (first.repeats - 1)
    blocks = [block_cost(maps[1], first.operator, first.expansion, n, first.channels) for n in inputs]
    params, macs = np.array([stem, *blocks], np.int64).sum(0)
    factors = [Factor((), params, macs)]
    before: tuple[str, ...] = ()
    for i, (large, small) in enumerate(itertools.pairwise(maps[1:]), 1):
        names = {name: f'stage{i}.{name}' for name in STAGE_CHOICES}
        way_in: Callable[..., LayerCost] = partial(downsample_cost, large, small)
        if not before:
            way_in = partial(way_in, first.channels)
        factors.append(tabulate(space, (*before, names['channels'], names['downsample']), way_in))
        sizes = names['operator'], names['expansion'], names['channels'], names['repeats']
        factors.append(tabulate(space, sizes, partial(blocks_cost, small)))
        before = (names['channels'],)
    factors.append(
        tabulate(space, before, partial(head_cost, maps[-1], declaration.head_channels, num_classes))
    )
    return factors


def conv_norm_cost(size: Size, kernel: int, width: int) -> LayerCost:
    """Convolution without bias, of a kernel with so many weights per output channel, and batch norm."""
    return kernel * width + 2 * width, math.prod(size) * kernel * width


def downsample_cost(large: Size, small: Size, in_dim: int, dim: int, kind: str) -> LayerCost:
    """Down-sampling module from one map to another; attention's keys are all of the large map."""
    keys, queries = math.prod(large), math.prod(small)
    if kind == 'g':  # a convolution along the width, one along the height, norm, projection
        params = 2 * 4 * in_dim + 2 * in_dim + (in_dim + 1) * dim
        macs = 3 * in_dim * (large[0] * small[1] + queries) + queries * in_dim * dim
    else:  # convolution, norm, projection, and the shortcut's projection
        params = 10 * in_dim + 2 * in_dim + 2 * (in_dim + 1) * dim
        macs = queries * (9 * in_dim + 2 * in_dim * dim)
    if kind != 'l':  # norms of queries and of keys and values, keys and values, attention, projection
        params += 2 * dim + 2 * in_dim + (in_dim + 1) * 2 * dim + (dim + 1) * dim
        macs += keys * 2 * in_dim * dim + queries * dim * dim + 2 * queries * keys * dim
    return params, macs


def blocks_cost(size: Size, operator: str, expansion: float, dim: int, repeats: int) -> LayerCost:
    """All blocks of a stage behind its down-sampling module."""
    params, macs = block_cost(size, operator, expansion, dim, dim)
    return repeats * params, repeats * macs


def block_cost(size: Size, operator: str, expansion: float, in_dim: int, dim: int) -> LayerCost:
    """One block; only those of convolution can change the width."""
    hidden = int(in_dim * expansion)
    if operator in ('conv', 'dwconv'):
        return conv_block_cost(size, operator == 'dwconv', in_dim, hidden, dim)
    tokens = math.prod(size)
    params = 3 * 2 * dim + (dim + 1) * hidden + (hidden + 1) * dim
    macs = tokens * 2 * dim * hidden
    if operator == 'mlp':
        mixing = token_hidden_dim(dim)
        return params + (tokens + 1) * mixing + (mixing + 1) * tokens, macs + dim * 2 * tokens * mixing
    window = [min(WINDOW_SIZE, side) if operator == 'lsa' else side for side in size]
    padded = math.prod(math.ceil(side / w) * w for side, w in zip(size, window, strict=True))
    params += (9 + 1) * dim + (dim + 1) * 3 * dim + (dim + 1) * dim
    return params, macs + tokens * (9 * dim + 4 * dim**2) + 2 * padded * math.prod(window) * dim


def conv_block_cost(size: Size, depthwise: bool, in_dim: int, hidden: int, dim: int) -> LayerCost:
    """Expansion if there is one, 3x3 convolution, squeeze-and-excitation, projection, shortcut."""
    squeezed = make_divisible(hidden // 4, 8)
    kernel = 9 if depthwise else 9 * hidden
    params = (kernel + 2) * hidden + (2 * squeezed + 1) * hidden + squeezed + (hidden + 1) * dim + 2 * dim
    per_position = kernel * hidden + hidden * dim
    if hidden != in_dim:
        params += 2 * in_dim + in_dim * hidden + 2 * hidden
        per_position += in_dim * hidden
    if in_dim != dim:
        params += (in_dim + 1) * dim
        per_position += in_dim * dim
    return params, math.prod(size) * per_position + 2 * hidden * squeezed


def head_cost(size: Size, head_dim: int, num_classes: int, dim: int) -> LayerCost:
    """Last convolution with its norm, and classifier."""
    params, macs = conv_norm_cost(size, dim, head_dim)
    return params + (head_dim + 1) * num_classes, macs + head_dim * num_classes
