"""Learning rates and weight decay by layer, for MMEngine's ``optim_wrapper``."""

from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from zoo.errors import ZooError

__all__ = ['NO_WEIGHT_DECAY', 'ZooOptimWrapperConstructor']

NO_WEIGHT_DECAY = {
    key: {'decay_mult': 0.0}
    for key in (
        'cls_token',
        'pos_embed',
        'rel_height',
        'rel_pos',
        'rel_width',
        'relative_position_bias_table',
    )
}
"""``custom_keys`` for MMEngine's own constructor: what the zoo's networks name in ``no_weight_decay``."""


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class ZooOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """MMEngine's constructor, which also follows what a backbone says of its own parameters.

    Those that its ``no_weight_decay`` names (tables of positions, class tokens) are not decayed, unless
    ``custom_keys`` has another word on them; and ``layer_decay`` multiplies the learning rate once more for
    each layer (the stem, each block) further from the head, which has the full one::

        optim_wrapper = dict(
            type='OptimWrapper',
            constructor='ZooOptimWrapperConstructor',
            optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05),
            paramwise_cfg=dict(layer_decay=0.8, norm_decay_mult=0.0),
        )

    Args:
        optim_wrapper_cfg: As MMEngine's.
        paramwise_cfg: As MMEngine's, and ``layer_decay``: above 0 and at most 1, the default, for none.

    Raises:
        ZooError: ``layer_decay`` is out of range, or needs a learning rate that the optimizer does not have.
    """

    def __init__(
        self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None
    ) -> None:
        super().__init__(optim_wrapper_cfg, {'layer_decay': 1.0, **(paramwise_cfg or {})})
        rate = self.paramwise_cfg['layer_decay']
        if not 0 < rate <= 1:
            raise ZooError(f'layer_decay is {rate}, above 0 and at most 1 is allowed.')
        if rate < 1 and self.base_lr is None:
            raise ZooError(f'layer_decay is {rate}, for which the optimizer needs a learning rate (lr).')

    def add_params(
        self, params: list[dict[str, Any]], module: nn.Module, prefix: str = '', **kwargs: Any
    ) -> None:
        """Adds a group for each parameter of a module, as MMEngine does, and sets those of backbones."""
        super().add_params(params, module, prefix=prefix, **kwargs)
        if not hasattr(module, 'no_weight_decay') or not hasattr(module, 'get_layer_depth'):
            return
        groups = {id(group['params'][0]): group for group in params}
        custom, rate = self.paramwise_cfg.get('custom_keys', {}), self.paramwise_cfg['layer_decay']
        undecayed: set[str] = module.no_weight_decay()  # type: ignore[operator]
        for name, parameter in module.named_parameters():
            group = groups.get(id(parameter))
            if group is None:  # it is frozen
                continue
            if name in undecayed and not any(key in f'{prefix}.{name}' for key in custom):
                group['weight_decay'] = 0.0
            if rate < 1:
                layer, layers = module.get_layer_depth(name)  # type: ignore[operator]
                group['lr'] = group.get('lr', self.base_lr) * rate ** (layers - layer - 1)
