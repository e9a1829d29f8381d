"""Evolution as in SPOS (arXiv 1904.00420), which S3 and GLiT follow, and as in AutoFormer (arXiv 2107.00651).

The first generation is random. Each later one holds mutants and children of the best candidates of all
generations before it, and random ones for what is left of the population and for mutants and children that no
attempt gave anew.
"""

import math
from random import Random
from typing import Annotated

from pydantic import Field, model_validator

from search.sampling import Sampler
from search.seeding import derive_seed
from search.space import Genotype
from search.strategies.strategy import Key, Strategy
from zoo.arch import Part

__all__ = ['PRESETS', 'Evolution', 'EvolutionSettings']

Count = Annotated[int, Field(ge=0, le=100_000)]
Probability = Annotated[float, Field(ge=0, le=1)]


class EvolutionSettings(Part):
    """Sizes and probabilities; the defaults are those of SPOS's code."""

    population: Annotated[int, Field(ge=1, le=100_000, description='candidates of a generation')] = 50
    parents: Annotated[int, Field(ge=1, le=100_000, description='best candidates that have offspring')] = 10
    mutation: Annotated[Count, Field(description='mutants in a generation')] = 25
    crossover: Annotated[Count, Field(description='children of two parents in a generation')] = 25
    mutation_prob: Annotated[Probability, Field(description='of drawing a choice anew')] = 0.1
    root_mutation_prob: Annotated[
        Probability | None,
        Field(description='the same for choices that depend on no other (depths, widths), if it differs'),
    ] = None
    attempts: Annotated[int, Field(ge=1, le=100_000, description='to breed one new candidate')] = 100

    @model_validator(mode='after')
    def _check_sum(self) -> 'EvolutionSettings':
        if self.mutation + self.crossover > self.population:
            raise ValueError(
                f'mutation + crossover is {self.mutation + self.crossover}, at most the population of '
                f'{self.population} is allowed'
            )
        return self


PRESETS = {
    'spos': EvolutionSettings(),
    'autoformer': EvolutionSettings(mutation_prob=0.2, root_mutation_prob=0.4),
    'small': EvolutionSettings(population=16, parents=8, mutation=8, crossover=8),
}
"""The first two are as in the published codes, but parents of different depth can have children, too. small
is ours, for a few hundred candidates or fewer: SPOS's probability, smaller generations and thus more of them.
Chosen by simulation of 231 candidates on eight made-up landscapes of 2,316 rows, among 28 settings of a
population of 4, 8 or 16: those of 8 or 16 with 8 parents or more had the least regret in the end. With 2 to 4
parents the start was as fast and the end worse."""


class Evolution(Strategy):
    """Evolves a population. Between generations it waits until all scores are told."""

    def __init__(
        self,
        sampler: Sampler,
        seed: int,
        key: Key | None = None,
        settings: EvolutionSettings = PRESETS['spos'],
    ) -> None:
        """
        Args:
            sampler: The architectures that may be asked, and how new ones are drawn.
            seed: Every random decision derives from it and from (generation, slot).
            key: Tells which genotypes are the same network; none are without it.
            settings: Sizes and probabilities.
        """
        super().__init__(sampler, seed, key)
        self.settings = settings
        self.num_unguided = settings.population
        prob, root_prob = settings.mutation_prob, settings.root_mutation_prob
        self._probs = [
            prob if choice.parent or root_prob is None else root_prob for choice in self.space.choices
        ]

    def _forget(self) -> None:
        super()._forget()
        self._parents: tuple[int, list[Genotype]] = (0, [])

    def propose(self) -> Genotype | None:
        generation, slot = divmod(len(self.genotypes), self.settings.population)
        if slot == 0 and self._pending:
            return None
        rng = Random(derive_seed(self.seed, 'evolution', generation, slot))
        if self._parents[0] != generation:
            self._parents = generation, self._find_parents(generation)
        return self._breed(self._parents[1], slot, rng) or self.draw_new(rng)

    def settled(self) -> tuple[int, float]:
        """Candidates of earlier generations; the worst of their parents must be beaten to become one."""
        count = (len(self.genotypes) - 1) // self.settings.population * self.settings.population
        scores = sorted((score for score in self.scores[:count] if score is not None), reverse=True)
        best = scores[: self.settings.parents]
        return count, best[-1] if len(best) == self.settings.parents else -math.inf

    def _find_parents(self, generation: int) -> list[Genotype]:
        """The best candidates before a generation: best first, among equals the earlier first."""
        scored = [
            (score, number)
            for number, score in enumerate(self.scores[: generation * self.settings.population])
            if score is not None
        ]
        scored.sort(key=lambda entry: (-entry[0], entry[1]))
        return [self.genotypes[number] for _, number in scored[: self.settings.parents]]

    def _breed(self, parents: list[Genotype], slot: int, rng: Random) -> Genotype | None:
        """A new mutant or child, None if all attempts were in vain."""
        mutates = slot < self.settings.mutation
        if len(parents) < (1 if mutates else 2) or slot >= self.settings.mutation + self.settings.crossover:
            return None
        for _ in range(self.settings.attempts):
            if mutates:
                genotype = self.space.mutate(rng.choice(parents), rng, self._probs)
            else:
                first, second = rng.sample(parents, 2)
                genotype = self.space.crossover(first, second, rng)
            if self.is_new(genotype):
                return genotype
        return None
