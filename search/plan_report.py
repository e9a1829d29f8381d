"""The plan of a run (:mod:`search.plan`) as text."""

import textwrap
from collections.abc import Sequence

import torch

from search.plan import Plan, format_bytes
from search.training import device

__all__ = ['describe_plan']


def describe_plan(plan: Plan) -> list[str]:
    """Lines for people: time, memory, disk, and how the numbers came about."""
    where = device()
    threads = torch.get_num_threads()
    name = torch.cuda.get_device_name(where) if where.type == 'cuda' else times(threads, 'threads')
    head = ['phase', 'units', '', 'each', 'middle half', 'hours']
    rows = [
        [
            phase.name,
            *times(phase.units, phase.unit).split(' '),
            format_seconds(phase.seconds.median),
            f'{format_seconds(phase.seconds.low)} - {format_seconds(phase.seconds.high)}',
            format_hours(phase.hours()),
        ]
        for phase in plan.phases
    ]
    total = ['total', '', '', '', '', format_hours(plan.total_hours())]
    if plan.devices > 1:
        head.append(f'on {plan.devices}')
        for row, phase in zip(rows, plan.phases, strict=True):
            row.append(format_hours(phase.hours(plan.devices)))
        total.append(format_hours(plan.total_hours(plan.devices)))
    columns = 3 if where.type == 'cuda' else 2
    memory = [[label, *map(format_bytes, peak)][:columns] for label, peak in plan.memory.items()]
    disk = [[file, format_bytes(size)] for file, size in plan.disk.items()]
    return [
        f'Time, by {where.type} ({name}):',
        *table([head, *rows, total], left=(0, 2)),
        '',
        'Memory at the peak of one process:',
        *table([['', 'host', 'GPU'][:columns], *memory]),
        '',
        'Disk:',
        *table([*disk, ['total', format_bytes(sum(plan.disk.values()))]]),
        '',
        *(line for note in plan.notes for line in textwrap.wrap(note, 100, subsequent_indent='  ')),
    ]


def format_seconds(seconds: float) -> str:
    """Three digits: ``12.3 ms``."""
    for unit, size in (('us', 1e-6), ('ms', 1e-3)):
        if seconds < 999.5 * size:
            return f'{seconds / size:.3g} {unit}'
    return f'{seconds:.3g} s' if seconds < 999.5 else f'{seconds:,.0f} s'


def times(count: int, unit: str) -> str:
    return f'{count:,} {unit if count != 1 else unit.removesuffix("s")}'


def format_hours(hours: float) -> str:
    return f'{hours:,.0f}' if hours >= 999.5 else f'{hours:.3g}'


def table(rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> list[str]:
    """Aligned columns, the named ones to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        '  '
        + '  '.join(
            f'{cell:{"<" if i in left else ">"}{width}}'
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
