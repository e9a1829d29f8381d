"""The zoo's networks, and timm's, as backbones of mmdetection and mmsegmentation."""

import fnmatch
import functools
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModule, PretrainedInit, initialize
from mmengine.registry import MODELS
from timm.layers import BatchNormAct2d, LayerNorm2d, SyncBatchNormAct, convert_sync_batchnorm
from timm.models import group_parameters
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from downstream import optim as _optim  # noqa: F401  (registers the constructor of optimizers)
from downstream.checkpoints import fit_checkpoint, read_tensors
from downstream.network import check_index, create_network, pad_image, sketch_network
from zoo.errors import ZooError
from zoo.layers.table_cache import TableCache

__all__ = ['ZooBackbone']


@MODELS.register_module()
class ZooBackbone(BaseModule):
    """A network without its classifier, which gives feature maps.

    It is registered in MMEngine's root registry: ``type='ZooBackbone'`` is found from mmdet and mmseg. Names
    of parameters are the network's own, so that a file of its weights is one of a backbone's, and those of a
    whole detector begin with ``backbone.``::

        custom_imports = dict(imports=['downstream.backbone'], allow_failed_imports=False)
        backbone=dict(type='ZooBackbone', name='s3_tiny', drop_path_rate=0.2, out_norm=True)
        neck=dict(in_channels=[96, 192, 384, 768])  # the backbone's ``channels``

    GLiT has one scale. Two lines make four of it, for mmseg's UPerHead, or for mmdet with this neck and its
    FPN in a list::

        backbone=dict(type='ZooBackbone', name='glit_tiny', out_indices=(2, 5, 8, 11))
        neck=dict(type='mmseg.Feature2Pyramid', embed_dim=192, norm_cfg=dict(type='BN'))

    Images may have any size. They are padded by zeros, right and at the bottom, to multiples of the network's
    stride, and the maps are those of the padded images: nothing is cut off, and each is exactly half the one
    before. mmdet pads its images itself. mmseg does in tests, with
    ``data_preprocessor=dict(test_cfg=dict(size_divisor=32))``, and otherwise stretches what it predicts for
    the padded image over the image; a warning says so.

    Args:
        name: An entry (``s3_tiny``, or ``s3_tiny.<tag>`` for those weights of it), the .json file of one,
            ``hf-hub:org/name``, or any model of timm.
        out_indices: Which of the network's feature maps, negative from the end, in any order, also twice.
            By default the last four; of a network with one stride the ends of the four quarters of its depth.
        pretrained: True for the weights of ``name``; or a checkpoint, as in ``init_cfg``.
        in_channels: Channels of the image.
        frozen_stages: -1: nothing is frozen; 0: the stem is; i: and all up to the i-th stage, which is all up
            to the i-th feature map. What is frozen is in evaluation mode as well.
        norm_eval: Keep batch norms in evaluation mode.
        with_cp: Recompute blocks in the backward pass instead of keeping their activations.
        drop_path_rate: Stochastic depth of the last block; by default the network's own.
        out_norm: A new layer norm on every map, as Swin has it in detection and segmentation.
        sync_bn: Synchronise batch norms, if processes train together.
        init_cfg: MMEngine's. ``dict(type='Pretrained', checkpoint=...)`` takes .safetensors files (paths and
            URLs) and ``hf-hub://org/name`` as well, and weights of another network are an error.
        **kwargs: Of ``timm.create_model``. ``img_size`` makes tables of relative and absolute positions for
            images of that size. For another one they are resized, outside of training once for each size.

    Attributes:
        channels: Of each map.
        strides: Of each map.

    Raises:
        ZooError: An argument is wrong, or weights are not to be had or are those of another network.
    """

    def __init__(
        self,
        name: str,
        out_indices: Sequence[int] | None = None,
        pretrained: bool | str | None = None,
        in_channels: int = 3,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        drop_path_rate: float | None = None,
        out_norm: bool = False,
        sync_bn: bool = False,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        if pretrained and init_cfg:
            raise ZooError(f'{name}: pretrained and init_cfg are both given, one of them is needed.')
        if isinstance(pretrained, str):
            init_cfg = {'type': 'Pretrained', 'checkpoint': pretrained}
        super().__init__(init_cfg)
        kwargs |= {'in_chans': in_channels, 'drop_path_rate': drop_path_rate}
        sketch = sketch_network(name, **kwargs)
        self.out_indices = _check_indices(name, out_indices, sketch.strides)
        if not -1 <= frozen_stages < len(sketch.stages):
            most = len(sketch.stages) - 1
            raise ZooError(
                f'{name}: frozen_stages is {frozen_stages}, with {most} stages it is -1 to {most}.'
            )
        self.name = name
        self.norm_eval = norm_eval
        self.frozen_stages = frozen_stages
        self.channels = tuple(sketch.channels[i] for i in self.out_indices)
        self.strides = tuple(sketch.strides[i] for i in self.out_indices)
        self._sketch = sketch
        self._taken = sorted(set(self.out_indices))
        self._told = False

        net: Any = create_network(sketch, pretrained is True, **kwargs)
        names = set(net.state_dict())
        net.prune_intermediate_layers(self._taken, prune_norm=True)
        self._unused = names - set(net.state_dict())
        if sync_bn and torch.distributed.is_available() and torch.distributed.is_initialized():
            convert_sync_batchnorm(net)
        if with_cp:
            net.set_grad_checkpointing(True)
            _hold_statistics(net)
        if out_norm:
            norms = {str(i): LayerNorm2d(sketch.channels[i], eps=1e-5) for i in self._taken}
            net.out_norms = nn.ModuleDict(norms)
        self._with_act = [name for name, module in net.named_modules() if isinstance(module, BatchNormAct2d)]
        self._tables = [m.tables for m in net.modules() if isinstance(getattr(m, 'tables', None), TableCache)]
        for tables in self._tables:
            tables.on = True
        # One set of names: the network's children and parameters are this module's own, in the same dicts.
        # As a child it would put its own name in front of all of theirs.
        self.__dict__['_net'] = net
        for key in ('_modules', '_parameters', '_buffers', '_non_persistent_buffers_set'):
            self.__dict__[key] = net.__dict__[key]
        self.train()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Tensor[B, in_channels, H, W] -> for each of ``out_indices`` a Tensor[B, channels, H / stride, W /
        stride] of the image padded to multiples of the network's stride."""
        taken = self._net.forward_intermediates(
            self._pad(x),
            indices=self._taken,
            stop_early=True,
            output_fmt='NCHW',
            intermediates_only=True,
        )
        maps = dict(zip(self._taken, taken, strict=True))
        if 'out_norms' in self._modules:
            maps = {i: self.out_norms[str(i)](x) for i, x in maps.items()}  # type: ignore[operator, index]
        # mmcv's RoIAlign reads memory as if it were contiguous, and FPN's convolutions keep the layout
        return tuple(maps[i].contiguous() for i in self.out_indices)

    def _pad(self, x: Tensor) -> Tensor:
        padded = pad_image(x, self._sketch)
        if padded is not x and not (self.training or self._told):
            self._told = True
            found, made = (f'{t.shape[2]}x{t.shape[3]}' for t in (x, padded))
            warnings.warn(
                f'An image of {found} was padded to {made}: mmseg stretches its prediction, if '
                f'data_preprocessor does not have test_cfg=dict(size_divisor={max(self._sketch.strides)}).',
                stacklevel=3,
            )
        return padded

    def train(self, mode: bool = True) -> 'ZooBackbone':
        """Sets the mode, but for what is frozen or evaluated all the time."""
        super().train(mode)
        self._net.training = mode
        self._forget_tables()
        modules = dict(self.named_modules())
        for name in self._with_act:
            if not isinstance(modules[name], (BatchNormAct2d, SyncBatchNormAct)):
                raise ZooError(
                    f"{self.name}: {name} has lost its activation to another norm, as MMEngine's sync_bn has "
                    'it; use sync_bn=True of the backbone.'
                )
        if self.frozen_stages >= 0:
            for parameter in self.parameters(recurse=False):
                parameter.requires_grad = False
            for name in self._sketch.stages[self.frozen_stages]:
                if name in modules:
                    modules[name].eval().requires_grad_(False)
        if self.norm_eval:
            for module in modules.values():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def init_weights(self) -> None:
        """Does what ``init_cfg`` says; the network's weights have been drawn, or loaded, when it was made."""
        configs = [self.init_cfg] if isinstance(self.init_cfg, dict) else self.init_cfg or []
        others = [cfg for cfg in configs if cfg['type'] not in ('Pretrained', PretrainedInit)]
        if others:
            initialize(self, others)
        for cfg in configs:
            if cfg not in others:
                self._load(cfg['checkpoint'], cfg.get('prefix'))
        self._is_init = True

    def _load(self, checkpoint: str, prefix: str | None) -> None:
        norms = {name for name in self._net.state_dict() if name.startswith('out_norms.')}
        fault = f'{checkpoint} does not fit {self.name}'
        tensors = fit_checkpoint(read_tensors(checkpoint, prefix), self._net, self._unused, norms, fault)
        self.load_state_dict(tensors, strict=False)  # counters of batches and output norms may be missing

    def no_weight_decay(self) -> set[str]:
        """Names of parameters of two or more dimensions that are not decayed."""
        patterns = self._net.no_weight_decay() if hasattr(self._net, 'no_weight_decay') else set()
        names = [name for name, _ in self.named_parameters()]
        return {name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)}

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """A parameter's layer, from 0 for the stem, and the number of layers with one more for what follows.

        Layers are those of timm's ``group_matcher``: the stem, and each block. Norms of the outputs and all
        that is not of the backbone belong to the last layer. That is the protocol of mmpretrain.

        Args:
            param_name: Of this module, or of one that holds it.
            prefix: What its name has in front there.
        """
        layers = self._layers
        most = max(layers.values()) + 2
        own = param_name.startswith(prefix)
        return layers.get(param_name[len(prefix) :], most - 1) if own else most - 1, most

    @functools.cached_property
    def _layers(self) -> dict[str, int]:
        if not hasattr(self._net, 'group_matcher'):
            raise ZooError(
                f'{self.name} has no layers to decay learning rates by: timm gives no group_matcher.'
            )
        layers: Any = group_parameters(self._net, self._net.group_matcher(coarse=False), reverse=True)
        return {name: layer for name, layer in layers.items() if not name.startswith('out_norms.')}

    def _forget_tables(self) -> None:
        for tables in self._tables:
            tables.clear()

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self._forget_tables()
        return super()._apply(*args, **kwargs)


