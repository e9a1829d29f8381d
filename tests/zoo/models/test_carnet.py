"""Full-attention nets: the established counts, and the block written out position by position."""

import copy
import io
import math
import pickle
from typing import Any

import pytest
import timm
import torch
from timm.layers import DropPath
from timm.models import group_parameters
from torch import Tensor, nn

import zoo
from zoo.errors import ZooError
from zoo.layers.local_attention import LocalAttention
from zoo.layers.non_local import NonLocalAttention
from zoo.models.carnet import Block, CARNet, checkpoint_filter_fn
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
MIXED = [
    ['local_k3_h4', 'non_local'],
    ['local_k5_h8', 'local_k3_h8'],
    ['non_local'],
    ['local_k7_h4', 'local_k5_h4'],
    ['local_k7_h8', 'non_local', 'local_k3_h4'],
]
SHORT = [['local_k3_h8'], ['non_local'], ['local_k5_h4'], ['local_k3_h4'], ['non_local']]


def uniform(operator: str, channels: int = 16, stages: int = 5, **more: Any) -> dict[str, Any]:
    return {'channels': channels, 'operators': [[operator] * 3] * stages, **more}


def make_small(
    stem: str | None = None, channels: int = 16, operators: list[list[str]] = MIXED, **kwargs: Any
) -> CARNet:
    """A network whose batch norms do something, in evaluation mode."""
    torch.manual_seed(0)
    arch = {'channels': channels, 'operators': operators, 'stem': stem}
    net = CARNet(arch, **({'num_classes': 7} | kwargs)).eval()
    disturb_norms(net)
    return net


