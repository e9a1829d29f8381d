"""The figures that a run has data for, each with a caption: what is seen, and how much it rests on."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from search.figures.candidates import Searched, draw_front, draw_history
from search.figures.evidence import draw_comparison, draw_correlation, draw_times
from search.figures.space_evolution import draw_evolution
from search.figures.trainings import draw_alpha, draw_losses, group_losses
from search.runfiles import SECTIONS, RunFiles
from search.space_evolution import Evolution
from zoo.picture import draw_architecture

__all__ = ['Shown', 'list_figures', 'spread']

LEVELS = {'': '', 'level1/': ' (level 1)', 'level2/': ' (level 2)'}


@dataclass(frozen=True)
class Shown:
    """A figure.

    Attributes:
        name: Of its file, without ``.png``.
        title: A heading.
        caption: What is seen.
        png: The file.
    """

    name: str
    title: str
    caption: str
    png: bytes


def list_figures(run: RunFiles) -> list[Shown]:
    """All figures, in the order of a report."""
    makers: tuple[Callable[[RunFiles], Iterator[Shown]], ...] = (
        show_architecture,
        show_comparison,
        show_searches,
        show_correlation,
        show_space,
        show_alpha,
        show_losses,
        show_times,
    )
    found: list[Shown] = []
    for make in makers:
        name = make.__name__.removeprefix('show_')
        with run.noting(f'Figures ({name}) are left out: a file is not as this version writes it.'):
            found += make(run)
    return found


def show_architecture(run: RunFiles) -> Iterator[Shown]:
    entry = run.entry
    if entry is not None:
        caption = (
            'Each column is a block, from the image on the left to the classifier on the right; its parts '
            'stand on each other from input to output.'
        )
        yield Shown('architecture', 'The architecture found', caption, draw_architecture(entry))


def show_comparison(run: RunFiles) -> Iterator[Shown]:
    again, random = run.again, run.read_comparison('random')
    if not again or not random:
        return
    cost = [f'{mean(row["macs"] for row in rows) / 1e6:.3g} M' for rows in (again, random)]
    caption = (
        f'Every point is a training to the end: {count(again, "training")} of the found network ({cost[0]} '
        f'MACs), and {count(random, "random network")} of nearly equal cost ({cost[1]} MACs on average), '
        'trained alike. Bars: mean and standard deviation'
        + ('; of a single point there is none.' if min(len(again), len(random)) == 1 else '.')
    )
    yield Shown(
        'comparison', 'Against random networks of equal cost', caption, draw_comparison(again, random)
    )


def show_searches(run: RunFiles) -> Iterator[Shown]:
    """Of each search by a strategy, its candidates against cost and in time."""
    for section in SECTIONS:
        searched = find_searched(run, section)
        if not searched.scored:
            continue
        prefix = section.replace('/', '_')
        scored, given_up = len(searched.scored), len(searched.given_up)
        asked = count(searched.candidates, 'network')
        evaluated = f'{asked} evaluated, {scored} to the end'
        evaluated += f', {given_up} given up once they could not change the search' if given_up else ''
        front = len(searched.front)
        caption = (
            f'{evaluated}. {how_scored(run)} Higher is better. The front joins the '
            f'{front} that no other one beats at fewer MACs.'
            + (' Dotted: the limit of MACs.' if searched.limits else '')
            + (f' Grey: {count(searched.random, "random candidate")}.' if searched.random else '')
        )
        title = f'Score against MACs{LEVELS[section]}'
        yield Shown(f'{prefix}front', title, caption, draw_front(searched))
        beside = (
            f'Dashed: the best so far of {count(searched.random, "random candidate")} scored alike.'
            if searched.random
            else 'Random search: not measured.'
        )
        caption = f'{evaluated}, in the order in which they were asked. {beside}'
        title = f'History of the search{LEVELS[section]}'
        yield Shown(f'{prefix}history', title, caption, draw_history(searched))


def find_searched(run: RunFiles, section: str) -> Searched:
    """A search by a strategy; what was found is looked up by its cost, at the last level."""
    candidates, result = run.candidates(section), None
    measured = run.entry.measured if run.entry else None
    if measured is not None and section != 'level1/':
        cost = measured.params, measured.macs
        same = [c for c in candidates if (c.get('params'), c['macs']) == cost and c['score'] is not None]
        result = max(same, key=lambda candidate: candidate['score'], default=None)
    limits = (run.config['search'].get('limits') or {}).get('macs')
    return Searched(
        candidates,
        run.candidates(section, 'random'),
        result or run.best(section),
        result is not None,
        name_score(run),
        tuple(limits) if limits else None,
    )


def name_score(run: RunFiles) -> str:
    """What the score of a candidate is, and its unit."""
    search = run.config['search']
    evaluator = search.get('evaluator') or {}
    if search.get('reward'):
        return 'score: reward'
    if evaluator.get('kind') == 'table':
        sign = 'negative ' if evaluator.get('minimize') else ''
        return f'score: {sign}{evaluator.get("metric")} of the table'
    return f'score: {name_objective(search.get("objective"))}'


def how_scored(run: RunFiles) -> str:
    """A sentence on what the scores rest on."""
    search = run.config['search']
    kind = (search.get('evaluator') or {}).get('kind')
    how = {
        'supernet': 'with the weights of the supernet',
        'proxy': 'after a short training from scratch',
        'table': 'as a table says',
    }.get(str(kind), '')
    score = name_score(run).removeprefix('score: ')
    if reward := search.get('reward'):
        score = f'accuracy x ({reward["cost"]} / {reward["target"]:g}) ^ {reward["alpha"]:g}'
    return f'The score of a network is its {score}, {how}.'


def show_correlation(run: RunFiles) -> Iterator[Shown]:
    """Of each search, whether its estimates rank networks as their own trainings do."""
    for section in SECTIONS:
        found = run.correlation(section)
        if found is None:
            continue
        what = name_objective(found.get('objective'))
        caption = (
            f'{found["n"]} networks, drawn at random; each was scored as in the search, and trained alone. '
            f'{what[0].upper()}{what[1:]}, in both cases. Kendall tau {within(found, "")}'
        )
        if found.get('tau_top_third') is not None:
            n = found['n_top_third']
            caption += f'; among the best third (n = {n}): {within(found, "_top_third")}'
        png = draw_correlation(found, what)
        name = f'{section.replace("/", "_")}correlation'
        yield Shown(name, f'Do the scores rank networks rightly?{LEVELS[section]}', f'{caption}.', png)


def name_objective(objective: str | None) -> str:
    """What networks are scored by, and its unit."""
    return {'loss': 'negative loss on val', 'top1': 'top-1 on val (%)'}.get(str(objective), 'score')


def within(found: Mapping[str, Any], end: str) -> str:
    """Kendall's tau with its bootstrap interval, where there is one."""
    low, high = found[f'interval{end}']
    known = low is not None and high is not None
    interval = f'95 % interval {low:.2f} to {high:.2f}' if known else 'interval not measured'
    return f'{found[f"tau{end}"]:.2f}, {interval}'


