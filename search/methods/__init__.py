"""Methods: short lists of phases over spaces, supernets, strategies and evaluators."""

from search.methods.one_shot import Result, one_shot

__all__ = ['METHODS', 'Result', 'one_shot']

METHODS = {'one_shot': one_shot}
