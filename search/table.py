"""Candidates scored from a table, as in benchmarks for architecture search: no network is trained or run.

A table is a file of JSON lines, compressed if its name ends in ``.gz``: one candidate each, by the values of
its active choices or by its genotype::

    {"values": {"stage1.operator": "conv", "stage1.expansion": 4}, "metrics": {"top1": 71.3, "loss": 1.2}}
    {"genotype": [2, 0, -1], "metrics": null}

Metrics null says that the evaluation of this candidate failed. Where a candidate was trained more than once,
``again`` lists the metrics of the further trainings. Genotypes depend on the order of the space's choices and
of their values, so values are the better form to keep.

The first line may say what the table is of, as those of :mod:`search.tabulate` do::

    {"table": {"config": {...}, "architectures": 2400, "repeated": 200, "seeds": 3, "versions": {...}}}
"""

import gzip
import itertools
import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from search.evaluate import Evaluation
from search.space import Genotype, Space, Value
from zoo.arch import Part
from zoo.entry import describe_faults, parse_json
from zoo.errors import ZooError

__all__ = ['TABLE', 'Row', 'TableEvaluator', 'pack_table', 'read_header', 'read_rows']

TABLE = 'table.jsonl.gz'
"""In the folder of a run that makes one."""

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
    again: tuple[dict[Name, Metric], ...] = ()

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
        rows = read_rows(path, space, objective)
        self.metrics = {genotype: row.metrics for genotype, row in rows.items()}

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


def read_header(path: Path | str) -> dict[str, Any] | None:
    """What the first line says of the table.

    Raises:
        ZooError: The file cannot be read, or its first line is not JSON.
    """
    where, line = next(_read_lines(path))
    return _as_header(parse_json(line, where))


def read_rows(path: Path | str, space: Space, objective: str | None = None) -> dict[Genotype, Row]:
    """The candidates of a table.

    Args:
        path: The table.
        space: Of the candidates; every line must be one of its architectures.
        objective: A metric that every candidate that did not fail must have.

    Raises:
        ZooError: A file that cannot be read, that is too large or faulty: file, line, what was found,
            what is allowed.
    """
    rows: dict[Genotype, Row] = {}
    for number, (where, line) in enumerate(_read_lines(path)):
        data = parse_json(line, where)
        if number == 0 and _as_header(data) is not None:
            continue
        row = _read_row(data, where)
        try:
            genotype = _find_genotype(space, row)
        except ZooError as error:
            raise ZooError(f'{where}: {error}') from None
        if genotype in rows:
            raise ZooError(f'{where}: found candidate {genotype} again, each is allowed once.')
        for metrics in (row.metrics, *row.again):
            if objective is not None and metrics is not None and objective not in metrics:
                raise ZooError(f'{where}: $.metrics: found {sorted(metrics)}, {objective!r} is needed.')
        rows[genotype] = row
    if not rows:
        raise ZooError(f'{path}: found no candidates, at least one is needed.')
    return rows


def pack_table(header: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> bytes:
    """A compressed table; equal rows give equal bytes."""
    lines = [json.dumps(line, separators=(',', ':')) for line in ({'table': header}, *rows)]
    return gzip.compress('\n'.join([*lines, '']).encode(), mtime=0)


def _as_header(data: Any) -> dict[str, Any] | None:
    return data['table'] if isinstance(data, dict) and isinstance(data.get('table'), dict) else None


def _read_lines(path: Path | str) -> Iterator[tuple[str, bytes]]:
    """The lines that are not blank, each with its place."""
    count = 0
    try:
        with (gzip.open if str(path).endswith('.gz') else open)(path, 'rb') as file:
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
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, 'strerror', None) or error
        raise ZooError(f'{path}: cannot be read: {reason}.') from None
    if not count:
        raise ZooError(f'{path}: found no candidates, at least one is needed.')


def _read_row(data: Any, where: str) -> Row:
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
