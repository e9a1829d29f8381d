"""Fused networks compute the same in every way that networks are run, and pass for nothing else."""

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from test_export import ARCHS, SIZES
from timm.layers import LayerScale
from timm.models import reparameterize_model
from torch import Tensor, nn

import zoo
from zoo.export import capture, read, write
from zoo.layers.folding import Projections
from zoo.layers.local_attention import LocalAttention
from zoo.layers.table_cache import TableCache
from zoo.layers.token_mixing import TokenMixing
from zoo.models import FAMILIES
from zoo.models.s3 import KEPT_BYTES, WindowAttention

DIGITS = [f'{family}_digits' for family in FAMILIES]
ENTRIES = ['carnet_c112', 'glit_tiny', 's3_tiny', 'trionet_a', 'uninet_b0']
LARGE = [pytest.param(name, marks=pytest.mark.slow) for name in ENTRIES]
ODD = {'carnet': (37, 45), 'glit': (32, 32), 's3': (75, 97), 'trionet': (75, 97), 'uninet': (75, 97)}
"""Sizes that every stride rounds; GLiT's is fixed."""


def make(name: str, **kwargs: Any) -> nn.Module:
    """The weights of a digits entry; else random ones, with which every branch takes part.

    Batch norms know the statistics of what they get. Queries are small: attention of random networks would
    else choose single positions, and which ones would hang on the last digits.
    """
    torch.manual_seed(0)
    if name in ARCHS:
        kwargs = {'arch': ARCHS[name], 'img_size': SIZES[name][0], 'num_classes': 7, **kwargs}
    model = timm.create_model(name, pretrained=name in DIGITS, exportable=True, **kwargs)
    if name in DIGITS:
        return model.eval()
    for parameter in model.parameters():
        if parameter.ndim == 1 and parameter.min() == parameter.max():
            parameter.data.normal_(float(parameter[0] != 0), 0.2)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in model.modules():
        if isinstance(module, Projections):
            module.q.weight.data *= 0.1
    for norm in norms:
        norm.momentum = None
    if norms:
        model(make_images(model, 4, sizes_of(name)[0]))
    return model.eval()


def make_images(model: nn.Module, number: int, size: tuple[int, int]) -> Tensor:
    channels: Any = getattr(model, 'in_chans', 3)
    return torch.randn(number, channels, *size, generator=torch.Generator().manual_seed(number))


def check_close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * expected.std().item())


def tolerance(name: str) -> float:
    """Random weights amplify rounding, the more the deeper: fused or not, networks are as far from what they
    compute in float64, in which `test_only_rounding_differs` compares.
    """
    return 1e-5 if name in DIGITS else 5e-5 if name in ARCHS else 3e-4


def sizes_of(name: str) -> list[tuple[int, int]]:
    family = name.partition('_')[0]
    native = SIZES[name][0] if name in ARCHS else zoo.load_entry(name).input.size[1:]
    return [native] if family == 'glit' else [native, ODD[family]]


@pytest.fixture(scope='module', params=[*ARCHS, *DIGITS, *LARGE])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope='module')
def model(name: str) -> nn.Module:
    with torch.no_grad():
        return make(name)


@pytest.fixture(scope='module')
def fused(model: nn.Module) -> nn.Module:
    return zoo.fuse(model)


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def test_all_families_are_here() -> None:
    assert set(ARCHS) == set(FAMILIES) == {zoo.load_entry(name).family for name in ENTRIES}


def test_outputs_are_equal(name: str, model: nn.Module, fused: nn.Module) -> None:
    for size in sizes_of(name):
        images = make_images(model, 2, size)
        expected = model(images)
        check_close(fused(images), expected, tolerance(name))
        check_close(fused(images), expected, tolerance(name))  # with the tables that the first call has made
        final, maps = model.forward_intermediates(images)
        found, found_maps = fused.forward_intermediates(images)
        check_close(found, final, tolerance(name))
        for found_map, expected_map in zip(found_maps, maps, strict=True):
            check_close(found_map, expected_map, tolerance(name))


