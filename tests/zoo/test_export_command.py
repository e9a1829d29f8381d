"""The command ``searchzoo zoo export``: what it writes runs elsewhere and agrees; what does not agree is not
written."""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf
from torch import nn

from zoo import export
from zoo.console import main
from zoo.errors import ZooError
from zoo.export import FORMATS, compare, export_network
from zoo.files import sha256_file

NAME = 'carnet_exported'
ARCH = {
    'channels': 16,
    'operators': [['local_k3_h4'], ['non_local'], ['local_k3_h4'], ['local_k3_h4'], ['non_local']],
}
INPUT = {
    'size': [3, 16, 16],
    'mean': [0.1, 0.2, 0.3],
    'std': [0.4, 0.5, 0.6],
    'interpolation': 'bilinear',
    'crop_pct': 0.75,
    'crop_mode': 'border',
}
SIZE = (16, 16)
Capture = pytest.CaptureFixture[str]


def make_network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return timm.create_model('carnet', arch=ARCH, img_size=SIZE, num_classes=5).eval()


@pytest.fixture(scope='module')
def network() -> nn.Module:
    return make_network(0)


@pytest.fixture(scope='module')
def entry(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('entry')
    file = folder / f'{NAME}.safetensors'
    save_file(network.state_dict(), file)
    source = {'file': file.name, 'sha256': sha256_file(file)}
    data = {
        'schema': 1,
        'name': NAME,
        'family': 'carnet',
        'num_classes': 5,
        'arch': ARCH,
        'input': INPUT,
        'weights': {'best': {'sources': [source], 'license': 'mit'}},
        'provenance': {'kind': 'searched', 'note': 'Found by a test.'},
    }
    path = folder / f'{NAME}.json'
    path.write_text(json.dumps(data))
    return path


def run(capsys: Capture, *argv: str | Path) -> tuple[int, str, str]:
    code = main(['zoo', 'export', *(str(argument) for argument in argv)])
    out, err = capsys.readouterr()
    assert 'Traceback' not in err
    return code, out, err


ELSEWHERE = """
import json, sys
import numpy as np, onnxruntime, torch

session = onnxruntime.InferenceSession('x.onnx', providers=['CPUExecutionProvider'])
extra, more = {'searchzoo': ''}, {'searchzoo': ''}
program = torch.export.load('x.pt2', extra_files=extra).module()
script = torch.jit.load('x.pt', _extra_files=more)
texts = [session.get_modelmeta().custom_metadata_map['searchzoo'], extra['searchzoo'], more['searchzoo']]
given = session.get_inputs()[0]
print(json.dumps([given.name, given.type, given.shape, session.get_outputs()[0].shape]))
for text in texts:
    print(text if isinstance(text, str) else text.decode())
for name in 'abc':
    images = np.load(f'{name}.npy')
    outputs = [session.run(None, {'images': images})[0]]
    outputs += [f(torch.from_numpy(images)).detach().numpy() for f in (program, script)]
    np.save(f'{name}_out.npy', np.stack(outputs))
assert not {'zoo', 'timm'} & sys.modules.keys()
"""


def test_files_run_without_this_package(
    entry: Path, network: nn.Module, capsys: Capture, tmp_path: Path
) -> None:
    for name, ending in FORMATS.items():
        path = tmp_path / f'x{ending}'
        code, out, err = run(capsys, entry, '--format', name, '--dynamic', '--out', path)
        assert (code, err) == (0, '')
        lines = out.splitlines()
        assert lines[0] == f'{path}: written, {path.stat().st_size / 1e6:.1f} MB'
        assert lines[1] == 'weights  best (license mit)'
        given = 'images' if name == 'onnx' else 'x'
        assert lines[2] == f'input    {given}: float32 [batch, 3, height, width], multiples of 4'
        shapes = ('2, 3, 16, 16', '1, 3, 16, 16', '3, 3, 16, 16', '2, 3, 20, 24', '1, 3, 8, 16')
        assert len(lines) == 4 + len(shapes)
        for line, shape in zip(lines[3:], shapes, strict=False):
            assert line.startswith(f'checked  [{shape}]: differs by ')
            assert float(line.split()[-1]) < 1e-5
    assert sorted(os.listdir(tmp_path)) == ['x.onnx', 'x.pt', 'x.pt2']
    assert str(Path(export.__file__).parent).encode() not in (tmp_path / 'x.onnx').read_bytes()
    onnx.checker.check_model(tmp_path / 'x.onnx', full_check=True)

    images = {'a': (1, 3, 16, 16), 'b': (5, 3, 24, 12), 'c': (2, 3, 32, 40)}
    for name, shape in images.items():
        np.save(tmp_path / f'{name}.npy', np.random.default_rng(len(shape)).normal(size=shape).astype('f4'))
    (tmp_path / 'elsewhere.py').write_text(ELSEWHERE)
    command = [sys.executable, '-W', 'ignore', 'elsewhere.py']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    given, *texts = done.stdout.splitlines()
    assert json.loads(given) == [
        'images',
        'tensor(float)',
        ['batch', 3, 'height', 'width'],
        ['batch', 5],
    ]
    for text in texts:
        assert json.loads(text) == {
            'name': NAME,
            'weights': 'best',
            'license': 'mit',
            'num_classes': 5,
            'input_size': INPUT['size'],
            **{key: value for key, value in INPUT.items() if key != 'size'},
        }
    for name in images:
        with torch.no_grad():
            expected = network(torch.from_numpy(np.load(tmp_path / f'{name}.npy'))).numpy()
        for output in np.load(tmp_path / f'{name}_out.npy'):
            np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5 * expected.std())


