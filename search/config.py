"""The config of a run: one YAML file, checked before anything is done."""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, JsonValue, ValidationError, model_validator

from search.bilevel import AlphaRecipe
from search.data import Augment, DataConfig
from search.frame import Frame
from search.measurements import read_latencies
from search.reward import Reward
from search.scaling import Scaling
from search.space import Value
from search.space_evolution import Evolution
from search.training import Recipe
from search.workers import WorkersConfig
from search.yamlfile import override, read_yaml
from zoo.arch import Part
from zoo.entry import Input, Name, describe_faults
from zoo.errors import ZooError
from zoo.jsonfile import shorten
from zoo.registry import suggest

__all__ = [
    'CONFIGS',
    'CompareConfig',
    'DifferentiableConfig',
    'DifferentiableSearch',
    'Limits',
    'Member',
    'OneShotConfig',
    'ProxyConfig',
    'Range',
    'RunConfig',
    'Scoring',
    'SearchConfig',
    'SelfSupervisedConfig',
    'SpaceSearchConfig',
    'SupernetConfig',
    'TargetConfig',
    'TaskConfig',
    'TwoLevelConfig',
    'check_config',
    'load_config',
    'parse_config',
    'read_config',
]

C = TypeVar('C', bound='TaskConfig')
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
    decay: Literal['all', 'largest'] = Field(
        'all',
        description="what recipe.weight_decay is for: all tensors that have a gradient, by the optimizer's "
        'rule, or the tensors of the largest sub-network of the step, as a penalty in its loss',
    )
    images: Annotated[int, Field(ge=1)] | None = Field(
        None, description='train on so many images of the train split, drawn once; null: on all'
    )

    @model_validator(mode='after')
    def _check_any(self) -> 'SupernetConfig':
        if not (self.largest or self.smallest or self.random):
            raise ValueError('a step needs at least one of largest, smallest, random')
        if self.decay == 'largest' and not self.largest:
            raise ValueError('decay: largest needs largest: true')
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


class Scoring(Part):
    """How networks are scored on the val split, and what they may cost."""

    objective: Literal['top1', 'loss'] = 'top1'
    batch_size: Annotated[int, Field(ge=1)] = 256
    bf16: bool = True
    limits: Limits = Limits()


class SearchConfig(Scoring):
    """Search for the best candidate, scored on the val split."""

    evaluator: Annotated[SupernetScores | ProxyScores | TableScores, Field(discriminator='kind')] = (
        SupernetScores()
    )
    strategy: dict[str, JsonValue] = Field(description='its name and its settings')
    evaluations: Annotated[int, Field(ge=1)] = Field(description='different networks to evaluate')
    reward: Reward | None = Field(None, description='what the score is made of: accuracy and cost')
    calibration_images: Annotated[int, Field(ge=1)] = Field(
        1024,
        description='training images, rounded up to whole batches, that set the statistics of batch norms',
    )
    give_up: bool = Field(
        True,
        description='stop evaluating a candidate that can no longer change the search or the front of score '
        'and MACs',
    )
    baseline: bool = Field(
        True,
        description='also score as many random candidates, within the same limits, by the same evaluator',
    )
    failures_in_a_row: Annotated[int, Field(ge=1)] = Field(10, description='failed candidates that stop it')
    workers: WorkersConfig | None = Field(None, description='where candidates are evaluated')

    @model_validator(mode='after')
    def _check_reward(self) -> 'SearchConfig':
        table = self.evaluator if isinstance(self.evaluator, TableScores) else None
        if self.reward and (table.minimize if table else self.objective != 'top1'):
            found = 'evaluator.minimize: true' if table else f'objective: {self.objective}'
            raise ValueError(f'reward needs an accuracy, of which more is better, found {found}')
        return self


class CompareConfig(Part):
    """The result against random architectures of equal cost, all trained as the result was."""

    random: Annotated[int, Field(ge=0, le=100)] = 3
    seeds: Annotated[int, Field(ge=1, le=100)] = Field(
        1, description='trainings of the result, the emitted one included'
    )
    macs_within: Annotated[float, Field(gt=0, lt=1)] = 0.05


