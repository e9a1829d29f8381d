"""Checkpoints for ``init_cfg`` and ``load_from``: safetensors files, the Hub, and what networks take of them.

Importing this module teaches MMEngine three kinds of names, with which nothing that is pickled is run:

    weights/s3_tiny.safetensors          https://example.org/s3_tiny.safetensors
    hf-hub://org/name[@revision][/file]  (model.safetensors by default)
"""

import sys
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from zoo.build import describe_difference, describe_values
from zoo.convert import load_checkpoint
from zoo.entry import Source
from zoo.errors import ZooError
from zoo.hub.fetch import FAILURES, WEIGHTS_FILE, Unavailable, explain_hub, fetch_source
from zoo.jsonfile import clip
from zoo.registry import HUB

__all__ = ['fit_checkpoint', 'load_from_hub', 'load_from_safetensors', 'load_from_url', 'read_tensors']


# MMEngine takes the patterns in reverse order of the alphabet: 'https?' is asked before its own 'https:'.
@CheckpointLoader.register_scheme(prefixes=r'.*\.safetensors$', force=True)
def load_from_safetensors(filename: str, map_location: Any = None) -> Any:
    """Reads a safetensors file.

    Args:
        filename: Its path.
        map_location: For MMEngine; tensors come to the CPU, from where networks copy them.

    Raises:
        ZooError: It is missing or damaged.
    """
    return load_checkpoint(Path(filename).expanduser())


@CheckpointLoader.register_scheme(prefixes=r'https?://.*\.safetensors$', force=True)
def load_from_url(filename: str, map_location: Any = None) -> Any:
    """Downloads a safetensors file, once, to where torch keeps such files, and reads it.

    Raises:
        ZooError: It cannot be downloaded, or is damaged.
    """
    name = filename.removesuffix('.safetensors').partition('//')[2].replace('/', '_').replace(':', '_')
    try:
        return load_checkpoint(fetch_source(Source.model_construct(url=filename), name))
    except Unavailable as reason:
        raise ZooError(f'{filename} cannot be fetched: {reason}.') from None


@CheckpointLoader.register_scheme(prefixes=HUB, force=True)
def load_from_hub(filename: str, map_location: Any = None) -> Any:
    """Downloads a file of a repository of the Hub, or takes it from the Hub's cache, and reads it.

    Args:
        filename: ``hf-hub://org/name``, ``hf-hub://org/name@revision``, either of them with ``/file``.
        map_location: As for :func:`load_from_safetensors`.

    Raises:
        ZooError: There is no such file, or it is damaged or needs code to be run.
    """
    org, _, rest = filename.removeprefix(HUB).removeprefix('//').partition('/')
    name, _, file = rest.partition('/')
    name, _, revision = name.partition('@')
    if not (org and name):
        raise ZooError(f'{filename}: the form hf-hub://org/name[@revision][/file] is needed.')
    try:
        return load_checkpoint(
            hf_hub_download(f'{org}/{name}', file or WEIGHTS_FILE, revision=revision or None)
        )
    except FAILURES as error:
        raise ZooError(f'{filename} cannot be fetched: {explain_hub(error)}.') from None


def read_tensors(checkpoint: str, prefix: str | None = None) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name.

    Args:
        checkpoint: Any name that MMEngine knows.
        prefix: Take only those whose names begin so, without it: ``backbone.`` of a whole detector.

    Raises:
        ZooError: The checkpoint is missing, or has no such tensors.
    """
    try:
        found = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu')
    except FileNotFoundError:
        raise ZooError(f'There is no checkpoint {checkpoint}.') from None
    for key in ('state_dict', 'model'):
        found = found.get(key, found)
    tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    if prefix:
        start = prefix.rstrip('.') + '.'
        tensors = {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}
    if not tensors:
        raise ZooError(
            f'{checkpoint} holds no tensors{f" under {prefix!r}" if prefix else ""}, but {_first(found)}.'
        )
    return tensors


def fit_checkpoint(
    tensors: dict[str, Tensor], network: nn.Module, unused: set[str], optional: set[str], fault: str
) -> dict[str, Tensor]:
    """Brings a checkpoint to a network's names and sizes, with the family's own filter, and compares them.

    Args:
        tensors: In the network's layout, or an official one that the filter knows.
        network: What they are for.
        unused: Names that the network had before it was cut: left out.
        optional: Names that the checkpoint may lack.
        fault: How the error begins.

    Raises:
        ZooError: They are those of another network.
    """
    filter_fn = getattr(sys.modules[type(network).__module__], 'checkpoint_filter_fn', None)
    try:
        tensors = filter_fn(tensors, network) if filter_fn else tensors
    except (KeyError, AttributeError, ValueError, IndexError, RuntimeError, TypeError) as error:
        reason = str(error) if isinstance(error, ZooError) else f'its layout is not known ({error!r})'
        raise ZooError(f'{fault}: {clip(reason, 300).rstrip(".")}.') from error
    tensors = {name: tensor for name, tensor in tensors.items() if name not in unused}
    wanted = network.state_dict()
    needed = {n: tensor for n, tensor in wanted.items() if n in tensors or n not in optional}
    if difference := describe_difference(tensors, needed) or describe_values(tensors, needed):
        raise ZooError(f'{fault}: {difference}.')
    return tensors


def _first(names: Any) -> str:
    return ', '.join([repr(name) for name in names][:3]) or 'nothing'
