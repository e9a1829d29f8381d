"""Local attention against loops over positions in float64, and in every way a model is run or exported."""

import itertools
import math
from pathlib import Path

import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models._features_fx import create_feature_extractor
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import zoo.layers.local_attention as module
from zoo.errors import ZooError
from zoo.layers.local_attention import LocalAttention, local_attention, relative_logits

plain = module._plain_local_attention
SHAPES = {
    # B, num_heads, D, E, H, W, kernel_size
    'odd': (2, 3, 4, 4, 5, 7, 3),
    'tall': (1, 2, 2, 3, 6, 2, 5),
    'kernel_larger_than_the_map': (2, 2, 3, 2, 2, 3, 7),
    'one_head': (2, 1, 4, 5, 4, 4, 3),
    'one_pixel': (1, 2, 3, 4, 1, 1, 3),
    'kernel_of_one': (2, 2, 3, 3, 3, 4, 1),
    'one_channel': (1, 2, 1, 1, 4, 3, 3),
}


def random_inputs(shape: tuple[int, ...], dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Tensor]:
    B, num_heads, D, E, H, W, kernel_size = shape
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(B, num_heads, channels, H, W, dtype=torch.float64, generator=generator)
        .to(dtype)
        .requires_grad_()
        for channels in (D, D, E, kernel_size, kernel_size)
    ]


def by_loops(q: Tensor, k: Tensor, v: Tensor, h: Tensor, w: Tensor, kernel_size: int) -> Tensor:
    """A neighbour outside the map has a zero key and a zero value."""
    B, num_heads, _, H, W = q.shape
    r = kernel_size // 2
    outputs = []
    for b, n, y, x in itertools.product(range(B), range(num_heads), range(H), range(W)):
        logits, values = [], []
        for i, j in itertools.product(range(kernel_size), repeat=2):
            logit = h[b, n, i, y, x] + w[b, n, j, y, x]
            value = torch.zeros_like(v[b, n, :, y, x])
            py, px = y + i - r, x + j - r
            if 0 <= py < H and 0 <= px < W:
                logit = logit + q[b, n, :, y, x] @ k[b, n, :, py, px]
                value = v[b, n, :, py, px]
            logits.append(logit)
            values.append(value)
        outputs.append(torch.stack(logits).softmax(0) @ torch.stack(values))
    return torch.stack(outputs).view(B, num_heads, H, W, -1).permute(0, 1, 4, 2, 3)