class TaskConfig(Part):
    """What every run is told: the data, and how they are looked at."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    input: Input
    data: DataConfig = DataConfig()
    test: bool = Field(False, description='read the test split: once, at the end, for the final accuracy')
    checkpoint_seconds: Annotated[float, Field(ge=0)] = Field(30.0, description='0: after every step')

    def decisive(self) -> dict[str, Any]:
        """What decides the result: everything but where the data is, how it is loaded and saved."""
        data: dict[str, Any] = self.model_dump(mode='json')
        del data['checkpoint_seconds']
        for key in ('root', 'download', 'num_workers'):
            del data['data'][key]
        return data


class RunConfig(TaskConfig):
    """A whole search: data, space, and what each phase does. Every method adds what it needs."""

    name: Name = Field(description='of the entry that the run writes')
    method: str
    space: JsonValue = Field(description='name of a space, or its declaration')
    restrict: dict[str, Annotated[list[Value], Field(min_length=1)]] = Field(
        {}, description='choices of the space, and the only values that they may take'
    )
    search: Scoring
    weights: Literal['retrain', 'inherit', 'fine_tune'] = Field(
        'retrain',
        description='train the result from scratch, or take its weights from the supernet and, if asked, '
        'train them further',
    )
    retrain: Recipe | None = None
    compare: CompareConfig | None = None

    @model_validator(mode='after')
    def _check_retrain(self) -> 'RunConfig':
        if self.retrain is None and (self.weights != 'inherit' or self.compare is not None):
            raise ValueError('retrain is needed: how the result is trained')
        return self

    def decisive(self) -> dict[str, Any]:
        """What decides the result: everything but where the data is, how it is loaded and saved, and where
        candidates are evaluated. Of a file of latencies the contents count, and not where it is.

        Raises:
            ZooError: The file of latencies cannot be read.
        """
        data = super().decisive()
        data['search'].pop('workers', None)
        if (latency := self.search.limits.latency) is not None:
            seconds = data['search']['limits']['latency']['seconds']
            data['search']['limits']['latency'] = {'sha256': latency.sha256, 'seconds': seconds}
        return data


class OneShotConfig(RunConfig):
    """A search by a strategy, once; with the weights of a supernet, or by another evaluator."""

    method: Literal['one_shot'] = 'one_shot'
    supernet: SupernetConfig | None = None
    search: SearchConfig
    top: Annotated[int, Field(ge=1, le=1000)] = Field(
        1, description='best candidates that are trained; the one that is then best on val is the result'
    )

    @model_validator(mode='after')
    def _check_supernet(self) -> 'OneShotConfig':
        needs = self.search.evaluator.kind == 'supernet' or self.weights != 'retrain'
        if needs and self.supernet is None:
            raise ValueError('supernet is needed: how it is trained')
        if self.supernet is not None and self.search.evaluator.kind != 'supernet':
            raise ValueError(f'supernet is not used where evaluator.kind is {self.search.evaluator.kind}')
        return self


class TwoLevelConfig(OneShotConfig):
    """GLiT's search: what kinds of blocks there are, then what they look like, each found as by one_shot."""

    method: Literal['two_level'] = 'two_level'  # type: ignore[assignment]
    levels: Literal[1, 2] = Field(2, description='1: everything at once, the baseline')
    weights: Literal['retrain', 'inherit'] = 'retrain'
    top: Annotated[int, Field(ge=1, le=1000)] = Field(
        5, description='best candidates of a level that are trained; the one that is then best on val is kept'
    )


class Member(Scaling):
    """A network of the family that is scaled from the result."""

    name: Name = Field(description='of its entry')


class ProxyConfig(OneShotConfig):
    """UniNet's search: every candidate is trained for a short time, and the result is scaled."""

    method: Literal['proxy'] = 'proxy'  # type: ignore[assignment]
    weights: Literal['retrain'] = 'retrain'
    top: Annotated[int, Field(ge=1, le=1000)] = Field(
        5, description='best candidates that are trained fully; the one that is then best on val is kept'
    )
    scale: list[Member] = Field([], description='entries without weights that are scaled from the result')

    @model_validator(mode='after')
    def _check_proxy(self) -> 'ProxyConfig':
        if self.search.evaluator.kind == 'supernet':
            raise ValueError('evaluator.kind is supernet, method proxy needs proxy or table')
        names = [self.name, *(member.name for member in self.scale)]
        if again := next((name for i, name in enumerate(names) if name in names[:i]), None):
            raise ValueError(f'scale: the name {again} stands for two networks')
        return self


class TargetConfig(Part):
    """Search by the classification of some images: one half teaches weights, one architecture parameters."""

    data: DataConfig | None = Field(None, description='null: the data of the result')
    recipe: Recipe = Field(description='of the weights; epochs and batches are those of both halves')
    alpha: AlphaRecipe

    @model_validator(mode='after')
    def _check_recipe(self) -> 'TargetConfig':
        augment = self.recipe.augment or Augment()
        used = {'ema': self.recipe.ema, 'repeats': self.recipe.repeats > 1}
        used |= {'augment.mixup': augment.mixup, 'augment.cutmix': augment.cutmix}
        if found := next((name for name, value in used.items() if value), None):
            raise ValueError(f'recipe.{found}: found it, but architecture parameters are not trained with it')
        return self


