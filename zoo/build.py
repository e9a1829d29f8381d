"""timm's model factory, with one sentence for each thing that can be wrong with weights.

timm itself raises bare or internal errors for a missing, truncated or foreign file. It says nothing at all
when a network that cannot take the checkpoint's classifier (another number of classes, a feature extractor)
gets a file that lacks other tensors as well: those would stay random.
"""

import functools
import re
from collections.abc import Callable
from numbers import Integral
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from timm.models import PretrainedCfg, build_model_with_cfg, load_pretrained, resolve_pretrained_cfg
from torch import Tensor, nn

from zoo.errors import ZooError
from zoo.jsonfile import clip, shorten

__all__ = ['build_model', 'describe_difference', 'describe_unreadable', 'describe_values', 'resolve_cfg']

MOST = {'img_size': 4096, 'input_size': 4096, 'in_chans': 256, 'num_classes': 100_000}
"""As for entries (zoo/entry.py)."""

Filter = Callable[[dict[str, Any], nn.Module], dict[str, Tensor]]


def build_model(
    model_cls: type[nn.Module],
    variant: str,
    pretrained: bool,
    *,
    pretrained_filter_fn: Filter,
    pretrained_cfg: str | dict[str, Any] | PretrainedCfg | None = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    **kwargs: Any,
) -> nn.Module:
    """``timm.models.build_model_with_cfg`` for the families' ``build``; the arguments are the same.

    Raises:
        ZooError: ``pretrained`` without weights anywhere, or weights that cannot be read or do not fit.
    """
    cfg = resolve_cfg(variant, pretrained_cfg, pretrained_cfg_overlay)
    _check_sizes(variant, {'num_classes': cfg.num_classes, **kwargs, 'input_size': cfg.input_size})
    if pretrained:
        _check_source(variant, cfg)
    try:
        return build_model_with_cfg(
            model_cls,
            variant,
            pretrained,
            pretrained_cfg=cfg,  # type: ignore[arg-type]
            pretrained_filter_fn=_strict(pretrained_filter_fn),
            **kwargs,
        )
    except Exception as error:
        if not _is_raised_in(load_pretrained, error.__traceback__):
            raise
        reason = (
            describe_unreadable(error)
            if 'weights_only' in str(error)
            else clip(str(error), 600).rstrip('.')
            or f'not laid out as in this network ({type(error).__name__})'
        )
        place = f'Weights of {variant} from {_describe_source(cfg)}'
        raise ZooError(f'{place} cannot be loaded: {reason}.') from error


def resolve_cfg(
    variant: str, cfg: str | dict[str, Any] | PretrainedCfg | None, overlay: dict[str, Any] | None
) -> PretrainedCfg:
    """timm's configuration of a registered name (and tag, if ``cfg`` is one), with a user's changes."""
    return resolve_pretrained_cfg(variant, cfg, overlay)  # type: ignore[arg-type]


def _check_sizes(variant: str, sizes: dict[str, Any]) -> None:
    """Refuses what would take memory without end, as a faulty file of the Hub may ask for."""
    for key, most in MOST.items():
        values = sizes.get(key)
        for value in values if isinstance(values, (tuple, list)) else (values,):
            if value is not None and not (isinstance(value, Integral) and 0 <= int(value) <= most):
                found = f'{variant}: {key}: found {shorten(values)}'
                raise ZooError(f'{found}, whole numbers from 0 to {most} are allowed.')


def _check_source(variant: str, cfg: PretrainedCfg) -> None:
    if not (cfg.has_weights or cfg.state_dict or cfg.source):
        raise ZooError(
            f'{variant} has no published weights: train it, or convert an official checkpoint with '
            '`searchzoo zoo convert` and pass pretrained_cfg_overlay=dict(file=...), or use pretrained=False '
            '(docs/faq.md#pretrainedtrue-says-there-are-no-weights).'
        )
    if cfg.file and not cfg.state_dict and not Path(cfg.file).exists():
        raise ZooError(f'Weights of {variant}: there is no file {cfg.file}.')


