"""The state of a run, as it stands in its folder."""

import zipfile
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field

from zoo.arch import Part
from zoo.errors import ZooError
from zoo.jsonfile import clip

__all__ = ['Checkpoint', 'read_checkpoint']


class Checkpoint(Part):
    """What ``checkpoint.pt`` holds.

    Attributes:
        phase: That was interrupted, if any.
        state: Of that phase: tensors, numbers, strings, and lists and dicts of them.
        done: The sha256 of the file of each finished phase.
        log_size: Bytes of the log that belong to all this.
        seconds: What each phase took.
    """

    phase: str | None
    state: Any
    done: dict[str, str]
    log_size: Annotated[int, Field(ge=0)]
    seconds: dict[str, float] = Field(default_factory=dict)


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint without running code.

    Raises:
        ZooError: It is damaged; one changed byte is noticed.
    """
    try:
        with zipfile.ZipFile(path) as file:  # torch.load does not compare checksums
            if (part := file.testzip()) is not None:
                raise ValueError(f'{part} has another checksum')
        return Checkpoint.model_validate(torch.load(path, map_location='cpu', weights_only=True))
    except Exception as error:  # torch.load raises half a dozen kinds for a damaged file
        reason = clip(str(error).strip().split('\n')[0], 100) or type(error).__name__
        raise ZooError(
            f'{path}: is damaged ({reason}); put it back, or start again in another folder.'
        ) from None
