"""UniNet's down-sampling modules in Swin and PVT (arXiv 2110.04035, Sec. 6.2 and Table 7).

The paper replaces what reduces the map in front of each of their four stages: L-DSM in the first two, LG-DSM
in the last two, "borrowing the result" of its search. Both networks are timm's, the modules are UniNet's.
They are made by hand from what a search has found: timm lists and creates them as all its models, by
``swin_tiny_dsm`` and ``pvt_v2_b1_dsm``; entries of the zoo, which ``searchzoo zoo list`` shows, they are not,
and there are no weights.

No code of these networks is public. Readings of ours:

- An L-DSM halves a map, the first stage needs a quarter: UniNet's stem, a strided 3x3 convolution to 32
  channels, precedes it. (With the networks' own patch embedding there, or an L-DSM of stride 4, parameters
  and MACs change by less than 0.01 M and 0.04 G.)
- No norm is added after the modules; heads of LG-DSM have 32 channels, as in UniNet.
- The paper's PVT is PVT-Tiny, of the first version, which timm does not have. Here it is PVT v2-B1, of the
  same widths and depths. Its overlapping 3x3 patch embeddings have more weights than PVT-Tiny's 2x2 ones, so
  that the modules take parameters away from it, where they add 0.36 M and 0.24 G to PVT-Tiny.

=================  ==============  ==============  ================  ================
timm's name        paper, without  paper, with     here, without     here, with
=================  ==============  ==============  ================  ================
``swin_tiny_dsm``  29.0 M, 4.5 G   30.0 M, 4.7 G   28.29 M, 4.49 G   29.00 M, 4.84 G
``pvt_v2_b1_dsm``  13.2 M, 1.9 G   14.3 M, 2.0 G   14.01 M, 2.11 G   13.30 M, 2.22 G
=================  ==============  ==============  ================  ================

Of these MACs 0.13 G and 0.11 G are the products of attention inside of LG-DSM. Without them Swin has what the
paper says (4.71 G), and PVT-Tiny gains 0.13 G, in the paper 0.1. The paper's parameters are 1.0 M (Swin) and
0.7 M (PVT-Tiny) more; no reading of ours gives them, and UniNet's own are exact with the same modules.
"""

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import PatchEmbed
from timm.models import register_model
from timm.models import swin_transformer as swin
from timm.models.pvt_v2 import PyramidVisionTransformerV2
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from zoo._timm_compat import generate_default_cfgs
from zoo.build import build_model
from zoo.errors import ZooError
from zoo.layers.folding import ConvNormAct
from zoo.models.uninet import make_downsample

__all__ = ['PvtDsm', 'SwinDsm']

KINDS = ('l', 'l', 'lg', 'lg')
"""Of the module in front of each stage."""
STEM_CHANNELS = 32
"""UniNet's."""


