"""What the staged families share: timm's interface of an embedding, stages, a final layer and a pooled
classifier."""

from typing import Any

import torch
from timm.layers import _assert, get_device_dtype
from torch import Tensor, nn

from zoo._timm_compat import feature_take_indices

__all__ = ['StagedNet']


class StagedNet(nn.Module):
    """Base of networks on NCHW maps; a family adds ``__init__``, which sets the attributes, ``init_weights``,
    ``embed`` and ``finish``.

    Attributes:
        stem_name: Child that takes images.
        final_name: Child between the last stage and the pooling.
        final_is_norm: The final layer keeps the channels, and ``norm=True`` applies it to the last feature
            map. If not, it counts as a part of the head.
        stages: ``nn.Sequential`` of stages, each with a flag ``grad_checkpointing`` and children
            ``downsample`` and ``blocks``.
        stage_ends: The stages that give ``feature_info``.
        stride: Smallest height and width of an input.
        head: timm's ``ClassifierHead``.
    """

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters of two or more dimensions that are not decayed."""
        return set()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups for layer-wise learning rates: the stem, then block by block."""
        if coarse:
            stages: list[Any] = [(r'^stages\.(\d+)', None)]
        else:
            stages = [(r'^stages\.(\d+)\.downsample', (0,)), (r'^stages\.(\d+)\.blocks\.(\d+)', None)]
        return {'stem': rf'^{self.stem_name}', 'blocks': [*stages, (rf'^{self.final_name}', (99999,))]}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks in the backward pass instead of storing their activations."""
        for stage in self.stages:
            stage.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier; without ``global_pool`` the pooling stays."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool, in_features=self.num_features, **get_device_dtype(self))
        self.head_hidden_size = self.head.num_features

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = 'NCHW',
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Feature maps, Tensor[B, C, H / reduction, W / reduction] with sizes rounded up.

        Args:
            x: Tensor[B, in_chans, H, W].
            indices: Which of ``feature_info``: the last n if an int, all if None.
            norm: Apply the final layer, if it is a norm, to the last map.
            stop_early: Do not run stages after the last one asked for.
            output_fmt: Only 'NCHW'.
            intermediates_only: Return the list alone.

        Returns:
            What :meth:`forward_features` gives, and the list of maps.
        """
        _assert(output_fmt == 'NCHW', 'Output shape must be NCHW.')
        take_indices, max_index = feature_take_indices(len(self.stage_ends), indices)
        take_stages = [self.stage_ends[i] for i in take_indices]
        intermediates = []
        x = self.embed(x)
        if torch.jit.is_scripting() or not stop_early:  # TorchScript cannot slice
            stages = self.stages
        else:
            stages = self.stages[: self.stage_ends[max_index] + 1]
        last = self.stage_ends[-1]
        i = 0
        for i, stage in enumerate(stages):
            x = stage(x)
            if i in take_stages:
                intermediates.append(self.finish(x) if norm and self.final_is_norm and i == last else x)
        if intermediates_only:
            return intermediates
        if i == last:
            x = self.finish(x)
        return x, intermediates

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Removes what the chosen feature maps do not need, and returns their indices."""
        take_indices, max_index = feature_take_indices(len(self.stage_ends), indices)
        cut = max_index < len(self.stage_ends) - 1
        if not self.final_is_norm:
            cut = cut or prune_norm or prune_head
        self.stages = self.stages[: self.stage_ends[max_index] + 1]
        if prune_norm or cut:
            setattr(self, self.final_name, nn.Identity())
        if cut:
            self.num_features = self.head_hidden_size = self.feature_info[max_index]['num_chs']
        if prune_head or cut:
            self.reset_classifier(0, '')
        return take_indices

    def embed(self, x: Tensor) -> Tensor:
        """The stem."""
        raise NotImplementedError

    def finish(self, x: Tensor) -> Tensor:
        """The final layer."""
        raise NotImplementedError

    def check_size(self, x: Tensor) -> None:
        """Refuses images that are smaller than the stride."""
        message = (
            f'The input is smaller than {self.stride} x {self.stride} pixels, the stride of the network.'
        )
        _assert(x.shape[2] >= self.stride, message)
        _assert(x.shape[3] >= self.stride, message)

    def forward_features(self, x: Tensor) -> Tensor:
        """Tensor[B, in_chans, H, W] -> Tensor[B, num_features, H / stride, W / stride], sizes rounded up."""
        return self.finish(self.stages(self.embed(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return self.head(x, pre_logits=True) if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))
