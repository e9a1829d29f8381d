"""How cost grows: of a network with image size and batch, of a search with candidates and workers.

    python benchmarks/growth.py [--parts size batch candidates workers] [--sides 128 224 ... 1024]
                                [--batch-sizes 1 ... 32] [--candidates 8 ... 64] [--workers 1 2]
                                [--seconds 20] [--repeats 3] [--device cpu] [--json FILE] [--png FILE] ...

One network a family, eager, in float32, on one CPU thread (CPU time) or a GPU (wall time). MACs are counted
at each size, and parted into a term that grows with the pixels n and one of the family's own order (ORDERS),
by least squares of relative errors; the picture has both, at the mean rate of MACs of the measured sizes. A
size or batch is left out, with the reason, if it would take more than --seconds or does not fit into memory.

Searches are `searchzoo search run` of a small config, whose supernet is trained for one epoch; the seconds
are wall time of the search phase, and beside them stands what `searchzoo search plan` says.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from growth_picture import draw, order_name
from rivals import first_line
from timing import (
    NETWORKS,
    Spread,
    add_files,
    describe_machine,
    explained,
    head,
    markdown_table,
    race,
    save,
    seconds,
)
from tqdm import tqdm

from search.checklist import build_checklist
from search.config import load_config
from search.methods import METHODS
from search.planner import make_plan
from zoo.files import write_atomic
from zoo.profile import build_meta, profile
from zoo.registry import config_path, load_entry

ORDERS = {
    'carnet': (2.0, 'non-local attention: each position with all others'),
    'glit': (2.0, 'global heads: each patch with all others'),
    's3': (1.0, 'windows of fixed sides; padding maps to whole windows makes steps'),
    'trionet': (1.5, 'axial attention: each position with its row and its column'),
    'uninet': (2.0, 'attention over the map, and of each LG down-sampling over its input'),
}
"""The power of the pixels with which a family's costliest operator grows, and why."""
PARTS = ('size', 'batch', 'candidates', 'workers')
SHORT = 'supernet.recipe.epochs=1'


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    found: dict[str, Any] = {**describe_machine(args.device), 'repeats': args.repeats}
    jobs = [(part, name) for part in args.parts if part in ('size', 'batch') for name in args.models]
    jobs += [(part, args.config) for part in args.parts if part in ('candidates', 'workers')]
    for part, name in tqdm(jobs, 'growth'):
        with explained():
            if part in ('size', 'batch'):
                found.setdefault(part, {})[name] = of_network(part, name, args)
            else:
                found[part] = of_search(part, args)
        save(found, args, render(found))
    args.png.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(args.png, draw(found))
    print(render(found))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sides, config = (128, 192, 224, 256, 384, 512, 768, 1024), 'search/planted_trionet.yaml'
    parser.add_argument('--parts', nargs='+', default=PARTS, choices=PARTS)
    parser.add_argument('--models', nargs='+', default=NETWORKS, metavar='ENTRY')
    parser.add_argument('--sides', nargs='+', type=int, default=sides, metavar='N')
    parser.add_argument('--batch-sizes', nargs='+', type=int, default=(1, 2, 4, 8, 16, 32), metavar='N')
    parser.add_argument('--config', default=config, help='of the searches, below configs/')
    parser.add_argument('--candidates', nargs='+', type=int, default=(8, 16, 32, 64), metavar='N')
    parser.add_argument('--workers', nargs='+', type=int, default=(1, 2), metavar='N')
    parser.add_argument('--seconds', type=float, default=20, metavar='N', help='the longest pass')
    parser.add_argument('--device', default='cpu', choices=('cpu', 'cuda'))
    parser.add_argument('--repeats', type=int, default=3, metavar='N', help='rounds that are counted')
    add_files(parser, 'growth')
    parser.add_argument('--png', type=Path, default=Path('runs/growth.png'), metavar='FILE')
    return parser


# ---- networks


