"""Networks of a family that are trained and measured on a data set: what every run needs."""

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from search.config import TaskConfig
from search.data import Data, DataConfig, Images, train_batches
from search.run import Run, Unrecorded
from search.section import Section
from search.seeding import derive_seed, forked_rng
from search.training import Network, Recipe, train
from zoo.arch import Arch
from zoo.entry import Input
from zoo.models import FAMILIES

__all__ = ['Task']


@dataclass(frozen=True)
class Task(ABC):
    """A data set, and the networks that are built for it."""

    config: TaskConfig

    @property
    @abstractmethod
    def name(self) -> str:
        """Of the entry that the run writes."""

    @property
    @abstractmethod
    def family(self) -> str:
        """Of the networks."""

    @property
    @abstractmethod
    def batch_size(self) -> int:
        """Images that are evaluated at once."""

    @cached_property
    def data(self) -> Data:
        return self.open_data(self.config.data, self.config.input)

    def open_data(self, config: DataConfig, image: Input) -> Data:
        """A data set as networks see it."""
        return Data(config, image)

    def build(self, arch: Arch, **kwargs: Any) -> nn.Module:
        """The zoo's network for this data."""
        in_chans, *img_size = self.config.input.size
        args = dict(in_chans=in_chans, img_size=tuple(img_size), num_classes=self.data.num_classes)
        return FAMILIES[self.family].build(arch, self.family, **args, **kwargs)

    def num_steps(self, recipe: Recipe, limit: int | None = None) -> int:
        """Optimizer steps of a training on the train split, or on so many of its images."""
        count = len(self.data.images('train'))
        return recipe.epochs * (min(count, limit or count) // recipe.batch_size)

    def train_images(self, recipe: Recipe, seed: int, limit: int | None = None) -> Images:
        """The train split as a recipe changes it at random, or so many of its images (see :meth:`train`).

        Raises:
            ZooError: They are too few for a batch.
        """
        images = self.data.images('train', recipe.augment, seed)
        if limit is not None and limit < len(images):
            rng = random.Random(derive_seed(self.config.seed, 'limit', limit))
            images.indices = sorted(rng.sample(list(images.indices), limit))
        train_batches(images, recipe.batch_size, 0, 0, 0)
        return images

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
        train(
            model,
            networks,
            self.train_images(recipe, seed, limit),
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
            model = self.build(arch, drop_path_rate=recipe.drop_path_rate, drop_rate=recipe.drop_rate)
        if tensors is not None:
            model.load_state_dict(tensors)
        self.train(model, lambda step: [model], recipe, phase, label, run)
        return model
