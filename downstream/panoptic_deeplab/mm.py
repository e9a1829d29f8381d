"""All that this package adds to mmdet: for ``custom_imports`` of configs."""

from downstream.panoptic_deeplab.detector import PanopticDeepLab
from downstream.panoptic_deeplab.drawing import PanopticVisualizer
from downstream.panoptic_deeplab.loading import LoadPanopticMap
from downstream.panoptic_deeplab.metric import PanopticQuality

__all__ = ['LoadPanopticMap', 'PanopticDeepLab', 'PanopticQuality', 'PanopticVisualizer']
