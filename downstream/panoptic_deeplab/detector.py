"""Panoptic-DeepLab as a detector of mmdet, on any backbone."""

import inspect
import math
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models.detectors import BaseDetector
from mmdet.structures import DetDataSample
from mmengine.registry import MODELS
from mmengine.structures import PixelData
from torch import Tensor, nn

from downstream.panoptic_deeplab.grouping import group
from downstream.panoptic_deeplab.heads import PanopticHeads, Prediction, upsample
from downstream.panoptic_deeplab.losses import panoptic_losses
from downstream.panoptic_deeplab.targets import IGNORE, Targets, make_targets, stack_targets
from zoo.errors import ZooError

__all__ = ['PanopticDeepLab']

COARSEST = 32
"""Stride of the last stage of a backbone that does not say its own."""


@MODELS.register_module()
class PanopticDeepLab(BaseDetector):
    """A backbone, and Panoptic-DeepLab's decoders and heads.

    It is registered in MMEngine's root registry, and takes the samples of mmdet's ``CocoPanopticDataset``. A
    pixel of a thing that no mask covers is a crowd's. Targets are made here, after all augmentations::

        custom_imports = dict(
            imports=['downstream.backbone', 'downstream.panoptic_deeplab.mm'], allow_failed_imports=False
        )
        model = dict(
            type='PanopticDeepLab',
            data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32, ...),
            backbone=dict(type='ZooBackbone', name='trionet_b', out_indices=(0, 1, 3)),
            heads=dict(in_channels=[128, 256, 1024], atrous_rates=(3, 6, 9)),
            num_things=80,
            num_stuff=53,
        )

    Args:
        backbone: Of mmdet, or ``ZooBackbone``.
        heads: Of :class:`downstream.panoptic_deeplab.heads.PanopticHeads`, without ``num_classes``.
        num_things: Labels below this number are things.
        num_stuff: The next labels are stuff.
        neck: Between backbone and heads.
        stride: Of the finest feature that the heads get, in pixels.
        train_cfg: ``targets`` and ``losses``: options of
            :func:`downstream.panoptic_deeplab.targets.make_targets` and
            :func:`downstream.panoptic_deeplab.losses.panoptic_losses`.
        test_cfg: Options of :func:`downstream.panoptic_deeplab.grouping.group`. Areas and distances are in
            pixels of the image as the network gets it.
        data_preprocessor: Of mmdet. Masks and maps of labels are padded here if it does not do it.
        init_cfg: MMEngine's.
        sync_bn: Synchronise batch norms of the heads, if processes train together. The backbone has its own
            option.

    Raises:
        ZooError: An option that does not exist, or more classes than fit beside 255, which is no label.
    """

    def __init__(
        self,
        backbone: dict[str, Any],
        heads: dict[str, Any],
        num_things: int,
        num_stuff: int,
        neck: dict[str, Any] | None = None,
        stride: int = 4,
        train_cfg: dict[str, Any] | None = None,
        test_cfg: dict[str, Any] | None = None,
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
        sync_bn: bool = False,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.num_things, self.num_classes = num_things, num_things + num_stuff
        if not 0 < self.num_classes <= IGNORE:
            raise ZooError(
                f'num_things and num_stuff are {num_things} and {num_stuff}: 1 to {IGNORE} in all are needed.'
            )
        parts = {'targets': {}, 'losses': {}, **(train_cfg or {})}
        if unknown := parts.keys() - {'targets', 'losses'}:
            raise ZooError(f'train_cfg has {min(unknown)!r}, targets and losses are known.')
        self.targets_cfg = _options('train_cfg.targets', make_targets, parts['targets'])
        self.losses_cfg = _options('train_cfg.losses', panoptic_losses, parts['losses'])
        self.test_cfg = _options('test_cfg', group, test_cfg or {})
        self.stride = stride
        self.backbone = MODELS.build(backbone)
        if neck is not None:
            self.neck = MODELS.build(neck)
        self.heads = PanopticHeads(num_classes=self.num_classes, **heads)
        if sync_bn and torch.distributed.is_available() and torch.distributed.is_initialized():
            nn.SyncBatchNorm.convert_sync_batchnorm(self.heads)

    def extract_feat(self, batch_inputs: Tensor) -> tuple[Tensor, ...]:
        """Tensor[B, 3, H, W] -> features, finest first."""
        features = self.backbone(batch_inputs)
        return self.neck(features) if self.with_neck else features

    def _forward(self, batch_inputs: Tensor, batch_data_samples: Any = None) -> Prediction:
        """The heads' maps, at the finest feature's size."""
        return self.heads(self.extract_feat(batch_inputs))

    def loss(self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample]) -> dict[str, Tensor]:
        """The three losses.

        Args:
            batch_inputs: (B, 3, H, W).
            batch_data_samples: With ``gt_sem_seg`` and ``gt_instances`` (``masks`` and ``labels``).

        Raises:
            ZooError: A sample without annotation or with other labels than the model's, or a batch of one
                image that is too small for batch norm.
        """
        batch, _, height, width = batch_inputs.shape
        coarsest = max(getattr(self.backbone, 'strides', (COARSEST,)))
        if batch * math.ceil(height / coarsest) * math.ceil(width / coarsest) == 1:
            raise ZooError(
                f'One image of {height}x{width} has one place at stride {coarsest}, and batch norm no '
                'variance: training needs larger images or batches.'
            )
        size = height, width
        targets = [self._make_targets(sample, size, batch_inputs.device) for sample in batch_data_samples]
        # In half precision, offsets in pixels would be rounded to whole ones.
        maps = Prediction(*(x.float() for x in self._forward(batch_inputs)))
        return panoptic_losses(upsample(maps, size, self.stride), stack_targets(targets), **self.losses_cfg)

    def predict(
        self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample], rescale: bool = True
    ) -> list[DetDataSample]:
        """Adds ``pred_panoptic_seg`` to the samples, as mmdet's metric and visualizer take it.

        Its ``sem_seg``, int64 (1, H, W), is label + 1000 x instance (0 for stuff, else from 1), and the
        number of classes where nothing was found. Segments are made at the size at which the network saw the
        image, without padding, and then resized to the file's, each pixel taking the nearest one's value.

        Args:
            batch_inputs: (B, 3, H, W).
            batch_data_samples: With ``img_shape``, ``ori_shape`` and, if images were padded by the pipeline,
                ``scale_factor``.
            rescale: Whether to resize.
        """
        prediction = self._forward(batch_inputs)
        for index, sample in enumerate(batch_data_samples):
            maps = Prediction(*(x[index : index + 1].float() for x in prediction))
            semantic, heat, offset = upsample(maps, _size_of_content(sample), self.stride)
            panoptic = group(
                semantic[0].argmax(0),
                heat[0, 0],
                offset[0],
                self.num_things,
                self.num_classes,
                **self.test_cfg,
            )
            if rescale:
                panoptic = _resize(panoptic, sample.ori_shape)
            sample.pred_panoptic_seg = PixelData(sem_seg=panoptic[None])
        return batch_data_samples

    def _make_targets(self, sample: DetDataSample, size: tuple[int, int], device: torch.device) -> Targets:
        if 'gt_sem_seg' not in sample or 'masks' not in sample.get('gt_instances', ()):
            raise ZooError(
                f'{_name(sample)}: has no panoptic annotation; the training pipeline needs LoadPanopticMap, '
                "and the data set 'seg' in data_prefix."
            )
        semantic = sample.gt_sem_seg.sem_seg[0].to(device)
        masks = sample.gt_instances.masks.to_tensor(torch.bool, device)
        labels = sample.gt_instances.labels
        if len(labels) and (most := int(labels.max())) >= self.num_things:
            raise ZooError(
                f'{_name(sample)}: an instance has label {most}, things have 0 to {self.num_things - 1}: the '
                'categories of the annotation file must begin with the things.'
            )
        semantic, masks = _pad(semantic, IGNORE, size, sample), _pad(masks, 0, size, sample)
        return make_targets(semantic, masks, self.num_things, **self.targets_cfg)


