"""A run is a folder: its config, its state, its log and what it found. The same command continues it.

``config.json`` says what is run, ``checkpoint.pt`` where it stands, ``events.jsonl`` what happened
(``tensorboard/`` is drawn from it), and every finished phase leaves a file. All are written whole or not at
all; the log is cut back to the checkpoint that a run continues from, so that no step stands in it twice.
"""

import hashlib
import io
import json
import math
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch.utils.tensorboard import SummaryWriter

from search.checkpoint import read_checkpoint
from search.distributed import ALONE, agree, world
from search.progress import Progress
from search.runfiles import DAMAGED
from zoo.errors import ZooError
from zoo.files import write_atomic
from zoo.jsonfile import clip, format_json, shorten

__all__ = ['Abandoned', 'Interrupted', 'Run', 'Unrecorded']

Fault = Callable[[str], None]
MOST = 8
"""So many differences of two configs are listed."""
GO, STOP = 0, 1
"""What the first process says to others that wait."""


class Interrupted(Exception):
    """The user asked to stop, and everything that is needed to continue has been written."""


class Abandoned(Exception):
    """A training that leaves no trace was stopped; it begins anew when the run is continued."""


class Unrecorded:
    """Stands in for a run where a training leaves no trace, in one process.

    Args:
        stop: Tells whether to abandon the training.
    """

    world = ALONE

    def __init__(self, stop: Callable[[], bool] = lambda: False):
        self.due = stop

    def load(self, phase: str) -> None:
        return None

    def save(self, phase: str, state: Any) -> None:
        raise Abandoned

    def reached(self, point: str) -> None:
        pass

    def log(self, phase: str, step: int, **values: Any) -> None:
        pass

    def progress(self, label: str, total: int, start: int = 0, unit: str = 'step') -> Progress:
        return Progress(label, total, start, unit, quiet=True)


