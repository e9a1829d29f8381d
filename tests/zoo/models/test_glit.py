"""GLiT: equal to the authors' network, to naive block arithmetic, and to the contract of a timm model."""

import copy
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models import save_for_hf
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import zoo
from zoo.errors import ZooError
from zoo.models.glit import Arch, BlockArch, GLiT, GlobalLocalBlock, checkpoint_filter_fn, glit_formula

ENTRIES = ('glit_tiny', 'glit_small', 'glit_base')
GLOBAL = {'global_heads': 2, 'local_heads': 0, 'qkv_dim': 24, 'mlp_ratio': 2.0}
LOCAL = {'global_heads': 0, 'local_heads': 2, 'kernel_size': 3, 'expansion': 1.5, 'mlp_ratio': 0.5}
MIXED = {
    'global_heads': 1,
    'local_heads': 1,
    'qkv_dim': 10,
    'kernel_size': 5,
    'expansion': 2.0,
    'mlp_ratio': 1.0,
}
SMALL = {'embed_dim': 16, 'num_heads': 2, 'patch_size': 4, 'blocks': [GLOBAL, LOCAL, MIXED]}


def small(seed: int = 0, **kwargs) -> GLiT:
    """The three kinds of blocks for 32 x 32 pixels, with batch statistics that are not trivial."""
    torch.manual_seed(seed)
    net = GLiT(SMALL, **{'img_size': 32, 'num_classes': 7} | kwargs)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return net.eval()


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


# the official network


def test_logits_and_statistics_of_the_official_network(official):
    reference = official('GLiT-Tiny')
    net = timm.create_model('glit_tiny').eval()
    net.load_state_dict(checkpoint_filter_fn(reference.state_dict, net))
    found = {}

    def keep(tag):
        return lambda module, args, output: found.__setitem__(tag, output)

    net.patch_embed.register_forward_hook(keep('patch_embed'))
    net.blocks.register_forward_pre_hook(
        lambda module, args: found.__setitem__('tokens_after_pos_embed', args[0])
    )
    net.norm.register_forward_hook(keep('final_norm'))
    net.head.register_forward_pre_hook(lambda module, args: found.__setitem__('pre_logits', args[0]))
    for i, block in enumerate(net.blocks):
        block.register_forward_hook(keep(f'blocks.{i}'))
    with torch.no_grad():
        logits = net(reference.image)
    reference.check_logits(logits)
    reference.check_statistics(found, 'stages')
    reference.check_statistics(
        {tag: output for tag, output in found.items() if tag.startswith('blocks.')}, 'blocks'
    )


@pytest.mark.parametrize(
    ('name', 'params'), [('glit_tiny', 7_264_456), ('glit_small', 24_600_616), ('glit_base', 96_146_152)]
)
def test_parameters_and_cost_of_the_entries(name, params):
    entry = zoo.load_entry(name)
    net = timm.create_model(name, device='meta').eval()
    assert sum(p.numel() for p in net.parameters()) == entry.measured.params == params
    assert count_macs(net, 224) == entry.measured.macs
    assert glit_formula(entry.arch, 224) == entry.measured.cost
    deviations = entry.deviations()
    assert deviations.keys() == {'params', 'cost'}
    assert all(abs(deviation) < 0.015 for deviation in deviations.values())


def test_formula_of_the_official_code_block_by_block():
    counts = (
        80.073,
        89.492,
        124.290,
        102.049,
        123.004,
        124.290,
        73.000,
        66.192,
        123.004,
        102.049,
        120.886,
        175.049,
    )
    arch = zoo.load_entry('glit_tiny').arch
    empty = arch.model_copy(update={'blocks': ()})
    assert glit_formula(empty, 224) == 196 * 192 * 768 + 192 * 1000
    for block, count in zip(arch.blocks, counts, strict=True):
        alone = arch.model_copy(update={'blocks': (block,)})
        assert glit_formula(alone, 224) - glit_formula(empty, 224) == pytest.approx(count * 1e6, abs=501)
    assert glit_formula(arch, 224) == pytest.approx(1332.47e6, abs=5001)


