"""S3: the official outputs, timm's networks, and what the network promises for any input size."""

import copy
import pickle

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from zoo.errors import ZooError
from zoo.models.s3 import (
    S3,
    WindowAttention,
    build,
    checkpoint_filter_fn,
    relative_position_bias,
    window_mask,
)

OFFICIAL = {'s3_tiny': 'S3-T', 's3_small': 'S3-S', 's3_base': 'S3-B'}
PARAMS = {'s3_tiny': 28_328_674, 's3_small': 49_737_298, 's3_base': 71_125_762}


def small_arch() -> dict:
    """q-k-v widths unlike the embedding widths, windows that differ inside a stage and divide no map."""
    stages = []
    for dim, heads, windows in [(24, 1, (3, 5)), (40, 2, (4,)), (48, 1, (7, 7, 2)), (64, 3, (6, 3))]:
        blocks = [{'num_heads': heads, 'window_size': w, 'mlp_ratio': 1.5} for w in windows]
        stages.append({'embed_dim': dim, 'blocks': blocks})
    return {'stages': stages}


def make_small(**kwargs) -> S3:
    torch.manual_seed(0)
    net = S3(small_arch(), num_classes=7, **kwargs).eval()
    for name, parameter in net.named_parameters():
        if 'table' in name or parameter.ndim == 1:
            parameter.data.normal_()
    return net


@pytest.mark.parametrize('name', OFFICIAL)
def test_official_weights_give_official_outputs(name, official):
    reference = official(OFFICIAL[name])
    net = timm.create_model(name, num_classes=1000).eval()
    assert sum(p.numel() for p in net.parameters()) == PARAMS[name] == reference.golden['num_parameters']
    net.load_state_dict(checkpoint_filter_fn({'model': reference.state_dict}, net))
    stages, blocks = {}, {}

    def keep(group, tag):
        return lambda module, args, output: group.update({tag: output})

    net.patch_embed.register_forward_hook(keep(stages, 'patch_embed'))
    net.norm.register_forward_hook(keep(stages, 'final_norm'))
    for i, stage in enumerate(net.stages):
        stage.register_forward_hook(keep(stages, f'stage{i + 1}.blocks_out'))
        if i:
            stage.downsample.register_forward_hook(keep(stages, f'stage{i}.downsample_out'))
        for j, block in enumerate(stage.blocks):
            block.register_forward_hook(keep(blocks, f'layers.{i}.blocks.{j}'))
    with torch.no_grad():
        features = net.forward_features(reference.image)
        stages['pre_logits'] = net.forward_head(features, pre_logits=True)
        reference.check_logits(net.forward_head(features))
    for tag in ('patch_embed', 'final_norm', *(f'stage{i}.blocks_out' for i in range(1, 5))):
        stages[tag] = stages[tag].permute(0, 2, 3, 1)
    reference.check_statistics(stages, 'stages')
    reference.check_statistics(blocks, 'blocks')


