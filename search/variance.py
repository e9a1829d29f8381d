"""How much of what a table says is due to its architectures, and how much to the seeds of their trainings."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

__all__ = ['VarianceShare', 'variance_share']


class VarianceShare(NamedTuple):
    """Of one measurement of an architecture's training.

    Attributes:
        share: Of the variance that the architecture explains (the intraclass correlation, ICC(1)): the
            correlation of two trainings of one architecture with different seeds. An estimate, which can
            fall below 0 where the true share is small; NaN if all measurements are equal.
        noise: Standard deviation between trainings of one architecture, in the measurement's unit.
        architectures: With several trainings, on which the estimate rests.
    """

    share: float
    noise: float
    architectures: int


def variance_share(groups: Sequence[Sequence[float]]) -> VarianceShare:
    """One-way analysis of variance with random effects.

    Args:
        groups: For each architecture the values of its trainings. Those with a single one say nothing of the
            noise and are left out, so that both parts are estimated on the same architectures.

    Raises:
        ValueError: Fewer than two architectures have several trainings.
    """
    kept = [np.asarray(group, float) for group in groups if len(group) > 1]
    if len(kept) < 2:
        raise ValueError(f'found {len(kept)} groups of several values, at least two are needed')
    sizes = np.array([len(group) for group in kept])
    means = np.array([group.mean() for group in kept])
    total, count = sizes.sum(), len(kept)
    within = sum(((group - group.mean()) ** 2).sum() for group in kept) / (total - count)
    between = (sizes * (means - (sizes * means).sum() / total) ** 2).sum() / (count - 1)
    size = (total - (sizes**2).sum() / total) / (count - 1)  # of a group; their size if all are equal
    scale = between + (size - 1) * within
    share = (between - within) / scale if scale else math.nan
    return VarianceShare(float(share), math.sqrt(within), count)