@pytest.mark.parametrize('name', ENTRIES[1:])
def test_reconstructed_entries_keep_the_distribution_of_tiny_and_the_values_of_the_space(name):
    tiny, arch = zoo.load_entry('glit_tiny').arch, zoo.load_entry(name).arch
    scale = arch.embed_dim // tiny.embed_dim
    assert arch.num_heads == 3 * scale
    for ours, theirs in zip(arch.blocks, tiny.blocks, strict=True):
        assert (ours.global_heads, ours.local_heads) == (
            theirs.global_heads * scale,
            theirs.local_heads * scale,
        )
        mixed_dim = arch.embed_dim * ours.global_heads // arch.num_heads
        widths = [64 * scale] if ours.local_heads else [96 * scale, 192 * scale, 384 * scale]
        assert ours.qkv_dim in (widths if ours.global_heads else [None])
        assert not ours.local_heads or mixed_dim in (0, 64 * scale)
        assert ours.kernel_size in ((17, 31, 45) if ours.local_heads else (None,))
        assert ours.expansion in ((1, 2, 4) if ours.local_heads else (None,))
        assert ours.mlp_ratio in (2, 4, 6)


# block arithmetic


def naive_block(block: GlobalLocalBlock, arch: BlockArch, x: Tensor) -> Tensor:
    """Section 3.1 token by token and head by head: x is (N, C) with the class token first."""
    p = dict(block.state_dict())

    def linear(name: str, y: Tensor) -> Tensor:
        return y @ p[f'{name}.weight'].T + p[f'{name}.bias']

    def layer_norm(name: str, y: Tensor) -> Tensor:
        y = y - y.mean(1, keepdim=True)
        return y / (y.square().mean(1, keepdim=True) + 1e-6).sqrt() * p[f'{name}.weight'] + p[f'{name}.bias']

    y = layer_norm('norm1', x)
    width = x.shape[1] * arch.global_heads // (arch.global_heads + arch.local_heads)
    parts = []
    if arch.global_heads:
        q, k, v = linear('attn.qkv', y[:, :width]).chunk(3, dim=1)
        head_dim, heads = arch.qkv_dim // arch.global_heads, []
        for h in range(arch.global_heads):
            rows = slice(h * head_dim, (h + 1) * head_dim)
            weights = (q[:, rows] @ k[:, rows].T / math.sqrt(head_dim)).exp()
            heads.append(weights / weights.sum(1, keepdim=True) @ v[:, rows])
        parts.append(linear('attn.proj', torch.cat(heads, 1)))
    if arch.local_heads:
        value, gate = linear('conv.expand', y[:, width:]).chunk(2, dim=1)
        z = value / (1 + (-gate).exp())
        kernel, half = p['conv.dwconv.weight'][:, 0, 0], arch.kernel_size // 2
        out = []
        for n in range(len(z)):
            taps = [(n + d, d + half) for d in range(-half, half + 1) if 0 <= n + d < len(z)]
            out.append(sum(z[token] * kernel[:, tap] for token, tap in taps) + p['conv.dwconv.bias'])
        z = (torch.stack(out) - p['conv.norm.running_mean']) / (p['conv.norm.running_var'] + 1e-5).sqrt()
        z = z * p['conv.norm.weight'] + p['conv.norm.bias']
        parts.append(linear('conv.project', z / (1 + (-z).exp())))
    x = x + torch.cat(parts, 1)
    hidden = linear('mlp.fc1', layer_norm('norm2', x))
    return x + linear('mlp.fc2', hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))))


@pytest.mark.parametrize('kind', [0, 1, 2], ids=['global', 'local', 'mixed'])
def test_block_is_the_papers_arithmetic(kind):
    net = small().double()
    with torch.no_grad():
        for param in net.blocks.parameters():
            param.normal_(std=0.5)
        x = torch.randn(2, 13, 16, dtype=torch.float64)
        expected = torch.stack([naive_block(net.blocks[kind], net.arch.blocks[kind], tokens) for tokens in x])
        torch.testing.assert_close(net.blocks[kind](x), expected, rtol=1e-10, atol=1e-10)


