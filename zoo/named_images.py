"""Five small data sets by name: Stanford Cars, FGVC Aircraft, CUB-200-2011, Caltech-101 and 102 Flowers.

torchvision reads all but CUB, in its own layout below ``root``, and downloads three of them:

==============  =======  ======  =====  =====  ==================================================
name            classes  train   val    test   below ``root``
==============  =======  ======  =====  =====  ==================================================
``cars``        196      8,144   none   8,041  ``stanford_cars``
``aircraft``    100      3,334   3,333  3,333  ``fgvc-aircraft-2013b``
``cub``         200      5,994   none   5,794  ``CUB_200_2011``, or what is in it
``caltech101``  101      3,030   none   5,647  ``caltech101``
``flowers102``  102      1,020   1,020  6,149  ``flowers-102``
==============  =======  ======  =====  =====  ==================================================

``trainval`` is train with val where there is one, and ``all`` is everything. Caltech-101 was not divided by
its authors: 30 images of each class, drawn once and for all, are train, as is usual, and the rest is test;
its folder of clutter is no class. CUB may also be two folders ``train`` and ``test``, without its lists.
"""

import importlib.util
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timm.data import ImageDataset
from timm.data.readers.reader import Reader
from timm.data.readers.reader_image_folder import find_images_and_targets
from torchvision import datasets

from zoo.errors import ZooError
from zoo.jsonfile import clip

__all__ = ['NAMED', 'open_named', 'split_parts']

Samples = list[tuple[str, int]]
"""Paths and labels."""

CALTECH_TRAIN = 30
"""Images of each class to learn from."""


def open_named(name: str, root: str | Path, split: str = 'train', download: bool = False) -> ImageDataset:
    """Opens a part of a data set.

    Args:
        name: One of :data:`NAMED`.
        root: The folder above the data set's own.
        split: train, trainval, test or all; of aircraft and flowers102 also val.
        download: Whether torchvision may fetch what is missing (aircraft, caltech101 and flowers102).

    Returns:
        Images by index, as (PIL image, label), in timm's form.

    Raises:
        ZooError: There is no such split, or files are missing.
    """
    root = Path(root).expanduser()
    samples: Samples = []
    for part in split_parts(name, split):
        found, classes = _read(name, root, part, download)
        samples += found
    missing = next((path for path, _ in samples if not os.path.isfile(path)), None)
    if missing:
        raise ZooError(f'{name}: there is no image {missing}, which belongs to {split}.')
    return ImageDataset('', reader=_Files(root, samples, classes))


def split_parts(name: str, split: str) -> tuple[str, ...]:
    """The parts that a split consists of, of train, val and test.

    Raises:
        ZooError: The data set has no such split.
    """
    parts = NAMED[name].parts
    groups = {part: (part,) for part in parts} | {'trainval': parts[:-1], 'all': parts}
    if split not in groups:
        raise ZooError(f'{name}: found split {split!r}, one of {", ".join(groups)} is needed.')
    return groups[split]


def _read(name: str, root: Path, part: str, download: bool) -> tuple[Samples, dict[str, int]]:
    named = NAMED[name]
    if named.needs_scipy and importlib.util.find_spec('scipy') is None:
        raise ZooError(f'{name} comes with lists in .mat files: pip install scipy, which reads them.')
    if download and not named.downloads:
        raise ZooError(f'{name} cannot be downloaded from here: get it, so that {root} has {named.layout}.')
    try:
        if download:
            root.mkdir(parents=True, exist_ok=True)
        elif not root.is_dir():
            raise FileNotFoundError(f'there is no folder {root}')
        samples, classes = named.read(root, part, download)
    except Exception as error:  # damaged lists fail in scipy's and torchvision's own ways
        reason = clip(str(error).partition('. You can')[0], 200).rstrip('.')
        how = ', or download it' if named.downloads and not download else ''
        raise ZooError(f'{name}: {reason}; {root} has to have {named.layout}{how}.') from error
    if not samples:
        raise ZooError(f'{name}: {part} has no images; {root} has to have {named.layout}.')
    return samples, classes


class _Files(Reader):
    """Image files with labels, as timm's data sets have them."""

    def __init__(self, root: Path, samples: Samples, class_to_idx: dict[str, int]):
        super().__init__()
        self.root = root
        self.samples = samples
        self.class_to_idx = class_to_idx

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        path, label = self.samples[index]
        return open(path, 'rb'), label

    def _filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:
        path = self.samples[index][0]
        if basename:
            return os.path.basename(path)
        return path if absolute else os.path.relpath(path, self.root)


def _read_cars(root: Path, part: str, download: bool) -> tuple[Samples, dict[str, int]]:
    dataset: Any = datasets.StanfordCars(root, part)
    return [(str(path), int(label)) for path, label in dataset._samples], dataset.class_to_idx


