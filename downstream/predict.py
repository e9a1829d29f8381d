"""Pictures of what a detector or segmentor sees in images."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import mmcv
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.device import get_device
from mmengine.registry import DATASETS, MODELS, VISUALIZERS, init_default_scope
from mmengine.runner import set_random_seed
from tqdm import tqdm

from downstream.config_errors import explained
from downstream.data_checks import datasets_of
from downstream.model_checks import check_channels
from downstream.runner import load_config, load_weights, without_pretrained
from zoo.errors import ZooError
from zoo.files import new_folder

__all__ = ['list_images', 'predict']

SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')


def predict(
    name: str | Path,
    checkpoint: Path | str,
    images: Iterable[Path | str],
    out: Path | str,
    options: Mapping[str, Any] | None = None,
    score: float = 0.3,
) -> list[Path]:
    """Draws predictions over images: boxes and masks, classes of pixels, or panoptic segments.

    Images are prepared as the config's test data are, and drawn by the visualizer that the config names.

    Args:
        name: As for :func:`downstream.runner.find_config`.
        checkpoint: As for :func:`downstream.runner.test`.
        images: Files, and folders of files.
        out: A new folder; ``a.jpg`` becomes ``a.png`` in it.
        options: As for :func:`downstream.runner.load_config`.
        score: Objects below this score, in [0, 1], are not drawn.

    Returns:
        The pictures.

    Raises:
        ZooError: The config, the checkpoint or an image is not what is needed, or ``out`` exists.
    """
    files = list_images(images)
    config = load_config(name, options)
    with new_folder(Path(out)) as folder:
        model, prepare, visualizer = _make(config, name)
        load_weights(model, checkpoint)
        for title, file in tqdm(files.items(), desc='predict', disable=None):
            image = mmcv.imread(str(file))
            if image is None:
                raise ZooError(f'{file}: not an image that can be read.')
            sample = _infer(model, prepare, file)
            set_random_seed(0)  # mmdet's visualizer varies colours
            visualizer.add_datasample(
                title,
                image[..., ::-1],
                sample,
                draw_gt=False,
                out_file=str(folder / title),
                **_threshold(sample, score),
            )
    return [Path(out, title) for title in files]


def list_images(images: Iterable[Path | str]) -> dict[str, Path]:
    """The files by the names of their pictures, in the given order, those of a folder by name.

    Raises:
        ZooError: There is no such file or no image, or two pictures would have one name.
    """
    files: dict[str, Path] = {}
    for item in map(Path, images):
        if not item.exists():
            raise ZooError(f'{item}: there is no such image or folder.')
        held = sorted(p for p in item.iterdir() if p.suffix.lower() in SUFFIXES) if item.is_dir() else [item]
        if not held:
            raise ZooError(f'{item}: there is no image in this folder ({", ".join(SUFFIXES)}).')
        for file in held:
            title = f'{file.stem}.png'
            if files.setdefault(title, file) != file:
                raise ZooError(f'{files[title]} and {file} would both become {title}: draw them separately.')
    return files


def _make(config: Config, name: str | Path) -> tuple[Any, Any, Any]:
    """The model, the preparation of images, and what draws."""
    without_pretrained(config)
    if not config.get('test_dataloader') or not config.get('visualizer'):
        raise ZooError(
            f'{name} has no test_dataloader, which prepares images, or no visualizer, which draws.'
        )
    with explained(str(name)):
        init_default_scope(config.get('default_scope', 'mmengine'))
        model = MODELS.build(config.model).to(get_device()).eval()
        dataset = next(datasets_of(config.test_dataloader.dataset))
        steps = [step for step in dataset.pipeline if not step['type'].endswith('Annotations')]
        prepare = Compose(steps)
        visualizer = VISUALIZERS.build({**config.visualizer, 'name': 'predict', 'vis_backends': None})
        kind = DATASETS.get(dataset.type)
        visualizer.dataset_meta = {**getattr(kind, 'METAINFO', {}), **(dataset.get('metainfo') or {})}
    check_channels(model)
    return model, prepare, visualizer


def _infer(model: Any, prepare: Any, file: Path) -> Any:
    data = prepare({'img_path': str(file), 'img_id': 0})
    with torch.no_grad():
        sample = model.test_step({'inputs': [data['inputs']], 'data_samples': [data['data_samples']]})[0]
    return (
        sample.cpu().numpy() if 'pred_sem_seg' in sample else sample.cpu()
    )  # one pixel's tensor is an index


def _threshold(sample: Any, score: float) -> dict[str, float]:
    """Only visualizers of detection have one."""
    return {'pred_score_thr': score} if 'pred_instances' in sample or 'pred_panoptic_seg' in sample else {}
