"""Seeds derived from what a random number is for, so that neither the order of work nor its place matters."""

import hashlib
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ['derive_seed', 'forked_rng', 'seed_all']


def derive_seed(*key: int | str) -> int:
    """A seed below 2**63 for a key such as (run seed, phase, step, slot); the same on every machine."""
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    return int.from_bytes(digest[:8], 'little') >> 1


@contextmanager
def forked_rng(*key: int | str, device: torch.device | None = None) -> Iterator[None]:
    """Seeds the global generators of Python, NumPy and torch from a key, and gives them back as they were.

    For code that draws from global state: dropout, stochastic depth, initialisation, image augmentation.

    Args:
        key: See :func:`derive_seed`; without one the caller seeds by :func:`seed_all`.
        device: Also the generator of this GPU.
    """
    gpu = device if device is not None and device.type == 'cuda' else None
    before = random.getstate(), np.random.get_state(), torch.default_generator.get_state()  # noqa: NPY002
    before_on_gpu = torch.cuda.get_rng_state(gpu) if gpu is not None else None
    if key:
        seed_all(*key, gpu=gpu)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.default_generator.set_state(before[2])
        if gpu is not None and before_on_gpu is not None:
            torch.cuda.set_rng_state(before_on_gpu, gpu)


def seed_all(*key: int | str, gpu: torch.device | None = None) -> None:
    """Seeds the global generators of Python, NumPy and torch, on a GPU if one is given."""
    seed = derive_seed(*key)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)
    if gpu is not None:
        with torch.cuda.device(gpu):
            torch.cuda.manual_seed(seed)
