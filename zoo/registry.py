"""Entries become timm models: an entrypoint and its pretrained configurations, under a name that is free."""

import difflib
import fnmatch
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import timm
from timm.models import DefaultCfg, PretrainedCfg, register_model
from torch import nn

from zoo._timm_compat import generate_default_cfgs
from zoo.build import resolve_cfg
from zoo.entry import Entry, Input, Source, read_entry
from zoo.errors import ZooError
from zoo.hub.fetch import fetch_entry, fetch_weights
from zoo.models import FAMILIES

__all__ = [
    'Entrypoint',
    'config_path',
    'describe_missing',
    'entry_file',
    'list_entries',
    'load_entry',
    'register',
    'suggest',
]

_ENTRYPOINTS: dict[str, 'Entrypoint'] = {}
HUB = 'hf-hub:'
SOURCES = ('url', 'file', 'state_dict', 'hf_hub_id', 'hf_hub_filename', 'source', 'custom_load')
"""The fields of timm's configuration that say where weights come from."""


class Entrypoint:
    """What timm calls to create an entry's network: a picklable function of its family's module.

    Args:
        entry: The entry.
        path: The entry's file; None if it has none.
    """

    def __init__(self, entry: Entry, path: Path | None = None):
        module = FAMILIES[entry.family]
        self.entry = entry
        self.path = path
        self.__name__ = self.__qualname__ = entry.name
        self.__module__ = module.__name__
        self.__doc__ = f'{entry.name}: {entry.family}, {entry.provenance.note}'

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.entry, self.path)

    def __repr__(self) -> str:
        return f'<entrypoint {self.__name__} of {self.__module__}>'

    def __call__(
        self,
        pretrained: bool = False,
        pretrained_cfg: str | dict[str, Any] | PretrainedCfg | None = None,
        pretrained_cfg_overlay: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> nn.Module:
        """Creates the network; the arguments are those of ``timm.create_model``.

        Weights of the entry's own record are fetched and compared with their sha256; those of any other
        source (an overlay, ``hf-hub:``, ``local-dir:``) are loaded as timm loads them.

        Raises:
            ZooError: ``pretrained`` without weights anywhere, or weights that cannot be fetched, are not the
                record's, cannot be read or do not fit.
        """
        cfg = resolve_cfg(self.entry.name, pretrained_cfg, pretrained_cfg_overlay)
        own = pretrained and self._is_own(cfg)
        if own:
            cache_dir = kwargs.get('cache_dir')
            file = fetch_weights(self.entry, str(cfg.tag), self.folder, cache_dir)
            pretrained_cfg_overlay = {**(pretrained_cfg_overlay or {}), 'file': str(file)}
        kwargs.setdefault('img_size', tuple(cfg.input_size[-2:]))
        model: nn.Module = FAMILIES[self.entry.family].build(
            self.entry.arch,
            self.entry.name,
            pretrained=pretrained,
            pretrained_cfg=pretrained_cfg,
            pretrained_cfg_overlay=pretrained_cfg_overlay,
            **kwargs,
        )
        if own:
            restored: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
            restored.pop('file')
            restored.update({'file': cfg.file} if cfg.file else {})
        return model

    @property
    def folder(self) -> Path | None:
        """Where the entry's own weight files are."""
        return self.path.parent if self.path else None

    def _is_own(self, cfg: PretrainedCfg) -> bool:
        """Whether weights are those of the entry's record, not a source that a user has set.

        Raises:
            ZooError: There are no weights, neither the entry's nor a user's.
        """
        known = FAMILIES[self.entry.family].default_cfgs[self.entry.name].cfgs
        own = known.get(cfg.tag or '')
        if own is None or any(getattr(cfg, key) != getattr(own, key) for key in SOURCES):
            return False
        if not own.has_weights:
            raise ZooError(describe_missing(self.entry))
        return True


def describe_missing(entry: Entry) -> str:
    """One sentence on an entry without weights, or with some that nothing can fetch: how to come by them."""
    name, ways = entry.name, []
    for weights in (entry.weights or {}).values():
        for page in (source.page for source in weights.sources if source.page):
            ways.append(
                f"download the authors' from {page}, convert them with `searchzoo zoo convert {name} FILE "
                f'{name}.safetensors` and pass pretrained_cfg_overlay=dict(file=...)'
            )
    if entry.recipe:
        ways.append(f'train them with `searchzoo search train {name} {entry.recipe}`')
    ways.append('use pretrained=False')
    state = 'weights that cannot be fetched' if entry.weights else 'no published weights'
    return f'{name} has {state}: {", or ".join(ways)}.'


def _restore(entry: Entry, path: Path | None) -> Entrypoint:
    """Unpickles an entrypoint: registers the entry where it is not known yet, as in a new process."""
    return _ENTRYPOINTS[_register(entry, path)]


def register(entry: Entry | Path | str) -> str:
    """Makes an entry known to timm, so that ``timm.create_model(entry.name)`` creates its network.

    Registering the same entry again does nothing; the same architecture with other weights or another input
    replaces them. What a search has found replaces what an earlier one found, with a warning.

    Args:
        entry: The path of an entry's file, ``hf-hub:org/name`` or ``hf-hub:org/name@revision`` for the entry
            of a repository, or an entry. Weights that are files need the path, which says where they are.

    Returns:
        The entry's name.

    Raises:
        ZooError: The file is faulty or cannot be fetched, or the name is taken: by another architecture, by
            timm, or by something else in the family's file.
    """
    if isinstance(entry, Entry):
        return _register(entry, None)
    if str(entry).startswith(HUB):
        return _register(*fetch_entry(str(entry).removeprefix(HUB)))
    return _register(read_entry(entry), Path(entry).resolve())


def _register(entry: Entry, path: Path | None) -> str:
    name, module = entry.name, FAMILIES[entry.family]
    sources = [source for weights in (entry.weights or {}).values() for source in weights.sources]
    files = [source.file for source in sources if source.file]
    if files and path is None:
        raise ZooError(f'{name}: its weights {files[0]} lie beside its file: register the path of that file.')
    known = _ENTRYPOINTS.get(name)
    if known is None:
        if hasattr(module, name):
            raise ZooError(f'{name}: this name has another meaning in {module.__name__}, choose another one.')
        if timm.is_model(name):
            raise ZooError(f'{name}: this name is taken by a model of timm, choose another one.')
    elif known.entry.arch != entry.arch:
        if not _is_newer_search(known.entry, entry):
            raise ZooError(f'{name}: this name is taken by another architecture, choose another one.')
        warnings.warn(f'{name} was another architecture until now, which a search found too.', stacklevel=3)
    elif known.entry == entry and known.path == path:
        return name

    entrypoint = Entrypoint(entry, path)
    module.default_cfgs[name] = _default_cfg(entry, module, path)
    setattr(module, name, entrypoint)
    with warnings.catch_warnings():
        if known is not None:
            warnings.filterwarnings('ignore', f'Overwriting {name} in registry')
        register_model(entrypoint)
    _ENTRYPOINTS[name] = entrypoint
    return name


def _is_newer_search(known: Entry, entry: Entry) -> bool:
    """Whether both are results of searches: the same configuration finds another network elsewhere."""
    return known.family == entry.family and known.provenance.kind == entry.provenance.kind == 'searched'


def _default_cfg(entry: Entry, module: ModuleType, path: Path | None) -> DefaultCfg:
    """timm's configurations of an entry, one a tag; one without tag if there are no weights."""
    cfgs: dict[str, dict[str, Any] | PretrainedCfg] = {}
    for tag, weights in (entry.weights or {}).items():
        source = next((source for source in weights.sources if not source.page), None)
        cfgs[f'{entry.name}.{tag}'] = {
            **_describe(entry, weights.input or entry.input),
            **module.cfg(entry.arch, (weights.input or entry.input).size),
            **(_locate(source, path) if source else {}),
            'license': weights.license,
        }
    if not cfgs:
        cfgs[entry.name] = {**_describe(entry, entry.input), **module.cfg(entry.arch, entry.input.size)}
    found: DefaultCfg = generate_default_cfgs(cfgs)[entry.name]
    return found


def _describe(entry: Entry, image: Input) -> dict[str, Any]:
    """Classes and preprocessing, in timm's words."""
    return {
        'num_classes': entry.num_classes,
        'input_size': image.size,
        'interpolation': image.interpolation,
        'crop_pct': image.crop_pct,
        'crop_mode': image.crop_mode,
        'mean': image.mean,
        'std': image.std,
    }


def _locate(source: Source, path: Path | None) -> dict[str, str]:
    """A source, in timm's words: what it would load if it were asked without the entry's entrypoint."""
    if source.hf_hub_id:
        pinned = f'{source.hf_hub_id}@{source.revision}' if source.revision else source.hf_hub_id
        return {'hf_hub_id': pinned} | ({'hf_hub_filename': source.filename} if source.filename else {})
    if source.url:
        return {'url': source.url}
    return {'file': str((path.parent if path else Path()) / str(source.file))}


def entry_file(name: str) -> Path:
    """The file that an entry was registered from.

    Raises:
        ZooError: There is no such entry, or it was registered without a file.
    """
    load_entry(name)
    if (path := _ENTRYPOINTS[name].path) is None:
        raise ZooError(f'{name} was registered without a file: register the path of its .json file.')
    return path


def load_entry(name: str) -> Entry:
    """The registered entry of that name.

    Raises:
        ZooError: There is none; near names are suggested.
    """
    if name not in _ENTRYPOINTS:
        raise ZooError(f'There is no entry {name!r}{suggest(name, _ENTRYPOINTS)}.')
    return _ENTRYPOINTS[name].entry


def list_entries(pattern: str = '*') -> list[str]:
    """The names of all registered entries that match a shell pattern, in natural order."""

    def natural(name: str) -> list[int | str]:
        return [int(part) if i % 2 else part for i, part in enumerate(re.split(r'([0-9]+)', name))]

    return sorted(fnmatch.filter(_ENTRYPOINTS, pattern), key=natural)


def suggest(name: str, known: Iterable[str]) -> str:
    """``' (did you mean ...?)'`` for what is near an unknown name, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f' (did you mean {", ".join(near)}?)' if near else ''


def config_path(name: str) -> Path:
    """The path of a bundled configuration, installed or in a checkout.

    Args:
        name: Path below ``configs/``, such as ``search/s3_digits.yaml``; a leading ``configs/`` is left out.

    Raises:
        ZooError: There is none; near names are suggested.
    """
    here = Path(__file__).resolve().parent
    folder = next((f for f in (here / '_configs', here.parent / 'configs') if f.is_dir()), here / '_configs')
    relative = name.removeprefix('configs/')
    path = (folder / relative).resolve()
    if path.is_file() and path.is_relative_to(folder.resolve()):
        return path
    known = [p.relative_to(folder).as_posix() for p in sorted(folder.rglob('*')) if p.is_file()]
    raise ZooError(f'There is no configuration {name!r}{suggest(relative, known)}.')
