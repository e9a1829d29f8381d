"""S3's space: its choices and count, the networks that genotypes mean, and their cost when built."""

import functools
import itertools
from random import Random

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from search.budget import BudgetSampler, Limits
from search.cost import Cost
from search.spaces import load_space
from zoo.errors import ZooError
from zoo.models import s3

BLOCKS = dict(num_heads=[1], mlp_ratio=[1, 2, 3])
DIGITS = {
    'family': 's3',
    'stages': [
        {'embed_dim': [8, 16], 'depth': [1, 2, 3], 'window_size': [2, 4, 8], **BLOCKS},
        {'embed_dim': [16, 24, 32], 'depth': [1, 2, 3], 'window_size': [2, 4], **BLOCKS},
    ],
}
ODD = {
    'family': 's3',
    'stages': [
        {
            'embed_dim': [7, 10],
            'depth': [1, 3],
            'window_size': [3, 5, 20],
            'num_heads': [1, 3],
            'mlp_ratio': [0.3, 2.7],
        },
        {'embed_dim': [33], 'depth': [2], 'window_size': [1, 6, 7], 'num_heads': [2], 'mlp_ratio': [1]},
        {
            'embed_dim': [12, 5],
            'depth': [1, 2],
            'window_size': [2, 64],
            'num_heads': [1, 2],
            'mlp_ratio': [1.5],
        },
    ],
}


@pytest.fixture
def count(monkeypatch):
    """Params and executed MACs of a built network. Initial values and masks, no part of them, are cheap."""
    for layer in (nn.Linear, nn.Conv2d):
        monkeypatch.setattr(layer, 'reset_parameters', lambda self: None)
    monkeypatch.setattr(s3, 'trunc_normal_', lambda tensor, **_: tensor)
    monkeypatch.setattr(s3, 'window_mask', functools.cache(s3.window_mask))

    def count_network(arch, input_size, num_classes):
        options = dict(
            img_size=input_size[1:], in_chans=input_size[0], num_classes=num_classes, device='meta'
        )
        network = s3.S3(arch, **options).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.empty(1, *input_size, device='meta'))
        return Cost(sum(value.numel() for value in network.parameters()), counter.get_total_flops() / 2)

    return count_network


def check_costs(count, data, input_size, num_classes, number, seed):
    family_space = load_space(data, input_size)
    model = family_space.cost_model(num_classes)
    rng = Random(seed)
    space = family_space.space
    genotypes = [
        space.largest(),
        space.smallest(),
        *(space.sample_hierarchical(rng) for _ in range(number - 2)),
    ]
    for genotype, batched in zip(genotypes, model.costs(genotypes).tolist(), strict=True):
        cost = count(family_space.decode(genotype), input_size, num_classes)
        assert model.cost(genotype) == cost == Cost(*batched), space.values(genotype)


CASES = [
    pytest.param('s3', (3, 224, 224), 1000, 100, id='paper'),
    pytest.param(DIGITS, (1, 32, 32), 10, 100, id='digits'),
    pytest.param(DIGITS, (3, 32, 32), 1000, 100, id='digits in colour'),
    pytest.param(ODD, (3, 61, 82), 0, 40, id='odd sizes without head'),
    pytest.param('s3', (1, 200, 136), 10, 10, id='paper on padded maps'),
]