def with_grads(function, inputs: list[Tensor], kernel_size: int) -> list[Tensor]:
    """The output and the gradients of all five inputs for a fixed random gradient of the output."""
    out = function(*inputs, kernel_size)
    grad = torch.randn(out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return [out, *torch.autograd.grad(out, inputs, grad.to(out.dtype))]


def assert_equal(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-10) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a.double(), b.double(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('function', [local_attention, plain], ids=['operator', 'plain'])
@pytest.mark.parametrize('shape', SHAPES.values(), ids=SHAPES)
def test_equals_loops(shape: tuple[int, ...], function) -> None:
    inputs = random_inputs(shape)
    assert_equal(with_grads(function, inputs, shape[-1]), with_grads(by_loops, inputs, shape[-1]))


@given(
    shape=st.tuples(*[st.integers(1, high) for high in (3, 3, 5, 5, 8, 8)], st.sampled_from([1, 3, 5, 7, 9])),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_operator_equals_plain(shape: tuple[int, ...], seed: int) -> None:
    inputs = random_inputs(shape, seed=seed)
    assert_equal(with_grads(local_attention, inputs, shape[-1]), with_grads(plain, inputs, shape[-1]))


def test_several_chunks_of_heads() -> None:
    """80 maps, of which 11 make a chunk, and the last 3."""
    shape = (10, 8, 2, 3, 28, 28, 7)
    inputs = random_inputs(shape)
    chunks = [*module._chunks(inputs[0], inputs[2], 7)]
    assert [range(80)[chunk] for chunk in chunks] == [range(i, min(i + 11, 80)) for i in range(0, 80, 11)]
    assert_equal(with_grads(local_attention, inputs, 7), with_grads(plain, inputs, 7))


def test_a_map_larger_than_a_chunk() -> None:
    inputs = random_inputs((1, 2, 1, 1, 150, 160, 7))
    assert [*module._chunks(inputs[0], inputs[2], 7)] == [slice(0, 1), slice(1, 2)]
    assert_equal(with_grads(local_attention, inputs, 7), with_grads(plain, inputs, 7))


def test_memory_layouts() -> None:
    """Channels-last and other strides, and an expanded gradient, give the same as contiguous tensors."""
    shape = SHAPES['odd']
    inputs = random_inputs(shape)
    expected = with_grads(local_attention, inputs, 3)
    last = [x.detach().permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2) for x in inputs]
    strided = [x.detach().repeat_interleave(2, 4)[..., ::2] for x in inputs]
    for variant in (last, strided):
        assert not any(x.is_contiguous() for x in variant)
        assert_equal(with_grads(local_attention, [x.requires_grad_() for x in variant], 3), expected)
    found = torch.autograd.grad(local_attention(*inputs, 3).sum(), inputs)
    assert_equal([*found], [*torch.autograd.grad(plain(*inputs, 3).sum(), inputs)])


def test_gradcheck() -> None:
    for shape in ((1, 2, 2, 3, 3, 2, 3), (1, 1, 2, 1, 2, 2, 5)):
        assert torch.autograd.gradcheck(lambda *x, k=shape[-1]: local_attention(*x, k), random_inputs(shape))


def test_what_attends_where_at_the_border() -> None:
    """Where all logits are equal, the output for values of one is the share of the k x k positions inside.

    A position outside the map takes its part of the weights, by its offset alone, and gives zero.
    """
    q = torch.zeros(1, 1, 2, 5, 6)
    ones, logits = torch.ones(1, 1, 1, 5, 6), torch.zeros(1, 1, 3, 5, 6)
    inside = local_attention(q, torch.randn_like(q), ones, logits, logits, 3)[0, 0, 0]
    rows, columns = torch.tensor([2, 3, 3, 3, 2]), torch.tensor([2, 3, 3, 3, 3, 2])
    torch.testing.assert_close(inside, torch.outer(rows, columns) / 9)
    # An upper neighbour weighs e times as much as others: outside the map, those of the first row still do.
    logits_h = logits.clone()
    logits_h[:, :, 0] = 1
    inside = local_attention(q, q, ones, logits_h, logits, 3)[0, 0, 0]
    assert inside[0, 0].item() == pytest.approx(4 / (6 + 3 * math.e))
    assert inside[4, 0].item() == pytest.approx((2 + 2 * math.e) / (6 + 3 * math.e))


def test_values_outside_the_window_have_no_part() -> None:
    inputs = random_inputs((1, 1, 2, 1, 6, 7, 3))
    grad = torch.autograd.grad(local_attention(*inputs, 3)[0, 0, 0, 3, 0], inputs[2])[0][0, 0, 0]
    expected = torch.zeros(6, 7, dtype=torch.bool)
    expected[2:5, 0:2] = True
    assert torch.equal(grad != 0, expected)


def test_large_logits() -> None:
    inputs = [50 * x.detach().float() for x in random_inputs(SHAPES['odd'])]
    out = local_attention(*inputs, 3)
    assert_equal([out], [plain(*[x.double() for x in inputs], 3)], 1e-3)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(dtype: torch.dtype) -> None:
    inputs = random_inputs((2, 2, 8, 8, 9, 8, 5), dtype)
    found = with_grads(local_attention, inputs, 5)
    expected = with_grads(local_attention, [x.detach().double().requires_grad_() for x in inputs], 5)
    assert all(x.dtype == dtype for x in found)
    eps = torch.finfo(dtype).eps
    assert_equal(found[:1], expected[:1], eps)
    assert_equal(found[1:], expected[1:], 0.02)


def test_autocast() -> None:
    inputs = random_inputs(SHAPES['odd'], torch.float32)
    with torch.autocast('cpu', torch.bfloat16):
        out = local_attention(*inputs, 3)
        mixed = local_attention(inputs[0].bfloat16(), *inputs[1:], 3)
    assert out.dtype == mixed.dtype == torch.bfloat16
    assert_equal([out, mixed], [local_attention(*[x.bfloat16() for x in inputs], 3)] * 2, 0)
    grads = torch.autograd.grad(out.float().sum(), inputs)
    assert all(grad.dtype == torch.float32 for grad in grads)
    assert_equal([*grads], [*torch.autograd.grad(plain(*inputs, 3).sum(), inputs)], 0.1)


def test_counted_flops() -> None:
    """The formula gives what is counted for the plain formulation, also on the meta device."""
    shape = (2, 3, 4, 5, 6, 7, 5)
    counts = []
    for function, device in ((local_attention, 'cpu'), (plain, 'cpu'), (local_attention, 'meta')):
        inputs = [x.detach().to(device).requires_grad_() for x in random_inputs(shape)]
        with FlopCounterMode(display=False) as counter:
            out = function(*inputs, 5)
            forward = counter.get_total_flops()
            out.sum().backward()
        counts.append((forward, counter.get_total_flops() - forward))
    forward = 2 * 2 * 3 * 6 * 7 * 5**2 * (4 + 5)
    assert counts == [(forward, 2 * forward)] * 3


def test_second_derivative_is_an_error() -> None:
    inputs = random_inputs(SHAPES['one_head'])
    grad = torch.autograd.grad(local_attention(*inputs, 3).square().sum(), inputs[0], create_graph=True)[0]
    with pytest.raises(RuntimeError, match=r'local_attention_backward.*no autograd formula'):
        torch.autograd.grad(grad.sum(), inputs[0])


def test_transforms_of_torch_func() -> None:
    inputs = [x.detach() for x in random_inputs(SHAPES['odd'])]

    def total(q: Tensor) -> Tensor:
        return local_attention(q, *inputs[1:], 3).sum()

    q = inputs[0].clone().requires_grad_()
    expected = torch.autograd.grad(total(q), q)[0]
    assert_equal([torch.func.grad(total)(inputs[0])], [expected])
    tangent = torch.func.jvp(total, (inputs[0],), (torch.ones_like(q),))[1]
    assert_equal([tangent], [expected.sum()])
    found = torch.func.vmap(lambda *x: local_attention(*x, 3))(*[x[None] for x in inputs])
    assert_equal([found[0]], [local_attention(*inputs, 3)])


def test_no_images() -> None:
    inputs = [x[:0] for x in random_inputs(SHAPES['odd'])]
    assert local_attention(*inputs, 3).shape == (0, 3, 4, 5, 7)


@pytest.mark.parametrize(('num_heads', 'head_dim'), [(3, 4), (4, 3)], ids=['channels', 'heads'])
def test_relative_logits(num_heads: int, head_dim: int) -> None:
    """Rows have the first half of the channels of each head, or of the heads where channels are odd."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, num_heads, head_dim, 2, 3, generator=generator)
    by_channels = head_dim % 2 == 0
    shape = (num_heads, 5, head_dim // 2) if by_channels else (num_heads // 2, 5, head_dim)
    rel_height, rel_width = (torch.randn(shape, generator=generator) for _ in range(2))
    found = relative_logits(q, rel_height, rel_width)
    expected = [torch.zeros(2, num_heads, 5, 2, 3) for _ in range(2)]
    for b, n, i, y, x in itertools.product(range(2), range(num_heads), range(5), range(2), range(3)):
        if by_channels:
            half = head_dim // 2
            expected[0][b, n, i, y, x] = q[b, n, :half, y, x] @ rel_height[n, i]
            expected[1][b, n, i, y, x] = q[b, n, half:, y, x] @ rel_width[n, i]
        elif n < num_heads // 2:
            expected[0][b, n, i, y, x] = q[b, n, :, y, x] @ rel_height[n, i]
        else:
            expected[1][b, n, i, y, x] = q[b, n, :, y, x] @ rel_width[n - num_heads // 2, i]
    assert_equal([*found], expected, 1e-5)


def make_layer(**changes: int) -> LocalAttention:
    torch.manual_seed(0)
    return LocalAttention(**dict(dim=6, key_dim=8, value_dim=12, num_heads=2, kernel_size=3) | changes)


@pytest.mark.parametrize('key_dim', [8, 6], ids=['even', 'odd'])
def test_layer_equals_loops(key_dim: int) -> None:
    layer = make_layer(key_dim=key_dim).double()
    image = torch.randn(2, 6, 4, 5, dtype=torch.float64)
    q, k, v = (conv(image).unflatten(1, (2, -1)) for conv in (layer.q, layer.k, layer.v))
    logits = relative_logits(q, layer.rel_height, layer.rel_width)
    assert_equal([layer(image)], [by_loops(q, k, v, *logits, 3).flatten(1, 2)])
    assert_equal([layer(image.contiguous(memory_format=torch.channels_last))], [layer(image)])


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'kernel_size': 4}, 'kernel_size 4; it is an odd number'),
        ({'kernel_size': 0}, 'kernel_size 0; it is an odd number'),
        ({'kernel_size': -3}, 'kernel_size -3; it is an odd number'),
        ({'num_heads': 3}, 'key_dim 8; it is a multiple of num_heads, 3'),
        ({'value_dim': 9}, 'value_dim 9; it is a multiple of num_heads, 2'),
        ({'num_heads': 0}, 'num_heads 0; each is at least 1'),
        ({'key_dim': 9, 'num_heads': 3}, '3 heads of 3 key channels; one of the two numbers is even'),
    ],
)
def test_bad_arguments(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ZooError, match=message):
        make_layer(**changes)


def test_functional_call_and_checkpointing() -> None:
    layer, image = make_layer(), torch.randn(2, 6, 5, 4)
    params = {name: p.detach().clone().requires_grad_() for name, p in layer.named_parameters()}
    expected = torch.autograd.grad(layer(image).square().sum(), [*layer.parameters()])
    called = torch.func.functional_call(layer, params, image)
    assert_equal([*torch.autograd.grad(called.square().sum(), [*params.values()])], [*expected], 0)
    out = checkpoint(layer, image, use_reentrant=False)
    assert_equal([*torch.autograd.grad(out.square().sum(), [*layer.parameters()])], [*expected], 0)


class Gate(nn.Module):
    """Something to compile around the operator."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = make_layer()

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x).sigmoid() + x.repeat(1, 2, 1, 1)


def test_compile_with_any_size() -> None:
    layer = Gate()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend='aot_eager')
    for size in ((2, 6, 4, 5), (3, 6, 7, 3)):
        image = torch.randn(size)
        with torch.autocast('cpu', torch.bfloat16):
            assert_equal([compiled(image)], [layer(image)], 0.02)
        params = [*layer.parameters()]
        found = torch.autograd.grad(compiled(image).square().sum(), params)
        assert_equal([*found], [*torch.autograd.grad(layer(image).square().sum(), params)], 1e-4)