def test_convolution_follows_the_raster_with_the_class_token_first():
    """On a map of 2 x 3 patches, under a kernel of 3: the class token is 0, the patches 1 to 6."""
    conv = small().blocks[1].conv
    tokens = torch.randn(1, 7, 16)
    seen = torch.autograd.functional.jacobian(lambda x: conv(x)[0].sum(-1), tokens)[:, 0].abs().sum(-1) > 0
    assert seen[0].nonzero().flatten().tolist() == [0, 1]  # the class token sees the first patch
    assert seen[4].nonzero().flatten().tolist() == [3, 4, 5]  # row 1, column 0 sees the end of row 0
    assert torch.equal(seen, (torch.arange(7)[:, None] - torch.arange(7)).abs() <= 1)


# the Arch


@st.composite
def archs(draw) -> dict:
    heads = draw(st.integers(1, 3))
    dim = heads * draw(st.sampled_from([4, 6, 8]))
    blocks = []
    for _ in range(draw(st.integers(1, 3))):
        g = draw(st.integers(0, heads))
        block = {'global_heads': g, 'local_heads': heads - g, 'mlp_ratio': draw(st.sampled_from([0.5, 1, 2]))}
        if g:
            block['qkv_dim'] = g * draw(st.integers(1, 9))
        if g < heads:
            block['kernel_size'] = draw(st.sampled_from([1, 3, 17]))
            block['expansion'] = draw(st.sampled_from([0.5, 1, 3]))
        blocks.append(block)
    return {
        'embed_dim': dim,
        'num_heads': heads,
        'patch_size': draw(st.sampled_from([2, 5])),
        'blocks': blocks,
    }


def count_macs(net: nn.Module, size: int) -> int:
    with FlopCounterMode(display=False) as counter:
        net(torch.empty(1, net.in_chans, size, size, device='meta'))
    return counter.get_total_flops() // 2


@settings(max_examples=40)
@given(archs(), st.sampled_from([10, 15, 23]))
def test_formula_and_weights_are_those_of_the_network(data, size):
    net = GLiT(data, img_size=size, num_classes=5, device='meta').eval()
    halves = sum(
        m.out_features // 2 * m.in_features for n, m in net.named_modules() if n.endswith('conv.expand')
    )
    tokens = net.pos_embed.shape[1]
    assert glit_formula(net.arch, size, num_classes=5) == count_macs(net, size) - tokens * halves
    weights = [
        p.numel() for n, p in net.named_parameters() if p.ndim > 1 and n.startswith(('patch', 'blocks'))
    ]
    assert net.arch.num_weights() == sum(weights)
    assert Arch.model_validate_json(net.arch.model_dump_json(exclude_none=True)) == net.arch


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'blocks': []}, r'\$\.blocks: found 0 items, at least 1 are needed'),
        (
            {'embed_dim': 15, 'blocks': [MIXED]},
            r'blocks\[0\]: embed_dim = 15 cannot be divided into 1 global and 1 local',
        ),
        ({'num_heads': 3}, r'blocks\[0\] has 2 global and 0 local heads, a sum of num_heads = 3 is needed'),
        ({'patch_size': 0}, r'\$\.patch_size: found 0, .*greater than or equal to 1'),
        ({'depth': 3}, r'\$\.depth: found 3, this key is not known'),
        (
            {'blocks': [MIXED, GLOBAL | {'qkv_dim': None}]},
            r'\$\.blocks\[1\]: .*qkv_dim is missing, a block with 2 global',
        ),
        (
            {'blocks': [MIXED, GLOBAL | {'qkv_dim': 25}]},
            'qkv_dim is 25, a multiple of global_heads = 2 is needed',
        ),
        ({'blocks': [MIXED, GLOBAL | {'qkv_dim': '24'}]}, r"\$\.blocks\[1\]\.qkv_dim: found '24'"),
        (
            {'blocks': [MIXED, GLOBAL | {'expansion': 2.0}]},
            'expansion is 2.0, a block without local heads must not have it',
        ),
        (
            {'blocks': [MIXED, GLOBAL | {'kernel_size': 3}]},
            'kernel_size is 3, a block without local heads must not',
        ),
        (
            {'blocks': [MIXED, LOCAL | {'qkv_dim': 24}]},
            'qkv_dim is 24, a block without global heads must not have it',
        ),
        ({'blocks': [MIXED, LOCAL | {'kernel_size': 4}]}, 'kernel_size is 4, an odd number is needed'),
        (
            {'blocks': [MIXED, LOCAL | {'expansion': 1.3}]},
            r'blocks\[1\]\.expansion is 1\.3, which is 20\.8 channels of 16',
        ),
        (
            {'blocks': [MIXED, GLOBAL | {'mlp_ratio': 0.01}]},
            r'blocks\[1\]\.mlp_ratio is 0\.01, which is 0\.16 channels',
        ),
        ({'blocks': [MIXED, GLOBAL | {'global_heads': -2}]}, r'\$\.blocks\[1\]\.global_heads: found -2'),
        (
            {'blocks': [MIXED, {k: v for k, v in MIXED.items() if k != 'mlp_ratio'}]},
            r'blocks\[1\]\.mlp_ratio: found nothing',
        ),
    ],
)
def test_a_wrong_architecture_is_one_sentence(changes, message):
    with pytest.raises(ZooError, match=message) as error:
        GLiT(SMALL | changes)
    assert len(str(error.value).splitlines()) == 1