def show_space(run: RunFiles) -> Iterator[Shown]:
    iterations = run.iterations
    if not iterations:
        return
    spaces = [space for space, _ in iterations] + [iterations[-1][1]['next']]
    found = [errors for _, errors in iterations]
    evolution = Evolution.model_validate_json(json.dumps(run.config['evolve']))
    moved = [sum(d['decision'] == 'moved' for d in errors['dimensions']) for errors in found]
    caption = (
        f'{count(iterations, "iteration")}, in which {", ".join(map(str, moved))} of '
        f'{len(found[0]["dimensions"])} dimensions moved; {", ".join(str(e["networks"]) for e in found)} '
        'networks were evaluated for the slopes. Top-1 errors are in per cent.'
    )
    yield Shown('space_evolution', 'How the space moved', caption, draw_evolution(spaces, found, evolution))


def show_alpha(run: RunFiles) -> Iterator[Shown]:
    kept = {row['seed']: row['kept'] for row in run.read('seeds.json') or [] if 'kept' in row}
    seeds = int(run.config['search'].get('seeds') or 1) if run.config['method'] == 'differentiable' else 0
    for number in range(1, seeds + 1):
        events = run.phases_of_seed(number)
        if not events:
            continue
        phases = list(dict.fromkeys(event['phase'].split('/')[1].replace('_', '-') for event in events))
        what = ', kept' if kept.get(number) else ''
        caption = (
            f'Search {number} of {seeds}{what}. For each layer the softmax weights of its candidate '
            f'operators, at {len(events)} moments of the phases {" and ".join(phases)} (dotted: where the '
            'next begins); the largest weight at the end is chosen.'
        )
        yield Shown(
            f'alpha_seed{number}', f'Architecture parameters, search {number}', caption, draw_alpha(events)
        )


def show_losses(run: RunFiles) -> Iterator[Shown]:
    groups = group_losses(run.events)
    if groups:
        trainings = sum(len([name for name in curves if '(alpha)' not in name]) for curves in groups.values())
        caption = (
            f'{trainings} trainings; means over the steps between two points. A loss includes label '
            'smoothing and mixed images where the recipe has them; that of a supernet is a mean over its '
            'sub-networks.'
        )
        yield Shown('losses', 'Training losses', caption, draw_losses(run.events))


def show_times(run: RunFiles) -> Iterator[Shown]:
    times: dict[str, Any] = (run.result or {}).get('time') or {}
    phases = [phase for phase in times.get('phases') or [] if phase.get('seconds') is not None]
    if phases:
        total = times.get('total_seconds') or sum(phase['seconds'] for phase in phases)
        caption = f'{count(phases, "phase")}, {total:,.0f} s in all, on the machine of the run.'
        yield Shown('times', 'Wall time by phase', caption, draw_times(phases))


def count(items: Any, noun: str) -> str:
    """``1 network``, ``3 networks``."""
    return f'{len(items)} {noun}{"" if len(items) == 1 else "s"}'


def spread(values: list[float]) -> str:
    """Mean, standard deviation and number of some per cents."""
    if not values:
        return 'not measured'
    if len(values) == 1:
        return f'{values[0]:.2f} % (n = 1)'
    return f'{mean(values):.2f} ± {stdev(values):.2f} % (n = {len(values)})'
