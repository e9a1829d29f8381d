"""Context auto-regression: learning to paint what is missing of an image from the rest of it
(Zhou et al., arXiv 2111.07139, Sec. III-C and Fig. 3).

The paper says that there are several small masks, drawn at random, which may overlap and leave out a quarter
of the image at the most; that the loss is L1, on the missing content; and that up-sampling layers make the
image from the encoder's features. The rest is ours. Masks are squares of equal size, missing pixels have the
value 0, the mean of the data, and each up-sampling layer doubles the map and halves the channels.
"""

import math

import torch
import torch.nn.functional as F
from timm.layers import ConvNormAct
from torch import Tensor, nn

__all__ = ['Decoder', 'Reconstruction', 'draw_masks', 'mask_side', 'reconstruction_loss']

FEWEST_CHANNELS = 8


def mask_side(size: tuple[int, int], regions: int, cover: float) -> int:
    """The side of square masks in pixels: side by side, so many cover at most this share of the image.

    Returns:
        0 if not even single pixels do.
    """
    height, width = size
    return min(math.isqrt(int(cover * height * width / regions)), height, width)


def draw_masks(
    count: int, size: tuple[int, int], regions: int, cover: float, generator: torch.Generator
) -> Tensor:
    """Random masks of some images.

    Args:
        count: N, images.
        size: (H, W) of an image.
        regions: Masks of each image; their places are drawn uniformly and may overlap.
        cover: The largest share of the image that they cover together.
        generator: On the CPU.

    Returns:
        Tensor[N, 1, H, W], True where the image is missing.
    """
    side = mask_side(size, regions, cover)
    inside = []
    for length in size:
        start = torch.randint(length - side + 1, (count, regions, 1), generator=generator)
        place = torch.arange(length)
        inside.append((place >= start) & (place < start + side))
    return (inside[0][..., :, None] & inside[1][..., None, :]).any(1, keepdim=True)


def reconstruction_loss(prediction: Tensor, image: Tensor, masks: Tensor) -> Tensor:
    """The mean absolute error of the missing values.

    Args:
        prediction: Tensor[N, C, H, W].
        image: Tensor[N, C, H, W].
        masks: Tensor[N, 1, H, W], True where the image was missing.
    """
    masks = masks.expand_as(image)
    return F.l1_loss(prediction.float()[masks], image[masks])


class Decoder(nn.Module):
    """A series of up-sampling layers, from features to an image.

    Args:
        in_chs: Channels of the features.
        out_chans: Channels of the image.
        stride: Of the features: a power of 2.
    """

    def __init__(self, in_chs: int, out_chans: int, stride: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(int(math.log2(stride))):
            out_chs = max(in_chs // 2, FEWEST_CHANNELS)
            layers += [nn.Upsample(scale_factor=2), ConvNormAct(in_chs, out_chs, 3, act_layer=nn.ReLU)]
            in_chs = out_chs
        self.layers = nn.Sequential(*layers)
        self.head = nn.Conv2d(in_chs, out_chans, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Tensor[N, in_chs, ceil(H / stride), ceil(W / stride)] -> Tensor[N, out_chans, H, W]."""
        return self.head(self.layers(x))[..., : size[0], : size[1]]


class Reconstruction(nn.Module):
    """Encoder and decoder.

    Args:
        encoder: A network of the zoo; its classifier is not used.
        in_chans: Channels of an image.
    """

    def __init__(self, encoder: nn.Module, in_chans: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = Decoder(encoder.num_features, in_chans, encoder.stride)  # type: ignore[arg-type]

    def no_weight_decay(self) -> set[str]:
        return {f'encoder.{name}' for name in self.encoder.no_weight_decay()}  # type: ignore[operator]

    def forward(self, x: Tensor, masks: Tensor) -> Tensor:
        """Images without what is masked, (N, C, H, W) and (N, 1, H, W) -> whole ones."""
        features = self.encoder.forward_features(x.masked_fill(masks, 0.0))  # type: ignore[operator]
        return self.decoder(features, (x.shape[2], x.shape[3]))
