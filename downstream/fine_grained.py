"""Classifiers on top of networks that have learnt elsewhere: fine-grained recognition."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS, MODELS
from torch import Tensor

from downstream.image_data import ZooImages
from downstream.image_model import ImageModel
from downstream.runner import train
from zoo.errors import ZooError

__all__ = ['ZooAccuracy', 'ZooClassifier', 'finetune']


def finetune(
    name: str | Path,
    work_dir: Path | str | None = None,
    resume: bool = False,
    options: Mapping[str, Any] | None = None,
    launcher: str = 'none',
) -> dict[str, float]:
    """Trains the classifier of a config and measures it on the test images, once.

    The folder of the run then holds the weights as ``network.safetensors``, which timm takes
    (:class:`downstream.image_model.WriteNetwork` says how).

    Args:
        name: As for :func:`downstream.runner.train`, likewise the others.

    Returns:
        ``accuracy/top1``, in per cent.

    Raises:
        ZooError: The config, its data or weights are at fault.
    """
    return dict(train(name, work_dir, resume, options, launcher).test())


@MODELS.register_module()
class ZooClassifier(ImageModel):
    """A network that tells classes apart, trained by cross-entropy.

    Args:
        name: As for :class:`downstream.image_model.ImageModel`, likewise the others.
        num_classes: Classes of the data.
    """

    def __init__(self, name: str, num_classes: int, **kwargs: Any) -> None:
        super().__init__(name, num_classes, **kwargs)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs, labels)

    def predict(self, outputs: Tensor, labels: Tensor) -> list[tuple[int, int]]:
        """Of each image the class that is likeliest, and the right one."""
        if outputs.isnan().any():
            raise ZooError(f'{self.name} gives NaN, so that there is nothing to measure.')
        return list(zip(outputs.argmax(1).tolist(), labels.tolist(), strict=True))

    def check_data(self, dataset: ZooImages) -> None:
        if dataset.num_classes != self.outputs:
            raise ZooError(
                f'{dataset.name} has {dataset.num_classes} classes, model.num_classes is {self.outputs}.'
            )


@METRICS.register_module()
class ZooAccuracy(BaseMetric):
    """``accuracy/top1``: how many images a :class:`ZooClassifier` tells right, in per cent."""

    default_prefix = 'accuracy'

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        self.results.extend(found == label for found, label in data_samples)

    def compute_metrics(self, results: list[bool]) -> dict[str, float]:
        return {'top1': 100 * sum(results) / len(results)}
