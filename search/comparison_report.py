"""``searchzoo search compare``: how strategies do on a table, in words and as a figure."""

import argparse
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from search.arguments import count, find_config
from search.comparison import BASELINE, STRATEGIES, Comparison, Contender, Estimate, compare
from search.figures.comparison import draw_comparison
from search.landscape import Landscape, is_minimized, read_landscape, sub_landscapes
from search.variance import variance_share
from zoo.errors import ZooError
from zoo.files import write_atomic

__all__ = ['add_parser', 'describe_comparisons', 'describe_landscape']

SHARE = 0.1
"""Of the table's rows, that a search evaluates by default."""
PARTS = 4
LEAST_BUDGET = 32
"""Evaluations on a part of the table, where one is compared on: two generations of the small evolution."""
MAX_PROCESSES = 8
SEEDS = 5, 1000
"""Allowed: an interval over fewer says nothing."""


def add_parser(add: Callable[..., argparse.ArgumentParser]) -> None:
    """The subcommand."""
    about = 'compare the strategies on a table: regret after each evaluation, over many seeds'
    command = add('compare', about, handler=_run)
    about = 'made by `searchzoo search tabulate`, or the bundled tables/digits.jsonl.gz'
    command.add_argument('table', metavar='TABLE', help=about)
    command.add_argument('--seeds', type=count, default=50, metavar='N', help='of each, by default 50')
    about = 'evaluations of each; by default a tenth of the table'
    command.add_argument('--budget', type=count, metavar='N', help=about)
    about = 'of the table; by default loss, the only one of which less is better'
    command.add_argument('--metric', default='loss', help=about)
    out = Path('comparison.png')
    command.add_argument(
        '--out', type=Path, default=out, metavar='FILE', help=f'the figure, by default {out}'
    )


