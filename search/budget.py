"""Sampling within a budget: uniform over the architectures whose params and MACs lie between limits.

Rejection from the whole space hangs on a tight budget. Here a dynamic programme over the cost tables counts,
for every point on the way through the choices and every (binned) cost so far, the completions that end within
the limits, give or take what bins hide. Choices drawn in proportion to those counts are uniform over a set
that holds every architecture within the limits and little else; the exact cost then accepts or rejects.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from random import Random

import numpy as np
from numpy.typing import NDArray

from search.budget_counts import Completions
from search.budget_layers import Layer, build_layers
from search.cost import Cost, CostModel
from search.space import Genotype
from zoo.errors import ZooError

__all__ = ['BudgetSampler', 'Limits']

CELLS = 1 << 12, 1 << 14, 1 << 16, 1 << 18
"""Bins of the cost so far, refined until a quarter of all draws is within the limits, ..."""
MAX_BYTES = 1 << 26
"""... or until the counts take more memory."""
MIN_ACCEPTED = 8
MAX_DRAWS = 1 << 17
"""In so many draws at least 8 must be within the limits when a sampler is made. A sample may take 8 times as
many, so that it practically never fails."""
MAX_BATCH = 4096


@dataclass(frozen=True)
class Limits:
    """Lowest and highest allowed value of each cost, both included; None leaves it free.

    Raises:
        ZooError: The lowest is above the highest, or one of them is not a number.
    """

    params: tuple[float, float] | None = None
    macs: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name in Cost._fields:
            limit = getattr(self, name)
            if limit is not None and not (_are_numbers(limit) and limit[0] <= limit[1]):
                raise ZooError(f'limits: {name}: found {limit!r}, (lowest, highest) is needed.')

    def allow(self, cost: Cost) -> bool:
        """Whether a cost lies within."""
        return all(
            limit is None or limit[0] <= value <= limit[1]
            for limit, value in zip((self.params, self.macs), cost, strict=True)
        )


class BudgetSampler:
    """Draws uniformly from the architectures of a space within limits."""

    def __init__(self, model: CostModel, limits: Limits) -> None:
        """
        Args:
            model: The cost of the space's architectures.
            limits: What they may cost.

        Raises:
            ZooError: No architecture lies within the limits, or so few that they cannot be found.
        """
        self.space = model.space
        self.model = model
        self.limits = limits
        layers = build_layers(model)
        intervals: list[tuple[float, float]] = []
        spans: list[float | None] = []
        for axis, limit in enumerate((limits.params, limits.macs)):
            least, most = _attainable(layers, axis)
            low, high = limit or (least, most)
            intervals.append((max(low, least), min(high, most)))
            spans.append(None if low <= least and most <= high else intervals[-1][1] - least)
        self._batch_size = 256
        accepted, drawn = 0, 0
        for cells in CELLS if all(low <= high for low, high in intervals) else ():
            self._completions = Completions(layers, intervals, spans, cells)
            accepted, drawn = self._try(MIN_ACCEPTED, 1024)
            if accepted >= drawn / 4 or self._completions.nbytes > MAX_BYTES:
                break
        if drawn and accepted < MIN_ACCEPTED:
            accepted, drawn = self._try(MIN_ACCEPTED, MAX_DRAWS)
        if accepted < MIN_ACCEPTED:
            found = _describe((limits.params, limits.macs))
            attainable = _describe([_attainable(layers, axis) for axis in range(2)])
            raise ZooError(
                f'limits: found {found}: no architecture of space {self.space.name!r} meets that, or too few '
                f'to be found; it has {attainable}.'
            )
        self._batch_size = min(MAX_BATCH, max(8, 2 * drawn // accepted))

    def allows(self, genotype: Genotype) -> bool:
        """Whether an architecture lies within the limits."""
        return self.limits.allow(self.model.cost(genotype))

    def sample(self, rng: Random) -> Genotype:
        """Draws one architecture."""
        for accepted, _ in self._batches(np.random.default_rng(rng.getrandbits(64))):
            if len(accepted):
                return tuple(accepted[0].tolist())
        raise ZooError(f'limits: found no architecture within {self.limits}, wider ones are needed.')

    def attainable(self) -> dict[str, tuple[int, int]]:
        """The least and the greatest params and MACs of the whole space's architectures."""
        layers = build_layers(self.model)
        return {name: _attainable(layers, axis) for axis, name in enumerate(Cost._fields)}

    def share(self, precision: float = 0.02) -> float:
        """Share of the space's architectures within the limits, estimated to this relative standard error."""
        accepted, drawn = self._try(math.ceil(precision**-2), MAX_DRAWS)
        return math.exp(self._completions.log_count - math.log(self.space.size())) * accepted / drawn

    def _batches(self, generator: np.random.Generator) -> Iterator[tuple[NDArray[np.int16], int]]:
        """Draws in growing batches: (accepted, choices) genotypes, and how many were drawn for them."""
        drawn, size = 0, self._batch_size
        limits = [limit or (-math.inf, math.inf) for limit in (self.limits.params, self.limits.macs)]
        low, high = np.array(limits).T
        while drawn < 8 * MAX_DRAWS and self._completions.log_count > -math.inf:
            genotypes = self._completions.draw(generator, size)
            costs = self.model.costs(genotypes)
            yield genotypes[((low <= costs) & (costs <= high)).all(1)], size
            drawn, size = drawn + size, min(4 * size, MAX_BATCH)

    def _try(self, wanted: int, max_draws: int) -> tuple[int, int]:
        """Draws until so many are within the limits: how many are, of how many."""
        accepted = drawn = 0
        for genotypes, number in self._batches(np.random.default_rng(0)):
            accepted, drawn = accepted + len(genotypes), drawn + number
            if accepted >= wanted or drawn >= max_draws:
                break
        return accepted, drawn


def _are_numbers(limit: object) -> bool:
    return isinstance(limit, Sequence) and len(limit) == 2 and all(isinstance(end, Real) for end in limit)


def _describe(limits: Sequence[tuple[float, float] | None]) -> str:
    named = zip(Cost._fields, limits, strict=True)
    return ' and '.join(f'{name} from {limit[0]:,} to {limit[1]:,}' for name, limit in named if limit)


def _attainable(layers: Sequence[Layer], axis: int) -> tuple[int, int]:
    """The exact least and greatest cost of the space's architectures."""
    bounds = []
    for sign in (1, -1):
        best = np.zeros(1, np.int64)
        for layer in reversed(layers):
            reached = sign * layer.costs[..., axis] + best[layer.target]
            best = np.where(layer.target >= 0, reached, np.iinfo(np.int64).max).min(1)
        bounds.append(sign * int(best[0]))
    return bounds[0], bounds[1]
