"""The config of a run: one YAML file, checked before anything is done."""

import hashlib
import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, JsonValue, ValidationError, model_validator

from search.data import DataConfig
from search.measurements import read_latencies
from search.training import Recipe
from search.workers import WorkersConfig
from zoo.arch import Part
from zoo.entry import Input, Name, describe_faults, read_file
from zoo.errors import ZooError
from zoo.jsonfile import shorten

__all__ = [
    'CompareConfig',
    'Range',
    'RunConfig',
    'SearchConfig',
    'SupernetConfig',
    'load_config',
    'read_yaml',
]

Range = tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(gt=0)]]
"""Smallest and largest allowed value."""


class SupernetConfig(Part):
    """Training of the supernet: at each step the largest, the smallest and some random sub-networks."""

    recipe: Recipe
    largest: bool = True
    smallest: bool = True
    random: Annotated[int, Field(ge=0, le=64)] = 2
    sampling: Literal['uniform', 'hierarchical'] = Field(
        'uniform', description='over architectures, or over the values of each choice'
    )

    @model_validator(mode='after')
    def _check_any(self) -> 'SupernetConfig':
        if not (self.largest or self.smallest or self.random):
            raise ValueError('a step needs at least one of largest, smallest, random')
        return self


class LatencyLimit(Part):
    """How long a candidate may take on a device."""

    file: str = Field(description='measurements, made by `searchzoo search latency`')
    seconds: Range = Field(description='for a batch as large as the measured ones')

    @cached_property
    def sha256(self) -> str:
        """Of the file's contents when this is first asked.

        Raises:
            ZooError: It cannot be read.
        """
        return hashlib.sha256(read_latencies(self.file)).hexdigest()


class Limits(Part):
    """What a candidate may cost."""

    params: Range | None = None
    macs: Range | None = None
    latency: LatencyLimit | None = None


class SupernetScores(Part):
    """Candidates have the trained supernet's weights."""

    kind: Literal['supernet'] = 'supernet'


class ProxyScores(Part):
    """Every candidate is trained from scratch for a short time."""

    kind: Literal['proxy']
    recipe: Recipe


class TableScores(Part):
    """Scores are known and stand in a file (see :mod:`search.table`)."""

    kind: Literal['table']
    file: str
    metric: str = 'top1'
    minimize: bool = Field(False, description='whether less of the metric is better')


class SearchConfig(Part):
    """Search for the best candidate, scored on the val split."""

    evaluator: Annotated[SupernetScores | ProxyScores | TableScores, Field(discriminator='kind')] = (
        SupernetScores()
    )
    strategy: dict[str, JsonValue] = Field(description='its name and its settings')
    evaluations: Annotated[int, Field(ge=1)] = Field(description='different networks to evaluate')
    limits: Limits = Limits()
    objective: Literal['top1', 'loss'] = 'top1'
    batch_size: Annotated[int, Field(ge=1)] = 256
    calibration_images: Annotated[int, Field(ge=1)] = Field(
        1024,
        description='training images, rounded up to whole batches, that set the statistics of batch norms',
    )
    bf16: bool = True
    give_up: bool = Field(
        True,
        description='stop evaluating a candidate that can no longer change the search or the front of score '
        'and MACs',
    )
    failures_in_a_row: Annotated[int, Field(ge=1)] = Field(10, description='failed candidates that stop it')
    workers: WorkersConfig | None = Field(None, description='where candidates are evaluated')


class CompareConfig(Part):
    """The result against random architectures of equal cost, all trained as the result was."""

    random: Annotated[int, Field(ge=0, le=100)] = 3
    seeds: Annotated[int, Field(ge=1, le=100)] = Field(
        1, description='trainings of the result, the emitted one included'
    )
    macs_within: Annotated[float, Field(gt=0, lt=1)] = 0.05


