"""What a candidate is worth. An evaluator only scores: called with a genotype it returns an Evaluation."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from random import Random
from typing import Literal, Protocol

import torch
import torch.nn.functional as F

from search.space import Genotype
from search.supernet import Supernet
from search.training import Network
from zoo.arch import Arch

__all__ = ['Evaluation', 'Evaluator', 'Objective', 'SupernetEvaluator', 'validate']

Objective = Literal['top1', 'loss']

JUDGES = 3
"""Random candidates that say which images are hard."""


@dataclass(frozen=True)
class Evaluation:
    """The score that a strategy maximises, and everything that was measured on the way."""

    score: float
    metrics: dict[str, float] = field(default_factory=dict)
    standard_error: float | None = None
    """Of the score, over draws of images."""


class Evaluator(Protocol):
    def __call__(self, genotype: Genotype, needed: float = -math.inf) -> Evaluation:
        """Scores a candidate. One that cannot reach the score ``needed`` may be given up on the way: then its
        score is one that it could at best have had, and the metric ``images`` says after how many."""


@torch.no_grad()
def validate(
    network: Network,
    images: torch.Tensor,
    labels: torch.Tensor,
    batch_size: int,
    objective: Objective,
    autocast: Callable[[], AbstractContextManager] = nullcontext,
    needed: float = -math.inf,
) -> Evaluation:
    """Scores a network on images in a fixed order, the same for all candidates.

    It is given up as soon as it would not reach ``needed`` with all other images right and without loss.

    Args:
        network: In evaluation mode.
        images: (N, C, H, W), already transformed, where the network is.
        labels: (N,) class indices.
        batch_size: Images at once.
        objective: 'top1', or 'loss' for the negative cross-entropy, which ties less on few images.
        autocast: Context in which the network runs.
        needed: A score.

    Returns:
        Metrics top1 (in %) and loss (mean cross-entropy in nats), or images if it was given up.
    """
    total, seen, correct, loss, squares = len(labels), 0, 0, 0.0, 0.0
    for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        with autocast():
            logits = network(x)
        seen += len(y)
        correct += int((logits.argmax(1) == y).sum())
        losses = F.cross_entropy(logits.float(), y, reduction='none').double()
        loss += float(losses.sum())
        squares += float(losses.square().sum())
        bound = 100 * (correct + total - seen) / total if objective == 'top1' else -loss / total
        if bound < needed and seen < total:
            return Evaluation(bound, {'images': seen})
    share = correct / total
    variance = 1e4 * share * (1 - share) if objective == 'top1' else squares / total - (loss / total) ** 2
    metrics = {'top1': 100 * correct / total, 'loss': loss / total}
    return Evaluation(bound, metrics, math.sqrt(max(variance, 0.0) / total))


class SupernetEvaluator:
    """Scores a candidate with the weights it inherits, on held-out images that are kept in memory.

    The images that some random candidates find hardest come first. A candidate loses most of its score on
    them, so that one that is not good enough is given up early, although none is that could still be.
    """

    def __init__(
        self,
        supernet: Supernet,
        images: torch.Tensor,
        labels: torch.Tensor,
        batch_size: int = 256,
        objective: Objective = 'top1',
        autocast: Callable[[], AbstractContextManager] = nullcontext,
        calibration: Sequence[torch.Tensor] = (),
    ):
        """
        Args:
            supernet: The trained supernet.
            images: As the other arguments, see :func:`validate`.
            calibration: Batches of training images that set the statistics of a candidate's batch norms.
        """
        self.supernet = supernet.eval()
        self.batch_size = batch_size
        self.objective = objective
        self.autocast = autocast
        self.calibration = calibration
        space = supernet.family_space
        drawn = [space.decode(space.space.sample(Random(i))) for i in range(JUDGES)]
        losses = sum(self._losses(arch, images, labels) for arch in drawn)
        order = torch.argsort(torch.as_tensor(losses), descending=True, stable=True)
        self.images, self.labels = images[order], labels[order]

    def __call__(self, genotype: Genotype, needed: float = -math.inf) -> Evaluation:
        return validate(
            self._network(self.supernet.family_space.decode(genotype)),
            self.images,
            self.labels,
            self.batch_size,
            self.objective,
            self.autocast,
            needed,
        )

    def _network(self, arch: Arch) -> Network:
        tensors = self.supernet.tensors(arch, contiguous=True)
        with self.autocast():
            tensors |= self.supernet.calibrate(arch, self.calibration, tensors)
        return lambda x: self.supernet(arch, x, tensors)

    @torch.no_grad()
    def _losses(self, arch: Arch, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Of each image, (N,)."""
        network, losses = self._network(arch), []
        for x, y in zip(images.split(self.batch_size), labels.split(self.batch_size), strict=True):
            with self.autocast():
                logits = network(x)
            losses.append(F.cross_entropy(logits.float(), y, reduction='none'))
        return torch.cat(losses)
