"""timm's private names that a first-class model needs, in one place, so that a timm release can break one
file only."""

from timm.models._features import feature_take_indices
from timm.models._input import get_pretrained_grid_size, update_model_args, update_model_input_size
from timm.models._registry import generate_default_cfgs

__all__ = [
    'feature_take_indices',
    'generate_default_cfgs',
    'get_pretrained_grid_size',
    'update_model_args',
    'update_model_input_size',
]
