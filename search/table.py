"""Candidates scored from a table, as in benchmarks for architecture search: no network is trained or run.

A table is a file of JSON lines, one candidate each, by the values of its active choices or by its genotype::

    {"values": {"stage1.operator": "conv", "stage1.expansion": 4}, "metrics": {"top1": 71.3, "loss": 1.2}}
    {"genotype": [2, 0, -1], "metrics": null}

Metrics null says that the evaluation of this candidate failed. Genotypes depend on the order of the space's
choices and of their values, so values are the better form to keep.
"""

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, model_validator

from search.evaluate import Evaluation
from search.space import Genotype, Space, Value
from zoo.arch import Part
from zoo.entry import describe_faults, parse_json
from zoo.errors import ZooError

__all__ = ['TableEvaluator']

MAX_LINE = 65_536
"""Bytes of a line."""
MAX_CANDIDATES = 1_000_000
"""NAS-Bench-101 has 423,624. One takes about a kilobyte of memory."""

Metric = Annotated[float, Field(allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1, max_length=64)]


class Row(Part):
    """One line."""

    values: dict[str, Value] | None = None
    genotype: list[int] | None = None
    metrics: dict[Name, Metric] | None

    @model_validator(mode='after')
    def _check_candidate(self) -> 'Row':
        if (self.values is None) == (self.genotype is None):
            raise ValueError('exactly one of values and genotype is needed')
        return self


class TableEvaluator:
    """Looks candidates up."""

    def __init__(self, space: Space, path: Path | str, objective: str = 'top1', minimize: bool = False):
        """
        Args:
            space: Of the candidates; every line must be one of its architectures.
            path: The table.
            objective: The metric that is the score; every candidate that did not fail must have it.
            minimize: Whether less of it is better; the score is then its negative.

        Raises:
            ZooError: A file that cannot be read, that is too large or faulty: file, line, what was found,
                what is allowed.
        """
        self.space = space
        self.path = str(path)
        self.objective = objective
        self.sign = -1 if minimize else 1
        self.metrics: dict[Genotype, dict[str, float] | None] = {}
        for where, line in _read_lines(path):
            row = _read_row(line, where)
            try:
                genotype = _find_genotype(space, row)
            except ZooError as error:
                raise ZooError(f'{where}: {error}') from None
            if genotype in self.metrics:
                raise ZooError(f'{where}: found candidate {genotype} again, each is allowed once.')
            if row.metrics is not None and objective not in row.metrics:
                raise ZooError(f'{where}: $.metrics: found {sorted(row.metrics)}, {objective!r} is needed.')
            self.metrics[genotype] = row.metrics

    def __call__(self, genotype: Genotype, needed: float = -math.inf) -> Evaluation:
        """The table's metrics, whatever score is ``needed``; a NaN score for a candidate that failed.

        Raises:
            ZooError: The table does not have the candidate. That is a fault of the table and no failure of
                the candidate, from which a strategy would learn something wrong.
        """
        if genotype not in self.metrics:
            raise ZooError(
                f'{self.path}: candidate {self.space.values(genotype)}: found nothing, a line is needed.'
            )
        metrics = self.metrics[genotype]
        if metrics is None:
            return Evaluation(math.nan)
        return Evaluation(self.sign * metrics[self.objective], dict(metrics))


def _read_lines(path: Path | str) -> Iterator[tuple[str, bytes]]:
    """The lines that are not blank, each with its place."""
    count = 0
    try:
        with open(path, 'rb') as file:
            for number in itertools.count(1):
                line = file.readline(MAX_LINE + 1)
                if not line:
                    break
                where = f'{path}:{number}'
                if len(line) > MAX_LINE:
                    raise ZooError(
                        f'{where}: found more than {MAX_LINE} bytes, at most {MAX_LINE} are allowed.'
                    )
                if not line.strip():
                    continue
                count += 1
                if count > MAX_CANDIDATES:
                    raise ZooError(
                        f'{where}: found more than {MAX_CANDIDATES} candidates, which is too many.'
                    )
                yield where, line
    except OSError as error:
        raise ZooError(f'{path}: cannot be read: {error.strerror or error}.') from None
    if not count:
        raise ZooError(f'{path}: found no candidates, at least one is needed.')


def _read_row(line: bytes, where: str) -> Row:
    data = parse_json(line, where)
    try:
        return Row.model_validate_json(json.dumps(data))
    except (ValidationError, TypeError, ValueError, RecursionError) as error:
        raise ZooError('\n'.join(describe_faults(error, where, data, Row))) from None


def _find_genotype(space: Space, row: Row) -> Genotype:
    if row.values is not None:
        return space.genotype(row.values)
    assert row.genotype is not None
    genotype = space.canonical(row.genotype)
    if list(genotype) != row.genotype:
        raise ZooError(f'$.genotype: found values for inactive choices, {list(genotype)} would be allowed.')
    return genotype
