"""Networks outside of eager Python: torch.compile, torch.export, ONNX and TorchScript compute the same.

Each family has a small network here with every kind of its blocks; entries of full size are slow. An
exported network takes any number of images, of any size that is a multiple of its stride: sizes that are
rounded on the way are another case, which torch excludes, as are maps of a single row or column. GLiT is
exported for one size: its position embedding has one row per patch, so the size is a part of its weights.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import zoo
from zoo.export import FORMATS, capture, export_network, read, write
from zoo.models import FAMILIES

CONV = {'operator': 'conv', 'expansion': 0.5, 'kernel_size': 3}
AXIAL = {'operator': 'axial', 'expansion': 0.5, 'qk_rate': 0.5, 'v_rate': 1.0, 'num_heads': 2}
LOCAL = AXIAL | {'operator': 'local', 'kernel_size': 5}
GLOBAL = {'global_heads': 2, 'local_heads': 0, 'qkv_dim': 24, 'mlp_ratio': 2.0}
SEQUENCE_CONV = {'global_heads': 0, 'local_heads': 2, 'kernel_size': 3, 'expansion': 1.5, 'mlp_ratio': 1.0}
MIXED = SEQUENCE_CONV | {'global_heads': 1, 'local_heads': 1, 'qkv_dim': 12}


def window_stage(embed_dim: int, *windows: int) -> dict[str, Any]:
    blocks = [{'num_heads': 1, 'window_size': window, 'mlp_ratio': 1.5} for window in windows]
    return {'embed_dim': embed_dim, 'blocks': blocks}


def uninet_stage(operator: str, downsample: str | None, channels: int) -> dict[str, Any]:
    stage = {'operator': operator, 'expansion': 2, 'channels': channels, 'repeats': 1}
    return stage | ({'downsample': downsample} if downsample else {})


ARCHS: dict[str, dict[str, Any]] = {
    'carnet': {
        'channels': 16,
        'operators': [['local_k3_h4'], ['local_k5_h8'], ['local_k7_h4'], ['non_local'], ['non_local']],
    },
    'glit': {'embed_dim': 16, 'num_heads': 2, 'patch_size': 4, 'blocks': [GLOBAL, SEQUENCE_CONV, MIXED]},
    's3': {'stages': [window_stage(16, 4, 4), window_stage(24, 7, 3), window_stage(32, 5, 2)]},
    'trionet': {'stages': [[CONV], [CONV, LOCAL], [LOCAL, AXIAL], [AXIAL]], 'out_channels': [16, 32, 48, 64]},
    'uninet': {
        'stages': [
            uninet_stage('dwconv', None, 16),
            uninet_stage('conv', 'l', 16),
            uninet_stage('lsa', 'lg', 32),
            uninet_stage('mlp', 'l', 32),
            uninet_stage('sa', 'g', 32),
        ],
        'strides': [1, 2, 2, 1, 2],
        'stem_channels': 16,
        'head_channels': 48,
    },
}
SIZES = {
    'carnet': [(32, 32), (40, 24)],
    'glit': [(32, 32)],
    's3': [(64, 96)],
    'trionet': [(64, 96), (96, 160)],
    'uninet': [(64, 96), (96, 160)],
    'carnet_c96': [(32, 32), (40, 24)],
    'glit_tiny': [(224, 224)],
    's3_tiny': [(64, 96), (96, 160)],
    'trionet_a': [(64, 96), (96, 160)],
    'uninet_b0': [(64, 96), (96, 160)],
}
"""Of images for one exported network: it is exported with the first, which is the only one where the size is
not free. S3's is, but torch takes minutes to follow its windows on maps of any size.
"""


@pytest.fixture(
    scope='module',
    params=[name if name in ARCHS else pytest.param(name, marks=pytest.mark.slow) for name in SIZES],
)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope='module')
def sizes(name: str) -> list[tuple[int, int]]:
    return SIZES[name]


def make_model(name: str) -> nn.Module:
    """Exportable, as timm's own script for ONNX makes it; no branch of the network is idle."""
    torch.manual_seed(0)
    arch = {'arch': ARCHS[name]} if name in ARCHS else {}
    model = timm.create_model(name, **arch, img_size=SIZES[name][0], num_classes=7, exportable=True)
    for parameter in model.parameters():
        if parameter.ndim == 1 and parameter.min() == parameter.max():
            parameter.data.normal_(float(parameter[0] != 0), 0.2)
    return model.eval()