class RunConfig(Part):
    """A whole run: data, space, and what each phase does."""

    name: Name = Field(description='of the entry that the run writes')
    method: Literal['one_shot'] = 'one_shot'
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    input: Input
    data: DataConfig = DataConfig()
    space: JsonValue = Field(description='name of a space, or its declaration')
    supernet: SupernetConfig | None = None
    search: SearchConfig
    weights: Literal['retrain', 'inherit'] = Field(
        'retrain', description='train the result from scratch, or take its weights from the supernet'
    )
    retrain: Recipe | None = None
    compare: CompareConfig | None = None
    checkpoint_seconds: Annotated[float, Field(ge=0)] = Field(30.0, description='0: after every step')

    @model_validator(mode='after')
    def _check_retrain(self) -> 'RunConfig':
        if self.retrain is None and (self.weights == 'retrain' or self.compare is not None):
            raise ValueError('retrain is needed: how the result is trained from scratch')
        return self

    @model_validator(mode='after')
    def _check_supernet(self) -> 'RunConfig':
        needs = self.search.evaluator.kind == 'supernet' or self.weights == 'inherit'
        if needs and self.supernet is None:
            raise ValueError('supernet is needed: how it is trained')
        if self.supernet is not None and self.search.evaluator.kind != 'supernet':
            raise ValueError(f'supernet is not used where evaluator.kind is {self.search.evaluator.kind}')
        return self

    def decisive(self) -> dict[str, Any]:
        """What decides the result: everything but where the data is, how it is loaded and saved, and where
        candidates are evaluated. Of a file of latencies the contents count, and not where it is.

        Raises:
            ZooError: The file of latencies cannot be read.
        """
        data: dict[str, Any] = self.model_dump(mode='json')
        del data['checkpoint_seconds'], data['search']['workers']
        for key in ('root', 'download', 'num_workers'):
            del data['data'][key]
        if (latency := self.search.limits.latency) is not None:
            seconds = data['search']['limits']['latency']['seconds']
            data['search']['limits']['latency'] = {'sha256': latency.sha256, 'seconds': seconds}
        return data


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a config.

    Args:
        path: A YAML file.
        overrides: ``dotted.key=value`` each, the value in YAML: ``supernet.recipe.epochs=10``.

    Raises:
        ZooError: One line for each fault: file, key, what was found, what is allowed.
    """
    where = str(path)
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise ZooError(f'{where}: found {shorten(data)}, a config with keys is needed.')
    for override in overrides:
        _override(data, override)
    try:
        return RunConfig.model_validate_json(json.dumps(data))
    except (ValidationError, TypeError, ValueError, RecursionError) as error:
        raise ZooError('\n'.join(describe_faults(error, where, data, RunConfig))) from None


def _override(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition('=')
    if not equals or not re.fullmatch(r'\w+(\.\w+)*', key):
        raise ZooError(f'{override!r}: found no key=value such as supernet.recipe.epochs=10.')
    *parents, last = key.split('.')
    for i, parent in enumerate(parents):
        if data.get(parent) is None:
            data[parent] = {}
        data = data[parent]
        if not isinstance(data, dict):
            raise ZooError(f'{override!r}: {".".join(parents[: i + 1])} has no keys in this config.')
    data[last] = parse_yaml(text.encode(), repr(override))


class _Loader(yaml.SafeLoader):
    """YAML without its traps: 1e-3 is a number, a repeated key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if (key := key_node.value) in seen:
                raise yaml.MarkedYAMLError(
                    problem=f'found the key {key!r} twice', problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    'tag:yaml.org,2002:float', re.compile(r'^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$'), list('-+.0123456789')
)


def read_yaml(path: Path | str) -> Any:
    """Parses a YAML file (see :func:`parse_yaml`)."""
    return parse_yaml(read_file(path), str(path))


def parse_yaml(data: bytes, where: str) -> Any:
    """Parses YAML into what JSON can hold.

    Raises:
        ZooError: Not YAML, or a key twice; with the line.
    """
    try:
        return yaml.load(data.decode('utf-8'), _Loader)
    except UnicodeDecodeError as error:
        raise ZooError(f'{where}: byte {error.start} is not UTF-8.') from None
    except (yaml.YAMLError, RecursionError, TypeError, ValueError) as error:
        mark = getattr(error, 'problem_mark', None)
        place = f' at line {mark.line + 1} column {mark.column + 1}' if mark else ''
        reason = getattr(error, 'problem', None) or type(error).__name__
        raise ZooError(f'{where}: not YAML: {reason}{place}.') from None
