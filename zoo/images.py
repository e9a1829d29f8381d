"""Labelled images: the digits, data sets by name, a folder, or what ``timm.data.create_dataset`` knows.

timm's own data set of a folder replaces an image that it cannot read by the next one; here it is named.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from timm.data import create_dataset
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from zoo.digits import Digits
from zoo.errors import ZooError
from zoo.jsonfile import clip
from zoo.named_images import NAMED, open_named

__all__ = ['Images', 'Stream', 'count_classes', 'open_images', 'read_labels']

PREFIXES = ('torch', 'hfds', 'hfids', 'tfds', 'wds')
FOLDERS = ('validation', 'val', 'valid', 'evaluation', 'eval', 'test')
"""The names of a folder's part to measure on, the likeliest first; all but the last are synonyms."""

Transform = Callable[[Image.Image], Tensor]


def open_images(
    data: str, split: str | None = None, root: str | None = None, download: bool = False
) -> tuple[Any, str]:
    """Opens a data set.

    Args:
        data: 'digits', one of :data:`zoo.named_images.NAMED`, a folder with a sub-folder for each class (and
            perhaps one above these for each split), or a name of timm's: torch/cifar10, hfds/..., hfids/...,
            tfds/..., wds/...
        split: Which part; by default test of the digits and of data sets by name, what a folder has of
            :data:`FOLDERS` or else all of it, and validation of timm's.
        root: Where a data set that has a name is kept.
        download: Whether it may be downloaded there.

    Returns:
        The images, by index or one after another, as (PIL image, label); and what to call them.

    Raises:
        ZooError: There is no such data set, it has no such split or no images, or a package is missing.
    """
    if data == 'digits':
        split = split or 'test'
        return Digits(split), f'digits ({split})'
    prefix, _, rest = data.partition('/')
    if root is None and (data in NAMED or (prefix.lower() == 'torch' and rest)):
        raise ZooError(f'{data}: found no root, the folder that it is kept in is needed.')
    if data in NAMED:
        split = split or 'test'
        return open_named(data, str(root), split, download), f'{data} ({split})'
    if prefix.lower() in PREFIXES and rest:
        split = split or 'validation'
        return _open(data, data, root=root, split=split, download=download), f'{data} ({split})'
    folder = _find_split(Path(data), split)
    place = folder.resolve()
    name = place.name if folder == Path(data) else f'{place.parent.name} ({place.name})'
    return _open(str(folder), '', root=str(folder), search_split=False), name


def _find_split(folder: Path, split: str | None) -> Path:
    """The folder of a split, by its name or a synonym; all of the folder if it is not divided into splits."""
    if not folder.is_dir():
        names = ', '.join([*NAMED, *(f'{prefix}/...' for prefix in PREFIXES)])
        raise ZooError(f'{folder}: there is no such folder; a folder, digits or one of {names} is needed.')
    folders = FOLDERS if split is None else (split, *(FOLDERS[:-1] if split in FOLDERS[:-1] else ()))
    for name in folders:
        if (folder / name).is_dir():
            return folder / name
    found = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if split is None and not {'train', 'training'} & set(found):
        return folder
    needed = f'{split!r}' if split else f'one of {", ".join(FOLDERS)}'
    raise ZooError(f'{folder}: found the folders {", ".join(found[:10]) or "(none)"}, {needed} is needed.')


def _open(where: str, name: str, **options: Any) -> Any:
    try:
        source = create_dataset(name, **options)
    except ImportError as error:
        raise ZooError(f'{where} needs {error.name}, which is not installed: pip install it.') from None
    except (AssertionError, AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        reason = clip(str(error), 300).rstrip('.') or type(error).__name__
        raise ZooError(f'{where} cannot be opened: {reason}.') from error
    if not isinstance(source, IterableDataset) and len(source) == 0:
        raise ZooError(f'{where}: there are no images.')
    return source


def count_classes(source: Any) -> int | None:
    """How many classes a data set says that it has; None if it does not say."""
    reader = getattr(source, 'reader', source)
    classes = getattr(reader, 'class_to_idx', None) or getattr(reader, 'classes', None)
    return len(classes) if classes else None


def read_labels(source: Any, where: str = 'data') -> list[int]:
    """The labels of a data set, without decoding its images where its class allows."""
    reader = getattr(source, 'reader', None)
    targets = getattr(reader, 'targets', getattr(source, 'targets', None))
    if targets is not None and np.ndim(targets) == 1:
        labels = [int(label) for label in targets]
    elif reader is not None and hasattr(reader, 'samples'):
        labels = [int(label) for _, label in reader.samples]
    elif reader is not None and hasattr(reader, 'iter_targets'):
        labels = [int(label) for label in reader.iter_targets()]
    else:
        labels = [int(source[i][1]) for i in range(len(source))]
    if min(labels, default=0) < 0:
        raise ZooError(f'data: {where} has images without a label.')
    return labels


class Images(Dataset):
    """Images as a network takes them, by index, as (Tensor[C, H, W], label).

    One that cannot be read is given back as an error: raised in a process that loads, it would reach the
    user with that process's traceback.
    """

    def __init__(self, source: Any, transform: Transform, mode: str):
        """
        Args:
            source: Gives (PIL image, label) by index, or is a data set of timm's.
            transform: From PIL image to tensor.
            mode: PIL mode, 'L' or 'RGB'.
        """
        self.source = source
        self.transform = transform
        self.mode = mode

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Tensor, int] | ZooError:
        try:
            image, label = self._read(index)
            return self.transform(image.convert(self.mode)), int(label)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            name = self.source.filename(index, absolute=True) if self._has_files else None
            unknown = isinstance(error, UnidentifiedImageError)  # its message is about memory
            reason = 'it is no image' if unknown else clip(str(error), 200).rstrip('.')
            return ZooError(f'{name or f"image {index}"} cannot be read: {reason}.')

    @property
    def _has_files(self) -> bool:
        return hasattr(self.source, 'reader')

    def _read(self, index: int) -> tuple[Image.Image, Any]:
        if not self._has_files:
            image, label = self.source[index]
            return image, label
        file, label = self.source.reader[index]
        with file:
            image = Image.open(file)
            image.load()
        return image, -1 if label is None else label


class Stream(IterableDataset):
    """Images as a network takes them, one after another, as (Tensor[C, H, W], label)."""

    def __init__(self, source: Any, transform: Transform, mode: str):
        """
        Args:
            source: Gives (PIL image, label) one after another.
            transform: From PIL image to tensor.
            mode: PIL mode, 'L' or 'RGB'.
        """
        self.source = source
        self.transform = transform
        self.mode = mode

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        for image, label in self.source:
            yield self.transform(image.convert(self.mode)), int(label)