def test_absurd_sizes_are_refused_before_memory_is_taken():
    block = {'global_heads': 512, 'local_heads': 0, 'qkv_dim': 16384, 'mlp_ratio': 64.0}
    with pytest.raises(ZooError, match='weights'):
        GLiT({'embed_dim': 16384, 'num_heads': 512, 'blocks': [block] * 256})


# input sizes


@pytest.mark.parametrize('size', [(32, 32), (16, 48), (40, 24), (48, 48)])
def test_three_ways_to_another_input_size_agree(size):
    net, x = small(), torch.randn(2, 3, *size)
    resized = copy.deepcopy(net)
    resized.set_input_size(size)
    loaded = small(seed=1, img_size=size)
    loaded.load_state_dict(checkpoint_filter_fn(net.state_dict(), loaded))
    dynamic = small(seed=1, dynamic_img_size=True)
    dynamic.load_state_dict(net.state_dict())
    with torch.no_grad():
        close(resized(x), loaded(x))
        close(resized(x), dynamic(x))
    assert resized.patch_embed.grid_size == (size[0] // 4, size[1] // 4)


def test_set_input_size_at_the_same_size_changes_nothing_and_keeps_what_is_frozen():
    net = small().to(torch.bfloat16)
    pos_embed = net.pos_embed
    net.set_input_size(32)
    net.set_input_size()
    assert net.pos_embed is pos_embed
    net.pos_embed.requires_grad_(False)
    net.set_input_size((64, 32))
    assert net.pos_embed.shape == (1, 129, 16)
    assert not net.pos_embed.requires_grad
    assert net.pos_embed.dtype == torch.bfloat16
    assert torch.equal(net.pos_embed[:, 0], pos_embed[:, 0])


def test_another_size_than_set_is_refused():
    with pytest.raises(AssertionError, match=r"height \(36\) doesn't match model \(32\)"):
        small()(torch.zeros(1, 3, 36, 32))
    with pytest.raises(AssertionError, match=r'width \(2\) should be divisible by patch size \(4\)'):
        small(dynamic_img_size=True)(torch.zeros(1, 3, 4, 2))
    for make in (lambda: small(img_size=(32, 3)), lambda: small().set_input_size((32, 3))):
        with pytest.raises(ZooError, match='img_size is 32 x 3, at least one patch of 4 pixels is needed'):
            make()


# checkpoints


def official_layout(net: GLiT) -> dict[str, Tensor]:
    """What the authors' class would save for these weights."""
    renamed = {'expand': '1', 'dwconv': '3.conv', 'norm': '4', 'project': '6'}
    out = {}
    for key, value in net.state_dict().items():
        if match := re.fullmatch(r'(blocks\.\d+)\.conv\.(\w+)\.(\w+)', key):
            block, layer, name = match.groups()
            if name == 'weight' and layer in ('expand', 'project'):
                value = value[:, :, None]
            elif name == 'weight' and layer == 'dwconv':
                value = value[:, :, 0]
            key = f'{block}.attn.net.{renamed[layer]}.{name}'
        out[re.sub(r'^(blocks\.\d+)\.', r'\1.0.', key)] = value
    return out


def test_official_layout_of_all_kinds_of_blocks_loads():
    net, other = small(), small(seed=1)
    official = official_layout(net)
    assert not official.keys() & {key for key in net.state_dict() if key.startswith('blocks')}
    training = {'model': official, 'optimizer': {'state': {}}, 'epoch': 299}
    other.load_state_dict(checkpoint_filter_fn(training, other))
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in net.state_dict().items())


