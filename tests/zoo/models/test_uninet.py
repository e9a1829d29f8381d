"""UniNet: the official outputs and counts, and direct formulas for what the official code does not have."""

import copy
import itertools
import math
import pickle
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from timm.layers import DropPath
from timm.models import group_parameters
from torch import Tensor, nn

import zoo
from zoo.errors import ZooError
from zoo.layers.context_downsample import ContextDownsample
from zoo.layers.token_mixing import TokenMixing, resample_map, resample_token_mixing
from zoo.layers.window_attention import SelfAttention
from zoo.models.uninet import Arch, ConvBlock, UniNet, build, checkpoint_filter_fn, num_heads
from zoo.profile import profile

# Params, and MACs in G, of the official code's networks (its B0 is uninet_b0) and of the reconstructed ones.
COUNTS = {
    'uninet_b0': (11_450_864, 0.543530688),
    'uninet_b1': (13_861_408, 0.982525952),
    'uninet_b2': (22_774_240, 2.32449824),
    'uninet_b3': (31_700_664, 4.179772416),
    'uninet_b4': (73_594_912, 9.766071296),
    'uninet_b5': (73_594_912, 23.143671296),
    'uninet_eccv_b1': (11_450_864, 1.0946),
    'uninet_eccv_b2': (16_211_472, 2.1140),
    'uninet_eccv_b3': (24_020_184, 4.1856),
    'uninet_eccv_b4': (43_796_288, 9.2961),
    'uninet_eccv_b5': (72_883_072, 20.1903),
    'uninet_eccv_b6': (116_687_344, 50.5074),
}
OPERATORS = ('dwconv', 'conv', 'sa', 'lsa', 'mlp')
DOWNSAMPLES = ('l', 'lg', 'g')


def small_arch(
    operators: tuple[str, ...] = OPERATORS, downsamples: tuple[str, ...] = ('l', 'lg', 'g', 'l', 'lg')
):
    """Five stages behind the first, with widths that no 32 divides."""
    stages: list[dict[str, Any]] = [{'operator': 'dwconv', 'expansion': 1, 'channels': 16, 'repeats': 1}]
    for operator, downsample, channels, repeats in zip(
        operators, downsamples, (24, 36, 40, 40, 72), (1, 2, 1, 1, 2), strict=True
    ):
        stage = {'operator': operator, 'downsample': downsample, 'channels': channels, 'repeats': repeats}
        stages.append({**stage, 'expansion': 2.5})
    return {'stages': stages, 'stem_channels': 16, 'head_channels': 48}


def make_small(arch: dict[str, Any] | None = None, **kwargs: Any) -> UniNet:
    """Every block and every branch takes part: no gain is zero, no layer scale is small."""
    torch.manual_seed(0)
    net = UniNet(arch or small_arch(), **({'img_size': 64, 'num_classes': 7} | kwargs)).eval()
    for parameter in net.parameters():
        scale = 0.5 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
        parameter.data.normal_(0.0, scale)
    return net


def test_official_weights_give_official_outputs(official):
    reference = official('UniNet-B1')
    net = timm.create_model('uninet_eccv_b1').eval()
    assert sum(p.numel() for p in net.parameters()) == reference.golden['num_parameters']
    net.load_state_dict(checkpoint_filter_fn({'model': reference.state_dict}, net))
    stages: dict[str, Tensor] = {}
    blocks: dict[str, Tensor] = {}

    def keep(module: nn.Module, group: dict[str, Tensor], tag: str) -> None:
        module.register_forward_hook(lambda module, args, out: group.update({tag: out.permute(0, 2, 3, 1)}))

    keep(net.stem, stages, 'stem')
    keep(net.conv_head, stages, 'head')
    index = 0
    for i, stage in enumerate(net.stages):
        keep(stage, stages, f'stage{i}.out')
        if i:
            keep(stage.downsample, stages, f'stage{i}.dsm_out')
            index += 1
        for block in stage.blocks:
            keep(block, blocks, f'blocks.{index}')
            index += 1
    with torch.no_grad():
        features = net.forward_features(reference.image)
        stages['pre_logits'] = net.forward_head(features, pre_logits=True)
        reference.check_logits(net.forward_head(features))
    reference.check_statistics(stages, 'stages')
    reference.check_statistics(blocks, 'blocks')


