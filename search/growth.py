"""Time and memory of a batch, measured at growing batch sizes.

Batches begin with two images and grow until they are whole, or until they would take too much time or memory;
then what is missing is extrapolated linearly.
"""

import gc
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import psutil  # type: ignore[import-untyped]
import torch

from zoo.errors import ZooError

__all__ = [
    'FEWEST',
    'UNITS',
    'WARM_UP',
    'Memory',
    'Sample',
    'Seconds',
    'clock',
    'extrapolate',
    'extrapolate_memory',
    'factor',
    'grow',
    'weighed',
]

WARM_UP = 1
"""Units that are not counted: caches and loaders begin."""
FEWEST, UNITS = 2, 8
"""Units that are counted."""
FIRST_BATCH = 2
GROWTH = 8
"""Of the first batch, when it is not known yet what an image takes."""
SHARE_OF_MEMORY = 0.6
"""Of the memory that is free, what a rehearsal may take."""


class Seconds(NamedTuple):
    """The median and the quartiles of measured times."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> 'Seconds':
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method='inclusive')
        return cls(median, low, high)

    def times(self, factor: float) -> 'Seconds':
        return Seconds(*(factor * value for value in self))

    def at_least(self, other: float) -> 'Seconds':
        return Seconds(*(max(value, other) for value in self))

    def plus(self, other: 'Seconds') -> 'Seconds':
        return Seconds(*(a + b for a, b in zip(self, other, strict=True)))


class Memory(NamedTuple):
    """Bytes: of the process, and of tensors on the GPU (0 without one)."""

    host: float
    gpu: float


@dataclass(frozen=True)
class Sample:
    """What was measured at one batch size; times are in seconds.

    Attributes:
        batch_size: Images at once.
        seconds: Of each unit.
        memory: At its peak.
    """

    batch_size: int
    seconds: list[float]
    memory: Memory


S = TypeVar('S', bound=Sample)


def grow(measure: Callable[[int], S], full: int, seconds: float) -> list[S]:
    """Measures at growing batch sizes.

    Args:
        measure: Takes a batch size.
        full: The batch size to reach, if a measurement takes no longer than ``seconds`` and there is memory.

    Raises:
        ZooError: There is no memory for the smallest batch.
    """
    gc.collect()
    size, samples = min(full, FIRST_BATCH), []
    while True:
        free = _free_memory()
        try:
            samples.append(measure(size))
        except (torch.OutOfMemoryError, MemoryError):
            if samples:
                return samples
            raise ZooError(f'A batch of {size} images needs more memory than this machine has.') from None
        if size == full:
            return samples
        in_time = size * seconds / ((WARM_UP + FEWEST) * statistics.median(samples[-1].seconds))
        target = min(full, in_time)
        if len(samples) == 1:
            target = min(target, GROWTH * size)
        else:
            last, before = samples[-1], samples[-2]
            for i, bytes_free in enumerate(free):
                per_image = (last.memory[i] - before.memory[i]) / (last.batch_size - before.batch_size)
                if per_image > 0:
                    target = min(target, size + SHARE_OF_MEMORY * bytes_free / per_image)
            if target < 2 * size and target != full:
                return samples
        size = min(full, max(int(target) // 2 * 2, 2 * size)) if target < full else full


def _free_memory() -> Memory:
    gpu = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else 0
    return Memory(psutil.virtual_memory().available, gpu)


def factor(points: Sequence[tuple[int, float]], full: int) -> float:
    """By how much a time grows from the largest measured batch size to the full one.

    Args:
        points: Batch sizes and times; the line through the last two is followed, whose constant part is taken
            for at most half of the last time.
        full: A batch size.
    """
    size, value = points[-1]
    slope = value / size
    if len(points) > 1:
        before, earlier = points[-2]
        slope = min(slope, max(slope / 2, (value - earlier) / (size - before)))
    return (value + slope * (full - size)) / value


def extrapolate(samples: Sequence[Sample], full: int) -> Seconds:
    """Times of a unit at a batch size."""
    points = [(sample.batch_size, statistics.median(sample.seconds)) for sample in samples]
    return Seconds.of(samples[-1].seconds).times(factor(points, full))


def extrapolate_memory(samples: Sequence[Sample], full: int) -> Memory:
    """Peak memory at a batch size, by the line through the smallest and the largest measured one."""
    first, last = samples[0], samples[-1]
    ratio = (full - last.batch_size) / max(last.batch_size - first.batch_size, 1)
    host, gpu = (b + max(b - a, 0) * ratio for a, b in zip(first.memory, last.memory, strict=True))
    return Memory(max(host, first.memory.host), max(gpu, first.memory.gpu))


# ---- instruments


def clock() -> float:
    """Seconds, when the GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


@contextmanager
def weighed() -> Iterator[Callable[[], Memory]]:
    """Watches memory; what it yields gives the peak."""
    process, over = psutil.Process(), threading.Event()
    peak = process.memory_info().rss
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.005):
            peak = max(peak, process.memory_info().rss)

    def get() -> Memory:
        gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        return Memory(max(peak, process.memory_info().rss), gpu)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield get
    finally:
        over.set()
        thread.join()
