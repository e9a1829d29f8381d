"""What data a run saw: how many images each role has, and a fingerprint that changes with them."""

import hashlib
from collections.abc import Callable
from typing import Any, get_args

import numpy as np

from search.data import Data, Role
from search.sources import read_labels
from zoo.jsonfile import format_json

__all__ = ['describe_data', 'fingerprint']


def describe_data(data: Data, test: bool) -> bytes:
    """Name, fingerprint and sizes of the splits that a run used, as JSON.

    Args:
        data: The data set.
        test: Whether the test split is one of them; it is not opened otherwise, and its size is null.
    """
    used: list[Role] = [role for role in get_args(Role) if role != 'test' or test]
    sizes: dict[str, int | None] = dict.fromkeys(get_args(Role))
    sizes |= {role: len(data.images(role)) if data.has(role) else 0 for role in used}
    return format_json({'name': data.config.name, 'fingerprint': fingerprint(data, used), **sizes}).encode()


def fingerprint(data: Data, roles: list[Role]) -> str:
    """A sha256 over the roles' images: over their labels and the names of their files, so that no image of
    ImageNet is opened; where they are in memory, over their pixels in place of the names."""
    digest = hashlib.sha256()
    for role in filter(data.has, roles):
        images = data.images(role)
        labels, identify = read_labels(images.source), _identifier(images.source)
        for index in images.indices:
            digest.update(f'{role} {labels[index]} '.encode() + identify(index) + b'\n')
    return f'sha256:{digest.hexdigest()}'


def _identifier(source: Any) -> Callable[[int], bytes]:
    """What tells an image of a split from others; nothing where neither pixels nor names are at hand."""
    pixels, samples = getattr(source, 'data', None), getattr(getattr(source, 'reader', None), 'samples', None)
    if isinstance(source, list):
        return lambda index: hashlib.sha256(source[index][0].tobytes()).digest()
    if pixels is not None and len(pixels) == len(source):
        return lambda index: hashlib.sha256(np.asarray(pixels[index]).tobytes()).digest()
    if samples is not None:
        return lambda index: str(source.filename(index)).encode()
    return lambda index: b''