def test_size_and_weights_of_ones_own(entry: Path, capsys: Capture, tmp_path: Path) -> None:
    other = make_network(1)
    checkpoint, path = tmp_path / 'mine.safetensors', tmp_path / 'x.pt'
    save_file(other.state_dict(), checkpoint)
    options = ('--checkpoint', checkpoint, '--size', '24', '--format', 'torchscript', '--out', path)
    code, out, err = run(capsys, entry, *options)
    assert (code, err) == (0, '')
    assert 'weights  mine.safetensors\ninput    x: float32 [batch, 3, 24, 24]\n' in out
    extra = {'searchzoo': ''}
    loaded = torch.jit.load(path, _extra_files=extra)
    info = json.loads(extra['searchzoo'])
    assert (info['input_size'], info['weights'], info['license']) == ([3, 24, 24], 'mine.safetensors', None)
    images = torch.randn(2, 3, 24, 24)
    torch.testing.assert_close(loaded(images), other(images), rtol=0, atol=1e-6)


def test_networks_of_timm_and_folders(capsys: Capture, tmp_path: Path) -> None:
    path = tmp_path / 'x.onnx'
    options = ('--format', 'onnx', '--out', path)
    code, out, err = run(capsys, 'test_efficientnet', '--random', '--dynamic', '--size', '64', *options)
    assert (code, err) == (0, '')
    assert 'weights  random\n' in out
    assert '[batch, 3, height, width], multiples of 32\n' in out

    torch.manual_seed(0)
    model = timm.create_model('test_vit', num_classes=3).eval()
    save_for_hf(model, tmp_path / 'folder', safe_serialization=True)
    code, out, err = run(capsys, f'local-dir:{tmp_path / "folder"}', *options)
    assert (code, err) == (0, '')
    images = torch.randn(2, 3, 160, 160)
    expected = model(images).detach()
    torch.testing.assert_close(export.read(path)(images), expected, rtol=0, atol=1e-5 * expected.std().item())


def perturb(model: nn.Module) -> nn.Module:
    other = copy.deepcopy(model)
    other.get_classifier().weight.data.mul_(1.01)
    return other


def break_one_number(model: nn.Module) -> nn.Module:
    other = copy.deepcopy(model)
    other.get_classifier().bias.data[0] = torch.nan
    return other


def drop_a_class(model: nn.Module) -> nn.Module:
    other = copy.deepcopy(model)
    other.reset_classifier(4)
    return other