def test_a_checkpoint_fits_its_own_depth_only_and_native_ones_pass_unchanged(official):
    state_dict = official('UniNet-B1').state_dict
    with pytest.raises(ZooError, match='has 28 blocks, this network has 40'):
        checkpoint_filter_fn(state_dict, timm.create_model('uninet_eccv_b2', device='meta'))
    net = make_small()
    native = net.state_dict()
    passed = checkpoint_filter_fn(native, net)
    assert list(passed) == list(native)
    assert all(passed[key] is native[key] for key in native)


@pytest.mark.parametrize('name', COUNTS)
def test_counts(name):
    entry = zoo.load_entry(name)
    net = timm.create_model(name, device='meta')
    found = profile(net)
    params, macs = COUNTS[name]
    assert found.params == params == entry.measured.params
    assert found.macs == pytest.approx(1e9 * macs, rel=1e-4)
    assert (found.macs, found.fvcore) == (entry.measured.macs, entry.measured.cost)
    assert entry.published.reproducible
    assert max(abs(deviation) for deviation in entry.deviations().values()) <= 0.015
    assert entry.arch.num_weights() == pytest.approx(params, rel=0.015)
    assert [info['reduction'] for info in net.feature_info] == [4, 8, 16, 32]
    side = entry.input.size[1]
    assert (entry.input.crop_pct, entry.input.crop_mode) == (
        (0.875, 'center') if side < 320 else (1.0, 'squash')
    )


@pytest.mark.parametrize('operator', OPERATORS)
def test_weights_counted_in_closed_form_are_most_of_the_network(operator):
    for downsample in DOWNSAMPLES:
        arch = small_arch((operator,) * 5, (downsample,) * 5)
        for stage in arch['stages']:
            stage['channels'] *= 8
        net = UniNet(arch, img_size=32, device='meta')
        token_mixing = sum(
            p.numel() for m in net.modules() if isinstance(m, TokenMixing) for p in m.parameters()
        )
        params = sum(p.numel() for p in net.parameters()) - token_mixing
        assert net.arch.num_weights() == pytest.approx(params, rel=0.03)


