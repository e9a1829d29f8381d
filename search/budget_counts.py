"""The dynamic programme of :mod:`search.budget`: completions by binned cost so far, and draws from them."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from search.budget_layers import Layer

__all__ = ['Completions']


class Axis:
    """One of the costs in bins.

    What every option of a layer adds at least is left out, so bins count from 0. ``shifts[t]``, (contexts,
    options), are the bins that layer t adds; ``ranges[t]`` is the (lowest, highest) bin before it from which
    the last range can be reached, and every architecture whose cost is in the interval ends in that last
    range.
    """

    def __init__(
        self, layers: Sequence[Layer], axis: int, interval: tuple[float, float], width: float
    ) -> None:
        """
        Args:
            layers: The unrolled cost model.
            axis: 0 for params, 1 for macs.
            interval: (lowest, highest) cost.
            width: Of a bin; infinite for a cost that is not limited.
        """
        self.shifts: list[NDArray[np.int64]] = []
        low, high = interval
        for layer in layers:
            real = layer.target >= 0
            least = layer.costs[real, axis].min()
            rest = np.where(real, layer.costs[..., axis] - least, 0)
            shift = np.rint(rest / width).astype(np.int64)
            error = rest - shift * width if width < math.inf else np.zeros(1)
            low, high = low - least - error.max(), high - least - error.min()
            self.shifts.append(shift)
        first, last = (
            (math.ceil(low / width - 1e-6), math.floor(high / width + 1e-6)) if width < math.inf else (0, 0)
        )
        longest = np.cumsum([0, *(shift.max() for shift in self.shifts)]).tolist()
        self.ranges = [(max(0, first - longest[-1] + length), min(last, length)) for length in longest]


class Completions:
    """All ways to go through the layers that end in the bins of an interval.

    Attributes:
        log_count: Natural logarithm of their number, or -inf.
        nbytes: Memory that the counts take.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        intervals: Sequence[tuple[float, float]],
        spans: Sequence[float | None],
        cells: int,
    ) -> None:
        """
        Args:
            layers: The unrolled cost model.
            intervals: (lowest, highest) params and macs.
            spans: How far the bins of each must reach: from the least cost of the space to the interval's
                end. None where every architecture is inside.
            cells: Bins at a layer: of one cost, or of both together.
        """
        self.layers = layers
        self.axes = [
            Axis(layers, i, interval, width)
            for i, (interval, width) in enumerate(
                zip(intervals, _bin_widths(layers, intervals, spans, cells), strict=True)
            )
        ]
        self.log_count = -math.inf
        self._counts: list[NDArray[np.float64]] = []
        if all(low <= high for axis in self.axes for low, high in axis.ranges):
            self._count()

    @property
    def nbytes(self) -> int:
        return sum(counts.nbytes for counts in self._counts)

    def _count(self) -> None:
        """Fills in, from the last layer back, the (contexts, bins, bins) numbers of completions, scaled."""
        following = np.ones((1, *self._shape(len(self.layers))))
        self._counts, log_scale = [following], 0.0
        for t in reversed(range(len(self.layers))):
            targets = self.layers[t].target
            counts = np.zeros((len(targets), *self._shape(t)))
            for context, option in zip(*np.nonzero(targets >= 0), strict=True):
                spans = [
                    _overlap(axis.ranges[t], axis.ranges[t + 1], axis.shifts[t][context, option])
                    for axis in self.axes
                ]
                here, there = zip(*spans, strict=True)
                counts[context][here] += following[targets[context, option]][there]
            if (largest := counts.max()) == 0:
                return
            following = counts / largest
            log_scale += math.log(largest)
            self._counts.insert(0, following)
        self.log_count = log_scale

    def draw(self, generator: np.random.Generator, number: int) -> NDArray[np.int16]:
        """Draws uniformly: (number, choices) genotypes."""
        drawn = []
        context = np.zeros(number, np.intp)
        bins: list[np.ndarray] = [np.zeros((number, 1), np.int64) for _ in self.axes]
        for t, layer in enumerate(self.layers):
            shape = self._shape(t + 1)
            target = layer.target[context]
            inside, index = target >= 0, target
            reached = [at + axis.shifts[t][context] for at, axis in zip(bins, self.axes, strict=True)]
            for to, axis, size in zip(reached, self.axes, shape, strict=True):
                low, high = axis.ranges[t + 1]
                inside &= (low <= to) & (to <= high)
                index = index * size + to - low
            weights = np.where(inside, self._counts[t + 1].take(index, mode='clip'), 0.0).cumsum(1)
            option = (weights <= generator.random((number, 1)) * weights[:, -1:]).sum(1)
            drawn.append(layer.genes[context, option])
            rows = np.arange(number)
            context = target[rows, option]
            bins = [to[rows, option, None] for to in reached]
        return np.concatenate(drawn, 1)

    def _shape(self, t: int) -> tuple[int, ...]:
        return tuple(axis.ranges[t][1] - axis.ranges[t][0] + 1 for axis in self.axes)


def _overlap(here: tuple[int, int], there: tuple[int, int], shift: int) -> tuple[slice, slice]:
    """The bins of one range, and those of the next, that a shift connects."""
    low = max(here[0], there[0] - shift)
    stop = max(low, min(here[1], there[1] - shift) + 1)
    return slice(low - here[0], stop - here[0]), slice(low + shift - there[0], stop + shift - there[0])


def _bin_widths(
    layers: Sequence[Layer],
    intervals: Sequence[tuple[float, float]],
    spans: Sequence[float | None],
    cells: int,
) -> list[float]:
    """Divides the cells between the costs so that the fewest draws fall outside of the intervals."""

    def widths(numbers: Sequence[float]) -> list[float]:
        return [
            max(1.0, span / number) if span is not None else math.inf
            for span, number in zip(spans, numbers, strict=True)
        ]

    def acceptance(numbers: Sequence[float]) -> float:
        return math.prod(
            (high - low + 1) / (high - low + 1 + len(layers) * (width - 1))
            for (low, high), width in zip(intervals, widths(numbers), strict=True)
            if width < math.inf
        )

    splits = [(2.0**i, cells / 2**i) for i in range(cells.bit_length())]
    return widths(max(splits, key=acceptance))
