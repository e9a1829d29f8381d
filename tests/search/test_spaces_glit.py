"""GLiT's space: its choices, counts and levels, the networks that genotypes mean, their cost, and sharing."""

import inspect
import math
from collections import Counter
from random import Random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from hypothesis import given
from hypothesis import strategies as st

from search.cost import Cost
from search.spaces import glit as glit_space
from search.spaces import load_space
from search.supernet import Supernet
from zoo import load_entry
from zoo.errors import ZooError
from zoo.models import glit
from zoo.profile import profile

TINY = {
    'family': 'glit',
    'embed_dim': 12,
    'depth': 2,
    'patch_size': 8,
    'all_global': {'qkv_dim': [6, 12, 30], 'mlp_ratio': [1, 2.5]},
    'all_local': {'kernel_size': [1, 5, 9], 'expansion': [0.5, 1, 2], 'mlp_ratio': [1, 2]},
    'mixed': {'kernel_size': [3, 7], 'expansion': [0.5, 1, 1.5], 'mlp_ratio': [0.5, 2]},
}
SMALL = {
    'family': 'glit',
    'embed_dim': 12,
    'depth': 2,
    'global_heads': [3, 0, 1],
    'all_global': {'qkv_dim': [6], 'mlp_ratio': [1, 2]},
    'all_local': {'kernel_size': [1, 5, 9], 'expansion': [1, 2]},
    'mixed': {'expansion': [1], 'mlp_ratio': [1, 2, 3]},
}
INPUT = (3, 24, 40)


def build(arch, input_size, num_classes):
    options = dict(img_size=input_size[1:], in_chans=input_size[0], num_classes=num_classes, device='meta')
    return glit.build(arch, 'glit', **options)


def check_costs(data, input_size, num_classes, number, seed):
    family_space = load_space(data, input_size)
    space, model = family_space.space, family_space.cost_model(num_classes)
    rng = Random(seed)
    genotypes = [space.largest(), space.smallest()]
    genotypes += [space.sample_hierarchical(rng) for _ in range(number - 2)]
    for genotype, batched in zip(genotypes, model.costs(genotypes).tolist(), strict=True):
        arch = family_space.decode(genotype)
        network = build(arch, input_size, num_classes)
        found = profile(network, input_size)
        assert model.cost(genotype) == Cost(found.params, found.macs) == Cost(*batched), arch


CASES = [
    pytest.param('glit', (3, 224, 224), 1000, 6, id='paper'),
    pytest.param('glit', (1, 97, 131), 0, 4, id='paper on cut patches without head'),
    pytest.param(TINY, INPUT, 10, 16, id='tiny'),
    pytest.param(TINY, (4, 8, 17), 3, 12, id='kernels longer than the tokens'),
]


