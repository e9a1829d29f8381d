"""An entry of the zoo: one architecture as data, its input, its published and measured figures, its weights.

One JSON file per entry (``zoo/entries/*.json``), described by ``entry.schema.json``. Reading one never runs
code, and whatever the file holds, the only error is :class:`zoo.errors.ZooError`.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    JsonValue,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_serializer,
    field_validator,
    model_validator,
)

from zoo.arch import Arch, Part
from zoo.errors import ZooError
from zoo.faults import describe_faults
from zoo.jsonfile import format_json, parse_json, read_file
from zoo.models import FAMILIES

__all__ = [
    'Cost',
    'Entry',
    'Input',
    'Measured',
    'Provenance',
    'Published',
    'Source',
    'Weights',
    'describe_faults',
    'make_entry',
    'parse_json',
    'read_entry',
    'read_file',
]

Text = Annotated[str, Field(min_length=1, max_length=2000)]
Name = Annotated[str, Field(pattern=r'^[a-z][a-z0-9_]{0,63}$')]
Tag = Annotated[str, Field(pattern=r'^[a-z0-9][a-z0-9_]{0,63}$')]
HubId = Annotated[str, Field(pattern=r'^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$', max_length=200)]
Commit = Annotated[str, Field(pattern=r'^[0-9a-f]{40}$')]
FileName = Annotated[str, Field(pattern=r'^[A-Za-z0-9_][A-Za-z0-9_.-]*$', max_length=200)]
SafetensorsName = Annotated[str, Field(pattern=r'^[A-Za-z0-9_][A-Za-z0-9_.-]*\.safetensors$', max_length=200)]
Url = Annotated[
    str, Field(pattern=r'^(https://|http://(localhost|127\.0\.0\.1)[:/])[!-~]+$', max_length=1000)
]
Recipe = Annotated[str, Field(pattern=r'^train/[a-z0-9_]+\.yaml$', max_length=100)]
Sha256 = Annotated[str, Field(pattern=r'^[0-9a-f]{64}$')]
Fraction = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=1e15)]
Count = Annotated[int, Field(gt=0, le=10**15)]
Side = Annotated[int, Field(ge=1, le=4096)]
Unit = Literal['macs', 'flops', 'fvcore', 'glit']


class Input(Part):
    """What the network was made for: image size and preprocessing. Other sizes may work as well."""

    size: tuple[Annotated[int, Field(ge=1, le=256)], Side, Side] = Field(
        description='channels, height, width'
    )
    mean: tuple[Annotated[float, Field(ge=-1000, le=1000)], ...] = Field(min_length=1, max_length=256)
    std: tuple[Annotated[float, Field(gt=0, le=1000)], ...] = Field(min_length=1, max_length=256)
    interpolation: Literal['bicubic', 'bilinear', 'nearest'] = 'bicubic'
    crop_pct: Fraction = 1.0
    crop_mode: Literal['center', 'squash', 'border'] = 'center'

    @model_validator(mode='after')
    def _check_channels(self) -> 'Input':
        for key in ('mean', 'std'):
            if len(getattr(self, key)) != self.size[0]:
                raise ValueError(
                    f'{key} has {len(getattr(self, key))} values, size says {self.size[0]} channels'
                )
        return self


class Cost(Part):
    """A published compute figure in the paper's own unit, of which 'FLOPs' is used for four different things.

    macs: multiply-accumulates of convolutions, linear layers and matrix products (S3); flops: twice that,
    with a product of each query with each neighbour's position in local attention, where rows and columns
    alone suffice (TrioNet); fvcore: fvcore's total, which adds 2 an element of batch norm, 5 of layer norm,
    1 of pooling (UniNet); glit: the formula of GLiT's code, which leaves out half of the convolution before a
    gated unit.
    """

    value: Positive
    unit: Unit


class Published(Part):
    """The paper's figures for this architecture."""

    params: Positive | None = None
    cost: Cost | None = None
    top1: Annotated[float, Field(ge=0, le=100)] | None = Field(None, description='per cent')
    source: Text = Field(description='where the figures stand: paper, table')
    reproducible: bool = Field(True, description='false: no network of this description has these figures')
    note: Text | None = None

    @model_validator(mode='after')
    def _check_note(self) -> 'Published':
        if not self.reproducible and self.note is None:
            raise ValueError('figures that are not reproducible need a note that says why')
        return self