def _describe_source(cfg: PretrainedCfg) -> str:
    if cfg.state_dict:
        return 'the given state_dict'
    return str(cfg.file or cfg.hf_hub_id or cfg.url)


def _is_raised_in(function: Any, trace: TracebackType | None) -> bool:
    while trace is not None:
        if trace.tb_frame.f_code is function.__code__:
            return True
        trace = trace.tb_next
    return False


def _strict(filter_fn: Filter) -> Filter:
    """The family's filter, followed by a check that timm leaves out where the classifier is another one."""

    @functools.wraps(filter_fn)
    def filter_and_check(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
        filtered = filter_fn(state_dict, model)
        cfg: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
        heads = cfg.get('classifier') or ()
        heads = (heads,) if isinstance(heads, str) else tuple(heads)
        wanted = model.state_dict()
        fault = describe_difference(filtered, wanted, ignore=heads, shapes=False)
        if fault := fault or describe_values(filtered, wanted):
            raise ZooError(fault)
        return filtered

    return filter_and_check


def describe_unreadable(error: Exception) -> str:
    """In a few words, why ``torch.load`` did not read a file without running code."""
    if blocked := re.search(r'nsupported (?:global: )?GLOBAL (\S+)', str(error)):
        return f'refused, reading it would run code: {clip(blocked[1], 100)}'
    reason = 'it does not hold plain weights' if 'weights_only' in str(error) else clip(str(error), 200)
    return f'damaged or not a checkpoint: {reason.rstrip(".") or type(error).__name__}'


def describe_difference(
    found: dict[str, Tensor], wanted: dict[str, Tensor], ignore: tuple[str, ...] = (), shapes: bool = True
) -> str:
    """One sentence on missing, unexpected and differently shaped tensors, or nothing if there are none.

    Args:
        found: Tensors of a checkpoint, by name.
        wanted: Tensors of the network, by name.
        ignore: Modules that may differ.
        shapes: Whether to compare shapes as well.
    """

    def select(names: set[str]) -> list[str]:
        return sorted(n for n in names if n.rpartition('.')[0] not in ignore)

    missing = [n for n in select(wanted.keys() - found.keys()) if not n.endswith('num_batches_tracked')]
    faults = []
    if missing:
        faults.append(f'{len(missing)} of {len(wanted)} tensors are missing ({_first(missing)})')
    if unexpected := select(found.keys() - wanted.keys()):
        faults.append(f'{len(unexpected)} are not of this network ({_first(unexpected)})')
    if shapes:
        differing = [
            f'{n} is {list(found[n].shape)}, {list(wanted[n].shape)} is needed'
            for n in select(wanted.keys() & found.keys())
            if found[n].shape != wanted[n].shape
        ]
        if differing:
            faults.append(f'{len(differing)} have another shape ({_first(differing, "; ")})')
    return ', '.join(faults)


def describe_values(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> str:
    """One sentence on tensors that hold NaN, infinity or whole numbers for fractions, or nothing.

    PyTorch would copy any of them into a network without a word.

    Args:
        found: Tensors of a checkpoint, by name.
        wanted: Tensors of the network, by name.
    """
    if bad := [name for name, tensor in found.items() if not torch.isfinite(tensor).all()]:
        return f'{len(bad)} tensors hold NaN or infinity ({_first(bad)})'
    for name in wanted.keys() & found.keys():
        if found[name].is_floating_point() != wanted[name].is_floating_point():
            return f'{name} is {found[name].dtype}, {wanted[name].dtype} is needed'
    return ''


def _first(names: list[str], separator: str = ', ', count: int = 3) -> str:
    shown = [clip(name, 120) for name in names[:count]]
    return separator.join(shown) + (', ...' if len(names) > count else '')
