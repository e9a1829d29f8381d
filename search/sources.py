"""Where images come from: digits, planted tasks, data sets by name, and whatever timm opens.

A source is a sequence of (PIL image, label) for one split of a data set.
"""

import difflib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from timm.data import create_dataset
from torch.utils.data import IterableDataset

from search.planted import PLANTED, load_planted
from zoo.arch import Part
from zoo.digits import digits_indices, load_digits
from zoo.errors import ZooError
from zoo.images import read_labels
from zoo.named_images import NAMED, open_named, split_parts

__all__ = [
    'EMBEDDED',
    'DataConfig',
    'Role',
    'carve',
    'check_config',
    'digits_indices',
    'load_digits',
    'open_split',
    'read_labels',
]

Role = Literal['train', 'val', 'recheck', 'test']

PREFIXES = ('torch', 'hfds', 'hfids', 'tfds', 'wds')
TWO_SPLITS = ('cifar10', 'cifar100', 'mnist', 'kmnist', 'fashion_mnist', 'qmnist')
"""torchvision sets that have a train and a test part; timm gives the test part for any other name."""
FOLDER_SYNONYMS = (('train', 'training'), ('val', 'valid', 'validation', 'eval', 'evaluation'))

EMBEDDED = ('digits', *PLANTED)
"""Data sets that come with the package; they are kept in memory."""


class DataConfig(Part):
    """Which data set, and which of its splits plays which role."""

    name: str = Field(
        'digits',
        description="'digits', 'planted_texture', 'planted_relation', cars, aircraft, cub, caltech101, "
        "flowers102, 'folder', or prefix/name as timm has it: torch/cifar10, hfds/...",
    )
    root: str | None = Field(None, description='folder of the data; not needed for what is embedded')
    train: str = Field('train', description='split to train on')
    val: str | None = Field(None, description='split to search on; null: carved from train')
    test: str | None = Field('test', description='split to measure the result on; null: carved from train')
    val_size: Annotated[float, Field(ge=0)] = Field(
        0.1, description='of a carved split: share, or images if 1 or more; 0 for trainings that need none'
    )
    test_size: Annotated[float, Field(gt=0)] = 0.1
    recheck_size: Annotated[float, Field(ge=0)] = Field(
        0,
        description='share of val, or images if 1 or more, that no search sees: the best candidates are '
        'scored on them once more',
    )
    split_seed: Annotated[int, Field(ge=0)] = Field(
        0, description='of carved splits and planted images, apart from the seed of the run'
    )
    download: bool = False
    num_workers: Annotated[int, Field(ge=0, le=256)] = 0


def check_config(config: DataConfig) -> None:
    """Refuses unknown data sets and splits that would play two roles, before anything is read."""
    prefix, slash, rest = config.name.partition('/')
    own = (*EMBEDDED, *NAMED)
    known = config.name in (*own, 'folder') or (slash and prefix.lower() in PREFIXES and rest)
    if not known and (slash or config.root is None):
        known_names = [*own, 'folder', *(f'{p}/' for p in PREFIXES)]
        near = difflib.get_close_matches(config.name, known_names, 1)
        raise ZooError(
            f'data.name: found {config.name!r}, one of {", ".join(own)}, folder (with data.root), '
            f'{", ".join(f"{p}/..." for p in PREFIXES)} is needed' + (f'; {near[0]!r}?' if near else '.')
        )
    if config.name in EMBEDDED:
        return
    if config.root is None and prefix.lower() not in ('hfds', 'hfids'):
        raise ZooError(f'data.root: found nothing, the folder of {config.name!r} is needed.')
    named = [split for split in (config.train, config.val, config.test) if split is not None]
    parts = named
    if config.name in NAMED:
        parts = [part for split in named for part in split_parts(config.name, split)]
    if len(set(parts)) < len(parts):
        raise ZooError(
            f'data: train, val and test are {", ".join(named)}; each role needs a split of its own.'
        )
    if (
        prefix.lower() == 'torch'
        and rest.lower() in TWO_SPLITS
        and config.val is not None
        and config.test is not None
    ):
        raise ZooError(
            f'data.val: {config.name} has only a train and a test part; leave it out to carve val from train.'
        )


def open_split(config: DataConfig, split: str) -> Any:
    """A split as a sequence of (PIL image, label), opened by timm; streams are read into memory once.

    Raises:
        ZooError: There is no such data, it is empty, or a package is missing.
    """
    if config.name == 'digits':
        return load_digits()
    if config.name in PLANTED:
        return load_planted(config.name, config.split_seed)
    if config.name in NAMED:
        try:
            return open_named(config.name, str(config.root), split, config.download)
        except ZooError as error:
            raise ZooError(f'data: {error}') from error
    where = f'data: {config.name!r}' + (f' in {config.root}' if config.root else '')
    is_folder = '/' not in config.name
    root = config.root
    if is_folder:
        root = str(_split_folder(config, split, where))
    try:
        dataset = create_dataset(
            '' if is_folder else config.name,
            root=root,
            split=split,
            search_split=not is_folder,
            download=config.download,
        )
        if isinstance(dataset, IterableDataset):
            dataset = list(dataset)
    except (
        AssertionError,
        AttributeError,
        ImportError,
        KeyError,
        OSError,
        RuntimeError,
        ValueError,
    ) as error:
        reason = str(error).strip().split('\n')[0] or type(error).__name__
        raise ZooError(f'{where}: split {split!r} cannot be opened: {reason}') from None
    if len(dataset) == 0:
        raise ZooError(f'{where}: split {split!r} has no images.')
    return dataset


def _split_folder(config: DataConfig, split: str, where: str) -> Path:
    """The folder of a split, by its name or a synonym; the root itself where train is all that is in it."""
    root = Path(config.root or '')
    if root.is_file() and root.suffix == '.tar':
        return root
    if not root.is_dir():
        raise ZooError(f'{where}: there is no such folder.')
    names = next((names for names in FOLDER_SYNONYMS if split in names), (split,))
    for name in dict.fromkeys((split, *names)):
        if (root / name).is_dir():
            return root / name
    folders = sorted(path.name for path in root.iterdir() if path.is_dir())
    if config.val is None and config.test is None and split == config.train and folders:
        return root
    found = ', '.join(folders[:10]) or 'none'
    raise ZooError(f'{where}: there is no folder for split {split!r}; found {found}.')


def carve(
    indices: Sequence[int], labels: Sequence[int], count: int, seed: int, split: str = 'training'
) -> tuple[list[int], list[int]]:
    """Takes ``count`` of ``indices``, of each class its share (largest remainders), drawn by ``seed``.

    Returns:
        What is left and what was taken, both in order.

    Raises:
        ZooError: Nothing would be left or taken.
    """
    if not 0 < count < len(indices):
        raise ZooError(f'data: {count} {split} images were to be held out, 1 to {len(indices) - 1} can be.')
    by_class: dict[int, list[int]] = {}
    for index in indices:
        by_class.setdefault(labels[index], []).append(index)
    shares = {label: count * len(members) / len(indices) for label, members in sorted(by_class.items())}
    quota = {label: int(share) for label, share in shares.items()}
    by_remainder = sorted(shares, key=lambda label: (quota[label] - shares[label], label))
    for label in by_remainder[: count - sum(quota.values())]:
        quota[label] += 1
    rng = random.Random(seed)
    taken: set[int] = set()
    for label, members in sorted(by_class.items()):
        order = sorted((rng.random(), index) for index in members)
        taken.update(index for _, index in order[: quota[label]])
    return [index for index in indices if index not in taken], sorted(taken)