def disturb_norms(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.normal_(1.0, 0.3)
            module.bias.data.normal_(0.0, 0.3)
            module.running_mean.normal_(0.0, 0.3)
            module.running_var.uniform_(0.5, 2.0)


@pytest.mark.parametrize(
    ('channels', 'num_classes', 'stem', 'least', 'most'),
    [
        (96, 10, None, 2.543, 2.556),
        (80, 10, None, 1.769, 1.780),
        (112, 1000, None, 3.902, 3.917),
        (112, 1000, 'conv', 4.091, 4.107),
        (112, 200, 'conv', 3.732, 3.747),
    ],
)
def test_params_at_both_ends_of_the_space(channels, num_classes, stem, least, most):
    """Every printed digit of the counts that were established for the paper's networks."""
    for operator, expected in (('non_local', least), ('local_k7_h4', most), ('local_k7_h8', most)):
        net = CARNet(uniform(operator, channels, stem=stem), num_classes=num_classes, device='meta')
        assert round(sum(p.numel() for p in net.parameters()) / 1e6, 3) == expected
        convolutions = sum(p.numel() for p in net.parameters() if p.ndim == 4)
        assert net.arch.num_weights() == convolutions + 1000 * 4 * channels


@pytest.mark.parametrize(
    ('name', 'within'), [('carnet_c96', 0.02), ('carnet_c80', 0.02), ('carnet_c112', 0.03)]
)
def test_entries_have_the_published_params(name, within):
    entry = zoo.load_entry(name)
    net = timm.create_model(name, device='meta')
    found = profile(net)
    assert (found.params, found.macs) == (entry.measured.params, entry.measured.macs)
    assert abs(entry.deviations()['params']) <= within
    assert entry.provenance.kind == 'placeholder'
    assert 'placeholder' in entry.provenance.note
    assert entry.published.top1 is None  # the paper's figures are those of other operators
    assert [len(stage) for stage in entry.arch.operators] == [3] * 5
    assert (net.pretrained_cfg['input_size'], net.num_classes) == (entry.input.size, entry.num_classes)


def test_macs_of_the_large_network_over_all_operators():
    macs = []
    for operator in OPERATORS:
        net = timm.create_model('carnet', arch=uniform(operator, 112, stem='conv'), device='meta')
        macs.append(profile(net).macs / 1e9)
    assert (round(min(macs), 2), round(max(macs), 2)) == (0.76, 1.16)


def batch_norm(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    def spread(values: Tensor) -> Tensor:
        return values.view(1, -1, 1, 1)

    x = (x - spread(norm.running_mean)) / spread(norm.running_var + norm.eps).sqrt()
    return x * spread(norm.weight) + spread(norm.bias)


def linear(x: Tensor, layer: nn.Conv2d) -> Tensor:
    return torch.einsum('oc,bcyx->boyx', layer.weight[:, :, 0, 0], x)


def average(x: Tensor) -> Tensor:
    """2x2 positions, of which those outside the map do not exist."""
    rows, cols = (range(0, side, 2) for side in x.shape[2:])
    return torch.stack(
        [torch.stack([x[:, :, i : i + 2, j : j + 2].mean((2, 3)) for j in cols], 2) for i in rows], 2
    )


def attend(x: Tensor, attn: LocalAttention | NonLocalAttention) -> Tensor:
    """Each position's softmax, with zero keys and values around the map for local attention."""
    q, k, v = linear(x, attn.q), linear(x, attn.k), linear(x, attn.v)
    B, C, H, W = x.shape
    out = torch.zeros_like(v)
    if isinstance(attn, NonLocalAttention):
        logits = torch.einsum('bcyx,bchw->byxhw', q, k).flatten(3).softmax(3).view(B, H, W, H, W)
        return torch.einsum('byxhw,bchw->bcyx', logits, v)
    size, heads = attn.kernel_size, attn.num_heads
    r, dim = size // 2, C // heads
    k, v = (nn.functional.pad(t, (r, r, r, r)) for t in (k, v))
    for head in range(heads):
        own = slice(head * dim, (head + 1) * dim)
        if dim % 2 == 0:  # half of each head for rows, half for columns
            zeros = torch.zeros_like(attn.rel_height[head])
            rows = torch.cat([attn.rel_height[head], zeros], 1)
            cols = torch.cat([zeros, attn.rel_width[head]], 1)
        else:  # half of the heads for rows, half for columns
            tables = [attn.rel_height, attn.rel_width]
            chosen, place = divmod(head, heads // 2)
            zeros = torch.zeros_like(tables[chosen][place])
            rows, cols = (tables[chosen][place] if chosen == axis else zeros for axis in (0, 1))
        for i in range(H):
            for j in range(W):
                keys = k[:, own, i : i + size, j : j + size] + rows.t()[:, :, None] + cols.t()[:, None]
                logits = torch.einsum('bc,bchw->bhw', q[:, own, i, j], keys)
                weights = logits.flatten(1).softmax(1).view_as(logits)
                values = v[:, own, i : i + size, j : j + size]
                out[:, own, i, j] = torch.einsum('bhw,bchw->bc', weights, values)
    return out


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize(
    ('operator', 'out_chs'),
    [('local_k3_h4', 16), ('local_k5_h8', 16), ('local_k7_h4', 24), ('local_k3_h8', 48), ('non_local', 16)],
)
def test_a_block_equals_its_definition(operator, out_chs, stride):
    for in_chs, first in ((16, True), (out_chs, False)):
        if stride == 2 and not first:
            continue
        torch.manual_seed(0)
        block = Block(in_chs, out_chs, operator, stride, first).double().eval()
        disturb_norms(block)
        x = torch.randn(2, in_chs, 5, 4, dtype=torch.double)

        def reduce(x: Tensor) -> Tensor:
            return average(x) if stride == 2 else x

        y = batch_norm(linear(x, block.reduce), block.norm1).clamp(min=0)
        y = batch_norm(linear(attend(y, block.attn), block.proj), block.norm2).clamp(min=0)
        y = batch_norm(reduce(linear(y, block.expand)), block.norm3)
        shortcut = batch_norm(linear(reduce(x), block.shortcut.conv), block.shortcut.bn) if first else x
        torch.testing.assert_close(block(x), shortcut + y)


def test_shortcuts_are_convolutions_where_a_stage_begins_and_after_the_image():
    for stem, first in ((None, 'stages.0.blocks.0'), ('conv', 'stages.1.downsample.1')):
        net = make_small(stem)
        found = {
            name
            for name, m in net.named_modules()
            if isinstance(m, Block) and len(list(m.shortcut.children()))
        }
        assert found == {first} | {f'stages.{i}.blocks.0' for i in range(1, 6)}
        assert isinstance(net.get_submodule(first).attn, LocalAttention)
        assert (net.get_submodule(first).attn.kernel_size, net.get_submodule(first).attn.num_heads) == (3, 8)
        for i, operators in enumerate(MIXED, 1):
            for operator, block in zip(operators, net.stages[i].blocks, strict=True):
                if operator == 'non_local':
                    assert isinstance(block.attn, NonLocalAttention)
                else:
                    assert operator == f'local_k{block.attn.kernel_size}_h{block.attn.num_heads}'


@pytest.mark.parametrize(('stem', 'reductions'), [(None, [1, 2, 4]), ('conv', [4, 8, 16, 32])])
def test_feature_levels_on_any_size(stem, reductions):
    net = make_small(stem)
    assert [info['reduction'] for info in net.feature_info] == reductions
    features = timm.create_model('carnet', arch=net.arch.model_dump(mode='json'), features_only=True).eval()
    assert features.feature_info.reduction() == reductions
    for size in ((75, 53), (32, 41), (33, 96)) if stem else ((13, 9), (4, 5), (7, 16)):
        x = torch.randn(2, 3, *size)
        with torch.no_grad():
            final, maps = net.forward_intermediates(x)
            shapes = [list(m.shape) for m in features(x)]
            assert torch.equal(final, net.forward_features(x))
            torch.testing.assert_close(net(x), torch.cat([net(x[:1]), net(x[1:])]), rtol=1e-4, atol=1e-5)
        wanted = [
            [2, info['num_chs'], *(math.ceil(side / info['reduction']) for side in size)]
            for info in net.feature_info
        ]
        assert [list(m.shape) for m in maps] == shapes == wanted


def test_eight_stages_repeat_the_first_third_and_fifth():
    arch = {'channels': 16, 'operators': [['local_k3_h4']] * 8}
    net = CARNet(arch, num_classes=3)
    widths = [stage.blocks[-1].expand.out_channels for stage in net.stages]
    assert widths == [16, 16, 16, 32, 32, 32, 64, 64, 64]
    x, sides = torch.randn(1, 3, 8, 12), []
    for stage in net.stages:
        x = stage(x)
        sides.append(tuple(x.shape[2:]))
    assert sides == [(8, 12)] * 3 + [(4, 6)] * 3 + [(2, 3)] * 3
    assert [(info['module'], info['reduction']) for info in net.feature_info] == [
        ('stages.2', 1),
        ('stages.5', 2),
        ('stages.8', 4),
    ]


@pytest.mark.parametrize('stem', [None, 'conv'])
@pytest.mark.parametrize('channels', [16, 48])
def test_gradients_reach_every_parameter(stem, channels):
    """16 channels are those of the paper's search: heads of one channel in the first stage."""
    net = make_small(stem, channels).train()
    net(torch.randn(2, 3, *((33, 40) if stem else (9, 10)))).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in net.parameters())


def test_smallest_image_and_one_pixel_maps():
    for stem, side in ((None, 4), ('conv', 32)):
        net = make_small(stem)
        with torch.no_grad():
            assert net.forward_features(torch.randn(1, 3, side, side)).shape == (1, 64, 1, 1)
            assert net(torch.randn(1, 3, side, side)).isfinite().all()
        with pytest.raises(AssertionError, match=f'smaller than {side} x {side} pixels'):
            net(torch.randn(1, 3, side - 1, 2 * side))


def test_save_and_reload_after_a_new_head():
    net = make_small()
    net.reset_classifier(5)
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    other = make_small(num_classes=5)
    for parameter in other.parameters():
        parameter.data.zero_()
    state_dict = torch.load(file, weights_only=True)
    passed = checkpoint_filter_fn(state_dict, other)
    assert all(passed[key] is state_dict[key] for key in state_dict)
    other.load_state_dict(passed)
    x = torch.randn(2, 3, 9, 12)
    with torch.no_grad():
        assert torch.equal(other(x), net(x))


@pytest.mark.parametrize('stem', [None, 'conv'])
def test_weights_load_into_networks_for_one_channel_and_other_classes(tmp_path, stem):
    """first_conv names both layers that see the image where there is no stem."""
    net = make_small(stem)
    torch.save(net.state_dict(), tmp_path / 'weights.pth')
    adapted = timm.create_model(
        'carnet',
        pretrained=True,
        arch=net.arch,
        in_chans=1,
        num_classes=3,
        pretrained_cfg_overlay={'file': str(tmp_path / 'weights.pth'), 'num_classes': 7},
    ).eval()
    x = torch.randn(1, 1, 40, 40)
    with torch.no_grad():
        torch.testing.assert_close(
            adapted.forward_features(x), net.forward_features(x.expand(1, 3, 40, 40)), rtol=1e-4, atol=1e-4
        )


def test_meta_construction_owns_no_memory_and_can_be_filled():
    net = CARNet(make_small().arch, num_classes=7, device='meta')
    assert all(t.is_meta for t in net.state_dict().values())
    filled = net.to_empty(device='cpu')
    for tensor in filled.state_dict().values():
        tensor.fill_(77)
    torch.manual_seed(0)
    filled.init_weights()
    torch.manual_seed(0)
    new = CARNet(make_small().arch, num_classes=7)
    for (name, found), wanted in zip(filled.state_dict().items(), new.state_dict().values(), strict=True):
        if found.ndim < 2 and not name.startswith('head'):
            assert torch.equal(found, wanted), name
        else:
            assert found.abs().max() < 7, name
            if found.numel() > 100:
                assert found.std().item() == pytest.approx(wanted.std().item(), rel=0.3), name


def test_attention_keeps_its_own_initialisation():
    torch.manual_seed(0)
    net = CARNet(uniform('local_k3_h4', 64))
    net.init_weights()
    for block in net.stages[5].blocks:
        assert block.attn.k.weight.std().item() == pytest.approx(1 / math.sqrt(128), rel=0.05)
        assert block.attn.q.weight.std().item() == pytest.approx(1 / math.sqrt(128 * 32), rel=0.05)
        assert block.attn.rel_height.std().item() == pytest.approx(1, rel=0.2)


def test_stochastic_depth_rises_over_the_searched_blocks():
    net = CARNet({'channels': 16, 'operators': MIXED}, drop_path_rate=0.9)
    rates = [m.drop_prob for m in net.modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0.1 * i for i in range(1, 10)])  # the first of ten has none


@pytest.mark.parametrize('stem', [None, 'conv'])
def test_layer_decay_groups_follow_the_depth(stem):
    net = make_small(stem)
    names = {name for name, _ in net.named_parameters()}
    for coarse in (False, True):
        groups = group_parameters(net, net.group_matcher(coarse), reverse=True)
        assert groups.keys() == names
        depths = [group for name, group in groups.items() if name.endswith(('reduce.weight', 'conv.weight'))]
        assert depths == sorted(depths)
        assert {n for n, group in groups.items() if group == max(depths) + 1} == {
            'head.fc.weight',
            'head.fc.bias',
        }
        assert set(groups.values()) == set(range(max(depths) + 2))
        if not coarse:
            blocks = sum(len(stage) for stage in MIXED)
            assert max(depths) + 1 == blocks + (1 if stem is None else 2)


def test_only_position_embeddings_are_not_decayed():
    net = make_small()
    tables = {
        f'{name}.{table}'
        for name, m in net.named_modules()
        if isinstance(m, LocalAttention)
        for table in ('rel_height', 'rel_width')
    }
    assert net.no_weight_decay() == tables
    assert tables <= {name for name, _ in net.named_parameters()}


def test_layouts_types_and_checkpointing_change_nothing_but_rounding():
    net = make_small('conv')
    x = torch.randn(2, 3, 70, 48)
    with torch.no_grad():
        expected = net(x)
        last = net(x.to(memory_format=torch.channels_last))
        torch.testing.assert_close(last, expected, rtol=1e-4, atol=1e-5)
        half = copy.deepcopy(net).to(torch.bfloat16)(x.to(torch.bfloat16))
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, rtol=0.1, atol=0.1 * expected.std().item())
    net.set_grad_checkpointing()
    torch.testing.assert_close(net(x), expected)


