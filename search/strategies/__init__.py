"""Strategies: they only ask and tell."""

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from search.sampling import Sampler
from search.strategies import evolution, ppo
from search.strategies.evolution import Evolution, EvolutionSettings
from search.strategies.ppo import Ppo, PpoSettings
from search.strategies.random import RandomSearch
from search.strategies.strategy import Key, Strategy
from zoo.arch import Part
from zoo.entry import describe_faults
from zoo.errors import ZooError

__all__ = [
    'Evolution',
    'EvolutionSettings',
    'Ppo',
    'PpoSettings',
    'RandomSearch',
    'Strategy',
    'make_strategy',
]

Settings = TypeVar('Settings', bound=Part)


def make_strategy(data: Mapping[str, Any], sampler: Sampler, seed: int, key: Key | None = None) -> Strategy:
    """Makes the strategy that a config describes.

    Args:
        data: ``{'name': 'random'}``, or ``{'name': 'evolution', 'preset': 'spos', 'autoformer' or 'small',
            ...}`` with any of :class:`EvolutionSettings` in place of the preset's, or ``{'name': 'ppo',
            'preset': 'fast' or 'steady', ...}`` with any of :class:`PpoSettings`. The first preset is the
            default.
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
        return Evolution(sampler, seed, key, _read_settings(settings, evolution.PRESETS))
    if name == 'ppo':
        return Ppo(sampler, seed, key, _read_settings(settings, ppo.PRESETS))
    raise ZooError(f'strategy: $.name: found {name!r:.80}, allowed are random, evolution, ppo.')


def _read_settings(data: dict[str, Any], presets: Mapping[str, Settings]) -> Settings:
    preset = data.pop('preset', next(iter(presets)))
    if not isinstance(preset, str) or preset not in presets:
        raise ZooError(f'strategy: $.preset: found {preset!r:.80}, allowed are {", ".join(presets)}.')
    cls = type(presets[preset])
    data = presets[preset].model_dump() | data
    try:
        return cls.model_validate_json(json.dumps(data))
    except (ValidationError, TypeError, ValueError, RecursionError) as error:
        raise ZooError('\n'.join(describe_faults(error, 'strategy', data, cls))) from None
