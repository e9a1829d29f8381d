"""Panoptic-DeepLab's network after the backbone (arXiv 1911.10194, Sec. 3.1): two decoders, three heads.

The widths are the paper's. Its text leaves open whether the atrous pyramid's convolutions are separable: here
they are ordinary ones, and those of the decoders and heads are depthwise separable.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ZooError

__all__ = ['Aspp', 'Decoder', 'Head', 'PanopticHeads', 'Prediction', 'upsample']


class Prediction(NamedTuple):
    """Maps of a batch.

    Attributes:
        semantic: Logits (B, num_classes, H, W).
        centre: Heat of instances' centres (B, 1, H, W).
        offset: From each place to its instance's centre (down, right), in units of the map, (B, 2, H, W).
    """

    semantic: Tensor
    centre: Tensor
    offset: Tensor


class PanopticHeads(nn.Module):
    """From a backbone's features to the three maps, at the finest feature's size."""

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        atrous_rates: Sequence[int] = (6, 12, 18),
        semantic_low: Sequence[int] = (32, 64),
        instance_low: Sequence[int] = (16, 32),
        aspp_channels: int = 256,
        semantic_channels: int = 256,
        instance_channels: int = 128,
        head_channels: int = 32,
    ):
        """
        Args:
            in_channels: Of the features, finest first. The paper takes strides 4, 8 and the last stage's.
            num_classes: Things and stuff.
            atrous_rates: Of the pyramids; the paper's (6, 12, 18) are for a last stage of stride 16.
            semantic_low: Widths to which all but the last feature are reduced for the classes, finest first.
            instance_low: The same for centres and offsets.
            aspp_channels: Width of the pyramids.
            semantic_channels: Width of the classes' decoder and head.
            instance_channels: Width of the other decoder.
            head_channels: Width of the heads for centres and offsets.

        Raises:
            ZooError: Fewer than two features, or not as many widths as features.
        """
        super().__init__()
        decoder = (in_channels, aspp_channels, atrous_rates)
        self.semantic_decoder = Decoder(*decoder, semantic_low, semantic_channels)
        self.instance_decoder = Decoder(*decoder, instance_low, instance_channels)
        self.semantic_head = Head(semantic_channels, semantic_channels, num_classes)
        self.centre_head = Head(instance_channels, head_channels, 1)
        self.offset_head = Head(instance_channels, head_channels, 2)

    def forward(self, features: Sequence[Tensor]) -> Prediction:
        """
        Args:
            features: (B, C, H, W) each, finest first.
        """
        semantic = self.semantic_decoder(features)
        instance = self.instance_decoder(features)
        return Prediction(
            self.semantic_head(semantic), self.centre_head(instance), self.offset_head(instance)
        )


class Decoder(nn.Module):
    """An atrous pyramid on the coarsest feature, brought step by step to the finest one's size."""

    def __init__(
        self,
        in_channels: Sequence[int],
        aspp_channels: int,
        atrous_rates: Sequence[int],
        low_channels: Sequence[int],
        channels: int,
    ):
        """
        Args:
            in_channels: Of the features, finest first.
            aspp_channels: Width of the pyramid.
            atrous_rates: Of the pyramid.
            low_channels: Widths to which all but the last feature are reduced, finest first.
            channels: Width of the decoder, and of its output.

        Raises:
            ZooError: Fewer than two features, or not as many widths as features.
        """
        super().__init__()
        if len(in_channels) < 2:
            raise ZooError(f'in_channels: found {list(in_channels)}, two features or more are needed.')
        if len(low_channels) != len(in_channels) - 1:
            raise ZooError(
                f'low_channels: found {len(low_channels)} widths, {len(in_channels)} features need '
                f'{len(in_channels) - 1}: one each but for the last.'
            )
        self.aspp = Aspp(in_channels[-1], aspp_channels, atrous_rates)
        self.reduce = nn.ModuleList(
            conv_bn_relu(width, low, 1) for width, low in zip(in_channels[:-1], low_channels, strict=True)
        )
        widths = [channels] * (len(low_channels) - 1) + [aspp_channels]
        self.fuse = nn.ModuleList(
            separable_conv(width + low, channels) for width, low in zip(widths, low_channels, strict=True)
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        x = self.aspp(features[-1])
        steps = zip(features[:-1], self.reduce, self.fuse, strict=True)
        for feature, reduce, fuse in reversed(list(steps)):
            x = F.interpolate(x, feature.shape[-2:], mode='bilinear', align_corners=False)
            x = fuse(torch.cat([x, reduce(feature)], dim=1))
        return x


class Aspp(nn.Module):
    """Atrous spatial pyramid pooling (DeepLabv3, arXiv 1706.05587): (B, C, H, W) to (B, D, H, W)."""

    def __init__(self, in_channels: int, channels: int, atrous_rates: Sequence[int], dropout: float = 0.1):
        """
        Args:
            in_channels: C.
            channels: D.
            atrous_rates: Of the 3 x 3 convolutions beside the 1 x 1 convolution and the mean.
            dropout: Of the output.
        """
        super().__init__()
        self.branches = nn.ModuleList([conv_bn_relu(in_channels, channels, 1)])
        self.branches.extend(conv_bn_relu(in_channels, channels, 3, dilation=rate) for rate in atrous_rates)
        # No batch norm: the mean is one value a channel, whose variance is unknown in a batch of one image.
        self.mean = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(in_channels, channels, 1), nn.ReLU())
        self.project = conv_bn_relu((len(atrous_rates) + 2) * channels, channels, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        parts = [branch(x) for branch in self.branches]
        parts.append(self.mean(x).expand_as(parts[0]))
        return self.dropout(self.project(torch.cat(parts, dim=1)))


class Head(nn.Sequential):
    """A separable convolution and a linear map of each place, which begins near 0."""

    def __init__(self, in_channels: int, channels: int, out_channels: int):
        predict = nn.Conv2d(channels, out_channels, 1)
        nn.init.normal_(predict.weight, std=0.001)
        nn.init.zeros_(predict.get_parameter('bias'))
        super().__init__(separable_conv(in_channels, channels), predict)


def separable_conv(in_channels: int, channels: int) -> nn.Sequential:
    """A depthwise convolution of 5 x 5 and a pointwise one, each with batch norm and ReLU."""
    depthwise = conv_bn_relu(in_channels, in_channels, 5, groups=in_channels)
    return nn.Sequential(depthwise, conv_bn_relu(in_channels, channels, 1))


def conv_bn_relu(
    in_channels: int, channels: int, kernel_size: int, dilation: int = 1, groups: int = 1
) -> nn.Sequential:
    """A convolution that keeps the map's size, batch norm, ReLU."""
    padding = kernel_size // 2 * dilation
    conv = nn.Conv2d(
        in_channels, channels, kernel_size, padding=padding, dilation=dilation, groups=groups, bias=False
    )
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU())


def upsample(prediction: Prediction, size: tuple[int, int], stride: int = 4) -> Prediction:
    """The maps at an image's size, offsets in its pixels.

    A map may reach beyond the image at the right and at the bottom, as it does where a backbone pads or
    rounds up: that part is cut off.

    Args:
        prediction: What :class:`PanopticHeads` gives.
        size: Height and width of the image.
        stride: Pixels a place of the map.

    Raises:
        ZooError: The maps do not cover the image.
    """
    height, width = (side * stride for side in prediction.semantic.shape[-2:])
    if height < size[0] or width < size[1]:
        raise ZooError(f'size: found {tuple(size)}, maps of stride {stride} cover only {(height, width)}.')
    maps = (
        F.interpolate(x, (height, width), mode='bilinear', align_corners=False)[..., : size[0], : size[1]]
        for x in prediction
    )
    semantic, centre, offset = maps
    return Prediction(semantic, centre, offset * stride)
