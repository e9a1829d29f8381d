"""Non-local attention against a loop over positions, in float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from zoo.layers.non_local import NonLocalAttention, non_local_attention


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The definition, position by position: (B, D, H, W), (B, D, H, W), (B, E, H, W) -> (B, E, H, W)."""
    out = torch.empty_like(v, memory_format=torch.contiguous_format)
    for b in range(v.shape[0]):
        for i in range(v.shape[2]):
            for j in range(v.shape[3]):
                weight = torch.exp((q[b, :, i, j, None, None] * k[b]).sum(0))
                out[b, :, i, j] = (weight * v[b]).sum((1, 2)) / weight.sum()
    return out


LAYOUTS = {
    'contiguous': lambda x: x,
    'channels last': lambda x: x.contiguous(memory_format=torch.channels_last),
    'transposed map': lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    'every second value': lambda x: torch.stack([x, x.flip(0)], 4).flatten(3)[..., ::2],
    'expanded batch': lambda x: x[:1].expand(x.shape),
}


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('shape', [(2, 3, 5, 7), (1, 4, 1, 1), (3, 1, 1, 6), (1, 5, 4, 3)])
def test_values_and_gradients_equal_a_loop_over_positions(shape, layout):
    torch.manual_seed(0)
    leaves = [torch.randn(shape, dtype=torch.double, requires_grad=True) for _ in range(3)]
    q, k, v = (LAYOUTS[layout](leaf) for leaf in leaves)
    found, expected = non_local_attention(q, k, v), attend(q, k, v)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    cotangent = torch.randn(shape, dtype=torch.double)
    for one, other in zip(
        torch.autograd.grad(found, leaves, cotangent),
        torch.autograd.grad(expected, leaves, cotangent),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_values_may_have_other_channels_than_keys():
    torch.manual_seed(0)
    q, k = torch.randn(2, 2, 6, 3, 4, dtype=torch.double).unbind(0)
    v = torch.randn(2, 9, 3, 4, dtype=torch.double)
    torch.testing.assert_close(non_local_attention(q, k, v), attend(q, k, v))


@given(st.integers(1, 6), st.integers(1, 6), st.randoms(use_true_random=False))
def test_permuted_positions_give_the_permuted_output(height, width, random):
    torch.manual_seed(0)
    module = NonLocalAttention(4).double()
    order = list(range(height * width))
    random.shuffle(order)
    x = torch.randn(1, 4, height, width, dtype=torch.double)
    permuted = x.flatten(2)[:, :, order].unflatten(2, (height, width))
    torch.testing.assert_close(
        module(permuted), module(x).flatten(2)[:, :, order].unflatten(2, (height, width))
    )


def test_one_position_gives_its_value():
    module = NonLocalAttention(8)
    x = torch.randn(2, 8, 1, 1)
    torch.testing.assert_close(module(x), module.v(x))


def test_initial_logits_keys_and_values_have_unit_variance():
    torch.manual_seed(0)
    module = NonLocalAttention(64)
    x = torch.randn(2, 64, 24, 24)
    q, k, v = (layer(x).flatten(2) for layer in (module.q, module.k, module.v))
    for tensor in (k, v, q.transpose(1, 2) @ k):
        assert tensor.std().item() == pytest.approx(1, abs=0.1)
    first = module.q.weight.clone()
    module.reset_parameters()
    assert not torch.equal(module.q.weight, first)


def test_half_precision_follows_the_input():
    torch.manual_seed(0)
    module = NonLocalAttention(16)
    x = torch.randn(2, 16, 5, 6)
    half = module.to(torch.bfloat16)(x.to(torch.bfloat16))
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), module.float()(x), rtol=0.05, atol=0.05)


def test_one_exported_graph_serves_other_batches_and_sizes():
    torch.manual_seed(0)

    class Attend(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return non_local_attention(q, k, v)

    batch, height, width = (torch.export.Dim(name, min=2, max=64) for name in ('batch', 'height', 'width'))
    shapes = ({0: batch, 2: height, 3: width},) * 3
    example = torch.randn(3, 2, 4, 6, 5).unbind(0)
    exported = torch.export.export(Attend(), example, dynamic_shapes=shapes).module()
    for size in ((2, 4, 6, 5), (3, 4, 9, 7)):
        q, k, v = torch.randn(3, *size).unbind(0)
        torch.testing.assert_close(exported(q, k, v), non_local_attention(q, k, v))
        torch.testing.assert_close(torch.jit.script(Attend())(q, k, v), non_local_attention(q, k, v))
