"""Strategies: they only ask and tell."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from search.sampling import Sampler
from search.strategies.evolution import PRESETS, Evolution, EvolutionSettings
from search.strategies.random import RandomSearch
from search.strategies.strategy import Key, Strategy
from zoo.entry import describe_faults
from zoo.errors import ZooError

__all__ = ['Evolution', 'EvolutionSettings', 'RandomSearch', 'Strategy', 'make_strategy']


def make_strategy(data: Mapping[str, Any], sampler: Sampler, seed: int, key: Key | None = None) -> Strategy:
    """Makes the strategy that a config describes.

    Args:
        data: ``{'name': 'random'}``, or ``{'name': 'evolution', 'preset': 'spos' or 'autoformer', ...}`` with
            any of :class:`EvolutionSettings` in place of the preset's.
        sampler: The architectures that may be asked, and how new ones are drawn.
        seed: Of every random decision.
        key: Tells which genotypes are the same network; none are without it.

    Raises:
        ZooError: An unknown name, preset or setting.
    """
    settings = dict(data)
    name = settings.pop('name', None)
    if name == 'random':
        if settings:
            raise ZooError(f'strategy: found {sorted(settings)}, random has no settings.')
        return RandomSearch(sampler, seed, key)
    if name == 'evolution':
        preset = settings.pop('preset', 'spos')
        if not isinstance(preset, str) or preset not in PRESETS:
            raise ZooError(f'strategy: $.preset: found {preset!r:.80}, allowed are {", ".join(PRESETS)}.')
        return Evolution(sampler, seed, key, _read_settings(PRESETS[preset].model_dump() | settings))
    raise ZooError(f'strategy: $.name: found {name!r:.80}, allowed are random, evolution.')


def _read_settings(data: dict[str, Any]) -> EvolutionSettings:
    try:
        return EvolutionSettings.model_validate_json(json.dumps(data))
    except (ValidationError, TypeError, ValueError, RecursionError) as error:
        raise ZooError('\n'.join(describe_faults(error, 'strategy', data, EvolutionSettings))) from None
