"""Which architectures a training step or a search looks at: random ones of a space, or a sandwich."""

from dataclasses import dataclass
from random import Random
from typing import Protocol

from search.space import Genotype, Space

__all__ = ['Sampler', 'SpaceSampler', 'sandwich']


class Sampler(Protocol):
    """Draws from a part of a space; :class:`search.budget.BudgetSampler` is another one."""

    @property
    def space(self) -> Space: ...

    def sample(self, rng: Random) -> Genotype:
        """Draws an architecture of the part."""

    def allows(self, genotype: Genotype) -> bool:
        """Whether an architecture of the space belongs to the part."""


@dataclass(frozen=True)
class SpaceSampler:
    """Draws from a whole space: uniformly over its architectures, or over the values of each choice."""

    space: Space
    hierarchical: bool = False

    def sample(self, rng: Random) -> Genotype:
        return self.space.sample_hierarchical(rng) if self.hierarchical else self.space.sample(rng)

    def allows(self, genotype: Genotype) -> bool:
        return True


def sandwich(
    sampler: Sampler, rng: Random, num_random: int = 2, largest: bool = True, smallest: bool = True
) -> list[Genotype]:
    """The architectures of a training step: largest, smallest and random ones of the space (S3, Sec. 2.3).

    In a tiny space the same one can come up twice; it is listed, and trained, once.
    """
    extremes = [sampler.space.largest()] * largest + [sampler.space.smallest()] * smallest
    return list(dict.fromkeys([*extremes, *(sampler.sample(rng) for _ in range(num_random))]))
