"""What a config means: its data, its space, its limits, and the networks that are trained and written."""

import math
import random
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from search.budget import BudgetSampler, Limits
from search.config import OneShotConfig, RunConfig, SearchConfig, SupernetConfig
from search.cost import Cost, CostModel
from search.data import Data, train_batches
from search.distributed import world
from search.evaluate import validate
from search.latency import LatencyModel
from search.latency_sampler import LatencySampler
from search.run import Run, Unrecorded
from search.sampling import Sampler, SpaceSampler
from search.section import Section
from search.seeding import derive_seed, forked_rng
from search.space import Genotype
from search.spaces import FamilySpace, load_space
from search.strategies import Strategy, make_strategy
from search.supernet import Supernet
from search.training import Network, Recipe, device, train
from zoo import __version__
from zoo.arch import Arch
from zoo.errors import ZooError
from zoo.models import FAMILIES
from zoo.registry import list_entries, load_entry

__all__ = ['Problem', 'versions']


@dataclass(frozen=True)
class Problem:
    """A config with what follows from it. Making one refuses what cannot work, before anything is written."""

    config: RunConfig

    def __post_init__(self) -> None:
        check_name(self.config.name, self.space.family)
        if isinstance(self.config, OneShotConfig):
            self.make_strategy()
        self.data.images('val')
        for recipe in self.recipes():
            images = self.data.images('train', recipe.augment, 0)
            train_batches(images, recipe.batch_size, 0, 0, 0)

    def recipes(self) -> list[Recipe]:
        """All trainings of the run."""
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

    @cached_property
    def data(self) -> Data:
        return Data(self.config.data, self.config.input)

    @cached_property
    def space(self) -> FamilySpace:
        whole = load_space(self.config.space, self.config.input.size)  # type: ignore[arg-type]
        return whole.restrict(self.config.restrict) if self.config.restrict else whole

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

    def build(self, arch: Arch, **kwargs: Any) -> nn.Module:
        """The zoo's network for this data."""
        in_chans, *img_size = self.config.input.size
        family = FAMILIES[self.space.family]
        args = dict(in_chans=in_chans, img_size=tuple(img_size), num_classes=self.data.num_classes)
        return family.build(arch, self.space.family, **args, **kwargs)

    def num_steps(self, recipe: Recipe, limit: int | None = None) -> int:
        """Optimizer steps of a training on the train split, or on so many of its images."""
        count = len(self.data.images('train'))
        return recipe.epochs * (min(count, limit or count) // recipe.batch_size)

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

    def train(
        self,
        model: nn.Module,
        networks: Callable[[int], Sequence[Network]],
        recipe: Recipe,
        phase: str,
        label: str,
        run: Run | Section | Unrecorded,
        limit: int | None = None,
        penalty: Callable[[int], torch.Tensor] | None = None,
    ) -> None:
        """:func:`search.training.train` on the train split, seeded by the run's seed and the phase.

        Args:
            limit: So many images, drawn once for all trainings with this limit; None for all.
        """
        seed = derive_seed(self.config.seed, phase)
        images = self.data.images('train', recipe.augment, seed)
        if limit is not None and limit < len(images):
            rng = random.Random(derive_seed(self.config.seed, 'limit', limit))
            images.indices = sorted(rng.sample(list(images.indices), limit))
        train(
            model,
            networks,
            images,
            recipe,
            num_classes=self.data.num_classes,
            phase=phase,
            label=label,
            seed=seed,
            run=run,
            num_workers=self.config.data.num_workers,
            penalty=penalty,
        )

    def train_alone(
        self,
        arch: Arch,
        recipe: Recipe,
        phase: str,
        label: str,
        run: Run | Section | Unrecorded,
        tensors: dict[str, torch.Tensor] | None = None,
    ) -> nn.Module:
        """Trains an architecture from scratch, or from the values of its tensors."""
        with forked_rng(self.config.seed, phase, 'init'):
            model = self.build(arch, drop_path_rate=recipe.drop_path_rate)
        if tensors is not None:
            model.load_state_dict(tensors)
        self.train(model, lambda step: [model], recipe, phase, label, run)
        return model


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