class SelfSupervisedConfig(TargetConfig):
    """Search by the reconstruction of what is missing of some images."""

    classes: Annotated[int, Field(ge=1)] | None = Field(
        None, description='use the images of so many classes, drawn at random; null: all'
    )
    regions: Annotated[int, Field(ge=1, le=1024)] = Field(4, description='masks of each image')
    cover: Annotated[float, Field(gt=0, le=1)] = Field(
        0.25, description='the largest share of an image that is masked'
    )


class DifferentiableSearch(Scoring):
    """Search by the gradient of architecture parameters, in two phases."""

    frame: Frame | None = Field(None, description='what is searched; null: networks as the result')
    self_supervised: SelfSupervisedConfig | None = Field(description='null: without this phase')
    target: TargetConfig
    tied: bool = Field(False, description='stages of equal stride have the same operators')
    seeds: Annotated[int, Field(ge=1, le=100)] = Field(
        1, description='searches; each result is trained, and the one that is then best on val is kept'
    )

    @model_validator(mode='after')
    def _check_limits(self) -> 'DifferentiableSearch':
        if self.limits != Limits():
            raise ValueError('limits: found some, method differentiable knows no cost; leave them out')
        return self


class DifferentiableConfig(RunConfig):
    """Search by gradients: of mixed operators' weights, by reconstruction, then by the target task."""

    method: Literal['differentiable'] = 'differentiable'
    search: DifferentiableSearch
    weights: Literal['retrain'] = 'retrain'

    def decisive(self) -> dict[str, Any]:
        data = super().decisive()
        for phase in ('self_supervised', 'target'):
            found = (data['search'][phase] or {}).get('data') or {}
            for key in ('root', 'download', 'num_workers'):
                found.pop(key, None)
        return data


class SpaceSearchConfig(OneShotConfig):
    """S3's search: of the space, iteration by iteration, then of a network in it, as by one_shot."""

    method: Literal['space_search'] = 'space_search'  # type: ignore[assignment]
    evolve: Evolution

    @model_validator(mode='after')
    def _check_space_search(self) -> 'SpaceSearchConfig':
        if (kind := self.search.evaluator.kind) != 'supernet':
            raise ValueError(f'evaluator.kind is {kind}, method space_search needs supernet')
        if self.restrict:
            raise ValueError('restrict: found choices, but their values move; declare the space instead')
        if self.search.limits.latency is not None:
            raise ValueError('limits.latency: a space that moves was not measured; limit macs or params')
        return self


CONFIGS: dict[str, type[RunConfig]] = {
    'one_shot': OneShotConfig,
    'two_level': TwoLevelConfig,
    'proxy': ProxyConfig,
    'differentiable': DifferentiableConfig,
    'space_search': SpaceSearchConfig,
}
"""What a run of a method is told."""


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a config.

    Args:
        path: A YAML file.
        overrides: ``dotted.key=value`` each, the value in YAML: ``supernet.recipe.epochs=10``.

    Raises:
        ZooError: One line for each fault: file, key, what was found, what is allowed.
    """
    return parse_config(read_config(path, overrides), str(path))


def read_config(path: Path | str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A config's data, not yet checked (see :func:`load_config`)."""
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise ZooError(f'{path}: found {shorten(data)}, a config with keys is needed.')
    for text in overrides:
        override(data, text)
    return data


def parse_config(data: dict[str, Any], where: str = 'config') -> RunConfig:
    """Checks a config that has been read (see :func:`load_config`)."""
    method = data.get('method', 'one_shot')
    if not isinstance(method, str) or method not in CONFIGS:
        known = suggest(str(method), list(CONFIGS)) or f'; there are {", ".join(CONFIGS)}'
        raise ZooError(f'{where}: method: found {shorten(method)}, which is no method{known}.')
    return check_config(data, where, CONFIGS[method])


def check_config(data: dict[str, Any], where: str, kind: type[C]) -> C:
    """The config that some data are (see :func:`load_config`)."""
    try:
        return kind.model_validate_json(json.dumps(data))
    except (ValidationError, TypeError, ValueError, RecursionError) as error:
        raise ZooError('\n'.join(describe_faults(error, where, data, kind))) from None