@pytest.mark.parametrize('name', OFFICIAL)
def test_timm_weights_give_timm_outputs(name):
    size = name.removeprefix('s3_')
    torch.manual_seed(0)
    reference = timm.create_model(f'swin_s3_{size}_224').eval()
    net = timm.create_model(name).eval()
    net.load_state_dict(checkpoint_filter_fn(reference.state_dict(), net))
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(net(x), reference(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(('size', 'always_partition'), [((448, 448), False), ((448, 896), True)])
def test_larger_images_equal_timm_where_nothing_is_padded(size, always_partition):
    """448 and 896 pixels give maps that every window of S3-T divides."""
    torch.manual_seed(0)
    options = dict(img_size=size, always_partition=always_partition)
    reference = timm.create_model('swin_s3_tiny_224', **options).eval()
    net = timm.create_model('s3_tiny', **options).eval()
    net.load_state_dict(checkpoint_filter_fn(reference.state_dict(), net))
    x = torch.randn(1, 3, *size)
    with torch.no_grad():
        torch.testing.assert_close(net(x), reference(x), rtol=0, atol=1e-5)


def naive_attention(attn: WindowAttention, x: torch.Tensor) -> torch.Tensor:
    """Loops over the tokens of an image (H, W, C): each attends to the existing tokens of its window."""
    H, W, _ = x.shape
    win_h, win_w, shift_h, shift_w = attn.window_and_shift(H, W)
    table, (table_h, table_w) = attn.relative_position_bias_table, attn.window_size
    qkv = F.linear(x, attn.qkv.weight, attn.qkv.bias).view(H, W, 3, attn.num_heads, 32)
    # shifted windows start `shift` tokens into the map; the tokens before them make smaller windows
    window_of = [[((i - shift_h) // win_h, (j - shift_w) // win_w) for j in range(W)] for i in range(H)]
    out = torch.zeros(H, W, attn.num_heads * 32, dtype=x.dtype)
    for i in range(H):
        for j in range(W):
            keys = [(a, b) for a in range(H) for b in range(W) if window_of[a][b] == window_of[i][j]]
            for h in range(attn.num_heads):
                scores = torch.stack(
                    [
                        qkv[i, j, 0, h] @ qkv[a, b, 1, h] / 32**0.5
                        + table[i - a + table_h - 1, j - b + table_w - 1, h]
                        for a, b in keys
                    ]
                )
                values = torch.stack([qkv[a, b, 2, h] for a, b in keys])
                out[i, j, 32 * h : 32 * h + 32] = scores.softmax(0) @ values
    return attn.proj(out)


@pytest.mark.parametrize('shifted', [False, True])
@pytest.mark.parametrize('size', [(7, 7), (9, 4), (5, 12), (1, 1), (3, 8)])
def test_window_attention_equals_a_loop_over_tokens(shifted, size):
    """Padding and shifts are invisible: a token sees the existing tokens of its window, nothing else."""
    torch.manual_seed(1)
    attn = WindowAttention(12, 2, (4, 4), shifted).double()
    attn.relative_position_bias_table.data.normal_()
    x = torch.randn(2, *size, 12, dtype=torch.double)
    expected = torch.stack([naive_attention(attn, image) for image in x])
    torch.testing.assert_close(attn(x), expected)


def test_always_partition_only_adds_shifts_on_small_maps():
    torch.manual_seed(1)
    attn = WindowAttention(8, 1, (4, 4), shifted=False, always_partition=True).double()
    attn.relative_position_bias_table.data.normal_()
    x = torch.randn(1, 3, 3, 8, dtype=torch.double)
    full = attn(x)  # a padded 4 x 4 window: the same as a 3 x 3 window with the centre of the table
    attn.always_partition = False
    torch.testing.assert_close(full, attn(x))
    attn.shifted = True
    torch.testing.assert_close(full, attn(x))
    attn.always_partition = True
    assert not torch.allclose(full, attn(x))


@given(height=st.integers(1, 6), width=st.integers(1, 6), data=st.data())
def test_relative_position_bias_reads_the_offset_of_query_from_key(height, width, data):
    H, W = data.draw(st.integers(height, 7)), data.draw(st.integers(width, 7))
    table = torch.arange((2 * H - 1) * (2 * W - 1) * 2).view(2 * H - 1, 2 * W - 1, 2)
    bias = relative_position_bias(table, height, width)
    q, k = data.draw(st.integers(0, height * width - 1)), data.draw(st.integers(0, height * width - 1))
    (qi, qj), (ki, kj) = divmod(q, width), divmod(k, width)
    assert torch.equal(bias[:, q, k], table[qi - ki + H - 1, qj - kj + W - 1])


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_every_token_sees_itself(height, width, win_h, win_w, shifted):
    shift = (win_h // 2, win_w // 2) if shifted else (0, 0)
    mask = window_mask(height, width, (win_h, win_w), shift, torch.device('cpu'))
    assert mask.diagonal(dim1=1, dim2=2).all()


@pytest.mark.parametrize('size', [(32, 32), (33, 71), (95, 64), (128, 40)])
def test_any_input_size(size):
    net = make_small()
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        final, maps = net.forward_intermediates(x)
        expected = [
            (2, info['num_chs'], *[-(-s // info['reduction']) for s in size]) for info in net.feature_info
        ]
        assert [tuple(m.shape) for m in maps] == expected
        assert torch.equal(final, net.forward_features(x))
        torch.testing.assert_close(net(x), torch.cat([net(x[:1]), net(x[1:])]), rtol=1e-4, atol=1e-5)


def test_a_smaller_input_than_the_stride_is_refused():
    with pytest.raises(AssertionError, match='smaller than 32 x 32'):
        make_small()(torch.zeros(1, 3, 31, 64))


def test_channels_last_bf16_and_checkpointing_change_nothing_but_rounding():
    net = make_small()
    x = torch.randn(2, 3, 64, 48)
    with torch.no_grad():
        expected = net(x)
        torch.testing.assert_close(net(x.to(memory_format=torch.channels_last)), expected)
        half = copy.deepcopy(net).to(torch.bfloat16)(x.to(torch.bfloat16))
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, rtol=0.1, atol=0.1 * expected.std().item())
    net.set_grad_checkpointing()
    torch.testing.assert_close(net(x), expected)


def test_set_input_size_scales_windows_and_resizes_tables():
    net = timm.create_model('s3_tiny', num_classes=3, drop_path_rate=0.0).eval()
    before = copy.deepcopy(net.state_dict())
    net.set_input_size(224)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    net.set_input_size(448)
    windows = [stage.blocks[0].attn.window_size for stage in net.stages]
    assert windows == [(14, 14), (14, 14), (28, 28), (14, 14)]
    rebuilt = timm.create_model('s3_tiny', **net._model_args).eval()
    rebuilt.load_state_dict(net.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(rebuilt(x), net(x))


def test_weights_of_other_windows_are_resized_on_load():
    reference = make_small()
    net = make_small(window_size=(5, 4, 6, 3))
    net.load_state_dict(checkpoint_filter_fn(reference.state_dict(), net))
    table = net.stages[0].blocks[1].attn.relative_position_bias_table
    assert torch.equal(table, reference.stages[0].blocks[1].attn.relative_position_bias_table)
    assert net.stages[2].blocks[0].attn.relative_position_bias_table.shape == (11, 11, 1)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(window_size=0), 'window_size'),
        (dict(window_size=(7, 7)), 'found 2 stages, 4 are needed'),
        (dict(window_size=(7, 7, 7, [(7, 7)])), 'for stage 3'),
        (dict(arch={'stages': []}), r'arch: \$.stages'),
        (dict(arch=None), 'needs arch='),
        (
            dict(arch={'stages': [{'embed_dim': 8, 'blocks': [{'num_heads': 0, 'window_size': 7}]}]}),
            'num_heads',
        ),
        (dict(arch='no/such/file.json'), 'no/such/file.json'),
    ],
)
def test_bad_arguments_are_one_clear_error(kwargs, message):
    with pytest.raises(ZooError, match=message):
        timm.create_model('s3', **({'arch': small_arch()} | kwargs), num_classes=2)


def test_absurd_sizes_are_refused_before_memory_is_taken():
    block = {'num_heads': 512, 'window_size': 255, 'mlp_ratio': 64.0}
    with pytest.raises(ZooError, match='weights'):
        S3({'stages': [{'embed_dim': 16384, 'blocks': [block] * 256}]})


def test_generic_entrypoint_rebuilds_from_json_alone():
    net = timm.create_model('s3', arch=small_arch(), num_classes=4, img_size=64)
    assert net.num_classes == 4
    assert [stage.blocks[0].attn.num_heads for stage in net.stages] == [1, 2, 1, 3]


def test_networks_are_picklable_and_compile_without_graph_breaks():
    net = make_small()
    x = torch.randn(1, 3, 64, 40)
    with torch.no_grad():
        assert torch.equal(pickle.loads(pickle.dumps(net))(x), net(x))
        explained = torch._dynamo.explain(net)(x)
    assert explained.graph_break_count == 0


def test_every_parameter_gets_a_gradient_with_padding_and_shifts():
    net = make_small(drop_path_rate=0.0).train()
    net(torch.randn(2, 3, 150, 118)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_meta_construction_owns_no_memory_and_can_be_filled():
    net = build(S3(small_arch(), device='meta').arch, 's3', num_classes=7, device='meta')
    assert all(t.is_meta for t in net.state_dict().values())
    filled = net.to_empty(device='cpu')
    filled.init_weights()
    filled.load_state_dict(make_small().state_dict())
    x = torch.randn(1, 3, 40, 50)
    with torch.no_grad():
        assert torch.equal(filled.eval()(x), make_small()(x))
