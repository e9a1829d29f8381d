"""Sampling within limits of latency, and of params and MACs."""

from random import Random

import numpy as np

from search.budget import BudgetSampler, Limits
from search.cost import CostModel, Factor
from search.latency import LatencyModel
from search.space import Genotype
from zoo.errors import ZooError

__all__ = ['LatencySampler']

MAX_REJECTED = 512, 16_384
"""Draws in a row that may lie outside of the limits of params: when a sampler is made, and of a sample."""


class LatencySampler:
    """Draws uniformly from the architectures of a space within limits.

    Latency and one cost are met by construction, as two costs are by :class:`search.budget.BudgetSampler`.
    Where both costs have limits, draws outside of those of params are rejected: they go along with MACs.
    """

    def __init__(
        self, model: CostModel, limits: Limits, latency: LatencyModel, seconds: tuple[float, float]
    ) -> None:
        """
        Args:
            model: The cost of the space's architectures.
            limits: What they may cost.
            latency: Their latency.
            seconds: The lowest and the highest allowed one.

        Raises:
            ZooError: No architecture lies within the limits, or so few that they cannot be found.
        """
        self.space = model.space
        self.model = model
        self.limits = limits
        self.latency = latency
        self.seconds = seconds
        if not seconds[0] <= seconds[1]:
            raise ZooError(f'limits: latency: found {seconds!r}, (lowest, highest) is needed.')
        second, limit = ('params', limits.params) if limits.macs is None else ('macs', limits.macs)
        factors = [Factor(f.names, np.zeros_like(f.params), getattr(f, second)) for f in model.factors]
        both = CostModel(self.space, [*latency.factors, *factors])
        nanoseconds = seconds[0] * 1e9, seconds[1] * 1e9
        try:
            self._sampler = BudgetSampler(both, Limits(nanoseconds, limit))
            self._draw(Random(0), MAX_REJECTED[0])
        except ZooError:
            raise ZooError(self._describe()) from None

    def allows(self, genotype: Genotype) -> bool:
        """Whether an architecture lies within the limits."""
        return self._sampler.allows(genotype) and self.limits.allow(self.model.cost(genotype))

    def sample(self, rng: Random) -> Genotype:
        """Draws one architecture."""
        return self._draw(rng, MAX_REJECTED[1])

    def _draw(self, rng: Random, attempts: int) -> Genotype:
        for _ in range(attempts):
            genotype = self._sampler.sample(rng)
            if self.limits.allow(self.model.cost(genotype)):
                return genotype
        raise ZooError('limits: found no architecture within them, wider ones are needed.')

    def _describe(self) -> str:
        """Why there is no sampler: what was asked for, and what there is."""
        given = [f'{name} from {low:,} to {high:,}' for name, (low, high) in self._given().items()]
        least, most = self.latency.attainable()
        there_is = [f'latency from {least:.4g} to {most:.4g} s']
        costs = BudgetSampler(self.model, Limits()).attainable()
        there_is += [f'{name} from {low:,} to {high:,}' for name, (low, high) in costs.items()]
        found = f'latency from {self.seconds[0]:.4g} to {self.seconds[1]:.4g} s'
        return (
            f'limits: found {" and ".join([found, *given])}: no architecture of space {self.space.name!r} '
            f'meets that, or too few to be found; it has {" and ".join(there_is)}.'
        )

    def _given(self) -> dict[str, tuple[float, float]]:
        limits = {'params': self.limits.params, 'macs': self.limits.macs}
        return {name: limit for name, limit in limits.items() if limit is not None}
