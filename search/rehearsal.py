"""A few real units of a run: steps of its trainings, candidates of its search, by the run's own code.

They take batches of any size, made-up images if asked, and leave no file.
"""

import io
import random
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.optim import create_optimizer_v2
from torch import nn

from search.data import Data, DataConfig, Images, Role
from search.growth import FEWEST, UNITS, WARM_UP, clock
from search.problem import Problem
from search.progress import Progress
from search.run import Abandoned, Run, Unrecorded
from search.section import Section
from search.seeding import derive_seed
from search.supernet import Supernet
from search.training import Network, Recipe, autocast, device
from zoo.entry import Input

__all__ = ['Fake', 'Laps', 'Rehearsal', 'Stopwatch', 'first_images', 'loading_seconds', 'saved_bytes']

FAKE_PICTURES = 8


class Laps:
    """Notes when it is called; gives the context that candidates are evaluated in."""

    def __init__(self, bf16: bool):
        self.bf16 = bf16
        self.where = device()
        self.times: list[float] = []

    def __call__(self) -> AbstractContextManager:
        self.times.append(clock())
        return autocast(self.where, self.bf16)


class _Counter(io.RawIOBase):
    """A file that is only measured."""

    def __init__(self) -> None:
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.size += len(data)
        return len(data)


def saved_bytes(state: Any) -> int:
    """Size of the file that torch.save writes."""
    file = _Counter()
    torch.save(state, file)  # type: ignore[arg-type]
    return file.size


class Stopwatch(Unrecorded):
    """Stands in for a run: times some steps of a training and measures its checkpoint, then abandons it.

    Attributes:
        seconds: Of each step.
        waits: The part of it until the batch was there, mixup included.
        checkpoint: Bytes of the run's checkpoint in this phase.
    """

    def __init__(self, batch_size: int, limit: float):
        """
        Args:
            batch_size: Images of a step, in place of the recipe's.
            limit: Seconds after which few steps are enough.
        """
        super().__init__(self._enough)
        self.batch_size = batch_size
        self.limit = limit
        self.seconds: list[float] = []
        self.waits: list[float] = []
        self.checkpoint = 0
        self.optimizer_bytes = 0
        self.with_state: list[int] = []

    def progress(self, label: str, total: int, start: int = 0, unit: str = 'step') -> Progress:
        self._began = self._last = self._loaded = clock()
        return super().progress(label, total, start, unit)

    def loaded(self) -> None:
        """The batch is there."""
        self._loaded = clock()

    def reached(self, point: str) -> None:
        """A step is done."""
        now = clock()
        self.seconds.append(now - self._last)
        self.waits.append(max(0.0, self._loaded - self._last))
        self._last = now

    def _enough(self) -> bool:
        counted = len(self.seconds) - WARM_UP
        return counted >= UNITS or (counted >= FEWEST and self._last - self._began > self.limit)

    def save(self, phase: str, state: Any) -> None:
        del self.seconds[:WARM_UP], self.waits[:WARM_UP]
        self.checkpoint = saved_bytes({'phase': phase, 'state': state, 'done': {}, 'log_size': 0})
        if 'optimizer' in state:
            self.optimizer_bytes = saved_bytes(state['optimizer'])
            self.with_state = list(state['optimizer']['state'])
        raise Abandoned


# ---- the run's own problem, on batches of any size


@dataclass(frozen=True)
class Fake:
    """Noise in place of a data set.

    Attributes:
        train: As val and test, the number of images.
    """

    train: int
    val: int
    test: int
    num_classes: int


class FakeData(Data):
    """Noise of the input's size."""

    def __init__(self, config: DataConfig, image: Input, fake: Fake):
        super().__init__(DataConfig(), image)
        self.config = config
        self.fake = fake
        self.num_classes = fake.num_classes

    def _select(self, role: Role) -> tuple[Any, Sequence[int]]:
        count = getattr(self.fake, role, 0)  # the stated images of val are those that the search sees
        return _Noise(self.input.size, self.fake.num_classes, count), range(count)


class _Noise:
    def __init__(self, size: tuple[int, int, int], num_classes: int, count: int):
        rng = np.random.Generator(np.random.PCG64(0))
        pixels = rng.integers(0, 256, (FAKE_PICTURES, *size[1:], 3), dtype=np.uint8)
        self.images = [Image.fromarray(image) for image in pixels]
        self.targets = np.arange(count) % num_classes

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return self.images[index % FAKE_PICTURES], int(self.targets[index])


@dataclass(frozen=True)
class Rehearsal(Problem):
    """A problem whose trainings are as long, and their batches as large, as their :class:`Stopwatch` says."""

    fake: Fake | None = field(default=None)

    def open_data(self, config: DataConfig, image: Input) -> Data:
        """Noise stands in for the data of the result alone."""
        if self.fake is None or config != self.config.data:
            return super().open_data(config, image)
        return FakeData(config, image, self.fake)

    @cached_property
    def supernet(self) -> Supernet:
        return super().make_supernet()

    def make_supernet(self) -> Supernet:
        """The same one for all measurements."""
        return self.supernet

    def forget_supernet(self) -> None:
        """Frees its memory."""
        self.__dict__.pop('supernet', None)

    def train(
        self,
        model: nn.Module,
        networks: Callable[[int], Sequence[Network]],
        recipe: Recipe,
        phase: str,
        label: str,
        run: Run | Section | Unrecorded,
        limit: int | None = None,
        penalty: Callable[[int], torch.Tensor] | None = None,
    ) -> None:
        assert isinstance(run, Stopwatch)
        epochs = recipe.epochs + WARM_UP + UNITS  # so that there are enough steps
        shorter = recipe.model_copy(update={'batch_size': run.batch_size, 'epochs': epochs})

        def networks_when_loaded(step: int) -> Sequence[Network]:
            run.loaded()
            return networks(step)

        try:
            super().train(model, networks_when_loaded, shorter, phase, label, run, limit, penalty)
        except Abandoned:
            run.checkpoint += self._state_to_come(model, recipe, run)
            raise

    def _state_to_come(self, model: nn.Module, recipe: Recipe, run: Stopwatch) -> int:
        """Bytes of the optimizer's state for parameters that no network of these few steps had."""
        optimizer = create_optimizer_v2(model, recipe.opt, lr=recipe.lr, weight_decay=recipe.weight_decay)
        sizes = [p.numel() for group in optimizer.param_groups for p in group['params']]
        there = sum(sizes[i] for i in run.with_state)
        return round(run.optimizer_bytes * (sum(sizes) / there - 1)) if there else 0


def first_images(images: Images, count: int) -> Images:
    """The first ``count`` of them."""
    return Images(images.source, images.indices[:count], images.transform, images.mode, images.seed)


def loading_seconds(images: Images, limit: float = 2.0) -> float:
    """Seconds in which this process loads and transforms one image."""
    rng = random.Random(derive_seed('loading'))
    began = time.perf_counter()
    images[0, rng.randrange(len(images))]
    taken: list[float] = []
    while len(taken) < UNITS or (len(taken) < 8 * UNITS and time.perf_counter() - began < limit):
        start = time.perf_counter()
        images[0, rng.randrange(len(images))]
        taken.append(time.perf_counter() - start)
    return statistics.fmean(taken)
