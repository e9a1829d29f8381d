"""Compound scaling: depth, width and resolution of a network grow together (EfficientNet, arXiv 1905.11946,
Sec. 3.3).

UniNet makes its family B1, B2, ... of the searched B0 in this way, but for the resolution, which grows more
slowly (arXiv 2110.04035v1, Sec. 5.1); it gives no factors.
"""

import math
from typing import Annotated

from pydantic import Field
from timm.layers import make_divisible

from zoo.arch import Arch, Part, load_arch
from zoo.errors import ZooError
from zoo.models import uninet

__all__ = ['Scaling', 'scale_arch', 'scale_depth', 'scale_side', 'scale_width']

MAX_SIDE = 4096
Factor = Annotated[float, Field(gt=0, le=64)]
Divisor = Annotated[int, Field(ge=1, le=1024)]


class Scaling(Part):
    """What a network is multiplied by. EfficientNet's compound coefficient phi stands for depth = 1.2 ** phi,
    width = 1.1 ** phi and resolution = 1.15 ** phi."""

    width: Factor = 1.0
    depth: Factor = 1.0
    resolution: Factor = 1.0
    divisors: Divisor | Annotated[tuple[Divisor, ...], Field(min_length=1)] = Field(
        8, description='widths are rounded to multiples of it; one for all stages, or one for each'
    )


def scale_width(width: int, factor: float, divisor: int = 8) -> int:
    """Channels: the nearest multiple of the divisor, but never 10 % or more below the product."""
    return int(make_divisible(width * factor, divisor))


def scale_depth(depth: int, factor: float) -> int:
    """Blocks of a stage, rounded up."""
    product = depth * factor
    return math.ceil(product - 1e-9 * product)  # 10 * 1.1 is 11.000000000000002


def scale_side(side: int, factor: float, stride: int) -> int:
    """Side of an image in pixels: the nearest multiple of the network's stride, half of it rounded up.

    Raises:
        ZooError: It would have more than 4096 pixels, or fewer than the stride.
    """
    found = stride * math.floor(side * factor / stride + 0.5)
    if not stride <= found <= MAX_SIDE:
        raise ZooError(
            f'resolution: found {factor} x {side} pixels, rounded {found}; {stride} to {MAX_SIDE} can be.'
        )
    return found


def scale_arch(
    arch: Arch, input_size: tuple[int, int, int], scaling: Scaling
) -> tuple[uninet.Arch, tuple[int, int, int]]:
    """A scaled network and its images: widths and numbers of blocks of all stages, the first one included.

    Stem and head stay as they are, as in UniNet's code (EfficientNet scales them too), and so do operators:
    attention over the map stays attention over the map, though windows are smaller than the larger one.

    Args:
        arch: Of family uninet.
        input_size: (C, H, W) of its images.
        scaling: The factors.

    Raises:
        ZooError: The family is another one, there is a divisor too many or too few, or a size is not allowed.
    """
    if not isinstance(arch, uninet.Arch):
        raise ZooError(f'found a network of family {arch.family}, only those of uninet can be scaled.')
    divisors = scaling.divisors
    if isinstance(divisors, int):
        divisors = (divisors,) * len(arch.stages)
    if len(divisors) != len(arch.stages):
        raise ZooError(f'divisors: found {len(divisors)} for {len(arch.stages)} stages, the first included.')
    stages = []
    for stage, divisor in zip(arch.stages, divisors, strict=True):
        channels = scale_width(stage.channels, scaling.width, divisor)
        repeats = scale_depth(stage.repeats, scaling.depth)
        stages.append(stage.model_dump() | {'channels': channels, 'repeats': repeats})
    chans, *sides = input_size
    height, width = (scale_side(side, scaling.resolution, arch.reductions()[-1]) for side in sides)
    scaled = load_arch(uninet.Arch, arch.model_dump() | {'stages': stages})
    return scaled, (chans, height, width)
