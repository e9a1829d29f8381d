"""How many labelled images a network tells right, with its own preprocessing.

Every process of ``accelerate launch`` takes every n-th image and finds for itself how many fit into memory at
once; only the counts are exchanged, once, so that no image counts twice and no process waits for another's
batch.
"""

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import timm
import torch
from timm.data import create_transform, resolve_data_config
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, Subset, default_collate

from zoo.errors import ZooError
from zoo.images import Images, Stream, count_classes
from zoo.jsonfile import clip

__all__ = ['Evaluation', 'evaluate', 'processes']

PATIENCE = timedelta(days=1)
"""How long a process waits for the counts of the slowest one."""


@dataclass(frozen=True)
class Evaluation:
    """What was measured, on what, and how."""

    images: int
    correct: dict[str, int]
    """Images whose class is the first of the network's guesses (top1), or among the first five (top5)."""
    data: str
    preprocessing: str
    dtype: str
    batch_size: int
    """Images at once, of one process; the accuracies do not depend on it."""

    @property
    def metrics(self) -> dict[str, float]:
        """Accuracies in per cent, to four decimals: top1, and top5 for more than five classes."""
        return {name: round(100 * count / self.images, 4) for name, count in self.correct.items()}

    def standard_error(self, name: str) -> float:
        """Of an accuracy in per cent, over draws of so many images."""
        share = self.correct[name] / self.images
        return 100 * math.sqrt(share * (1 - share) / self.images)

    def record(self) -> dict[str, Any]:
        """The fields ``metrics`` and ``evaluation`` of an entry's weights."""
        how = (
            f'Accuracies in per cent on the {self.images} images of {self.data}: {self.preprocessing}; '
            f'{self.dtype}; searchzoo zoo evaluate, timm {timm.__version__}, torch {torch.__version__}.'
        )
        return {'metrics': self.metrics, 'evaluation': how}


def evaluate(
    model: nn.Module,
    source: Any,
    label: str = 'the given data',
    *,
    batch_size: int = 64,
    bf16: bool = False,
    num_workers: int = 0,
    quiet: bool = False,
) -> Evaluation:
    """Counts the images that a network tells right; with several processes, each has to call it.

    Args:
        model: A network with ``pretrained_cfg``, which says how images are preprocessed. It is left in
            evaluation mode, on the device.
        source: Gives (PIL image, label) by index or one after another, or is a data set of timm's.
        label: What to call it.
        batch_size: Images at once, of each process; halved for as long as they do not fit into memory.
        bf16: Whether to run under autocast to bfloat16.
        num_workers: Processes that load images, of each process; none for a stream.
        quiet: Whether to show no progress bar.

    Returns:
        The counts of all processes together.

    Raises:
        ZooError: The data has another number of classes than the network, an image cannot be read, the
            network gives NaN, or not even one image fits into memory.
    """
    from accelerate.utils import find_executable_batch_size
    from tqdm import tqdm

    num_classes = _check_classes(model, source, label)
    config = _resolve(model)
    state = processes()
    images = _share(source, config, state, label)
    workers = 0 if isinstance(images, Stream) else num_workers
    model = model.to(state.device).eval()

    def count(batch_size: int) -> dict[str, list[int]]:
        loader = DataLoader(
            images, batch_size, num_workers=workers, collate_fn=_collate, generator=torch.Generator()
        )
        bar = tqdm(loader, label, unit='batch', disable=quiet or not state.is_main_process)
        return _count(model, bar, num_classes, state.device, bf16)

    def halve() -> int:
        nonlocal batch_size
        batch_size //= 2
        if batch_size == 0:
            raise ZooError(f'{label}: not even one image at a time fits into memory.')
        return batch_size

    search = find_executable_batch_size(count, starting_batch_size=batch_size, reduce_batch_size_fn=halve)
    try:
        counts = search()
    except (AssertionError, OSError, RuntimeError) as error:
        raise ZooError(f'{label} cannot be evaluated: {clip(str(error), 300).rstrip(".")}.') from error
    total = counts['top1'][-1]
    if total == 0:
        raise ZooError(f'{label}: there are no images.')
    return Evaluation(
        images=total,
        correct={name: found[0] for name, found in counts.items()},
        data=label,
        preprocessing=_describe(config),
        dtype='bfloat16 (autocast)' if bf16 else 'float32',
        batch_size=batch_size,
    )


