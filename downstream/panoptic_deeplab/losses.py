"""Panoptic-DeepLab's three losses (arXiv 1911.10194, Sec. 3.2), in float32 whatever the maps' precision."""

import math

import torch.nn.functional as F
from torch import Tensor

from downstream.panoptic_deeplab.heads import Prediction
from downstream.panoptic_deeplab.targets import IGNORE, Targets
from zoo.errors import ZooError

__all__ = ['centre_loss', 'offset_loss', 'panoptic_losses', 'semantic_loss']


def panoptic_losses(
    prediction: Prediction,
    targets: Targets,
    hardest: float = 0.2,
    semantic_factor: float = 1.0,
    centre_factor: float = 200.0,
    offset_factor: float = 0.01,
) -> dict[str, Tensor]:
    """The losses of a batch, to be added up.

    Args:
        prediction: Maps of the targets' size (see :func:`downstream.panoptic_deeplab.heads.upsample`).
        targets: Of the batch.
        hardest: Share of the pixels that the semantic loss is taken of.
        semantic_factor: Of the semantic loss. The paper's factors: 1, 200, 0.01.
        centre_factor: Of the centres' loss.
        offset_factor: Of the offsets' loss.
    """
    semantic = semantic_loss(prediction.semantic, targets.semantic, targets.semantic_weight, hardest)
    centre = centre_loss(prediction.centre, targets.centre, targets.centre_weight)
    offset = offset_loss(prediction.offset, targets.offset, targets.offset_weight)
    return {
        'loss_semantic': semantic_factor * semantic,
        'loss_centre': centre_factor * centre,
        'loss_offset': offset_factor * offset,
    }


def semantic_loss(logits: Tensor, labels: Tensor, weight: Tensor, hardest: float = 0.2) -> Tensor:
    """Mean of the weighted cross-entropies of those labelled pixels of the batch where they are largest.

    Args:
        logits: (B, num_classes, H, W).
        labels: Classes, int64 (B, H, W), 255 where unlabelled.
        weight: Of each pixel, (B, H, W). The mean is over pixels, not over their weights.
        hardest: Share of the labelled pixels that counts, rounded up; above 0, at most 1.

    Returns:
        A scalar; 0 if no pixel is labelled.

    Raises:
        ZooError: A label that is not a class.
    """
    labelled = labels != IGNORE
    count = int(labelled.sum())
    if count == 0:
        return logits.float().sum() * 0
    if (most := int(labels[labelled].max())) >= logits.shape[1]:
        raise ZooError(f'labels: found class {most}, the network knows 0 to {logits.shape[1] - 1}.')
    losses = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE, reduction='none') * weight
    return losses.flatten().topk(math.ceil(hardest * count), sorted=False).values.mean()


def centre_loss(heat: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean of the squared errors of the heat (B, 1, H, W); 0 if all weights (B, H, W) are 0."""
    return _weighted_mean((heat[:, 0].float() - target).square(), weight)


def offset_loss(offset: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean over pixels of |error down| + |error right| of the offsets (B, 2, H, W), in pixels."""
    return _weighted_mean((offset.float() - target).abs().sum(1), weight)


def _weighted_mean(errors: Tensor, weight: Tensor) -> Tensor:
    return (errors * weight).sum() / weight.sum().clamp(min=1)
