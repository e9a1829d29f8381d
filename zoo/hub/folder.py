"""The folder of a published network: what timm, transformers and this package load from the Hub.

``model.safetensors`` (the given file, byte for byte), ``config.json`` (timm's format), ``entry.json``,
``README.md`` and a picture. The configuration names the family's generic entrypoint and holds the
architecture itself, so that no more than ``import zoo`` is needed to load it.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import safe_open
from timm.data import resolve_model_data_config
from timm.models import PretrainedCfg
from torch import Tensor, nn

from zoo.convert import METADATA_KEY, fit_tensors, load_checkpoint
from zoo.entry import Entry, Input, Source, Weights, make_entry
from zoo.errors import ZooError
from zoo.files import sha256_file, write_atomic
from zoo.hub.card import PICTURE, make_card
from zoo.hub.fetch import ENTRY_FILE, WEIGHTS_FILE, check_digest
from zoo.hub.papers import PAPERS
from zoo.jsonfile import format_json, parse_json
from zoo.models import FAMILIES

__all__ = ['FILES', 'add_source', 'check_weights', 'make_config', 'verify_folder', 'write_folder']

CONFIG_FILE = 'config.json'
CARD_FILE = 'README.md'
FILES = (WEIGHTS_FILE, CONFIG_FILE, ENTRY_FILE, CARD_FILE, PICTURE)
USUAL_CHANNELS, USUAL_SIZE = 3, (224, 224)
"""What the families' generic entrypoints build by default."""


def check_weights(path: Path, entry: Entry, tag: str) -> dict[str, Tensor]:
    """Reads a file of weights, which has to be exactly that of the entry's network.

    Args:
        path: The file.
        entry: A registered entry.
        tag: Which of its weights they are to be; the entry may have no record of them yet.

    Returns:
        The tensors, in the network's order.

    Raises:
        ZooError: The file is not safetensors, not whole, of another layout, not finite, or it holds other
            weights than the ones whose digests the entry's record has.
    """
    try:
        if path.suffix != '.safetensors':
            raise ZooError(f'{path}: found suffix {path.suffix!r}, .safetensors is needed.')
        tensors = load_checkpoint(path)
        wanted = _build(entry, _image(entry, tag), device='meta')
        fitted = fit_tensors(tensors, wanted, f'{path} does not fit {entry.name}')
        if missing := fitted.keys() - tensors.keys():
            raise ZooError(f'{path} does not fit {entry.name}: {len(missing)} counters are missing.')
        if other := [key for key in fitted if fitted[key].dtype != tensors[key].dtype]:
            found, right = tensors[other[0]].dtype, fitted[other[0]].dtype
            raise ZooError(f'{path} does not fit {entry.name}: {other[0]} is {found}, {right} is needed.')
    except ZooError as fault:
        hint = f'`searchzoo zoo convert {entry.name} FILE {entry.name}.safetensors` makes what is needed'
        raise ZooError(f'{str(fault).rstrip(".")}; {hint} of a whole official checkpoint.') from None
    _check_digests(path, entry, tag)
    return fitted


def _check_digests(path: Path, entry: Entry, tag: str) -> None:
    """Refuses weights of a known tag that are neither one of its files nor converted from one."""
    record = (entry.weights or {}).get(tag)
    known = {source.sha256 for source in record.sources if source.sha256} if record else set()
    own = sha256_file(path)
    with safe_open(path, 'pt') as file:
        text = (file.metadata() or {}).get(METADATA_KEY, '{}')
    try:
        origin = parse_json(text, str(path))
    except ZooError:
        origin = None
    converted_from = origin.get('source_sha256') if isinstance(origin, dict) else None
    if known and not known & {own, converted_from}:
        raise ZooError(
            f'{path}: its sha256 {own} is none of those that {entry.name} has for its weights {tag!r}: '
            "publish it under another tag, or take this record out of the entry's file first."
        )


def add_source(entry: Entry, tag: str, source: Source, license: str | None) -> Entry:
    """The entry with one more source of the weights of a tag.

    A source in the same repository is replaced. Files beside the entry, which need no network, stay before
    it, other sources come after it.

    Raises:
        ZooError: The tag has too many sources.
    """
    record = (entry.weights or {}).get(tag)
    rest = [s for s in record.sources if s.hf_hub_id != source.hf_hub_id] if record else []
    files, others = [s for s in rest if s.file], [s for s in rest if not s.file]
    changes = {'sources': (*files, source, *others), 'license': license}
    if record is None:
        record = Weights(sources=(source,))
    return _with_weights(entry, (entry.weights or {}) | {tag: record.model_copy(update=changes)})


def _with_weights(entry: Entry, weights: dict[str, Weights]) -> Entry:
    """Another entry, checked."""
    changed = entry.model_copy(update={'weights': weights})
    return make_entry(changed.model_dump(mode='json', by_alias=True, exclude_none=True), entry.name)


