"""What Panoptic-DeepLab learns from (arXiv 1911.10194, Sec. 3.2): maps made of one image's annotation."""

from typing import NamedTuple

import torch
from torch import Tensor

from zoo.errors import ZooError

__all__ = ['IGNORE', 'Targets', 'make_targets', 'stack_targets']

IGNORE = 255
"""The label of pixels that are not labelled."""


class Targets(NamedTuple):
    """Maps of one image; those of a batch have a leading axis B.

    Attributes:
        semantic: Classes, int64 (H, W), 255 where unlabelled.
        semantic_weight: Of each pixel in the semantic loss, float32 (H, W).
        centre: Heat, float32 (H, W): 1 at instances' centres, falling off as a Gaussian.
        centre_weight: 1 where the heat is known, else 0, float32 (H, W).
        offset: From each pixel of an instance to its centre (down, right), in pixels, float32 (2, H, W).
        offset_weight: 1 on the pixels of instances, else 0, float32 (H, W).
    """

    semantic: Tensor
    semantic_weight: Tensor
    centre: Tensor
    centre_weight: Tensor
    offset: Tensor
    offset_weight: Tensor


def make_targets(
    semantic: Tensor,
    masks: Tensor,
    num_things: int,
    sigma: float = 8.0,
    small_area: int = 4096,
    small_weight: float = 3.0,
) -> Targets:
    """The targets of one image.

    A pixel of a thing that no mask covers is a crowd's: its class is learned, its centre and offset are not.
    An instance's centre is its mass centre rounded to a pixel (halves up), for the heat as well as for the
    offsets, so that instances with different centres can be told apart without error.

    Args:
        semantic: Classes, integers (H, W), 255 where unlabelled.
        masks: Of the instances, crowds left out, (N, H, W), true or nonzero inside; empty ones are allowed.
            Where they overlap, a pixel belongs to the last one.
        num_things: Classes below this number are things.
        sigma: Of the Gaussian around a centre, in pixels; it is cut off three sigmas away.
        small_area: Instances of fewer pixels weigh more in the semantic loss ...
        small_weight: ... by this factor.

    Raises:
        ZooError: Masks of another size than the map of classes.
    """
    height, width = semantic.shape
    if masks.ndim != 3 or masks.shape[1:] != semantic.shape:
        raise ZooError(f'masks: found {tuple(masks.shape)}, (N, {height}, {width}) is needed.')
    offset = torch.zeros((2, height, width), device=semantic.device)
    heat = torch.zeros_like(offset[0])
    semantic_weight = torch.ones_like(heat)
    inside = torch.zeros_like(heat, dtype=torch.bool)
    reach = int(3 * sigma)
    for mask in masks.bool():
        pixels = mask.nonzero()
        if not (area := len(pixels)):
            continue
        centre = (2 * pixels.sum(0) + area) // (2 * area)
        offset[:, mask] = (centre - pixels).T.float()
        semantic_weight[mask] = small_weight if area < small_area else 1.0
        inside |= mask
        y, x = centre.tolist()
        top, left = max(0, y - reach), max(0, x - reach)
        window = heat[top : y + reach + 1, left : x + reach + 1]
        torch.maximum(window, _gaussian(window, y - top, x - left, sigma), out=window)

    crowd = (semantic < num_things) & ~inside
    known = (semantic != IGNORE) & ~crowd
    return Targets(semantic.long(), semantic_weight, heat, known.float(), offset, inside.float())


def _gaussian(window: Tensor, y: int, x: int, sigma: float) -> Tensor:
    """Heat around a centre at (y, x) of a window."""
    rows, columns = (torch.arange(size, device=window.device) for size in window.shape)
    distance = (rows[:, None] - y) ** 2 + (columns - x) ** 2
    return torch.exp(-distance / (2 * sigma**2))


def stack_targets(targets: list[Targets]) -> Targets:
    """The targets of a batch of images of one size."""
    return Targets(*map(torch.stack, zip(*targets, strict=True)))
