"""Files are written whole or not at all."""

import hashlib
import os
import stat
from pathlib import Path

import pytest

from zoo.files import sha256_file, write_atomic


def test_new_and_old_files(tmp_path: Path) -> None:
    path = tmp_path / 'entry.json'
    write_atomic(path, b'first')
    write_atomic(str(path), b'')
    assert path.read_bytes() == b''
    write_atomic(path, b'third')
    assert path.read_bytes() == b'third'
    assert os.listdir(tmp_path) == ['entry.json']
    assert sha256_file(path) == hashlib.sha256(b'third').hexdigest()


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / 'plain').touch()
    write_atomic(tmp_path / 'atomic', b'')
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ('plain', 'atomic')]
    assert modes[0] == modes[1]


@pytest.mark.parametrize('step', ['fsync', 'replace'])
def test_failure_leaves_the_old_file(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise OSError(28, 'No space left on device')

    path = tmp_path / 'entry.json'
    write_atomic(path, b'old')
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match='No space'):
        write_atomic(path, b'new')
    assert path.read_bytes() == b'old'
    assert os.listdir(tmp_path) == ['entry.json']


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / 'none' / 'x', b'')
