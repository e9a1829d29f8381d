"""The networks in the wheel: one a family, found and trained by this package on handwritten digits."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.data import create_transform, resolve_model_data_config

import zoo
from zoo.digits import Digits
from zoo.evaluate import evaluate_name
from zoo.files import sha256_file
from zoo.models import FAMILIES
from zoo.registry import entry_file

NAMES = [f'{family}_digits' for family in FAMILIES]


@pytest.mark.parametrize('name', NAMES)
def test_entry_says_how_it_was_made(name: str) -> None:
    entry = zoo.load_entry(name)
    assert entry.family == name.removesuffix('_digits')
    assert (entry.num_classes, entry.input.size[0], entry.published) == (10, 1, None)
    assert entry.provenance.kind == 'searched'
    assert entry.provenance.config['name'] == name
    assert entry.provenance.commit
    assert entry.recipe == f'train/{name}.yaml'
    (weights,) = entry.weights.values()
    assert weights.license == 'apache-2.0'
    assert weights.training['config']['seed'] == 0
    assert weights.training['steps'] > 0
    (source,) = weights.sources
    path = entry_file(name).parent / source.file
    assert source.sha256 == sha256_file(path)
    assert source.file == f'{name}.digits-{source.sha256[:8]}.safetensors'
    assert source.size == path.stat().st_size <= 300_000


@pytest.mark.parametrize('name', NAMES)
def test_accuracy_is_the_stated_one(name: str) -> None:
    """Image by image, without this package's own evaluation; then with it."""
    model = timm.create_model(name, pretrained=True).eval()
    transform = create_transform(**resolve_model_data_config(model))
    source = Digits('test')
    with torch.inference_mode():
        right = sum(int(model(transform(image)[None]).argmax() == label) for image, label in source)
    stated = zoo.load_entry(name).weights['digits'].metrics['test_top1']
    assert 100 * right / len(source) == pytest.approx(stated, abs=1e-3)
    assert stated >= 97
    assert evaluate_name(name, 'digits', quiet=True).correct['top1'] == right


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize(
    'changes',
    [
        {'num_classes': 3},
        {'num_classes': 0},
        {'in_chans': 3},
        {'in_chans': 4},
        {'img_size': 48},
        {'img_size': (64, 32)},
        {'features_only': True},
    ],
    ids=str,
)
def test_weights_fit_other_classes_channels_and_sizes(name: str, changes: dict[str, Any]) -> None:
    own, other = (timm.create_model(name, pretrained=True, **kwargs).eval() for kwargs in ({}, changes))
    size = changes.get('img_size', own.pretrained_cfg['input_size'][1:])
    height, width = size if isinstance(size, tuple) else (size, size)
    images = torch.randn(2, 1, height, width)
    if channels := changes.get('in_chans'):  # grey images in all of them look as they did
        with torch.inference_mode():
            assert torch.allclose(
                other(images.expand(-1, channels, -1, -1)), own(images), rtol=1e-4, atol=1e-4
            )
        return
    with torch.inference_mode():
        outputs = other(images)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    assert all(output.isfinite().all() for output in outputs)
    found, wanted = other.state_dict(), own.state_dict()
    same = [key for key, value in found.items() if key in wanted and value.shape == wanted[key].shape]
    head = str(own.pretrained_cfg['classifier'])
    kept = [key for key in wanted if not key.startswith(head) or changes.get('num_classes') is None]
    if 'img_size' not in changes and 'features_only' not in changes:
        assert set(kept) <= set(same)
    assert all(torch.equal(found[key], wanted[key]) for key in same if not key.startswith(head))


def test_wheel_has_no_other_weights() -> None:
    folder = Path(zoo.__file__).parent / 'entries'
    listed = {
        source.file for name in NAMES for w in zoo.load_entry(name).weights.values() for source in w.sources
    }
    assert {path.name for path in folder.glob('*.safetensors')} == listed
