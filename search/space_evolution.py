"""How a search space moves: the mathematics of S3 (arXiv 2111.14725, Sec. 2.3, Eq. 5 to 8).

A space whose declaration lists, stage by stage, the values of its sizes is a product of subspaces S_i, one
for each stage and size (Eq. 6). Each of them moves to where errors are smaller: a line is fitted to the E-T
errors of its choices (Eq. 7), and its slope w says by how many steps all choices are shifted (Eq. 8).

The paper leaves open in what unit the error is and per what w is. Its tau of 0.4 fits percentage points: of
errors as fractions no slope reaches 0.4, so that -floor(w / tau) is 0 or 1 and nothing ever shrinks, as the
depths of its Fig. 2 do. By default w is per choice, so that one tau fits sizes of different units; as Eq. 7
prints it (``paper: true``), w is per channel, block, token or unit of the MLP ratio.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Annotated, Any

import numpy as np
from pydantic import Field, model_validator

from search.choice import Choice, Value
from search.space import Space
from zoo.arch import Part
from zoo.models.s3 import HEAD_DIM

__all__ = [
    'Dimension',
    'ErrorQuality',
    'Evolution',
    'Line',
    'et_error',
    'fit_line',
    'list_dimensions',
    'num_steps',
    'redeclare',
    't_quantile',
]

Size = int | float
UNITS = {'num_heads': HEAD_DIM}
"""What 1 of a size is in the paper's unit, where that is another one: channels of q, k and v for a head."""
PAPER_STEPS: dict[str, Size] = {
    'depth': 1,
    'embed_dim': 64,
    'window_size': 7,
    'num_heads': 2,
    'mlp_ratio': 0.5,
}


class Evolution(Part):
    """How the space is searched (Algorithm 1)."""

    iterations: Annotated[int, Field(ge=1, le=100)] = Field(
        3, description='T: supernets that are trained for it'
    )
    architectures: Annotated[int, Field(ge=2)] = Field(
        description='N: drawn from each subspace, and evaluated'
    )
    top_share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.05, description='of them, whose mean error is the T in E-T'
    )
    tau: Annotated[float, Field(gt=0)] = Field(
        0.4, description='slope for which a dimension moves by a step, in percentage points'
    )
    steps: dict[str, Annotated[Size, Field(gt=0)]] = Field(
        PAPER_STEPS, description='gamma: sizes that move, and by how much in a step; others stay'
    )
    confidence: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.95, description="of the slope's interval; a dimension stays where that contains 0"
    )
    paper: bool = Field(
        False, description='Eq. 7 and 8 to the letter: slopes per unit of the size, rounded down, no interval'
    )

    @model_validator(mode='after')
    def _check_steps(self) -> 'Evolution':
        if not self.steps:
            raise ValueError('steps: found none, then nothing can move; use method one_shot')
        return self


@dataclass(frozen=True)
class Dimension:
    """A subspace S_i: what a stage declares for one of its sizes.

    Attributes:
        stage: From 1 on.
        name: Of the size, such as 'embed_dim'.
        values: As declared.
    """

    stage: int
    name: str
    values: tuple[Size, ...]

    def fix(self, space: Space, value: Size) -> dict[str, Value]:
        """The choices of the space that become fixed where this size has one value (in all blocks)."""
        names = [choice.name for choice in space.choices]
        prefix, suffix = f'stage{self.stage}.', f'.{self.name}'
        return {name: value for name in names if name.startswith(prefix) and name.endswith(suffix)}

    def positions(self, paper: bool) -> list[float]:
        """x of Eq. 7 for each value: its rank, or as the paper prints it the value itself."""
        if paper:
            return [float(value * UNITS.get(self.name, 1)) for value in self.values]
        return [float(sorted(self.values).index(value)) for value in self.values]

    def shift(self, step: Size) -> tuple[Size, ...]:
        """The values with a step added to each, without those that are then not above zero.

        Raises:
            ZooError: None is left.
        """
        moved = Choice(f'stage{self.stage}.{self.name}', self.values).shift(step)
        return tuple(value for value in moved.values if not isinstance(value, str))


def list_dimensions(declaration: Mapping[str, Any], names: Sequence[str]) -> list[Dimension]:
    """The subspaces of a space (Eq. 6) that are of some sizes, stage by stage."""
    return [
        Dimension(number, name, tuple(stage[name]))
        for number, stage in enumerate(declaration['stages'], 1)
        for name in names
    ]


