"""Changes of data and of bytes, as strategies and as what they do."""

import copy
from typing import Any

from hypothesis import strategies as st

__all__ = ['EDITS', 'PIECES', 'YAML_PIECES', 'cuts', 'damage', 'edit']


def split(pieces: str) -> list[bytes]:
    return [piece.encode() for piece in pieces.split('|')]


NESTED: Any = 0
for _ in range(60):
    NESTED = [NESTED]
EXTREMES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 0.5, 10**5, 10**17, 10**30, -(10**18), -0.0, 1e-300, 1e308),
    *(float('nan'), float('inf'), '', 'a', 'x' * 5000, '\ud800', '\0', 'é\n\u202e', '../../etc/passwd', '1'),
    *([], {}, [[]], [0] * 600, [{}] * 300, {'': {}}, {'a': [1]}, [None], NESTED),
    {str(i): i for i in range(600)},
)  # fmt: skip
VALUES = st.sampled_from(EXTREMES) | st.integers() | st.floats() | st.text() | st.lists(st.integers(0, 40))
KEYS = st.sampled_from(('', 'a', 'a.b', 'name', 'method', 'x' * 300, '\0', '\ud800', '$ref', '0')) | st.text()
EDITS = st.lists(
    st.tuples(
        st.integers(0, 2**16),
        st.sampled_from(('delete', 'repeat', 'replace', 'add', 'rename', 'scale', 'copy', 'copy')),
        VALUES,
        KEYS,
    ),
    max_size=3,
)
"""Changes of data: where, what is done, and a value and a key for it."""
PIECES = (
    *split(' |\0|\ufeff|"|[|}|,|:|-|\\ud800|1e999|é|2|\x7f|\r|\n|\t|'),
    *(b'\xff', b'9' * 5000, b'[' * 3000, b'{"a":' * 3000, b'- ' * 5000, b'0,' * 60_000, b' ' * 1_100_000),
)
"""What takes the place of bytes in a file."""
BOMB = b'b0: &b0 [0]\n' + b''.join(b'b%d: &b%d [*b%d, *b%d]\n' % (i, i, i - 1, i - 1) for i in range(1, 40))
YAML_PIECES = (
    *split(
        '*a|&a|&a [x]|.nan|.inf|2024-01-01|1:30:00|0x_|0o9|@|`|= |! a|!<x> 1|<<: *a\n|---\n|%YAML 9.9\n---\n'
    ),
    *split('!!int x|!!float x|!!bool x|!!binary x|!!timestamp 1|!!omap [a: 1]|!!set {a, b}|!!python/x 1'),
    *split('~: 1\n|1: 2\n|true: 3\n|1.5: x\n|? [a]\n: b\n|? {a: b}\n: c\n|a: &a [*a]\n|a: &a {b: *a}\n'),
    *(BOMB, b'- ' * 300_000, b'a: b\n' * 150_000),
)


def cuts(pieces: tuple[bytes, ...] = PIECES) -> st.SearchStrategy[Any]:
    """Changes of bytes: where, how many, and what stands there then (a number: bits to turn over)."""
    change = st.tuples(
        st.floats(0, 1), st.sampled_from((0, 1, 3, 40, 10**9)), st.sampled_from(pieces) | st.integers(1, 255)
    )
    return st.just([]) | st.lists(change, max_size=3)


def edit(value: Any, edits: list[tuple[int, str, Any, str]]) -> Any:
    """A copy of data with changes."""
    root = {'': copy.deepcopy(value)}
    for where, action, value, name in edits:
        new = copy.deepcopy(value)
        places = list(list_places(root))
        holder, key = places[where % len(places)]
        old = holder[key]
        if action == 'delete' and holder is not root:
            del holder[key]
        elif action == 'repeat' and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(old))
        elif action == 'add' and isinstance(old, dict):
            old[name] = new
        elif action == 'rename' and isinstance(holder, dict) and holder is not root:
            holder[name] = holder.pop(key)
        elif action == 'scale' and type(old) in (int, float):
            holder[key] = old * 1000 if isinstance(new, str) else -old if isinstance(new, float) else old + 1
        elif action == 'copy':
            other, at = places[where // len(places) % len(places)]
            holder[key] = copy.deepcopy(other[at])
        else:
            holder[key] = new
    return root['']


def list_places(value: Any) -> Any:
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from list_places(value[key])


def damage(data: bytes, changes: list[tuple[float, int, bytes | int]]) -> bytes:
    for where, length, piece in changes:
        start = int(where * len(data))
        cut = data[start : start + length]
        put = bytes(byte ^ piece for byte in cut) if isinstance(piece, int) else piece
        data = data[:start] + put + data[start + length :]
    return data