def _check_indices(name: str, indices: Sequence[int] | None, strides: tuple[int, ...]) -> tuple[int, ...]:
    """The indices from the start; by default those that the class says."""
    count = len(strides)
    if indices is None and len(set(strides)) == 1:
        return tuple(sorted({max(0, count * quarter // 4 - 1) for quarter in range(1, 5)}))
    if indices is None:
        return tuple(range(count))[-4:]
    if isinstance(indices, int) or not indices:
        raise ZooError(
            f'{name}: out_indices is {indices!r}, a tuple such as {tuple(range(count))[-4:]} is needed.'
        )
    return tuple(check_index(index, strides, f'{name}: out_indices has {index}') for index in indices)


def _hold_statistics(net: nn.Module) -> None:
    """Keeps recomputed blocks from counting the statistics of a batch twice in their batch norms."""
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_pre_hook(_hold)
            module.register_forward_hook(_release, always_call=True)  # recomputing ends by an exception


def _hold(module: Any, args: Any) -> None:
    recomputing = torch._C._current_graph_task_id() != -1  # inside of a backward pass
    if recomputing and module.training and module.track_running_stats:
        module.held_momentum, module.momentum = module.momentum, 0.0
        module.num_batches_tracked.sub_(1)


def _release(module: Any, args: Any, output: Any) -> None:
    if hasattr(module, 'held_momentum'):
        module.momentum = module.held_momentum
        del module.held_momentum
