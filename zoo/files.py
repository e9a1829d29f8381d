"""Files and folders that are written whole or not at all."""

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zoo.errors import ZooError

__all__ = ['new_folder', 'sha256_file', 'write_atomic']


def write_atomic(path: Path | str, data: bytes) -> None:
    """Replaces a file by new contents, so that a reader sees the old or the new ones, never a part.

    A temporary file in the same folder is written, flushed to the disk and renamed. The folder must exist.

    Raises:
        OSError: The folder is missing or not writable, or the disk is full; ``path`` is then as it was.
    """
    path = Path(path)
    temporary = path.with_name(f'.{path.name[:64]}.{os.getpid()}-{secrets.token_hex(4)}.tmp')
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, 'O_BINARY', 0), 0o666)
    try:
        with os.fdopen(handle, 'wb') as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to fill, which gets the name ``target`` when it is whole, and is removed otherwise.

    Raises:
        ZooError: There is something of that name already, or no folder to put it in.
    """
    if target.exists() or target.is_symlink():
        raise ZooError(f'{target}: there is such a folder or file already: remove it, or name another one.')
    if not target.parent.is_dir():
        raise ZooError(f'{target}: there is no folder {target.parent}.')
    temporary = target.with_name(f'.{target.name[:64]}.{secrets.token_hex(4)}.tmp')
    temporary.mkdir()
    try:
        yield temporary
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself durable, where the system can (not on Windows)."""
    if hasattr(os, 'O_DIRECTORY'):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sha256_file(path: Path | str) -> str:
    """The sha256 of a file's contents, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
