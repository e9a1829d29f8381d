"""TrioNet's space: its size and costs are the paper's, and Multi-Head Sharing is Algorithm 1, everywhere."""

import collections
import math
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from search.sharing import Groups, Lead, share
from search.spaces import load_space
from search.supernet import Supernet
from zoo.errors import ZooError
from zoo.models.trionet import Arch, build
from zoo.profile import profile

ATTENTION = dict(expansion=[0.5, 1.0], qk_rate=[0.5, 1.0], v_rate=[0.25, 0.5, 1.0], num_heads=[1, 2])
STAGE = dict(
    conv=dict(expansion=[0.25, 0.5], kernel_size=[1, 3, 5]),
    local=ATTENTION | dict(kernel_size=[3, 5]),
    axial=ATTENTION,
)
TINY = dict(
    family='trionet',
    out_channels=[16, 16, 32, 48],
    stages=[STAGE | dict(depth=depth) for depth in ([1, 2], [1], [1, 2], [1])],
)
INPUT = (3, 40, 56)
PAPER = load_space('trionet')


@pytest.fixture(scope='module')
def tiny():
    return load_space(TINY, INPUT)


@pytest.fixture
def supernet(tiny):
    net = Supernet(tiny, num_classes=5, seed=3)
    generator = torch.Generator().manual_seed(0)
    for parameter in net.parameters():  # no zeros, no ones: a wrong part must show
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return net


def draw(family_space, n: int, seed: int = 0) -> list[Arch]:
    rng = random.Random(seed)
    return [family_space.decode(family_space.space.sample_hierarchical(rng)) for _ in range(n)]


def test_the_paper_s_space_has_its_size():
    block = 2 * 3 + 2 * 3 * 2 * 2 * 2 + 2 * 2 * 2 * 2
    sizes = [sum(block**depth for depth in depths) for depths in ((1, 2), (2, 3), (3, 4, 5, 6), (1, 2, 3))]
    assert PAPER.space.size() == math.prod(sizes)
    assert f'{PAPER.space.size():.3e}' == '7.181e+25'  # the paper prints 7.2e25


def test_the_range_of_the_paper_s_space():
    model, costs = PAPER.cost_model(1000), {}
    for operator in ('conv', 'local', 'axial'):
        one = {c.name: operator for c in PAPER.space.choices if c.name.endswith('.operator')}
        part = PAPER.space.restrict(one)  # most heads mean the smallest tables of axial attention
        fewest = {c.name: 4 for c in part.choices if c.name.endswith('num_heads')}
        most = {c.name: 8 for c in part.choices if c.name.endswith('num_heads')}
        ends = part.restrict(most), part.restrict(fewest)
        genotypes = ends[0].smallest(), ends[1].largest()
        costs[operator] = [
            model.cost(PAPER.space.genotype(end.values(g))) for end, g in zip(ends, genotypes, strict=True)
        ]
    params = {key: [round(c.params / 1e6, 2) for c in ends] for key, ends in costs.items()}
    flops = {key: [round(2 * c.macs / 1e9, 2) for c in costs[key]] for key in ('conv', 'axial')}
    assert params == {'conv': [2.43, 19.21], 'local': [2.5, 10.1], 'axial': [2.6, 13.84]}
    assert flops == {'conv': [0.76, 5.63], 'axial': [1.14, 6.29]}


@pytest.mark.parametrize(
    ('declaration', 'size', 'n'),
    [('trionet', (3, 224, 224), 4), (TINY, (1, 65, 97), 20), (TINY, (3, 40, 56), 20)],
)
def test_costs_are_those_of_the_network(declaration, size, n):
    family_space = load_space(declaration, size)
    model = family_space.cost_model(7)
    rng = random.Random(1)
    for _ in range(n):
        genotype = family_space.space.sample(rng)
        network = build(
            family_space.decode(genotype),
            'trionet',
            img_size=size[1:],
            in_chans=size[0],
            num_classes=7,
            device='meta',
        )
        counted = profile(network, size)
        assert model.cost(genotype) == (counted.params, counted.macs)


