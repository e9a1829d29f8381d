"""The papers' spaces: which choices there are, which architecture a genotype means, and what that costs."""

from collections.abc import Mapping
from typing import Any

from search.spaces import carnet, glit, s3, trionet, uninet
from search.spaces.family_space import FamilySpace
from zoo.errors import ZooError

__all__ = ['LOADERS', 'FamilySpace', 'load_space']

LOADERS = {
    'carnet': carnet.load,
    'glit': glit.load,
    's3': s3.load,
    'trionet': trionet.load,
    'uninet': uninet.load,
}


def load_space(
    data: str | Mapping[str, Any], input_size: tuple[int, int, int] = (3, 224, 224)
) -> FamilySpace:
    """Reads a space as a config declares it.

    Args:
        data: A family's name for the (initial) space of its paper, or an object with the key ``family`` and
            what that family needs to declare another one (see its module).
        input_size: (C, H, W) of the images.

    Raises:
        ZooError: An unknown family, or what the family refuses.
    """
    declaration = {'family': data} if isinstance(data, str) else data
    family = declaration.get('family') if isinstance(declaration, Mapping) else None
    if not isinstance(family, str) or family not in LOADERS:
        raise ZooError(f'space: $.family: found {family!r:.80}, allowed are {", ".join(LOADERS)}.')
    return LOADERS[family](declaration, input_size)
