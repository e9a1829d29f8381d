"""mmdet's pictures of panoptic segmentations, also where nothing was found."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmdet.visualization import DetLocalVisualizer
from mmengine.registry import VISUALIZERS
from mmengine.structures import PixelData

__all__ = ['PanopticVisualizer']


@VISUALIZERS.register_module()
class PanopticVisualizer(DetLocalVisualizer):
    """mmdet's ``DetLocalVisualizer``, which fails on an image that is void altogether."""

    def _draw_panoptic_seg(
        self, image: np.ndarray, panoptic_seg: PixelData, classes: Sequence[str], *args: Any
    ) -> np.ndarray:
        if (panoptic_seg.sem_seg == len(classes)).all():
            return image
        return np.asarray(super()._draw_panoptic_seg(image, panoptic_seg, classes, *args))
