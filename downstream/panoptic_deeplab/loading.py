"""COCO's panoptic annotations in mmdet's pipelines, read without the package panopticapi."""

import io
from typing import Any

import numpy as np
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.structures.mask import BitmapMasks
from mmengine.fileio import get
from mmengine.registry import TRANSFORMS
from PIL import Image, UnidentifiedImageError

from downstream.panoptic_deeplab.targets import IGNORE
from downstream.panoptic_quality import rgb2id
from zoo.errors import ZooError

__all__ = ['LoadPanopticMap', 'read_ids']


@TRANSFORMS.register_module()
class LoadPanopticMap(LoadAnnotations):
    """What mmdet's ``LoadPanopticAnnotations`` does, for samples of ``CocoPanopticDataset``.

    It adds ``gt_bboxes``, ``gt_bboxes_labels``, ``gt_masks`` and ``gt_ignore_flags`` of the things but for
    crowds, and ``gt_seg_map``, uint8 (H, W), with the labels of all, 255 where there is none. Samples of a
    data set without maps (``data_prefix`` has no ``seg``) get the boxes only.

    Args:
        backend_args: Of MMEngine's file backend.
    """

    def __init__(self, backend_args: dict[str, Any] | None = None) -> None:
        super().__init__(with_mask=True, with_seg=True, backend_args=backend_args)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """
        Args:
            results: With an image loaded.

        Raises:
            ZooError: The map is missing, no image of ids, or of another size than the image.
        """
        self._load_bboxes(results)
        self._load_labels(results)
        if results.get('seg_map_path') is None:
            return results
        height, width = results['ori_shape'][:2]
        ids = read_ids(results['seg_map_path'], self.backend_args)
        if ids.shape != (height, width):
            raise ZooError(
                f'{results["seg_map_path"]}: the map is of {ids.shape[0]}x{ids.shape[1]}, its image of '
                f'{height}x{width}.'
            )
        labels = np.full(ids.shape, IGNORE, np.uint8)
        masks = []
        for segment in results['segments_info']:
            mask = ids == segment['id']
            labels[mask] = segment['category']
            if segment['is_thing']:
                masks.append(mask.astype(np.uint8))
        results['gt_masks'] = BitmapMasks(masks, height, width)
        results['gt_seg_map'] = labels
        return results


def read_ids(path: str, backend_args: dict[str, Any] | None = None) -> np.ndarray:
    """Segment ids, int64 (H, W), of an image in COCO's code of colours.

    Args:
        path: Any that MMEngine's file backends read.
        backend_args: Of MMEngine's file backend.

    Raises:
        ZooError: The file is missing, damaged, or no RGB image.
    """
    try:
        with Image.open(io.BytesIO(get(path, backend_args=backend_args))) as image:
            pixels, mode = np.asarray(image), image.mode
    except FileNotFoundError:
        raise ZooError(
            f"{path}: there is no such panoptic map; data_prefix['seg'] is their folder."
        ) from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ZooError(f'{path}: the panoptic map cannot be read: {error}.') from None
    if mode not in ('RGB', 'RGBA'):
        raise ZooError(f'{path}: an image of mode {mode} holds no ids, RGB is needed.')
    return rgb2id(pixels[..., :3])
