"""UniNet's space: its choices and count, the networks that genotypes mean, and their cost when built."""

import inspect
import math
from collections import Counter
from random import Random

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from search.budget import BudgetSampler, Limits
from search.cost import Cost
from search.spaces import load_space
from search.spaces import uninet as uninet_space
from search.supernet import Supernet
from zoo import load_entry
from zoo.errors import ZooError
from zoo.models import uninet
from zoo.profile import profile

SMALL = {
    'family': 'uninet',
    'stages': [
        {'expansion': [1, 2.5], 'channels': [9, 16], 'repeats': [1, 3]},
        {'operator': ['lsa', 'sa', 'mlp'], 'expansion': [0.5, 3], 'channels': [16, 33], 'repeats': [1, 2]},
        {'downsample': ['l', 'g'], 'expansion': [1], 'channels': [8, 40], 'repeats': [2]},
    ],
    'strides': [1, 2, 1, 2],
    'first': {'operator': 'conv', 'expansion': 2.0, 'channels': 10, 'repeats': 2},
    'stem_channels': 6,
    'stem_stride': 1,
    'head_channels': 50,
}
ATTENTION_FIRST = {
    'family': 'uninet',
    'stages': [{'expansion': [2], 'channels': [12, 20], 'repeats': [1, 2]}],
    'strides': [1, 1],
    'first': {'operator': 'lsa', 'expansion': 1.0, 'channels': 32, 'repeats': 2},
}


def build(arch, input_size, num_classes):
    options = dict(img_size=input_size[1:], in_chans=input_size[0], num_classes=num_classes, device='meta')
    return uninet.build(arch, 'uninet', **options)


def check_costs(data, input_size, num_classes, number, seed):
    family_space = load_space(data, input_size)
    model = family_space.cost_model(num_classes)
    rng = Random(seed)
    genotypes = [family_space.space.sample(rng) for _ in range(number)]
    for genotype, batched in zip(genotypes, model.costs(genotypes).tolist(), strict=True):
        arch = family_space.decode(genotype)
        found = profile(build(arch, input_size, num_classes), input_size)
        assert model.cost(genotype) == Cost(found.params, found.macs) == Cost(*batched), arch


CASES = [
    pytest.param('uninet', (3, 160, 160), 1000, 3, id='paper'),
    pytest.param('uninet', (1, 97, 131), 0, 2, id='paper on odd maps without head'),
    pytest.param(SMALL, (3, 32, 32), 10, 15, id='small'),
    pytest.param(SMALL, (2, 45, 61), 7, 15, id='small on padded windows'),
    pytest.param(SMALL, (3, 5, 70), 0, 10, id='small on narrow maps'),
    pytest.param(ATTENTION_FIRST, (3, 30, 33), 3, 8, id='attention first'),
]


