"""The full-attention nets' space: its choices and count, the networks, their cost, and their sharing."""

import inspect
import math
from collections import Counter
from random import Random

import pytest
import torch
import torch.nn.functional as F
import yaml
from hypothesis import given
from hypothesis import strategies as st

from search.cost import Cost
from search.spaces import carnet as carnet_space
from search.spaces import load_space
from search.supernet import Supernet
from zoo import load_entry
from zoo.errors import ZooError
from zoo.models import carnet
from zoo.profile import profile

OPERATORS = (
    'local_k3_h4',
    'local_k3_h8',
    'local_k5_h4',
    'local_k5_h8',
    'local_k7_h4',
    'local_k7_h8',
    'non_local',
)
SMALL = {
    'family': 'carnet',
    'stages': [
        {'layers': 1, 'operators': ['local_k3_h4', 'non_local']},
        {'layers': 2, 'operators': ['local_k3_h8', 'local_k5_h8', 'non_local']},
        {'layers': 1},
        {'layers': 1, 'operators': ['non_local']},
        {'layers': 1, 'operators': ['local_k7_h4', 'local_k3_h4']},
    ],
}
DEEP = {'family': 'carnet', 'stem': 'conv', 'channels': 32, 'stages': [{'layers': 1}, {'layers': 2}] * 4}
INPUT = (3, 9, 14)


def build(arch, input_size, num_classes):
    options = dict(img_size=input_size[1:], in_chans=input_size[0], num_classes=num_classes, device='meta')
    return carnet.build(arch, 'carnet', **options)


def check_costs(data, input_size, num_classes, number, seed):
    family_space = load_space(data, input_size)
    model = family_space.cost_model(num_classes)
    rng = Random(seed)
    genotypes = [*family_space.covering(family_space.space)]
    genotypes += [family_space.space.sample(rng) for _ in range(number)]
    for genotype, batched in zip(genotypes, model.costs(genotypes).tolist(), strict=True):
        arch = family_space.decode(genotype)
        found = profile(build(arch, input_size, num_classes), input_size)
        assert model.cost(genotype) == Cost(found.params, found.macs) == Cost(*batched), arch


CASES = [
    pytest.param('carnet', (3, 32, 32), 10, 3, id='paper'),
    pytest.param(
        {'family': 'carnet', 'channels': 48}, (1, 33, 46), 0, 1, id='wider on odd maps without head'
    ),
    pytest.param(DEEP, (4, 97, 130), 1000, 3, id='with stem and eight stages'),
    pytest.param(SMALL, INPUT, 5, 10, id='small'),
]


@pytest.mark.parametrize(('data', 'input_size', 'num_classes', 'number'), CASES)
def test_cost_is_that_of_the_built_network(data, input_size, num_classes, number):
    check_costs(data, input_size, num_classes, number, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize(('data', 'input_size', 'num_classes', 'number'), CASES)
def test_cost_of_many_more_networks(data, input_size, num_classes, number):
    check_costs(data, input_size, num_classes, 8 * number, seed=1)


def test_paper_space():
    family_space = load_space('carnet', (3, 32, 32))
    space = family_space.space
    assert space.size() == 4747561509943 == 7**15
    assert [choice.name for choice in space.choices] == [
        f'stage{i}.layer{j}.operator' for i in range(1, 6) for j in range(1, 4)
    ]
    assert all(choice.values == OPERATORS for choice in space.choices)
    arch = family_space.decode(space.sample(Random(0)))
    assert (arch.channels, arch.stem, [len(stage) for stage in arch.operators]) == (16, None, [3] * 5)


@pytest.mark.parametrize('name', ['carnet_c80', 'carnet_c96', 'carnet_c112'])
def test_the_entries_are_in_the_space_at_their_width(name):
    entry = load_entry(name)
    data = {'family': 'carnet', 'channels': entry.arch.channels, 'stem': entry.arch.stem}
    family_space = load_space(data, entry.input.size)
    assert family_space.space.size() == 7**15
    values = {
        f'stage{i}.layer{j}.operator': operator
        for i, stage in enumerate(entry.arch.operators, 1)
        for j, operator in enumerate(stage, 1)
    }
    genotype = family_space.space.genotype(values)
    assert family_space.decode(genotype) == entry.arch
    measured = entry.measured.params, entry.measured.macs
    assert family_space.cost_model(entry.num_classes).cost(genotype) == measured


def test_the_documented_example():
    data = yaml.safe_load(inspect.cleandoc(carnet_space.__doc__.split('::\n')[-1]))
    assert load_space(data, (3, 32, 32)).space.size() == 2 * 3**2 * 7**3 * 7**2 * 1


@given(seed=st.integers(0, 2**32), small=st.booleans())
def test_genotype_and_values_are_the_same(seed, small):
    family_space = load_space(SMALL if small else 'carnet', (3, 32, 32))
    space = family_space.space
    genotype = space.sample(Random(seed))
    values = space.values(genotype)
    assert space.genotype(values) == genotype
    arch = family_space.decode(genotype)
    assert arch == carnet.Arch.model_validate_json(arch.model_dump_json())
    for i, stage in enumerate(arch.operators, 1):
        for j, operator in enumerate(stage, 1):
            assert operator == values.pop(f'stage{i}.layer{j}.operator')
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
    """Nothing depends on another choice: both ways of drawing are uniform."""
    space = load_space(SMALL, (3, 32, 32)).space
    everything = {space.genotype(values) for values in brute_force(space)}
    assert len(everything) == space.size() == 2 * 3**2 * 7 * 1 * 2
    uniform = dict.fromkeys(everything, 1 / len(everything))
    assert abs(chi_square(space.sample, uniform)) < 4
    assert abs(chi_square(space.sample_hierarchical, uniform)) < 4


@pytest.mark.parametrize(
    ('data', 'words'),
    [
        ({'operators': ['non_local']}, ['space: $.operators', 'not known']),
        ({'channels': 24}, ['$.channels', '24', 'multiple of 16']),
        ({'channels': 16384, 'stages': [{'layers': 200}] * 5}, ['weights']),
        ({'stages': [{}] * 4}, ['stages has 4 items, 5 or 8']),
        ({'stages': [{}] * 9}, ['space: $.stages', '9']),
        ({'stages': [{}] * 4 + [{'layers': 0}]}, ['space: $.stages[4].layers', '0']),
        ({'stages': [{'operators': []}] + [{}] * 4}, ['space: $.stages[0].operators']),
        ({'stages': [{'operators': ['local_k9_h4']}] + [{}] * 4}, ['operators[0]', "'local_k9_h4'"]),
        (
            {'stages': [{'operators': ['non_local', 'non_local']}] + [{}] * 4},
            ["'stage1.layer1.operator'", 'distinct'],
        ),
        ({'stem': 'pool'}, ['space: $.stem', "'pool'"]),
    ],
)
def test_faulty_declarations(data, words):
    with pytest.raises(ZooError) as caught:
        load_space({'family': 'carnet'} | data, (3, 32, 32))
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ('stem', 'input_size', 'stride'),
    [(None, (3, 3, 32), 4), (None, (3, 32, 3), 4), (None, (0, 32, 32), 4), ('conv', (3, 31, 64), 32)],
)
def test_images_smaller_than_the_stride(stem, input_size, stride):
    with pytest.raises(ZooError, match=rf'images of .*{stride}, {stride}'):
        load_space({'family': 'carnet', 'stem': stem}, input_size)


