"""A search with several seeds: how much its result owes to chance."""

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from search.checklist import build_checklist
from search.config import RunConfig
from search.phases import Result
from zoo.errors import ZooError
from zoo.files import write_atomic
from zoo.jsonfile import format_json

__all__ = ['describe_seeds', 'find_overlap', 'run_seeds']

Record = dict[str, Any]


def run_seeds(
    method: Callable[..., Result], config: RunConfig, folder: Path, count: int, quiet: bool = False
) -> tuple[list[Result], Record]:
    """Runs a config with several seeds, one after the other, or continues.

    Args:
        method: The config's.
        config: With the first seed; the others follow it.
        folder: Gets a run ``seed<n>`` for each, and ``seeds.json`` when all are done.
        count: How many.
        quiet: No progress on stderr.

    Returns:
        The results, and what ``seeds.json`` holds.

    Raises:
        ZooError: The folder holds a run itself, or see the method.
        Interrupted: The user asked to stop; the same call continues.
    """
    if (folder / 'config.json').exists():
        raise ZooError(f'{folder}: holds a run of one seed; use another folder for several.')
    results, runs = [], []
    for seed in range(config.seed, config.seed + count):
        name = f'seed{seed}'
        results.append(method(config.model_copy(update={'seed': seed}), folder / name, quiet=quiet))
        found = build_checklist(folder / name)
        top1 = {role: found[role] and found[role]['top1'] for role in ('val', 'test')}
        runs.append({'seed': seed, 'folder': name, **pick(found['best']), **top1})
    summary = summarise(runs)
    write_atomic(folder / 'seeds.json', format_json(summary).encode())
    return results, summary


def pick(best: Mapping[str, Any]) -> Record:
    return {key: best[key] for key in ('genotype', 'values', 'params', 'macs', 'score')}


def summarise(runs: Sequence[Record]) -> Record:
    """Mean and standard deviation over the runs, and in which choices they agree."""
    spreads: dict[str, Record | None] = {}
    for key in ('score', 'val', 'test', 'macs'):
        values = [run[key] for run in runs if run[key] is not None]
        std = statistics.stdev(values) if len(values) > 1 else None
        spreads[key] = {'mean': statistics.fmean(values), 'std': std} if values else None
    return {'runs': list(runs), **spreads, 'overlap': find_overlap([run['values'] for run in runs])}


def find_overlap(found: Sequence[Mapping[str, Any]]) -> dict[str, Record]:
    """By choice, the most frequent value, the first of equally frequent ones, and its share of the runs.

    Args:
        found: Of each run, the values of the choices that are active in its result.
    """
    overlap = {}
    for name in dict.fromkeys(name for values in found for name in values):
        value, times = Counter(values[name] for values in found if name in values).most_common(1)[0]
        overlap[name] = {'value': value, 'share': times / len(found)}
    return overlap


def describe_seeds(found: Mapping[str, Any]) -> list[str]:
    """Lines for people, of what ``seeds.json`` holds."""
    count = len(found['runs'])
    lines = [f'{count} seeds, mean ± standard deviation:']
    for key, name in (('score', 'score'), ('val', 'top-1 on val, %'), ('test', 'top-1 on test, %')):
        spread = found[key]
        text = 'not measured'
        if spread is not None:
            text = f'{spread["mean"]:.5g}' + ('' if spread['std'] is None else f' ± {spread["std"]:.2g}')
        lines.append(f'  {name:18}{text}')
    shares = [choice['share'] for choice in found['overlap'].values()]
    lines.append(
        f'How often the most frequent value of a choice was found, on average {statistics.fmean(shares):.0%}:'
    )
    width = max(map(len, found['overlap']))
    lines += [
        f'  {name:{width}}  {choice["value"]!s:>8}  {round(choice["share"] * count)} of {count}'
        for name, choice in found['overlap'].items()
    ]
    return lines
