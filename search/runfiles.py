"""What a run's folder holds, for those who only read it: nothing is locked, nothing is changed."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from zoo.entry import Entry, read_entry
from zoo.errors import ZooError

__all__ = ['DAMAGED', 'RunFiles']

Record = dict[str, Any]
R = TypeVar('R', bound='RunFiles')
NAME = re.compile(r'[a-z][a-z0-9_]{0,63}')
SECTIONS = ('', 'level1/', 'level2/')
"""Where a search by a strategy may stand: in the run itself, or at one of two levels."""
DAMAGED = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What comes of data that are not as they were written."""


@dataclass(frozen=True)
class RunFiles:
    """A run's folder.

    Attributes:
        folder: Where it is.
        config: What was run.
        versions: Of what it was run with.
        faults: Sentences on files that are damaged; grows as files are read.
    """

    folder: Path
    config: Record
    versions: Record
    faults: list[str] = field(default_factory=list)

    @classmethod
    def open(cls: type[R], folder: Path | str) -> R:
        """Opens a run's folder for reading.

        Raises:
            ZooError: It holds no run of a search.
        """
        folder = Path(folder)
        path = folder / 'config.json'
        needed = 'the folder of a `searchzoo search run` is needed'
        if not path.is_file():
            runs = sorted(item.parent.name for item in folder.glob('*/config.json'))
            hint = f', but runs in {", ".join(runs[:3])}' if runs else ''
            raise ZooError(f'{folder}: found no config.json{hint}; {needed}.')
        try:
            found = json.loads(path.read_bytes())
            config, versions = found['config'], found['versions']
            is_search = {'method', 'name', 'search'} <= set(config)
            if is_search and not (isinstance(config['search'], dict) and NAME.fullmatch(config['name'])):
                raise ValueError
            config, versions = dict(config), dict(versions)
        except (OSError, *DAMAGED):
            raise ZooError(f'{path}: is damaged; {needed}.') from None
        if not is_search:
            raise ZooError(f'{folder}: found a run that is no search; {needed}.')
        return cls(folder, config, versions)

    @property
    def name(self) -> str:
        return str(self.config.get('name'))

    @contextmanager
    def noting(self, fault: str) -> Iterator[None]:
        """Ends a piece of work on damaged data, and notes what is left out for that."""
        try:
            yield
        except DAMAGED:
            self.faults.append(fault)

    def read(self, name: str) -> Any:
        """The contents of a JSON file, or None if there is none or it is damaged."""
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_bytes())
        except (OSError, RecursionError, ValueError):
            self.faults.append(f'{name} is damaged and left out.')
            return None

    @cached_property
    def events(self) -> list[Record]:
        """The log; lines that are damaged are left out."""
        path = self.folder / 'events.jsonl'
        found, damaged = [], 0
        for line in path.read_bytes().splitlines() if path.is_file() else []:
            try:
                event = json.loads(line)
                assert isinstance(event['phase'], str)
                assert isinstance(event['step'], int)
                found.append(event)
            except (AssertionError, *DAMAGED):
                damaged += 1
        if damaged:
            lines = 'line is' if damaged == 1 else 'lines are'
            self.faults.append(f'events.jsonl: {damaged} {lines} damaged and left out.')
        return found

    def events_of(self, phase: str) -> list[Record]:
        """The events of a phase."""
        return [event for event in self.events if event['phase'] == phase]

    @cached_property
    def entry(self) -> Entry | None:
        """What was found, if the run has come so far."""
        path = self.folder / f'{self.name}.json'
        if not path.is_file():
            return None
        try:
            return read_entry(path)
        except ZooError:
            self.faults.append(f'{path.name} is no valid entry and left out.')
            return None

    @cached_property
    def result(self) -> Record | None:
        """The checklist of the run, if it has been written."""
        found = self.read('result.json')
        return found if isinstance(found, dict) else None

    def correlation(self, section: str) -> Record | None:
        """How the estimates of a search rank beside stand-alone results, if that was measured."""
        found = self.read(f'{section}correlation.json')
        if isinstance(found, dict) and {'points', 'tau', 'interval', 'n'} <= set(found):
            return found
        return None

    @cached_property
    def again(self) -> list[Record]:
        """A record of params, MACs and accuracies for each training of what was found, the emitted one
        first."""
        if self.entry is None or self.entry.measured is None:
            return []
        weights = next(iter((self.entry.weights or {}).values()), None)
        emitted = [self.entry.measured.model_dump() | weights.metrics] if weights and weights.metrics else []
        return emitted + self.read_comparison('again')

    def read_comparison(self, kind: str) -> list[Record]:
        """Records of trainings for comparison: ``again`` of the result, ``random`` of random networks."""
        folder = self.folder / 'comparison'
        paths = sorted(folder.glob(f'{kind}*.json'), key=lambda path: int(re.sub(r'\D', '', path.stem) or 0))
        found = [self.read(f'comparison/{path.name}') for path in paths]
        return [record for record in found if isinstance(record, dict)]

    def candidates(self, section: str, name: str = 'search') -> list[Record]:
        """Records of a search or of its random baseline: of its file, or of the log of an unfinished one."""
        found = self.read(f'{section}{name}.json')
        if isinstance(found, dict):
            return [c for c in found.get('candidates', []) if {'score', 'macs'} <= set(c)]
        return [e for e in self.events_of(f'{section}{name}') if {'score', 'macs'} <= set(e)]

    def best(self, section: str) -> Record | None:
        """The best candidate of a finished search."""
        found = self.read(f'{section}search.json')
        return found.get('best') if isinstance(found, dict) else None

    @property
    def iterations(self) -> list[tuple[Record, Record]]:
        """Of each finished iteration of a search for a space, its space and the errors by which it moved."""
        found = []
        for t in range(1, 101):
            space, errors = (self.read(f'iteration{t}/{name}.json') for name in ('space', 'errors'))
            if not (isinstance(space, dict) and isinstance(errors, dict)):
                break
            found.append((space, errors))
        return found

    def phases_of_seed(self, number: int) -> list[Record]:
        """The events of one of several searches by gradients."""
        logged = [e for e in self.events if e['phase'].startswith(f'seed{number}/')]
        return [event for event in logged if any(key.startswith('weight/') for key in event)]
