"""What every strategy is: something that asks for candidates and is told their scores."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from random import Random
from typing import Any

from search.sampling import Sampler
from search.space import Genotype
from zoo.errors import ZooError

__all__ = ['Key', 'Strategy']

Key = Callable[[Genotype], Hashable]
"""Genotypes of equal key are the same network."""

MAX_REPEATS = 1000
MAX_ENUMERATED = 20_000


class Strategy(ABC):
    """Asks for candidates, each a new network, and is told their scores.

    Scores may be told in any order and by any number of workers: what is asked depends only on the seed and
    on the scores of fixed earlier candidates, in the order in which those were asked.

    Attributes:
        genotypes: What was asked.
        scores: The score of each candidate: higher is better, None while it is pending or if it failed.
        reports: What was learned since the last look at them: numbers for a log, cleared by who takes them.
        num_unguided: So many candidates, from the first one on, are asked whatever the scores are.
    """

    num_unguided: float = 0

    def __init__(self, sampler: Sampler, seed: int, key: Key | None = None) -> None:
        """
        Args:
            sampler: The architectures that may be asked, and how new ones are drawn.
            seed: Every random decision derives from it and from what the decision is for.
            key: Tells which genotypes are the same network; none are without it.
        """
        self.sampler = sampler
        self.space = sampler.space
        self.seed = seed
        self.key: Key = key or _itself
        self._forget()

    def _forget(self) -> None:
        self.genotypes: list[Genotype] = []
        self.scores: list[float | None] = []
        self._pending: set[int] = set()
        self._numbers: dict[Genotype, int] = {}
        self._keys: set[Hashable] = set()
        self.reports: list[dict[str, float]] = []

    def learn(self) -> None:  # noqa: B027
        """Catches up with the scores that were told; most strategies have nothing to learn."""

    @abstractmethod
    def propose(self) -> Genotype | None:
        """The next candidate, for which :meth:`is_new` holds, or None. Changes nothing."""

    @property
    def pending(self) -> list[Genotype]:
        """Candidates without a score, in ask order. After a restart they must be evaluated again."""
        return [self.genotypes[number] for number in sorted(self._pending)]

    def ask(self) -> Genotype | None:
        """The next candidate.

        Returns:
            None if scores of pending candidates must be told first, or, when none is pending, if there is no
            new candidate left.
        """
        genotype = self.propose()
        if genotype is not None:
            self._add(genotype)
        return genotype

    def tell(self, genotype: Genotype, score: float | None) -> None:
        """Gives the score of a pending candidate; None, NaN and infinities say that it failed.

        Raises:
            ZooError: The candidate was not asked, or has been told already.
        """
        number = self._numbers.get(genotype)
        if number is None or number not in self._pending:
            state = 'was never asked' if number is None else 'has its score already'
            raise ZooError(
                f'Candidate {genotype}: {state}, one of the {len(self._pending)} pending ones is needed.'
            )
        self._pending.remove(number)
        self.scores[number] = float(score) if score is not None and math.isfinite(score) else None

    def settled(self) -> tuple[int, float]:
        """How many leading candidates have their scores whenever the last candidate is asked, and the score
        below which that one cannot change what is asked later."""
        return 0, -math.inf

    def state(self) -> dict[str, Any]:
        """Everything but the constructor's arguments, as JSON data."""
        return {
            'genotypes': [list(genotype) for genotype in self.genotypes],
            'scores': list(self.scores),
            'pending': sorted(self._pending),
        }

    def restore(self, data: dict[str, Any]) -> None:
        """Continues from a state, in a strategy that was made with the same arguments.

        Raises:
            ZooError: A genotype is not one of the space.
        """
        self._forget()
        for indices in data['genotypes']:
            genotype = self.space.canonical(indices)
            if list(genotype) != list(indices):
                raise ZooError(
                    f'Candidate {indices}: found values for inactive choices, {genotype} would be allowed.'
                )
            self._add(genotype)
        self.scores = list(data['scores'])
        self._pending = set(data['pending'])

    def is_new(self, genotype: Genotype) -> bool:
        """Whether a genotype may be asked: the sampler allows it, and its network was not asked before."""
        return self.sampler.allows(genotype) and self.key(genotype) not in self._keys

    def draw_new(self, rng: Random) -> Genotype | None:
        """A new candidate from the sampler.

        Returns:
            None if there is none left. In a space of more than 20,000 architectures that is taken for true
            after 1000 draws in a row that were asked before.
        """
        for _ in range(MAX_REPEATS):
            if self.is_new(genotype := self.sampler.sample(rng)):
                return genotype
        if self.space.size() > MAX_ENUMERATED:
            return None
        left = list(filter(self.is_new, self.space.enumerate()))
        return rng.choice(left) if left else None

    def _add(self, genotype: Genotype) -> None:
        number = len(self.genotypes)
        self.genotypes.append(genotype)
        self.scores.append(None)
        self._pending.add(number)
        self._numbers[genotype] = number
        self._keys.add(self.key(genotype))


def _itself(genotype: Genotype) -> Genotype:
    return genotype
