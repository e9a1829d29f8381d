"""Methods: short lists of phases over spaces, supernets, strategies and evaluators."""

from collections.abc import Callable

from search.methods.differentiable import differentiable
from search.methods.one_shot import one_shot
from search.methods.proxy import proxy
from search.methods.space_search import space_search
from search.methods.two_level import two_level
from search.phases import Result

__all__ = ['METHODS', 'Result', 'differentiable', 'one_shot', 'proxy', 'space_search', 'two_level']

METHODS: dict[str, Callable[..., Result]] = {
    'one_shot': one_shot,
    'two_level': two_level,
    'proxy': proxy,
    'differentiable': differentiable,
    'space_search': space_search,
}
"""By the name that a config's ``method`` gives; each takes the config of its kind and a folder."""
