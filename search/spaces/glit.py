"""The space of GLiT (Chen et al., ICCV 2021, Sec. 3.2, Table 2): how blocks share heads between attention and
convolution, and the widths of both.

The width, the number of heads N, the depth and the patch are fixed. In every block ``global_heads`` (G) of
the N heads are self-attention and the others one convolution, and what else there is to choose depends on
that. Readings:

* The text pairs every G with every d_k, d_z, E and K, and counts ((N + 1) * 3 * 3 * 3 * 3) ** 12 = 1.34e30
  (``paper_size``), although a block without attention has no d_k and one without convolution no E and no K.
  Here, as in the authors' code, a block of attention alone chooses d_k and d_z, one of convolution alone K
  and E (with d_z = 4), and a mixed one E and d_z (with K = 31 and d_k = embed_dim * G / N): 9 ways each and
  36 ** 12 = 4.74e18 different networks.
* The search has two levels (Sec. 3.3): G of all blocks while everything else is fixed (4 ** 12 networks),
  then everything else (9 ** 12). The paper does not say at which values the first level fixes it: here at
  the middle of each list, unless ``fixed`` names others. See :func:`first_level`.

Sub-networks share tensors in one of two ways (``sharing``). ``candidate``: each candidate of a block, the
whole of its choices, has tensors of its own, as in SPOS, with which the paper trains its supernets.
``entangled``: all candidates of a block share norms and MLP, those with equal G also attention and
convolution, small ones being parts of large ones, as in AutoFormer; not from the paper.

A user declares another space by what differs from the paper's::

    family: glit
    embed_dim: 96
    depth: 6
    all_global: {qkv_dim: [48, 96], mlp_ratio: [2, 4]}
    fixed: {global.qkv_dim: 96, mixed.expansion: 1}
    sharing: entangled
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError, model_validator

from search.cost import Factor, LayerCost, tabulate
from search.sharing import Crop, Groups, Lead, Rule
from search.space import Choice, Genotype, Space, Value
from search.spaces.family_space import FamilySpace, Options, read_declaration
from zoo import arch as zoo_arch
from zoo.arch import Depth, Dim, Heads, Kernel, Part, Ratio
from zoo.entry import describe_faults
from zoo.errors import ZooError
from zoo.models.glit import Arch, BlockArch

__all__ = ['Declaration', 'first_level', 'load']

MAX_CANDIDATES = 1024
"""Of a block. Sharing by candidate stores each of them."""


class AllGlobal(Part):
    """Blocks whose heads are all self-attention."""

    qkv_dim: Options[Dim] = (96, 192, 384)
    mlp_ratio: Options[Ratio] = (2.0, 4.0, 6.0)


class AllLocal(Part):
    """Blocks whose heads are all convolution."""

    kernel_size: Options[Kernel] = (17, 31, 45)
    expansion: Options[Ratio] = (1.0, 2.0, 4.0)
    mlp_ratio: Options[Ratio] = (4.0,)


class Mixed(Part):
    """Blocks with heads of both kinds; queries, keys and values have the width of the global heads."""

    kernel_size: Options[Kernel] = (31,)
    expansion: Options[Ratio] = (1.0, 2.0, 4.0)
    mlp_ratio: Options[Ratio] = (2.0, 4.0, 6.0)


class Declaration(Part):
    """A space of this family, by default that of GLiT-Tiny."""

    family: Literal['glit'] = 'glit'
    embed_dim: Dim = 192
    num_heads: Heads = 3
    depth: Depth = 12
    patch_size: Kernel = 16
    global_heads: Options[int] = (0, 1, 2, 3)
    all_global: AllGlobal = AllGlobal()
    all_local: AllLocal = AllLocal()
    mixed: Mixed = Mixed()
    fixed: dict[str, int | float] = Field(
        {}, description="values of the first level, by names of a block's choices such as global.qkv_dim"
    )
    sharing: Literal['candidate', 'entangled'] = 'candidate'

    @model_validator(mode='after')
    def _check(self) -> 'Declaration':
        for heads in self.global_heads:
            if not 0 <= heads <= self.num_heads:
                raise ValueError(f'global_heads has {heads}, 0 to num_heads = {self.num_heads} are allowed')
        return self

    def kind(self, global_heads: int) -> str:
        """What the choices of a block with so many global heads are named after."""
        if 0 < global_heads < self.num_heads:
            return 'mixed'
        return 'global' if global_heads else 'local'

    def details(self, kind: str) -> dict[str, tuple[Value, ...]]:
        """What there is to choose in blocks of a kind."""
        return dict({'global': self.all_global, 'local': self.all_local, 'mixed': self.mixed}[kind])

    def paper_size(self) -> int:
        """The space's size as the paper counts: all lists multiplied."""
        lists: dict[str, set[Value]] = {'global_heads': set(self.global_heads)}
        for kind in ('global', 'local', 'mixed'):
            for name, values in self.details(kind).items():
                lists.setdefault(name, set()).update(values)
        return math.prod(map(len, lists.values())) ** self.depth


