"""Runs that can be interrupted and resumed without a trace."""

import random
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook

__all__ = ['RepeatableHook']


class RepeatableHook(Hook):
    """Seeds every iteration by its number, if the run has a seed.

    A checkpoint has no state of random numbers. With this a run that continues from it draws what it would
    have drawn: PyTorch's numbers, those of the model, from the start of an iteration; NumPy's and Python's,
    of which augmentation is made, from before its images are loaded.
    """

    def before_train_epoch(self, runner: Any) -> None:
        loop = runner.train_loop
        if hasattr(loop, 'dataloader_iterator'):  # counted by iterations
            loop.dataloader_iterator = _SeededBatches(runner, loop.dataloader_iterator)
        else:
            _seed_data(runner, runner.iter)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if (seed := _seed(runner, runner.iter)) is not None:
            torch.manual_seed(seed)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        _seed_data(runner, runner.iter + 1)


class _SeededBatches:
    """The batches of a loop that is counted by iterations; the numbers are seeded before each is loaded.

    MMEngine 0.10.7 loads those that a resumed run has had, later versions leave them out.
    """

    def __init__(self, runner: Any, batches: Any) -> None:
        self.runner, self.batches, self.count = runner, batches, 0

    def __next__(self) -> Any:
        _seed_data(self.runner, self.count)
        self.count += 1
        return next(self.batches)

    def skip_iter(self, count: int) -> None:
        self.batches.skip_iter(count)
        self.count += count


def _seed_data(runner: Any, iteration: int) -> None:
    if (seed := _seed(runner, iteration)) is not None:
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002  (the one that mm packages draw from)


def _seed(runner: Any, iteration: int) -> int | None:
    """A number below 2^32 for an iteration of a process."""
    given = runner._randomness_cfg.get('seed')
    if given is None:
        return None
    return int(np.random.SeedSequence([given, runner.rank, iteration]).generate_state(1)[0])
