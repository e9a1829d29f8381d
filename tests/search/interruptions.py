"""Runs that are broken off, and what they must leave behind all the same."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path


class Stop(Exception):
    pass


class Recorder:
    """Notes every point that a run passes, and raises at one of them."""

    def __init__(self, stop_at: int | None = None):
        self.points: list[str] = []
        self.stop_at = stop_at

    def __call__(self, point: str) -> None:
        self.points.append(point)
        if len(self.points) - 1 == self.stop_at:
            raise Stop


def read_all(folder: Path) -> dict[str, bytes]:
    """Every file that a run leaves, but for its log, its state, pictures and TensorBoard's, and for the
    checklist, in which times stand."""
    files = [*folder.rglob('*.json'), *folder.rglob('*.safetensors')]
    kept = [file for file in files if file.name != 'result.json']
    return {str(file.relative_to(folder)): file.read_bytes() for file in kept}


def read_log(folder: Path) -> list[dict]:
    """The events without their times."""
    events = [json.loads(line) for line in (folder / 'events.jsonl').read_text().splitlines()]
    return [{key: value for key, value in event.items() if key != 'time'} for event in events]


def make_command(config: Path | str, folder: Path, *overrides: str) -> list[str]:
    """What a user types to run a config."""
    return [sys.executable, '-m', 'search', 'run', str(config), '--out', str(folder), *overrides]


def kill(command: Sequence[str], folder: Path, phase: str) -> None:
    """Starts a run and kills it as soon as a phase has logged an event."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    log, mark = folder / 'events.jsonl', f'"phase": "{phase}"'
    while not log.exists() or mark not in log.read_text():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