def of_network(part: str, name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of a pass and MACs of an image, by image side or batch size."""
    entry = load_entry(name)
    channels = entry.input.size[0]
    steps, points, before = {}, [], 0.0
    for value in args.sides if part == 'size' else args.batch_sizes:
        size = (channels, value, value) if part == 'size' else entry.input.size
        batch = 1 if part == 'size' else value
        macs = profile(build_meta(entry, size), size).macs
        point: dict[str, Any] = {'value': value, 'macs': macs}
        points.append(point)
        if before * macs * batch > args.seconds:
            point['left_out'] = f'about {before * macs * batch:.0f} s a pass, --seconds is {args.seconds:g}'
            continue
        torch.manual_seed(0)
        model: Any = timm.create_model(name, img_size=size[1:]).to(args.device).eval()
        images = torch.randn(batch, *size, device=args.device)

        @torch.inference_mode()
        def step(model: Any = model, images: torch.Tensor = images) -> torch.Tensor:
            return model(images)

        try:
            seconds(step, args.device)
            before = seconds(step, args.device) / (macs * batch)
        except (RuntimeError, MemoryError) as error:
            point['left_out'] = first_line(error)
            break
        steps[value] = step
    times = race(steps, args.repeats, args.device, f'{name}, {part}')
    for point in points:
        if point['value'] in times:
            point['ms'] = [round(1000 * t, 3) for t in times[point['value']]]
    found: dict[str, Any] = {'family': entry.family, 'points': points}
    return found | (fit(points, ORDERS[entry.family][0]) if part == 'size' else {})


def fit(points: list[dict[str, Any]], order: float) -> dict[str, Any]:
    """MACs as ``a n + b n^order``, n being the pixels, and the largest relative error of that."""
    pixels = np.array([float(point['value']) ** 2 for point in points])
    macs = np.array([float(point['macs']) for point in points])
    terms = np.stack([pixels] + ([pixels**order] if order > 1 else []), 1)
    found = np.linalg.lstsq(terms / macs[:, None], np.ones_like(macs), rcond=None)[0]
    error = float(np.abs(terms @ found / macs - 1).max())
    return {'order': order, 'terms': [*map(float, found)], 'error': error}


# ---- searches


def of_search(part: str, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the search phase by the number of candidates or of worker processes (0: none)."""
    values = args.candidates if part == 'candidates' else [0, *args.workers]
    points: list[dict[str, Any]] = [{'value': value, 's': []} for value in values]
    for point in tqdm(points * args.repeats, part, leave=False):
        candidates = point['value'] if part == 'candidates' else max(args.candidates)
        overrides = [f'search.evaluations={candidates}', SHORT]
        if part == 'workers' and point['value']:
            overrides.append(f'search.workers.processes={point["value"]}')
        config = load_config(config_path(args.config), overrides)
        with tempfile.TemporaryDirectory() as folder:
            METHODS[config.method](config, folder, quiet=True)
            phases = build_checklist(folder)['time']['phases']
        point['s'].append(round(next(phase['seconds'] for phase in phases if phase['name'] == 'search'), 3))
    found: dict[str, Any] = {'config': args.config, 'points': points}
    if part == 'workers':
        return found | {'candidates': max(args.candidates)}
    plan = make_plan(load_config(config_path(args.config), [SHORT]), seconds=5)
    each = next(phase.seconds for phase in plan.phases if phase.name.startswith('search: '))
    return found | {'planned_s_each': [*each]}


# ---- text and picture


def share(network: dict[str, Any], side: int) -> float:
    """Of the MACs, what the term of the family's own order takes."""
    parts = [
        term * side ** (2 * power)
        for term, power in zip(network['terms'], (1, network['order']), strict=False)
    ]
    return parts[-1] / sum(parts) if len(parts) > 1 else 0.0


def render(found: dict[str, Any]) -> str:
    """As Markdown."""
    lines = [head('Growth', found), '']
    for part, column in (('size', 'side'), ('batch', 'batch')):
        rows = []
        for name, network in found.get(part, {}).items():
            for point in network['points']:
                times = [ms / (point['value'] if part == 'batch' else 1) for ms in point.get('ms', [])]
                shown = Spread.of(times) if times else point['left_out']
                rows.append([name, point['value'], f'{point["macs"] / 1e9:.3g}', shown])
        if rows:
            lines += markdown_table(f'network | {column} | GMACs an image | ms an image', rows)
    for name, network in found.get('size', {}).items():
        order, reason = ORDERS[network['family']]
        shares = [f'{share(network, network["points"][i]["value"]):.0%}' for i in (0, -1)]
        ends = [network['points'][i]['value'] for i in (0, -1)]
        text = f'- `{name}`: O({order_name(order)}), {reason}'
        if order > 1:
            text += f'; {shares[0]} of the MACs at side {ends[0]}, {shares[1]} at {ends[1]}'
        lines.append(f'{text}. The terms meet the counted MACs within {network["error"]:.1%}.')
    for part in ('candidates', 'workers'):
        if part in found:
            rows = [[point['value'], Spread.of(point['s'])] for point in found[part]['points']]
            lines += ['', f'Search phase of `{found[part]["config"]}`, wall time:', '']
            lines += markdown_table(f'{part} | s', rows)
    if 'candidates' in found:
        lines.append(
            f'`searchzoo search plan`: {found["candidates"]["planned_s_each"][0]:.3f} s a candidate.'
        )
    return '\n'.join([*lines, ''])


if __name__ == '__main__':
    main()