def _check_classes(model: nn.Module, source: Any, label: str) -> int:
    """How many classes the network tells apart, if the data has as many."""
    wanted, found = int(model.num_classes), count_classes(source)  # type: ignore[arg-type]
    if found not in (None, wanted):
        raise ZooError(f'{label} has {found} classes, the network tells {wanted} apart.')
    if wanted < 2:
        raise ZooError(f'The network tells {wanted} classes apart, at least two are needed.')
    return wanted


def _resolve(model: nn.Module) -> dict[str, Any]:
    """timm's arguments of the network's own preprocessing; at its own size for tests, if it has one."""
    config: dict[str, Any] = resolve_data_config(pretrained_cfg=model.pretrained_cfg, use_test_size=True)
    channels = config['input_size'][0]
    if channels not in (1, 3) or {len(config['mean']), len(config['std'])} != {channels}:
        raise ZooError(
            f'Found a network for {channels} channels, mean {config["mean"]} and std {config["std"]}; images '
            'have 1 (grey) or 3 (RGB), and as many values of mean and std are needed.'
        )
    return config


def _describe(config: dict[str, Any]) -> str:
    channels, height, width = config['input_size']
    numbers = {key: ' '.join(f'{value:.4g}' for value in config[key]) for key in ('mean', 'std')}
    return (
        f'{channels}x{height}x{width} pixels, {config["interpolation"]}, crop_pct {config["crop_pct"]:g} '
        f'({config["crop_mode"]}), mean {numbers["mean"]}, std {numbers["std"]}'
    )


def processes() -> Any:
    """Accelerate's state: this process's number, how many there are, and its device."""
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    # without being told, accelerate takes each of several processes on a machine without GPU for the only one
    alone = 'LOCAL_RANK' not in os.environ or torch.accelerator.is_available()
    return PartialState(cpu=parse_flag_from_env('ACCELERATE_USE_CPU') or not alone, timeout=PATIENCE)


def _share(source: Any, config: dict[str, Any], state: Any, label: str) -> Any:
    """What of the images this process evaluates, as the network takes them."""
    transform = create_transform(**config)
    mode = 'L' if config['input_size'][0] == 1 else 'RGB'
    number = state.num_processes
    if isinstance(source, IterableDataset):
        if number > 1:
            raise ZooError(
                f'{label} can only be read in one piece: evaluate it in one process, not {number}.'
            )
        return Stream(source, transform, mode)
    if len(source) < number:
        raise ZooError(f'{label}: found {len(source)} images, at least one for each process is needed.')
    images = Images(source, transform, mode)
    return Subset(images, range(state.process_index, len(images), number)) if number > 1 else images


def _collate(items: list[Any]) -> Any:
    return next((item for item in items if isinstance(item, ZooError)), None) or default_collate(items)


def _count(
    model: nn.Module, batches: Iterable[Any], num_classes: int, device: torch.device, bf16: bool
) -> dict[str, list[int]]:
    """Of all processes: by metric, how many images it counts as right, ..., and of how many."""
    from torchmetrics.classification import MulticlassStatScores

    # not in a MetricCollection, which would take two metrics for one that agree on the first batch
    scores = {
        f'top{k}': MulticlassStatScores(num_classes, top_k=k, average='micro').to(device)
        for k in (1, 5)
        if k == 1 or k < num_classes
    }
    for batch in batches:
        if isinstance(batch, ZooError):
            raise batch
        images, labels = (part.to(device) for part in batch)
        if not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
            found = f'labels from {int(labels.min())} to {int(labels.max())}'
            raise ZooError(f'Found {found}, of 0 to {num_classes - 1} that the network tells apart.')
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = model(images).float()
        if logits.isnan().any():
            raise ZooError('The network gives NaN, so that there is nothing to measure.')
        for score in scores.values():
            score.update(logits, labels)
    return {name: score.compute().tolist() for name, score in scores.items()}
