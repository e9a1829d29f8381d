"""Methods: short lists of phases over spaces, supernets, strategies and evaluators."""

from collections.abc import Callable

from search.methods.one_shot import one_shot
from search.phases import Result

__all__ = ['METHODS', 'Result', 'one_shot']

METHODS: dict[str, Callable[..., Result]] = {'one_shot': one_shot}
"""By the name that a config's ``method`` gives; each takes the config of its kind and a folder."""