@pytest.mark.parametrize('ending', FORMATS.values())
@pytest.mark.parametrize('tamper', [perturb, break_one_number, drop_a_class])
def test_a_file_that_does_not_agree_is_not_written(
    tamper: Callable[[nn.Module], nn.Module],
    ending: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = timm.create_model('test_efficientnet', num_classes=5, exportable=True).eval()
    true = export.capture
    monkeypatch.setattr(export, 'capture', lambda model, *args: true(tamper(model), *args))
    path = tmp_path / f'x{ending}'
    path.write_text('old')
    with pytest.raises(ZooError, match=rf'^x\{ending} was not written: on images of shape \[2, 3, 64, 64\]'):
        export_network(model, path, (64, 64))
    assert os.listdir(tmp_path) == [path.name]
    assert path.read_text() == 'old'


@pytest.mark.parametrize('ending', ['.onnx', '.pt2'])
def test_a_file_that_refuses_images_is_not_written(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = timm.create_model('test_efficientnet', exportable=True).eval()
    monkeypatch.setattr(export, 'compared_shapes', lambda *args: [(1, 3, 64, 64), (1, 3, 64, 96)])
    with pytest.raises(
        ZooError, match=rf'^x\{ending} was not written: on images of shape \[1, 3, 64, 96\] it'
    ):
        export_network(model, tmp_path / f'x{ending}', (64, 64))
    assert os.listdir(tmp_path) == []


def test_differences_are_relative_to_the_outputs() -> None:
    expected = torch.tensor([[3.0, -4.0, 0.0, 0.0]])
    assert compare(expected, expected) == 0
    assert compare(expected + torch.tensor([[0.0, 0.0, 0.0, 0.25]]), expected) == pytest.approx(0.1)
    assert compare(torch.zeros(1, 4), torch.zeros(1, 4)) == 0
    assert compare(torch.zeros(1, 3), torch.zeros(1, 4)) == float('inf')
    assert compare(torch.full((1, 1), 1e-9), torch.zeros(1, 1)) > 1


def test_what_torch_cannot_export_takes_one_sentence(
    entry: Path, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        print('a screen')
        raise torch._dynamo.exc.UserError(torch._dynamo.exc.UserErrorType.INVALID_INPUT, 'Cannot.\nat line 1')

    monkeypatch.setattr(torch.export, 'export', fail)
    code, out, err = run(capsys, entry, '--format', 'pt2', '--out', tmp_path / 'x.pt2')
    assert (code, out) == (1, '')
    assert err.startswith('torch cannot export the network to x.pt2: Cannot. See ')
    assert os.listdir(tmp_path) == []


ONNX = ('--format', 'onnx', '--out', 'x.onnx')


@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        (['glit_tiny', '--format', 'pt2', '--out', 'x.onnx'], '--format pt2 needs the ending .pt2'),
        (
            ['glit_tiny', '--format', 'onnx', '--out', 'none/x.onnx'],
            'a file in a folder that exists is needed',
        ),
        (['s3_tny', *ONNX], "There is no network 's3_tny' (did you mean s3_tiny"),
        (['s3_tny', '--random', *ONNX], 's3_tny cannot be created: Unknown model (s3_tny).'),
        (
            ['s3_tiny.none', '--random', *ONNX],
            's3_tiny.none cannot be created: Invalid pretrained tag (none)',
        ),
        (['hf-hub:nobody/nothing', *ONNX], 'hf-hub:nobody/nothing cannot be created: HF_HUB_OFFLINE is set'),
        (['hf-hub:nobody/nothing', '--random', *ONNX], 'hf-hub:nobody/nothing cannot be created: '),
        (['uninet_b0', *ONNX], 'pass --random'),
        (['glit_tiny', '--random', '--dynamic', *ONNX], 'leave out --dynamic'),
        (
            ['s3_tiny', '--random', '--dynamic', '--format', 'pt2', '--out', 'x.pt2'],
            'another --format, or leave out --dynamic',
        ),
        (['carnet_c80', '--random', '--dynamic', '--size', '30', *ONNX], 'multiples of 4 from 8 on'),
        (['carnet_c80', '--random', '--dynamic', '--size', '4', *ONNX], 'multiples of 4 from 8 on'),
        (
            ['carnet_c80', '--random', '--size', '3', *ONNX],
            'does not take images of 3x3 pixels: The input is',
        ),
        (['trionet_a', '--random', '--size', '16', *ONNX], 'img_size is 16x16, at least 32x32 is needed'),
    ],
)
def test_mistakes_take_one_sentence(
    argv: list[str], message: str, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *argv)
    assert (code, out) == (1, '')
    assert message in err
    assert err.count('\n') == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('package', ['onnx', 'onnxruntime', 'onnxscript'])
def test_missing_packages_name_the_extra(
    package: str, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    code, out, err = run(capsys, 's3_tiny', '--format', 'onnx', '--out', tmp_path / 'x.onnx')
    assert (code, out) == (1, '')
    assert f'needs {package}, which is not installed' in err
    assert "pip install 'searchzoo[export]'" in err


@pytest.mark.parametrize(
    'argv',
    [
        ['s3_tiny', '--format', 'onnx'],
        ['s3_tiny', '--format', 'tflite', '--out', 'x.tflite'],
        ['s3_tiny', '--random', '--checkpoint', 'x.safetensors', *ONNX],
        ['s3_tiny', '--size', '0', *ONNX],
    ],
)
def test_wrong_usage(argv: list[str], capsys: Capture) -> None:
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, '')
    assert 'usage: searchzoo zoo export' in err


def test_help_has_an_example(capsys: Capture) -> None:
    code, out, err = run(capsys, '--help')
    assert (code, err) == (0, '')
    assert 'example: searchzoo zoo export s3_tiny --format onnx --out s3_tiny.onnx' in out
