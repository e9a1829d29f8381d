"""Zero-shot image retrieval: embeddings learnt from some classes find images of others.

Proxy-NCA (Movshovitz-Attias et al., arXiv 1703.07464) and nearest neighbours are pytorch-metric-learning's.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS, MODELS
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.losses import ProxyNCALoss
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN, FaissKNN
from torch import Tensor

from downstream.image_data import ZooImages
from downstream.image_model import ImageModel
from downstream.runner import train
from zoo.errors import ZooError

__all__ = ['ZooEmbedder', 'ZooRecall', 'find_recalls', 'retrieve']


def retrieve(
    name: str | Path,
    work_dir: Path | str | None = None,
    resume: bool = False,
    options: Mapping[str, Any] | None = None,
    launcher: str = 'none',
) -> dict[str, float]:
    """Trains the embeddings of a config and measures retrieval among its test images, once.

    The folder of the run then holds the weights as ``network.safetensors``, which timm takes
    (:class:`downstream.image_model.WriteNetwork` says how).

    Args:
        name: As for :func:`downstream.runner.train`, likewise the others.

    Returns:
        ``retrieval/recall@1`` and so on, in per cent.

    Raises:
        ZooError: The config, its data or weights are at fault.
    """
    return dict(train(name, work_dir, resume, options, launcher).test())


@MODELS.register_module()
class ZooEmbedder(ImageModel):
    """A network whose pooled features a linear layer takes to unit vectors, trained by Proxy-NCA.

    Each class to learn from has a proxy, a vector that is learnt too. An embedding is drawn to the proxy of
    its class and away from the others.

    Args:
        name: As for :class:`downstream.image_model.ImageModel`, likewise the others.
        num_classes: Classes to learn from.
        embed_dim: Length of an embedding.
        scale: What squared distances are multiplied with in the softmax over proxies.
    """

    def __init__(
        self, name: str, num_classes: int, embed_dim: int = 64, scale: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(name, embed_dim, **kwargs)
        self.num_classes = num_classes
        self.criterion = ProxyNCALoss(num_classes, embed_dim, softmax_scale=scale)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return self.criterion(outputs.float(), labels)

    def predict(self, outputs: Tensor, labels: Tensor) -> list[tuple[Tensor, int]]:
        """Of each image its embedding (embed_dim,) and its class."""
        embeddings = F.normalize(outputs.float(), dim=1).cpu()
        return list(zip(embeddings, labels.tolist(), strict=True))

    def check_data(self, dataset: ZooImages) -> None:
        if dataset.num_classes != self.num_classes:
            raise ZooError(
                f'{dataset.name} gives {dataset.num_classes} classes to learn from, model.num_classes is '
                f'{self.num_classes}.'
            )


@METRICS.register_module()
class ZooRecall(BaseMetric):
    """``retrieval/recall@k``: see :func:`find_recalls`, likewise for the arguments."""

    default_prefix = 'retrieval'

    def __init__(self, ks: Sequence[int] = (1, 2, 4, 8), faiss: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ks = tuple(ks)
        self.faiss = faiss

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        self.results.extend(data_samples)

    def compute_metrics(self, results: list[tuple[Tensor, int]]) -> dict[str, float]:
        embeddings = torch.stack([embedding for embedding, _ in results])
        labels = torch.tensor([label for _, label in results])
        recalls = find_recalls(embeddings, labels, self.ks, self.faiss)
        return {f'recall@{k}': value for k, value in recalls.items()}


def find_recalls(
    embeddings: Tensor, labels: Tensor, ks: Sequence[int] = (1, 2, 4, 8), faiss: bool = False
) -> dict[int, float]:
    """How often there is an image of the same class among the k nearest ones, in per cent.

    Every image is looked for among all others. One whose class no other image has is not looked for, but is
    there to be found. Of equally near ones any may come first.

    Args:
        embeddings: (N, C), of length 1.
        labels: (N,).
        ks: From 1 to N - 1.
        faiss: Let FAISS find the neighbours, which is faster for hundreds of thousands of images.

    Raises:
        ZooError: There are too few images for a ``k``, no two of one class, or embeddings are not finite; or
            FAISS is not installed.
    """
    most = len(embeddings) - 1
    if wrong := [k for k in ks if not 1 <= k <= most]:
        raise ZooError(f'recall@{wrong[0]}: with {most + 1} images, k can be 1 to {most}.')
    if not embeddings.isfinite().all():
        raise ZooError('Found embeddings that are not finite, so that there is nothing to measure.')
    if labels.bincount().max() < 2:
        raise ZooError('Found no two images of one class, so that there is nothing to retrieve.')
    if faiss and importlib.util.find_spec('faiss') is None:
        raise ZooError('faiss=True needs FAISS, which is not installed: pip install faiss-cpu.')
    neighbours = FaissKNN() if faiss else CustomKNN(CosineSimilarity(), batch_size=1024)
    calculator = _Recalls(ks, device=embeddings.device, knn_func=neighbours)
    return dict(zip(ks, calculator.get_accuracy(embeddings, labels)['recalls'], strict=True))


class _Recalls(AccuracyCalculator):
    """pytorch-metric-learning's calculator with one more metric, which it finds by its name."""

    def __init__(self, ks: Sequence[int], **kwargs: Any) -> None:
        super().__init__(include=('recalls',), k=max(ks), **kwargs)
        self.ks = ks

    def requires_knn(self) -> list[str]:
        return ['recalls']

    def calculate_recalls(
        self, knn_labels: Tensor, query_labels: Tensor, not_lone_query_mask: Tensor, **_: Any
    ) -> list[float]:
        hits = (knn_labels == query_labels[:, None])[not_lone_query_mask]
        return [100 * hits[:, :k].any(1).double().mean().item() for k in self.ks]
