"""Measured latencies in words: what was measured, and how well the sum of modules predicts whole networks."""

import statistics

import numpy as np
from numpy.typing import NDArray

from search.latency import LatencyModel
from search.measurements import Measurements

MAX_SCATTER = 1.5
"""Of the ratios of predicted and measured times, the greatest to the least, on a machine that is not busy."""

__all__ = ['describe_latencies', 'rank_correlation']


def describe_latencies(measurements: Measurements, model: LatencyModel) -> list[str]:
    """Lines for people.

    Args:
        measurements: Complete ones.
        model: The model that is made of them, of the whole space.
    """
    header = measurements.header
    checks = measurements.checks()
    least, most = model.attainable()
    size = 'x'.join(map(str, header.input_size))
    where = f'{header.device_name}, {header.threads} thread' + ('s' if header.threads > 1 else '')
    lines = [
        f'{measurements.load_space().family}, batches of {header.batch_size}, images of {size}, '
        f'{header.num_classes} classes, on {where}, torch {header.torch}',
        f'networks timed module by module: {len(measurements.networks) - len(checks)}',
        f'seconds outside of the modules: {measurements.rest:.4g}',
        f"latency of the space's networks: {least:.4g} to {most:.4g} s",
    ]
    if checks:
        measured = [check.seconds for check in checks]
        predicted = [model.latency(check.genotype) for check in checks]
        ratios = [p / m for p, m in zip(predicted, measured, strict=True)]
        lines.append(
            f'other random networks, predicted / measured: median {statistics.median(ratios):.3f}, '
            f'{min(ratios):.3f} to {max(ratios):.3f}, n = {len(checks)}'
        )
        if len(checks) > 1:
            correlation = rank_correlation(predicted, measured)
            lines.append(f'rank correlation (Spearman): {correlation:.3f}, n = {len(checks)}')
        if max(ratios) > MAX_SCATTER * min(ratios):
            lines.append(
                'These times scatter, as on a machine that does other work: measure again into another file '
                'when it is idle, with fewer --threads than it has processors or with more --repeats.'
            )
    return lines


def rank_correlation(a: list[float], b: list[float]) -> float:
    """Spearman's coefficient; equal values share the mean of their ranks. NaN if one list has equal values
    only."""
    x, y = _ranks(a), _ranks(b)
    norm = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / norm) if norm else float('nan')


def _ranks(values: list[float]) -> NDArray[np.float64]:
    """Ranks, centred."""
    array = np.asarray(values)
    below, equal = array[:, None] > array, array[:, None] == array
    return below.sum(1) + (equal.sum(1) - len(array)) / 2
