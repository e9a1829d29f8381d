"""What a config means: its data, its space, its limits, and the networks that are trained and written."""

import math
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import timm
import torch
from torch import nn

from search.budget import BudgetSampler, Limits
from search.config import OneShotConfig, RunConfig, SearchConfig, SupernetConfig
from search.cost import Cost, CostModel
from search.data import train_batches
from search.distributed import world
from search.evaluate import validate
from search.latency import LatencyModel
from search.latency_sampler import LatencySampler
from search.sampling import Sampler, SpaceSampler
from search.seeding import derive_seed
from search.space import Genotype
from search.spaces import FamilySpace, load_space
from search.strategies import Strategy, make_strategy
from search.supernet import Supernet
from search.task import Task
from search.timing import find_device_name
from search.training import Recipe, device
from zoo import __version__
from zoo.errors import ZooError
from zoo.models import FAMILIES
from zoo.registry import list_entries, load_entry

__all__ = ['Problem', 'versions']


@dataclass(frozen=True)
class Problem(Task):
    """A config with what follows from it. Making one refuses what cannot work, before anything is written."""

    config: RunConfig

    def __post_init__(self) -> None:
        check_name(self.config.name, self.space.family)
        if isinstance(self.config, OneShotConfig):
            self.make_strategy()
        self.data.images('val')
        for recipe in self.recipes():
            self.train_images(recipe, 0)
        if self.has_supernet:
            self.train_images(self.supernet_config.recipe, 0, self.supernet_config.images)

    def recipes(self) -> list[Recipe]:
        """All trainings on the data of the run; phases of a differentiable search may have others."""
        config = self.config
        found = [config.retrain] if config.retrain else []
        if isinstance(config, OneShotConfig):
            if config.supernet is not None:
                found.append(config.supernet.recipe)
            if config.search.evaluator.kind == 'proxy':
                found.append(config.search.evaluator.recipe)
        return found

    @property
    def search_config(self) -> SearchConfig:
        """How a strategy searches, in methods that have one."""
        assert isinstance(self.config.search, SearchConfig)
        return self.config.search

    @property
    def supernet_config(self) -> SupernetConfig:
        """How the supernet is trained, in methods that have one."""
        assert isinstance(self.config, OneShotConfig)
        assert self.config.supernet is not None
        return self.config.supernet

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def family(self) -> str:
        return self.space.family

    @property
    def batch_size(self) -> int:
        return self.config.search.batch_size

    @cached_property
    def space(self) -> FamilySpace:
        whole = load_space(self.config.space, self.config.input.size)  # type: ignore[arg-type]
        try:
            return whole.restrict(self.config.restrict) if self.config.restrict else whole
        except ZooError as error:
            raise ZooError(f'restrict: {error}') from None

    @cached_property
    def cost_model(self) -> CostModel:
        return self.space.cost_model(self.data.num_classes)

    @cached_property
    def sampler(self) -> Sampler:
        """The candidates: the space, or what the limits leave of it."""
        limits = self.config.search.limits
        if limits.params is None and limits.macs is None and limits.latency is None:
            return SpaceSampler(self.space.space)
        return self._limited(Limits(limits.params, limits.macs))

    @cached_property
    def latency_model(self) -> LatencyModel | None:
        """The latency of candidates, if it is limited."""
        limit = self.config.search.limits.latency
        return LatencyModel(self.space, self.data.num_classes, limit.file) if limit else None

    def _limited(self, limits: Limits) -> BudgetSampler | LatencySampler:
        """Candidates within these limits and the limit of latency."""
        if self.latency_model is None:
            return BudgetSampler(self.cost_model, limits)
        assert self.config.search.limits.latency is not None
        return LatencySampler(
            self.cost_model, limits, self.latency_model, self.config.search.limits.latency.seconds
        )

    def make_strategy(self) -> Strategy:
        return make_strategy(self.search_config.strategy, self.sampler, self.config.seed, self.space.decode)

    def make_supernet(self) -> Supernet:
        return Supernet(self.space, self.data.num_classes, derive_seed(self.config.seed, 'supernet', 'init'))

    def calibration(self) -> list[torch.Tensor]:
        """Batches of training images, as they are evaluated, for the statistics of batch norms."""
        batch_size, batches = self.calibration_size()
        images, seed = self.data.images('train'), derive_seed(self.config.seed, 'calibration')
        loader = train_batches(images, batch_size, seed, 0, batches, self.config.data.num_workers)
        return [x for x, _ in loader]

    def calibration_size(self) -> tuple[int, int]:
        """Images of a batch, and batches, of :meth:`calibration`."""
        count, config = len(self.data.images('train')), self.search_config
        batch_size = min(config.batch_size, count)
        return batch_size, min(math.ceil(config.calibration_images / batch_size), count // batch_size)

    def cost(self, genotype: Genotype) -> Cost:
        return self.cost_model.cost(genotype)

    def sampler_near(self, cost: Cost, within: float) -> Sampler:
        """Candidates of nearly the same MACs."""
        macs = cost.macs * (1 - within), cost.macs * (1 + within)
        return self._limited(Limits(self.config.search.limits.params, macs))

    @property
    def has_supernet(self) -> bool:
        return isinstance(self.config, OneShotConfig) and self.config.supernet is not None

    @torch.no_grad()
    def score(self, model: nn.Module) -> dict[str, float]:
        """A trained network's score (see :func:`search.evaluate.validate`) and metrics on val."""
        config = self.config.search
        images, labels = self.data.images('val').tensors(config.batch_size, self.config.data.num_workers)
        where = device()
        model.to(where).eval()
        found = validate(model, images.to(where), labels.to(where), config.batch_size, config.objective)
        return {'score': found.score, **found.metrics}


def check_name(name: str, family: str) -> None:
    """Refuses a name that the entry could not be registered under."""
    if name in list_entries():
        taken = load_entry(name).provenance.kind != 'searched'
    else:
        taken = timm.is_model(name) or hasattr(FAMILIES[family], name)
    if taken:
        raise ZooError(f'name: found {name!r}, which is the name of another model; choose another one.')


def versions() -> dict[str, str]:
    """What, besides the config, decides the last digits of a result."""
    found = {
        'searchzoo': __version__,
        'torch': torch.__version__,
        'timm': timm.__version__,
        'threads': str(torch.get_num_threads()),
        'processes': str(world()[1]),
        'device': find_device_name(device().type),
    }
    return found | ({'commit': commit} if (commit := find_commit()) else {})


def find_commit() -> str | None:
    """The commit of the checkout that this package runs from, with ``-dirty`` if files have changed since."""
    here = Path(__file__).resolve()

    def git(*args: str) -> str:
        command = ['git', '-C', str(here.parent), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git(
            'ls-files', '--error-unmatch', here.name
        )  # an installed package may lie in another project's checkout
        return git('describe', '--always', '--dirty', '--abbrev=40', '--exclude', '*')
    except (OSError, subprocess.SubprocessError):
        return None