def redeclare(
    declaration: Mapping[str, Any], moved: Mapping[tuple[int, str], Sequence[Size]]
) -> dict[str, Any]:
    """The declaration with other values for some sizes, by (stage, name)."""
    changed: dict[str, Any] = copy.deepcopy(dict(declaration))
    for (stage, name), values in moved.items():
        changed['stages'][stage - 1][name] = list(values)
    return changed


# ---- the quality of a space


@dataclass(frozen=True)
class ErrorQuality:
    """Q of a space, from the errors of architectures drawn from it, in percentage points.

    Attributes:
        expected: Q_e, the mean error (Eq. 5).
        top: Q_t, the mean error of the best ones.
        value: The E-T error, their mean.
        deviation: Standard error of the E-T error, over draws of architectures.
        num_top: The best ones.
    """

    expected: float
    top: float
    value: float
    deviation: float
    num_top: int


def et_error(errors: Sequence[float], top_share: float) -> ErrorQuality:
    """The E-T error of some architectures (Sec. 2.3): the paper's top 50 are 5 % of 1,000.

    An error e adds to the mean of all its (e - mean) / N, and to that of the best share p its (e - q) / (p N)
    if it is below the quantile q (the influence function of a mean below a quantile). The scatter of the
    sum, with the next error after the best ones for q, gives the standard error.

    Args:
        errors: Of at least two architectures, each as often as it was drawn.
        top_share: p.
    """
    ordered = np.sort(np.asarray(errors, dtype=np.float64))
    count = len(ordered)
    num_top = max(1, round(top_share * count))
    expected, top = float(ordered.mean()), float(ordered[:num_top].mean())
    quantile = ordered[min(num_top, count - 1)]
    influence = (ordered - np.maximum(quantile - ordered, 0) * count / num_top) / 2
    deviation = float(influence.std(ddof=1)) / math.sqrt(count)
    return ErrorQuality(expected, top, (expected + top) / 2, deviation, num_top)


@dataclass(frozen=True)
class Line:
    """y = w x + b by least squares (Eq. 7), with an interval of w.

    Attributes:
        r2: Share of the variance of y that the line explains; None where y does not vary.
    """

    slope: float
    intercept: float
    r2: float | None
    interval: tuple[float, float]


def fit_line(x: Sequence[float], y: Sequence[ErrorQuality], confidence: float) -> Line:
    """The line through the E-T errors of a dimension's choices.

    The points are too few to show their own scatter (two choices always lie on a line), so the interval
    comes from that of the architectures: the slope is a weighted sum of independent E-T errors. Student's t
    has two degrees of freedom for each of the best architectures, since half of an E-T error rests on these
    few: in simulations with continuous errors and 20 or more architectures to a choice the interval of 95 %
    held the slope in 93 to 99 % where choices did not differ (with all N as degrees, in 88 to 96 %), and in
    90 to 99 % where their errors had different spreads. Its scatter is that of other
    draws with the same supernet and images; another training of the supernet is not in it.

    Args:
        x: At least two different numbers.
        y: The choices' errors.
        confidence: Of the interval, between 0 and 1.
    """
    positions, values = np.asarray(x, dtype=np.float64), np.array([quality.value for quality in y])
    centred = positions - positions.mean()
    weights = centred / (centred**2).sum()
    slope = float(weights @ values)
    intercept = float(values.mean() - slope * positions.mean())
    residual = float(((values - intercept - slope * positions) ** 2).sum())
    total = float(((values - values.mean()) ** 2).sum())
    deviation = math.sqrt(float((weights**2) @ np.array([quality.deviation**2 for quality in y])))
    half = t_quantile((1 + confidence) / 2, 2 * sum(quality.num_top for quality in y)) * deviation
    return Line(slope, intercept, 1 - residual / total if total else None, (slope - half, slope + half))


def t_quantile(probability: float, degrees: int) -> float:
    """Student's t, by its expansion in powers of 1 / degrees (Abramowitz and Stegun, 26.7.5)."""
    z = NormalDist().inv_cdf(probability)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum(term / degrees**power for power, term in enumerate(terms))


def num_steps(line: Line, evolution: Evolution) -> int:
    """By how many steps the choices shrink (Eq. 8); grow, if it is negative.

    The paper's floor takes every slope below zero, be it noise, for a step upwards: a dimension that does
    nothing moves half of the time. So by default the rounding is toward zero, and a slope that may as well
    be zero moves nothing.
    """
    if evolution.paper:
        return math.floor(line.slope / evolution.tau)
    low, high = line.interval
    return 0 if low <= 0 <= high else math.trunc(line.slope / evolution.tau)