def test_hierarchical_sampling_draws_operators_evenly_and_uniform_sampling_does_not():
    rng = random.Random(0)
    n = 3000
    for sample, shares in (
        (PAPER.space.sample_hierarchical, {'conv': 1 / 3, 'local': 1 / 3, 'axial': 1 / 3}),
        (PAPER.space.sample, {'conv': 6 / 70, 'local': 48 / 70, 'axial': 16 / 70}),
    ):
        found = collections.Counter(
            PAPER.space.values(sample(rng))['stage3.block2.operator'] for _ in range(n)
        )
        for operator, expected in shares.items():
            spread = math.sqrt(expected * (1 - expected) / n)
            assert abs(found[operator] / n - expected) < 4 * spread


def test_multi_head_sharing_is_algorithm_1():
    w = torch.randn(32, 5)
    for channels in (8, 16, 32):
        for n in (1, 2, 4, 8):
            expected = w.reshape(n, -1, 5)[:, : channels // n].reshape(channels, 5)
            assert torch.equal(share(w, torch.Size([channels, 5]), (Groups(n), Lead())), expected)


@pytest.mark.parametrize('n', [25, pytest.param(300, marks=pytest.mark.slow)])
def test_an_extracted_network_gives_the_output_of_the_supernet_bit_for_bit(supernet, tiny, n):
    supernet.eval()
    for i, arch in enumerate(draw(tiny, n, seed=n)):
        images = [torch.randn(3, *INPUT) for _ in range(2)]
        state = supernet.extract(arch, images)
        network = supernet.build(arch)
        network.load_state_dict(state)
        x = torch.randn(1 + i % 3, *INPUT)
        with torch.no_grad():
            assert torch.equal(network.eval()(x), supernet(arch, x, state))


def heads_of(channels: int, stored: int, num_heads: int) -> list[int]:
    """The leading channels of each head, in a stored axis that is divided into as many heads."""
    return [
        head * (stored // num_heads) + c for head in range(num_heads) for c in range(channels // num_heads)
    ]


def stored_indices(name: str, block, shape: tuple[int, ...], stored: tuple[int, ...]) -> np.ndarray:
    """Which flat entries of a stored tensor a sub-network's tensor is, spelled out tensor by tensor."""
    axes = [list(range(size)) for size in shape]
    if block is not None and block.operator == 'conv' and name == 'operator.weight':
        for axis in (2, 3):
            axes[axis] = [i - shape[axis] // 2 + stored[axis] // 2 for i in range(shape[axis])]
    elif block is not None and block.operator != 'conv':
        parts = name.split('.')
        if name.startswith('bn2') or parts[-2:-1] in (['q'], ['k'], ['v']):
            axes[0] = heads_of(shape[0], stored[0], block.num_heads)
        if name == 'conv3.weight' or (name.startswith('operator.width.') and not name.endswith('rel_pos')):
            axes[1] = heads_of(shape[1], stored[1], block.num_heads)
        if name.startswith('operator.rel_'):
            axes[1] = [i - shape[1] // 2 + stored[1] // 2 for i in range(shape[1])]
    return np.arange(math.prod(stored)).reshape(stored)[np.ix_(*axes)]


@pytest.mark.parametrize('n', [15, pytest.param(200, marks=pytest.mark.slow)])
def test_gradients_are_those_of_the_stand_alone_network_scattered_back(supernet, tiny, n):
    supernet.double().train()  # batch norms of few positions amplify rounding
    labels = torch.tensor([1, 4, 0, 2])
    for arch in draw(tiny, n, seed=n + 1):
        x = torch.randn(4, *INPUT).double()
        network = supernet.build(arch).double().train()
        network.load_state_dict(supernet.tensors(arch, contiguous=True), strict=False)
        F.cross_entropy(network(x), labels).backward()
        supernet.zero_grad()
        F.cross_entropy(supernet(arch, x), labels).backward()
        touched = set()
        for name, parameter in network.named_parameters():
            key, block, short = name, None, name
            if name.startswith('stages.'):
                _, i, _, j, *rest = name.split('.')
                block, short = arch.stages[int(i)][int(j)], '.'.join(rest)
                key = name.replace('.bn2.', f'.bn2_{block.operator}.')
            stored = supernet.store[key]
            touched.add(key)
            expected = torch.zeros(stored.numel()).double()
            indices = stored_indices(short, block, tuple(parameter.shape), tuple(stored.shape))
            expected[torch.from_numpy(indices).flatten()] = parameter.grad.flatten()
            torch.testing.assert_close(stored.grad.flatten(), expected, rtol=1e-6, atol=1e-9, msg=name)
        assert all(stored.grad is None for key, stored in supernet.store.items() if key not in touched)


def test_without_multi_head_sharing_leading_channels_are_taken(tiny):
    plain = load_space(TINY | {'multi_head_sharing': False}, INPUT)
    arch = next(
        a for a in draw(tiny, 100) if a.stages[0][0].operator == 'local' and a.stages[0][0].num_heads > 1
    )
    for family_space, same in ((tiny, False), (plain, True)):
        net = Supernet(family_space, 5)
        part = net.tensors(arch)['stages.0.blocks.0.operator.v.weight']
        stored = net.store['stages.0.blocks.0.operator.v.weight']
        assert part.shape[0] < stored.shape[0]
        assert torch.equal(part, stored[: part.shape[0], : part.shape[1]]) == same


def test_training_leaves_no_statistics_behind(supernet, tiny):
    arch = draw(tiny, 1)[0]
    x = torch.randn(4, *INPUT)
    assert not list(supernet.buffers())
    first = supernet.train()(arch, x)
    assert torch.equal(first, supernet(arch, x))


def test_calibration_averages_the_batches_as_torch_does(supernet, tiny):
    arch = draw(tiny, 1, seed=5)[0]
    batches = [torch.randn(4, *INPUT) for _ in range(3)]
    network = supernet.build(arch)
    network.load_state_dict(supernet.tensors(arch, contiguous=True), strict=False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
    network.train()
    with torch.no_grad():
        for x in batches:
            network(x)
    found = supernet.calibrate(arch, batches)
    assert found.keys() == dict(network.named_buffers()).keys()
    for name, buffer in network.named_buffers():
        assert torch.equal(found[name], buffer), name
    again = supernet.calibrate(arch, batches[:1])  # fresh statistics every time
    assert all(int(v) == 1 for k, v in again.items() if k.endswith('num_batches_tracked'))


def test_batch_norms_must_be_calibrated(supernet, tiny):
    arch = draw(tiny, 1)[0]
    with pytest.raises(ZooError, match='at least one batch'):
        supernet.extract(arch)
    with pytest.raises(RuntimeError, match='running_mean'):
        supernet.eval()(arch, torch.randn(1, *INPUT))


def test_the_store_begins_as_networks_do(tiny):
    net = Supernet(tiny, 5, seed=1)
    assert net.has_batch_norm
    assert set(net.no_weight_decay()) <= set(dict(net.named_parameters()))
    store = net.store
    assert store['stages.0.blocks.0.conv1.weight'].shape == (16, 64, 1, 1)
    assert store['stages.0.blocks.0.operator.rel_height'].shape == (2, 5, 8)
    unread = torch.ones(2, 5, 8)  # two heads of four channels, or one head of eight
    unread[0], unread[1, :, :4] = 0, 0
    assert torch.equal((store['stages.0.blocks.0.operator.rel_height'] == 0).float(), unread)
    assert not any(
        (value == 0).all() for key, value in store.items() if 'bn' not in key and 'bias' not in key
    )


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'stages': [STAGE | {'depth': [1]}] * 3}, r'stages'),
        ({'out_channels': [16, 16, 32]}, 'out_channels'),
        ({'stages': [{'depth': [1], 'conv': None, 'local': None, 'axial': None}] * 4}, 'one operator'),
        ({'stages': [{'depth': [1], 'conv': {'kernel': [3]}}] * 4}, 'kernel'),
        ({'stages': [{'depth': [1], 'conv': {'kernel_size': [2]}, 'local': None}] * 4}, 'kernel'),
        ({'stages': [{'depth': [1], 'local': {'num_heads': [3]}}] * 4}, 'even number'),
        ({'out_channels': [16, 16, 32, 44], 'stages': [{'depth': [1]}] * 4}, 'heads'),
    ],
)
def test_faulty_declarations(change, message):
    with pytest.raises(ZooError, match=message):
        load_space(TINY | change, INPUT)
    with pytest.raises(ZooError, match='at least'):
        load_space(TINY, (3, 31, 64))
