"""What any name of a network means: an entry, its file, a repository of the Hub, a model of timm."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers import to_2tuple
from torch import Tensor, nn

import zoo
from zoo.errors import ZooError
from zoo.hub.fetch import FAILURES, Unavailable, explain_hub
from zoo.jsonfile import clip
from zoo.registry import HUB, suggest

__all__ = ['Sketch', 'check_index', 'create_network', 'pad_image', 'sketch_network']

FREE_SIZE = ('dynamic_img_size', 'always_partition')
"""Options with which a network takes images of any size: position embeddings that follow the image, and
windows that are shifted in every second block whatever the size, as in Swin's code for detection."""


@dataclass(frozen=True)
class Sketch:
    """What is known of a network before it takes memory.

    Attributes:
        name: What ``timm.create_model`` knows it by.
        options: Arguments that free it from one size of images.
        channels: Of each feature map.
        strides: Of each feature map.
        stages: The modules of the stem, and those up to the first, the second, ... stage.
        img_size: Height and width of images, if they must have one size.
    """

    name: str
    options: dict[str, Any]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    stages: tuple[tuple[str, ...], ...]
    img_size: tuple[int, int] | None


def sketch_network(name: str, **kwargs: Any) -> Sketch:
    """Looks at a network without taking memory or fetching weights.

    Args:
        name: An entry (also with a tag of its weights), the .json file of one, ``hf-hub:org/name``, or any
            name of ``timm.create_model``.
        **kwargs: Of ``timm.create_model``.

    Raises:
        ZooError: There is no such network, or it gives no feature maps.
    """
    timm_name = _resolve(name)
    with torch.device('meta'):
        net = _create(timm_name, **kwargs)
    if not hasattr(net, 'forward_intermediates'):
        raise ZooError(f'{name} gives no feature maps: timm has no forward_intermediates for it.')
    options = {key: True for key in FREE_SIZE if _accepts(type(net), key)}
    cfg: dict[str, Any] = net.pretrained_cfg  # type: ignore[assignment]
    fixed = cfg.get('fixed_input_size') and 'dynamic_img_size' not in options
    levels: Any = net.feature_info
    levels = list(getattr(levels, 'info', levels))
    return Sketch(
        name=timm_name,
        options=options,
        channels=tuple(level['num_chs'] for level in levels),
        strides=tuple(level['reduction'] for level in levels),
        stages=_stages(net, [level['module'] for level in levels]),
        img_size=to_2tuple(kwargs.get('img_size') or cfg['input_size'][1:]) if fixed else None,
    )


def create_network(sketch: Sketch, pretrained: bool, **kwargs: Any) -> nn.Module:
    """The network, with weights if they are asked for.

    Raises:
        ZooError: They are not to be had.
    """
    return _create(sketch.name, pretrained=pretrained, **sketch.options, **kwargs)


def check_index(index: int, strides: tuple[int, ...], found: str) -> int:
    """The index of a feature map, from the start.

    Args:
        index: Negative from the end.
        strides: Of all the network's feature maps.
        found: How the error begins: the network, and what was asked of it.

    Raises:
        ZooError: There is no such map.
    """
    count = len(strides)
    if not -count <= index < count:
        shown = ', '.join(map(str, strides)) if len(set(strides)) > 1 else f'{strides[0]} each'
        raise ZooError(
            f'{found}, the network has {count} feature maps (strides {shown}): '
            f'{-count} to {count - 1} are allowed.'
        )
    return index % count


def pad_image(x: Tensor, sketch: Sketch) -> Tensor:
    """Tensor[..., H, W] -> padded by zeros, right and at the bottom, to multiples of the network's stride.

    Raises:
        ZooError: The network takes images of one size, and this is another one.
    """
    height, width = x.shape[-2:]
    if sketch.img_size is not None:
        if (height, width) != sketch.img_size:
            needed = f'{sketch.img_size[0]}x{sketch.img_size[1]}'
            raise ZooError(f'{sketch.name} takes images of {needed}, found {height}x{width}.')
        return x
    stride = max(sketch.strides)
    down, right = -height % stride, -width % stride
    return F.pad(x, (0, right, 0, down)) if down or right else x


def _resolve(name: str) -> str:
    if name.endswith('.json'):
        return zoo.register(name)
    if name.startswith(HUB):
        try:
            return zoo.register(name)
        except ZooError as error:
            if not isinstance(error.__context__, Unavailable):
                raise
            return name  # a repository of timm's, without an entry
    known = name.partition('.')[0]
    if ':' not in name and not timm.is_model(known):
        raise ZooError(
            f'There is no entry and no model of timm {name!r}{suggest(known, timm.list_models())}.'
        )
    return name


def _create(name: str, **kwargs: Any) -> nn.Module:
    try:
        return timm.create_model(name, **kwargs)
    except ZooError:
        raise
    except FAILURES as error:
        raise ZooError(f'{name} cannot be fetched: {explain_hub(error)}.') from error
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ZooError(f'{name} cannot be made: {clip(str(error)).rstrip(".")}.') from error


def _accepts(kind: type, option: str) -> bool:
    constructors = (vars(base)['__init__'] for base in kind.__mro__ if '__init__' in vars(base))
    return any(option in inspect.signature(constructor).parameters for constructor in constructors)


def _stages(net: nn.Module, ends: list[str]) -> tuple[tuple[str, ...], ...]:
    """The modules of the stem, and those up to the end of each stage, as timm's models have them in order.

    The stem is all in front of the container of the first stage; where nothing is, as in RegNet, whose first
    feature map is the stem's, it is the first stage.
    """
    modules = dict(net.named_modules())

    def holds_parameters(name: str) -> bool:
        return name in modules and next(modules[name].parameters(), None) is not None

    ends = [end for end in dict.fromkeys(ends) if holds_parameters(end)]
    if not ends:
        return ((),)
    stem = list(_leading(net, ends[0].partition('.')[0]))[:-1]
    if not any(map(holds_parameters, stem)):
        stem, ends = list(_leading(net, ends[0])), ends[1:]
    return tuple(stem), *(tuple(_leading(net, end)) for end in ends)


def _leading(net: nn.Module, end: str) -> Iterator[str]:
    """Names of the modules up to and including one; of a module that holds it, those of its children."""
    path, _, rest = end.partition('.')
    for name, child in net.named_children():
        if name != path:
            yield name
        elif not rest:
            yield name
            return
        else:
            yield from (f'{name}.{inner}' for inner in _leading(child, rest))
            return