def _pad(maps: Tensor, value: int, size: tuple[int, int], sample: DetDataSample) -> Tensor:
    """(..., H, W) of the image or of the batch, at the batch's size."""
    height, width = maps.shape[-2:]
    if (height, width) not in (tuple(sample.img_shape[:2]), size):
        raise ZooError(
            f'{_name(sample)}: its annotation is of {height}x{width}, the image of {sample.img_shape[0]}x'
            f'{sample.img_shape[1]}: the training pipeline must load it before it resizes.'
        )
    return F.pad(maps, (0, size[1] - width, 0, size[0] - height), value=value)


def _options(name: str, function: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The options given, if the function has all of them with a default."""
    parameters = inspect.signature(function).parameters.values()
    known = [p.name for p in parameters if p.default is not p.empty]
    if unknown := given.keys() - set(known):
        raise ZooError(f'{name} has {min(unknown)!r}, known are {", ".join(known)}.')
    return dict(given)


def _size_of_content(sample: DetDataSample) -> tuple[int, int]:
    """Height and width of the image in the network's input, without what a Pad of the pipeline added."""
    height, width = sample.img_shape[:2]
    if 'scale_factor' in sample:
        right, down = sample.scale_factor
        height = min(height, max(1, round(sample.ori_shape[0] * down)))
        width = min(width, max(1, round(sample.ori_shape[1] * right)))
    return height, width


def _resize(values: Tensor, size: tuple[int, int]) -> Tensor:
    """(H, W) to another size: what is at the middle of each pixel."""
    places = (
        (2 * torch.arange(new, device=values.device) + 1) * old // (2 * new)
        for new, old in zip(size[:2], values.shape, strict=True)
    )
    rows, columns = places
    return values[rows[:, None], columns]


def _name(sample: DetDataSample) -> str:
    return str(sample.get('img_path', 'an image'))
