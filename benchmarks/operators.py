"""Where an inference pass spends its time: by kinds of operators, and outside of them.

    python benchmarks/operators.py [--models s3_tiny ...] [--batch-sizes 1 16] [--repeats 9]
                                   [--json FILE] [--markdown FILE]

One thread of a CPU, float32, eager. Milliseconds of a pass are measured without the profiler, those inside
operators by torch.profiler, each with all that it calls. What the profiler itself takes counts as inside: a
little more than it says is outside, in Python and the dispatch of operators.
"""

import re
import statistics
from collections.abc import Sequence
from typing import Any

import timm
import torch
from timing import describe_machine, head, make_parser, markdown_table, race, save
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

KINDS = {
    'products': 'linear|addmm',
    'attention': 'attention|softmax|bmm|matmul|einsum',
    'convolutions': 'conv',
    'norms': 'norm',
    'activations': 'gelu|relu|silu|sigmoid',
    'copies': 'contiguous|copy|clone|reshape|cat$|roll|pad$',
    'pooling': 'pool|maximum',
}
"""Patterns of the names of operators that a network calls; the first that is found in a name decides."""
REST = 'rest'


def kind_of(name: str) -> str:
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name)), REST)


def measure(name: str, batch: int, repeats: int) -> dict[str, Any]:
    """Milliseconds of a pass, by round, and those of a profiled one by kind, as medians."""
    torch.manual_seed(0)
    model: Any = timm.create_model(name).eval()
    images = torch.randn(batch, *model.pretrained_cfg['input_size'])
    inside: dict[str, list[float]] = {kind: [] for kind in (*KINDS, REST)}
    with torch.inference_mode():
        times = race({name: lambda: model(images)}, repeats, 'cpu', f'{name}, batch {batch}')[name]
        for _ in range(repeats):
            with profile(activities=[ProfilerActivity.CPU]) as found:
                model(images)
            spent = dict.fromkeys(inside, 0.0)
            for event in found.events():
                if event.cpu_parent is None:
                    spent[kind_of(event.name)] += event.cpu_time_total / 1000
            for kind, ms in spent.items():
                inside[kind].append(ms)
    return {
        'name': name,
        'batch': batch,
        'ms': [round(1000 * t, 3) for t in times],
        'inside': {kind: round(statistics.median(ms), 3) for kind, ms in inside.items()},
    }


def rows(found: dict[str, Any]) -> list[list[object]]:
    """Of the table: percents of the pass."""
    table: list[list[object]] = []
    for result in found['results']:
        total = statistics.median(result['ms'])
        inside = [100 * ms / total for ms in result['inside'].values()]
        percents = [f'{percent:.0f}' for percent in (max(0.0, 100 - sum(inside)), *inside)]
        table.append([f'`{result["name"]}`', result['batch'], f'{total:.1f}', *percents])
    return table


COLUMNS = f'network | batch | ms | outside | {" | ".join(KINDS)} | {REST}'


def render(found: dict[str, Any]) -> str:
    """As Markdown."""
    lines = [head('Percent of an inference pass', found), '', *markdown_table(COLUMNS, rows(found))]
    return '\n'.join([*lines, ''])


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser(__doc__, 'operators').parse_args(argv)
    found: dict[str, Any] = {**describe_machine('cpu'), 'repeats': args.repeats, 'results': []}
    for name, batch in tqdm([(name, batch) for name in args.models for batch in args.batch_sizes]):
        found['results'].append(measure(name, batch, args.repeats))
        save(found, args, render(found))
    print(render(found))


if __name__ == '__main__':
    main()
