"""Strict reading and canonical writing of JSON: equal data gives equal bytes, no file can hurt the reader.

Reading refuses what JSON readers disagree about (repeated keys, NaN, huge integers) and what is not worth the
memory (large files, deep nesting), each with the place in the file.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from zoo.errors import ZooError

__all__ = ['check_values', 'clip', 'format_json', 'json_path', 'parse_json', 'read_file', 'shorten']

MAX_BYTES = 1_000_000
"""Larger files are refused before they are parsed (the largest bundled entry has a few thousand bytes)."""
MAX_DEPTH = 32
MAX_VALUES = 50_000
"""Counted as commas and opening brackets, before anything is parsed."""
MAX_KEYS = 512
MAX_DIGITS = 18
LINE = 110
PLAIN = (dict, list, str, int, float, type(None))


def read_file(path: Path | str) -> bytes:
    """The bytes of a file of at most :data:`MAX_BYTES`.

    Raises:
        ZooError: The file is missing, unreadable or too large.
    """
    try:
        with open(path, 'rb') as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ZooError(f'{path}: cannot be read: {reason}.') from None
    if len(data) > MAX_BYTES:
        raise ZooError(f'{path}: found more than {MAX_BYTES} bytes, at most {MAX_BYTES} are allowed.')
    return data


class _Integer:
    """An integer with too many digits, kept as text until its place in the file is known."""

    def __init__(self, digits: str):
        self.digits = digits


def parse_json(data: bytes | str, where: str) -> Any:
    """Parses JSON text into dicts, lists, strings, finite floats and integers of at most 18 digits.

    Args:
        data: The text, UTF-8 if bytes.
        where: What errors call the text, usually the file's path.

    Raises:
        ZooError: Not JSON, not UTF-8, too large, or one of what this module refuses.
    """
    if len(data) > MAX_BYTES:
        raise ZooError(f'{where}: found more than {MAX_BYTES} bytes, at most {MAX_BYTES} are allowed.')
    marks = (',', '[', '{') if isinstance(data, str) else (b',', b'[', b'{')
    if sum(map(data.count, marks)) >= MAX_VALUES:  # type: ignore[arg-type]
        raise ZooError(f'{where}: found more than {MAX_VALUES} values, at most {MAX_VALUES} are allowed.')
    repeated: list[tuple[dict[str, Any], str]] = []

    def take_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            seen: set[str] = set()
            key = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            repeated.append((found, key))
        return found

    def take_integer(text: str) -> int | _Integer:
        return int(text) if len(text.lstrip('-')) <= MAX_DIGITS else _Integer(text)

    try:
        text = data if isinstance(data, str) else data.decode('utf-8')
        value = json.loads(text, object_pairs_hook=take_pairs, parse_int=take_integer)
    except UnicodeDecodeError as error:
        raise ZooError(f'{where}: byte {error.start} is not UTF-8, which JSON text must be.') from None
    except RecursionError:
        raise ZooError(f'{where}: nested too deeply, at most {MAX_DEPTH} levels are allowed.') from None
    except json.JSONDecodeError as error:
        place = f'line {error.lineno} column {error.colno}'
        raise ZooError(f'{where}: not JSON: {error.msg[:1].lower()}{error.msg[1:]} at {place}.') from None
    check_values(value, where, repeated)
    return value


def check_values(value: Any, where: str, repeated: Sequence[tuple[dict[str, Any], str]] = ()) -> None:
    """Refuses what JSON cannot hold, and what is not worth the memory.

    Args:
        value: Data of a file, perhaps with other values, and with parts that stand in several places.
        where: What errors call the file.
        repeated: Objects in which a key was repeated, and the key.

    Raises:
        ZooError: The first fault, with its place.
    """
    twice = {id(found): key for found, key in repeated}
    for count, (path, item) in enumerate(_walk(value)):
        fault = ''
        if count == MAX_VALUES:
            raise ZooError(f'{where}: found more than {MAX_VALUES} values, at most {MAX_VALUES} are allowed.')
        if isinstance(item, _Integer):
            fault = f'found {shorten(item.digits)}, integers of at most {MAX_DIGITS} digits are allowed'
        elif isinstance(item, float) and not math.isfinite(item):
            fault = f'found {item}, a finite number is needed'
        elif isinstance(item, str) and not _is_unicode(item):
            fault = f'found {shorten(item)}, text without lone surrogates is needed'
        elif not isinstance(item, PLAIN):
            fault = f'found {shorten(item)}, text, a number, true, false or null is needed'
        elif len(path) > MAX_DEPTH:
            fault = f'nested too deeply, at most {MAX_DEPTH} levels are allowed'
        elif isinstance(item, dict) and len(item) > MAX_KEYS:
            fault = f'found {len(item)} keys, at most {MAX_KEYS} are allowed'
        elif isinstance(item, dict) and (keys := [key for key in item if not isinstance(key, str)]):
            fault = f'found the key {shorten(keys[0])}, text is needed'
        elif isinstance(item, dict) and not all(map(_is_unicode, item)):
            fault = 'found a key with a lone surrogate, text is needed'
        elif isinstance(item, dict) and id(item) in twice:
            path, fault = (*path, twice[id(item)]), 'found the key twice, once is allowed'
        if fault:
            raise ZooError(f'{where}: {json_path(path)}: {fault}.')


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _walk(value: Any) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """All values with their paths, parents before children, in the file's order."""
    stack: list[tuple[tuple[str | int, ...], Any]] = [((), value)]
    while stack:
        path, item = stack.pop()
        yield path, item
        if isinstance(item, dict):
            stack.extend(((*path, key), item[key]) for key in reversed(item))
        elif isinstance(item, list):
            stack.extend(((*path, i), item[i]) for i in reversed(range(len(item))))


