"""What is wrong with a file, in one line a fault: file, JSON path, what was found, what is allowed."""

from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from zoo.arch import Arch
from zoo.jsonfile import clip, json_path, shorten
from zoo.models import FAMILIES

__all__ = ['describe_faults']

MAX_FAULTS = 50
"""So many faults of one file are listed, the others are counted."""


def describe_faults(
    error: Exception, where: str, data: Any = None, model: type[BaseModel] | None = None
) -> list[str]:
    """One line a fault: ``file: JSON path: found ..., what is allowed``.

    Args:
        error: What pydantic or ``json`` raised.
        where: What lines begin with, usually the file's path.
        data: The data that was validated, if at hand: paths then leave out the names of union members.
        model: The model it was validated as, if at hand: unknown keys then list the known ones.
    """
    if not isinstance(error, ValidationError):
        return [f'{where}: $: not plain JSON data: {clip(str(error))}.']
    faults = [fault for fault in error.errors(include_url=False) if not _is_echo(fault)]
    lines = []
    for fault in faults[:MAX_FAULTS]:
        known = _known_keys(model, fault['loc'][:-1], data) if fault['type'] == 'extra_forbidden' else []
        lines.append(f'{where}: {json_path(_real_path(fault, data))}: {_describe(fault, known)}.')
    if len(faults) > MAX_FAULTS:
        lines.append(f'{where}: and {len(faults) - MAX_FAULTS} more faults.')
    return list(dict.fromkeys(lines))


def _is_echo(fault: Any) -> bool:
    """Whether a list counts as too short only because of its items' faults, which are reported anyway."""
    return fault['type'] == 'too_short' and len(fault['input']) >= fault['ctx']['min_length']


def _describe(fault: Any, known: list[str]) -> str:
    kind, message = fault['type'], str(fault['msg'])
    if kind == 'missing':
        return 'found nothing, this key is required'
    if kind == 'extra_forbidden':
        allowed = f'; known are {", ".join(known)}' if known else ''
        return f'found {shorten(fault["input"])}, this key is not known here{allowed}'
    if kind == 'too_short':
        return f'found {len(fault["input"])} items, at least {fault["ctx"]["min_length"]} are needed'
    if kind == 'too_long':
        return f'found {len(fault["input"])} items, at most {fault["ctx"]["max_length"]} are allowed'
    if kind == 'union_tag_not_found':
        return f'found no {fault["ctx"]["discriminator"]}, this key is required'
    if kind == 'union_tag_invalid':
        context = fault['ctx']
        return (
            f'{context["discriminator"]}: found {shorten(context["tag"])}, must be {context["expected_tags"]}'
        )
    if kind == 'string_pattern_mismatch':
        message = f'text of the form {fault["ctx"]["pattern"]} is allowed'
    message = message.removeprefix('Value error, ').replace('Input should be', 'must be')
    return f'found {shorten(fault["input"])}, {clip(message)}'


def _real_path(fault: Any, data: Any) -> tuple[int | str, ...]:
    """The part of pydantic's location that is in the data: it also names members of unions."""
    path: list[int | str] = []
    loc = fault['loc']
    for i, part in enumerate(loc):
        if isinstance(data, dict):
            is_missing = i == len(loc) - 1 and fault['type'] == 'missing'
            if part not in data and not is_missing:
                continue
            data = data.get(part)
        elif isinstance(data, list):
            if not isinstance(part, int):
                continue
            data = data[part] if part < len(data) else None
        path.append(part)
    return tuple(path)


def _known_keys(model: Any, loc: tuple[int | str, ...], data: Any) -> list[str]:
    """The keys that the part of ``model`` at a location takes; none if that cannot be told."""
    for part in loc:
        if isinstance(part, str) and isinstance(model, type) and issubclass(model, BaseModel):
            fields = {field.alias or name: field.annotation for name, field in model.model_fields.items()}
            model = fields.get(part)
            if Arch in _models_in(model):
                model = FAMILIES[data['family']].Arch
        models = _models_in(model)
        only = models[0] if len(models) == 1 else model
        model = next((m for m in models if m.__name__ == part or _is_tagged(m, part)), only)
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return []
    return [field.alias or name for name, field in model.model_fields.items()]


def _is_tagged(model: type[BaseModel], tag: int | str) -> bool:
    """Whether a member of a union is the one that this value of its discriminator names."""
    return any(get_args(field.annotation) == (tag,) for field in model.model_fields.values())


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The pydantic models inside an annotation such as ``tuple[A | B, ...] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models_in(inner)]