class Measured(Part):
    """Counted on the network at its input size, batch 1; the only derived figures an entry stores."""

    params: Count
    macs: Count
    cost: Count | None = Field(
        None, description="in published.cost's unit, where that does not follow from macs"
    )


class Source(Part):
    """Where a file of weights is: on the Hub, at a URL, beside the entry, or on a page for people only."""

    hf_hub_id: HubId | None = None
    filename: FileName | None = Field(None, description='on the Hub; null: model.safetensors')
    revision: Commit | None = Field(None, description='on the Hub: the commit; null: not known, the latest')
    url: Url | None = None
    file: SafetensorsName | None = Field(None, description="a file in the entry's own folder")
    page: Url | None = Field(None, description='where the file is downloaded by hand, and then converted')
    sha256: Sha256 | None = Field(None, description='of the file; null: not known')
    size: Count | None = Field(None, description='of the file, in bytes; null: not known')

    @model_validator(mode='after')
    def _check_place(self) -> 'Source':
        places = ('hf_hub_id', 'url', 'file', 'page')
        given = [key for key in places if getattr(self, key) is not None]
        if len(given) != 1:
            found = ' and '.join(given) or 'none'
            raise ValueError(f'exactly one of {", ".join(places)} is needed, not {found}')
        for key in ('filename', 'revision'):
            if getattr(self, key) is not None and self.hf_hub_id is None:
                raise ValueError(f'{key} needs hf_hub_id')
        return self

    @property
    def place(self) -> str:
        """What people call it: the Hub's id, the URL, or the file's name."""
        return str(self.hf_hub_id or self.url or self.file or self.page)


class Weights(Part):
    """One set of weights: where it is and what is known about it."""

    sources: tuple[Source, ...] = Field(
        min_length=1, max_length=8, description='tried in order; the same tensors, not always the same bytes'
    )
    license: Text | None = Field(None, description='as the Hub spells it; null: none was given')
    data: Text | None = Field(None, description='what the weights were trained on')
    input: Input | None = Field(None, description="the preprocessing, where it is not the entry's")
    metrics: dict[Tag, Annotated[float, Field(allow_inf_nan=False)]] | None = None
    evaluation: Text | None = Field(None, description='how the metrics were measured')
    training: dict[Name, JsonValue] | None = Field(
        None, description="trained by this project's engine: config, commit, steps"
    )
    note: Text | None = None

    @property
    def by_hand(self) -> bool:
        """Whether only people can fetch them."""
        return all(source.page for source in self.sources)

    @model_validator(mode='after')
    def _check_metrics(self) -> 'Weights':
        if self.metrics and self.evaluation is None:
            raise ValueError('metrics need evaluation, which says how they were measured')
        return self

    @field_serializer('metrics')
    def _sort_metrics(self, value: dict[str, float] | None) -> dict[str, float] | None:
        return None if value is None else dict(sorted(value.items()))

    @field_serializer('training')
    def _sort_keys(self, value: Any) -> Any:
        return json.loads(json.dumps(value, sort_keys=True))


class Provenance(Part):
    """Where the architecture comes from, and in a sentence what is known about that and what is not.

    paper: a table of the paper; official_code; reconstructed: the paper shows it as a picture only, and this
    one has its published figures; placeholder: decisions that nothing published gives are filled in by a
    pattern, until a search of our own decides them; searched: by this project's engine.
    """

    kind: Literal['paper', 'official_code', 'reconstructed', 'placeholder', 'searched']
    note: Text
    config: JsonValue = Field(None, description='searched: the configuration of the run')
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = None
    commit: Text | None = None
    space: JsonValue = Field(None, description='searched: name or definition of the space')
    cost: dict[Name, JsonValue] | None = Field(None, description='searched: steps, evaluations, ...')

    @model_validator(mode='after')
    def _check_kind(self) -> 'Provenance':
        extra = [
            key for key in ('config', 'seed', 'commit', 'space', 'cost') if getattr(self, key) is not None
        ]
        if extra and self.kind != 'searched':
            raise ValueError(f'{", ".join(extra)} belong to kind "searched", found kind "{self.kind}"')
        return self

    @field_serializer('config', 'space', 'cost')
    def _sort_keys(self, value: Any) -> Any:
        return json.loads(json.dumps(value, sort_keys=True))


