"""A sub-network is the zoo's own network on parts of the stored tensors: exactly, and exactly those parts."""

import random
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from search.evaluate import SupernetEvaluator, validate
from search.sharing import Crop, Groups, Lead, Rule, resolve, share
from search.spaces import load_space
from search.supernet import Supernet
from zoo.models.s3 import Arch

SPACE = {
    'family': 's3',
    'stages': [
        dict(
            embed_dim=[7, 9, 16],
            depth=[1, 2, 3],
            window_size=[2, 3, 8],
            num_heads=[1, 2, 3],
            mlp_ratio=[1, 1.5, 3],
        ),
        dict(embed_dim=[5, 24], depth=[1, 2], window_size=[2, 3, 4], num_heads=[1, 2], mlp_ratio=[1, 2.5]),
        dict(embed_dim=[11, 13, 32], depth=[2], window_size=[1, 2, 7], num_heads=[2, 3], mlp_ratio=[0.5, 2]),
    ],
}  # odd widths; the windows of the last stage are clamped to its 2 x 3 map


@pytest.fixture(scope='module')
def family_space():
    return load_space(SPACE, (3, 32, 48))


@pytest.fixture
def supernet(family_space):
    net = Supernet(family_space, num_classes=5, seed=3)
    generator = torch.Generator().manual_seed(0)
    for parameter in net.parameters():  # no zeros, no ones: a wrong part must show
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return net


def sample(family_space, n, seed=0) -> list[Arch]:
    rng = random.Random(seed)
    return [family_space.decode(family_space.space.sample(rng)) for _ in range(n)]


@pytest.mark.parametrize('n', [60, pytest.param(400, marks=pytest.mark.slow)])
def test_an_extracted_network_gives_the_output_of_the_supernet_bit_for_bit(supernet, family_space, n):
    supernet.eval()
    for i, arch in enumerate(sample(family_space, n, seed=n)):
        x = torch.randn(1 + i % 3, 3, 32, 48)
        network = supernet.build(arch)
        network.load_state_dict(supernet.extract(arch))
        with torch.no_grad():
            assert torch.equal(network.eval()(x), supernet(arch, x))


