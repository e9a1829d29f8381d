"""Processes that train a network together, started by ``accelerate launch`` or ``torchrun``; usually one.

Nothing is wrapped in DistributedDataParallel, which reduces at every backward pass and looks for parameters
that were not used: the sub-networks of a step accumulate their gradients, and one reduction averages those.
"""

import os
from collections.abc import Iterable
from datetime import timedelta

import torch
import torch.distributed
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch import nn

__all__ = ['ALONE', 'agree', 'average_gradients', 'average_values', 'make_accelerator', 'world']

ALONE = 0, 1
"""The world of a process that works by itself."""
PATIENCE = timedelta(days=30)
"""The other processes wait while the first one searches."""


def make_accelerator() -> Accelerator:
    """The device, and the process group if there are several processes."""
    # without being told, accelerate takes each of several processes on a machine without GPU for the only one
    cpu = 'LOCAL_RANK' in os.environ and not torch.accelerator.is_available()
    # the recipe decides about bf16, not the launcher
    return Accelerator(
        mixed_precision='no', cpu=cpu, kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)]
    )


def world() -> tuple[int, int]:
    """This process's number, and how many there are."""
    accelerator = make_accelerator()
    return accelerator.process_index, accelerator.num_processes


def agree(value: int) -> int:
    """The first process's value, in all of them; every process has to call this."""
    accelerator = make_accelerator()
    if accelerator.num_processes == 1:
        return value
    tensor = torch.tensor([value], device=accelerator.device)
    torch.distributed.broadcast(tensor, src=0)
    return int(tensor)


def average_gradients(parameters: Iterable[nn.Parameter], size: int) -> None:
    """Averages over ``size`` processes, which have gradients of the same parameters."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if size == 1 or not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(flat)
    parts = (flat / size).split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def average_values(tensor: torch.Tensor, size: int) -> None:
    """Averages a tensor over ``size`` processes, in place."""
    if size > 1:
        torch.distributed.all_reduce(tensor)
        tensor /= size