@pytest.mark.parametrize(('data', 'input_size', 'num_classes', 'number'), CASES)
def test_cost_is_that_of_the_built_network(count, data, input_size, num_classes, number):
    check_costs(count, data, input_size, num_classes, number, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize(('data', 'input_size', 'num_classes', 'number'), CASES)
def test_cost_of_many_more_networks(count, data, input_size, num_classes, number):
    check_costs(count, data, input_size, num_classes, 5 * number, seed=1)


def test_paper_space():
    """3 widths x the sum over depths 2, 3, 4 of 18**depth, in each of 4 stages."""
    space = load_space('s3').space
    assert space.size() == 12354965581365184409856 == (3 * (18**2 + 18**3 + 18**4)) ** 4
    assert load_space({'family': 's3'}).space == space
    names = [choice.name for choice in space.choices]
    assert len(names) == 4 * (2 + 4 * 3)
    assert names[:5] == [
        'stage1.embed_dim',
        'stage1.depth',
        'stage1.block1.window_size',
        'stage1.block1.num_heads',
        'stage1.block1.mlp_ratio',
    ]
    by_name = {choice.name: choice.values for choice in space.choices}
    for i, j in itertools.product(range(1, 5), range(1, 5)):
        assert by_name[f'stage{i}.embed_dim'] == (224, 256, 288)
        assert by_name[f'stage{i}.depth'] == (2, 3, 4)
        assert by_name[f'stage{i}.block{j}.window_size'] == (7, 14)
        assert by_name[f'stage{i}.block{j}.num_heads'] == (7, 8, 9)
        assert by_name[f'stage{i}.block{j}.mlp_ratio'] == (3.0, 3.5, 4.0)


def test_digits_space_size():
    blocks = [sum(options**depth for depth in (1, 2, 3)) for options in (9, 6)]
    assert load_space(DIGITS, (1, 32, 32)).space.size() == 2 * blocks[0] * 3 * blocks[1]


def test_decode_gives_the_values():
    family_space = load_space(DIGITS, (1, 32, 32))
    rng = Random(0)
    for _ in range(100):
        genotype = family_space.space.sample(rng)
        values = family_space.space.values(genotype)
        arch = family_space.decode(genotype)
        assert arch == s3.Arch.model_validate_json(arch.model_dump_json())
        for i, stage in enumerate(arch.stages, 1):
            assert stage.embed_dim == values.pop(f'stage{i}.embed_dim')
            assert len(stage.blocks) == values.pop(f'stage{i}.depth')
            for j, block in enumerate(stage.blocks, 1):
                for name, value in block:
                    assert value == values.pop(f'stage{i}.block{j}.{name}')
        assert not values


def test_windows_no_larger_than_the_map_are_the_effective_ones():
    """At 224 pixels the last stage has 7 x 7 tokens: windows of 7 and 14 are one network with one cost."""
    family_space = load_space('s3')
    small = family_space.space.values(family_space.space.largest())
    large = dict(small)
    for j in range(1, 5):
        small[f'stage4.block{j}.window_size'] = 7
    genotypes = [family_space.space.genotype(values) for values in (small, large)]
    assert genotypes[0] != genotypes[1]
    archs = {family_space.decode(genotype) for genotype in genotypes}
    assert len(archs) == 1
    assert {block.window_size for block in archs.pop().stages[3].blocks} == {7}
    model = family_space.cost_model(1000)
    assert len({model.cost(genotype) for genotype in genotypes}) == 1
    at_384 = load_space('s3', (3, 384, 384))
    assert len({at_384.decode(genotype) for genotype in genotypes}) == 2


@pytest.mark.parametrize('input_size', [(3, 32, 32), (3, 32, 48), (3, 40, 24)])
def test_clamping_a_window_does_not_change_the_network(input_size):
    """The large window's network, with a table whose centre is the small one's, gives the same output."""
    torch.manual_seed(0)
    family_space = load_space(ODD, input_size)
    values = family_space.space.values(family_space.space.largest())
    effective = family_space.decode_values(values)
    declared = effective.model_dump()
    for i, stage in enumerate(declared['stages'], 1):
        for j, block in enumerate(stage['blocks'], 1):
            block['window_size'] = values[f'stage{i}.block{j}.window_size']
    full, cropped = s3.S3(declared, num_classes=5).eval(), s3.S3(effective, num_classes=5).eval()
    tensors = full.state_dict()
    for key, value in cropped.state_dict().items():
        margins = [(a - b) // 2 for a, b in zip(tensors[key].shape, value.shape, strict=True)]
        for axis, margin in enumerate(margins):
            tensors[key] = tensors[key].narrow(axis, margin, value.shape[axis])
    assert any(tensors[key].shape != value.shape for key, value in full.state_dict().items())
    cropped.load_state_dict(tensors)
    images = torch.randn(2, *input_size)
    torch.testing.assert_close(cropped(images), full(images), rtol=1e-5, atol=1e-5)


def test_restricted_family_space():
    family_space = load_space('s3')
    part = family_space.restrict(
        {'stage1.depth': 2, 'stage3.embed_dim': [224, 256], 'stage2.block1.window_size': 14}
    )
    model, whole = part.cost_model(1000), family_space.cost_model(1000)
    middle = model.cost(part.space.largest()).params * 0.8
    sampler = BudgetSampler(model, Limits(params=(0.99 * middle, middle)))
    for seed in range(20):
        genotype = sampler.sample(Random(seed))
        same = family_space.space.genotype(part.space.values(genotype))
        assert family_space.decode(same) == part.decode(genotype)
        assert whole.cost(same) == model.cost(genotype)
        assert len(part.decode(genotype).stages[0].blocks) == 2


STAGE = DIGITS['stages'][0]


@pytest.mark.parametrize(
    ('data', 'words'),
    [
        ('s4', ["$.family: found 's4'", 's3']),
        ({}, ['$.family: found None', 's3']),
        ([], ['$.family: found None', 's3']),
        ({'family': ['s3']}, ["$.family: found ['s3']", 's3']),
        ({'family': 's3', 'stages': []}, ['space: $.stages']),
        ({'family': 's3', 'depth': [1]}, ['space: $.depth']),
        ({'family': 's3', 'stages': [STAGE | {'depth': []}]}, ['space: $.stages[0].depth']),
        ({'family': 's3', 'stages': [STAGE | {'depth': [0]}]}, ['space: $.stages[0].depth[0]', '0']),
        (
            {'family': 's3', 'stages': [STAGE | {'mlp_ratio': ['4']}]},
            ['space: $.stages[0].mlp_ratio[0]', "'4'"],
        ),
        ({'family': 's3', 'stages': [STAGE | {'kernel': [3]}]}, ['space: $.stages[0].kernel']),
        ({'family': 's3', 'stages': [STAGE | {'depth': [2, 2]}]}, ["'stage1.depth'", 'distinct']),
        ({'family': 's3', 'stages': [{'embed_dim': [8]}]}, ['space: $.stages[0].depth', 'required']),
        (
            {'family': 's3', 'stages': [STAGE | {'embed_dim': [16384], 'depth': [250]}]},
            ['largest', 'weights'],
        ),
        ({'family': 's3', 'stages': object()}, ['space:']),
    ],
)
def test_faulty_declarations(data, words):
    with pytest.raises(ZooError) as caught:
        load_space(data, (3, 32, 32))
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize('input_size', [(3, 4, 32), (3, 32, 7), (0, 32, 32)])
def test_images_smaller_than_the_stride(input_size):
    with pytest.raises(ZooError, match=r'images of .*2 stages need .*8, 8'):
        load_space(DIGITS, input_size)