def test_layout_of_the_official_state_dict_is_converted_completely(official):
    reference = official('GLiT-Tiny').state_dict
    net = timm.create_model('glit_tiny', device='meta')
    converted = checkpoint_filter_fn(reference, net)
    expected = {key: value.shape for key, value in net.state_dict().items() if 'num_batches' not in key}
    assert {key: value.shape for key, value in converted.items()} == expected


def test_native_checkpoint_passes_unchanged_and_foreign_keys_stay():
    net = small()
    native = dict(sorted(net.state_dict().items()))
    headless = {key: value for key, value in native.items() if not key.startswith('head')}
    for state in (native, headless):
        converted = checkpoint_filter_fn(state, net)
        assert list(converted) == list(state)
        assert all(converted[key] is state[key] for key in state)
    distilled = native | {'pos_embed': torch.zeros(1, 66, 16), 'dist_token': torch.zeros(1, 1, 16)}
    with pytest.raises(RuntimeError, match=r'(?s)dist_token.*pos_embed.*66'):
        net.load_state_dict(checkpoint_filter_fn(distilled, net))
    with pytest.raises(RuntimeError, match=r'attn\.net\.9'):
        net.load_state_dict(
            checkpoint_filter_fn(native | {'blocks.1.0.attn.net.9.bias': torch.zeros(1)}, net)
        )


def test_weights_that_are_nowhere_or_of_another_network_are_one_sentence():
    with pytest.raises(ZooError, match='glit_tiny has weights that cannot be fetched'):
        timm.create_model('glit_tiny', pretrained=True)
    foreign = {'state_dict': timm.create_model('vit_tiny_patch16_224').state_dict()}
    with pytest.raises(ZooError, match=r'Weights of glit_tiny .* tensors are missing'):
        timm.create_model('glit_tiny', pretrained=True, pretrained_cfg_overlay=foreign)


@pytest.mark.parametrize('change', ['nothing', 'new head', 'resized', 'grey'])
def test_exported_network_of_no_registry_is_rebuilt_from_its_folder(tmp_path: Path, change):
    in_chans = 1 if change == 'grey' else 3
    net = timm.create_model(
        'glit', arch=SMALL, img_size=32, num_classes=7, in_chans=in_chans, global_pool='avg'
    )
    if change == 'new head':
        net.reset_classifier(4, 'max')
    if change == 'resized':
        net.set_input_size((24, 40))
    save_for_hf(net, tmp_path, safe_serialization=True)
    assert json.loads((tmp_path / 'config.json').read_text())['model_args']['arch'] == SMALL
    again = timm.create_model(f'local-dir:{tmp_path}', pretrained=True).eval()
    x = torch.randn(2, in_chans, *net.patch_embed.img_size)
    with torch.no_grad():
        assert torch.equal(again(x), net.eval()(x))


# timm's contract


def test_generic_entrypoint_takes_an_arch_a_dict_or_a_file(tmp_path: Path):
    path = tmp_path / 'arch.json'
    path.write_text(json.dumps(SMALL))
    for arch in (SMALL, Arch.model_validate_json(json.dumps(SMALL)), path, str(path)):
        assert timm.create_model('glit', arch=arch, img_size=32, device='meta').arch.embed_dim == 16
    with pytest.raises(ZooError, match='glit needs arch='):
        timm.create_model('glit')
    with pytest.raises(TypeError):
        timm.create_model('glit', arch=SMALL, embed_dim=3)