def json_path(path: tuple[str | int, ...]) -> str:
    """``('arch', 'stages', 0)`` as ``$.arch.stages[0]``; unusual keys are quoted and shortened."""
    text = '$'
    for part in path[:MAX_DEPTH]:
        if isinstance(part, int):
            text += f'[{part}]'
        elif re.fullmatch(r'[A-Za-z_]\w{0,63}', part, re.ASCII):
            text += f'.{part}'
        else:
            text += f'[{json.dumps(part if len(part) <= 40 else part[:40] + "...")}]'
    return text + ('...' if len(path) > MAX_DEPTH else '')


def shorten(value: Any, length: int = 60) -> str:
    """A value as an error shows it: Python's repr, of at most ``length`` characters."""
    if isinstance(value, str) and len(value) > length:
        value = value[:length]
        return f'{ascii(value)[:length]}...'
    if isinstance(value, (dict, list, tuple)) and len(value) > length:
        return f'{type(value).__name__} of {len(value)}'
    text = ascii(value)
    return text if len(text) <= length else f'{text[:length]}...'


def clip(message: str, length: int = 400) -> str:
    """A message as one printable line of at most ``length`` characters."""
    shown = ' '.join(message.split())[: length + 1]
    line = ''.join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in shown)
    return line if len(line) <= length else f'{line[:length]}...'


def format_json(value: Any) -> str:
    """Canonical JSON text with a final newline; keys keep their order.

    Objects and lists are indented by two spaces; one that holds only scalars (or lists of scalars) and
    fits stands on one line, so that a difference of two files shows a block as one line.
    """
    return _format(value, '') + '\n'


def _format(value: Any, indent: str) -> str:
    if not isinstance(value, (dict, list, tuple)):
        return _format_scalar(value)
    inner = indent + '  '
    if isinstance(value, dict):
        heads = [f'{json.dumps(key, ensure_ascii=False)}: ' for key in value]
        items, brackets = list(value.values()), '{}'
    else:
        heads, items, brackets = [''] * len(value), list(value), '[]'
    if not items:
        return brackets
    if _is_flat(value):
        line = ', '.join(head + _format(item, inner) for head, item in zip(heads, items, strict=True))
        if len(indent) + len(line) + 2 <= LINE and '\n' not in line:
            return f'{brackets[0]}{line}{brackets[1]}'
    lines = [f'{inner}{head}{_format(item, inner)}' for head, item in zip(heads, items, strict=True)]
    return brackets[0] + '\n' + ',\n'.join(lines) + f'\n{indent}{brackets[1]}'


def _is_flat(value: Any) -> bool:
    """Whether a container holds scalars and lists of scalars only."""
    if isinstance(value, dict):
        return not any(isinstance(item, dict) or not _is_scalars(item) for item in value.values())
    return _is_scalars(value)


def _is_scalars(item: Any) -> bool:
    return not isinstance(item, (list, tuple)) or not any(isinstance(i, (dict, list, tuple)) for i in item)


def _format_scalar(value: Any) -> str:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f'found {value}, JSON holds finite numbers only')
        if value.is_integer() and 1e6 <= abs(value) < 1e15:
            power = 9 if abs(value) >= 1e9 else 6
            short = f'{value / 10**power:.15g}e{power}'
            return short if float(short) == value else repr(value)
        return repr(value)
    return json.dumps(value, ensure_ascii=False)
