"""What a config says of data, looked at before hours are spent on it."""

import os.path
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from downstream.config_errors import explained
from downstream.map_shapes import keep_map_shapes
from zoo.errors import ZooError

__all__ = ['check_data', 'datasets_of', 'open_dataset']

NOTHING = 'need at least one array'
"""What NumPy says when MMEngine packs the images of a data set that has none."""


def check_data(config: Any, parts: Sequence[str]) -> None:
    """Looks for the files and folders that data loaders and evaluators name.

    Args:
        config: MMEngine's.
        parts: Of ``train``, ``val``, ``test``.

    Raises:
        ZooError: One is missing, or the config has no data to train with, or to test on.
    """
    for part in parts:
        loader = config.get(f'{part}_dataloader')
        if not loader and part != 'val':
            raise ZooError(f'The config has no {part}_dataloader.')
        if loader:
            for dataset in datasets_of(loader.get('dataset')):
                _check_paths(dataset, f'{part}_dataloader')
        for evaluator in _listed(config.get(f'{part}_evaluator')):
            for key in ('ann_file', 'seg_prefix'):
                _check(evaluator.get(key), f'{part}_evaluator.{key}')


def open_dataset(runner: Any, config: Any, part: str) -> Any:
    """The data set of a runner's loader, built now, in which images may be one pixel high or wide.

    Raises:
        ZooError: It cannot be built, or is empty.
    """
    dataset: Any = ()
    try:
        with explained(f'{part}_dataloader'):
            dataset = getattr(runner, f'{part}_dataloader').dataset
    except ZooError as error:
        if NOTHING not in str(error):
            raise
    if len(dataset) == 0:
        found: Any = next(datasets_of(config[f'{part}_dataloader'].dataset), {})
        where = ', '.join(path for _, path in _paths(found)) or found.get('type')
        raise ZooError(f'{part}_dataloader: there is no image to use in {where}.')
    keep_map_shapes(dataset)
    return dataset


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value] if value else []


def datasets_of(dataset: Any) -> Iterator[Any]:
    """The data sets inside of wrappers such as RepeatDataset and ConcatDataset."""
    inner = [*_listed(dataset.get('dataset')), *_listed(dataset.get('datasets'))] if dataset else []
    if dataset and not inner:
        yield dataset
    for item in inner:
        yield from datasets_of(item)


def _paths(dataset: Any) -> Iterable[tuple[str, str]]:
    """The names in a config and the paths that MMEngine makes of them."""
    root = str(dataset.get('data_root') or '')
    if root:
        yield 'data_root', root
    if file := dataset.get('ann_file'):
        yield 'ann_file', os.path.join(root, file)
    for key, prefix in (dataset.get('data_prefix') or {}).items():
        if isinstance(prefix, str) and prefix:
            yield f'data_prefix.{key}', os.path.join(root, prefix)


def _check_paths(dataset: Any, label: str) -> None:
    for key, path in _paths(dataset):
        _check(path, f'{label}: {key}')


def _check(path: Any, label: str) -> None:
    if isinstance(path, str) and '://' not in path and not Path(path).exists():
        raise ZooError(f'{label}: there is no {path}.')