@pytest.mark.parametrize(('data', 'input_size', 'num_classes', 'number'), CASES)
def test_cost_is_that_of_the_built_network(data, input_size, num_classes, number):
    check_costs(data, input_size, num_classes, number, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize(('data', 'input_size', 'num_classes', 'number'), CASES)
def test_cost_of_many_more_networks(data, input_size, num_classes, number):
    check_costs(data, input_size, num_classes, 8 * number, seed=1)


@pytest.mark.parametrize('downsample', ['l', 'lg', 'g'])
@pytest.mark.parametrize('operator', ['sa', 'lsa', 'conv', 'dwconv', 'mlp'])
def test_cost_of_every_operator_behind_every_module(operator, downsample):
    """In all stages, at the smallest and the largest sizes; 19 x 27 positions make three by four windows."""
    input_size = (3, 38, 53)
    family_space = load_space(
        SMALL
        | {
            'stages': [
                {
                    'operator': [operator],
                    'downsample': [downsample],
                    'expansion': [1, 3],
                    'channels': [12, 40],
                    'repeats': [1, 2],
                }
            ]
            * 2,
            'strides': [1, 2, 1],
        },
        input_size,
    )
    model = family_space.cost_model(5)
    for genotype in (family_space.space.smallest(), family_space.space.largest()):
        found = profile(build(family_space.decode(genotype), input_size, 5), input_size)
        assert model.cost(genotype) == Cost(found.params, found.macs)


def test_paper_space():
    family_space = load_space('uninet', (3, 160, 160))
    space = family_space.space
    assert space.size() == 23174285888671875 == (5 * 3 * 125) ** 5
    assert family_space.paper_size is None
    by_name = {choice.name: choice.values for choice in space.choices}
    assert list(by_name)[:5] == [
        'stage1.downsample',
        'stage1.channels',
        'stage1.operator',
        'stage1.expansion',
        'stage1.repeats',
    ]
    for i, (width, depth) in enumerate(((48, 4), (80, 4), (128, 4), (128, 4), (256, 6)), 1):
        assert set(by_name[f'stage{i}.operator']) == {'sa', 'lsa', 'conv', 'dwconv', 'mlp'}
        assert set(by_name[f'stage{i}.downsample']) == {'l', 'lg', 'g'}
        assert by_name[f'stage{i}.expansion'] == (2, 3, 4, 5, 6)
        assert by_name[f'stage{i}.repeats'] == tuple(range(depth - 2, depth + 3))
        channels = by_name[f'stage{i}.channels']
        assert all(value % 8 == 0 for value in channels)
        assert all(
            abs(value - factor * width) <= 4
            for value, factor in zip(channels, (0.5, 0.75, 1, 1.25, 1.5), strict=True)
        )


def test_the_published_network_is_in_the_space():
    entry = load_entry('uninet_b0')
    family_space = load_space('uninet', entry.input.size)
    names = 'operator', 'downsample', 'expansion', 'channels', 'repeats'
    values = {f'stage{i}.{name}': getattr(entry.arch.stages[i], name) for i in range(1, 6) for name in names}
    genotype = family_space.space.genotype(values)
    assert family_space.decode(genotype) == entry.arch
    assert family_space.cost_model(1000).cost(genotype) == (entry.measured.params, entry.measured.macs)


def test_the_documented_example():
    data = yaml.safe_load(inspect.cleandoc(uninet_space.__doc__.split('::\n')[-1]))
    assert load_space(data, (3, 64, 64)).space.size() == 2**4 * (2 * 3 * 3)


@given(seed=st.integers(0, 2**32), small=st.booleans())
def test_genotype_and_values_are_the_same(seed, small):
    """But for windows no smaller than the map: of 20 x 20 positions in the third stage, and 10 x 10 after."""
    family_space = load_space(SMALL if small else 'uninet', (3, 160, 160))
    space = family_space.space
    genotype = space.sample(Random(seed))
    values = space.values(genotype)
    assert space.genotype(values) == genotype
    arch = family_space.decode(genotype)
    assert arch == uninet.Arch.model_validate_json(arch.model_dump_json())
    if small:
        assert arch.stages[0] == uninet.StageArch(operator='conv', expansion=2.0, channels=10, repeats=2)
        assert (arch.stem_channels, arch.stem_stride, arch.head_channels) == (6, 1, 50)
    for i, stage in enumerate(arch.stages[1:], 1):
        for name, value in stage:
            decided = values.pop(f'stage{i}.{name}')
            if (small, i, decided) == (False, 5, 'lsa'):
                decided = 'sa'
            assert value == decided
    assert not values


def test_windows_no_smaller_than_the_map_are_the_map():
    """At 224 pixels the last stage has 7 x 7 positions: LSA and SA are one network with one cost."""
    torch.manual_seed(0)
    family_space = load_space('uninet', (3, 224, 224))
    space = family_space.space
    values = space.values(space.sample(Random(0)))
    genotypes = [space.genotype(values | {'stage5.operator': operator}) for operator in ('sa', 'lsa')]
    assert len(set(genotypes)) == 2
    assert len({family_space.decode(genotype) for genotype in genotypes}) == 1
    model = family_space.cost_model(1000)
    assert len({model.cost(genotype) for genotype in genotypes}) == 1
    wider = load_space('uninet', (3, 224, 256))
    assert len({wider.decode(genotype) for genotype in genotypes}) == 2

    small = load_space(SMALL, (3, 14, 10))
    values = small.space.values(small.space.sample(Random(1))) | {'stage2.operator': 'lsa'}
    effective = small.decode_values(values)
    declared = effective.model_dump(exclude_none=True)
    assert declared['stages'][2]['operator'] == 'sa'
    declared['stages'][2]['operator'] = 'lsa'
    networks = [uninet.UniNet(arch, (14, 10), num_classes=5).eval() for arch in (declared, effective)]
    networks[1].load_state_dict(networks[0].state_dict())
    images = torch.randn(2, 3, 14, 10)
    torch.testing.assert_close(networks[0](images), networks[1](images))


def chi_square(draw, expected, number=20000):
    """How far drawn frequencies are from probabilities, in standard deviations of the statistic."""
    rng = Random(0)
    counts = Counter(draw(rng) for _ in range(number))
    assert counts.keys() <= expected.keys()
    freedom = len(expected) - 1
    found = sum((counts[g] - number * p) ** 2 / (number * p) for g, p in expected.items())
    return (found - freedom) / math.sqrt(2 * freedom)


def test_sampling_frequencies(brute_force):
    """Nothing depends on another choice: both ways of drawing are uniform."""
    family_space = load_space(SMALL, (3, 32, 32))
    names = [choice.name for choice in family_space.space.choices if choice.name.startswith('stage1')]
    fixed = family_space.space.values(family_space.space.sample(Random(0)))
    space = family_space.restrict({name: fixed[name] for name in names}).space
    everything = {space.genotype(values) for values in brute_force(space)}
    assert len(everything) == space.size() == (3 * 3 * 2**3) * (5 * 2 * 2)
    uniform = dict.fromkeys(everything, 1 / len(everything))
    assert abs(chi_square(space.sample, uniform)) < 4
    assert abs(chi_square(space.sample_hierarchical, uniform)) < 4


def test_sampling_within_the_paper_s_budget():
    """Sec. 3.5: 550 M FLOPs at 160 pixels."""
    family_space = load_space('uninet', (3, 160, 160))
    model = family_space.cost_model(1000)
    sampler = BudgetSampler(model, Limits(macs=(0.5e9, 0.55e9)))
    for seed in range(20):
        assert 0.5e9 <= model.cost(sampler.sample(Random(seed))).macs <= 0.55e9


def test_there_is_no_supernet():
    with pytest.raises(ZooError, match='uninet has no supernet'):
        Supernet(load_space(SMALL, (3, 32, 32)), num_classes=5)


STAGE = {'channels': [16], 'repeats': [1]}


def declare(*stages, **frame):
    return {'stages': list(stages), 'strides': [1] * (1 + len(stages))} | frame


@pytest.mark.parametrize(
    ('data', 'words'),
    [
        ({'depth': [1]}, ['space: $.depth', 'not known']),
        ({'stages': []}, ['space: $.stages']),
        ({'stages': [STAGE]}, ['strides has 6 values', '1 stages', 'need 2']),
        (declare({'repeats': [1]}), ['space: $.stages[0].channels', 'required']),
        (declare(STAGE | {'operator': ['conv', 'pool']}), ['space: $.stages[0].operator[1]', "'pool'"]),
        (declare(STAGE | {'downsample': ['gl']}), ['space: $.stages[0].downsample[0]', "'gl'"]),
        (declare(STAGE | {'downsample': []}), ['space: $.stages[0].downsample']),
        (declare(STAGE | {'channels': [16, 16]}), ["'stage1.channels'", 'distinct']),
        (declare(STAGE | {'expansion': [0.01]}), ['expansion 0.01 leaves no hidden channel']),
        (declare(STAGE | {'channels': [16384], 'repeats': [1, 200]}), ['weights']),
        (declare(STAGE, strides=[2, 1]), ['strides must begin with 1']),
        (declare(STAGE, strides=[1, 3]), ['space: $.strides[1]', '3']),
        (
            declare(STAGE, first={'operator': 'sa', 'expansion': 1, 'channels': 24, 'repeats': 1}),
            ['stages[0]'],
        ),
        (declare(STAGE, first={'operator': 'conv'}), ['space: $.first.channels', 'required']),
    ],
)
def test_faulty_declarations(data, words):
    with pytest.raises(ZooError) as caught:
        load_space({'family': 'uninet'} | data, (3, 64, 64))
    assert all(word in str(caught.value) for word in words), caught.value


def test_token_mixing_that_is_too_large_for_the_images():
    stage = {'operator': ['mlp'], 'channels': [512], 'repeats': [100]}
    data = {'family': 'uninet'} | declare(stage)
    load_space(data, (3, 128, 128))
    with pytest.raises(ZooError, match='token mixing'):
        load_space(data, (3, 1024, 1024))


@pytest.mark.parametrize('input_size', [(3, 31, 64), (3, 64, 31), (0, 64, 64)])
def test_images_smaller_than_the_stride(input_size):
    with pytest.raises(ZooError, match=r'images of .*strides .*32, 32'):
        load_space('uninet', input_size)
