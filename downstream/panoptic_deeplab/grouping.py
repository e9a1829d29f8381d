"""From Panoptic-DeepLab's three maps to segments (arXiv 1911.10194, Sec. 3.3)."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ['INSTANCE_OFFSET', 'assign_pixels', 'find_centres', 'group', 'list_segments', 'merge']

INSTANCE_OFFSET = 1000
"""A pixel's value is its class + 1000 x its instance's number, as in mmdet; the number is 0 for stuff."""
CHUNK = 1 << 14
"""Pixels whose distances to all centres are in memory at once."""


def group(
    semantic: Tensor,
    heat: Tensor,
    offset: Tensor,
    num_things: int,
    num_classes: int,
    threshold: float = 0.1,
    kernel_size: int = 7,
    top_k: int = 200,
    stuff_area: int = 2048,
) -> Tensor:
    """The panoptic segmentation of one image.

    Args:
        semantic: Classes, int64 (H, W); values from num_classes on, such as 255, give void.
        heat: Of centres, (H, W).
        offset: From each pixel to its instance's centre (down, right), in pixels, (2, H, W).
        num_things: Classes below this number are things.
        num_classes: Number of classes, and the value of void.
        threshold: Heat above which a pixel can be a centre.
        kernel_size: Side of the square in which a centre has the most heat, odd.
        top_k: At most so many centres, the hottest.
        stuff_area: Stuff of fewer pixels in the image becomes void.

    Returns:
        Int64 (H, W): class + 1000 x instance (from 1; 0 for stuff), ``num_classes`` for void.
    """
    centres = find_centres(heat.float(), threshold, kernel_size, top_k)
    instances = assign_pixels(offset.float(), centres, semantic < num_things)
    return merge(semantic, instances, num_things, num_classes, stuff_area)


def find_centres(heat: Tensor, threshold: float = 0.1, kernel_size: int = 7, top_k: int = 200) -> Tensor:
    """Pixels (N, 2) as (y, x), hottest first, that no pixel of the square around them exceeds.

    Equal heat does not exceed: centres that are close to each other and equally hot are all kept.
    """
    hottest = F.max_pool2d(heat[None, None], kernel_size, stride=1, padding=kernel_size // 2)[0, 0]
    centres = ((heat == hottest) & (heat > threshold)).nonzero()
    order = heat[centres[:, 0], centres[:, 1]].argsort(descending=True, stable=True)
    return centres[order[:top_k]]


def assign_pixels(offset: Tensor, centres: Tensor, things: Tensor) -> Tensor:
    """The number, from 1, of the centre nearest to where each pixel of a thing points.

    Args:
        offset: (2, H, W).
        centres: (N, 2).
        things: Which pixels are things', bool (H, W).

    Returns:
        Int64 (H, W), 0 for pixels that are not things' and where there is no centre.
    """
    instances = torch.zeros_like(things, dtype=torch.long)
    if len(centres):
        targets = things.nonzero() + offset[:, things].T
        nearest = [(part[:, None] - centres).square().sum(2).argmin(1) + 1 for part in targets.split(CHUNK)]
        instances[things] = torch.cat(nearest)
    return instances


def merge(
    semantic: Tensor, instances: Tensor, num_things: int, num_classes: int, stuff_area: int = 2048
) -> Tensor:
    """Instances get the class that most of their pixels have; stuff that is large enough fills the rest.

    Args and result: as :func:`group`'s and :func:`assign_pixels`'.
    """
    panoptic = torch.full_like(semantic, num_classes)
    inside = instances > 0
    if inside.any():
        numbers, size = instances[inside], (int(instances.max()) + 1, num_things)
        votes = torch.bincount(numbers * num_things + semantic[inside], minlength=math.prod(size)).view(size)
        panoptic[inside] = votes.argmax(1)[numbers] + INSTANCE_OFFSET * numbers

    stuff = (semantic >= num_things) & (semantic < num_classes)
    areas = torch.bincount(semantic[stuff], minlength=num_classes)
    kept = stuff & (areas >= stuff_area)[semantic.clamp(max=num_classes - 1)]
    panoptic[kept] = semantic[kept]
    return panoptic


def list_segments(panoptic: Tensor, num_classes: int) -> tuple[np.ndarray, dict[int, int]]:
    """The segments as :func:`downstream.panoptic_quality.match_segments` takes them.

    Args:
        panoptic: What :func:`group` gives, (H, W).
        num_classes: Number of classes, and the value of void.

    Returns:
        Ids, int64 (H, W), 0 for void, and each id's class.
    """
    values = panoptic.cpu().numpy()
    ids = np.where(values == num_classes, 0, values + 1)
    return ids, {segment: (segment - 1) % INSTANCE_OFFSET for segment in np.unique(ids).tolist() if segment}