@pytest.mark.parametrize(('data', 'input_size', 'num_classes', 'number'), CASES)
def test_cost_is_that_of_the_built_network(data, input_size, num_classes, number):
    check_costs(data, input_size, num_classes, number, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize(('data', 'input_size', 'num_classes', 'number'), CASES)
def test_cost_of_many_more_networks(data, input_size, num_classes, number):
    check_costs(data, input_size, num_classes, 8 * number, seed=1)


def test_paper_space():
    family_space = load_space('glit')
    space = family_space.space
    assert space.size() == 4738381338321616896 == 36**12
    assert family_space.paper_size == ((3 + 1) * 3 * 3 * 3 * 3) ** 12
    assert f'{family_space.paper_size:.3g}' == '1.34e+30'
    assert load_space({'family': 'glit'}).space == space
    assert {choice.name: choice.values for choice in space.choices if choice.name.startswith('block7.')} == {
        'block7.global_heads': (0, 1, 2, 3),
        'block7.global.qkv_dim': (96, 192, 384),
        'block7.global.mlp_ratio': (2, 4, 6),
        'block7.local.kernel_size': (17, 31, 45),
        'block7.local.expansion': (1, 2, 4),
        'block7.local.mlp_ratio': (4,),
        'block7.mixed.kernel_size': (31,),
        'block7.mixed.expansion': (1, 2, 4),
        'block7.mixed.mlp_ratio': (2, 4, 6),
    }


def test_the_published_network_is_in_the_space():
    arch = load_entry('glit_tiny').arch
    family_space = load_space('glit')
    kinds = {0: 'local', 3: 'global'}
    values = {}
    for i, block in enumerate(arch.blocks, 1):
        values[f'block{i}.global_heads'] = block.global_heads
        kind = kinds.get(block.global_heads, 'mixed')
        for name in ('qkv_dim', 'kernel_size', 'expansion', 'mlp_ratio'):
            if getattr(block, name) is not None and (kind, name) != ('mixed', 'qkv_dim'):
                values[f'block{i}.{kind}.{name}'] = getattr(block, name)
    genotype = family_space.space.genotype(values)
    assert family_space.decode(genotype) == arch
    assert family_space.cost_model(1000).cost(genotype).params == 7264456


def restrict_to_first_level(family_space):
    return family_space.restrict(family_space.first_level(family_space.space))


def test_two_levels():
    """First the heads alone, everything else at the middle of its list; then everything else."""
    family_space = load_space('glit')
    first = restrict_to_first_level(family_space)
    assert first.space.size() == 4**12
    for seed in range(5):
        values = first.space.values(first.space.sample(Random(seed)))
        arch = first.decode(first.space.genotype(values))
        for block in arch.blocks:
            expected = {3: (192, None, None, 4), 0: (None, 31, 2, 4)}
            expected |= {heads: (64 * heads, 31, 2, 4) for heads in (1, 2)}
            found = block.qkv_dim, block.kernel_size, block.expansion, block.mlp_ratio
            assert found == expected[block.global_heads]
        details = family_space.first_level(family_space.space)
        heads = {name: value for name, value in values.items() if name not in details}
        assert list(heads) == [f'block{i}.global_heads' for i in range(1, 13)]
        second = family_space.restrict(heads)
        assert second.space.size() == 9**12
        assert second.space.genotype(values)


def test_the_first_level_of_a_part_of_the_space():
    """Middles are those of what is left, and choices that are gone need no value."""
    whole = load_space('glit')
    part = whole.restrict({'block1.global_heads': 3, 'block2.local.kernel_size': [17, 45]})
    values = part.first_level(part.space)
    assert not [name for name in values if name.startswith(('block1.local', 'block1.mixed'))]
    assert values['block2.local.kernel_size'] == 45
    assert values['block3.local.kernel_size'] == 31
    assert restrict_to_first_level(part).space.size() == 4**11


def test_values_of_the_first_level_can_be_declared():
    data = {'family': 'glit', 'fixed': {'global.qkv_dim': 96, 'mixed.mlp_ratio': 6, 'local.kernel_size': 45}}
    first = restrict_to_first_level(load_space(data))
    assert first.space.size() == 4**12
    values = first.space.values(first.space.genotype(first.space.values(first.space.largest())))
    assert {name.split('.', 1)[1]: value for name, value in values.items()} == {
        'global_heads': 3,
        'global.qkv_dim': 96,
        'global.mlp_ratio': 4,
    }
    names = {choice.name.split('.', 1)[1]: choice.values for choice in first.space.choices}
    assert names['mixed.mlp_ratio'] == (6,)
    assert names['local.kernel_size'] == (45,)


def test_the_documented_example():
    data = yaml.safe_load(inspect.cleandoc(glit_space.__doc__.split('::\n')[-1]))
    assert load_space(data, (3, 224, 224)).space.size() == (4 + 9 + 2 * 9) ** 6


@given(seed=st.integers(0, 2**32), tiny=st.booleans())
def test_genotype_and_values_are_the_same(seed, tiny):
    family_space = load_space(TINY, (3, 64, 64)) if tiny else load_space('glit')
    space = family_space.space
    genotype = space.sample(Random(seed))
    values = space.values(genotype)
    assert space.genotype(values) == genotype
    arch = family_space.decode(genotype)
    assert arch == glit.Arch.model_validate_json(arch.model_dump_json())
    for i, block in enumerate(arch.blocks, 1):
        assert block.global_heads == values.pop(f'block{i}.global_heads')
        kind = {0: 'local', 3: 'global'}.get(block.global_heads, 'mixed')
        decided = {name: value for name, value in block if value is not None and not name.endswith('heads')}
        if kind == 'mixed':
            assert decided.pop('qkv_dim') == arch.embed_dim * block.global_heads // 3
        for name, value in decided.items():
            assert value == values.pop(f'block{i}.{kind}.{name}')
    assert not values


def chi_square(draw, expected, number=20000):
    """How far drawn frequencies are from probabilities, in standard deviations of the statistic."""
    rng = Random(0)
    counts = Counter(draw(rng) for _ in range(number))
    assert counts.keys() <= expected.keys()
    freedom = len(expected) - 1
    found = sum((counts[g] - number * p) ** 2 / (number * p) for g, p in expected.items())
    return (found - freedom) / math.sqrt(2 * freedom)


def test_sampling_frequencies(brute_force):
    """Blocks have 2, 6 or 3 candidates with 3, 0 or 1 global heads: 11 ** 2 networks."""
    space = load_space(SMALL, (3, 32, 32)).space
    everything = [space.genotype(values) for values in brute_force(space)]
    assert len(set(everything)) == space.size() == 121
    uniform = dict.fromkeys(everything, 1 / 121)
    candidates = {3: 2, 0: 6, 1: 3}
    hierarchical = {}
    for genotype in everything:
        values = space.values(genotype)
        ways = [3 * candidates[values[f'block{i}.global_heads']] for i in (1, 2)]
        hierarchical[genotype] = 1 / math.prod(ways)
    assert sum(hierarchical.values()) == pytest.approx(1)
    assert abs(chi_square(space.sample, uniform)) < 4
    assert abs(chi_square(space.sample_hierarchical, hierarchical)) < 4
    assert chi_square(space.sample, hierarchical) > 100


def test_longer_kernels_than_tokens_are_the_same_network():
    """4 x 4 patches and the class token: taps further away than 16 tokens meet none."""
    torch.manual_seed(0)
    family_space = load_space('glit', (3, 64, 64))
    space = family_space.space
    heads = {f'block{i}.global_heads': 0 for i in range(1, 13)}
    part = family_space.restrict(heads).space
    networks = []
    for kernel_size in (45, 31):
        fixed = {f'block{i}.local.kernel_size': kernel_size for i in range(1, 13)}
        values = part.restrict(fixed).values(part.restrict(fixed).largest())
        networks.append(family_space.decode(space.genotype(values)))
    assert {block.kernel_size for block in networks[0].blocks} == {33}
    assert {block.kernel_size for block in networks[1].blocks} == {31}
    declared = networks[0].model_dump(exclude_none=True)
    for block in declared['blocks']:
        block['kernel_size'] = 45
    full, cropped = (glit.GLiT(arch, img_size=64, num_classes=5).eval() for arch in (declared, networks[0]))
    tensors = full.state_dict()
    for key in tensors:
        if key.endswith('dwconv.weight'):
            tensors[key] = tensors[key][..., 6:-6]
    cropped.load_state_dict(tensors)
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(cropped(images), full(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ('data', 'words'),
    [
        ({'stages': []}, ['space: $.stages', 'not known']),
        ({'depth': 0}, ['space: $.depth', '0']),
        ({'global_heads': []}, ['space: $.global_heads']),
        ({'global_heads': [4]}, ['global_heads has 4', '0 to num_heads = 3']),
        ({'global_heads': [0, -1]}, ['global_heads has -1', '0 to num_heads = 3']),
        ({'global_heads': [1, 1]}, ["'block1.global_heads'", 'distinct']),
        ({'all_local': {'kernel_size': [31, 32]}}, ['kernel_size is 32', 'odd']),
        ({'all_local': {'kernel': [31]}}, ['space: $.all_local.kernel']),
        ({'all_global': {'qkv_dim': [96, 100]}}, ['qkv_dim is 100', 'multiple of global_heads = 3']),
        ({'all_global': {'qkv_dim': ['96']}}, ['space: $.all_global.qkv_dim[0]', "'96'"]),
        ({'mixed': {'expansion': [0.3]}}, ['expansion is 0.3', 'whole number']),
        ({'num_heads': 5}, ['embed_dim = 192 cannot be divided']),
        (
            {'fixed': {'global.qkv': 96}},
            ["$.fixed: found 'global.qkv', allowed are global.qkv_dim, global.mlp"],
        ),
        ({'fixed': {'global_heads': 3}}, ["$.fixed: found 'global_heads', allowed are global.qkv_dim"]),
        ({'global_heads': [0, 3], 'fixed': {'mixed.expansion': 1}}, ["found 'mixed.expansion', allowed are"]),
        ({'fixed': {'global.qkv_dim': 100}}, ["'block1.global.qkv_dim'", '100', '96, 192, 384']),
        ({'sharing': 'all'}, ['space: $.sharing', "'all'", "'candidate' or 'entangled'"]),
        ({'embed_dim': 16380, 'depth': 256}, ['weights']),
        (
            {'all_global': {'qkv_dim': [3 * i for i in range(1, 99)], 'mlp_ratio': list(range(1, 20))}},
            ['found 1889 candidates of a block', '1024'],
        ),
    ],
)
def test_faulty_declarations(data, words):
    with pytest.raises(ZooError) as caught:
        load_space({'family': 'glit'} | data)
    assert all(word in str(caught.value) for word in words), caught.value
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('input_size', [(3, 15, 32), (3, 32, 7), (0, 32, 32)])
def test_images_smaller_than_a_patch(input_size):
    with pytest.raises(ZooError, match=r'images of .*patches of 16 pixels need .*16, 16'):
        load_space('glit', input_size)


SHARINGS = pytest.mark.parametrize('sharing', ['candidate', 'entangled'])


def make_supernet(sharing):
    supernet = Supernet(load_space(TINY | {'sharing': sharing}, INPUT), num_classes=5, seed=3)
    generator = torch.Generator().manual_seed(0)
    for parameter in supernet.parameters():  # no zeros, no ones: a wrong part must show
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return supernet


def draw(supernet, number, seed):
    rng, family_space = Random(seed), supernet.family_space
    return [family_space.decode(family_space.space.sample_hierarchical(rng)) for _ in range(number)]


@SHARINGS
@pytest.mark.parametrize('number', [20, pytest.param(200, marks=pytest.mark.slow)])
def test_an_extracted_network_gives_the_output_of_the_supernet_bit_for_bit(sharing, number):
    torch.manual_seed(0)
    supernet = make_supernet(sharing).eval()
    batches = [torch.randn(3, *INPUT) for _ in range(2)]
    for i, arch in enumerate(draw(supernet, number, seed=number)):
        x = torch.randn(1 + i % 3, *INPUT)
        tensors = supernet.extract(arch, batches)
        network = supernet.build(arch)
        network.load_state_dict(tensors)
        with torch.no_grad():
            assert torch.equal(network.eval()(x), supernet(arch, x, tensors))
        norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        assert len(norms) == sum(block.local_heads > 0 for block in arch.blocks)
        for norm in norms:  # calibrated here as torch does
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        with torch.no_grad():
            for batch in batches:
                network(batch)
        assert all(torch.equal(value, tensors[key]) for key, value in network.state_dict().items())


def stored_name(sharing, key, arch):
    """Where a tensor must be: under the candidate of its block, or under the number of global heads."""
    if not key.startswith('blocks.'):
        return key
    _, i, rest = key.split('.', 2)
    block = arch.blocks[int(i)]
    if sharing == 'candidate':
        widths = block.qkv_dim, block.kernel_size, block.expansion, block.mlp_ratio
        named = [block.global_heads, block.local_heads, *(width for width in widths if width is not None)]
        return f'blocks.{i}@{"_".join(f"{value:g}" for value in named)}.{rest}'
    module, rest = rest.split('.', 1)
    return f'blocks.{i}.{module}{f"@{block.global_heads}" if module in ("attn", "conv") else ""}.{rest}'


def stored_indices(key, arch, shape, stored):
    """Which flat entries of a stored tensor a sub-network's tensor is, spelled out tensor by tensor."""
    axes = [list(range(size)) for size in shape]
    heads = arch.blocks[int(key.split('.')[1])].global_heads if key.startswith('blocks.') else 0
    if '.qkv.' in key:  # rows: heads of q, then of k, then of v
        width, stored_width = shape[0] // (3 * heads), stored[0] // (3 * heads)
        axes[0] = [head * stored_width + row for head in range(3 * heads) for row in range(width)]
    elif key.endswith('attn.proj.weight'):
        width, stored_width = shape[1] // heads, stored[1] // heads
        axes[1] = [head * stored_width + column for head in range(heads) for column in range(width)]
    elif '.expand.' in key:  # values, then gates
        axes[0] = list(range(shape[0] // 2)) + [stored[0] // 2 + row for row in range(shape[0] // 2)]
    elif key.endswith('dwconv.weight'):  # taps counted from the middle
        axes[3] = [tap - shape[3] // 2 + stored[3] // 2 for tap in range(shape[3])]
    return np.arange(np.prod(stored)).reshape(stored)[np.ix_(*axes)]


@SHARINGS
@pytest.mark.parametrize('number', [10, pytest.param(200, marks=pytest.mark.slow)])
def test_gradients_are_those_of_the_stand_alone_network_scattered_back(sharing, number):
    torch.manual_seed(0)
    supernet = make_supernet(sharing).train()
    labels, sliced = torch.tensor([1, 4, 0]), 0
    for arch in draw(supernet, number, seed=number + 1):
        x = torch.randn(3, *INPUT)
        network = supernet.build(arch).train()
        network.load_state_dict(supernet.extract(arch, [x]))
        F.cross_entropy(network(x), labels).backward()
        supernet.zero_grad()
        F.cross_entropy(supernet(arch, x), labels).backward()
        names = {stored_name(sharing, key, arch): key for key, _ in network.named_parameters()}
        parameters = dict(network.named_parameters())
        assert len(names) == len(parameters)
        assert names.keys() <= supernet.store.keys()
        for name, stored in supernet.store.items():
            if name not in names:
                assert stored.grad is None  # other candidates
                continue
            part = parameters[names[name]]
            indices = stored_indices(names[name], arch, tuple(part.shape), tuple(stored.shape))
            values = stored.detach().flatten()[torch.from_numpy(indices)]
            assert torch.equal(values, part.detach())
            expected = torch.zeros(stored.numel())
            expected[torch.from_numpy(indices).flatten()] = part.grad.flatten()
            torch.testing.assert_close(stored.grad.flatten(), expected, rtol=1e-4, atol=1e-6, msg=name)
            sliced += part.numel() < stored.numel()
    assert (sliced > 0) == (sharing == 'entangled')


def stored_tensors(family_space):
    """Names and largest shapes over all architectures of a space, by brute force."""
    shapes = {}
    sharing = 'candidate' if family_space.rules.__name__ == 'candidate_rules' else 'entangled'
    for genotype in family_space.space.enumerate():
        arch = family_space.decode(genotype)
        network = glit.GLiT(arch, INPUT[1:], num_classes=5, device='meta')
        for key, value in network.named_parameters():
            name = stored_name(sharing, key, arch)
            known = shapes.get(name, (0,) * value.ndim)
            shapes[name] = tuple(map(max, value.shape, known))
    return shapes


@SHARINGS
@pytest.mark.parametrize(
    'restriction',
    [
        {},
        {'block2.global_heads': 1},
        {'block1.global_heads': [0, 3], 'block2.global_heads': [2], 'block2.mixed.mlp_ratio': 1},
        {'block1.global.qkv_dim': 6, 'block2.mixed.mlp_ratio': 1},
    ],
)
def test_the_store_holds_what_the_space_needs_and_nothing_else(sharing, restriction):
    lists = {
        'global_heads': [3, 0, 1, 2],
        'all_global': {'qkv_dim': [9, 6], 'mlp_ratio': [1]},
        'all_local': {'kernel_size': [1, 9], 'expansion': [1], 'mlp_ratio': [3]},
        'mixed': {'kernel_size': [3], 'expansion': [1], 'mlp_ratio': [1, 2]},
    }
    family_space = load_space(TINY | lists | {'sharing': sharing}, INPUT).restrict(restriction)
    supernet = Supernet(family_space, num_classes=5)
    found = {name: tuple(value.shape) for name, value in supernet.store.items()}
    assert found == stored_tensors(family_space)
    assert supernet.has_batch_norm


@SHARINGS
def test_initial_values_are_the_network_s_own(sharing):
    supernet = Supernet(load_space(TINY | {'embed_dim': 96, 'sharing': sharing}, INPUT), num_classes=5)
    for name, stored in supernet.store.items():
        if name.endswith(('qkv.weight', 'attn.proj.weight', 'fc1.weight', 'fc2.weight')):
            assert abs(stored.std().item() - 0.02) < 0.004, name
            assert (stored != 0).all()
        elif name.endswith(('expand.weight', 'project.weight', 'dwconv.weight')):
            assert (stored != 0).all(), name
    assert supernet.no_weight_decay() == {'pos_embed', 'cls_token'}
