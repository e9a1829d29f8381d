"""Inference of the entries beside timm's models of like cost and use: images/s and memory.

    python benchmarks/inference.py [--models 's3_*' glit_tiny] [--modes eager compile+bf16]
                                   [--batch-sizes 1 16] [--device cuda] [--repeats 9]
                                   [--json FILE] [--markdown FILE]

Each network has random weights and its own image size. An entry and its rivals take turns in all modes, in
one process and an order that turns from round to round. Modes are eager, channels_last (the layout), compile
(torch.compile for one shape), bf16 (the whole network and its images in bfloat16, without autocast), and
several joined by +. Speed per GMAC is images/s times GMACs. Before S3 is timed, timm's network of the same
name gives it its weights, through the zoo's own converter, and their outputs must agree.

Both files are written anew after each entry and batch size: what was measured survives an interruption.
"""

import math
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rivals import Benchmark, Network, choose, contestants, of_networks, of_pairs
from timing import Spread, Step, explained, head, markdown_table, ratio

from zoo.convert import convert, load_checkpoint
from zoo.errors import ZooError

MODES = ('eager', 'channels_last', 'compile', 'bf16')
TARGETS = {
    's3': ('swin_s3', False, 1.15),
    'glit': ('deit_tiny', True, 1.0),
    'uninet': ('efficientnet_b0', True, 1.3),
    'trionet': ('resnet50', True, 0.8),
}
"""By family: the rival, whether by GMAC, and how many times as fast we are to be, eager on a CPU."""
MUST_GAIN = ('compile', 'bf16')
"""Modes that make every family faster."""
TOLERANCE = 1e-4
"""Of equal networks' outputs, by the largest."""


def prepare(network: Network, mode: set[str], batch: int, device: str) -> tuple[Step, int]:
    """A forward pass."""
    model, images = network.create().eval().requires_grad_(False), torch.randn(batch, *network.size)
    if 'channels_last' in mode:
        model, images = (x.to(memory_format=torch.channels_last) for x in (model, images))
    if 'bf16' in mode:
        model, images = model.bfloat16(), images.bfloat16()
    model, images = model.to(device), images.to(device)
    run = torch.compile(model, dynamic=False) if 'compile' in mode else model

    @torch.inference_mode()
    def step() -> torch.Tensor:
        return run(images)

    return step, sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))


def check_same(name: str) -> float:
    """How far the outputs of an S3 are from those of timm's network with the same weights, by the largest.

    Raises:
        ZooError: Too far.
    """
    ours, theirs = (network.create().eval() for network in contestants(name)[:2])
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        for parameter in theirs.parameters():  # zeros and ones of new networks would hide mistakes
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
        torch.save(theirs.state_dict(), Path(folder) / 'timm.pth')
        converted = convert(name, Path(folder) / 'timm.pth', Path(folder) / 'ours.safetensors')
        ours.load_state_dict(load_checkpoint(converted.path))
        images = torch.randn(2, *contestants(name)[0].size, generator=generator)
        wanted = theirs(images)
        difference = float((ours(images) - wanted).abs().max() / wanted.abs().max())
    if not difference <= TOLERANCE:
        raise ZooError(f'{name}: its outputs differ from those of timm by {difference:.1e}.')
    return difference


def judge(found: Spread, least: float) -> str:
    """Whether a target is met, and whether the quartiles leave a doubt."""
    verdict = 'met' if found.median >= least else 'missed'
    return verdict if found.low >= least or found.high < least else f'{verdict}, within the spread'


def of_targets(results: Sequence[dict[str, Any]]) -> list[str]:
    """A table of what the aims are and whether they are met: of speed, then of what modes gain."""
    rows = []
    for result in results:
        start, by_gmac, least = TARGETS.get(result['family'], ('nothing', False, 0.0))
        (name, ours), *others = result['networks'].items()
        for rival, other in others:
            one, two = (network['modes'].get('eager', {}) for network in (ours, other))
            if rival.startswith(start) and 'ms' in one and 'ms' in two:
                found = ratio(one['ms'], two['ms'], ours['macs'] / other['macs'] if by_gmac else 1.0)
                aim = f'{least:g} x {rival}{" per GMAC" if by_gmac else ""}'
                rows.append([name, result['batch'], aim, found, judge(found, least)])
    for family, mode in sorted({(result['family'], mode) for result in results for mode in MUST_GAIN}):
        for batch in sorted({result['batch'] for result in results}):
            gains = []
            for result in results:
                network = next(iter(result['networks'].values()))
                if (result['family'], result['batch']) == (family, batch) and network['size'][0] == 3:
                    pair = [network['modes'].get(m, {}).get('ms') for m in (mode, 'eager')]
                    gains += [ratio(*pair).median] if all(pair) else []
            if gains:
                mean = math.exp(statistics.fmean(map(math.log, gains)))
                text = f'{mean:.2f} ({min(gains):.2f} to {max(gains):.2f}, of {len(gains)})'
                rows.append([family, batch, f'{mode} gains', text, 'met' if min(gains) > 1 else 'missed'])
    return markdown_table('what | batch | aim | found | ', rows)


def render(found: dict[str, Any]) -> str:
    """As Markdown."""
    results = found['results']
    note = (
        'MB held are weights, MB more what a pass takes above them at its peak. An aim is for one thread of '
        'a CPU; what a mode gains in a family is the geometric mean and the range of its entries,'
        ' without those for grey images.'
    )
    lines = [head('Inference', found), note, '', *of_networks(results), *of_pairs(results)]
    return '\n'.join([*lines, *of_targets(results)])


BENCHMARK = Benchmark(__file__, MODES, (1, 16), prepare, render)


def main(argv: Sequence[str] | None = None) -> None:
    args = BENCHMARK.make_parser(__doc__).parse_args(argv)
    with explained():
        for name in [] if args.weigh else choose(args.models):
            if (rival := contestants(name)[1].name).startswith('swin_s3'):
                print(f'{name} and {rival} with the same weights: outputs differ by {check_same(name):.0e}')
        BENCHMARK.run(args)


if __name__ == '__main__':
    main()