def test_networks_pickle_script_and_compile_as_one_graph():
    net = make_small(operators=SHORT)
    x = torch.randn(2, 3, 10, 7)
    with torch.no_grad():
        expected = net(x)
        assert torch.equal(pickle.loads(pickle.dumps(net))(x), expected)
        torch.testing.assert_close(torch.jit.script(net)(x), expected, rtol=1e-4, atol=1e-5)
        compiled = torch.compile(net, fullgraph=True, backend='eager')
        torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-5)


def test_one_exported_network_serves_other_batches_and_sizes():
    """Multiples of the stride, because torch's pooling specialises on whether a side is even."""
    net = make_small('conv', operators=SHORT)
    batch, rows, cols = (torch.export.Dim(name, min=2, max=16) for name in ('batch', 'rows', 'cols'))
    shapes = {'x': {0: batch, 2: 32 * rows, 3: 32 * cols}}
    with torch.no_grad():
        exported = torch.export.export(net, (torch.randn(2, 3, 96, 64),), dynamic_shapes=shapes).module()
        for size in ((3, 3, 64, 128), (2, 3, 96, 96)):
            x = torch.randn(size)
            torch.testing.assert_close(exported(x), net(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ('arch', 'message'),
    [
        (None, 'needs arch='),
        ('no/such/file.json', 'no/such/file.json'),
        (uniform('local_k4_h8'), r'\$.operators\[0\]\[0\].*local_k4_h8'),
        (uniform('conv'), r'\$.operators\[0\]\[0\].*conv.*local_k3_h4.*non_local'),
        (
            uniform('local_k3_h8', 40),
            r'\$.channels: .*40.*multiple of 16, so that 4 and 8 heads divide half',
        ),
        (uniform('non_local', 17), r'\$.channels: .*17.*multiple of 16'),
        (uniform('non_local', 0), r'\$.channels'),
        (uniform('non_local', 16.0), r'\$.channels'),
        (uniform('non_local', 16, 6), r'\$.operators: .*5 or 8 stages, found 6'),
        ({'channels': 16, 'operators': []}, r'\$.operators: .*5 or 8 stages, found 0'),
        ({'channels': 16, 'operators': [['non_local']] * 4 + [[]]}, r'\$.operators\[4\]'),
        ({'channels': 16, 'operators': 'non_local'}, r'\$.operators'),
        ({'channels': 16}, r'\$.operators'),
        (uniform('non_local', stem='darts'), r'\$.stem.*darts'),
        (uniform('non_local', num_heads=4), r'\$.num_heads'),
        (uniform('non_local', 16384), 'weights'),
    ],
)
def test_bad_architectures_are_one_clear_error(arch, message):
    with pytest.raises(ZooError, match=message) as error:
        timm.create_model('carnet', arch=arch)
    assert len(str(error.value).splitlines()) <= 15  # at most one line a fault
