"""Measured latencies: the file that ``searchzoo search latency`` makes.

It has JSON lines: what was measured and where, then one line for each network that was timed, in seconds for
one batch::

    {"schema": 1, "space": "s3", "input_size": [3, 224, 224], "device": "cpu", ...}
    {"genotype": [0, 2, 1, ...], "seconds": 0.0213, "modules": [0.0012, ...]}
    {"genotype": [1, 0, 0, ...], "seconds": 0.0198}

The networks with times of their modules have together every module that the space knows. Those without are
what the sum of modules is compared with.
"""

import json
import statistics
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, JsonValue, ValidationError

from search.space import Space, Value
from search.spaces import FamilySpace, load_space
from zoo.arch import Part
from zoo.entry import describe_faults, parse_json
from zoo.errors import ZooError
from zoo.files import write_atomic

__all__ = ['Header', 'Key', 'Measurements', 'Network', 'read_latencies']

MAX_BYTES = 16_000_000

Key = tuple[Value | None, ...]
"""Values of the choices on which a module depends, None where a choice is inactive."""
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
RowType = TypeVar('RowType', bound=Part)


class Header(Part):
    """What was measured and where. Times of different headers have nothing to do with each other."""

    schema_version: Literal[1] = Field(1, alias='schema')
    unit: Literal['seconds'] = 'seconds'
    space: JsonValue = Field(description='as a config declares it')
    input_size: tuple[Count, Count, Count]
    num_classes: Annotated[int, Field(ge=0)]
    batch_size: Count
    device: Literal['cpu', 'cuda']
    device_name: str
    threads: Count
    torch: str
    repeats: Count
    modules: dict[str, tuple[str, ...]] = Field(description='paths, and the choices they depend on')


class Network(Part):
    """The shortest time of a network, and of its modules, 0 for one that it does not have."""

    genotype: tuple[int, ...]
    seconds: Seconds
    modules: tuple[Seconds, ...] | None = None


@dataclass(frozen=True)
class Measurements:
    """The contents of a file."""

    header: Header
    networks: tuple[Network, ...]

    @cached_property
    def seconds(self) -> dict[str, dict[Key, float]]:
        """The latency of each module by what it depends on: the median of all networks that have it."""
        space = self.load_space().space
        found: dict[str, dict[Key, list[float]]] = {path: defaultdict(list) for path in self.header.modules}
        for network in self.networks:
            values = space.values(network.genotype)
            for (path, names), seconds in zip(
                self.header.modules.items(), network.modules or (), strict=False
            ):
                found[path][tuple(values.get(name) for name in names)].append(seconds)
        return {
            path: {key: statistics.median(times) for key, times in by_key.items()}
            for path, by_key in found.items()
        }

    @cached_property
    def rest(self) -> float:
        """Seconds that a network takes outside of its timed modules."""
        left = [network.seconds - sum(network.modules) for network in self.networks if network.modules]
        return max(0.0, statistics.median(left))

    def checks(self) -> list[Network]:
        """The networks that the tables know nothing of."""
        return [network for network in self.networks if network.modules is None]

    def load_space(self) -> FamilySpace:
        return load_space(self.header.space, self.header.input_size)  # type: ignore[arg-type]

    def write(self, path: Path | str) -> None:
        """Writes the file, whole or not at all.

        Raises:
            ZooError: It cannot be written.
        """
        rows = [self.header.model_dump(mode='json', by_alias=True)]
        rows += [network.model_dump(mode='json', exclude_none=True) for network in self.networks]
        try:
            write_atomic(path, ''.join(json.dumps(row) + '\n' for row in rows).encode())
        except OSError as error:
            raise ZooError(f'{path}: cannot be written: {error.strerror or error}.') from None

    @classmethod
    def read(cls, path: Path | str) -> 'Measurements':
        """Reads a file, be it complete or not.

        Raises:
            ZooError: It cannot be read, or is faulty: file, line, what was found, what is allowed.
        """
        lines = read_latencies(path).splitlines()
        if not lines:
            raise ZooError(f'{path}: found nothing, measured latencies are needed.')
        header = _read_row(Header, lines[0], f'{path}:1')
        networks = [_read_row(Network, line, f'{path}:{i}') for i, line in enumerate(lines[1:], 2)]
        measurements = cls(header, tuple(networks))
        space = measurements.load_space()
        if header.modules != dict(space.modules):
            raise ZooError(
                f'{path}: $.modules: found modules and choices that are not those that this version times; '
                'measure again.'
            )
        for number, network in enumerate(networks, 2):
            _check_network(space.space, len(header.modules), network, f'{path}:{number}')
        return measurements


def read_latencies(path: Path | str) -> bytes:
    """The bytes of a file of measurements.

    Raises:
        ZooError: It cannot be read, or is too large.
    """
    try:
        with open(path, 'rb') as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ZooError(f'{path}: cannot be read: {error.strerror or error}.') from None
    if len(data) > MAX_BYTES:
        raise ZooError(f'{path}: found more than {MAX_BYTES} bytes, at most {MAX_BYTES} are allowed.')
    return data


def _read_row(cls: type[RowType], line: bytes, where: str) -> RowType:
    data = parse_json(line, where)
    try:
        return cls.model_validate_json(json.dumps(data))
    except (ValidationError, TypeError, ValueError, RecursionError) as error:
        raise ZooError('\n'.join(describe_faults(error, where, data, cls))) from None


def _check_network(space: Space, num_modules: int, network: Network, where: str) -> None:
    try:
        genotype = space.canonical(network.genotype)
    except ZooError as error:
        raise ZooError(f'{where}: {error}') from None
    if genotype != network.genotype:
        raise ZooError(
            f'{where}: $.genotype: found values for inactive choices, {list(genotype)} would be allowed.'
        )
    if network.modules is not None and len(network.modules) != num_modules:
        raise ZooError(
            f'{where}: $.modules: found {len(network.modules)} times, one for each of {num_modules} modules '
            'is needed.'
        )
