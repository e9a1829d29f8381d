"""The space of full-attention nets (Zhou et al., arXiv 2111.07139, Sec. III-A, Tables I and II): one of seven
attention operators in each of 15 layers.

Five stages of three layers, 7 ** 15 = 4.7e12 architectures; widths, strides and the first block, which is
fixed, follow from the number of stages and the first width (see :mod:`zoo.models.carnet`, where the readings
of the paper stand). The default is the network that is searched (Sec. IV-A): 16 channels for images of
32 x 32. At larger images the convolutional stem is needed, or attention runs at full resolution.

A supernet has for each candidate operator of a layer a block of its own, the two linear layers around the
operator and the shortcut included, as the mixed layers of a differentiable search have (Sec. III-B).

A user declares another space by what differs. There are 5 or 8 stages::

    family: carnet
    channels: 32
    stages:
      - {layers: 1, operators: [local_k3_h4, local_k5_h4]}
      - {layers: 2, operators: [local_k3_h4, local_k7_h8, non_local]}
      - {}
      - {layers: 2}
      - {operators: [non_local]}
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
from pydantic import Field, model_validator

from search.cost import Factor, LayerCost, tabulate
from search.sharing import Rule
from search.space import Choice, Genotype, Space
from search.spaces.family_space import FamilySpace, Options, check_covering, read_declaration
from zoo import arch as zoo_arch
from zoo.arch import Depth, Dim, Part
from zoo.errors import ZooError
from zoo.models.carnet import FIRST_OPERATOR, FRAMES, Arch, Operator

__all__ = ['Declaration', 'load']

Size = tuple[int, int]
"""(height, width) of a map."""


class StageOptions(Part):
    """A stage's number of layers, and the operators among which each of them is chosen."""

    layers: Depth = 3
    operators: Options[Operator] = get_args(Operator)


class Declaration(Part):
    """A space of this family, by default the paper's at the width at which it is searched."""

    family: Literal['carnet'] = 'carnet'
    channels: Dim = 16
    stem: Literal['conv'] | None = None
    stages: tuple[StageOptions, ...] = Field((StageOptions(),) * 5, min_length=1, max_length=8)

    @model_validator(mode='after')
    def _check(self) -> 'Declaration':
        if len(self.stages) not in FRAMES:
            raise ValueError(f'stages has {len(self.stages)} items, 5 or 8 are needed')
        return self


def load(data: Mapping[str, Any], input_size: tuple[int, int, int]) -> FamilySpace:
    """Reads a :class:`Declaration` (see :func:`search.spaces.load_space`)."""
    declaration = read_declaration(Declaration, data)
    family_space = FamilySpace(
        'carnet',
        build_space(declaration),
        input_size,
        sharing_rules,
        covering,
        partial(decode, declaration),
        partial(cost_factors, declaration, input_size),
        timed_modules(declaration),
    )
    check_covering(family_space)
    stride = math.prod(FRAMES[len(declaration.stages)][1]) * (8 if declaration.stem else 1)
    if min(input_size) < 1 or min(input_size[1:]) < stride:
        raise ZooError(
            f'space: found images of {input_size}, these networks need (channels, height, width) of at least '
            f'(1, {stride}, {stride}).'
        )
    return family_space


def build_space(declaration: Declaration) -> Space:
    """The choices, in the order in which images pass them."""
    choices = [
        Choice(f'stage{i}.layer{j}.operator', stage.operators)
        for i, stage in enumerate(declaration.stages, 1)
        for j in range(1, stage.layers + 1)
    ]
    return Space('carnet', tuple(choices))


def decode(declaration: Declaration, values: Mapping[str, Any]) -> Arch:
    """The architecture that some values mean."""
    operators = tuple(
        tuple(values[f'stage{i}.layer{j}.operator'] for j in range(1, stage.layers + 1))
        for i, stage in enumerate(declaration.stages, 1)
    )
    return Arch(channels=declaration.channels, operators=operators, stem=declaration.stem)