def write_folder(folder: Path, weights: Path, entry: Entry, tag: str, source: Source) -> None:
    """Writes all files.

    Args:
        folder: An empty folder.
        weights: A file that :func:`check_weights` has taken.
        entry: The entry with ``source`` (see :func:`add_source`).
        tag: Which of its weights.
        source: Where they will be: repository, sha256 and size.

    Raises:
        ZooError: The picture needs matplotlib, which is not installed, or the weights have changed since.
    """
    from zoo.picture import draw_architecture
    from zoo.profile import measure  # imports torch's counters

    portable = _without_files(entry, tag)
    if portable.measured is None:
        portable = portable.model_copy(update={'measured': measure(portable)})
    shutil.copyfile(weights, folder / WEIGHTS_FILE)
    (folder / WEIGHTS_FILE).chmod(0o644)
    check_digest(folder / WEIGHTS_FILE, source, f'{entry.name}.{tag}')
    card = make_card(portable, tag, str(source.hf_hub_id), str(source.sha256), int(source.size or 0))
    write_atomic(folder / CONFIG_FILE, format_json(make_config(portable, tag)).encode())
    write_atomic(folder / ENTRY_FILE, portable.to_json().encode())
    write_atomic(folder / CARD_FILE, card.encode())
    write_atomic(folder / PICTURE, draw_architecture(portable))


def _without_files(entry: Entry, tag: str) -> Entry:
    """The entry for people who have no other file: the tag first, sources beside the entry left out."""
    ordered = {tag: None, **(entry.weights or {})}
    weights = {}
    for key in ordered:
        record = (entry.weights or {})[key]
        if sources := tuple(source for source in record.sources if not source.file):
            weights[key] = record.model_copy(update={'sources': sources})
    return _with_weights(entry, weights)


def make_config(entry: Entry, tag: str) -> dict[str, Any]:
    """timm's ``config.json``.

    ``model_args`` is what the family's entrypoint gets. It does not hold the number of classes, as that of
    timm 1.0.31 does: transformers passes it twice then, and fails.
    """
    assert entry.weights is not None
    image, record, family = _image(entry, tag), entry.weights[tag], FAMILIES[entry.family]
    channels, size = image.size[0], image.size[1:]
    arguments: dict[str, Any] = {'arch': entry.arch.model_dump(mode='json', exclude_none=True)}
    if channels != USUAL_CHANNELS:
        arguments['in_chans'] = channels
    if size != USUAL_SIZE:
        arguments['img_size'] = size[0] if size[0] == size[1] else size
    cfg = PretrainedCfg(
        tag=tag,
        num_classes=entry.num_classes,
        input_size=image.size,
        license=record.license,
        paper_ids=tuple(f'arXiv:{paper.arxiv}' for paper in PAPERS[entry.family]),  # type: ignore[arg-type]
        **image.model_dump(exclude={'size'}),
        **family.cfg(entry.arch, image.size),
    )
    return {
        'architecture': entry.family,
        'num_classes': entry.num_classes,
        'num_features': _build(entry, image, device='meta').num_features,
        'model_args': arguments,
        'pretrained_cfg': cfg.to_dict(remove_source=True, remove_null=True),
    }


def verify_folder(folder: Path, entry: Entry, tag: str, tensors: dict[str, Tensor]) -> None:
    """Loads the folder as timm and as transformers do: they have to give what the entry's network gives.

    Args:
        folder: What :func:`write_folder` has written.
        entry: A registered entry.
        tag: Which of its weights.
        tensors: The weights.

    Raises:
        ZooError: They give other outputs or another preprocessing, or outputs that are not finite.
    """
    image = _image(entry, tag)
    x = torch.randn(2, *image.size, generator=torch.Generator().manual_seed(0))
    config = json.loads((folder / CONFIG_FILE).read_bytes())
    classes, arguments = config['num_classes'], config['model_args']
    wrapped = timm.create_model(config['architecture'], pretrained=False, num_classes=classes, **arguments)
    wrapped.load_state_dict(load_checkpoint(folder / WEIGHTS_FILE))
    own = _build(entry, image)
    own.load_state_dict(tensors)
    loaded = timm.create_model(f'local-dir:{folder}', pretrained=True)
    with torch.inference_mode():
        expected = own.eval()(x)
        outputs = {'timm': loaded.eval()(x), 'transformers': wrapped.eval()(x)}
    if not expected.isfinite().all():
        raise ZooError(f'{entry.name}: with these weights its output is not finite.')
    if wrong := [way for way, output in outputs.items() if not torch.equal(output, expected)]:
        raise ZooError(f'{entry.name}: loaded back by {wrong[0]}, the weights give other outputs.')
    found = resolve_model_data_config(loaded)
    stated = {'input_size': image.size, **image.model_dump(exclude={'size'})}
    if wrong := [key for key, value in stated.items() if _listed(found[key]) != _listed(value)]:
        raise ZooError(f'{entry.name}: loaded back by timm, its {wrong[0]} is {found[wrong[0]]}.')


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _image(entry: Entry, tag: str) -> Input:
    """The preprocessing of the weights of a tag."""
    record = (entry.weights or {}).get(tag)
    return record.input if record and record.input else entry.input


def _build(entry: Entry, image: Input, **kwargs: Any) -> nn.Module:
    """A registered entry's network for these images."""
    model: nn.Module = timm.create_model(
        entry.name, in_chans=image.size[0], img_size=image.size[1:], **kwargs
    )
    return model
