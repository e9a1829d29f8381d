"""Grid features against the network's own maps of images that are resized and padded by other code."""

import json
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as v2

from downstream import grid_features
from downstream.grid_features import SETTINGS, extract_grid_features, parse_size
from zoo.errors import ZooError

pytestmark = pytest.mark.usefixtures('tiny_entries')

OPTIONS: dict[str, dict[str, Any]] = {
    'glit': {'dynamic_img_size': True},
    's3': {'always_partition': True},
}
MEAN, STD = [0.5] * 3, [0.25] * 3
SIZES = {'a.jpg': (60, 90), 'b/c.png': (90, 60), 'b/d.d.jpg': (41, 97), 'b/one.png': (1, 1)}
"""Height and width of the images, one of which has the ratio 1 : 2.4 and one has a single pixel."""


def draw(path: Path, height: int, width: int, seed: int = 0, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).save(path, **options)


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('images')
    for seed, (name, (height, width)) in enumerate(SIZES.items()):
        draw(folder / name, height, width, seed)
    (folder / 'b' / '._c.png').write_bytes(b'left by a Mac')
    (folder / 'notes.txt').write_text('no image')
    return folder


def make_weights(family: str, path: Path, seed: int = 0) -> nn.Module:
    """Writes weights of a small network; gives the network that has them."""
    torch.manual_seed(seed)
    net = timm.create_model(f'tiny_{family}', **OPTIONS.get(family, {})).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.running_var, 0.5, 2)
    save_file(net.state_dict(), path)
    return net


@pytest.fixture(scope='module')
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('weights') / 's3.safetensors'
    make_weights('s3', path)
    return path


def extract(name: str, folder: Path, out: Path, **options: Any) -> int:
    return extract_grid_features(f'tiny_{name}', folder, out, quiet=True, **{'size': 48, **options})


