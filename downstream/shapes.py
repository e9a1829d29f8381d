"""Small data sets for detection, segmentation and panoptic segmentation, drawn instead of downloaded.

Coloured shapes that hide each other, on textured grounds under a sky. All three kinds of annotation are of
the same scenes. What is rare in real data and often handled wrongly occurs: crowds, unlabelled pixels, images
without objects, objects that are visible in several parts.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from downstream.panoptic_quality import id2rgb
from downstream.scene import CLASSES, PALETTE, SPLITS, THINGS, Scene, Segment, draw_scene
from zoo.errors import ZooError
from zoo.files import new_folder

__all__ = ['encode_rle', 'write_shapes']


def write_shapes(
    folder: Path | str, train: int = 200, val: int = 50, seed: int = 0, sizes: tuple[int, int] = (96, 160)
) -> Path:
    """Draws a data set and writes it: all of it or, if something fails, nothing.

    =========================================  =====================================================
    ``{split}/000000.png``                     images
    ``annotations/instances_{split}.json``     COCO: boxes and masks (uncompressed RLE) of the things
    ``annotations/panoptic_{split}.json``      COCO panoptic: segments ...
    ``annotations/panoptic_{split}/*.png``     ... and their ids as colours
    ``labels/{split}/*.png``                   labels, 0 to 7, 255 where unlabelled
    =========================================  =====================================================

    The splits are ``train`` and ``val``. In each, image 0 has a crowd and image 1 has no object. Equal
    arguments give equal bytes, and an image does not depend on how many there are.

    Args:
        folder: A folder that does not exist, in one that does.
        train: Number of images to learn from.
        val: Number of images to test on.
        seed: 0 or more.
        sizes: Least and greatest height and width of an image, in pixels.

    Returns:
        The folder.

    Raises:
        ZooError: The folder exists, its parent does not, or an argument is out of range.
        OSError: The folder cannot be written.
    """
    for name, value, least in [
        ('train', train, 1),
        ('val', val, 1),
        ('seed', seed, 0),
        ('sizes', sizes[0], 32),
    ]:
        if value < least:
            raise ZooError(f'{name}: found {value}, at least {least} is needed.')
    if sizes[1] < sizes[0]:
        raise ZooError(f'sizes: found {sizes}, the least and the greatest side are needed in this order.')
    with new_folder(Path(folder)) as new:
        for split, count in zip(SPLITS, (train, val), strict=True):
            scenes = (draw_scene(seed, split, index, sizes) for index in range(count))
            _write_split(new, split, scenes)
    return Path(folder)


def _write_split(folder: Path, split: str, scenes: Iterator[Scene]) -> None:
    places = [folder / split, folder / 'annotations' / f'panoptic_{split}', folder / 'labels' / split]
    for place in places:
        place.mkdir(parents=True)
    images: list[Any] = []
    instances: list[Any] = []
    panoptic: list[Any] = []
    for index, scene in enumerate(scenes):
        name = f'{index:06}.png'
        for place, pixels in zip(places, (scene.image, id2rgb(scene.ids), scene.semantic()), strict=True):
            Image.fromarray(pixels).save(place / name)
        height, width = scene.ids.shape
        images.append({'id': index, 'file_name': name, 'width': width, 'height': height})
        panoptic.append(
            {
                'image_id': index,
                'file_name': name,
                'segments_info': [{'id': s.id, **_describe(s, scene)} for s in scene.segments],
            }
        )
        for segment in scene.objects():
            shape = {'segmentation': encode_rle(scene.ids == segment.id)}
            number = {'id': len(instances) + 1, 'image_id': index}
            instances.append(number | _describe(segment, scene) | shape)
    _write_json(folder / 'annotations' / f'instances_{split}.json', images, instances, len(THINGS))
    _write_json(folder / 'annotations' / f'panoptic_{split}.json', images, panoptic, len(CLASSES))


def _describe(segment: Segment, scene: Scene) -> dict[str, Any]:
    """What COCO says of a segment, boxes as [x, y, width, height]."""
    y, x = (scene.ids == segment.id).nonzero()
    left, top = int(x.min()), int(y.min())
    return {
        'category_id': segment.label + 1,
        'area': len(y),
        'bbox': [left, top, int(x.max()) - left + 1, int(y.max()) - top + 1],
        'iscrowd': int(segment.crowd),
    }


def encode_rle(mask: np.ndarray) -> dict[str, list[int]]:
    """A mask (H, W) in COCO's uncompressed form: lengths of runs down the columns, the first one of zeros."""
    changes = np.flatnonzero(np.diff(mask.ravel(order='F'), prepend=False))
    return {'size': list(mask.shape), 'counts': np.diff(changes, prepend=0, append=mask.size).tolist()}


def _write_json(path: Path, images: list[Any], annotations: list[Any], num_classes: int) -> None:
    categories = [
        {
            'id': label + 1,
            'name': CLASSES[label],
            'isthing': int(label < len(THINGS)),
            'color': PALETTE[label],
        }
        for label in range(num_classes)
    ]
    info = {'description': 'Shapes, drawn by searchzoo'}
    content = {'info': info, 'images': images, 'annotations': annotations, 'categories': categories}
    path.write_text(json.dumps(content, separators=(',', ':')) + '\n', encoding='utf-8')
