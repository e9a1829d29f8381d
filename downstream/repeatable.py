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
    of which augmentation is made, from the end of the one before, which is before images are loaded.
    """

    def before_train_epoch(self, runner: Any) -> None:
        self._seed_data(runner, runner.iter)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if (seed := _seed(runner, runner.iter)) is not None:
            torch.manual_seed(seed)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self._seed_data(runner, runner.iter + 1)

    def _seed_data(self, runner: Any, iteration: int) -> None:
        if (seed := _seed(runner, iteration)) is not None:
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002  (the one that mm packages draw from)


def _seed(runner: Any, iteration: int) -> int | None:
    """A number below 2^32 for an iteration of a process."""
    given = runner._randomness_cfg.get('seed')
    if given is None:
        return None
    return int(np.random.SeedSequence([given, runner.rank, iteration]).generate_state(1)[0])