def load(data: Mapping[str, Any], input_size: tuple[int, int, int]) -> FamilySpace:
    """Reads a :class:`Declaration` (see :func:`search.spaces.load_space`)."""
    declaration = read_declaration(Declaration, data)
    patch = declaration.patch_size
    if min(input_size) < 1 or min(input_size[1:]) < patch:
        raise ZooError(
            f'space: found images of {input_size}, patches of {patch} pixels need (channels, height, width) '
            f'of at least (1, {patch}, {patch}).'
        )
    entangled = declaration.sharing == 'entangled'
    space = build_space(declaration)
    family_space = FamilySpace(
        'glit',
        space,
        input_size,
        entangled_rules if entangled else candidate_rules,
        cover_entangled if entangled else cover_candidates,
        partial(decode, declaration, count_tokens(declaration, input_size)),
        partial(cost_factors, declaration, input_size),
        timed_modules(space),
        declaration.paper_size(),
        partial(first_level, declaration),
    )
    check(declaration, family_space)
    return family_space


def build_space(declaration: Declaration) -> Space:
    """The choices of each block: its global heads, and below them those of each kind of block."""
    choices = []
    for i in range(1, declaration.depth + 1):
        choices.append(Choice(heads := f'block{i}.global_heads', declaration.global_heads))
        for kind in ('global', 'local', 'mixed'):
            if when := tuple(g for g in declaration.global_heads if declaration.kind(g) == kind):
                choices += [
                    Choice(f'block{i}.{kind}.{name}', values, heads, when)
                    for name, values in declaration.details(kind).items()
                ]
    return Space('glit', tuple(choices))


def check(declaration: Declaration, family_space: FamilySpace) -> None:
    """Refuses a space in which a block, or the network of the heaviest one, is not valid."""
    block = block_space(family_space.space, 1)
    if block.size() > MAX_CANDIDATES:
        raise ZooError(
            f'space: found {block.size()} candidates of a block, at most {MAX_CANDIDATES} are allowed.'
        )
    tokens = count_tokens(declaration, family_space.input_size)
    single = declaration.model_copy(update={'depth': 1})
    try:
        networks = [decode(single, tokens, block.values(genotype)) for genotype in block.enumerate()]
        heaviest = max(networks, key=Arch.num_weights)
        make_arch(declaration, heaviest.blocks * declaration.depth)
    except ValidationError as error:
        raise ZooError('\n'.join(describe_faults(error, 'space: a network of it'))) from None
    details = first_level(declaration, block)
    for name, value in declaration.fixed.items():
        if f'block1.{name}' not in details:
            known = ', '.join(detail.removeprefix('block1.') for detail in details)
            raise ZooError(f'space: $.fixed: found {name!r:.80}, allowed are {known}.')
        block.choices[block.position(f'block1.{name}')].index(value)