def _run(args: argparse.Namespace) -> None:
    if not SEEDS[0] <= args.seeds <= SEEDS[1]:
        raise ZooError(f'--seeds: found {args.seeds}, {SEEDS[0]} to {SEEDS[1]} are allowed.')
    if args.out.suffix.lower() != '.png' or not args.out.parent.is_dir():
        raise ZooError(f'--out: found {str(args.out)!r}, a .png file in a folder that exists is needed.')
    table = find_config(args.table)
    whole, repeated = read_landscape(table, args.metric)
    budget = args.budget or max(1, round(SHARE * len(whole)))
    if budget > len(whole):
        raise ZooError(f'--budget: found {budget}, the table has {len(whole)} architectures.')
    print(f'{table}: ' + '\n'.join(describe_landscape(whole, args.metric, repeated)), flush=True)
    parts = sub_landscapes(whole, PARTS, math.ceil(LEAST_BUDGET * len(whole) / budget))
    landscapes = [whole, *parts]
    budgets = [budget * len(each) // len(whole) for each in landscapes]
    processes = min(MAX_PROCESSES, os.cpu_count() or 1)
    comparisons = compare(landscapes, budgets, args.seeds, STRATEGIES, processes)
    print('\n'.join(describe_comparisons(comparisons, STRATEGIES, args.metric)))
    figure = draw_comparison(comparisons, STRATEGIES, args.metric, find_noise(repeated))
    write_atomic(args.out, figure)
    print(f'\nFigure: {args.out}')


def find_noise(repeated: Sequence[Sequence[float]]) -> float | None:
    """Standard deviation between trainings of one good architecture, a bad one's is often far larger.

    Args:
        repeated: The metric of all trainings of each architecture that has several, the best first.

    Returns:
        Of the best third; None if there are too few.
    """
    best = repeated[: len(repeated) // 3]
    return variance_share(best).noise if len(best) > 1 else None


def describe_landscape(whole: Landscape, metric: str, repeated: Sequence[Sequence[float]]) -> list[str]:
    """What the table holds and how far it can be trusted."""
    sign = -1 if is_minimized(metric) else 1
    best, median, worst = (sign * whole.ranked[int(q * (len(whole.ranked) - 1))] for q in (0, 0.5, 1))
    order = 'less' if is_minimized(metric) else 'more'
    failed = len(whole) - len(whole.ranked)
    lines = [
        f'{len(whole):,} architectures' + (f', of which {failed:,} failed' if failed else ''),
        f'{metric} ({order} is better): best {best:.4g}, median {median:.4g}, worst {worst:.4g}',
    ]
    noise = find_noise(repeated)
    if noise is None:
        return [*lines, 'noise: not measured, at least 6 architectures with several trainings are needed']
    whole_noise = variance_share(repeated)
    return [
        *lines,
        f'noise: the architecture explains {whole_noise.share:.2f} of the variance (intraclass correlation, '
        f'n = {whole_noise.architectures})',
        f'trainings of one architecture differ by {whole_noise.noise:.3g} (standard deviation), of one of '
        f'the best third by {noise:.3g}',
        'a regret smaller than that is partly luck: the table has one training of each',
    ]


def describe_comparisons(
    comparisons: Sequence[Comparison], contenders: Sequence[Contender], metric: str
) -> list[str]:
    """For people: all strategies on the whole table, then their lead over random search on parts of it."""
    whole, *parts = comparisons
    steps = sorted({max(1, whole.budget // 4), max(1, whole.budget // 2), whole.budget})
    unit = _Unit.of(whole.regret(BASELINE.label, whole.budget).mean, metric)
    rows = [['', *(f'after {step}' for step in steps), 'minus random', 'best 1 % after']]
    for contender in contenders:
        label = contender.label
        regrets = [unit.show(whole.regret(label, step)) for step in steps]
        gap = '' if label == BASELINE.label else unit.show(whole.difference(label))
        to_top = whole.evaluations_to_top(label)
        reached = f'{to_top:.0f}' if math.isfinite(to_top) else f'more than {whole.budget}'
        rows.append([_name(contender), *regrets, gap, reached])
    seeds = len(whole.regrets[BASELINE.label])
    lines = [
        f'\nSimple regret in {unit.name} after so many evaluations, mean of {seeds} seeds [95 % interval]:',
        *_align(rows),
        'best 1 % after: evaluations until one of the best 1 % is found, median',
    ]
    if any(contender.published for contender in contenders):
        lines.append("* settings of the paper's code, made for more evaluations")
    return lines + (_describe_parts(parts, contenders, unit) if parts else [])


def _describe_parts(parts: Sequence[Comparison], contenders: Sequence[Contender], unit: '_Unit') -> list[str]:
    letters = [chr(ord('A') + i) for i in range(len(parts))]
    rows = [['', *letters]]
    for contender in contenders:
        if contender.label != BASELINE.label:
            gaps = [part.difference(contender.label) for part in parts]
            rows.append([_name(contender), *map(unit.show_interval, gaps)])
    lines = ['\nOn parts of the table, 95 % interval of the last regret minus that of random search:']
    lines += _align(rows)
    for letter, part in zip(letters, parts, strict=True):
        name, size = part.landscape.name, len(part.landscape)
        lines.append(f'{letter}: {name}, {size:,} architectures, {part.budget} evaluations')
    return lines


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns: the first one to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        '  '.join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    ]


def _name(contender: Contender) -> str:
    return contender.label + (' *' if contender.published else '')


class _Unit(NamedTuple):
    """How regrets are printed: with two digits that count, or more."""

    name: str
    scale: float
    digits: int

    @staticmethod
    def of(regret: float, metric: str) -> '_Unit':
        """For regrets of about this size."""
        scale = 1000 if 0 < regret < 0.1 else 1
        digits = 1 - math.floor(math.log10(scale * regret)) if regret > 0 else 3
        return _Unit(f'thousandths of {metric}' if scale > 1 else metric, scale, min(6, max(1, digits)))

    def show(self, found: Estimate) -> str:
        return f'{self.scale * found.mean:.{self.digits}f} {self.show_interval(found)}'

    def show_interval(self, found: Estimate) -> str:
        low, high = (f'{self.scale * value:.{self.digits}f}' for value in (found.low, found.high))
        return f'[{low}, {high}]'