def look(path: Path, height: int, width: int, stride: int) -> Tensor:
    """The image as the network takes it: resized to these sides, zeros up to multiples of the stride."""
    image = v2.resize(Image.open(path).convert('RGB'), [height, width], v2.InterpolationMode.BICUBIC)
    pixels = (torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 - 0.5) / 0.25
    padded = torch.zeros(1, 3, -(-height // stride) * stride, -(-width // stride) * stride)
    padded[0, :, :height, :width] = pixels
    return padded


def read(out: Path) -> dict[str, Tensor]:
    files = sorted(path for path in out.rglob('*') if path.is_file() and path.name != SETTINGS)
    assert all(path.suffix == '.safetensors' for path in files)
    return {path.relative_to(out).as_posix(): load_file(path)['features'] for path in files}


# with a short side of 48 the long one has at most 80 pixels
RESIZED = {'a.jpg': (48, 72), 'b/c.png': (72, 48), 'b/d.d.jpg': (34, 80), 'b/one.png': (48, 48)}


@pytest.mark.parametrize('family', ['carnet', 'glit', 's3', 'trionet', 'uninet'])
def test_features_are_the_networks_last_maps(family: str, folder: Path, tmp_path: Path) -> None:
    net: Any = make_weights(family, tmp_path / 'w.safetensors')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        written = extract(
            family, folder, tmp_path / 'out', weights=tmp_path / 'w.safetensors', dtype='float32'
        )
    assert written == len(SIZES)
    found = read(tmp_path / 'out')
    assert list(found) == ['a.safetensors', 'b/c.safetensors', 'b/d.d.safetensors', 'b/one.safetensors']
    with torch.inference_mode():
        for (name, sides), features in zip(RESIZED.items(), found.values(), strict=True):
            x = look(folder / name, *sides, stride=16 if family == 'glit' else 32)
            expected = (
                net.stages(net.embed(x))[0]  # its head's convolution, which follows, is no norm
                if family == 'uninet'
                else net.forward_intermediates(x, norm=True)[1][-1][0]
            )
            torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)
            if family == 's3':
                assert torch.equal(expected, net.forward_features(x)[0])


def test_any_map_of_a_network_of_timms(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = timm.create_model('resnet10t').eval()
    save_file(net.state_dict(), tmp_path / 'w.safetensors')
    extract_grid_features(
        'resnet10t',
        folder,
        tmp_path / 'out',
        size=(32, 64),
        index=2,
        weights=tmp_path / 'w.safetensors',
        quiet=True,
    )
    found = read(tmp_path / 'out')
    assert {tuple(features.shape) for features in found.values()} == {(128, 4, 8)}
    assert {features.dtype for features in found.values()} == {torch.float16}
    settings = json.loads((tmp_path / 'out' / SETTINGS).read_text())
    assert (settings['index'], settings['channels'], settings['stride']) == (2, 128, 8)
    image = v2.resize(Image.open(folder / 'a.jpg'), [32, 64], v2.InterpolationMode.BICUBIC)
    pixels = v2.normalize(
        torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255, settings['mean'], settings['std']
    )
    with torch.inference_mode():
        expected = net.layer2(net.layer1(net.maxpool(net.act1(net.bn1(net.conv1(pixels[None]))))))[0]
    torch.testing.assert_close(found['a.safetensors'].float(), expected, rtol=1e-3, atol=1e-3)


def test_files_say_where_they_are_from(folder: Path, weights: Path, tmp_path: Path) -> None:
    extract('s3', folder, tmp_path / 'out', weights=weights)
    with safe_open(tmp_path / 'out' / 'b' / 'd.d.safetensors', 'pt') as file:
        about = json.loads(file.metadata()['searchzoo'])
        assert about == {'image': 'b/d.d.jpg', 'size': [41, 97], 'resized': [34, 80]}
        assert file.get_slice('features').get_shape() == [32, 2, 3]
    settings = json.loads((tmp_path / 'out' / SETTINGS).read_text())
    assert re.fullmatch('[0-9a-f]{64}', settings.pop('weights_sha256'))
    assert settings == {
        'network': 'tiny_s3',
        'index': 3,
        'channels': 32,
        'stride': 32,
        'padded_to': 32,
        'interpolation': 'bicubic',
        'mean': MEAN,
        'std': STD,
        'size': 48,
        'dtype': 'float16',
    }


def test_pictures_are_turned_as_their_exif_data_says(weights: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    draw(tmp_path / 'in' / 'turned.jpg', 40, 64, exif=exif)
    extract('s3', tmp_path / 'in', tmp_path / 'out', weights=weights)
    assert read(tmp_path / 'out')['turned.safetensors'].shape == (32, 3, 2)


def test_batches_and_workers_change_nothing(folder: Path, weights: Path, tmp_path: Path) -> None:
    for number in range(5):
        draw(tmp_path / 'in' / f'{number}.png', 60, 90 - number % 2, number)
        draw(tmp_path / 'in' / f'{number}t.png', 90, 60, number)
    options: dict[str, Any] = {'weights': weights, 'dtype': 'float32'}
    extract('s3', tmp_path / 'in', tmp_path / 'alone', **options)
    extract('s3', tmp_path / 'in', tmp_path / 'together', batch_size=3, num_workers=1, **options)
    alone, together = read(tmp_path / 'alone'), read(tmp_path / 'together')
    assert len(alone) == 10
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_few_images_wait_for_others_of_their_size(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        draw(tmp_path / 'in' / f'{number}.png', 32, (32, 64, 96)[number % 3])
    sizes = []
    call = grid_features._Network.__call__
    monkeypatch.setattr(grid_features, 'WAITING', 2)
    monkeypatch.setattr(
        grid_features._Network, '__call__', lambda self, x: sizes.append(len(x)) or call(self, x)
    )
    assert extract('s3', tmp_path / 'in', tmp_path / 'out', size=(32, 32), batch_size=4, weights=weights) == 6
    assert sizes == [4, 2]
    sizes.clear()
    assert extract('s3', tmp_path / 'in', tmp_path / 'other', size=96, batch_size=2, weights=weights) == 6
    assert sorted(sizes) == [1, 1, 2, 2] or sorted(sizes) == [2, 2, 2]
    assert len(read(tmp_path / 'other')) == 6


def test_killed_it_continues_to_the_same_files(weights: Path, tmp_path: Path) -> None:
    images, out = tmp_path / 'in', tmp_path / 'out'
    for number in range(40):
        draw(images / f'{number:02}.png', 48, 64, number)
    torch.manual_seed(0)
    save_file(timm.create_model('resnet10t').state_dict(), tmp_path / 'w.safetensors')
    options = {'size': 96, 'weights': str(tmp_path / 'w.safetensors'), 'quiet': True}
    code = (
        'import sys; from downstream.grid_features import extract_grid_features as extract;'
        f"extract('resnet10t', sys.argv[1], sys.argv[2], **{options})"
    )
    process = subprocess.Popen([sys.executable, '-c', code, str(images), str(out)])
    while not list(out.glob('*.safetensors')) and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = {path.name: path.stat().st_mtime_ns for path in out.glob('*.safetensors')}
    assert 0 < len(left) < 40
    for path in left:
        load_file(out / path)

    again: dict[str, Any] = {**options}
    assert extract_grid_features('resnet10t', images, out, **again) == 40 - len(left)
    assert {name: (out / name).stat().st_mtime_ns for name in left} == left
    assert extract_grid_features('resnet10t', images, out, **again) == 0
    assert extract_grid_features('resnet10t', images, tmp_path / 'whole', **again) == 40
    for path in (tmp_path / 'whole').iterdir():
        assert path.read_bytes() == (out / path.name).read_bytes()


@pytest.mark.parametrize(
    ('changed', 'said'),
    [
        ({'size': 64}, 'size is 48, not 64'),
        ({'index': 1}, 'index is 3, not 1'),
        ({'dtype': 'float32'}, 'dtype is float16, not float32'),
        ({'name': 'uninet'}, 'network is tiny_s3, not tiny_uninet'),
        ({'seed': 1}, 'weights_sha256 is'),
    ],
)
def test_other_settings_are_refused(
    changed: dict[str, Any], said: str, folder: Path, weights: Path, tmp_path: Path
) -> None:
    extract('s3', folder, tmp_path / 'out', weights=weights)
    before = read(tmp_path / 'out')
    moved = tmp_path / 'moved.safetensors'
    name, seed = changed.pop('name', 's3'), changed.pop('seed', 0)
    make_weights(name, moved, seed)
    assert extract('s3', folder, tmp_path / 'out', weights=weights, index=-1) == 0
    with pytest.raises(
        ZooError, match=f'^[^\n]*holds features of other settings: {said}.*name another folder'
    ):
        extract(name, folder, tmp_path / 'out', weights=moved, **changed)
    assert read(tmp_path / 'out').keys() == before.keys()


def test_the_same_weights_in_another_file_are_the_same(folder: Path, weights: Path, tmp_path: Path) -> None:
    extract('s3', folder, tmp_path / 'out', weights=weights)
    make_weights('s3', tmp_path / 'moved.safetensors')
    assert extract('s3', folder, tmp_path / 'out', weights=tmp_path / 'moved.safetensors') == 0


def test_what_cannot_be_read_is_named_and_the_rest_is_kept(weights: Path, tmp_path: Path) -> None:
    images, out = tmp_path / 'in', tmp_path / 'out'
    for name in ('a.jpg', 'b.jpg', 'c.jpg', 'd.jpg'):
        draw(images / name, 48, 48)
    whole = (images / 'b.jpg').read_bytes()
    (images / 'b.jpg').write_bytes(whole[: len(whole) // 2])
    (images / 'c.jpg').write_text('no image')
    with pytest.raises(
        ZooError, match=r'^\S+in: 2 of 4 images cannot be read, first b\.jpg \(.*[Tt]runcated'
    ):
        extract('s3', images, out, weights=weights)
    assert list(read(out)) == ['a.safetensors', 'd.safetensors']

    (images / 'b.jpg').write_bytes(whole)
    with pytest.raises(ZooError, match=r'1 of 4 images cannot be read, first c\.jpg \(it is no image\)'):
        extract('s3', images, out, weights=weights, num_workers=1)
    draw(images / 'c.jpg', 48, 48)
    assert extract('s3', images, out, weights=weights) == 1
    assert len(read(out)) == 4


def test_what_float16_cannot_hold_is_an_error(folder: Path, tmp_path: Path) -> None:
    net = make_weights('s3', tmp_path / 'w.safetensors')
    tensors = net.state_dict()
    tensors['norm.weight'] = tensors['norm.weight'] * 1e6
    save_file(tensors, tmp_path / 'w.safetensors')
    with pytest.raises(ZooError, match=r'^a\.jpg: a feature is \S+e\+06, which float16 cannot hold\.$'):
        extract('s3', folder, tmp_path / 'out', weights=tmp_path / 'w.safetensors')
    assert read(tmp_path / 'out') == {}


def test_faulty_arguments(folder: Path, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / 'out'

    def refuse(said: str, images: Path = folder, out: Path = out, name: str = 's3', **options: Any) -> None:
        with pytest.raises(ZooError, match=said) as caught:
            extract(name, images, out, **{'weights': weights, **options})
        assert '\n' not in str(caught.value)
        assert not (tmp_path / 'out').exists()

    refuse('index is 4, the network has 4 feature maps .*: -4 to 3 are allowed', index=4)
    refuse('size: found 0, sides of 1 to 4096', size=0)
    refuse('size: found 32x5000, sides of 1 to 4096', size=(32, 5000))
    refuse('batch_size: found 0', batch_size=0)
    refuse("dtype: found 'int8', float16 or float32", dtype='int8')
    refuse('there is no such folder of images', tmp_path / 'nowhere')
    refuse('there is no such file of weights', weights=tmp_path / 'none.safetensors')
    refuse('tiny_uninet.*cannot be loaded', name='uninet')
    refuse("There is no entry and no model of timm 'tiny_none'", name='none')
    refuse('tiny_s3 has no published weights', weights=None)
    (tmp_path / 'empty').mkdir()
    refuse('there are no images', tmp_path / 'empty')
    draw(tmp_path / 'twins' / 'a.png', 8, 8)
    draw(tmp_path / 'twins' / 'a.jpg', 8, 8)
    refuse(r'a\.jpg and a\.png differ by their suffix only', tmp_path / 'twins')
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'thesis.tex').write_text('mine')
    refuse(f'there are files, but no {SETTINGS}', out=tmp_path / 'full')


def test_networks_of_one_size_say_which(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ZooError, match=r'takes images of one size: --size 224x224 is needed\.$'):
        extract_grid_features('mixer_s32_224', folder, tmp_path / 'out', quiet=True)


def test_sizes_of_the_command() -> None:
    assert parse_size('600') == 600
    assert parse_size('448X640') == (448, 640)
    for text in ('', 'x', '600x', '1x2x3', '-5', '6e2', '٦'):
        with pytest.raises(ZooError, match='--size: found'):
            parse_size(text)