def test_compile_by_inductor() -> None:
    inputs = random_inputs(SHAPES['odd'], torch.float32)
    compiled = torch.compile(local_attention, fullgraph=True)
    assert_equal(with_grads(compiled, inputs, 3), with_grads(local_attention, inputs, 3), 1e-5)


def test_script_and_trace() -> None:
    layer, image = make_layer().eval(), torch.randn(2, 6, 5, 4)
    for program in (torch.jit.script(layer), torch.jit.trace(layer, image)):
        assert 'searchzoo' not in str(program.inlined_graph)
        assert_equal([program(image)], [layer(image)], 1e-5)


def test_fx_takes_it_as_one_node() -> None:
    layer, image = make_layer().eval(), torch.randn(2, 6, 5, 4)
    extractor = create_feature_extractor(nn.Sequential(layer), ['0.local_attention'])
    assert_equal([extractor(image)['0.local_attention'].flatten(1, 2)], [layer(image)], 0)


def test_export_with_any_batch_and_size() -> None:
    layer, image = make_layer().eval(), torch.randn(2, 6, 5, 4)
    axes = {axis: torch.export.Dim(f'axis{axis}') for axis in (0, 2, 3)}
    program = torch.export.export(layer, (image,), dynamic_shapes=(axes,))
    assert 'searchzoo' not in str(program.graph)
    for size in ((2, 6, 5, 4), (3, 6, 4, 9)):
        image = torch.randn(size)
        assert_equal([program.module()(image)], [layer(image)], 1e-5)


@pytest.mark.filterwarnings('ignore::DeprecationWarning', 'ignore::FutureWarning')
def test_onnx_with_any_batch_and_size(tmp_path: Path) -> None:
    layer, image = make_layer().eval(), torch.randn(2, 6, 5, 4)
    path = tmp_path / 'layer.onnx'
    program = torch.onnx.export(
        layer, (image,), dynamo=True, dynamic_shapes=({0: 'b', 2: 'h', 3: 'w'},), verbose=False
    )
    program.save(path)
    session = onnxruntime.InferenceSession(path)
    for size in ((2, 6, 5, 4), (3, 6, 4, 9)):
        image = torch.randn(size)
        out = session.run(None, {session.get_inputs()[0].name: image.numpy()})[0]
        assert_equal([torch.from_numpy(out)], [layer(image)], 1e-5)
