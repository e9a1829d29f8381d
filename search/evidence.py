"""Numbers that say how far a search can be trusted, from the records of its candidates."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = [
    'binomial_error',
    'compare_ranks',
    'count',
    'find_front',
    'find_slack',
    'pareto_front',
    'rank',
    'summarise_random',
    'trace_best',
]

Record = Mapping[str, Any]

SHARES = (25, 50, 100)
"""Of the evaluations, in per cent, after which the best so far is looked at."""


def binomial_error(top1: float, images: int) -> float:
    """Standard error of an accuracy, in per cent, over draws of so many images."""
    return math.sqrt(top1 * (100 - top1) / images)


def rank(candidates: Sequence[Record]) -> list[Record]:
    """Those that have a score, the best first; of equal ones the smaller, then the earlier."""
    scored = [record for record in candidates if record['score'] is not None]
    return sorted(scored, key=lambda record: (-record['score'], record['macs']))


def count(candidates: Sequence[Record], networks: int) -> dict[str, int]:
    """The evaluations of a search.

    Args:
        candidates: Of the search.
        networks: Different ones among them.
    """
    return {
        'asked': len(candidates),
        'unique': networks,
        'failed': sum(record['score'] is None for record in candidates),
        'given_up': sum('images' in record for record in candidates),
    }


def find_front(candidates: Sequence[Record]) -> list[Record]:
    """What no other candidate beats in accuracy without more MACs, the smallest first.

    Where the score is made of accuracy and cost it is the accuracy that counts. Candidates that were given up
    have no accuracy of their own.
    """
    judged = [record for record in candidates if record['score'] is not None and 'images' not in record]
    return pareto_front(judged, find_accuracy)


def pareto_front(records: Sequence[Record], value: Callable[[Record], float]) -> list[Record]:
    """The records that no other one beats: fewer MACs always mean less of the value. By MACs, ascending."""
    front: list[Record] = []
    for record in sorted(records, key=lambda record: (record['macs'], -value(record))):
        if not front or value(record) > value(front[-1]):
            front.append(record)
    return front


def find_accuracy(record: Record) -> float:
    """What an evaluator gave a candidate: its score, unless there is a reward."""
    value: float = record.get('accuracy', record['score'])
    return value


def trace_best(candidates: Sequence[Record]) -> dict[str, float | None]:
    """The best score after some shares of the evaluations, in the order in which candidates were asked."""
    found: dict[str, float | None] = {}
    for share in SHARES:
        first = candidates[: math.ceil(share / 100 * len(candidates))]
        found[str(share)] = max((r['score'] for r in first if r['score'] is not None), default=None)
    return found


def summarise_random(scores: Sequence[float], score: float, with_best: bool) -> dict[str, Any]:
    """Random candidates, and what was found in comparison.

    The relative improvement is that of Yang et al. (arXiv 1912.12522), (score - mean) / mean, with the size
    of the mean below the line: of a negative loss it is the share by which the loss is smaller.

    Args:
        scores: Of the random candidates.
        score: Of what was found.
        with_best: Whether the best of them is comparable: they are as many as the search has evaluated.
    """
    mean = statistics.fmean(scores)
    return {
        'count': len(scores),
        'mean': mean,
        'std': statistics.stdev(scores) if len(scores) > 1 else None,
        'best': max(scores) if with_best else None,
        'relative_improvement': (score - mean) / abs(mean) if mean else None,
        'scores': list(scores),
    }


def find_slack(costs: Record, limits: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """How far a network stays below each upper limit.

    Args:
        costs: Of the network, by name.
        limits: Lowest and highest value, by the same names.
    """
    return {
        name: {'value': costs[name], 'low': low, 'high': high, 'slack': high - costs[name]}
        for name, (low, high) in limits.items()
        if name in costs
    }


def compare_ranks(rechecked: Sequence[Record]) -> list[dict[str, Any]]:
    """The best candidates' ranks among each other, by the images of the search and by others.

    Args:
        rechecked: The best first; each with the record of the other images under ``recheck``.
    """
    order = rank([record['recheck'] | {'place': i} for i, record in enumerate(rechecked)])
    places = {record['place']: place for place, record in enumerate(order, 1)}
    return [
        {
            'genotype': record['genotype'],
            'rank': i + 1,
            'score': record['score'],
            'recheck_rank': places.get(i),
            'recheck_score': record['recheck']['score'],
        }
        for i, record in enumerate(rechecked)
    ]
