"""Scoring a candidate by training it from scratch for a short time, as UniNet's search does (Sec. 3.4)."""

import math
from collections.abc import Callable
from functools import partial

from search.evaluate import Evaluation, validate
from search.problem import Problem
from search.run import Unrecorded
from search.seeding import derive_seed
from search.space import Genotype
from search.training import Recipe, autocast, device

__all__ = ['ProxyEvaluator']


class ProxyEvaluator:
    """Trains each candidate by a short recipe and scores it on held-out images.

    A candidate's training depends on the run's seed and on the candidate alone: not on what was evaluated
    before it, nor where.
    """

    def __init__(self, problem: Problem, recipe: Recipe, stop: Callable[[], bool] = lambda: False):
        """
        Args:
            problem: The data, the space and the seed.
            recipe: How candidates are trained.
            stop: Tells, after each step, whether to abandon the training
                (:class:`search.run.Abandoned` is raised).
        """
        self.problem = problem
        self.recipe = recipe
        self.run = Unrecorded(stop)
        images, labels = problem.data.images('val').tensors(
            problem.search_config.batch_size, problem.config.data.num_workers
        )
        self.images, self.labels = images.to(device()), labels.to(device())

    def __call__(self, genotype: Genotype, needed: float = -math.inf) -> Evaluation:
        """The whole training is done whatever is ``needed``."""
        config = self.problem.search_config
        arch = self.problem.space.decode(genotype)
        phase = f'proxy{derive_seed(*genotype)}'
        model = self.problem.train_alone(arch, self.recipe, phase, 'training a candidate', self.run).eval()
        return validate(
            model,
            self.images,
            self.labels,
            config.batch_size,
            config.objective,
            partial(autocast, device(), config.bf16),
        )
