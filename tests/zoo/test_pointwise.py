"""Pointwise layers by oneDNN: the same numbers as PyTorch's, in inference on a CPU and nowhere else."""

import copy
import io
from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import zoo
from zoo.layers import pointwise
from zoo.layers.pointwise import Linear, PointwiseConv2d, channels_last, use_onednn
from zoo.layers.token_conv import TokenConv

pytestmark = pytest.mark.skipif(not pointwise.ONEDNN, reason='this build of PyTorch has no oneDNN')
ROWS, IN, OUT = 64, 128, 256
"""Of a layer that is large enough."""
CHECKS = ('test_schema', 'test_faketensor')


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the weights that oneDNN has been called with."""
    shapes: list[tuple[int, ...]] = []
    real = pointwise._onednn_linear

    def spy(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        shapes.append(tuple(weight.shape))
        return real(x, weight, bias)

    monkeypatch.setattr(pointwise, '_onednn_linear', spy)
    return shapes


def close(found: Tensor, wanted: Tensor) -> None:
    """To float32's rounding of a sum of products of unit variance."""
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5 * max(1, wanted.abs().max()))


@given(
    lead=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    features=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    bias=st.booleans(),
    views=st.tuples(st.booleans(), st.booleans()),
)
def test_linear(lead: list[int], features: tuple[int, int], bias: bool, views: tuple[bool, bool]) -> None:
    """Of any shape, also of parts of larger tensors, against double precision."""
    inputs, outputs = features
    x = torch.randn(*lead, 2 * inputs)[..., ::2] if views[0] else torch.randn(*lead, inputs)
    weight = torch.randn(outputs + 3, inputs + 5)[3:, 5:] if views[1] else torch.randn(outputs, inputs)
    b = torch.randn(outputs) if bias else None
    with torch.no_grad():
        found = pointwise.linear(x, weight, b)
        direct = pointwise._onednn_linear(x, weight, b)
    wanted = F.linear(x.double(), weight.double(), None if b is None else b.double())
    close(found, wanted)
    close(direct, wanted)


@given(
    batch=st.integers(1, 3),
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    channels=st.tuples(st.integers(1, 100), st.integers(1, 100)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    last=st.booleans(),
)
def test_pointwise_conv(
    batch: int, size: tuple[int, int], channels: tuple[int, int], stride: tuple[int, int], last: bool
) -> None:
    x = torch.randn(batch, channels[0], *size)
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    conv = nn.Conv2d(*channels, 1, stride)
    wanted = copy.deepcopy(conv).double()(x.double())
    use_onednn(conv)
    with torch.no_grad():
        close(conv(x), wanted)
        conv.weight.data = conv.weight.data.repeat(12, 12, 1, 1)  # large enough
        many = x.repeat(1, 12, 1, 1)
        wide = F.conv2d(many.double(), conv.weight.double(), conv.bias.double().repeat(12), stride)
        conv.bias.data = conv.bias.data.repeat(12)
        close(conv(many), wide)


def test_serves_inference(served: list[tuple[int, ...]]) -> None:
    linear, conv = Linear(IN, OUT), PointwiseConv2d(IN, OUT, 1)
    x, images = torch.randn(2, ROWS, IN), torch.randn(1, IN, 8, 8)
    with torch.no_grad():
        linear(x)
    with torch.inference_mode():
        linear(x)
        out = conv(images)
    assert served == [(OUT, IN), (OUT, IN), (OUT, IN)]
    assert out.is_contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def test_bfloat16(served: list[tuple[int, ...]]) -> None:
    """Rounds once, as PyTorch's layers do."""
    linear, conv = nn.Linear(IN, OUT).bfloat16(), nn.Conv2d(IN, OUT, 1).bfloat16()
    x, images = torch.randn(2, ROWS, IN).bfloat16(), torch.randn(1, IN, 8, 8).bfloat16()
    wanted = linear.double()(x.double()), conv.double()(images.double())
    layers = nn.Sequential(linear.bfloat16(), conv.bfloat16())
    use_onednn(layers)
    for layer, inputs, exact in zip(layers, (x, images), wanted, strict=True):
        found = layer(inputs)
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=2**-8)
    assert len(served) == (2 if torch.bfloat16 in pointwise.DTYPES else 0)


@torch.no_grad()
def small(layer: nn.Module, x: Tensor) -> None:
    layer(x[:, :8])


def training(layer: nn.Module, x: Tensor) -> None:
    layer(x).sum().backward()
    assert layer.weight.grad is not None


@torch.no_grad()
def half(layer: nn.Module, x: Tensor) -> None:
    layer.half()(x.half())


@torch.no_grad()
def double(layer: nn.Module, x: Tensor) -> None:
    layer.double()(x.double())


