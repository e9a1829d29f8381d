"""Conversion: the official layouts arrive whole, and no checkpoint runs code or leaves half a file."""

import argparse
import json
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from zoo.convert import convert, load_checkpoint, save_weights
from zoo.errors import ZooError
from zoo.files import sha256_file

GOLDEN = Path(__file__).parents[1] / 'golden'
OFFICIAL = {
    's3_tiny': 'S3-T',
    's3_small': 'S3-S',
    's3_base': 'S3-B',
    'glit_tiny': 'GLiT-Tiny',
    'uninet_eccv_b1': 'UniNet-B1',
}


def official(name: str) -> dict[str, Tensor]:
    """Tensors of the official layout, one number each: the size of the files does not matter here."""
    layout = json.loads((GOLDEN / f'{OFFICIAL[name]}_state_dict.json').read_text())
    return {
        key: torch.tensor(
            i % 1000 if 'index' in key or key.endswith('num_batches_tracked') else i / 1000
        ).expand(shape)
        for i, (key, shape) in enumerate(layout)
    }


@pytest.fixture(scope='module')
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole converted file, of the smallest official network."""
    folder = tmp_path_factory.mktemp('weights')
    torch.save({'model': official('glit_tiny')}, folder / 'glit_tiny.pth.tar')
    convert('glit_tiny', folder / 'glit_tiny.pth.tar', folder / 'glit_tiny.safetensors')
    return folder / 'glit_tiny.safetensors'


@pytest.mark.parametrize('name', OFFICIAL)
def test_official_layout_arrives_whole(name: str, tmp_path: Path) -> None:
    tensors, source, target = official(name), tmp_path / 'official.pth', tmp_path / 'native.safetensors'
    torch.save({'model': tensors, 'epoch': 3, 'args': argparse.Namespace(lr=0.1, data=['a'])}, source)
    done = convert(name, source, target)
    assert (done.path, done.key, done.sha256) == (target, 'model', sha256_file(target))
    assert sorted(os.listdir(tmp_path)) == ['native.safetensors', 'official.pth']
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={'file': str(target)})
    found = model.state_dict()
    assert found.keys() == load_file(target).keys()
    derived = re.compile(r'relative_position_index|attn_mask')
    kept = sorted(float(v.flatten()[0]) for k, v in tensors.items() if not derived.search(k))
    assert sorted(float(tensor.flatten()[0]) for tensor in found.values()) == pytest.approx(kept)


def test_metadata_is_one_canonical_string(weights: Path) -> None:
    with safe_open(weights, 'pt') as file:
        metadata = file.metadata()
    source = weights.with_suffix('.pth.tar')
    assert metadata.keys() == {'searchzoo'}
    assert json.loads(metadata['searchzoo']) == {
        'converted_from': 'glit_tiny.pth.tar',
        'entry': 'glit_tiny',
        'source_sha256': sha256_file(source),
    }


def test_same_checkpoint_gives_the_same_bytes(weights: Path, tmp_path: Path) -> None:
    again = convert('glit_tiny', weights.with_suffix('.pth.tar'), tmp_path / 'again.safetensors')
    assert again.path.read_bytes() == weights.read_bytes()


def save_wrapped(kind: str, tensors: dict[str, Tensor], path: Path) -> None:
    if kind == 'plain':
        torch.save(tensors, path)
    elif kind == 'old format':
        torch.save({'state_dict': tensors}, path, _use_new_zipfile_serialization=False)
    elif kind == 'data parallel':
        torch.save({'model': {f'module.{key}': tensor for key, tensor in tensors.items()}}, path)
    elif kind == 'half precision':
        torch.save({'model': {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}}, path)
    elif kind == 'native':
        save_file(tensors, path)


@pytest.mark.parametrize('kind', ['plain', 'old format', 'data parallel', 'half precision', 'native'])
def test_usual_wrappings(kind: str, weights: Path, tmp_path: Path) -> None:
    tensors = load_file(weights)
    if kind == 'half precision':
        tensors = {key: tensor.half().to(tensor.dtype) for key, tensor in tensors.items()}
    path = tmp_path / ('x.safetensors' if kind == 'native' else 'x.pth')
    save_wrapped(kind, tensors, path)
    found = load_file(convert('glit_tiny', path, tmp_path / 'out.safetensors').path)
    assert found.keys() == tensors.keys()
    assert all(found[k].dtype == v.dtype and torch.equal(found[k], v) for k, v in tensors.items())


def test_key_chooses_among_wrapped_weights(weights: Path, tmp_path: Path) -> None:
    tensors = load_file(weights)
    average = {key: tensor + 1 for key, tensor in tensors.items()}
    torch.save({'state_dict_ema': average, 'model': tensors, 'optimizer': {'lr': 1}}, tmp_path / 'x.pth')
    assert convert('glit_tiny', tmp_path / 'x.pth', tmp_path / 'a.safetensors').key == 'model'
    convert('glit_tiny', tmp_path / 'x.pth', tmp_path / 'b.safetensors', key='state_dict_ema')
    assert torch.equal(load_file(tmp_path / 'a.safetensors')['pos_embed'], tensors['pos_embed'])
    assert torch.equal(load_file(tmp_path / 'b.safetensors')['pos_embed'], average['pos_embed'])
    with pytest.raises(ZooError, match=r"no tensors under 'ema', but under \['state_dict_ema', 'model'"):
        convert('glit_tiny', tmp_path / 'x.pth', tmp_path / 'c.safetensors', key='ema')
    with pytest.raises(ZooError, match="not a dict of tensors under 'optimizer': 'lr' is no tensor"):
        convert('glit_tiny', tmp_path / 'x.pth', tmp_path / 'c.safetensors', key='optimizer')


class Command:
    """Pickles as a call that makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize('new_format', [True, False])