def test_only_rounding_differs(name: str, model: nn.Module) -> None:
    exact = copy.deepcopy(model).double()
    images = make_images(model, 2, sizes_of(name)[-1]).double()
    check_close(zoo.fuse(exact)(images), exact(images), 1e-11)


@pytest.mark.parametrize('name', [*ARCHS, *LARGE])
def test_feature_extractors_are_fused(name: str) -> None:
    model = make(name, features_only=True) if name in ENTRIES else make_features(name)
    fused = zoo.fuse(model)
    images = make_images(model, 2, sizes_of(name)[-1])
    for found, expected in zip(fused(images), model(images), strict=True):
        check_close(found, expected, tolerance(name))
    assert left(fused) <= left(model)


def make_features(name: str) -> nn.Module:
    whole = make(name)
    kwargs = {'arch': ARCHS[name], 'img_size': SIZES[name][0], 'features_only': True}
    features: nn.Module = timm.create_model(name, **kwargs).eval()
    own = {key.removeprefix('model.'): key for key in features.state_dict()}
    weights = {key.replace('stages.', 'stages_'): value for key, value in whole.state_dict().items()}
    weights |= whole.state_dict()
    features.load_state_dict({key: weights[short] for short, key in own.items()})
    return features


def left(model: nn.Module) -> int:
    """How many batch norms there are, those after local attention apart."""
    kept = sum(isinstance(module, LocalAttention) for module in model.modules())
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()) - kept


def test_layers_are_gone(name: str, model: nn.Module, fused: nn.Module) -> None:
    types = [type(module) for module in fused.modules()]
    norms = sum(issubclass(kind, nn.BatchNorm2d) for kind in types)
    assert norms == (types.count(LocalAttention) if name.startswith('trionet') else 0)
    assert types.count(LayerScale) == types.count(TokenMixing)
    projections = [module for module in fused.modules() if isinstance(module, Projections)]
    assert all(isinstance(module.qkv, nn.Conv2d) and not hasattr(module, 'q') for module in projections)
    assert len(projections) == sum(isinstance(module, Projections) for module in model.modules())
    assert not any(parameter.requires_grad for parameter in fused.parameters())


def test_pooling_precedes_linear_layers(fused: nn.Module, name: str) -> None:
    if name.startswith('carnet'):
        pooled = [module for module in fused.modules() if isinstance(module, nn.AvgPool2d)]
        first = [m[0] for m in fused.modules() if type(m) is nn.Sequential and isinstance(m[0], nn.AvgPool2d)]
        assert len(first) == 2 * len(pooled) > 0
    else:
        assert not any(getattr(m, 'add_input', False) for m in fused.modules())


def test_the_network_stays_as_it_is(name: str) -> None:
    model = make(name)
    before = copy.deepcopy(model.state_dict())
    images = make_images(model, 2, sizes_of(name)[0])
    expected = model(images)
    zoo.fuse(model)
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in before.items())
    assert torch.equal(model(images), expected)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(m.tables.on for m in model.modules() if isinstance(getattr(m, 'tables', None), TableCache))


@pytest.mark.parametrize('part', ['', 'stages.1'])
def test_training_mode_is_refused(part: str) -> None:
    model = make('uninet_digits')
    model.get_submodule(part).train()
    with pytest.raises(zoo.ZooError, match=rf'training mode{f" .{part}." if part else ""}: call eval'):
        zoo.fuse(model)


def test_fusing_again_changes_nothing(name: str, fused: nn.Module) -> None:
    images = make_images(fused, 2, sizes_of(name)[0])
    again = zoo.fuse(nn.Sequential(fused).eval())[0]
    assert again.state_dict().keys() == fused.state_dict().keys()
    assert all(torch.equal(x, fused.state_dict()[key]) for key, x in again.state_dict().items())
    assert torch.equal(again(images), fused(images))
    assert zoo.fuse(fused).state_dict().keys() == fused.state_dict().keys()


