"""The Runner's own checkpoints, read without running code."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader

from zoo.convert import load_checkpoint

__all__ = ['load_from_runner']

multiarray: Any = (np._core if hasattr(np, '_core') else np.core).multiarray  # type: ignore[attr-defined]


@CheckpointLoader.register_scheme(prefixes=r'.*\.pth$', force=True)
def load_from_runner(filename: str, map_location: Any = None) -> Any:
    """Reads a checkpoint of the Runner, or another one of PyTorch, without running code.

    MMEngine 0.10.7 cannot read its own checkpoints with PyTorch 2.6 or later, and later versions of it run
    what a file asks for if they cannot.

    Raises:
        ZooError: It is missing or damaged, or code would have to be run.
    """
    with torch.serialization.safe_globals(_LOGS):
        return load_checkpoint(Path(filename).expanduser())


def _history_method(owner: type, name: str) -> Any:
    """What pickle means by ``getattr`` in a checkpoint: a method of MMEngine's buffers of logged values."""
    if owner is not HistoryBuffer:
        raise TypeError(f'{owner} is not HistoryBuffer')
    return getattr(owner, name)


_DTYPES = [type(np.dtype(kind)) for kind in ('float32', 'float64', 'int32', 'int64', 'uint32')]
_LOGS: list[Any] = [
    HistoryBuffer,
    (_history_method, 'builtins.getattr'),
    np.ndarray,
    np.dtype,
    *_DTYPES,
    *(
        (getattr(multiarray, name), f'{module}.multiarray.{name}')
        for module in ('numpy.core', 'numpy._core')
        for name in ('_reconstruct', 'scalar')
    ),
]
"""What the Runner's checkpoints hold besides plain weights: logged values, in arrays of NumPy 1 or 2."""
