"""The checklist of a search (:mod:`search.checklist`) as text: every point, also what was not measured."""

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ['describe_checklist', 'list_points']

Record = Mapping[str, Any]

MISSING = 'not measured'
WIDTH = 108


def describe_checklist(found: Record) -> list[str]:
    """Lines for people.

    Args:
        found: What :func:`search.checklist.build_checklist` gave.
    """
    lines = ['What can be said about this search:']
    for name, texts in list_points(found):
        for i, text in enumerate(texts):
            label = f'  {name:24}' if i == 0 else ' ' * 26
            lines += textwrap.wrap(text, WIDTH, initial_indent=label, subsequent_indent=' ' * 28)
    return lines


def list_points(found: Record) -> list[tuple[str, Sequence[str]]]:
    """Every point and its lines, also what was not measured."""
    about = found['provenance']
    points: list[tuple[str, Sequence[str] | None]] = [
        ('space', [space(found['space'])]),
        ('run', [run(about)]),
        ('data', about['data'] and [data(about['data'])]),
        ('evaluations', found['evaluations'] and [evaluations(found['evaluations'])]),
        ('time', found['time'] and list(time(found['time']))),
        ('best', found['best'] and list(best(found['best']))),
        ('front of score and MACs', found['front'] and list(front(found['front']))),
        ('random candidates', found['random'] and list(random(found['random']))),
        ('best so far', found['history'] and [history(found['history'])]),
        ('other images', found['recheck'] and list(recheck(found['recheck']))),
        ('accuracy on val', found['val'] and [accuracy(found['val'])]),
        ('accuracy on test', found['test'] and [accuracy(found['test'])]),
        ('rank correlation', found['rank_correlation'] and [correlation(found['rank_correlation'])]),
        ('predictor', found['predictor'] and [str(found['predictor'])]),
        ('search of the space', found['space_search'] and list(spaces(found['space_search']))),
        ('policy', found['ppo'] and list(policy(found['ppo']))),
        ('mixed operators', found['differentiable'] and list(relaxation(found['differentiable']))),
    ]
    hints = {
        'accuracy on test': 'test=true in the config reads the split, once, at the end',
        'rank correlation': '`searchzoo search correlate RUN` trains some networks for it',
        'other images': 'data.recheck_size holds some of val out',
    }
    return [
        (name, texts or [MISSING + (f'; {hints[name]}' if name in hints else '')]) for name, texts in points
    ]


def space(found: Record) -> str:
    share, limits = found['feasible_share'], found['limits']
    text = f'10^{found["log10"]:.2f} architectures'
    if not limits:
        return f'{text}, without limits'
    within = ', '.join(f'{name} {low:,.10g} to {high:,.10g}' for name, (low, high) in limits.items())
    return f'{text}; {MISSING if share is None else f"{100 * share:.3g} %"} within {within}'


def run(found: Record) -> str:
    versions = ', '.join(f'{key} {value}' for key, value in found['versions'].items() if key != 'device')
    device = found['device'] or 'a device that is not known'
    return f'{found["method"]}, seed {found["seed"]}, on {device}; {versions}'


def data(found: Record) -> str:
    sizes = ', '.join(
        f'{role} {MISSING if found[role] is None else f"{found[role]:,}"}'
        for role in ('train', 'val', 'recheck', 'test')
    ).replace(f'test {MISSING}', 'test not read')
    return f'{found["name"]}: {sizes}; {found["fingerprint"]}'


def evaluations(found: Record) -> str:
    return (
        f'{found["asked"]:,} candidates, {found["unique"]:,} different networks; {found["failed"]:,} failed, '
        f'{found["given_up"]:,} were given up early'
    )


def time(found: Record) -> Iterator[str]:
    groups: dict[str, float] = {}
    for phase in found['phases']:
        name = re.sub(r'\d+$', '<n>', phase['name'])
        groups[name] = groups.get(name, 0.0) + phase['seconds']
    parts = ', '.join(f'{name} {seconds:.3g} s' for name, seconds in groups.items() if seconds >= 0.05)
    yield f'{found["total_seconds"]:,.1f} s: {parts}'
    if (seconds := found['random_search_seconds']) is not None:
        yield f'scoring as many random candidates: about {seconds:,.3g} s'


def best(found: Record) -> Iterator[str]:
    error = found['standard_error']
    spread = '' if error is None else f' ± {error:.2g} (standard error, from the images)'
    metrics = ', '.join(f'{name} {value:.4g}' for name, value in found['metrics'].items())
    yield f'score {found["score"]:.5g}{spread}; {metrics}; params {found["params"]:,}, MACs {found["macs"]:,}'
    for name, limit in found['slack'].items():
        yield f'{name} {limit["slack"]:,.6g} below the limit of {limit["high"]:,.10g}'


