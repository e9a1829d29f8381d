"""Any network of the zoo or of timm in MMEngine's Runner, from labelled images to one vector of each."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseDataPreprocessor, BaseModel, is_model_wrapper
from mmengine.registry import HOOKS
from safetensors.torch import save
from torch import Tensor

from downstream.checkpoints import fit_checkpoint, read_tensors
from downstream.network import create_network, sketch_network
from zoo.errors import ZooError
from zoo.files import write_atomic
from zoo.jsonfile import clip

__all__ = ['WEIGHTS', 'ImageModel', 'WriteNetwork']

WEIGHTS = 'network.safetensors'
"""What a run writes beside its checkpoints."""


class ImageModel(BaseModel):
    """A network with a last layer of its own; what is learnt from it is its subclasses' matter.

    Args:
        name: An entry (``carnet_c112``, or with a tag), the .json file of one, ``hf-hub:org/name``, or any
            model of timm.
        outputs: Of the last layer.
        pretrained: Start from the weights of ``name``, all but those of the last layer.
        checkpoint: Start from another file of weights: safetensors, a URL, ``hf-hub://org/name``.
        **kwargs: Of ``timm.create_model``; ``img_size`` where the network depends on it.

    Raises:
        ZooError: There is no such network, or weights are not to be had or are those of another network.
    """

    def __init__(
        self, name: str, outputs: int, pretrained: bool = False, checkpoint: str | None = None, **kwargs: Any
    ) -> None:
        if pretrained and checkpoint:
            raise ZooError(f'{name}: pretrained and checkpoint are both given, one of them is needed.')
        kwargs['num_classes'] = outputs
        sketch = replace(sketch_network(name, **kwargs), options={})
        network: Any = create_network(sketch, pretrained, **kwargs)
        super().__init__(_Normalise(name, network.pretrained_cfg))
        self.name = name
        self.outputs = outputs
        self.network = network
        if pretrained:
            network.reset_classifier(outputs)
        if checkpoint:
            self._load(checkpoint)

    def _load(self, checkpoint: str) -> None:
        names: Any = self.network.pretrained_cfg['classifier']
        starts = tuple(f'{name}.' for name in ([names] if isinstance(names, str) else names))
        tensors = {
            name: tensor for name, tensor in read_tensors(checkpoint).items() if not name.startswith(starts)
        }
        last = {name for name in self.network.state_dict() if name.startswith(starts)}
        fault = f'{checkpoint} is not a checkpoint of {self.name}'
        tensors = fit_checkpoint(tensors, self.network, set(), last, fault)
        self.network.load_state_dict(tensors, strict=False)

    def init_weights(self) -> None:
        """Leaves all as it is: weights have been drawn, or loaded, when the network was made.

        The Runner calls this, and MMEngine's own would have the network draw all of its weights anew.
        """
        self._is_init = True

    def forward(self, images: Tensor, labels: Tensor, mode: str = 'tensor') -> Any:
        """Outputs, what is lost by mode ``loss``, or a list of predictions by mode ``predict``.

        Args:
            images: (B, C, H, W), normalised.
            labels: (B,).
            mode: MMEngine's.
        """
        try:
            outputs = self.network(images)
        except AssertionError as error:  # how timm's networks and the zoo's refuse a size
            size = 'x'.join(str(side) for side in images.shape[2:])
            raise ZooError(
                f'{self.name} does not take images of {size} pixels: {clip(str(error)).rstrip(".")}.'
            ) from error
        if mode == 'loss':
            return {'loss': self.loss(outputs, labels)}
        return self.predict(outputs, labels) if mode == 'predict' else outputs

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """What is made small: of outputs (B, outputs) and labels (B,), one number."""
        raise NotImplementedError

    def predict(self, outputs: Tensor, labels: Tensor) -> list[Any]:
        """What an evaluator takes of each image."""
        raise NotImplementedError

    def check_data(self, dataset: Any) -> None:
        """Looks at the data that are to be learnt from.

        Raises:
            ZooError: They do not fit.
        """


class _Normalise(BaseDataPreprocessor):
    """From pixels to what a network takes, on its device."""

    def __init__(self, name: str, config: dict[str, Any]) -> None:
        super().__init__()
        self.name = name
        for key in ('mean', 'std'):
            values = torch.tensor(config[key], dtype=torch.float32)
            self.register_buffer(key, values.view(-1, 1, 1), persistent=False)

    def forward(self, data: Any, training: bool = False) -> tuple[Tensor, Tensor]:
        if isinstance(data, ZooError):
            raise data
        images, labels = self.cast_data(data)
        if images.shape[1] != len(self.mean):
            raise ZooError(
                f'{self.name} takes images of {len(self.mean)} channels, found {images.shape[1]}; the mode '
                'of data is RGB (3) or L (1).'
            )
        return (images.float() / 255 - self.mean) / self.std, labels


@HOOKS.register_module()
class WriteNetwork(Hook):
    """Checks the data of an :class:`ImageModel` first, and writes its network's weights at the end.

    timm takes them, with the number of outputs said twice: it leaves out a last layer of another size than
    the weights are said to have::

        overlay = dict(file='runs/cub/network.safetensors', num_classes=200)
        timm.create_model('carnet_c112', num_classes=200, pretrained=True, pretrained_cfg_overlay=overlay)

    They are the last weights: to choose the best by the test images would be to learn from these.
    """

    priority = 'VERY_LOW'

    def before_train(self, runner: Any) -> None:
        _bare(runner.model).check_data(runner.train_dataloader.dataset)

    def after_train(self, runner: Any) -> None:
        if runner.rank == 0:
            tensors = _bare(runner.model).network.state_dict()
            data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
            write_atomic(Path(runner.work_dir, WEIGHTS), data)


def _bare(model: Any) -> Any:
    return model.module if is_model_wrapper(model) else model
