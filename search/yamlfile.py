"""YAML files, read into what JSON can hold."""

import re
from pathlib import Path
from typing import Any

import yaml

from zoo.entry import read_file
from zoo.errors import ZooError
from zoo.jsonfile import check_values, clip, shorten

__all__ = ['override', 'parse_yaml', 'read_yaml']

MAX_BYTES = 100_000
"""Larger files are refused, since reading them would take long (the largest bundled one has 5 kB)."""


class _Loader(yaml.SafeLoader):
    """YAML without its traps: 1e-3 is a number, a repeated key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(
                    problem='found a key that is no text', problem_mark=key_node.start_mark
                )
            if (key := key_node.value) in seen:
                raise yaml.MarkedYAMLError(
                    problem=f'found the key {key!r} twice', problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    'tag:yaml.org,2002:float', re.compile(r'^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$'), list('-+.0123456789')
)


def read_yaml(path: Path | str) -> Any:
    """Parses a YAML file (see :func:`parse_yaml`)."""
    return parse_yaml(read_file(path), str(path))


def parse_yaml(data: bytes, where: str) -> Any:
    """Parses YAML into what JSON can hold.

    Raises:
        ZooError: Not YAML, too large, a key twice, or what JSON cannot hold (dates, NaN, keys but text);
            with the line or the key.
    """
    if len(data) > MAX_BYTES:
        raise ZooError(f'{where}: found more than {MAX_BYTES} bytes, at most {MAX_BYTES} are allowed.')
    try:
        value = yaml.load(data.decode('utf-8'), _Loader)
    except UnicodeDecodeError as error:
        raise ZooError(f'{where}: byte {error.start} is not UTF-8.') from None
    except (yaml.YAMLError, RecursionError, AttributeError, LookupError, TypeError, ValueError) as error:
        mark = getattr(error, 'problem_mark', None)
        place = f' at line {mark.line + 1} column {mark.column + 1}' if mark else ''
        reason = getattr(error, 'problem', None) or getattr(error, 'reason', None) or type(error).__name__
        raise ZooError(f'{where}: not YAML: {clip(reason, 200)}{place}.') from None
    check_values(value, where)
    return value


def override(data: dict[str, Any], text: str) -> None:
    """Sets a value by its dotted key: ``supernet.recipe.epochs=10``, the value in YAML.

    Raises:
        ZooError: No ``key=value``, or a key below one that has no keys.
    """
    key, equals, value = text.partition('=')
    if not equals or not re.fullmatch(r'\w+(\.\w+)*', key):
        raise ZooError(f'{shorten(text)}: found no key=value such as supernet.recipe.epochs=10.')
    *parents, last = key.split('.')
    for i, parent in enumerate(parents):
        if data.get(parent) is None:
            data[parent] = {}
        data = data[parent]
        if not isinstance(data, dict):
            raise ZooError(f'{shorten(text)}: {".".join(parents[: i + 1])} has no keys in this config.')
    data[last] = parse_yaml(value.encode('utf-8', 'surrogatepass'), shorten(text))