@torch.no_grad()
def autocast(layer: nn.Module, x: Tensor) -> None:
    with torch.autocast('cpu', torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


@torch.no_grad()
def on_meta(layer: nn.Module, x: Tensor) -> None:
    assert layer.to('meta')(x.to('meta')).is_meta


@torch.no_grad()
def counted(layer: nn.Module, x: Tensor) -> None:
    with FlopCounterMode(display=False) as counter:
        layer(x)
    assert counter.get_total_flops() == 2 * x.shape[0] * ROWS * IN * OUT


@torch.no_grad()
def mapped(layer: nn.Module, x: Tensor) -> None:
    assert torch.equal(torch.func.vmap(layer)(x), nn.Linear.forward(layer, x))


@torch.no_grad()
def forward_mode(layer: nn.Module, x: Tensor) -> None:
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        tangent = torch.autograd.forward_ad.unpack_dual(layer(dual)).tangent
    close(tangent, F.linear(torch.ones_like(x), layer.weight).double())


@torch.no_grad()
def traced(layer: nn.Module, x: Tensor) -> None:
    assert 'onednn' not in str(torch.jit.trace(layer, x, check_trace=False).inlined_graph)


@torch.no_grad()
def scripted(layer: nn.Module, x: Tensor) -> None:
    assert torch.equal(torch.jit.script(layer)(x), nn.Linear.forward(layer, x))


@torch.no_grad()
def exported(layer: nn.Module, x: Tensor) -> None:
    program = torch.export.export(layer, (x,))
    assert all(node.target is not torch.ops.searchzoo.onednn_linear.default for node in program.graph.nodes)


@torch.no_grad()
def switched_off(layer: nn.Module, x: Tensor) -> None:
    with torch.backends.mkldnn.flags(enabled=False):
        layer(x)


class Marked(Tensor):
    """A tensor subclass as quantisation and tensor parallelism use them."""


@torch.no_grad()
def subclass(layer: nn.Module, x: Tensor) -> None:
    assert isinstance(layer(x.as_subclass(Marked)), Marked)


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
@pytest.mark.parametrize(
    'use',
    [
        small,
        training,
        half,
        double,
        autocast,
        on_meta,
        counted,
        mapped,
        forward_mode,
        traced,
        scripted,
        exported,
        switched_off,
        subclass,
    ],
)
def test_leaves_to_pytorch(use: Callable[[nn.Module, Tensor], None], served: list[tuple[int, ...]]) -> None:
    """Whatever is not inference that happens at once on a CPU, in a dtype of oneDNN, of a layer worth it."""
    use(Linear(IN, OUT), torch.randn(2, ROWS, IN))
    assert served == []


def test_compiled_networks_have_it_too() -> None:
    torch._dynamo.reset()
    layer = nn.Sequential(Linear(IN, OUT), nn.GELU())
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(layer, backend=backend, fullgraph=True)
    x = torch.randn(2, ROWS, IN)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), layer(x))
    compiled(x).sum().backward()
    assert layer[0].weight.grad is not None
    assert ['onednn_linear' in graph.code for graph in graphs] == [True, False]


def test_which_layers_become_ours() -> None:
    network = nn.Sequential(
        nn.Linear(4, 4),
        nn.Conv2d(4, 4, 1, 2, bias=False),
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, 1, padding=1),
        nn.Conv2d(4, 4, 1, groups=2),
        nn.modules.linear.NonDynamicallyQuantizableLinear(4, 4),
    )
    before = network.state_dict()
    use_onednn(network)
    assert [type(layer) for layer in network] == [
        Linear,
        PointwiseConv2d,
        nn.Conv2d,
        nn.Conv2d,
        nn.Conv2d,
        nn.modules.linear.NonDynamicallyQuantizableLinear,
    ]
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    file = io.BytesIO()
    torch.save(copy.deepcopy(network), file)
    file.seek(0)
    assert type(torch.load(file, weights_only=False)[0]) is Linear


@pytest.mark.parametrize('name', ['carnet_c80', 'glit_tiny', 's3_tiny', 'trionet_a', 'uninet_b0'])
def test_networks(name: str, served: list[tuple[int, ...]]) -> None:
    """All but their smallest products are computed so, and the outputs are those of PyTorch's layers."""
    model = timm.create_model(name).eval()
    images = torch.randn(1, 3, 224, 224)
    for networks in (model, zoo.fuse(model)):
        served.clear()
        with torch.inference_mode():
            found = networks(images)
            assert len(served) >= 10
            with torch.backends.mkldnn.flags(enabled=False):
                wanted = networks(images)
        assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()


def test_features_have_channels_last_in_inference_only() -> None:
    model = timm.create_model('uninet_b0', features_only=True).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        maps = model(images)
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in maps)
    for found, wanted in zip(maps, model(images), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('transposed', [False, True])
def test_what_follows_has_channels_last(channels: int, transposed: bool) -> None:
    """Also of grey images, whose layout is ambiguous."""
    images = torch.randn(2, channels, 9, 7)
    if transposed:
        images = images.transpose(2, 3)
    conv = nn.Conv2d(channels, 8, 3)
    wanted = conv(images)
    assert channels_last(images) is images
    with torch.no_grad():
        assert torch.equal(channels_last(images), images)
        found = conv(channels_last(images))
    assert found.is_contiguous(memory_format=torch.channels_last)
    close(found, wanted.detach().double())


def test_compiled_token_convolutions_are_opaque() -> None:
    """What the compiler gets computes the same, and training goes through what it differentiates."""
    torch._dynamo.reset()
    conv = TokenConv(12, 5)
    codes: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., object]:
        codes.append(graph.code)
        return graph.forward

    compiled = torch.compile(conv, backend=backend, fullgraph=True)
    x = torch.randn(2, 12, 1, 9)
    wanted = F.conv1d(x.squeeze(2).double(), conv.weight.squeeze(2).double(), conv.bias.double(), 1, 2, 1, 12)
    with torch.no_grad():
        found = compiled(x)
        close(found.squeeze(2), wanted)
        close(conv(x).squeeze(2), wanted)
        torch.library.opcheck(torch.ops.searchzoo.token_conv, (x, conv.weight, conv.bias), test_utils=CHECKS)
        layer, y = nn.Linear(16, 8), torch.randn(2, 3, 16)
        torch.library.opcheck(
            torch.ops.searchzoo.onednn_linear, (y, layer.weight, layer.bias), test_utils=CHECKS
        )
    compiled(x).sum().backward()
    assert conv.weight.grad is not None
    assert ['token_conv' in code for code in codes] == [True, False]
