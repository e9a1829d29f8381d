"""Token mixing of MLP-Mixer (arXiv 2105.01601, Sec. 2) for maps of any size, and weights for another grid."""

import torch
import torch.nn.functional as F
from timm.layers import Mlp, is_exporting, register_notrace_function
from torch import Tensor, nn

__all__ = ['TokenMixing', 'resample_map', 'resample_token_mixing']


@register_notrace_function
def resample_map(x: Tensor, height: int, width: int) -> Tensor:
    """Tensor[B, C, H, W] -> Tensor[B, C, height, width], bilinear; the same tensor if it has that size."""
    # An exported program has one branch for all sizes.
    if not is_exporting() and x.shape[2] == height and x.shape[3] == width:
        return x
    return F.interpolate(x, size=(height, width), mode='bilinear', align_corners=False)


class TokenMixing(nn.Module):
    """A two-layer MLP over the positions of a map, shared by its channels.

    The MLP has one input and one output for each position of its native grid. A map of another size is
    resampled (bilinearly, without antialiasing) to that grid before and back after.

    Args:
        grid_size: Native (height, width), in positions.
        hidden_dim: Width of the hidden layer.
    """

    def __init__(
        self,
        grid_size: tuple[int, int],
        hidden_dim: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.grid_size = grid_size
        self.mlp = Mlp(grid_size[0] * grid_size[1], hidden_dim, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Tensor[B, H, W, C] -> Tensor[B, H, W, C]."""
        B, H, W, C = x.shape[0], x.shape[1], x.shape[2], x.shape[3]
        height, width = self.grid_size
        x = resample_map(x.permute(0, 3, 1, 2), height, width)
        x = self.mlp(x.flatten(2)).reshape(B, C, height, width)
        return resample_map(x, H, W).permute(0, 2, 3, 1)


def resample_token_mixing(
    weights: dict[str, Tensor], old_size: tuple[int, int], new_size: tuple[int, int]
) -> dict[str, Tensor]:
    """Weights of a :class:`TokenMixing` on ``new_size`` that compute what it computed on ``old_size``.

    Resampling is linear, so that the two resamplings of a map of ``new_size`` fold into the weights: the
    first into the input weights (by its transpose), the second into the output weights and their bias.

    Args:
        weights: fc1.weight [hidden, old tokens], fc1.bias, fc2.weight [old tokens, hidden] and fc2.bias.
        old_size: (height, width) of the grid the weights are for.
        new_size: (height, width) of the grid they are wanted for.
    """
    fc1, fc2, bias = weights['fc1.weight'], weights['fc2.weight'], weights['fc2.bias']
    hidden = fc1.shape[0]

    def to_new(x: Tensor) -> Tensor:
        return resample_map(x.float().reshape(1, -1, *old_size), *new_size).reshape(
            -1, new_size[0] * new_size[1]
        )

    zeros = torch.zeros(1, hidden, *new_size, device=fc1.device)
    transpose = torch.func.vjp(lambda x: resample_map(x, *old_size), zeros)[1]
    (new_fc1,) = transpose(fc1.float().reshape(1, hidden, *old_size))
    return {
        'fc1.weight': new_fc1.reshape(hidden, -1).to(fc1.dtype),
        'fc1.bias': weights['fc1.bias'],
        'fc2.weight': to_new(fc2.t()).t().contiguous().to(fc2.dtype),
        'fc2.bias': to_new(bias).reshape(-1).to(bias.dtype),
    }
