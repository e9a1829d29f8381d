"""Progress of a long phase with the time left: a bar on a terminal, now and then a plain line elsewhere."""

import sys
import time
from types import TracebackType

from tqdm import tqdm

__all__ = ['Progress']

SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """Counts steps of a phase on stderr. Use as a context manager."""

    def __init__(self, label: str, total: int, start: int = 0, unit: str = 'step', quiet: bool = False):
        """
        Args:
            label: What is going on.
            total: Steps of the whole phase.
            start: Steps done in an earlier run.
            unit: What a step is called.
            quiet: Write nothing.
        """
        self.label, self.total, self.start, self.unit = label, total, start, unit
        self.done = start
        self._note = ''
        self._began = self._last_line = time.monotonic()
        self._is_terminal = sys.stderr.isatty()
        self._quiet = quiet
        self._bar = (
            tqdm(total=total, initial=start, desc=label, unit=unit, dynamic_ncols=True)
            if self._is_terminal and not quiet
            else None
        )

    def __enter__(self) -> 'Progress':
        if self._bar is None and self.done < self.total:
            self._print(
                f'{self.label}: {self.total - self.start} {self.unit}s' + (' left' if self.start else '')
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif kind is None and self.done > self.start:
            seconds = time.monotonic() - self._began
            self._print(f'{self.label}: done in {format_seconds(seconds)}{self._note}')

    def update(self, note: str = '') -> None:
        """One more step is done; ``note`` replaces what stands behind the bar (``'loss 0.31'``)."""
        self.done += 1
        if note:
            self._note = f', {note}'
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update()
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES and self.done < self.total:
            self._last_line = time.monotonic()
            left = (self._last_line - self._began) / (self.done - self.start) * (self.total - self.done)
            share = f'{self.done}/{self.total} {self.unit}s, {format_seconds(left)} left'
            self._print(f'{self.label}: {share}{self._note}')

    def _print(self, line: str) -> None:
        if not self._quiet:
            print(line, file=sys.stderr, flush=True)


def format_seconds(seconds: float) -> str:
    """``42 s``, ``3 min 5 s``, ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f'{whole} s'
    if whole < 3600:
        return f'{whole // 60} min {whole % 60} s'
    return f'{whole // 3600} h {whole % 3600 // 60} min'