@pytest.fixture
def supernet():
    net = Supernet(load_space(SMALL, INPUT), num_classes=5, seed=3)
    generator = torch.Generator().manual_seed(0)
    for parameter in net.parameters():  # no zeros, no ones: a wrong part must show
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return net


def draw(family_space, number, seed):
    rng = Random(seed)
    return [family_space.decode(family_space.space.sample(rng)) for _ in range(number)]


def stored_name(key, arch):
    """Where a tensor must be: in the block of its layer's operator."""
    if not key.startswith('stages.') or key.startswith('stages.0.'):
        return key
    _, stage, kind, block, rest = key.split('.', 4)
    assert kind == 'blocks'
    return f'stages.{stage}.blocks.{block}@{arch.operators[int(stage) - 1][int(block)]}.{rest}'


@pytest.mark.parametrize('number', [15, pytest.param(150, marks=pytest.mark.slow)])
def test_an_extracted_network_gives_the_output_of_the_supernet_bit_for_bit(supernet, number):
    torch.manual_seed(0)
    supernet.eval()
    batches = [torch.randn(2, *INPUT)]
    for i, arch in enumerate(draw(supernet.family_space, number, seed=number)):
        x = torch.randn(1 + i % 3, *INPUT)
        tensors = supernet.extract(arch, batches)
        network = supernet.build(arch)
        network.load_state_dict(tensors)
        with torch.no_grad():
            assert torch.equal(network.eval()(x), supernet(arch, x, tensors))
        assert any(key.endswith('running_var') for key in tensors)


@pytest.mark.parametrize('number', [8, pytest.param(100, marks=pytest.mark.slow)])
def test_gradients_are_those_of_the_stand_alone_network(supernet, number):
    torch.manual_seed(0)
    supernet.train()
    labels = torch.tensor([1, 4])
    for arch in draw(supernet.family_space, number, seed=number + 1):
        x = torch.randn(2, *INPUT)
        network = supernet.build(arch).train()
        network.load_state_dict(supernet.extract(arch, [x]))
        F.cross_entropy(network(x), labels).backward()
        supernet.zero_grad()
        F.cross_entropy(supernet(arch, x), labels).backward()
        parts = {stored_name(key, arch): value for key, value in network.named_parameters()}
        assert parts.keys() <= supernet.store.keys()
        for name, stored in supernet.store.items():
            if name in parts:
                assert torch.equal(stored, parts[name])
                torch.testing.assert_close(stored.grad, parts[name].grad, rtol=1e-4, atol=1e-6, msg=name)
            else:
                assert stored.grad is None  # other operators


@pytest.mark.parametrize('restriction', [{}, {'stage2.layer1.operator': ['non_local', 'local_k5_h8']}])
def test_the_store_holds_every_candidate_of_every_layer_and_nothing_else(restriction):
    family_space = load_space(SMALL, INPUT).restrict(restriction)
    shapes = {}
    for arch in map(family_space.decode, family_space.covering(family_space.space)):
        for key, value in build(arch, INPUT, 5).named_parameters():
            shapes[stored_name(key, arch)] = value.shape
    supernet = Supernet(family_space, num_classes=5)
    assert {name: value.shape for name, value in supernet.store.items()} == shapes
    blocks = {name.split('.')[3] for name in shapes if name.startswith('stages.2.blocks')}
    allowed = restriction.get('stage2.layer1.operator', ['local_k3_h8', 'local_k5_h8', 'non_local'])
    everywhere = ['local_k3_h8', 'local_k5_h8', 'non_local']
    assert blocks == {f'0@{name}' for name in allowed} | {f'1@{name}' for name in everywhere}
