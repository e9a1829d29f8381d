"""What a training step costs through the supernet, against the same step of the stand-alone network.

    python benchmarks/supernet.py [--space s3] [--size 224] [--batch 8] [--archs 4] [--repeats 5] [--bf16]

Both sides run forward, backward and AdamW in turn, in one process, on the same random architectures and
images; the supernet's side includes building a module for an architecture it has not seen. Prints the ratio
of each pair, and their median and range. With --bf16 both sides run under bfloat16 autocast, whose gain over
float32 is printed too.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from search.spaces import load_space
from search.supernet import Supernet


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--space', default='s3')
    parser.add_argument('--size', type=int, default=224)
    parser.add_argument('--batch', type=int, default=8)
    parser.add_argument('--archs', type=int, default=4)
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--bf16', action='store_true')
    args = parser.parse_args()
    device = torch.device(args.device)
    family_space = load_space(args.space, (3, args.size, args.size))
    supernet = Supernet(family_space, 1000, device=device).train()
    stored = sum(parameter.numel() for parameter in supernet.parameters())
    print(f'{args.space}: {stored / 1e6:.1f} M stored parameters')
    images = torch.randn(args.batch, 3, args.size, args.size, device=device)
    labels = torch.arange(args.batch, device=device) % 1000

    def step(
        forward: Callable[[torch.Tensor], torch.Tensor], optimizer: torch.optim.Optimizer, bf16: bool
    ) -> float:
        started = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(forward(images), labels)
        loss.backward()
        optimizer.step()
        if device.type == 'cuda':
            torch.cuda.synchronize()
        return time.perf_counter() - started

    shared = torch.optim.AdamW(supernet.parameters(), lr=1e-5)
    rng = random.Random(0)
    ratios, gains = [], []
    for i in range(args.archs):
        arch = family_space.decode(family_space.space.sample(rng))
        network = supernet.build(arch, drop_path_rate=0.0).to(device).train()
        own = torch.optim.AdamW(network.parameters(), lr=1e-5)
        step(network, own, args.bf16)
        step(lambda x, arch=arch: supernet(arch, x), shared, args.bf16)
        alone, through, full = [], [], []
        for _ in range(args.repeats):
            alone.append(step(network, own, args.bf16))
            supernet._subnets.clear()  # a sampled architecture is nearly always a new one
            through.append(step(lambda x, arch=arch: supernet(arch, x), shared, args.bf16))
            if args.bf16:
                full.append(step(network, own, False))
        pairs = [b / a for a, b in zip(alone, through, strict=True)]
        ratios += pairs
        gains += [a / b for a, b in zip(full, alone, strict=False)]
        print(
            f'architecture {i}: alone {1e3 * statistics.median(alone):.0f} ms, through the supernet '
            f'{1e3 * statistics.median(through):.0f} ms, ratio {statistics.median(pairs):.3f} '
            f'({min(pairs):.3f} to {max(pairs):.3f})',
            flush=True,
        )
    print(
        f'supernet / stand-alone: median {statistics.median(ratios):.3f}, '
        f'{min(ratios):.3f} to {max(ratios):.3f}, n = {len(ratios)}'
    )
    if gains:
        print(f'float32 / bf16: median {statistics.median(gains):.2f}, {min(gains):.2f} to {max(gains):.2f}')


if __name__ == '__main__':
    main()