def test_pickled_code_is_not_run(new_format: bool, tmp_path: Path) -> None:
    source, trap = tmp_path / 'x.pth', tmp_path / 'trap'
    torch.save({'model': {}, 'args': Command(trap)}, source, _use_new_zipfile_serialization=new_format)
    with pytest.raises(ZooError, match=r'x\.pth: refused, reading it would run code: (posix|nt)\.mkdir\.$'):
        convert('s3_tiny', source, tmp_path / 'out.safetensors')
    assert not trap.exists()
    torch.load(source, weights_only=False)
    assert trap.exists()


def faulty(kind: str, weights: Path, path: Path) -> None:
    """Writes a checkpoint of GLiT-Tiny with a fault."""
    tensors = load_file(weights)
    data = weights.with_suffix('.pth.tar').read_bytes()
    if kind == 'truncated':
        path.write_bytes(data[: len(data) // 2])
    elif kind == 'text':
        path.write_text('<html>Sign in to download</html>')
    elif kind == 'empty':
        path.write_bytes(b'')
    elif kind == 'zip':
        with zipfile.ZipFile(path, 'w') as file:
            file.writestr('readme.txt', 'hello')
    elif kind == 'nan':
        torch.save(tensors | {'cls_token': tensors['cls_token'] * float('nan')}, path)
    elif kind == 'infinity':
        torch.save(tensors | {'cls_token': tensors['cls_token'] + float('inf')}, path)
    elif kind == 'lacks a tensor':
        torch.save({k: v for k, v in tensors.items() if k != 'norm.bias'}, path)
    elif kind == 'other shape':
        torch.save(tensors | {'norm.bias': torch.zeros(5)}, path)
    elif kind == 'other model':
        torch.save(timm.create_model('resnet18').state_dict(), path)
    elif kind == 'other entry':
        torch.save({'model': official('uninet_eccv_b1')}, path)
    elif kind == 'list':
        torch.save([torch.zeros(3)], path)
    elif kind == 'nothing':
        torch.save({}, path)
    elif kind == 'whole module':
        torch.save(torch.nn.Linear(2, 2), path)
    elif kind == 'unprintable name':
        torch.save(tensors | {'\x07' * 300: torch.zeros(1)}, path)
    elif kind == 'unprintable code':
        torch.save(tensors, path)
        with zipfile.ZipFile(path) as file:
            parts = {name: file.read(name) for name in file.namelist()}
        with zipfile.ZipFile(path, 'w') as file:
            for name, part in parts.items():
                file.writestr(name, part.replace(b'ctorch._utils\n', b'ctorch._util\0s\n'))
    elif kind == 'eighths of floats':
        torch.save(tensors | {'norm.bias': tensors['norm.bias'].to(torch.float8_e4m3fn)}, path)
    elif kind == 'sparse':
        torch.save(tensors | {'norm.bias': tensors['norm.bias'].to_sparse()}, path)
    elif kind == 'without values':
        torch.save(tensors | {'norm.bias': tensors['norm.bias'].to('meta')}, path)


FAULTS = {
    'missing': 'there is no such file',
    'truncated': 'damaged or not a checkpoint',
    'text': 'damaged or not a checkpoint',
    'empty': 'damaged or not a checkpoint',
    'zip': 'damaged or not a checkpoint',
    'nan': r'does not fit glit_tiny: 1 tensors hold NaN or infinity \(cls_token\)',
    'infinity': r'does not fit glit_tiny: 1 tensors hold NaN or infinity \(cls_token\)',
    'lacks a tensor': r'does not fit glit_tiny: 1 of 213 tensors are missing \(norm\.bias\)',
    'other shape': r'does not fit glit_tiny: 1 have another shape \(norm\.bias is \[5\], \[192\] is needed\)',
    'other model': 'does not fit glit_tiny: .*tensors are missing .* are not of this network',
    'other entry': 'does not fit glit_tiny',
    'list': 'found list, a dict of tensors is needed',
    'nothing': 'not a dict of tensors: it is empty',
    'whole module': r'refused, reading it would run code: torch\.nn\.modules\.linear\.Linear',
    'unprintable name': r'1 are not of this network \((\\x07)+\.\.\.\)',
    'unprintable code': r'refused, reading it would run code: torch\._util\\x00s\.',
    'eighths of floats': r"'norm\.bias' is torch\.strided of torch\.float8_e4m3fn on cpu, dense numbers",
    'sparse': r"'norm\.bias' is torch\.sparse_coo of torch\.float32 on cpu",
    'without values': r"'norm\.bias' is torch\.strided of torch\.float32 on meta",
}


@pytest.mark.parametrize('kind', FAULTS)
def test_faulty_checkpoint_is_named_and_nothing_is_written(kind: str, weights: Path, tmp_path: Path) -> None:
    source, target = tmp_path / 'source.pth', tmp_path / 'target.safetensors'
    faulty(kind, weights, source)
    target.write_bytes(b'as before')
    with pytest.raises(ZooError, match=FAULTS[kind]) as caught:
        convert('glit_tiny', source, target)
    message = str(caught.value)
    assert message.startswith(str(source))
    assert message.isprintable()
    assert len(message) < 600
    assert target.read_bytes() == b'as before'
    assert set(os.listdir(tmp_path)) <= {'source.pth', 'target.safetensors'}


def test_damaged_safetensors(weights: Path, tmp_path: Path) -> None:
    path = tmp_path / 'x.safetensors'
    path.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ZooError, match=r'x\.safetensors: not a whole safetensors file'):
        load_checkpoint(path)


def test_target_and_name_are_checked_first(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ZooError, match=r"found suffix '\.pth', \.safetensors is needed"):
        convert('glit_tiny', weights, tmp_path / 'x.pth')
    with pytest.raises(ZooError, match='there is no folder'):
        convert('glit_tiny', weights, tmp_path / 'none' / 'x.safetensors')
    with pytest.raises(ZooError, match='did you mean glit_tiny'):
        convert('glit_tini', weights, tmp_path / 'x.safetensors')


def test_saved_weights_are_contiguous_and_their_own(tmp_path: Path) -> None:
    whole = torch.arange(12.0).view(3, 4)
    digest = save_weights(tmp_path / 'x.safetensors', {'a': whole.T, 'b': whole[:2]}, {'z': 1, 'a': [2.5]})
    found = load_file(tmp_path / 'x.safetensors')
    assert torch.equal(found['a'], whole.T)
    assert torch.equal(found['b'], whole[:2])
    assert digest == sha256_file(tmp_path / 'x.safetensors')
    with safe_open(tmp_path / 'x.safetensors', 'pt') as file:
        assert file.metadata() == {'searchzoo': '{"a":[2.5],"z":1}'}