def make_embedding(
    in_chans: int, dim: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> nn.Sequential:
    """Tensor[B, in_chans, H, W] -> Tensor[B, dim, H / 4, W / 4], sizes rounded up."""
    dd: dict[str, Any] = {'device': device, 'dtype': dtype}
    stem = ConvNormAct(in_chans, STEM_CHANNELS, 3, 2, act_layer=nn.GELU, **dd)
    return nn.Sequential(stem, make_downsample(KINDS[0], STEM_CHANNELS, dim, 2, **dd))


class ChannelsLast(nn.Module):
    """A module on NCHW maps for a network that wants NHWC maps of it.

    Args:
        module: The module.
        both: It gets NHWC maps as well.
    """

    def __init__(self, module: nn.Module, both: bool) -> None:
        super().__init__()
        self.module = module
        self.both = both

    def forward(self, x: Tensor) -> Tensor:
        if self.both:
            x = x.permute(0, 3, 1, 2)
        return self.module(x).permute(0, 2, 3, 1)


class LocalPatchEmbed(PatchEmbed):
    """timm's patch embedding, with :func:`make_embedding` in place of its convolution.

    Args:
        img_size: Native size.
        patch_size: 4.
        in_chans: Channels of the image.
        embed_dim: Channels of the map.
        strict_img_size: Refuse images of another size.
        kwargs: The output's layout and norm, which are the same always: NHWC, none.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int],
        patch_size: int,
        in_chans: int,
        embed_dim: int,
        strict_img_size: bool,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        if patch_size != 4:
            raise ZooError(f'patch_size: found {patch_size}, 4 is needed.')
        super().__init__(
            img_size,
            patch_size,
            in_chans,
            embed_dim,
            output_fmt='NHWC',
            strict_img_size=strict_img_size,
            dynamic_img_pad=True,
            device=device,
            dtype=dtype,
        )
        self.proj = make_embedding(in_chans, embed_dim, device, dtype)


class SwinDsm(SwinTransformer):
    """Swin with UniNet's down-sampling modules.

    As in timm's Swin, images have one size, ``img_size`` or what ``set_input_size`` says; any size from one
    pixel on, mixed, with ``dynamic_img_size=True``.

    Args:
        weight_init: timm's name of how parameters are drawn.
        kwargs: All others of timm's ``SwinTransformer``, but for ``embed_layer``.
    """

    def __init__(
        self,
        weight_init: str = '',
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        super().__init__(embed_layer=LocalPatchEmbed, weight_init='skip', **dd, **kwargs)
        widths = [info['num_chs'] for info in self.feature_info]
        _replace_downsampling(self.layers, widths, both=True, **dd)
        self.weight_init_mode = 'reset' if weight_init == 'skip' else weight_init
        if weight_init != 'skip':
            self.init_weights(needs_reset=False)


class PvtDsm(PyramidVisionTransformerV2):
    """PVT v2 with UniNet's down-sampling modules, for images of any size from 32 x 32 pixels on.

    Args:
        in_chans: Channels of the image.
        embed_dims: Width of each of the four stages.
        kwargs: All others of timm's ``PyramidVisionTransformerV2``.
    """

    def __init__(
        self,
        in_chans: int = 3,
        embed_dims: tuple[int, ...] = (64, 128, 320, 512),
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        super().__init__(in_chans=in_chans, embed_dims=embed_dims, **dd, **kwargs)
        self.patch_embed = ChannelsLast(make_embedding(in_chans, embed_dims[0], **dd), both=False)
        self.patch_embed.apply(self._init_weights)
        _replace_downsampling(self.stages, embed_dims, both=False, **dd)
        for i in range(1, len(self.stages)):
            self.stages[i].downsample.apply(self._init_weights)


def _replace_downsampling(stages: nn.Sequential, widths: Sequence[int], both: bool, **dd: Any) -> None:
    """Gives all stages but the first UniNet's modules."""
    for i in range(1, len(stages)):
        stages[i].downsample = ChannelsLast(
            make_downsample(KINDS[i], widths[i - 1], widths[i], 2, **dd), both
        )


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Brings a checkpoint to the model's windows, where it is for others."""
    return swin.checkpoint_filter_fn(state_dict, model) if isinstance(model, SwinDsm) else state_dict


def build(model_cls: type[nn.Module], variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    """Builds a network through timm's factory; its features are NCHW maps."""
    # those of Swin's stages are NHWC
    features = {'feature_cls': 'getter'} if model_cls is SwinDsm else {'flatten_sequential': True}
    return build_model(
        model_cls,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={'out_indices': (0, 1, 2, 3), **features},
        **kwargs,
    )


COMMON = {'crop_pct': 0.9, 'pool_size': (7, 7)}
SWIN = {'fixed_input_size': True, 'first_conv': 'patch_embed.proj.0.conv', 'classifier': 'head.fc'}
PVT = {'first_conv': 'patch_embed.module.0.conv', 'classifier': 'head'}
default_cfgs = generate_default_cfgs({'swin_tiny_dsm': COMMON | SWIN, 'pvt_v2_b1_dsm': COMMON | PVT})


@register_model
def swin_tiny_dsm(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Swin-T with the modules L, L, LG, LG."""
    model_args = {'window_size': 7, 'embed_dim': 96, 'depths': (2, 2, 6, 2), 'num_heads': (3, 6, 12, 24)}
    return build(SwinDsm, 'swin_tiny_dsm', pretrained, **{**model_args, **kwargs})


@register_model
def pvt_v2_b1_dsm(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """PVT v2-B1 with the modules L, L, LG, LG."""
    model_args = {'depths': (2, 2, 2, 2), 'embed_dims': (64, 128, 320, 512), 'num_heads': (1, 2, 5, 8)}
    return build(PvtDsm, 'pvt_v2_b1_dsm', pretrained, **{**model_args, **kwargs})
