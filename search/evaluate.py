"""What a candidate is worth. An evaluator only scores: called with a genotype it returns an Evaluation."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
import torch.nn.functional as F

from search.space import Genotype
from search.supernet import Supernet

__all__ = ['Evaluation', 'Evaluator', 'SupernetEvaluator']

Objective = Literal['top1', 'loss']


@dataclass(frozen=True)
class Evaluation:
    """The score that a strategy maximises, and everything that was measured on the way."""

    score: float
    metrics: dict[str, float] = field(default_factory=dict)


class Evaluator(Protocol):
    def __call__(self, genotype: Genotype) -> Evaluation: ...


class SupernetEvaluator:
    """Scores a candidate with the weights it inherits, on held-out images that are kept in memory."""

    def __init__(
        self,
        supernet: Supernet,
        images: torch.Tensor,
        labels: torch.Tensor,
        batch_size: int = 256,
        objective: Objective = 'top1',
        autocast: Callable[[], AbstractContextManager] = nullcontext,
    ):
        """
        Args:
            supernet: The trained supernet.
            images: (N, C, H, W), already transformed, where the supernet is.
            labels: (N,) class indices.
            batch_size: Images at once.
            objective: 'top1', or 'loss' for the negative cross-entropy, which ties less on few images.
            autocast: Context in which the network runs.
        """
        self.supernet = supernet.eval()
        self.images, self.labels = images, labels
        self.batch_size = batch_size
        self.objective = objective
        self.autocast = autocast

    def __call__(self, genotype: Genotype) -> Evaluation:
        """Evaluates one candidate.

        Returns:
            Metrics top1 (in %) and loss (mean cross-entropy in nats).
        """
        arch = self.supernet.family_space.decode(genotype)
        tensors = self.supernet.tensors(arch, contiguous=True)
        correct, loss = 0, 0.0
        batches = zip(self.images.split(self.batch_size), self.labels.split(self.batch_size), strict=True)
        for images, labels in batches:
            with self.autocast():
                logits = self.supernet(arch, images, tensors)
            correct += int((logits.argmax(1) == labels).sum())
            loss += float(F.cross_entropy(logits.float(), labels, reduction='sum'))
        metrics = {'top1': 100 * correct / len(self.labels), 'loss': loss / len(self.labels)}
        return Evaluation(metrics['top1'] if self.objective == 'top1' else -metrics['loss'], metrics)
