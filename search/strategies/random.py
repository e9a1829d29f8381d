"""Random search: what every other strategy has to beat at equal cost."""

import math
from random import Random

from search.seeding import derive_seed
from search.space import Genotype
from search.strategies.strategy import Strategy

__all__ = ['RandomSearch']


class RandomSearch(Strategy):
    """Asks what the sampler draws, every network once. Needs no scores, so it never waits for one."""

    num_unguided = math.inf

    def propose(self) -> Genotype | None:
        return self.draw_new(Random(derive_seed(self.seed, 'random', len(self.genotypes))))