def test_pooling_and_heads():
    net, x = small(), torch.randn(2, 3, 32, 32)
    tokens = net.forward_features(x)
    assert tokens.shape == (2, 65, 16)
    pooled = {
        'token': tokens[:, 0],
        'avg': tokens[:, 1:].mean(1),
        'max': tokens[:, 1:].amax(1),
        'avgmax': (tokens[:, 1:].mean(1) + tokens[:, 1:].amax(1)) / 2,
        '': tokens,
    }
    for pool, expected in pooled.items():
        net.reset_classifier(5, pool)
        assert net.get_classifier() is net.head
        close(net.forward_head(tokens, pre_logits=True), expected)
        close(net(x), F.linear(expected, net.head.weight, net.head.bias))
        assert small(global_pool=pool)(x).shape == (*expected.shape[:-1], 7)
        net.reset_classifier(0)
        assert (net.global_pool, net.num_classes) == (pool, 0)
        close(net(x), expected)
    for make in (lambda: net.reset_classifier(5, 'map'), lambda: small(global_pool='fast')):
        with pytest.raises(AssertionError, match='global_pool is'):
            make()


def test_new_classifier_keeps_dtype_and_mode():
    net = small().to(torch.float64)
    net.reset_classifier(3)
    assert (net.head.weight.dtype, net.head.training) == (torch.float64, False)
    assert timm.create_model('glit', arch=SMALL, img_size=32, num_classes=0).num_classes == 0


def test_intermediates_are_the_blocks_outputs():
    net, x = small(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        final, maps = net.forward_intermediates(x)
        assert [tuple(m.shape) for m in maps] == [(2, 16, 8, 8)] * 3
        assert torch.equal(final, net.forward_features(x))
        tokens = net.forward_intermediates(x, [0, -1], output_fmt='NLC', intermediates_only=True)
        assert torch.equal(tokens[1].transpose(1, 2).reshape(2, 16, 8, 8), maps[2])
        pairs = net.forward_intermediates(x, 1, return_prefix_tokens=True, norm=True, output_fmt='NLC')[1]
        assert torch.equal(torch.cat([pairs[0][1], pairs[0][0]], 1), final)
        early, taken = net.forward_intermediates(x, [1], stop_early=True)
        close(early[:, 1:], net.norm(taken[0].flatten(2).transpose(1, 2)))
        backbone = timm.create_model(
            'glit', arch=SMALL, img_size=32, features_only=True, out_indices=(0, 2)
        ).eval()
        backbone.model.load_state_dict(net.state_dict(), strict=False)
        assert all(torch.equal(a, b) for a, b in zip(backbone(x), (maps[0], maps[2]), strict=True))
    assert backbone.feature_info.channels() == [16, 16]
    assert backbone.feature_info.reduction() == [4, 4]
    with pytest.raises(AssertionError, match='NCHW or NLC'):
        net.forward_intermediates(x, output_fmt='NHWC')


def test_dynamic_size_gives_maps_of_that_size():
    net = small(dynamic_img_size=True)
    with torch.no_grad():
        maps = net.forward_intermediates(torch.randn(1, 3, 20, 44), intermediates_only=True)
    assert [tuple(m.shape) for m in maps] == [(1, 16, 5, 11)] * 3


def test_pruning():
    x = torch.randn(2, 3, 32, 32)
    whole = small()
    assert whole.prune_intermediate_layers([-1], prune_head=False) == [2]
    close(whole(x), small()(x))
    net = small()
    taken = net.forward_intermediates(
        x, [1], return_prefix_tokens=True, output_fmt='NLC', intermediates_only=True
    )
    assert net.prune_intermediate_layers([0, 1], prune_norm=True) == [0, 1]
    assert len(net.blocks) == 2
    close(net(x), torch.cat(taken[0][::-1], 1))
    net(x).sum().backward()
    assert all(param.grad is not None for param in net.parameters())


def test_parameter_groups_cover_every_parameter():
    net = small()
    exempt = net.no_weight_decay()
    groups = param_groups_layer_decay(net, 0.05, exempt, layer_decay=0.5)
    group_of = {id(param): group for group in groups for param in group['params']}
    scale = {name: group_of[id(param)]['lr_scale'] for name, param in net.named_parameters()}
    decayed = {name for name, param in net.named_parameters() if group_of[id(param)]['weight_decay']}
    assert exempt == {name for name, param in net.named_parameters() if param.ndim > 1} - decayed
    expected = {'cls_token': 4, 'pos_embed': 4, 'patch_embed.proj.weight': 4, 'blocks.0.norm1.weight': 3}
    expected |= {'blocks.2.mlp.fc2.bias': 1, 'norm.weight': 1, 'head.weight': 0}
    assert {name: scale[name] for name in expected} == {name: 0.5**depth for name, depth in expected.items()}


def test_initialisation_is_the_authors_and_is_restored_from_empty_memory():
    arch = zoo.load_entry('glit_tiny').arch
    torch.manual_seed(0)
    fresh = GLiT(arch)
    emptied = GLiT(arch, device='meta').to_empty(device='cpu')
    for tensor in (*emptied.parameters(), *emptied.buffers()):
        tensor.detach().fill_(7)
    emptied.init_weights()
    for net in (fresh, emptied):
        named = dict(net.named_parameters())
        for name in (
            'cls_token',
            'pos_embed',
            'head.weight',
            'blocks.0.attn.qkv.weight',
            'blocks.2.mlp.fc1.weight',
        ):
            assert named[name].std().item() == pytest.approx(0.02, rel=0.2), name
        for name, fan_in in (
            ('expand.weight', 192),
            ('expand.bias', 192),
            ('dwconv.weight', 31),
            ('project.bias', 384),
        ):
            assert named[f'blocks.1.conv.{name}'].std().item() == pytest.approx(
                (3 * fan_in) ** -0.5, rel=0.1
            ), name
        assert not any(
            named[f'blocks.0.{name}.bias'].any() for name in ('attn.qkv', 'attn.proj', 'mlp.fc1', 'norm1')
        )
        norm = net.blocks[1].conv.norm
        for name, value in (
            ('weight', 1),
            ('bias', 0),
            ('running_mean', 0),
            ('running_var', 1),
            ('num_batches_tracked', 0),
        ):
            assert (getattr(norm, name) == value).all(), name


def test_drop_path_rises_linearly():
    net = small(drop_path_rate=0.2)
    rates = [getattr(block.drop_path1, 'drop_prob', 0.0) for block in net.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2])
    assert [getattr(block.drop_path2, 'drop_prob', 0.0) for block in net.blocks] == rates


