"""Networks for inference: fewer layers and no tables to build, which compute the same."""

import torch
from timm.models import reparameterize_model
from torch import nn

from zoo.errors import ZooError
from zoo.layers.table_cache import TableCache

__all__ = ['fuse']


def fuse(model: nn.Module) -> nn.Module:
    """A copy of a network that computes the same in evaluation mode, faster.

    Each layer is asked for its own simplification by timm's ``reparameterize_model``: batch norms and layer
    scales become a part of the neighbouring convolutions, separate queries, keys and values one layer. Where
    PyTorch runs layer by layer, position tables are kept for the last sizes of a map. Outputs differ by
    rounding only.

    The copy is for inference: no parameter asks for a gradient, and there is no way back. Its tensors are not
    those of the network; a buffer ``fused`` among them keeps networks that are not fused from taking them.

    Args:
        model: A network of this zoo or of timm, or a module that holds one, in evaluation mode; it stays as
            it is.

    Raises:
        ZooError: It, or a part of it, is in training mode.
    """
    training = [name for name, module in model.named_modules() if module.training]
    if training:
        where = f' ({training[0]})' if training[0] else ''
        raise ZooError(f'The network is in training mode{where}: call eval() before it is fused.')
    with torch.no_grad():
        fused = reparameterize_model(model)
    for module in fused.modules():
        if isinstance(tables := getattr(module, 'tables', None), TableCache):
            tables.on = True
    fused.register_buffer('fused', torch.ones((), dtype=torch.bool))
    return fused.requires_grad_(False)