@given(st.integers(1, 2048))
def test_heads_are_the_largest_divisor_up_to_one_in_32_channels(channels):
    heads = num_heads(channels)
    assert channels % heads == 0
    assert heads <= max(1, channels // 32)
    assert all(channels % more for more in range(heads + 1, channels // 32 + 1))
    if channels % 32 == 0:
        assert heads == channels // 32


@pytest.mark.parametrize(('operator', 'downsample'), list(itertools.product(OPERATORS, DOWNSAMPLES)))
def test_every_operator_with_every_module_on_odd_sizes(operator, downsample):
    net = make_small(small_arch((operator,) * 5, (downsample,) * 5))
    x = torch.randn(2, 3, 75, 97)
    with torch.no_grad():
        final, maps = net.forward_intermediates(x)
        for features, info in zip(maps, net.feature_info, strict=True):
            sides = [math.ceil(side / info['reduction']) for side in (75, 97)]
            assert list(features.shape) == [2, info['num_chs'], *sides]
        assert torch.equal(final, net.forward_features(x))
        torch.testing.assert_close(net(x), torch.cat([net(x[:1]), net(x[1:])]), rtol=1e-4, atol=1e-5)
    net.train()
    net(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attention of one image written out head by head: (N, C), (M, C), (M, C) -> (N, C)."""
    out = []
    for query, key, value in zip(q.chunk(heads, 1), k.chunk(heads, 1), v.chunk(heads, 1), strict=True):
        out.append((query @ key.t() / math.sqrt(query.shape[1])).softmax(1) @ value)
    return torch.cat(out, 1)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 5), st.integers(1, 3))
def test_attention_equals_a_loop_over_windows(height, width, window, heads):
    """Padding is invisible: a position sees what exists of its window; window 0 is the whole map."""
    torch.manual_seed(height * 100 + width * 10 + window)
    attn = SelfAttention(4 * heads, heads, window).double()
    x = torch.randn(2, height, width, 4 * heads, dtype=torch.double)
    q, k, v = F.linear(x, attn.qkv.weight, attn.qkv.bias).chunk(3, 3)
    expected = torch.zeros_like(x)
    step_h, step_w = (window, window) if window else (height, width)
    for b, i, j in itertools.product(range(2), range(0, height, step_h), range(0, width, step_w)):
        cut = (b, slice(i, i + step_h), slice(j, j + step_w))
        seen = [t[cut].reshape(-1, 4 * heads) for t in (q, k, v)]
        expected[cut] = attend(*seen, heads).reshape(expected[cut].shape)
    torch.testing.assert_close(attn(x), attn.proj(expected))


@pytest.mark.parametrize('size', [(7, 10), (5, 1), (8, 6)])
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('local', [True, False])
def test_context_downsampling_equals_its_formula(local, stride, size):
    torch.manual_seed(0)
    module = ContextDownsample(6, 8, stride, num_heads=2, local=local).double().eval()
    module.q_bn.running_mean.normal_()
    module.q_bn.running_var.uniform_(0.5, 2)
    x = torch.randn(1, 6, *size, dtype=torch.double)
    out_h, out_w = (math.ceil(side / stride) for side in size)

    def depthwise(x: Tensor, conv: nn.Conv2d, step_h: int, step_w: int) -> Tensor:
        """A depthwise convolution as a sum over its taps, on a map padded with zeros."""
        (kernel_h, kernel_w), (H, W) = conv.weight.shape[2:], x.shape[2:]
        padded = F.pad(x, (kernel_w // 2,) * 2 + (kernel_h // 2,) * 2)
        out = conv.bias.view(1, -1, 1, 1)
        for a, b in itertools.product(range(kernel_h), range(kernel_w)):
            shifted = padded[:, :, a : a + H : step_h, b : b + W : step_w]
            out = out + conv.weight[:, 0, a, b].view(1, -1, 1, 1) * shifted
        return out

    if local:
        q = depthwise(x, module.q_conv, stride, stride)
    else:
        q = depthwise(depthwise(x, module.q_conv[0], 1, stride), module.q_conv[1], stride, 1)
    assert q.shape[2:] == (out_h, out_w)
    q = module.q_proj(module.q_bn(q))[0].flatten(1).t()
    k, v = F.linear(module.kv_norm(x[0].flatten(1).t()), module.kv.weight, module.kv.bias).chunk(2, 1)
    expected = module.proj(attend(module.q_norm(q), k, v, 2)).t().reshape(1, 8, out_h, out_w)
    if local:
        padded = F.pad(x, (1, 1, 1, 1), value=-math.inf)
        pooled = torch.stack(
            [
                padded[:, :, a : a + size[0] : stride, b : b + size[1] : stride]
                for a, b in itertools.product(range(3), range(3))
            ]
        ).amax(0)
        expected = expected + module.shortcut.conv(pooled if stride > 1 else x)
    torch.testing.assert_close(module(x), expected)


def test_token_mixing_is_exact_at_its_grid_and_resamples_elsewhere():
    torch.manual_seed(0)
    module = TokenMixing((4, 6), hidden_dim=5).double()
    fc1, fc2 = module.mlp.fc1, module.mlp.fc2
    x = torch.randn(2, 4, 6, 3, dtype=torch.double)
    tokens = x.reshape(2, 24, 3).transpose(1, 2)  # transpose - FFN - transpose
    expected = F.linear(F.gelu(F.linear(tokens, fc1.weight, fc1.bias)), fc2.weight, fc2.bias)
    torch.testing.assert_close(module(x), expected.transpose(1, 2).reshape(2, 4, 6, 3), rtol=0, atol=1e-14)

    other = torch.randn(2, 7, 3, 3, dtype=torch.double).permute(0, 3, 1, 2)
    to_grid = F.interpolate(other, (4, 6), mode='bilinear').permute(0, 2, 3, 1)
    back = F.interpolate(module(to_grid).permute(0, 3, 1, 2), (7, 3), mode='bilinear')
    torch.testing.assert_close(module(other.permute(0, 2, 3, 1)), back.permute(0, 2, 3, 1))
    assert resample_map(other, 7, 3) is other


@given(st.tuples(*[st.integers(1, 6)] * 4))
def test_resampled_token_mixing_weights_compute_the_same(sides):
    old_size, new_size = sides[:2], sides[2:]
    torch.manual_seed(sum(sides))
    old, new = TokenMixing(old_size, 5), TokenMixing(new_size, 5)
    new.mlp.load_state_dict(resample_token_mixing(old.mlp.state_dict(), old_size, new_size))
    x = torch.randn(2, *new_size, 3)
    torch.testing.assert_close(new(x), old(x), rtol=1e-4, atol=1e-5)


def test_a_checkpoint_for_another_image_size_computes_the_same_there():
    square, wide = small_arch(), small_arch(('mlp',) * 5)
    for arch, old, new in ((square, 64, (96, 40)), (wide, (64, 96), 80)):
        reference = make_small(arch, img_size=old)
        net = make_small(arch, img_size=new)
        if old != 64:
            with pytest.raises(ZooError, match='mixes 384 positions'):
                checkpoint_filter_fn(reference.state_dict(), net)
            net.pretrained_model_args = {'img_size': old}
        net.load_state_dict(checkpoint_filter_fn(reference.state_dict(), net))
        x = torch.randn(1, 3, *net.img_size)
        with torch.no_grad():
            torch.testing.assert_close(net(x), reference(x), rtol=1e-3, atol=1e-4)


def test_image_size_changes_nothing_without_token_mixing():
    arch = small_arch(('dwconv', 'conv', 'sa', 'lsa', 'sa'))
    x = torch.randn(1, 3, 50, 70)
    with torch.no_grad():
        assert torch.equal(make_small(arch, img_size=32)(x), make_small(arch, img_size=(96, 480))(x))


def test_initial_weights():
    torch.manual_seed(0)
    net = UniNet(small_arch(), img_size=64, drop_path_rate=0.8)
    gains = [m.project_norm.weight for m in net.modules() if isinstance(m, ConvBlock)]
    assert len(gains) == 4
    assert all(not gain.any() for gain in gains)
    assert all(p.eq(1e-6).all() for name, p in net.named_parameters() if name.endswith('gamma'))
    linear = torch.cat([m.weight.flatten() for m in net.modules() if isinstance(m, nn.Linear)])
    assert linear.std().item() == pytest.approx(0.02, rel=0.03)
    rates = [m.drop_prob for m in net.modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0.8 * i / 7 for i in range(1, 8)])  # the eighth block, the first, has none


def test_the_frame_can_be_made_for_small_images():
    arch = small_arch() | {'strides': (1, 1, 2, 1, 2, 1), 'stem_stride': 1}
    net = make_small(arch, img_size=32)
    assert [(info['module'], info['reduction']) for info in net.feature_info] == [
        ('stages.1', 1),
        ('stages.3', 2),
        ('stages.5', 4),
    ]
    features = timm.create_model('uninet', arch=arch, img_size=32, features_only=True)
    with torch.no_grad():
        assert [m.shape[2] for m in features(torch.randn(1, 3, 32, 32))] == [32, 16, 8]


def test_layouts_types_and_checkpointing_change_nothing_but_rounding():
    net = make_small()
    x = torch.randn(2, 3, 70, 48)
    with torch.no_grad():
        expected = net(x)
        torch.testing.assert_close(
            net(x.to(memory_format=torch.channels_last)), expected, rtol=1e-4, atol=1e-5
        )
        half = copy.deepcopy(net).to(torch.bfloat16)(x.to(torch.bfloat16))
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, rtol=0.1, atol=0.1 * expected.std().item())
    net.set_grad_checkpointing()
    torch.testing.assert_close(net(x), expected)


def test_networks_pickle_script_export_and_compile_as_one_graph():
    net = make_small()
    x = torch.randn(2, 3, 70, 48)
    with torch.no_grad():
        expected = net(x)
        assert torch.equal(pickle.loads(pickle.dumps(net))(x), expected)
        torch.testing.assert_close(torch.jit.script(net)(x), expected, rtol=1e-4, atol=1e-5)
        exported = torch.export.export(net, (x,), dynamic_shapes={'x': {0: torch.export.Dim('batch', max=8)}})
        torch.testing.assert_close(exported.module()(x[:1]), expected[:1], rtol=1e-4, atol=1e-5)
        compiled = torch.compile(net, fullgraph=True, backend='eager')
        torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-5)


def test_meta_construction_owns_no_memory_and_can_be_filled():
    net = build(
        Arch.model_validate(UniNet(small_arch()).arch), 'uninet', img_size=64, num_classes=7, device='meta'
    )
    assert all(t.is_meta for t in net.state_dict().values())
    filled = net.to_empty(device='cpu')
    filled.init_weights()
    assert all(t.isfinite().all() for t in filled.state_dict().values())
    filled.load_state_dict(make_small().state_dict())
    x = torch.randn(1, 3, 40, 50)
    with torch.no_grad():
        assert torch.equal(filled.eval()(x), make_small()(x))


def test_layer_decay_groups_follow_the_depth():
    net = make_small()
    groups = group_parameters(net, net.group_matcher(), reverse=True)
    assert groups['stem.conv.weight'] == 0
    depth_of = {
        name: groups[name] for name in groups if name.endswith('project.weight') or '.mlp.fc1.' in name
    }
    assert list(depth_of.values()) == sorted(depth_of.values())
    assert groups['stages.3.downsample.kv.weight'] == groups['stages.3.blocks.0.attn.qkv.weight']
    assert groups['conv_head.conv.weight'] == groups['stages.5.blocks.1.norm1.weight']
    coarse = group_parameters(net, net.group_matcher(coarse=True), reverse=True)
    assert (
        max(coarse.values())
        == 1 + coarse['conv_head.conv.weight']
        == 1 + coarse['stages.5.downsample.kv.weight']
    )
    for found in (groups, coarse):
        last = {name for name, group in found.items() if group == max(found.values())}
        assert last == {'head.fc.weight', 'head.fc.bias'}


def changed(stage: int | None = None, **change: Any) -> dict[str, Any]:
    arch = small_arch()
    (arch if stage is None else arch['stages'][stage]).update(change)
    return arch


@pytest.mark.parametrize(
    ('arch', 'message'),
    [
        (None, 'needs arch='),
        ('no/such/file.json', 'no/such/file.json'),
        ({'stages': []}, r'arch: \$.stages'),
        (changed(2, operator='pool'), r'\$.stages\[2\].operator.*pool'),
        (changed(2, downsample='gl'), r'\$.stages\[2\].downsample.*gl'),
        (changed(2, downsample=None), r'stages\[2\].downsample is null, it must be l, lg or g'),
        (changed(0, downsample='l'), r'stages\[0\].downsample is l, it must be null'),
        (changed(0, operator='sa', channels=24), r'stages\[0\]: sa cannot make 24 channels of 16'),
        (changed(3, expansion=0.01), r'stages\[3\]: expansion 0.01 leaves no hidden channel'),
        (changed(3, channels=0), r'\$.stages\[3\].channels'),
        (changed(3, repeats=2.5), r'\$.stages\[3\].repeats'),
        (changed(3, heads=4), r'\$.stages\[3\].heads'),
        (changed(strides=[1, 2, 2]), 'strides has 3 values for 6 stages'),
        (changed(strides=[2, 2, 2, 2, 1, 2]), 'strides must begin with 1'),
        (changed(strides=[1, 2, 3, 2, 1, 2]), r'\$.strides\[2\]'),
        (changed(2, channels=16384, expansion=64, operator='conv'), 'weights'),
    ],
)
def test_bad_architectures_are_one_clear_error(arch, message):
    with pytest.raises(ZooError, match=message):
        timm.create_model('uninet', arch=arch)


def test_too_large_or_too_small_images_are_one_clear_error():
    with pytest.raises(ZooError, match=r'about 4.9e\+09 weights at img_size 40000x40000'):
        UniNet(small_arch(('mlp',) * 5), img_size=40_000)
    with pytest.raises(AssertionError, match='smaller than 32 x 32'):
        make_small()(torch.zeros(1, 3, 31, 64))
