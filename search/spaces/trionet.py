"""The space of TrioNet (arXiv 2111.07547, Sec. 3.1, 3.2 and Table 1): an operator for each block of a ResNet.

Per stage a depth, per block one of three operators, and what that operator needs: 6 convolutions, 48 local
and 16 axial attentions in the paper, whose space has 7.181e25 architectures. A user declares another one::

    family: trionet
    out_channels: [32, 64, 128, 256]
    stages:
      - {depth: [1, 2], local: null}
      - depth: [1, 2]
        conv: {expansion: [0.25, 0.5], kernel_size: [3, 5]}
        axial: {expansion: [0.5], qk_rate: [0.5, 1.0], v_rate: [1.0], num_heads: [2, 4]}
      - {depth: [1]}
      - {depth: [1]}

where an operator that is null is not to be chosen, and one that is absent has the paper's options.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from pydantic import Field, model_validator

from search.cost import Factor, LayerCost, tabulate
from search.sharing import Crop, Groups, Layout, Lead, Rule
from search.space import Choice, Genotype, Space
from search.spaces.family_space import FamilySpace, Options, check_covering, read_declaration
from zoo.arch import Arch as BaseArch
from zoo.arch import Depth, Dim, Heads, Kernel, Part, Ratio
from zoo.errors import ZooError
from zoo.models.trionet import STEM_CHANNELS, STRIDE, Arch, BlockArch

__all__ = ['Declaration', 'load']

Size = tuple[int, int]


class ConvOptions(Part):
    """What can be chosen of a convolution."""

    expansion: Options[Ratio] = (0.125, 0.25)
    kernel_size: Options[Kernel] = (3, 5, 7)


class AxialOptions(Part):
    """What can be chosen of axial attention."""

    expansion: Options[Ratio] = (0.25, 0.5)
    qk_rate: Options[Ratio] = (0.5, 1.0)
    v_rate: Options[Ratio] = (0.5, 1.0)
    num_heads: Options[Heads] = (4, 8)


class LocalOptions(AxialOptions):
    """What can be chosen of local attention."""

    kernel_size: Options[Kernel] = (3, 5, 7)


class StageOptions(Part):
    """What can be chosen in a stage: its depth, and for each block an operator with its options."""

    depth: Options[Depth]
    conv: ConvOptions | None = ConvOptions()
    local: LocalOptions | None = LocalOptions()
    axial: AxialOptions | None = AxialOptions()

    @model_validator(mode='after')
    def _check_operators(self) -> 'StageOptions':
        if not self.operators():
            raise ValueError('conv, local and axial are null, one operator at least is needed')
        return self

    def operators(self) -> dict[str, Part]:
        """The options of each operator that there is."""
        return {name: options for name in OPERATORS if (options := getattr(self, name)) is not None}


OPERATORS = {
    'conv': ('expansion', 'kernel_size'),
    'local': ('expansion', 'kernel_size', 'qk_rate', 'v_rate', 'num_heads'),
    'axial': ('expansion', 'qk_rate', 'v_rate', 'num_heads'),
}
"""What there is to choose of each operator."""
PAPER_STAGES = tuple(StageOptions(depth=depth) for depth in ((1, 2), (2, 3), (3, 4, 5, 6), (1, 2, 3)))


class Declaration(Part):
    """A space of this family; the defaults are the paper's.

    Attributes:
        multi_head_sharing: Share channels of attention head by head (Algorithm 1), or else leading ones.
    """

    family: Literal['trionet'] = 'trionet'
    out_channels: tuple[Dim, Dim, Dim, Dim] = (128, 256, 512, 1024)
    stages: tuple[StageOptions, ...] = Field(PAPER_STAGES, min_length=4, max_length=4)
    multi_head_sharing: bool = True


def load(data: Mapping[str, Any], input_size: tuple[int, int, int]) -> FamilySpace:
    """Reads a :class:`Declaration` (see :func:`search.spaces.load_space`)."""
    declaration = read_declaration(Declaration, data)
    if min(input_size) < 1 or min(input_size[1:]) < STRIDE:
        raise ZooError(
            f'space: found images of {input_size}, (channels, height, width) of at least '
            f'(1, {STRIDE}, {STRIDE}) are needed.'
        )
    _check_head_dims(declaration)
    channels = declaration.out_channels
    family_space = FamilySpace(
        'trionet',
        build_space(declaration),
        input_size,
        partial(sharing_rules, declaration.multi_head_sharing),
        covering,
        partial(decode, channels),
        partial(cost_factors, channels, input_size),
        timed_modules(declaration),
    )
    check_covering(family_space)
    return family_space


def _check_head_dims(declaration: Declaration) -> None:
    """Row and column embeddings take half of a head each, which sub-networks share: no head can be odd."""
    for i, (stage, channels) in enumerate(zip(declaration.stages, declaration.out_channels, strict=True)):
        options = stage.local
        if options is None:
            continue
        key_dim = channels * min(options.expansion) * min(options.qk_rate)
        if key_dim % (2 * max(options.num_heads)):
            raise ZooError(
                f'space: $.stages[{i}].local: found as few as {key_dim:g} query channels for '
                f'{max(options.num_heads)} heads, an even number for each head is needed.'
            )


def build_space(declaration: Declaration) -> Space:
    """The choices, in the order in which images pass them."""
    choices = []
    for i, stage in enumerate(declaration.stages, 1):
        choices.append(Choice(f'stage{i}.depth', stage.depth))
        operators = stage.operators()
        for j in range(1, max(stage.depth) + 1):
            block = f'stage{i}.block{j}'
            deep_enough = tuple(depth for depth in stage.depth if depth >= j)
            choices.append(Choice(f'{block}.operator', tuple(operators), f'stage{i}.depth', deep_enough))
            choices += [
                Choice(f'{block}.{name}.{key}', getattr(options, key), f'{block}.operator', (name,))
                for name, options in operators.items()
                for key in OPERATORS[name]
            ]
    return Space('trionet', tuple(choices))


def decode(out_channels: Sequence[int], values: Mapping[str, Any]) -> Arch:
    """The architecture that some values mean."""
    stages = [
        [decode_block(f'stage{i}.block{j}', values) for j in range(1, values[f'stage{i}.depth'] + 1)]
        for i in range(1, 5)
    ]
    return Arch.model_validate({'stages': tuple(map(tuple, stages)), 'out_channels': tuple(out_channels)})


def decode_block(block: str, values: Mapping[str, Any]) -> dict[str, Any]:
    operator = values[f'{block}.operator']
    return {'operator': operator} | {key: values[f'{block}.{operator}.{key}'] for key in OPERATORS[operator]}


def covering(space: Space) -> list[Genotype]:
    """The largest architectures that have one operator, with each number of heads."""
    found = []
    for operator in OPERATORS:
        heads = {
            value
            for choice in space.choices
            if choice.name.endswith(f'.{operator}.num_heads')
            for value in choice.values
        }
        for num_heads in sorted(heads, key=float, reverse=True) or [0]:
            allowed = {}
            for choice in space.choices:
                if choice.name.endswith('.operator'):
                    allowed[choice.name] = operator if operator in choice.values else choice.values[0]
            part = space.restrict(allowed)
            allowed = {
                choice.name: num_heads
                for choice in part.choices
                if choice.name.endswith('.num_heads') and num_heads in choice.values
            }
            part = part.restrict(allowed)
            found.append(space.genotype(part.values(part.largest())))
    return list(dict.fromkeys(found))


def sharing_rules(multi_head: bool, arch: BaseArch) -> list[Rule]:
    """The two projections of a block are shared by its operators, which have tensors of their own otherwise.

    Multi-Head Sharing (Algorithm 1) takes the leading channels of each head. Here it holds for everything
    that writes or reads channels of heads: queries, keys, values, the batch norm behind the operator, and
    the inputs of the second axis and of the last projection.
    """
    assert isinstance(arch, Arch)
    rules = []
    for i, stage in enumerate(arch.stages):
        for j, block in enumerate(stage):
            rules += _block_rules(f'stages.{i}.blocks.{j}.', block, multi_head)
    return rules


def _block_rules(name: str, block: BlockArch, multi_head: bool) -> list[Rule]:
    pattern = '^' + re.escape(name)
    lead, crop = Lead(), Crop()
    heads: Layout = Lead()
    if block.operator != 'conv' and multi_head:
        heads = Groups(block.num_heads)
    rules = [
        Rule(pattern + r'bn2\.', (heads,), f'{name}bn2_{block.operator}.'),
        Rule(pattern + r'conv3\.weight$', (lead, heads, lead, lead)),
    ]
    if block.operator == 'conv':
        rules.append(Rule(pattern + r'operator\.weight$', (lead, lead, crop, crop)))
    elif block.operator == 'local':
        rules.append(Rule(pattern + r'operator\.[qkv]\.weight$', (heads, lead, lead, lead)))
        rules.append(Rule(pattern + r'operator\.rel_', (lead, crop, lead)))
    else:
        rules.append(Rule(pattern + r'operator\.height\.[qkv]\.weight$', (heads, lead, lead, lead)))
        rules.append(Rule(pattern + r'operator\.width\.[qkv]\.weight$', (heads, heads, lead, lead)))
    return rules


def timed_modules(declaration: Declaration) -> dict[str, tuple[str, ...]]:
    """The blocks of :class:`zoo.models.trionet.TrioNet`, and the choices on which their latency depends."""
    return {
        f'stages.{i}.blocks.{j}': (
            f'stage{i + 1}.block{j + 1}.operator',
            *(
                f'stage{i + 1}.block{j + 1}.{operator}.{key}'
                for operator in stage.operators()
                for key in OPERATORS[operator]
            ),
        )
        for i, stage in enumerate(declaration.stages)
        for j in range(max(stage.depth))
    }


def cost_factors(
    out_channels: Sequence[int], input_size: tuple[int, int, int], space: Space, num_classes: int
) -> list[Factor]:
    """Params and MACs of :class:`zoo.models.trionet.TrioNet`. Attention works at the size of its input."""
    in_chans, *image = input_size
    sizes = [tuple(math.ceil(side / stride) for side in image) for stride in (2, 4, 4, 8, 16, 32)]
    kernel = 49 * in_chans
    constant = kernel * STEM_CHANNELS + 2 * STEM_CHANNELS, math.prod(sizes[0]) * kernel * STEM_CHANNELS
    factors = [tabulate(space, (), lambda: constant)]
    in_chs = STEM_CHANNELS
    for i, out_chs in enumerate(out_channels, 1):
        size: Any = sizes[i]
        new_size: Any = sizes[i + 1]
        shortcut = in_chs * out_chs + 2 * out_chs, math.prod(new_size) * in_chs * out_chs
        factors.append(tabulate(space, (), lambda shortcut=shortcut: shortcut))
        depths: Any = space.choices[space.position(f'stage{i}.depth')].values
        for j in range(1, max(depths) + 1):
            block = f'stage{i}.block{j}'
            for operator in space.choices[space.position(f'{block}.operator')].values:
                names = tuple(f'{block}.{operator}.{key}' for key in OPERATORS[str(operator)])
                cost = partial(COSTS[str(operator)], in_chs, out_chs, size, new_size)
                factors.append(tabulate(space, names, cost))
            in_chs, size = out_chs, new_size
    head = (in_chs + 1) * num_classes, in_chs * num_classes
    return [*factors, tabulate(space, (), lambda: head)]


def projections_cost(
    in_chs: int, out_chs: int, size: Size, new_size: Size, width: int, value_dim: int
) -> LayerCost:
    """The two projections of a block and its three batch norms."""
    params = (in_chs + 2) * width + 2 * value_dim + (value_dim + 2) * out_chs
    return params, math.prod(size) * in_chs * width + math.prod(new_size) * value_dim * out_chs


def conv_cost(
    in_chs: int, out_chs: int, size: Size, new_size: Size, expansion: float, kernel_size: int
) -> LayerCost:
    """A block around a convolution, which has the block's stride."""
    width = int(expansion * out_chs)
    params, macs = projections_cost(in_chs, out_chs, size, new_size, width, width)
    weights = width**2 * kernel_size**2
    return params + weights, macs + weights * math.prod(new_size)