def test_images_of_a_batch_do_not_mix():
    net, x = small(), torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        close(net(x), torch.cat([net(image[None]) for image in x]))


def test_dtypes_devices_and_memory_formats():
    net, x = small(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = net(x)
        close(
            copy.deepcopy(net).to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last)),
            expected,
        )
        half = copy.deepcopy(net).to(torch.bfloat16)(x.to(torch.bfloat16))
        with torch.autocast('cpu', torch.bfloat16):
            mixed = net(x)
    for out in (half, mixed):
        assert out.dtype == torch.bfloat16
        assert (out.float() - expected).abs().max() < 0.05 * expected.std()
    with torch.device('meta'):
        implicit = GLiT(SMALL, img_size=32)
    for meta in (implicit, GLiT(SMALL, img_size=32, device='meta', dtype=torch.bfloat16)):
        assert all(tensor.is_meta for tensor in (*meta.parameters(), *meta.buffers()))
        assert meta(torch.empty(2, 3, 32, 32, device='meta', dtype=meta.head.weight.dtype)).shape == (2, 1000)


def test_checkpointing_changes_no_gradient():
    x, grads = torch.randn(2, 3, 32, 32), []
    for enable in (False, True):
        net = small()
        net.set_grad_checkpointing(enable)
        net(x).square().sum().backward()
        grads.append([param.grad for param in net.parameters()])
    for a, b in zip(*grads, strict=True):
        close(a, b)


def compiled(dynamic: bool) -> Iterator[nn.Module]:
    net = small(dynamic_img_size=dynamic)
    yield torch.compile(net, fullgraph=True, backend='eager')
    yield torch.jit.script(small(dynamic_img_size=dynamic))
    batch = torch.export.Dim('batch', min=2, max=16)
    yield torch.export.export(net, (torch.randn(2, 3, 32, 32),), dynamic_shapes=({0: batch},)).module()


@pytest.mark.parametrize('dynamic', [False, True])
def test_compile_script_and_export(dynamic):
    net, x = small(dynamic_img_size=dynamic), torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        for same in compiled(dynamic):
            close(same(x), net(x))
