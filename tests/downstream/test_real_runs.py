"""Training runs of detectors and segmentors by MMEngine's Runner, on the generated shapes."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('mmseg')
pytest.importorskip('mmcv._ext')

from downstream.predict import predict
from downstream.runner import test as evaluate
from downstream.runner import train
from downstream.shapes import write_shapes

CONFIGS = {
    'mask-rcnn_uninet': 'coco/segm_mAP',
    'mask-rcnn_s3': 'coco/segm_mAP',
    'upernet_trionet': 'mIoU',
    'upernet_glit': 'mIoU',
    'deeplabv3_carnet': 'mIoU',
}
"""Configs in configs/shapes, and the metric that counts."""
SCORES = {
    'mask-rcnn_uninet': 0.3,
    'mask-rcnn_s3': 0.2,
    'upernet_trionet': 58.0,
    'upernet_glit': 55.0,
    'deeplabv3_carnet': 63.0,
}
"""What each reaches at least; a segmentor that knows no shape has a mean IoU of 48."""
BRIEF = {
    'train_cfg.max_iters': 4,
    'train_cfg.val_interval': 4,
    'train_dataloader.batch_size': 2,
    'default_hooks.checkpoint.interval': 2,
}


@pytest.fixture(scope='module')
def brief_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('brief')
    (folder / 'data').mkdir()
    write_shapes(folder / 'data' / 'shapes', 6, 3, sizes=(64, 80))
    return folder


@pytest.fixture(scope='module')
def full_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('full')
    (folder / 'data').mkdir()
    write_shapes(folder / 'data' / 'shapes')
    return folder


@pytest.fixture
def inside() -> Iterator[Any]:
    """``inside(folder)`` makes the folder that with ``data/shapes`` the current one."""
    before = Path.cwd()
    yield os.chdir
    os.chdir(before)


def read_checkpoint(path: Path) -> Any:
    return torch.load(path, weights_only=False)  # one of our own, as it is


def interrupt(run: Path, copy: Path, iteration: int) -> None:
    """Makes a folder as a run leaves it that is stopped after a checkpoint."""
    copy.mkdir()
    shutil.copy(run / f'iter_{iteration}.pth', copy)
    (copy / 'last_checkpoint').write_text(str(copy / f'iter_{iteration}.pth'))


@pytest.mark.parametrize('name', CONFIGS)
def test_a_few_iterations(name: str, brief_data: Path, inside: Any, tmp_path: Path) -> None:
    """Every config trains, evaluates, and can be tested from its checkpoint with the same metrics."""
    inside(brief_data)
    runner = train(f'shapes/{name}_shapes', tmp_path / 'run', options=BRIEF)
    assert runner.iter == 4
    logged = runner.message_hub.get_scalar(f'val/{CONFIGS[name]}').current()
    metrics = evaluate(f'shapes/{name}_shapes', tmp_path / 'run' / 'iter_4.pth', tmp_path / 'test')
    assert metrics[CONFIGS[name]] == pytest.approx(logged)


@pytest.mark.parametrize('name', ['mask-rcnn_uninet', 'upernet_trionet'])
def test_resume(name: str, brief_data: Path, inside: Any, tmp_path: Path) -> None:
    """A resumed run ends in the weights, and the state of the optimizer, of one that was never stopped."""
    inside(brief_data)
    train(f'shapes/{name}_shapes', tmp_path / 'whole', options=BRIEF)
    interrupt(tmp_path / 'whole', tmp_path / 'resumed', 2)
    runner = train(f'shapes/{name}_shapes', tmp_path / 'resumed', resume=True, options=BRIEF)
    assert runner.iter == 4
    whole = read_checkpoint(tmp_path / 'whole' / 'iter_4.pth')
    resumed = read_checkpoint(tmp_path / 'resumed' / 'iter_4.pth')
    torch.testing.assert_close(resumed['state_dict'], whole['state_dict'], rtol=0, atol=0)
    torch.testing.assert_close(resumed['optimizer']['state'], whole['optimizer']['state'], rtol=0, atol=0)
    half = read_checkpoint(tmp_path / 'whole' / 'iter_2.pth')['state_dict']
    assert any(not torch.equal(half[key], value) for key, value in whole['state_dict'].items())


@pytest.mark.slow
@pytest.mark.parametrize('name', SCORES)
def test_training_to_a_score(name: str, full_data: Path, inside: Any, tmp_path: Path) -> None:
    """From random weights to a useful score; the second half once more, resumed; then pictures."""
    inside(full_data)
    start = time.process_time()
    train(f'shapes/{name}_shapes', tmp_path / 'run')
    spent = time.process_time() - start
    last = Path((tmp_path / 'run' / 'last_checkpoint').read_text())
    metric = CONFIGS[name]
    metrics = evaluate(f'shapes/{name}_shapes', last, tmp_path / 'test')
    print(f'{name}: {metric} {metrics[metric]} after {spent:.0f} s')
    assert metrics[metric] >= SCORES[name]

    iterations = int(last.stem.removeprefix('iter_'))
    interrupt(tmp_path / 'run', tmp_path / 'resumed', iterations // 2)
    train(f'shapes/{name}_shapes', tmp_path / 'resumed', resume=True)
    weights = [read_checkpoint(tmp_path / f / last.name)['state_dict'] for f in ('run', 'resumed')]
    torch.testing.assert_close(weights[1], weights[0], rtol=0, atol=0)

    images = [Path('data/shapes/val') / f'{index:06}.png' for index in (0, 2, 3)]  # 1 has no object
    for image, picture in zip(
        images, predict(f'shapes/{name}_shapes', last, images, tmp_path / 'drawn'), strict=True
    ):
        drawn, plain = np.asarray(Image.open(picture).convert('RGB')), np.asarray(Image.open(image))
        assert drawn.shape == plain.shape
        assert (drawn != plain).any()
