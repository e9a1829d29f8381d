"""What only some methods have to show: S3's errors of spaces, PPO's policy, mixed operators' weights."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from search.mixed import summarise

__all__ = ['describe_policy', 'describe_relaxation', 'describe_spaces']

Record = dict[str, Any]

SKIPS = frozenset({'identity', 'none', 'skip', 'skip_connect'})
"""Candidates of a layer that compute nothing, which a search that collapses takes (as DARTS can)."""


def describe_spaces(iterations: Sequence[Mapping[str, Any]]) -> list[Record] | None:
    """By iteration of a search of the space (S3, arXiv 2111.14725, Sec. 2.3): E and T errors of each
    subspace, in per cent, with the number of architectures; slope of each dimension's line, its interval, the
    share of variance that it explains, and what was decided.

    Args:
        iterations: What ``errors.json`` holds.
    """
    return [
        {
            'iteration': number,
            'networks': found['networks'],
            'dimensions': found['dimensions'],
            'subspaces': [
                {key: value for key, value in subspace.items() if key != 'errors'}
                for subspace in found['subspaces']
            ],
        }
        for number, found in enumerate(iterations, 1)
    ] or None


def describe_policy(
    config: Mapping[str, Any], found: Mapping[str, Any], events: Sequence[Mapping[str, Any]]
) -> list[Record] | None:
    """By batch of PPO: scores, share of duplicates among its first draws, entropy and divergence in nats.

    Args:
        config: Of the search.
        found: What ``search.json`` holds.
        events: Of the policy.
    """
    size = found.get('unguided', 0)
    if config['strategy'].get('name') != 'ppo' or not size:
        return None
    learned = {event['step']: event for event in events}
    batches = []
    for first in range(0, len(found['candidates']), size):
        number = first // size + 1
        records = found['candidates'][first : first + size]
        scores = [record['score'] for record in records if record['score'] is not None]
        batches.append(
            {
                'batch': number,
                'count': len(records),
                'mean': statistics.fmean(scores) if scores else None,
                'std': statistics.stdev(scores) if len(scores) > 1 else None,
                **{key: learned.get(number, {}).get(key) for key in ('duplicates', 'entropy', 'kl')},
            }
        )
    return batches


def describe_relaxation(seeds: Sequence[Mapping[str, Any]]) -> list[Record] | None:
    """By seed of a differentiable search, at its end: the candidate that leads each layer, the entropy of the
    layer's weights in nats, and by how much the largest weight leads.

    Args:
        seeds: Records of the searches, each with ``alpha``, and whether it was kept.
    """
    return [describe_seed(record) for record in seeds] or None


def describe_seed(record: Mapping[str, Any]) -> Record:
    numbers = summarise(record['alpha'])
    layers = {
        name: {
            'operator': max(weights, key=weights.__getitem__),
            'entropy': numbers[f'entropy/{name}'],
            'margin': numbers[f'margin/{name}'],
        }
        for name, weights in record['alpha'].items()
    }
    chosen = [layer['operator'] for layer in layers.values()]
    can_skip = any(SKIPS & weights.keys() for weights in record['alpha'].values())
    return {
        'seed': record['seed'],
        'kept': record['kept'],
        'layers': layers,
        'skip_share': sum(operator in SKIPS for operator in chosen) / len(chosen) if can_skip else None,
        'collapsed_to': chosen[0] if len(chosen) > 1 and len(set(chosen)) == 1 else None,
    }
