"""A part of a run that repeats what other parts do too, such as one of two levels of a search."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from search.progress import Progress
from search.run import Run

__all__ = ['Section']


class Section:
    """A run within a run: its phases, events and files stand under its name, as in a folder.

    Attributes:
        folder: Of its files, below the run's.
    """

    def __init__(self, run: 'Run | Section', name: str):
        self._run = run
        self._name = name
        self.folder: Path = run.folder / name
        self.versions: dict[str, str] = run.versions

    @property
    def world(self) -> tuple[int, int]:
        return self._run.world

    @property
    def stop_asked(self) -> bool:
        return self._run.stop_asked

    def phase(self, name: str, file: str, compute: Callable[[], bytes], together: bool = False) -> bytes:
        return self._run.phase(self._under(name), self._under(file), compute, together)

    def load(self, phase: str) -> Any:
        return self._run.load(self._under(phase))

    def due(self) -> bool:
        return self._run.due()

    def save(self, phase: str, state: Any) -> None:
        self._run.save(self._under(phase), state)

    def reached(self, point: str) -> None:
        self._run.reached(self._under(point))

    def log(self, phase: str, step: int, **values: float | int | str | None) -> None:
        self._run.log(self._under(phase), step, **values)

    def progress(self, label: str, total: int, start: int = 0, unit: str = 'step') -> Progress:
        return self._run.progress(f'{self._name}: {label}', total, start, unit)

    def _under(self, name: str) -> str:
        return f'{self._name}/{name}'