def front(found: Sequence[Record]) -> Iterator[str]:
    points = [f'{row.get("accuracy", row["score"]):.5g} at {row["macs"]:,}' for row in found]
    yield f'{len(found)} networks: ' + (
        '; '.join(points) if len(points) < 9 else f'{points[0]} to {points[-1]}'
    )


def random(found: Record) -> Iterator[str]:
    what = {
        'baseline': 'as many as the search has evaluated',
        'search': 'the search itself is random',
        'first': "the strategy's first ones, whatever their scores",
        'trained': 'trained networks of equal cost, top-1 on val in %',
    }[found['of']]
    spread = '' if found['std'] is None else f' ± {found["std"]:.3g}'
    top = MISSING if found['best'] is None else f'{found["best"]:.5g}'
    yield f'{found["count"]:,} ({what}): mean {found["mean"]:.5g}{spread}, best {top}'
    if (gain := found['relative_improvement']) is not None:
        share = f"{100 * gain:+.3g} % of the mean's size"
        kind = ' (scores are negative losses)' if found['mean'] < 0 else ''
        yield f'found {found["found"]:.5g}: {share}{kind}'


def history(found: Record) -> str:
    return ', '.join(
        f'{MISSING if score is None else f"{score:.5g}"} after {share} %' for share, score in found.items()
    )


def recheck(found: Sequence[Record]) -> Iterator[str]:
    yield f'the best {len(found)}, by rank in the search: rank and score on images that no search has seen'
    for row in found:
        again = MISSING
        if row['recheck_rank'] is not None:
            again = f'{row["recheck_rank"]:>2}  {row["recheck_score"]:.5g}'
        yield f'{row["rank"]:>2}  {row["score"]:.5g}  ->  {again}'


def accuracy(found: Record) -> str:
    error = '' if found['standard_error'] is None else f' ± {found["standard_error"]:.2f}'
    count = '' if found['images'] is None else f' on {found["images"]:,} images'
    return f'{found["top1"]:.2f}{error} %{count}'


def correlation(found: Record) -> str:
    def between(name: str) -> str:
        low, high = found[name]
        return f'(95 %: {low:.2f} to {high:.2f})'

    text = f'tau {found["tau"]:.3f} {between("interval")} of {found["n"]} networks'
    if found.get('tau_top_third') is not None:
        text += f'; {found["tau_top_third"]:.3f} {between("interval_top_third")}'
        text += f' of the best third ({found["n_top_third"]})'
    return text + (f'; Spearman {found["spearman"]:.3f}' if found.get('spearman') is not None else '')


def spaces(found: Sequence[Record]) -> Iterator[str]:
    for iteration in found:
        yield f'iteration {iteration["iteration"]}, errors of {iteration["networks"]} networks in %:'
        for row in iteration['dimensions']:
            name = f'stage {row["stage"]} {row["name"]}'
            errors = ', '.join(
                f'{part["value"]}: E {part["e_error"]:.1f}, T {part["t_error"]:.1f} (n {part["n"]})'
                for part in iteration['subspaces']
                if (part['stage'], part['name']) == (row['stage'], row['name']) and 'e_error' in part
            )
            yield f'{name}: {errors or MISSING}'
            if 'slope' in row:
                low, high = row['interval']
                fit = MISSING if row['r2'] is None else f'{row["r2"]:.2f}'
                yield f'  slope {row["slope"]:.2f} ({low:.2f} to {high:.2f}), R2 {fit}: {row["decision"]}'


def policy(found: Sequence[Record]) -> Iterator[str]:
    chosen = found if len(found) <= 8 else [found[len(found) * i // 7] for i in range(7)] + [found[-1]]
    for row in chosen:
        numbers = {key: MISSING if row[key] is None else f'{row[key]:.4g}' for key in row}
        yield (
            f'batch {row["batch"]} ({row["count"]}): score {numbers["mean"]}, deviation {numbers["std"]}, '
            f'duplicates {numbers["duplicates"]}, entropy {numbers["entropy"]}, KL {numbers["kl"]}'
        )


def relaxation(found: Sequence[Record]) -> Iterator[str]:
    for row in found:
        layers = row['layers'].values()
        entropy = sum(layer['entropy'] for layer in layers) / len(layers)
        margins = [layer['margin'] for layer in layers]
        skips = (
            'no candidate that skips'
            if row['skip_share'] is None
            else f'skips {100 * row["skip_share"]:.0f} %'
        )
        kept = ', kept' if row['kept'] else ''
        yield (
            f'seed {row["seed"]}{kept}: mean entropy {entropy:.3f} nats, margin {min(margins):.2g} to '
            f'{max(margins):.2g}, {skips}'
        )
        if row['collapsed_to'] is not None:
            yield f'  warning: collapsed, {row["collapsed_to"]} leads all {len(layers)} layers'