def test_timm_fuses_the_same_layers(name: str, model: nn.Module, fused: nn.Module) -> None:
    with torch.enable_grad():
        found = reparameterize_model(model)
    assert found.state_dict().keys() == fused.state_dict().keys() - {'fused'}
    assert all(torch.equal(x, fused.state_dict()[key]) for key, x in found.state_dict().items())


def test_tensors_fit_fused_networks_only(name: str, model: nn.Module, fused: nn.Module) -> None:
    with pytest.raises(RuntimeError, match='"fused"'):
        copy.deepcopy(model).load_state_dict(fused.state_dict())
    with pytest.raises(RuntimeError, match='"fused"'):
        copy.deepcopy(fused).load_state_dict(model.state_dict())
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        parameter.zero_()
    other = zoo.fuse(other)
    images = make_images(model, 2, sizes_of(name)[0])
    assert not torch.equal(other(images), fused(images))  # tables of zeros are kept
    other.load_state_dict(fused.state_dict())
    assert torch.equal(other(images), fused(images))


@pytest.mark.parametrize('name', DIGITS)
def test_tensors_are_refused_as_published_weights(name: str, tmp_path: Path) -> None:
    save_file(zoo.fuse(make(name)).state_dict(), tmp_path / 'fused.safetensors')
    overlay = {'file': str(tmp_path / 'fused.safetensors')}
    with pytest.raises(zoo.ZooError, match='not of this network'):
        timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)


def test_copies_compute_the_same(name: str, fused: nn.Module) -> None:
    images = make_images(fused, 2, sizes_of(name)[0])
    with torch.inference_mode():
        expected = fused(images)
    assert torch.equal(copy.deepcopy(fused)(images), expected)
    assert torch.equal(pickle.loads(pickle.dumps(fused))(images), expected)


def test_kept_biases_follow_the_type() -> None:
    fused, images = zoo.fuse(make('s3')), torch.randn(2, 3, 64, 96)
    expected = fused(images)
    assert fused.double()(images.double()).dtype == torch.float64
    check_close(fused.float()(images), expected)
    half = fused.to(torch.bfloat16)(images.to(torch.bfloat16))
    assert half.dtype == torch.bfloat16
    assert half.isfinite().all()


def test_large_biases_are_not_kept() -> None:
    fused = zoo.fuse(make('s3'))
    attentions = [module for module in fused.modules() if isinstance(module, WindowAttention)]
    for size in [(64, 96), (1280, 1920), (96, 64)]:
        fused(torch.randn(1, 3, *size))
        kept = [sum(x.nbytes for x in attn.tables.made.values()) for attn in attentions]
        assert all(0 <= number <= KEPT_BYTES for number in kept)
    assert all(attn.tables.made for attn in attentions)
    assert attentions[1].make_bias(320, 480, torch.float32).nbytes > KEPT_BYTES


@pytest.fixture(scope='module', params=[*ARCHS, *LARGE])
def exportable(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module, Tensor]:
    """A fused network, the original and images."""
    with torch.no_grad():
        model = make(request.param)
        return zoo.fuse(model), model, make_images(model, 2, sizes_of(request.param)[0])


Exportable = tuple[nn.Module, nn.Module, Tensor]


def test_compiles_without_graph_breaks(exportable: Exportable) -> None:
    fused, model, images = exportable
    torch._dynamo.reset()
    compiled = torch.compile(fused, fullgraph=True, backend='eager', dynamic=False)
    check_close(compiled(images), model(images), 3e-4)


def test_exports_to_torch_and_onnx(exportable: Exportable, tmp_path: Path) -> None:
    fused, model, images = exportable
    program = capture(fused, '.onnx', tuple(images.shape[2:]))
    check_close(program.module()(images), model(images), 3e-4)
    write(program, tmp_path / 'fused.onnx', {})
    check_close(read(tmp_path / 'fused.onnx')(images[:1]), model(images[:1]), 3e-4)


def test_exports_to_torchscript(exportable: Exportable, tmp_path: Path) -> None:
    fused, model, images = exportable
    write(capture(fused, '.pt', tuple(images.shape[2:])), tmp_path / 'fused.pt', {})
    check_close(read(tmp_path / 'fused.pt')(images), model(images), 3e-4)
