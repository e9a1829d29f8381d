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
from zoo.entry import Entry, read_entry
from zoo.errors import ZooError
from zoo.files import sha256_file
from zoo.models import FAMILIES

__all__ = ['Entrypoint', 'config_path', 'list_entries', 'load_entry', 'register', 'suggest']

_ENTRYPOINTS: dict[str, 'Entrypoint'] = {}


class Entrypoint:
    """What timm calls to create an entry's network: a picklable function of its family's module.

    Args:
        entry: The entry.
        folder: Where the entry's weight files are; None if it has none.
    """

    def __init__(self, entry: Entry, folder: Path | None = None):
        module = FAMILIES[entry.family]
        self.entry = entry
        self.folder = folder
        self.__name__ = self.__qualname__ = entry.name
        self.__module__ = module.__name__
        self.__doc__ = f'{entry.name}: {entry.family}, {entry.provenance.note}'

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.entry, self.folder)

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

        Raises:
            ZooError: ``pretrained`` without weights anywhere, or weights that cannot be read or do not fit.
        """
        cfg = resolve_cfg(self.entry.name, pretrained_cfg, pretrained_cfg_overlay)
        if pretrained:
            self._check_file(cfg)
        kwargs.setdefault('img_size', tuple(cfg.input_size[-2:]))
        model: nn.Module = FAMILIES[self.entry.family].build(
            self.entry.arch,
            self.entry.name,
            pretrained=pretrained,
            pretrained_cfg=pretrained_cfg,
            pretrained_cfg_overlay=pretrained_cfg_overlay,
            **kwargs,
        )
        return model

    def _check_file(self, cfg: PretrainedCfg) -> None:
        """Refuses a weight file beside the entry that is not the one the entry describes."""
        for weights in (self.entry.weights or {}).values():
            if not (self.folder and weights.file and weights.sha256):
                continue
            file = self.folder / weights.file
            if cfg.file == str(file) and file.is_file() and sha256_file(file) != weights.sha256:
                raise ZooError(f'Weights of {self.entry.name}: {file} does not have the sha256 of its entry.')


def _restore(entry: Entry, folder: Path | None) -> Entrypoint:
    """Unpickles an entrypoint: registers the entry where it is not known yet, as in a new process."""
    return _ENTRYPOINTS[_register(entry, folder)]


def register(entry: Entry | Path | str) -> str:
    """Makes an entry known to timm, so that ``timm.create_model(entry.name)`` creates its network.

    Registering the same entry again does nothing; the same architecture with other weights or another input
    replaces them.

    Args:
        entry: The path of an entry's file, or an entry. Weights that are files need the path, which says
            where they are.

    Returns:
        The entry's name.

    Raises:
        ZooError: The file is faulty, or the name is taken: by another architecture, by timm, or by something
            else in the family's file.
    """
    if isinstance(entry, Entry):
        return _register(entry, None)
    return _register(read_entry(entry), Path(entry).resolve().parent)


def _register(entry: Entry, folder: Path | None) -> str:
    name, module = entry.name, FAMILIES[entry.family]
    files = [weights.file for weights in (entry.weights or {}).values() if weights.file]
    if files and folder is None:
        raise ZooError(f'{name}: its weights {files[0]} lie beside its file: register the path of that file.')
    if not files:
        folder = None
    known = _ENTRYPOINTS.get(name)
    if known is None:
        if hasattr(module, name):
            raise ZooError(f'{name}: this name has another meaning in {module.__name__}, choose another one.')
        if timm.is_model(name):
            raise ZooError(f'{name}: this name is taken by a model of timm, choose another one.')
    elif known.entry.arch != entry.arch:
        raise ZooError(f'{name}: this name is taken by another architecture, choose another one.')
    elif known.entry == entry and known.folder == folder:
        return name

    entrypoint = Entrypoint(entry, folder)
    module.default_cfgs[name] = _default_cfg(entry, module, folder)
    setattr(module, name, entrypoint)
    with warnings.catch_warnings():
        if known is not None:
            warnings.filterwarnings('ignore', f'Overwriting {name} in registry')
        register_model(entrypoint)
    _ENTRYPOINTS[name] = entrypoint
    return name


def _default_cfg(entry: Entry, module: ModuleType, folder: Path | None) -> DefaultCfg:
    """timm's configurations of an entry, one a tag; one without tag if there are no weights."""
    base: dict[str, Any] = {
        'num_classes': entry.num_classes,
        'input_size': entry.input.size,
        'interpolation': entry.input.interpolation,
        'crop_pct': entry.input.crop_pct,
        'crop_mode': entry.input.crop_mode,
        'mean': entry.input.mean,
        'std': entry.input.std,
        **module.cfg(entry.arch, entry.input.size),
    }
    cfgs: dict[str, dict[str, Any] | PretrainedCfg] = {}
    for tag, weights in (entry.weights or {}).items():
        source = weights.model_dump(
            include={'hf_hub_id', 'hf_hub_filename', 'url', 'license', 'crop_pct'}, exclude_none=True
        )
        if weights.file and folder:
            source['file'] = str(folder / weights.file)
        cfgs[f'{entry.name}.{tag}'] = base | source
    found: DefaultCfg = generate_default_cfgs(cfgs or {entry.name: base})[entry.name]
    return found


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
