"""Writes the tables of docs/performance.md and docs/deployment.md from what was measured.

    python benchmarks/summary.py

Reads the JSON files in `benchmarks/results`, whose names tell the scripts that wrote them. A test says when a
page is out of date.
"""

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import operators
from inference import TARGETS
from timing import Spread, markdown_table, ratio

from zoo.files import write_atomic
from zoo.table import replace_between

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / 'benchmarks' / 'results'
MODES = ('channels_last', 'compile', 'bf16', 'compile+bf16')
WAYS = ('fused', 'exported', 'onnx', 'fused onnx')


def read(name: str) -> Any:
    return json.loads((RESULTS / f'{name}.json').read_text(encoding='utf-8'))


def choose_rival(result: dict[str, Any]) -> str:
    """The one that an aim is about; else the first."""
    start = TARGETS.get(result['family'], ('', False, 0.0))[0]
    return next(name for name in [*result['networks']][1:] if name.startswith(start))


def images_per_second(batch: int, ms: Sequence[float]) -> str:
    rate = 1000 * batch / statistics.median(ms)
    return f'{rate:.0f}' if rate >= 10 else f'{rate:.1f}'


def of_inference() -> str:
    """Each entry of colour images beside one rival, eager."""
    rows = []
    for result in read('inference')['results']:
        name, batch = result['name'], result['batch']
        if (ours := result['networks'][name])['size'][0] == 3:
            rival = choose_rival(result)
            other = result['networks'][rival]
            times, others = (network['modes']['eager']['ms'] for network in (ours, other))
            rates = f'{images_per_second(batch, times)} / {images_per_second(batch, others)}'
            row = [f'`{name}`', f'{ours["macs"] / 1e9:.2f}', f'`{rival}`', batch, rates]
            rows.append([*row, ratio(times, others), ratio(times, others, ours['macs'] / other['macs'])])
    head = 'network | GMACs | beside | batch | images/s | times as fast | per GMAC'
    return '\n'.join(markdown_table(head, rows))


def of_modes() -> str:
    """How many times as fast as eager, ours and the rival."""
    rows = []
    for result in read('modes')['results']:
        name = result['name']
        for network in (name, choose_rival(result)):
            modes = result['networks'][network]['modes']
            eager = modes['eager']['ms']
            gains = [ratio(modes[mode]['ms'], eager) if 'ms' in modes[mode] else 'error' for mode in MODES]
            rows.append([f'`{network}`', result['batch'], f'{statistics.median(eager):.0f}', *gains])
    return '\n'.join(markdown_table(f'network | batch | eager ms | {" | ".join(MODES)}', rows))


def of_training() -> str:
    """A step beside the rival's."""
    rows = []
    for result in read('training')['results']:
        rival = choose_rival(result)
        ours, other = (result['networks'][name] for name in (result['name'], rival))
        for mode in ours['modes']:
            one, two = ours['modes'][mode], other['modes'][mode]
            memory = [f'{(of_mode["held"] + of_mode["peak"]) / 1e6:.0f}' for of_mode in (one, two)]
            ms = [f'{statistics.median(of_mode["ms"]):.0f}' for of_mode in (one, two)]
            speed = ratio(one['ms'], two['ms'])
            row = [f'`{result["name"]}`', f'`{rival}`', mode, ' / '.join(ms), speed]
            rows.append([*row, ratio(one['ms'], two['ms'], ours['macs'] / other['macs']), ' / '.join(memory)])
    head = 'network | beside | mode | ms a step | times as fast | per GMAC | MB'
    return '\n'.join(markdown_table(head, rows))


def of_pointwise() -> str:
    """Networks with oneDNN and without."""
    rows = []
    for result in read('pointwise')['results']:
        times = result['network']
        ms = [f'{statistics.median(times[side]):.0f}' for side in ('pytorch', 'onednn')]
        gain = ratio(times['onednn'], times['pytorch'])
        rows.append([f'`{result["name"]}`', result['batch'], *ms, gain])
    return '\n'.join(
        markdown_table("network | batch | ms, PyTorch's layers | ms, oneDNN | times as fast", rows)
    )


def of_operators() -> str:
    """Percents of a pass by kinds of operators."""
    return '\n'.join(markdown_table(operators.COLUMNS, operators.rows(read('operators'))))


def of_deployment() -> str:
    """How many times as fast as eager."""
    rows = []
    for result in read('deployment')['results']:
        batch, ways = result['images'][0], result['ways']
        eager = ways['eager']['ms']
        gains = [ratio(ways[way]['ms'], eager) if 'ms' in ways[way] else 'error' for way in WAYS]
        differences = [way['difference'] for way in ways.values() if 'difference' in way]
        row = [f'`{result["name"]}`', batch, f'{statistics.median(eager):.0f}', *gains]
        rows.append([*row, f'{max(differences):.0e}'])
    return '\n'.join(
        markdown_table(f'network | batch | eager ms | {" | ".join(WAYS)} | outputs differ by', rows)
    )


def of_growth() -> str:
    """Milliseconds by the image's side."""
    networks = read('growth')['size']
    sides = [point['value'] for point in next(iter(networks.values()))['points']]
    rows = []
    for name, network in networks.items():
        times = [f'{Spread.of(p["ms"]).median:,.0f}' if 'ms' in p else 'left out' for p in network['points']]
        rows.append([f'`{name}`', *times])
    return '\n'.join(markdown_table(f'network | {" | ".join(map(str, sides))}', rows))


TABLES: dict[str, dict[str, Callable[[], str]]] = {
    'performance.md': {
        'inference': of_inference,
        'modes': of_modes,
        'pointwise': of_pointwise,
        'operators': of_operators,
        'training': of_training,
        'growth': of_growth,
    },
    'deployment.md': {'deployment': of_deployment},
}
"""By page: what stands between the markers of that name."""


def render(page: str, text: str) -> str:
    """A page with its tables made anew."""
    for name, make in TABLES[page].items():
        text = replace_between(text, page, f'<!-- {name} -->', f'<!-- end of {name} -->', make)
    return text


def main() -> None:
    for page in TABLES:
        path = ROOT / 'docs' / page
        write_atomic(path, render(page, path.read_text(encoding='utf-8')).encode())


if __name__ == '__main__':
    main()