class Run:
    """The folder of one run. Use as a context manager.

    Of several processes that train together, the first one owns the folder: it writes, and the others do what
    it decides. Phases that are not computed together are computed by the first process alone.
    """

    def __init__(
        self,
        folder: Path | str,
        config: Mapping[str, Any],
        versions: Mapping[str, str],
        checkpoint_seconds: float = 30.0,
        fault: Fault | None = None,
        quiet: bool = False,
    ):
        """
        Args:
            folder: Is made if there is none; holds nothing or a run of the same config and version.
            config: What decides the result, as JSON data.
            versions: Of the packages that decide the result; the one named ``searchzoo`` must not change.
            checkpoint_seconds: Time between checkpoints, 0 for one after every step.
            fault: Called with the name of every point that the run passes; tests raise there.
            quiet: No progress on stderr.

        Raises:
            ZooError: The folder is in use, holds something else, is of another config or version, or damaged.
        """
        self.folder = Path(folder)
        self._world = world()
        self._is_first = self._world[0] == 0
        self._together = False
        self.quiet = quiet or not self._is_first
        self._checkpoint_seconds = checkpoint_seconds
        self._fault = fault
        self._stop_asked = False
        self._handlers: dict[int, Any] = {}
        self._phase: str | None = None
        self._state: Any = None
        self._done: dict[str, str] = {}
        self._seconds: dict[str, float] = {}
        self._current: str | None = None
        if not self._is_first:
            agree(0)  # the first process has opened the folder
            self.versions = dict(versions)
            self._read_checkpoint()
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ZooError(
                f'{self.folder}: cannot be used as the folder of a run: {error.strerror}.'
            ) from None
        self._lock = FileLock(self.folder / '.lock')
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ZooError(
                f'{self.folder}: another process is running here; wait for it, or use another folder.'
            ) from None
        try:
            self.versions = self._claim(dict(config), dict(versions))
            self._open_log(self._read_checkpoint())
        except BaseException:
            self._lock.release()
            raise
        self._saved_at = time.monotonic()
        agree(0)

    def __enter__(self) -> 'Run':
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._ask_to_stop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if not self._is_first:
            return
        self._log.close()
        self._board.close()
        self._lock.release()

    # ---- what phases use

    @property
    def world(self) -> tuple[int, int]:
        """This process's number, and how many compute the phase together."""
        return self._world if self._together else ALONE

    def phase(self, name: str, file: str, compute: Callable[[], bytes], together: bool = False) -> bytes:
        """The contents of a phase's file: computed once, read from the folder ever after.

        Args:
            name: Of the phase.
            file: Below the run's folder.
            compute: Gives the contents.
            together: All processes compute; the first one's result counts.

        Raises:
            ZooError: The phase is done, but its file is not what it wrote.
        """
        path = self.folder / file
        if not self._is_first:
            return self._follow(name, path, compute, together)
        agree(name in self._done)
        if name in self._done:
            data = path.read_bytes() if path.is_file() else b''
            if hashlib.sha256(data).hexdigest() != self._done[name]:
                state = 'is damaged' if data else 'is missing'
                raise ZooError(f'{path}: {state}; put it back, or start again in another folder.')
            return data
        computed = False
        try:
            self.reached(f'{name}: begin')
            self._together, self._current, self._counted_at = together, name, time.monotonic()
            data = compute()
            self._together, computed = False, True
            self.reached(f'{name}: computed')
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, data)
            self.reached(f'{name}: written')
            self._done[name] = hashlib.sha256(data).hexdigest()
            self._count_seconds()
            self._current = None
            self._write_checkpoint(None, None)
            self.reached(f'{name}: done')
        except Interrupted:
            if computed or not together:  # the other processes wait
                agree(STOP)
            raise
        finally:
            self._together, self._current = False, None
        agree(GO)
        return data

    def _follow(self, name: str, path: Path, compute: Callable[[], bytes], together: bool) -> bytes:
        """A phase in one of the other processes."""
        if not agree(0):
            if together:
                self._together = True
                compute()
                self._together = False
            if agree(GO) == STOP:
                raise Interrupted
            self._phase, self._state = None, None
        return path.read_bytes()

    def load(self, phase: str) -> Any:
        """What :meth:`save` was last given for this phase, if it was interrupted, else None."""
        return self._state if self._phase == phase else None

    @property
    def stop_asked(self) -> bool:
        """Whether the user has asked to stop: at the next :meth:`save`."""
        return self._stop_asked

    def due(self) -> bool:
        """Whether it is time to :meth:`save`, in all processes that compute together."""
        code = 0
        if self._is_first:
            due = time.monotonic() - self._saved_at >= self._checkpoint_seconds
            code = 2 if self._stop_asked else int(due)
        if self._together:
            code = agree(code)
            self._stop_asked = code == 2
        return code > 0

    def save(self, phase: str, state: Any) -> None:
        """Writes a checkpoint: tensors, numbers, strings, and lists and dicts of them.

        Raises:
            Interrupted: The user has asked to stop.
        """
        if not self._is_first:
            if self._stop_asked:
                raise Interrupted
            return
        self.reached(f'{phase}: save')
        self._write_checkpoint(phase, state)
        self.reached(f'{phase}: saved')

    def reached(self, point: str) -> None:
        """Marks a point where a run may be interrupted."""
        if self._fault is not None and self._is_first:
            self._fault(point)

    def log(self, phase: str, step: int, **values: float | int | str | None) -> None:
        """Appends an event to the log; numbers are drawn in TensorBoard as ``phase/name``."""
        if not self._is_first:
            return
        event = {'phase': phase, 'step': step, **values, 'time': round(time.time(), 3)}
        self._log.write((json.dumps(event) + '\n').encode())
        self._draw(event)

    def progress(self, label: str, total: int, start: int = 0, unit: str = 'step') -> Progress:
        return Progress(label, total, start, unit, self.quiet)

    # ---- the folder

    def _claim(self, config: dict[str, Any], versions: dict[str, str]) -> dict[str, str]:
        """Writes config.json into an empty folder, or compares the one that is there.

        Returns:
            The versions that the run began with.
        """
        path = self.folder / 'config.json'
        made = {'versions': versions, 'config': config}
        if not path.exists():
            if any(not item.name.startswith('.') for item in self.folder.iterdir()):
                raise ZooError(f'{self.folder}: holds files but no run; use a new or empty folder.')
            _write(path, format_json(made).encode())
            return versions
        try:
            found = json.loads(path.read_bytes())
            old_versions, old_config = dict(found['versions']), dict(found['config'])
        except (OSError, *DAMAGED):
            raise ZooError(f'{path}: is damaged; start again in another folder.') from None
        if old_versions.get('searchzoo') != versions['searchzoo']:
            old = clip(str(old_versions.get('searchzoo')), 40)
            raise ZooError(
                f'{self.folder}: was made by searchzoo {old}, this is {versions["searchzoo"]}; continue with '
                'that version, or start again in another folder.'
            )
        if changes := _differences(old_config, json.loads(json.dumps(config))):
            more = f'; and {len(changes) - MOST} more' if len(changes) > MOST else ''
            raise ZooError(
                f'{self.folder}: was made by another config: {"; ".join(changes[:MOST])}{more}. '
                'Continue with that config, or use another folder.'
            )
        for name in sorted({*old_versions, *versions}):
            before, now = old_versions.get(name), versions.get(name)
            if before != now and not self.quiet:
                print(
                    f'Note: begun with {name} {before}, continued with {now}: the result can differ in its '
                    'last digits from that of an uninterrupted run.',
                    file=sys.stderr,
                )
        return old_versions

    def _read_checkpoint(self) -> int:
        """Takes up where the run stands; gives the size of the log that belongs to it."""
        path = self.folder / 'checkpoint.pt'
        if not path.exists():
            if any(self.folder.rglob('*.safetensors')):
                raise ZooError(f'{path}: is missing; put it back, or start again in another folder.')
            return 0
        found = read_checkpoint(path)
        self._phase, self._state = found.phase, found.state
        self._done, self._seconds = dict(found.done), dict(found.seconds)
        return found.log_size

    def _count_seconds(self) -> None:
        """Adds to the current phase what it has taken since this was last called."""
        if self._current is not None:
            now = time.monotonic()
            self._seconds[self._current] = self._seconds.get(self._current, 0.0) + now - self._counted_at
            self._counted_at = now

    def _write_checkpoint(self, phase: str | None, state: Any) -> None:
        self._log.flush()
        self._board.flush()
        self._phase, self._state = phase, None
        self._count_seconds()
        checkpoint = {
            'phase': phase,
            'state': state,
            'done': self._done,
            'log_size': self._log.tell(),
            'seconds': self._seconds,
        }
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        _write(self.folder / 'checkpoint.pt', buffer.getvalue())
        self._saved_at = time.monotonic()
        if self._stop_asked:
            raise Interrupted

    def _open_log(self, size: int) -> None:
        """Cuts the log back to the checkpoint and draws TensorBoard's files anew from it."""
        path = self.folder / 'events.jsonl'
        if not path.exists():
            path.touch()
        self._log = open(path, 'r+b')  # noqa: SIM115
        if path.stat().st_size > size:
            self._log.truncate(size)
        shutil.rmtree(self.folder / 'tensorboard', ignore_errors=True)
        self._board = SummaryWriter(str(self.folder / 'tensorboard'))
        damaged = 0
        for line in self._log:
            try:
                self._draw(json.loads(line))
            except DAMAGED:
                damaged += 1
        if damaged and not self.quiet:
            lines = 'line is' if damaged == 1 else 'lines are'
            print(f'Note: {path}: {damaged} {lines} damaged and not drawn.', file=sys.stderr)

    def _draw(self, event: dict[str, Any]) -> None:
        for key, value in event.items():
            if key not in ('step', 'time') and isinstance(value, (int, float)) and math.isfinite(value):
                self._board.add_scalar(f'{event["phase"]}/{key}', value, event['step'], event['time'])

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        if self._stop_asked:
            raise KeyboardInterrupt
        self._stop_asked = True
        if not self.quiet:
            print('\nStopping after the next checkpoint; once more to stop at once.', file=sys.stderr)


def _write(path: Path, data: bytes) -> None:
    try:
        write_atomic(path, data)
    except OSError as error:
        raise ZooError(
            f'{path}: cannot be written: {error.strerror}; what was there before is kept.'
        ) from None


def _differences(old: Any, new: Any, path: str = '') -> list[str]:
    """The keys in which two configs differ, each with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in sorted({*old, *new})
            for line in _differences(old.get(key), new.get(key), f'{path}.{key}' if path else key)
        ]
    return [] if old == new else [f'{clip(path, 100)} was {shorten(old)}, now {shorten(new)}']
