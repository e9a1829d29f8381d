"""The two phases of a differentiable search (Zhou et al., arXiv 2111.07139, Sec. III-C and III-D, Fig. 4)."""

import json
import random
import statistics
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search.bilevel import Loss, alternate, halve
from search.config import DifferentiableConfig, DifferentiableSearch, SelfSupervisedConfig, TargetConfig
from search.context_autoregression import Reconstruction, draw_masks, mask_side, reconstruction_loss
from search.data import Data, DataConfig, Images, train_batches
from search.frame import deepen, searched_space
from search.mixed import (
    Alpha,
    choose,
    find_leaders,
    mix,
    mixed_layers,
    read_alpha,
    summarise,
    write_alpha,
)
from search.problem import Problem
from search.run import Run, Unrecorded
from search.section import Section
from search.seeding import derive_seed, forked_rng
from search.sources import read_labels
from search.training import Recipe
from zoo.errors import ZooError
from zoo.jsonfile import format_json
from zoo.models import FAMILIES

__all__ = ['Relaxation']

INITIAL_SPREAD = 1e-3
"""Standard deviation of the architecture parameters where they begin at random (Sec. IV-G2): that of DARTS'
code, as the paper gives none."""


class Relaxation:
    """A problem's relaxed network, and the phases in which its architecture parameters are found.

    Attributes:
        space: Of the searched network, which may be smaller than the result.
    """

    def __init__(self, problem: Problem):
        """
        Raises:
            ZooError: What cannot work: the space, the data, too large batches.
        """
        assert isinstance(problem.config, DifferentiableConfig)
        self.problem, self.config = problem, problem.config
        self.settings: DifferentiableSearch = problem.config.search
        frame = self.settings.frame
        self.input = (frame and frame.input) or self.config.input
        self.space = searched_space(self.config.space, problem.space, frame, self.input.size)
        if self.space.space.size() == 1:
            raise ZooError('space: found a single architecture, at least two are needed.')
        self.leaders = find_leaders(self.space) if self.settings.tied else {}
        self._data: dict[DataConfig, Data] = {}
        for phase in self.phases().values():
            first, _ = self.halves(phase)
            train_batches(first, phase.recipe.batch_size, 0, 0, 0)
        masks, size = self.settings.self_supervised, self.input.size[1:]
        if masks is not None and not mask_side(size, masks.regions, masks.cover):
            raise ZooError(
                f'search.self_supervised.regions: found {masks.regions}, so many pixels are more than '
                f'{masks.cover:g} of an image of {size[0]} x {size[1]}.'
            )

    def phases(self) -> dict[str, TargetConfig]:
        """The settings of the phases, in their order."""
        first = self.settings.self_supervised
        return ({} if first is None else {'self_supervised': first}) | {'target': self.settings.target}

    def num_steps(self, phase: TargetConfig) -> int:
        """Steps of a phase, each of the weights and of the architecture parameters."""
        half = len(self.halves(phase)[0])
        return phase.recipe.epochs * (half // phase.recipe.batch_size)

    def count_cost(self) -> dict[str, int]:
        """What the whole search takes, in steps."""
        seeds = self.settings.seeds
        found = {f'{name}_steps': seeds * self.num_steps(phase) for name, phase in self.phases().items()}
        assert self.config.retrain is not None
        return found | {'seeds': seeds, 'retrain_steps': seeds * self.problem.num_steps(self.config.retrain)}

    def search(self, run: Section, seed: int) -> dict[str, Any]:
        """Both phases.

        Args:
            run: Where.
            seed: Number of this search; all see the same halves of the images, in another order.

        Returns:
            Record of the result: genotype, operators, params, macs, and the mean entropy, in nats, of the
            softmax weights of a layer.
        """
        alpha: Alpha | None = None
        for name, phase in self.phases().items():
            compute = partial(self.run, phase, alpha, run, seed)
            alpha = json.loads(run.phase(name, f'{name}.json', compute, together=True))['alpha']
        assert alpha is not None
        searched = choose(self.space.space, alpha)
        genotype = deepen(searched, self.space.space, self.problem.space.space)
        entropies = [value for key, value in summarise(alpha).items() if key.startswith('entropy/')]
        return {
            'genotype': list(genotype),
            'operators': self.problem.space.decode(genotype).model_dump(mode='json')['operators'],
            **self.problem.cost(genotype)._asdict(),
            'entropy': statistics.mean(entropies),
        }

    def run(
        self, phase: TargetConfig, initial: Alpha | None, run: Run | Section | Unrecorded, seed: int
    ) -> bytes:
        """One phase; gives the architecture parameters (see :meth:`classify`)."""
        if isinstance(phase, SelfSupervisedConfig):
            return self.reconstruct(phase, run, seed)
        return self.classify(phase, initial, run, seed)

    def reconstruct(self, config: SelfSupervisedConfig, run: Run | Section | Unrecorded, seed: int) -> bytes:
        """The search phase: context auto-regression (Sec. III-C); gives the architecture parameters."""
        seed = derive_seed(self.config.seed, 'self_supervised', seed)
        encoder = self.mix(config.recipe, 0, seed)
        with forked_rng(seed, 'decoder'):
            model = Reconstruction(encoder, self.input.size[0])

        def loss(x: Tensor, _: Tensor) -> Tensor:
            size = x.shape[2], x.shape[3]
            masks = draw_masks(len(x), size, config.regions, config.cover, torch.default_generator)
            masks = masks.to(x.device)
            return reconstruction_loss(model(x, masks), x, masks)

        label = 'searching by reconstruction'
        return self._optimise('self_supervised', label, config, model, loss, run, seed)

    def classify(
        self, config: TargetConfig, initial: Alpha | None, run: Run | Section | Unrecorded, seed: int
    ) -> bytes:
        """The fine-tuning phase: the target task (Sec. III-D); gives the architecture parameters.

        Args:
            config: Of the phase.
            initial: Architecture parameters of the search phase; None to draw them. Weights begin anew.
            run: Where.
            seed: Number of this search.
        """
        seed = derive_seed(self.config.seed, 'target', seed)
        model = self.mix(config.recipe, self.data(config).num_classes, seed)
        if initial is None:
            with forked_rng(seed, 'alpha'), torch.no_grad():
                for layer in mixed_layers(model).values():
                    layer.alpha.normal_(std=INITIAL_SPREAD)
        else:
            write_alpha(model, initial)

        def loss(x: Tensor, target: Tensor) -> Tensor:
            return F.cross_entropy(model(x), target, label_smoothing=config.recipe.label_smoothing)

        return self._optimise('target', 'searching on the target task', config, model, loss, run, seed)

    def mix(self, recipe: Recipe, num_classes: int, seed: int) -> nn.Module:
        """The relaxed network with a classifier for so many classes, 0 for none."""
        in_chans, *img_size = self.input.size
        args: dict[str, Any] = dict(in_chans=in_chans, img_size=tuple(img_size), num_classes=num_classes)
        args |= dict(drop_path_rate=recipe.drop_path_rate, drop_rate=recipe.drop_rate)
        family = self.space.family
        return mix(self.space, lambda arch: FAMILIES[family].build(arch, family, **args), seed, self.leaders)

    def data(self, phase: TargetConfig) -> Data:
        """What a phase looks at."""
        config = phase.data or self.config.data
        if config not in self._data:
            same = config == self.config.data and self.input == self.config.input
            self._data[config] = self.problem.data if same else self.problem.open_data(config, self.input)
        return self._data[config]

    def halves(self, phase: TargetConfig, seed: int = 0) -> tuple[Images, Images]:
        """The images that teach the weights, and those that teach the architecture parameters.

        Args:
            phase: Whose images.
            seed: Of the augmentation.
        """
        try:
            images = self.data(phase).images('train', phase.recipe.augment, seed)
        except ZooError as error:
            name = next(name for name, other in self.phases().items() if other.data == phase.data)
            raise ZooError(f'search.{name}.{error}') from None
        count = phase.classes if isinstance(phase, SelfSupervisedConfig) else None
        if count is not None:
            labels = read_labels(images.source)
            classes = sorted({labels[index] for index in images.indices})
            if count > len(classes):
                raise ZooError(
                    f'search.self_supervised.classes: found {count}, the data have {len(classes)} classes.'
                )
            chosen = set(random.Random(derive_seed(self.config.seed, 'classes')).sample(classes, count))
            images.indices = [index for index in images.indices if labels[index] in chosen]
        return halve(images, derive_seed(self.config.seed, 'halves'))

    def _optimise(
        self,
        phase: str,
        label: str,
        config: TargetConfig,
        model: nn.Module,
        loss: Loss,
        run: Run | Section | Unrecorded,
        seed: int,
    ) -> bytes:
        losses = alternate(
            model,
            loss,
            self.halves(config, derive_seed(seed, 'augment')),
            config.recipe,
            config.alpha,
            phase=phase,
            label=label,
            seed=seed,
            run=run,
            num_workers=(config.data or self.config.data).num_workers,
        )
        return format_json({'alpha': read_alpha(model), **losses}).encode()
