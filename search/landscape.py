"""A table as a landscape: its architectures with one metric as their score, and parts of it.

Who searches a landscape may ask its rows only: random draws are draws of rows, and what a mutation or a
policy proposes counts only if the table has it.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

from search.config import parse_config
from search.space import INACTIVE, Genotype, Space, Value
from search.spaces import FamilySpace, load_space
from search.table import read_header, read_rows
from zoo.errors import ZooError

__all__ = ['Landscape', 'is_minimized', 'read_landscape', 'sub_landscapes']

LARGEST_SHARE = 0.5
"""Of the rows of the whole table, in a part: a larger one would be nearly the same landscape again."""


@dataclass(frozen=True)
class Landscape:
    """Scored architectures: a part of a space to draw from (see :class:`search.sampling.Sampler`).

    Args:
        name: What part of the table it is.
        space: Of the architectures.
        scores: Of every row; greater is better, NaN if its evaluation failed.
    """

    name: str
    space: Space
    scores: Mapping[Genotype, float]

    def sample(self, rng: Random) -> Genotype:
        """Draws uniformly from the rows."""
        return rng.choice(self._rows)

    def allows(self, genotype: Genotype) -> bool:
        return genotype in self.scores

    def __len__(self) -> int:
        return len(self.scores)

    @cached_property
    def ranked(self) -> list[float]:
        """The scores of the rows that did not fail, the best first."""
        return sorted((score for score in self.scores.values() if not math.isnan(score)), reverse=True)

    @cached_property
    def _rows(self) -> list[Genotype]:
        return sorted(self.scores)


def is_minimized(metric: str) -> bool:
    """Whether less of a metric is better: of a loss it is, of all others more is."""
    return metric == 'loss'


def read_landscape(path: Path | str, metric: str) -> tuple[Landscape, list[list[float]]]:
    """The whole table, by its first trainings, and all trainings of what was trained several times.

    Args:
        path: Of a table that says of which config it is.
        metric: The score is this, or its negative if less is better.

    Returns:
        The landscape; the metric of all trainings of each architecture that has several, the one with the
        best mean first.

    Raises:
        ZooError: A faulty table, one without a config or without the metric, or one of failures only.
    """
    header = read_header(path)
    if header is None or not isinstance(header.get('config'), dict):
        raise ZooError(
            f'{path}:1: found no config, {{"table": {{"config": {{...}}}}}} is needed to know the space.'
        )
    space = _load_space(header['config'], f'{path}:1: $.table.config')
    rows = read_rows(path, space.space, metric)
    sign = -1 if is_minimized(metric) else 1
    scores = {
        genotype: math.nan if row.metrics is None else sign * row.metrics[metric]
        for genotype, row in rows.items()
    }
    landscape = Landscape('whole table', space.space, scores)
    if not landscape.ranked:
        raise ZooError(f'{path}: found failures only, a row with metrics is needed.')
    repeated = [
        [trained[metric] for trained in (row.metrics, *row.again)]
        for row in rows.values()
        if row.metrics is not None and row.again
    ]
    return landscape, sorted(repeated, key=lambda values: -sign * sum(values) / len(values))


def _load_space(data: dict[str, Any], where: str) -> FamilySpace:
    config = parse_config(data, where)
    space = load_space(config.space, config.input.size)  # type: ignore[arg-type]
    return space.restrict(config.restrict) if config.restrict else space


def sub_landscapes(whole: Landscape, number: int, least: int) -> list[Landscape]:
    """Parts in each of which another choice is fixed, so that no conclusion hangs on one landscape.

    For every choice there is its value that most rows have, among the values that at most half of the rows
    have. Of these parts the largest are taken. They overlap, so what is found on them is not independent.

    Args:
        whole: The table.
        number: Of parts, at most.
        least: Rows of a part.
    """
    parts: list[Landscape] = []
    for position, column in enumerate(zip(*sorted(whole.scores), strict=True)):
        counts = Counter(index for index in column if index != INACTIVE)
        allowed = [index for index in counts if least <= counts[index] <= LARGEST_SHARE * len(whole)]
        if allowed:
            parts.append(_fix(whole, position, min(allowed, key=lambda index: (-counts[index], index))))
    parts = [part for part in parts if part.ranked]
    return sorted(parts, key=len, reverse=True)[:number]


def _fix(whole: Landscape, position: int, index: int) -> Landscape:
    choice = whole.space.choices[position]
    name = f'{choice.name} = {choice.values[index]}'
    allowed: dict[str, Value | Sequence[Value]] = {choice.name: choice.values[index]}
    while choice.parent is not None:  # which must be such that the choice is active
        allowed[choice.parent] = choice.when
        choice = whole.space.choices[whole.space.position(choice.parent)]
    space = whole.space.restrict(allowed)
    scores = {
        space.genotype(whole.space.values(genotype)): score
        for genotype, score in whole.scores.items()
        if genotype[position] == index
    }
    return Landscape(name, space, scores)
