"""scikit-learn's handwritten digits and their fixed split: what the searches learn from and are tested on."""

from collections import Counter
from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from zoo.errors import ZooError

__all__ = ['Digits', 'digits_indices', 'load_digits']

SPLITS = ('train', 'val', 'test')


@cache
def load_digits() -> list[tuple[Image.Image, int]]:
    """1,797 grey images of 8 x 8 pixels and their digits, in the order of scikit-learn's file.

    Raises:
        ZooError: scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError:
        raise ZooError("data: 'digits' comes with scikit-learn: pip install 'searchzoo[search]'.") from None
    digits = datasets.load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return [(Image.fromarray(image), int(label)) for image, label in zip(pixels, digits.target, strict=True)]


def digits_indices(split: str, source: Sequence[tuple[Image.Image, int]]) -> list[int]:
    """The fixed split of the digits: 1,071 for train, 362 for val, 364 for test, each class in its share.

    Of each class in file order, image k is test for k % 5 == 0, val for 1, else train; nothing is drawn.

    Args:
        split: One of :data:`SPLITS`.
        source: What :func:`load_digits` gives.

    Returns:
        Indices into ``source``.
    """
    seen: Counter[int] = Counter()
    chosen = []
    for index, (_, label) in enumerate(source):
        if ('test', 'val', 'train', 'train', 'train')[seen[label] % 5] == split:
            chosen.append(index)
        seen[label] += 1
    return chosen


class Digits(Dataset):
    """The images of one split, by index, as (PIL image, digit)."""

    classes = tuple(range(10))

    def __init__(self, split: str = 'test'):
        """
        Args:
            split: train, val or test.

        Raises:
            ZooError: It is none of these, or scikit-learn is not installed.
        """
        if split not in SPLITS:
            raise ZooError(f'digits: found split {split!r}, one of {", ".join(SPLITS)} is needed.')
        source = load_digits()
        self.samples = [source[index] for index in digits_indices(split, source)]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return self.samples[index]