@pytest.fixture(scope='module')
def model(name: str) -> nn.Module:
    with torch.no_grad():
        return make_model(name)


@pytest.fixture(scope='module')
def exported(model: nn.Module, sizes: list[tuple[int, int]]) -> torch.export.ExportedProgram:
    with torch.no_grad():
        return capture(model, '.onnx', sizes[0], dynamic=len(sizes) > 1)


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def make_images(number: int, size: tuple[int, int]) -> Tensor:
    torch.manual_seed(number)
    return torch.randn(number, 3, *size)


def check(found: Callable[[Tensor], Tensor], model: nn.Module, sizes: list[tuple[int, int]]) -> None:
    for number in (2, 3, 1):
        for size in sizes:
            images = make_images(number, size)
            expected = model(images)
            torch.testing.assert_close(found(images), expected, rtol=0, atol=3e-4 * expected.std().item())


def test_every_family_is_exported() -> None:
    entries = SIZES.keys() - ARCHS.keys()
    assert set(ARCHS) == {zoo.load_entry(name).family for name in entries} == set(FAMILIES)


def test_export(
    exported: torch.export.ExportedProgram, model: nn.Module, sizes: list[tuple[int, int]]
) -> None:
    check(exported.module(), model, sizes)


def test_onnx(
    exported: torch.export.ExportedProgram, model: nn.Module, sizes: list[tuple[int, int]], tmp_path: Path
) -> None:
    path = tmp_path / 'model.onnx'
    write(exported, path, {})
    check(read(path), model, sizes)


@pytest.mark.slow
def test_s3_of_any_size_as_onnx(tmp_path: Path) -> None:
    model, path = make_model('s3'), tmp_path / 'model.onnx'
    agreements = export_network(model, path, (64, 96), dynamic=True)
    assert len({agreement.shape[2:] for agreement in agreements}) == 3
    check(read(path), model, [(16, 16), (50, 70), (96, 160), (112, 112)])


def test_torchscript(model: nn.Module, sizes: list[tuple[int, int]], tmp_path: Path) -> None:
    path = tmp_path / 'model.pt'
    write(capture(model, '.pt', sizes[0]), path, {})
    check(read(path), model, sizes)


@pytest.mark.parametrize('ending', FORMATS.values())
def test_export_network(ending: str, model: nn.Module, sizes: list[tuple[int, int]], tmp_path: Path) -> None:
    path = tmp_path / f'model{ending}'
    agreements = export_network(model, path, sizes[0])
    assert [agreement.shape for agreement in agreements] == [(number, 3, *sizes[0]) for number in (2, 1, 3)]
    check(read(path), model, sizes[:1])


def test_compile_without_graph_breaks(model: nn.Module, sizes: list[tuple[int, int]]) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend='eager', dynamic=False)
    images = make_images(2, sizes[0])
    torch.testing.assert_close(compiled(images), model(images))


@pytest.mark.parametrize(
    'name', [name if name == 'glit' else pytest.param(name, marks=pytest.mark.slow) for name in SIZES]
)
def test_compiled_code_computes_the_same(name: str) -> None:
    torch._dynamo.reset()
    model = make_model(name)
    images = make_images(2, SIZES[name][0])
    expected = model(images)
    compiled = torch.compile(model, fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(images), expected, rtol=0, atol=3e-4 * expected.std().item())
