"""Axial attention against loops over positions, and its tables of relative offsets."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from zoo.layers.axial_attention import AxialAttention, axial_attention, relative_embeddings, resize_table


def make(
    dim: int = 5,
    key_dim: int = 6,
    value_dim: int = 8,
    num_heads: int = 2,
    length: int = 5,
    axis: str = 'width',
    **kwargs,
) -> AxialAttention:
    torch.manual_seed(0)
    return AxialAttention(dim, key_dim, value_dim, num_heads, length, axis, **kwargs)


def attend_by_loops(attn: AxialAttention, x: Tensor, axis: str) -> Tensor:
    """One position, head, query and key at a time; the table must have the length of the axis."""
    q, k, v = (torch.einsum('oi,bihw->bohw', m.weight[:, :, 0, 0], x) for m in (attn.q, attn.k, attn.v))
    if axis == 'height':
        q, k, v = (t.transpose(2, 3) for t in (q, k, v))
    B, _, rows, length = q.shape
    heads = attn.num_heads
    out = torch.zeros(B, v.shape[1], rows, length, dtype=x.dtype)
    for b, row, head, o in itertools.product(range(B), range(rows), range(heads), range(length)):
        keys, values = k[b].chunk(heads)[head], v[b].chunk(heads)[head]
        query = q[b].chunk(heads)[head][:, row, o]
        logits = [query @ keys[:, row, p] + query @ attn.rel_pos[p - o + length - 1] for p in range(length)]
        total = sum(logit.exp() for logit in logits)
        mixed = sum(logit.exp() / total * values[:, row, p] for p, logit in enumerate(logits))
        size = values.shape[0]
        out[b, head * size : (head + 1) * size, row, o] = mixed
    return out.transpose(2, 3) if axis == 'height' else out


@pytest.mark.parametrize('axis', ['height', 'width'])
@pytest.mark.parametrize(
    ('batch', 'size', 'heads', 'key_dim', 'value_dim'),
    [
        (2, (3, 5), 2, 6, 8),
        (1, (7, 4), 1, 3, 5),
        (1, (1, 1), 3, 3, 6),
        (2, (1, 6), 2, 2, 2),
        (1, (5, 1), 4, 8, 4),
    ],
)
@pytest.mark.parametrize('layout', ['contiguous', 'channels_last', 'strided'])
def test_values_and_gradients_equal_loops(axis, batch, size, heads, key_dim, value_dim, layout):
    length = size[0] if axis == 'height' else size[1]
    attn = make(5, key_dim, value_dim, heads, length, axis).double()
    x = torch.randn(batch, 5, *size, dtype=torch.double)
    if layout == 'channels_last':
        x = x.contiguous(memory_format=torch.channels_last)
    elif layout == 'strided':
        x = torch.randn(batch, 10, size[1], 2 * size[0], dtype=torch.double)[:, ::2, :, ::2].transpose(2, 3)
    x.requires_grad_()
    weight = torch.randn(batch, value_dim, *size, dtype=torch.double)
    inputs = [x, *attn.parameters()]
    found, expected = attn(x), attend_by_loops(attn, x, axis)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad((out * weight).sum(), inputs) for out in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_an_axis_of_another_length_uses_the_resized_table():
    attn = make(length=5)
    for length in (1, 4, 9):
        fitted = make(length=length)
        fitted.load_state_dict({**attn.state_dict(), 'rel_pos': resize_table(attn.rel_pos.detach(), length)})
        x = torch.randn(2, 5, 3, length)
        assert torch.equal(attn(x), fitted(x))


@given(st.integers(1, 40), st.integers(1, 40))
def test_resizing_keeps_ends_and_centre_and_is_linear_between(old, new):
    torch.manual_seed(old)
    table = torch.randn(2 * old - 1, 3)
    resized = resize_table(table, new)
    assert resized.shape == (2 * new - 1, 3)
    torch.testing.assert_close(resized[new - 1], table[old - 1])
    if new > 1:
        torch.testing.assert_close(resized[0], table[0])
        torch.testing.assert_close(resized[-1], table[-1])
    if new == old:
        assert torch.equal(resized, table)
    ramp = torch.linspace(-1, 1, 2 * old - 1)[:, None] if old > 1 else torch.zeros(1, 1)
    scale = 1.0 if min(old, new) > 1 else 0.0
    expected = scale * torch.arange(1 - new, new)[:, None] / max(new - 1, 1)
    torch.testing.assert_close(resize_table(ramp, new), expected)


def test_resizing_interpolates_linearly():
    table = torch.tensor([[0.0], [1.0], [4.0], [9.0], [16.0]])  # offsets -2 to 2
    assert resize_table(table, 5).flatten().tolist() == [0, 0.5, 1, 2.5, 4, 6.5, 9, 12.5, 16]
    assert resize_table(table, 2).flatten().tolist() == [0, 4, 16]
    assert resize_table(table, 1).flatten().tolist() == [4]
    assert resize_table(table.to(torch.bfloat16), 5).dtype == torch.bfloat16


def test_embeddings_are_those_of_the_offset_of_the_key_from_the_query():
    table = torch.arange(7.0)[:, None] - 3  # the offset itself
    embeddings = relative_embeddings(table, 4)
    for query, key in itertools.product(range(4), range(4)):
        assert embeddings[query, key].item() == key - query


def test_set_length_keeps_what_it_can():
    attn = make(length=5, dtype=torch.bfloat16)
    table = attn.rel_pos
    attn.set_length(5)
    assert attn.rel_pos is table
    table.requires_grad_(False)
    attn.set_length(8)
    assert attn.rel_pos.shape == (15, 3)
    assert (attn.rel_pos.dtype, attn.rel_pos.requires_grad) == (torch.bfloat16, False)
    on_meta = make(device='meta')
    on_meta.set_length(3)
    assert on_meta.rel_pos.is_meta
    assert on_meta(torch.empty(2, 5, 4, 6, device='meta')).shape == (2, 8, 4, 6)


def test_initial_logits_have_unit_variance_from_keys_and_from_positions():
    attn = make(256, 128, 128, 8, 16)
    x = torch.randn(8, 256, 16, 16)
    q, k = (m(x).unflatten(1, (8, 16)).permute(0, 1, 3, 4, 2) for m in (attn.q, attn.k))
    logits = q @ k.transpose(3, 4)
    positions = torch.einsum('bnyid,ipd->bnyip', q, relative_embeddings(attn.rel_pos, 16))
    assert logits.std().item() == pytest.approx(1, rel=0.05)
    assert positions.std().item() == pytest.approx(1, rel=0.1)
    assert attn.v(x).std().item() == pytest.approx(1, rel=0.05)


def test_large_logits_do_not_overflow():
    q = torch.full((1, 1, 2, 1, 3), 1e4)
    k = torch.randn(1, 1, 2, 1, 3)
    v = torch.randn(1, 1, 4, 1, 3)
    out = axial_attention(q, k, v, torch.zeros(3, 3, 2))
    best = k.sum(2)[0, 0, 0].argmax()
    torch.testing.assert_close(out, v[..., best, None].expand_as(out))


def test_the_flop_counter_sees_every_product():
    attn = make(12, 16, 24, 4, 9, 'height', device='meta')
    positions, length = 9 * 7, 9
    with FlopCounterMode(display=False) as counter:
        attn(torch.empty(2, 12, 9, 7, device='meta'))
    linear = 12 * (16 + 16 + 24)
    attention = length * (16 + 16 + 24)  # q.k, q.r and the values
    assert counter.get_total_flops() == 2 * 2 * positions * (linear + attention)


@pytest.mark.parametrize('axis', ['height', 'width'])
def test_half_precision_and_autocast(axis):
    attn = make(32, 32, 64, 4, 11, axis)
    x = torch.randn(2, 32, 11, 11)
    expected = attn(x)
    with torch.autocast('cpu', torch.bfloat16):
        mixed = attn(x)
        mixed.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in attn.parameters())
    half = attn.to(torch.bfloat16)(x.to(torch.bfloat16))
    for found in (mixed, half):
        assert found.dtype == torch.bfloat16
        assert (found.float() - expected).abs().max().item() < 0.05 * expected.abs().max().item()


@pytest.mark.parametrize('axis', ['height', 'width'])
def test_scripts_compiles_and_exports_for_all_sizes(axis):
    attn = make(axis=axis).eval()
    x = torch.randn(2, 5, 5, 5)
    sizes = [(5, 5), (7, 3), (2, 9), (1, 4), (1, 1)]
    exported = torch.export.export(
        attn,
        (x,),
        dynamic_shapes={
            'x': {0: torch.export.Dim('batch'), 2: torch.export.Dim('h'), 3: torch.export.Dim('w')}
        },
    ).module()
    scripted = torch.jit.script(attn)
    compiled = torch.compile(attn, fullgraph=True, backend='eager')
    for size in sizes:
        x = torch.randn(3, 5, *size)
        with torch.no_grad():
            expected = attn(x)
            for variant in (exported, scripted, compiled):
                torch.testing.assert_close(variant(x), expected)


def test_heads_do_not_mix():
    """A head's output depends on its own queries, keys and values only."""
    q, k, v = (torch.randn(1, 3, 4, 2, 5) for _ in range(3))
    embeddings = torch.randn(5, 5, 4)
    together = axial_attention(q, k, v, embeddings)
    apart = [axial_attention(q[:, [n]], k[:, [n]], v[:, [n]], embeddings) for n in range(3)]
    torch.testing.assert_close(together, torch.cat(apart, 1))


def test_parameters_are_three_projections_without_bias_and_one_table():
    shapes = {name: tuple(p.shape) for name, p in make(5, 6, 8, 2, 4).named_parameters()}
    assert shapes == {
        'q.weight': (6, 5, 1, 1),
        'k.weight': (6, 5, 1, 1),
        'v.weight': (8, 5, 1, 1),
        'rel_pos': (7, 3),
    }