def first_level(declaration: Declaration, space: Space) -> dict[str, Value]:
    """All choices but the global heads of each block, with the values that they have at the first level.

    The second level is about these choices, with the global heads that the first level found.

    Args:
        declaration: Names values in ``fixed``; of the lists that it says nothing of, the middle ones count.
        space: The declared space, or a part of it.
    """
    values = {
        choice.name: choice.values[len(choice.values) // 2] for choice in space.choices if choice.parent
    }
    declared = {name: declaration.fixed.get(name.partition('.')[2]) for name in values}
    return values | {name: value for name, value in declared.items() if value is not None}


def decode(declaration: Declaration, tokens: int, values: Mapping[str, Any]) -> Arch:
    """The architecture that some values mean, with kernels no longer than the tokens on both sides."""
    num_heads, blocks = declaration.num_heads, []
    for i in range(1, declaration.depth + 1):
        heads = values[f'block{i}.global_heads']
        kind = declaration.kind(heads)
        details = {name: values[f'block{i}.{kind}.{name}'] for name in declaration.details(kind)}
        if kind != 'global':
            details['kernel_size'] = effective_kernel(tokens, details['kernel_size'])
        if kind == 'mixed':
            details['qkv_dim'] = declaration.embed_dim * heads // num_heads
        blocks.append(BlockArch(global_heads=heads, local_heads=num_heads - heads, **details))
    return make_arch(declaration, blocks)


def count_tokens(declaration: Declaration, input_size: tuple[int, int, int]) -> int:
    """Whole patches and the class token."""
    return math.prod(side // declaration.patch_size for side in input_size[1:]) + 1


def effective_kernel(tokens: int, kernel_size: int) -> int:
    """The part of a kernel that can meet a token."""
    return min(kernel_size, 2 * tokens - 1)


def make_arch(declaration: Declaration, blocks: Sequence[BlockArch]) -> Arch:
    """Blocks in the frame that the search keeps fixed."""
    frame = declaration.model_dump(include={'embed_dim', 'num_heads', 'patch_size'})
    return Arch(**frame, blocks=tuple(blocks))


def block_space(space: Space, block: int) -> Space:
    """The choices of a block (counted from 1) alone."""
    prefix = f'block{block}.'
    return replace(space, choices=tuple(choice for choice in space.choices if choice.name.startswith(prefix)))


def candidate_rules(arch: zoo_arch.Arch) -> list[Rule]:
    """Every tensor of a block is stored under the block's choices, heads first."""
    assert isinstance(arch, Arch)
    rules = []
    for i, block in enumerate(arch.blocks):
        candidate = '_'.join(f'{value:.9g}' for value in block.model_dump(exclude_none=True).values())
        rules.append(Rule(rf'^blocks\.{i}\.', store=f'blocks.{i}@{candidate}.'))
    return rules


def entangled_rules(arch: zoo_arch.Arch) -> list[Rule]:
    """Attention and convolution are stored under the block's number of global heads, norms and MLP are not.

    The rows of q-k-v are those of 3 times the heads, the columns of the projection those of the heads, side
    by side: a narrow head is the leading part of a wide one. The first convolution makes values and gates.
    """
    assert isinstance(arch, Arch)
    lead, rules = Lead(), []
    for i, block in enumerate(arch.blocks):
        heads = block.global_heads
        for name, layouts in (
            (r'qkv\.weight', (Groups(3 * heads), lead)),
            (r'qkv\.bias', (Groups(3 * heads),)),
            (r'proj\.weight', (lead, Groups(heads))),
            (r'expand\.weight', (Groups(2), lead)),
            (r'expand\.bias', (Groups(2),)),
            (r'dwconv\.weight', (lead, lead, lead, Crop())),
            ('', ()),
        ):
            rules.append(Rule(rf'^blocks\.{i}\.(attn|conv)\.({name})', layouts, rf'blocks.{i}.\1@{heads}.\2'))
    return rules


def cover_candidates(space: Space) -> list[Genotype]:
    """As many architectures as a block has candidates: the first of all blocks, the second of all, ..."""
    return side_by_side(space, lambda block: list(block.enumerate()))


def cover_entangled(space: Space) -> list[Genotype]:
    """For each number of global heads the architecture of the largest blocks that have it."""

    def largest_of_each(block: Space) -> list[Genotype]:
        heads = block.choices[0]
        largest = [block.restrict({heads.name: value}) for value in heads.values]
        return [block.genotype(part.values(part.largest())) for part in largest]

    return side_by_side(space, largest_of_each)


def side_by_side(space: Space, choose: Callable[[Space], list[Genotype]]) -> list[Genotype]:
    """Architectures that together have the chosen genotypes of each block."""
    columns = []
    for i in range(1, sum(choice.parent is None for choice in space.choices) + 1):
        block = block_space(space, i)
        columns.append([block.values(genotype) for genotype in choose(block)])
    rows = [[column[i % len(column)] for column in columns] for i in range(max(map(len, columns)))]
    return [space.genotype({name: block[name] for block in row for name in block}) for row in rows]


def timed_modules(space: Space) -> dict[str, tuple[str, ...]]:
    """The blocks of :class:`zoo.models.glit.GLiT`, each with all of its choices."""
    depth = sum(choice.parent is None for choice in space.choices)
    return {
        f'blocks.{i}': tuple(choice.name for choice in block_space(space, i + 1).choices)
        for i in range(depth)
    }


def cost_factors(
    declaration: Declaration, input_size: tuple[int, int, int], space: Space, num_classes: int
) -> list[Factor]:
    """Params and MACs of :class:`zoo.models.glit.GLiT`; every block takes the class token too."""
    dim, kernel = declaration.embed_dim, input_size[0] * declaration.patch_size**2
    tokens = count_tokens(declaration, input_size)
    ends = dim * (kernel + 1) + dim * (tokens + 1) + 2 * dim + (dim + 1) * num_classes
    norms = 4 * dim * declaration.depth
    macs = (tokens - 1) * kernel * dim + dim * num_classes
    factors = [Factor((), np.array(ends + norms, np.int64), np.array(macs, np.int64))]
    mlp = partial(mlp_cost, tokens, dim)
    layers: dict[tuple[str, ...], Callable[..., LayerCost]] = {
        ('global.qkv_dim',): partial(attention_cost, tokens, dim),
        ('global.mlp_ratio',): mlp,
        ('local.kernel_size', 'local.expansion'): partial(conv_cost, tokens, dim),
        ('local.mlp_ratio',): mlp,
        ('global_heads', 'mixed.kernel_size', 'mixed.expansion'): partial(
            mixed_cost, tokens, dim, declaration.num_heads
        ),
        ('mixed.mlp_ratio',): mlp,
    }
    existing = {choice.name for choice in space.choices}
    for i in range(1, declaration.depth + 1):
        for layer, cost in layers.items():
            names = tuple(f'block{i}.{name}' for name in layer)
            if existing.issuperset(names):
                factors.append(tabulate(space, names, cost))
    return factors


def attention_cost(tokens: int, dim: int, qkv_dim: int) -> LayerCost:
    """q-k-v, attention and projection."""
    params = (dim + 1) * 3 * qkv_dim + (qkv_dim + 1) * dim
    return params, tokens * 4 * dim * qkv_dim + 2 * tokens**2 * qkv_dim


def conv_cost(tokens: int, dim: int, kernel_size: int, expansion: float) -> LayerCost:
    """Point-wise convolution to values and gates, depth-wise one, batch norm, point-wise one."""
    inner, kernel = int(dim * expansion), effective_kernel(tokens, kernel_size)
    params = (dim + 1) * 2 * inner + inner * (kernel + 1) + 2 * inner + (inner + 1) * dim
    return params, tokens * inner * (3 * dim + kernel)


def mixed_cost(
    tokens: int, dim: int, num_heads: int, global_heads: int, kernel_size: int, expansion: float
) -> LayerCost:
    """Attention on the first channels and convolution on the others."""
    attn_dim = dim * global_heads // num_heads
    attn = attention_cost(tokens, attn_dim, attn_dim)
    conv = conv_cost(tokens, dim - attn_dim, kernel_size, expansion)
    return attn[0] + conv[0], attn[1] + conv[1]


def mlp_cost(tokens: int, dim: int, mlp_ratio: float) -> LayerCost:
    """Two linear layers."""
    hidden = int(dim * mlp_ratio)
    return (dim + 1) * hidden + (hidden + 1) * dim, tokens * 2 * dim * hidden
