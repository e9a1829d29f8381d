"""What a checklist needs of a run's folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from search.checkpoint import read_checkpoint
from search.evidence import binomial_error, summarise_random
from search.runfiles import RunFiles
from search.spaces import FamilySpace, load_space
from zoo.errors import ZooError

__all__ = ['Files']

Record = dict[str, Any]


@dataclass(frozen=True)
class Files(RunFiles):
    """A run's folder, for who asks how good the search was: damaged files are refused."""

    def read(self, name: str) -> Any:
        found = super().read(name)
        if found is None and (self.folder / name).is_file():
            raise ZooError(f'{self.folder / name}: is damaged, the file as it was written is needed.')
        return found

    @cached_property
    def seconds(self) -> dict[str, float]:
        """What each phase took."""
        path = self.folder / 'checkpoint.pt'
        return read_checkpoint(path).seconds if path.is_file() else {}

    @property
    def limits(self) -> dict[str, list[float]]:
        """Lowest and highest cost, by name."""
        found = {name: limit for name, limit in self.config['search']['limits'].items() if limit is not None}
        return {name: limit['seconds'] if name == 'latency' else limit for name, limit in found.items()}

    def load_space(self, restrict: Mapping[str, Any]) -> FamilySpace:
        """The space, the one that was found where that was searched, with fewer values of some choices."""
        space = load_space(
            self.read('space.json') or self.config['space'], tuple(self.config['input']['size'])
        )
        allowed = {**self.config['restrict'], **restrict}
        return space.restrict(allowed) if allowed else space

    @cached_property
    def space(self) -> FamilySpace:
        return self.load_space({})

    def relaxations(self) -> list[Record]:
        """Of a differentiable search: the record of each seed, with its last architecture parameters."""
        if self.config['method'] != 'differentiable':
            return []
        found = self.read('seeds.json') or []
        return [record | self.read(f'seed{record["seed"]}/target.json') for record in found]

    def find_kept(self) -> Record | None:
        """What a differentiable search has found."""
        kept = next((record for record in self.relaxations() if record['kept']), None)
        if kept is None:
            return None
        metrics = {key: value for key, value in kept['trained'].items() if key != 'score'}
        found = {key: kept[key] for key in ('genotype', 'params', 'macs')}
        values = self.space.space.values(tuple(kept['genotype']))
        return found | {
            'values': values,
            'score': kept['trained']['score'],
            'metrics': metrics,
            'standard_error': self.find_error(metrics['top1']),
        }

    def find_error(self, top1: float) -> float | None:
        """Standard error of a score on val that is an accuracy."""
        images = (self.read('data.json') or {}).get('val')
        if self.config['search']['objective'] != 'top1' or not images:
            return None
        return binomial_error(top1, images)

    def comparison(self) -> Record | None:
        """The trainings of the result, the emitted one first, and of random networks of equal cost."""
        random = self.read_comparison('random')
        return {'found': self.again, 'random': random} if self.again and random else None

    def compare_with_trained(self) -> Record | None:
        """A search without candidates beside random networks of equal cost, by their accuracy on val."""
        if (compared := self.comparison()) is None:
            return None
        accuracies = {key: [row['val_top1'] for row in rows] for key, rows in compared.items()}
        score = sum(accuracies['found']) / len(accuracies['found'])
        return {'of': 'trained', 'found': score, **summarise_random(accuracies['random'], score, False)}
