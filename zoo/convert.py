"""Official checkpoints become safetensors files in the zoo's own layout.

The families' ``checkpoint_filter_fn`` know the layouts. No pickled code is run: what ``torch.load`` does not
take for plain weights is refused.
"""

import argparse
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from safetensors import SafetensorError
from timm.models import clean_state_dict
from torch import Tensor, nn

from zoo.build import describe_difference, describe_unreadable, describe_values
from zoo.errors import ZooError
from zoo.files import sha256_file, write_atomic
from zoo.jsonfile import clip, shorten
from zoo.models import FAMILIES
from zoo.registry import load_entry

__all__ = ['Converted', 'convert', 'fit_tensors', 'load_checkpoint', 'save_weights']

METADATA_KEY = 'searchzoo'
"""The only key of the files' metadata: with several, their order would vary from process to process."""

UNWRAPPED = ('model', 'state_dict', 'model_state_dict', 'net', 'module')
"""Where training scripts put the weights, in the order in which they are looked for."""

NUMBERS = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
"""What tensors may hold: neither complex nor quantized numbers, nor fractions of 8 bits."""

_SAFE_GLOBALS: list[Any] = [argparse.Namespace]
"""What the official checkpoints hold besides plain weights: the options of their training."""


@dataclass(frozen=True)
class Converted:
    """A written file, its sha256, and the checkpoint's key that held the weights ('' if it had none)."""

    path: Path
    sha256: str
    key: str


def convert(name: str, source: Path | str, target: Path | str, key: str | None = None) -> Converted:
    """Converts a checkpoint of an entry's network; ``target`` is written whole or not at all.

    Args:
        name: Name of the entry.
        source: The checkpoint: .safetensors, or what ``torch.save`` wrote.
        target: The .safetensors file to write.
        key: Where in the checkpoint the weights are, such as ``state_dict_ema``; usual places by default.

    Raises:
        ZooError: The checkpoint is damaged, needs code to be run, is of another network, or holds NaN.
    """
    entry = load_entry(name)
    source, target = Path(source), Path(target)
    if target.suffix != '.safetensors':
        raise ZooError(f'{target}: found suffix {target.suffix!r}, .safetensors is needed.')
    if not target.parent.is_dir():
        raise ZooError(f'{target}: there is no folder {target.parent}.')
    tensors, key = _unwrap(load_checkpoint(source), key, source)
    model = timm.create_model(name, device='meta')
    try:
        native = FAMILIES[entry.family].checkpoint_filter_fn(tensors, model)
    except (KeyError, AttributeError, ValueError, IndexError, RuntimeError, TypeError) as error:
        reason = clip(f'{type(error).__name__}: {error}', 200)
        raise ZooError(f'{source} does not fit {name}: its layout is not known ({reason}).') from error
    native = fit_tensors(native, model, f'{source} does not fit {name}')
    metadata = {'converted_from': source.name, 'entry': name, 'source_sha256': sha256_file(source)}
    return Converted(target, save_weights(target, native, metadata), key)


def load_checkpoint(path: Path | str) -> Any:
    """Reads a checkpoint without running code.

    Returns:
        What the file holds: tensors in nested dicts and lists, numbers, strings.

    Raises:
        ZooError: The file is missing, damaged, or needs code to be run.
    """
    path = Path(path)
    if not path.is_file():
        raise ZooError(f'{path}: there is no such file.')
    try:
        if path.suffix == '.safetensors':
            return safetensors.torch.load_file(path)
        with torch.serialization.safe_globals(_SAFE_GLOBALS):
            return torch.load(path, map_location='cpu', weights_only=True)
    except SafetensorError as error:
        raise ZooError(f'{path}: not a whole safetensors file: {clip(str(error), 200)}.') from None
    except Exception as error:  # whatever a damaged or hostile file makes torch.load do
        raise ZooError(f'{path}: {describe_unreadable(error)}.') from None


def _unwrap(checkpoint: Any, key: str | None, source: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors by name, and the key under which they were."""
    if not isinstance(checkpoint, Mapping):
        raise ZooError(f'{source}: found {type(checkpoint).__name__}, a dict of tensors is needed.')
    if key is None:
        key = next((k for k in UNWRAPPED if isinstance(checkpoint.get(k), Mapping)), '')
    elif not isinstance(checkpoint.get(key), Mapping):
        held = [k for k, value in checkpoint.items() if isinstance(value, Mapping)]
        under = clip(str(held[:10]), 200)
        raise ZooError(f'{source}: there are no tensors under {shorten(key)}, but under {under}.')
    found = checkpoint[key] if key else checkpoint
    faulty = [k for k, value in found.items() if not (isinstance(k, str) and isinstance(value, Tensor))]
    where = f'{source}: not a dict of tensors{f" under {shorten(key)}" if key else ""}'
    if faulty or not found:
        what = f'{shorten(faulty[0])} is no tensor' if faulty else 'it is empty'
        raise ZooError(f'{where}: {what}.')
    for name, tensor in found.items():
        if tensor.layout != torch.strided or tensor.is_meta or tensor.dtype not in NUMBERS:
            kind = f'{tensor.layout} of {tensor.dtype} on {tensor.device}'
            raise ZooError(
                f'{where}: {shorten(name)} is {kind}, dense numbers of usual precision are needed.'
            )
    return clean_state_dict(dict(found)), key


def fit_tensors(tensors: dict[str, Tensor], model: nn.Module, fault: str) -> dict[str, Tensor]:
    """The tensors in the network's order and dtypes, after a check of names, shapes and values.

    Args:
        tensors: Of a checkpoint in the zoo's layout; counters of batches may be missing, they become 0.
        model: What they are for, which may be on ``meta``.
        fault: How the error begins.

    Raises:
        ZooError: They are not those of the network, or not finite.
    """
    wanted = model.state_dict()
    if difference := describe_difference(tensors, wanted) or describe_values(tensors, wanted):
        raise ZooError(f'{fault}: {difference}.')
    whole = tensors | {name: torch.zeros(()) for name in wanted.keys() - tensors.keys()}
    return {name: whole[name].to(wanted[name].dtype).contiguous() for name in wanted}


def save_weights(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, Any]) -> str:
    """Writes a safetensors file whole or not at all, the same bytes for the same arguments.

    Args:
        path: The file.
        tensors: Tensors by name, copied to contiguous memory of their own.
        metadata: Plain JSON data, stored as one canonical string.

    Returns:
        The file's sha256.
    """
    own = {'memory_format': torch.contiguous_format}
    copies = {name: tensor.detach().cpu().clone(**own) for name, tensor in tensors.items()}
    text = json.dumps(metadata, sort_keys=True, separators=(',', ':'))
    data = safetensors.torch.save(copies, {METADATA_KEY: text})
    write_atomic(path, data)
    return hashlib.sha256(data).hexdigest()
