"""Whether the parts of a model fit together, and to the data, said before a head fails on a shape."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from zoo.errors import ZooError

__all__ = ['check_channels', 'check_classes']


def check_channels(model: Any) -> None:
    """Compares a backbone's ``channels`` with those that the next part takes.

    Raises:
        ZooError: They differ in number or size.
    """
    channels = getattr(getattr(model, 'backbone', None), 'channels', None)
    if channels is None:
        return
    neck = getattr(model, 'neck', None)
    if neck is not None:
        first = neck[0] if isinstance(neck, nn.Sequential) else neck
        taken = getattr(first, 'in_channels', None)
        if isinstance(taken, (list, tuple)):
            _compare('neck.in_channels', list(taken), list(channels))
        return
    for name, head in _heads(model, ('decode_head', 'auxiliary_head')):
        taken, index = head.in_channels, head.in_index
        indices = list(index) if isinstance(index, (list, tuple)) else [index]
        for i in indices:
            if not -len(channels) <= i < len(channels):
                raise ZooError(
                    f'{name}.in_index has {i}, the backbone gives {len(channels)} feature maps '
                    f'(channels {list(channels)}).'
                )
        found = [channels[i] for i in indices]
        if head.input_transform == 'resize_concat':
            _compare(f'{name}.in_channels', taken, sum(found))
        else:
            _compare(f'{name}.in_channels', taken, found if isinstance(taken, (list, tuple)) else found[0])


def check_classes(model: Any, metainfo: dict[str, Any]) -> None:
    """Compares the classes of heads with those of a data set.

    Raises:
        ZooError: A head has fewer.
    """
    classes = metainfo.get('classes') or ()
    for name, head in _heads(model, ('decode_head', 'auxiliary_head')):
        _compare_classes(name, head, classes)
    things = metainfo.get('thing_classes', classes)
    for owner in (model, getattr(model, 'roi_head', None)):
        for name, head in _heads(owner, ('bbox_head', 'mask_head')):
            _compare_classes(name, head, things)


def _heads(owner: Any, names: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for name in names:
        head = getattr(owner, name, None)
        for one in head if isinstance(head, nn.ModuleList) else [head]:
            if one is not None:
                yield name, one


def _compare(name: str, taken: Any, given: Any) -> None:
    if (list(taken) if isinstance(taken, (list, tuple)) else taken) != given:
        raise ZooError(f'{name} is {taken}, the backbone gives {given}.')


def _compare_classes(name: str, head: Any, classes: Any) -> None:
    number = getattr(head, 'num_classes', None)
    if number is not None and number < len(classes) and not getattr(head, 'class_agnostic', False):
        raise ZooError(f'{name}.num_classes is {number}, the data have {len(classes)} classes.')