def sharing_rules(arch: zoo_arch.Arch) -> list[Rule]:
    """The tensors of a layer's block are stored under the layer's operator."""
    assert isinstance(arch, Arch)
    return [
        Rule(rf'^stages\.{i}\.blocks\.{j}\.', store=f'stages.{i}.blocks.{j}@{operator}.')
        for i, operators in enumerate(arch.operators, 1)
        for j, operator in enumerate(operators)
    ]


def covering(space: Space) -> list[Genotype]:
    """As many architectures as a layer has candidates: the first of all layers, the second of all, ..."""
    sizes = [len(choice.values) for choice in space.choices]
    return [tuple(i % size for size in sizes) for i in range(max(sizes))]


def timed_modules(declaration: Declaration) -> dict[str, tuple[str, ...]]:
    """The layers of :class:`zoo.models.carnet.CARNet`, each with its operator."""
    return {
        f'stages.{i}.blocks.{j}': (f'stage{i}.layer{j + 1}.operator',)
        for i, stage in enumerate(declaration.stages, 1)
        for j in range(stage.layers)
    }


def cost_factors(
    declaration: Declaration, input_size: tuple[int, int, int], space: Space, num_classes: int
) -> list[Factor]:
    """Params and MACs of :class:`zoo.models.carnet.CARNet`; a layer's depend on its own operator only."""
    in_chans, *img_size = input_size
    size: Size = (img_size[0], img_size[1])
    channels = declaration.channels
    multiples, strides = FRAMES[len(declaration.stages)]
    fixed: list[LayerCost] = []
    in_dim = in_chans
    if declaration.stem == 'conv':
        for dim in (channels // 2, channels, channels):
            size = halve(size)
            fixed.append(conv_cost(size, in_dim, dim))
            in_dim = dim
    fixed.append(block_cost(size, in_dim, channels, 1, True, FIRST_OPERATOR))
    fixed.append(((multiples[-1] * channels + 1) * num_classes, multiples[-1] * channels * num_classes))
    params, macs = np.array(fixed, np.int64).sum(0)
    factors = [Factor((), params, macs)]
    in_dim = channels
    for i, stage in enumerate(declaration.stages):
        dim = multiples[i] * channels
        for j in range(stage.layers):
            stride = 1 if j else strides[i]
            cost = partial(block_cost, size, in_dim, dim, stride, j == 0)
            factors.append(tabulate(space, (f'stage{i + 1}.layer{j + 1}.operator',), cost))
            size, in_dim = halve(size) if stride == 2 else size, dim
    return factors


def halve(size: Size) -> Size:
    """Of a map after a stride of 2."""
    return math.ceil(size[0] / 2), math.ceil(size[1] / 2)


def conv_cost(size: Size, in_dim: int, dim: int) -> LayerCost:
    """A 3x3 convolution of the stem, to a map of this size, and its norm."""
    return 9 * in_dim * dim + 2 * dim, math.prod(size) * 9 * in_dim * dim


def block_cost(size: Size, in_dim: int, dim: int, stride: int, first: bool, operator: str) -> LayerCost:
    """Linear layers and norms of a block on a map of this size, and its attention on half the width."""
    inner, tokens = dim // 2, math.prod(size)
    linear = in_dim * inner + inner**2 + inner * dim
    shortcut = in_dim * dim if first else 0
    params = linear + 2 * (2 * inner + dim) + shortcut + (2 * dim if first else 0)
    after = math.prod(halve(size)) if stride == 2 else tokens
    attn = attention_cost(tokens, inner, operator)
    return params + attn[0], tokens * linear + after * shortcut + attn[1]


def attention_cost(tokens: int, dim: int, operator: str) -> LayerCost:
    """Queries, keys and values, logits, weighted values, and row and column embeddings if local."""
    if operator == 'non_local':
        return 3 * dim**2, tokens * (3 * dim**2 + 2 * tokens * dim)
    kernel_size = int(operator.split('_')[1][1:])
    table = kernel_size * dim
    return 3 * dim**2 + table, tokens * (3 * dim**2 + 2 * kernel_size**2 * dim + table)