def _read_aircraft(root: Path, part: str, download: bool) -> tuple[Samples, dict[str, int]]:
    dataset: Any = datasets.FGVCAircraft(root, part, download=download)
    return list(zip(dataset._image_files, dataset._labels, strict=True)), dataset.class_to_idx


def _read_flowers(root: Path, part: str, download: bool) -> tuple[Samples, dict[str, int]]:
    dataset: Any = datasets.Flowers102(root, part, download=download)
    paths = [str(path) for path in dataset._image_files]
    return list(zip(paths, dataset._labels, strict=True)), {str(i + 1): i for i in range(102)}


def _read_caltech(root: Path, part: str, download: bool) -> tuple[Samples, dict[str, int]]:
    if not download and not (root / 'caltech101').is_dir():
        raise FileNotFoundError(f'there is no folder {root / "caltech101"}')  # torchvision would make it
    dataset: Any = datasets.Caltech101(root, download=download)
    folder = Path(dataset.root, '101_ObjectCategories')
    classes = {category: label for label, category in enumerate(dataset.categories)}
    members: dict[int, list[str]] = {label: [] for label in classes.values()}
    for label, number in zip(dataset.y, dataset.index, strict=True):
        members[label].append(str(folder / dataset.categories[label] / f'image_{number:04}.jpg'))
    samples: Samples = []
    for label, paths in members.items():
        if len(paths) <= CALTECH_TRAIN:
            raise ValueError(f'{dataset.categories[label]} has {len(paths)} images, not even one for test')
        rng = random.Random(label)
        drawn = [path for _, path in sorted((rng.random(), path) for path in paths)]
        chosen = drawn[:CALTECH_TRAIN] if part == 'train' else drawn[CALTECH_TRAIN:]
        samples += [(path, label) for path in sorted(chosen)]
    return samples, classes


def _read_cub(root: Path, part: str, download: bool) -> tuple[Samples, dict[str, int]]:
    folder = next((f for f in (root / 'CUB_200_2011', root) if (f / 'images').is_dir()), None)
    if folder is None:
        return _read_divided(root, part)
    names = dict(_read_list(folder / 'images.txt'))
    marks = dict(_read_list(folder / 'train_test_split.txt'))
    categories = sorted({name.partition('/')[0] for name in names.values()})
    classes = {category: label for label, category in enumerate(categories)}
    wanted = '1' if part == 'train' else '0'
    chosen = [name for number, name in names.items() if marks[number] == wanted]
    return [(str(folder / 'images' / name), classes[name.partition('/')[0]]) for name in chosen], classes


def _read_divided(root: Path, part: str) -> tuple[Samples, dict[str, int]]:
    """One folder for each part, in which every class has one."""
    folders = [root / name for name in ('train', 'test')]
    if not all(folder.is_dir() for folder in folders):
        raise FileNotFoundError('there are neither images nor the folders train and test')
    _, classes = find_images_and_targets(str(folders[0]))
    samples, found = find_images_and_targets(str(root / part))
    if found != classes:
        odd = ', '.join(sorted(set(found) ^ set(classes))[:3]) or 'others'
        raise ValueError(f'train and test do not have the same classes ({odd} in one of them)')
    return samples, classes


def _read_list(path: Path) -> Iterator[tuple[str, str]]:
    """Lines of a number and a word."""
    for line in path.read_text(encoding='utf-8').splitlines():
        number, _, word = line.strip().partition(' ')
        if not (number and word):
            raise ValueError(f'{path}: found a line {line!r}, a number and a word are needed')
        yield number, word


@dataclass(frozen=True)
class _Named:
    """How to read a data set, and what to tell who does not have it."""

    read: Callable[[Path, str, bool], tuple[Samples, dict[str, int]]]
    parts: tuple[str, ...]
    layout: str
    downloads: bool = False
    needs_scipy: bool = False


TWO, THREE = ('train', 'test'), ('train', 'val', 'test')
NAMED = {
    'cars': _Named(
        _read_cars,
        TWO,
        'the folder stanford_cars with the folders cars_train, cars_test and devkit (cars_train_annos.mat, '
        'cars_meta.mat) and the file cars_test_annos_withlabels.mat (its own site is gone, copies have them)',
        needs_scipy=True,
    ),
    'aircraft': _Named(_read_aircraft, THREE, 'the folder fgvc-aircraft-2013b of its archive', True),
    'cub': _Named(
        _read_cub,
        TWO,
        'the folder CUB_200_2011 of its archive, with images, images.txt and train_test_split.txt, or the '
        'folders train and test with a sub-folder for each class',
    ),
    'caltech101': _Named(
        _read_caltech, TWO, 'the folder caltech101 with the folder 101_ObjectCategories of its archive', True
    ),
    'flowers102': _Named(
        _read_flowers,
        THREE,
        'the folder flowers-102 with the folder jpg and the files imagelabels.mat and setid.mat',
        True,
        needs_scipy=True,
    ),
}
"""By name."""