class Entry(Part):
    """One architecture of one family with everything that is known about it. See the fields' own classes."""

    model_config = ConfigDict(title='Entry of the searchzoo', serialize_by_alias=True)

    schema_version: Annotated[int, Field(ge=1, le=1)] = Field(alias='schema')
    name: Name
    family: str
    num_classes: Annotated[int, Field(ge=0, le=100_000)] = 1000
    arch: Annotated[SerializeAsAny[Arch], WithJsonSchema({'type': 'object'})]
    input: Input
    published: Published | None = None
    measured: Measured | None = None
    weights: dict[Tag, Weights] | None = Field(None, description='by tag; the first is the default')
    recipe: Recipe | None = Field(None, description='the bundled configuration that trains the architecture')
    provenance: Provenance

    @field_validator('family')
    @classmethod
    def _check_family(cls, family: str) -> str:
        if family not in FAMILIES:
            raise ValueError(f'must be one of {", ".join(FAMILIES)}')
        return family

    @field_validator('arch', mode='plain')
    @classmethod
    def _check_arch(cls, arch: Any, info: ValidationInfo) -> Arch:
        family = info.data.get('family')
        if family is None:  # the fault in `family` is reported already
            return Arch.model_construct()
        arch_class: type[Arch] = FAMILIES[family].Arch
        if isinstance(arch, Arch):
            if not isinstance(arch, arch_class):
                raise ValueError(f'an architecture of family {arch.family}, {family} is needed')
            return arch
        return arch_class.model_validate_json(json.dumps(arch))

    @model_validator(mode='after')
    def _check_measured(self) -> 'Entry':
        unit = self.published.cost.unit if self.published and self.published.cost else None
        if self.measured and self.measured.cost is not None and unit in (None, 'macs'):
            raise ValueError('measured.cost is for published.cost of unit flops, fvcore or glit only')
        return self

    def to_json(self) -> str:
        """The canonical text of the entry's file: reading and writing it again gives the same bytes."""
        return format_json(self.model_dump(mode='json', by_alias=True, exclude_none=True))

    def measured_cost(self) -> int | None:
        """The stored compute figure in the unit of ``published.cost`` (MACs if nothing is published)."""
        if self.measured is None:
            return None
        unit = self.published.cost.unit if self.published and self.published.cost else 'macs'
        return self.measured.macs if unit == 'macs' else self.measured.cost

    def deviations(self) -> dict[str, float]:
        """Measured over published, minus 1, for ``params`` and ``cost`` where both are known."""
        found: dict[str, float] = {}
        if self.published and self.measured and self.published.params:
            found['params'] = self.measured.params / self.published.params - 1
        cost = self.measured_cost()
        if self.published and self.published.cost and cost is not None:
            found['cost'] = cost / self.published.cost.value - 1
        return found


def read_entry(path: Path | str) -> Entry:
    """Reads and checks an entry's file.

    Raises:
        ZooError: With one line for each fault: file, JSON path, what was found, what is allowed.
    """
    return make_entry(parse_json(read_file(path), str(path)), str(path))


def make_entry(data: Any, where: str = 'entry') -> Entry:
    """Checks an entry given as the data of its JSON file (dicts, lists, strings, numbers).

    Raises:
        ZooError: As :func:`read_entry`; ``where`` stands in place of the file.
    """
    try:
        return Entry.model_validate_json(json.dumps(data))
    except (ValidationError, TypeError, ValueError, RecursionError) as error:
        raise ZooError('\n'.join(describe_faults(error, where, data, Entry))) from None