def local_cost(
    in_chs: int,
    out_chs: int,
    size: Size,
    new_size: Size,
    expansion: float,
    kernel_size: int,
    qk_rate: float,
    v_rate: float,
    num_heads: int,
) -> LayerCost:
    """A block around local attention: linear layers, logits of keys and of positions, weighted values."""
    width = int(expansion * out_chs)
    key_dim, value_dim = int(width * qk_rate), int(width * v_rate)
    params, macs = projections_cost(in_chs, out_chs, size, new_size, width, value_dim)
    weights = width * (2 * key_dim + value_dim)
    attention = kernel_size**2 * (key_dim + value_dim) + kernel_size * key_dim
    return params + weights + kernel_size * key_dim, macs + (weights + attention) * math.prod(size)


def axial_cost(
    in_chs: int,
    out_chs: int,
    size: Size,
    new_size: Size,
    expansion: float,
    qk_rate: float,
    v_rate: float,
    num_heads: int,
) -> LayerCost:
    """A block around axial attention: along the height, then along the width."""
    width = int(expansion * out_chs)
    key_dim, value_dim = int(width * qk_rate), int(width * v_rate)
    params, macs = projections_cost(in_chs, out_chs, size, new_size, width, value_dim)
    for dim, length in zip((width, value_dim), size, strict=True):
        weights = dim * (2 * key_dim + value_dim)
        params += weights + (2 * length - 1) * (key_dim // num_heads)
        macs += (weights + length * (2 * key_dim + value_dim)) * math.prod(size)
    return params, macs


COSTS: dict[str, Callable[..., LayerCost]] = {'conv': conv_cost, 'local': local_cost, 'axial': axial_cost}
"""A block's cost by operator, from what is chosen of it in the order of :data:`OPERATORS`."""
