"""Params and MACs of a whole detector or segmentor, counted on the meta device from its configuration.

MACs are counted as of the zoo's networks (:mod:`zoo.profile`): half of what torch's ``FlopCounterMode``
finds, that is convolutions, linear layers and matrix products, attention included.
"""

import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from zoo.errors import ZooError

__all__ = ['Complexity', 'build_on_meta', 'measure_complexity']


@dataclass(frozen=True)
class Complexity:
    """What a model costs for one image, counted as the papers do.

    Attributes:
        params: Number of parameters, with those that only training uses (auxiliary heads).
        macs: Multiply-accumulates of a prediction, without them. Of a two-stage detector: with as many
            regions and masks as its ``test_cfg`` allows.
    """

    params: int
    macs: int


def measure_complexity(config: Config, shape: tuple[int, int] | None = None) -> Complexity:
    """Counts a model of mmdet, mmsegmentation or our own.

    Args:
        config: With ``model`` and ``default_scope``.
        shape: Height and width of the image; by default ``published['shape']`` of the configuration.

    Raises:
        ZooError: Neither gives a size.
    """
    height, width = shape or config.get('published', {}).get('shape') or _no_shape(config)
    model: Any = build_on_meta(config).eval()
    counter = FlopCounterMode(display=False)
    image = torch.empty(1, 3, height, width, device='meta')
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter, warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='An image of .* was padded')
        if hasattr(model, 'roi_head'):
            _predict_regions(model, image)
        else:
            model(image, mode='tensor')
    return Complexity(sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2)


def build_on_meta(config: Config) -> nn.Module:
    """The model of a configuration without memory for its parameters, and without its weights."""
    scope = DefaultScope.overwrite_default_scope(config.get('default_scope'))
    with scope, torch.device('meta'):
        model: nn.Module = MODELS.build(copy.deepcopy(config.model))  # mmdet writes into what it is given
    return model


def _no_shape(config: Config) -> tuple[int, int]:
    raise ZooError(f'{config.filename}: published has no shape; give the height and width of the image.')


def _predict_regions(model: Any, image: Tensor) -> None:
    """The parts of a two-stage detector. Which regions there are depends on values that meta has not."""
    features = model.extract_feat(image)
    model.rpn_head(features)
    roi_head, limits = model.roi_head, model.test_cfg
    for name, count in (('bbox', limits.rpn.max_per_img), ('mask', limits.rcnn.max_per_img)):
        heads, extractors = getattr(roi_head, f'{name}_head'), getattr(roi_head, f'{name}_roi_extractor')
        for head, extractor in zip(_stages(heads), _stages(extractors), strict=True):
            side = extractor.roi_layers[0].output_size
            head(torch.empty(count, extractor.out_channels, *side, device='meta'))


def _stages(module: nn.Module) -> Iterator[Any]:
    """The modules of a cascade, or the one of a single stage."""
    yield from module if isinstance(module, nn.ModuleList) else [module]
