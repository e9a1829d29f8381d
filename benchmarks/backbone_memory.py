"""Peak memory of backbones at a detector's image size, for one network of each family.

    python benchmarks/backbone_memory.py [--names s3_tiny ...] [--size 800 1333] [--device cpu] [--out FOLDER]

Each measurement is a process of its own: the peak of its resident memory (with --device cuda of the GPU's
tensors) less what it was before one image went through, so without weights. `inference` keeps nothing,
`training` is forward and backward in float32, gradients included, `checkpointing` the same with
`with_cp=True`, and `written out` is inference without PyTorch's fused attention, for what that saves. A
process that needs more than --most gigabytes ends there. Writes backbone_memory.json and backbone_memory.md.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from downstream.backbone import ZooBackbone
from zoo.files import write_atomic
from zoo.jsonfile import format_json

NAMES = ('carnet_c112', 'glit_tiny', 's3_tiny', 'trionet_a', 'uninet_b0')
MODES = ('inference', 'training', 'checkpointing', 'written out')


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--names', nargs='+', default=NAMES, help='entries or models of timm')
    parser.add_argument('--modes', nargs='+', default=MODES, choices=MODES)
    parser.add_argument('--size', nargs=2, type=int, default=(800, 1333), metavar=('HEIGHT', 'WIDTH'))
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--most', type=float, default=64, help='gigabytes a process may take on a CPU')
    parser.add_argument('--out', type=Path, default=Path())
    parser.add_argument('--measure', nargs=2, metavar=('NAME', 'MODE'), help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.measure:
        print(json.dumps(measure(*args.measure, *args.size, args.device, args.most)))
        return
    found = {
        'size': list(args.size),
        'device': torch.cuda.get_device_name(args.device) if args.device != 'cpu' else platform.machine(),
        'torch': torch.__version__,
        'networks': {name: {mode: run(name, mode, args) for mode in args.modes} for name in args.names},
    }
    write_atomic(args.out / 'backbone_memory.json', f'{format_json(found)}\n'.encode())
    write_atomic(args.out / 'backbone_memory.md', table(found).encode())
    print(table(found))


def run(name: str, mode: str, args: argparse.Namespace) -> dict[str, Any]:
    """Measures in a new process; its last line if it died."""
    command = [sys.executable, __file__, '--size', *map(str, args.size), '--device', args.device]
    command += ['--most', str(args.most), '--measure', name, mode]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {'error': (done.stderr.strip().splitlines() or [f'exit code {done.returncode}'])[-1]}
    found: dict[str, Any] = json.loads(done.stdout)
    print(
        f'{name} {mode}: {found["bytes"] / 1e6:.0f} MB, {found["seconds"]:.1f} s', file=sys.stderr, flush=True
    )
    return found


def measure(name: str, mode: str, height: int, width: int, device: str, most: float) -> dict[str, Any]:
    """Bytes of the peak, seconds of the pass, and parameters of the backbone."""
    if device == 'cpu':
        resource.setrlimit(resource.RLIMIT_DATA, (int(most * 1e9),) * 2)
    torch.manual_seed(0)
    backbone = ZooBackbone(name, with_cp=mode == 'checkpointing').to(device)
    train = mode in ('training', 'checkpointing')
    backbone.train(train)
    stride = max(backbone.strides)
    shape = (-(-height // stride) * stride, -(-width // stride) * stride)
    image, small = torch.randn(1, 3, *shape, device=device), torch.randn(1, 3, 64, 64, device=device)

    def step(x: torch.Tensor) -> None:
        with torch.set_grad_enabled(train):
            maps = backbone(x)
            if train:
                torch.stack([x.mean() for x in maps]).sum().backward()
        backbone.zero_grad(set_to_none=True)

    with sdpa_kernel(SDPBackend.MATH) if mode == 'written out' else nullcontext():
        step(small)  # loads libraries
        if device != 'cpu':
            torch.cuda.reset_peak_memory_stats(device)
        before = memory(device)[0]
        begin = time.perf_counter()
        step(image)
        peak = memory(device)[1]
    return {
        'bytes': int(peak - before),
        'seconds': round(time.perf_counter() - begin, 2),
        'params': sum(p.numel() for p in backbone.parameters()),
    }


def memory(device: str) -> tuple[int, int]:
    """Bytes now, and at the peak up to now."""
    if device != 'cpu':
        now = torch.cuda.memory_allocated(device)
        peak = torch.cuda.max_memory_allocated(device)
        return now, peak
    unit = 1 if sys.platform == 'darwin' else 1024
    return psutil.Process().memory_info().rss, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def table(found: dict[str, Any]) -> str:
    """As Markdown, in MB."""
    height, width = found['size']
    modes = list(next(iter(found['networks'].values())))
    lines = [
        f'Peak memory of a backbone above its weights for one image of {height}x{width} (float32, '
        f'{found["device"]}, torch {found["torch"]}), in MB.',
        '',
        f'| backbone | params (M) | {" | ".join(modes)} |',
        f'|---|---{"|---" * len(modes)}|',
    ]
    for name, results in found['networks'].items():
        params = next((f'{x["params"] / 1e6:.1f}' for x in results.values() if 'params' in x), '?')
        cells = [f'{x["bytes"] / 1e6:,.0f}' if 'bytes' in x else x['error'] for x in results.values()]
        lines.append(f'| {name} | {params} | {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    main()