def stored_indices(key: str, shape: tuple[int, ...], stored: tuple[int, ...]) -> np.ndarray:
    """Which flat entries of a stored tensor a sub-network's tensor is, spelled out tensor by tensor."""
    axes = [list(range(size)) for size in shape]
    if '.qkv.' in key:  # rows: heads of q, then of k, then of v, 32 rows a head
        heads, stored_heads = shape[0] // 96, stored[0] // 96
        axes[0] = [
            (part * stored_heads + head) * 32 + row
            for part in range(3)
            for head in range(heads)
            for row in range(32)
        ]
    elif 'downsample' in key:  # the last axis: channels of four positions
        dim, stored_dim = shape[-1] // 4, stored[-1] // 4
        axes[-1] = [position * stored_dim + channel for position in range(4) for channel in range(dim)]
    elif key.endswith('bias_table'):  # offsets counted from the centre of the table
        for axis in (0, 1):
            axes[axis] = [i - shape[axis] // 2 + stored[axis] // 2 for i in range(shape[axis])]
    return np.arange(np.prod(stored)).reshape(stored)[np.ix_(*axes)]


@pytest.mark.parametrize('n', [15, pytest.param(300, marks=pytest.mark.slow)])
def test_gradients_are_those_of_the_stand_alone_network_scattered_back(supernet, family_space, n):
    supernet.train()
    labels = torch.tensor([1, 4])
    for arch in sample(family_space, n, seed=n + 1):
        x = torch.randn(2, 3, 32, 48)
        network = supernet.build(arch, drop_path_rate=0.0).train()
        network.load_state_dict(supernet.extract(arch))
        F.cross_entropy(network(x), labels).backward()
        supernet.zero_grad()
        F.cross_entropy(supernet(arch, x), labels).backward()
        gradients = {key: p.grad for key, p in network.named_parameters()}
        for key, stored in supernet.store.items():
            if key not in gradients:
                assert stored.grad is None  # blocks that the sub-network does not have
                continue
            expected = torch.zeros(stored.numel())
            indices = stored_indices(key, tuple(gradients[key].shape), tuple(stored.shape))
            expected[torch.from_numpy(indices).flatten()] = gradients[key].flatten()
            torch.testing.assert_close(stored.grad.flatten(), expected, rtol=1e-4, atol=1e-6, msg=key)


def test_extraction_reads_the_documented_entries(supernet, family_space):
    for arch in sample(family_space, 20, seed=9):
        for key, part in supernet.extract(arch).items():
            stored = supernet.store[key].detach()
            indices = stored_indices(key, tuple(part.shape), tuple(stored.shape))
            assert np.array_equal(part.numpy(), stored.numpy().reshape(-1)[indices]), key
            assert part.is_contiguous()
            assert part.data_ptr() != stored.data_ptr()


def test_the_largest_network_is_the_store(supernet):
    space = supernet.family_space
    parts = supernet.tensors(space.decode(space.space.largest()))
    assert all(part.data_ptr() == supernet.store[key].data_ptr() for key, part in parts.items())
    assert parts.keys() == supernet.store.keys()


def test_stochastic_depth_follows_the_mode_of_each_call(supernet, family_space):
    arch, x = family_space.decode(family_space.space.largest()), torch.randn(4, 3, 32, 48)
    expected = supernet.eval()(arch, x)
    torch.manual_seed(0)
    dropped = supernet.train()(arch, x, drop_path_rate=0.9)
    assert not torch.allclose(dropped, expected)
    torch.testing.assert_close(supernet(arch, x), expected)  # the rate of one call does not stay for the next
    assert torch.equal(supernet.eval()(arch, x, drop_path_rate=0.9), expected)


def test_initial_values_are_the_network_s_own_and_depend_on_the_seed_alone(family_space):
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    a, b, c = (Supernet(family_space, 5, seed=seed) for seed in (7, 7, 8))
    assert torch.equal(before, torch.random.get_rng_state())
    weights = [net.store['stages.0.blocks.0.mlp.fc1.weight'] for net in (a, b, c)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert abs(weights[0].std().item() - 0.02) < 0.002


def test_a_missing_tensor_is_an_error_and_not_garbage(supernet, family_space):
    arch = sample(family_space, 1)[0]
    tensors = supernet.tensors(arch)
    tensors.pop('norm.weight')
    with pytest.raises(RuntimeError, match=r'norm\.weight'):
        supernet(arch, torch.randn(1, 3, 32, 48), tensors)


def test_evaluator_scores_with_inherited_weights(supernet, family_space):
    rng = random.Random(0)
    images, labels = torch.randn(10, 3, 32, 48), torch.arange(10) % 5
    evaluate = {
        o: SupernetEvaluator(supernet, images, labels, batch_size=4, objective=o) for o in ('top1', 'loss')
    }
    for _ in range(5):
        genotype = family_space.space.sample(rng)
        arch = family_space.decode(genotype)
        network = supernet.build(arch).eval()
        network.load_state_dict(supernet.extract(arch))
        with torch.no_grad():
            logits = network(images)
        loss, top1 = F.cross_entropy(logits, labels).item(), 10.0 * (logits.argmax(1) == labels).sum().item()
        assert evaluate['top1'](genotype).score == top1
        assert evaluate['loss'](genotype).score == pytest.approx(-loss, rel=1e-5)
        assert evaluate['loss'](genotype).metrics['top1'] == top1


def test_evaluation_copies_only_what_is_not_contiguous(supernet, family_space):
    arch = family_space.decode(family_space.space.largest())
    stored = {value.data_ptr() for value in supernet.store.values()}
    assert all(value.data_ptr() in stored for value in supernet.tensors(arch, contiguous=True).values())
    assert not any(value.data_ptr() in stored for value in supernet.extract(arch).values())
    for arch in sample(family_space, 5):
        for value in supernet.tensors(arch, contiguous=True).values():
            assert value.is_contiguous()
            assert not value.requires_grad
            assert value.data_ptr() % 64 == 0


def test_hard_images_come_first_and_decide_early(supernet, family_space):
    images, labels = torch.randn(64, 3, 32, 48), torch.arange(64) % 5
    evaluator = SupernetEvaluator(supernet, images, labels, batch_size=4, objective='loss')
    genotypes = [family_space.space.sample(random.Random(i)) for i in range(3)]
    with torch.no_grad():
        losses = torch.stack(
            [
                F.cross_entropy(supernet.eval()(family_space.decode(g), images), labels, reduction='none')
                for g in genotypes
            ]
        ).sum(0)
    assert torch.allclose(losses.sort(descending=True).values, losses[order_of(images, evaluator.images)])
    score = evaluator(genotypes[0]).score
    given_up = evaluator(genotypes[0], score / 2)
    in_file_order = validate(
        partial(supernet, family_space.decode(genotypes[0])), images, labels, 4, 'loss', needed=score / 2
    )
    assert given_up.metrics['images'] <= in_file_order.metrics['images'] < 64
    assert score <= given_up.score < score / 2


def order_of(images, shuffled):
    """Where each of the shuffled images stood."""
    return torch.tensor([int((images == image).flatten(1).all(1).nonzero()) for image in shuffled])


def test_layouts():
    stored = torch.arange(12.0)
    assert share(stored, (5,), (Lead(),)).tolist() == [0, 1, 2, 3, 4]
    assert share(stored, (6,), (Crop(),)).tolist() == [3, 4, 5, 6, 7, 8]
    assert share(stored, (6,), (Groups(3),)).tolist() == [0, 1, 4, 5, 8, 9]
    assert share(stored, (12,), (Groups(3),)) is stored
    with pytest.raises(ValueError, match='no centre of 5'):
        share(stored, (5,), (Crop(),))
    rules = (Rule('qkv', (Groups(3),)),)
    assert resolve('a.qkv.bias', 1, rules) == ('a.qkv.bias', (Groups(3),))
    assert resolve('a.proj.weight', 2, rules) == ('a.proj.weight', (Lead(), Lead()))
    with pytest.raises(ValueError, match=r'has 1 axes, a\.qkv\.weight has 2'):
        resolve('a.qkv.weight', 2, rules)
    renamed = (Rule(r'\.(\d)\.op\.', store=r'.\1.local.'),)
    assert resolve('a.3.op.q', 1, renamed) == ('a.3.local.q', (Lead(),))
