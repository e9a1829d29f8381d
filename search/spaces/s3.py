"""The space of S3 (arXiv 2111.14725, Sec. 2.2 and 4.1): sizes of a hierarchical windowed transformer.

Per stage an embedding width and a depth, per block a window, a number of heads and an MLP ratio. The paper
prints the lists of heads {7, 8, 9} and MLP ratios {3, 3.5, 4} in each other's place; heads are tied to the
q-k-v width {224, 256, 288} (32 channels a head), so its initial space has 1.235e22 architectures.

A user declares another space stage by stage::

    family: s3
    stages:
      - {embed_dim: [8, 16], depth: [1, 2, 3], window_size: [2, 4, 8], num_heads: [1], mlp_ratio: [1, 2, 3]}
      - {embed_dim: [16, 24, 32], depth: [1, 2, 3], window_size: [2, 4], num_heads: [1], mlp_ratio: [1, 2, 3]}
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

from pydantic import Field

from search.cost import Factor, LayerCost, tabulate
from search.sharing import Crop, Groups, Lead, Rule
from search.space import Choice, Space
from search.spaces.family_space import FamilySpace, Options, check_covering, read_declaration
from zoo.arch import Depth, Dim, Heads, Kernel, Part, Ratio
from zoo.errors import ZooError
from zoo.models.s3 import HEAD_DIM, PATCH_SIZE, Arch, BlockArch, StageArch

__all__ = ['RULES', 'Declaration', 'load']

RULES = (
    Rule(r'downsample\.norm\.', (Groups(4),)),
    Rule(r'downsample\.reduction\.weight$', (Lead(), Groups(4))),
    Rule(r'attn\.qkv\.weight$', (Groups(3), Lead())),
    Rule(r'attn\.qkv\.bias$', (Groups(3),)),
    Rule(r'relative_position_bias_table$', (Crop(), Crop(), Lead())),
)
"""Tensors that are not shared by their leading parts alone: patch merging reads four positions side by side,
q-k-v are three matrices in one (leading heads of each, weights and biases alike), a small window has the
centre of the table."""

BLOCK_CHOICES = 'window_size', 'num_heads', 'mlp_ratio'


class StageOptions(Part):
    """What can be chosen in a stage: once for all its blocks (the first two), or for each of them."""

    embed_dim: Options[Dim]
    depth: Options[Depth]
    window_size: Options[Kernel]
    num_heads: Options[Heads]
    mlp_ratio: Options[Ratio]


PAPER_STAGE = StageOptions(
    embed_dim=(224, 256, 288),
    depth=(2, 3, 4),
    window_size=(7, 14),
    num_heads=(7, 8, 9),
    mlp_ratio=(3.0, 3.5, 4.0),
)


class Declaration(Part):
    """A space of this family; without stages the initial one of the paper."""

    family: Literal['s3'] = 's3'
    stages: tuple[StageOptions, ...] = Field((PAPER_STAGE,) * 4, min_length=1, max_length=6)


def load(data: Mapping[str, Any], input_size: tuple[int, int, int]) -> FamilySpace:
    """Reads a :class:`Declaration` (see :func:`search.spaces.load_space`)."""
    declaration = read_declaration(Declaration, data)
    stride = PATCH_SIZE * 2 ** (len(declaration.stages) - 1)
    if min(input_size) < 1 or min(input_size[1:]) < stride:
        raise ZooError(
            f'space: found images of {input_size}, {len(declaration.stages)} stages need (channels, height, '
            f'width) of at least (1, {stride}, {stride}).'
        )
    space = build_space(declaration)
    maps = map_sizes(input_size, len(declaration.stages))
    family_space = FamilySpace(
        's3',
        space,
        input_size,
        lambda arch: RULES,
        lambda space: [space.largest()],
        partial(decode, maps),
        partial(cost_factors, maps, input_size[0]),
        timed_modules(declaration),
        declaration=declaration.model_dump(mode='json'),
    )
    check_covering(family_space)
    return family_space


def build_space(declaration: Declaration) -> Space:
    """The choices, in the order in which images pass them."""
    choices = []
    for i, stage in enumerate(declaration.stages, 1):
        choices += [Choice(f'stage{i}.embed_dim', stage.embed_dim), Choice(f'stage{i}.depth', stage.depth)]
        for j in range(1, max(stage.depth) + 1):
            deep_enough = tuple(depth for depth in stage.depth if depth >= j)
            choices += [
                Choice(f'stage{i}.block{j}.{name}', getattr(stage, name), f'stage{i}.depth', deep_enough)
                for name in BLOCK_CHOICES
            ]
    return Space('s3', tuple(choices))


def map_sizes(input_size: tuple[int, int, int], num_stages: int) -> list[tuple[int, int]]:
    """(height, width) of the map in every stage; images are padded to whole patches, odd maps to even."""
    strides = [PATCH_SIZE * 2**i for i in range(num_stages)]
    return [(math.ceil(input_size[1] / stride), math.ceil(input_size[2] / stride)) for stride in strides]


def decode(maps: Sequence[tuple[int, int]], values: Mapping[str, Any]) -> Arch:
    """The architecture that some values mean, with windows no larger than the map."""
    stages = []
    for i, size in enumerate(maps, 1):
        blocks = []
        for j in range(1, values[f'stage{i}.depth'] + 1):
            block = {name: values[f'stage{i}.block{j}.{name}'] for name in BLOCK_CHOICES}
            blocks.append(BlockArch(**(block | {'window_size': min(block['window_size'], max(size))})))
        stages.append(StageArch(embed_dim=values[f'stage{i}.embed_dim'], blocks=tuple(blocks)))
    return Arch(stages=tuple(stages))


def timed_modules(declaration: Declaration) -> dict[str, tuple[str, ...]]:
    """The modules of :class:`zoo.models.s3.S3` whose latency is measured, and the choices it depends on."""
    modules: dict[str, tuple[str, ...]] = {'patch_embed': ('stage1.embed_dim',)}
    for i, stage in enumerate(declaration.stages):
        dim = f'stage{i + 1}.embed_dim'
        if i:
            modules[f'stages.{i}.downsample'] = f'stage{i}.embed_dim', dim
        for j in range(max(stage.depth)):
            block = f'stage{i + 1}.block{j + 1}'
            modules[f'stages.{i}.blocks.{j}'] = dim, *(f'{block}.{name}' for name in BLOCK_CHOICES)
    modules['head'] = (f'stage{len(declaration.stages)}.embed_dim',)
    return modules


def cost_factors(
    maps: Sequence[tuple[int, int]], in_chans: int, space: Space, num_classes: int
) -> list[Factor]:
    """Params and MACs of :class:`zoo.models.s3.S3`, as its layers run: attention takes the padded map."""
    factors = [tabulate(space, ('stage1.embed_dim',), partial(stem_cost, maps[0], in_chans))]
    for i, size in enumerate(maps, 1):
        dim = f'stage{i}.embed_dim'
        if i > 1:
            factors.append(tabulate(space, (f'stage{i - 1}.embed_dim', dim), partial(merging_cost, size)))
        depths: Any = space.choices[space.position(f'stage{i}.depth')].values
        for j in range(1, max(depths) + 1):
            window, heads, ratio = (f'stage{i}.block{j}.{name}' for name in BLOCK_CHOICES)
            factors.append(tabulate(space, (dim, window, heads), partial(attention_cost, size)))
            factors.append(tabulate(space, (dim, ratio), partial(mlp_cost, size)))
    factors.append(tabulate(space, (f'stage{len(maps)}.embed_dim',), partial(head_cost, num_classes)))
    return factors


def stem_cost(size: tuple[int, int], in_chans: int, dim: int) -> LayerCost:
    """Patches to tokens, and their norm."""
    kernel = in_chans * PATCH_SIZE**2
    return dim * (kernel + 1) + 2 * dim, math.prod(size) * kernel * dim


def merging_cost(size: tuple[int, int], in_dim: int, dim: int) -> LayerCost:
    """Norm and linear layer over the four positions that become one."""
    return 8 * in_dim + 4 * in_dim * dim, math.prod(size) * 4 * in_dim * dim


def attention_cost(size: tuple[int, int], dim: int, window_size: int, num_heads: int) -> LayerCost:
    """Norm, q-k-v, attention inside windows and projection; all but the norm run on the padded map."""
    width = HEAD_DIM * num_heads
    window = [min(window_size, side) for side in size]
    table = (2 * min(window_size, max(size)) - 1) ** 2 * num_heads
    tokens = math.prod(math.ceil(side / w) * w for side, w in zip(size, window, strict=True))
    params = 2 * dim + (dim + 1) * 3 * width + table + (width + 1) * dim
    return params, tokens * (4 * dim * width + 2 * math.prod(window) * width)


def mlp_cost(size: tuple[int, int], dim: int, mlp_ratio: float) -> LayerCost:
    """Norm and two linear layers."""
    hidden = int(dim * mlp_ratio)
    return 2 * dim + (dim + 1) * hidden + (hidden + 1) * dim, math.prod(size) * 2 * dim * hidden


def head_cost(num_classes: int, dim: int) -> LayerCost:
    """Final norm and classifier."""
    return 2 * dim + (dim + 1) * num_classes, dim * num_classes
