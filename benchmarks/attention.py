"""What local attention costs beside the usual formulation by F.unfold: time, memory, share of the roofline.

    python benchmarks/attention.py [--threads 1] [--repeats 9] [--quick] [--compiled]

Batch 4, 8 heads, the same inputs; the sides take turns in one process, and each line has medians, the median
ratio of the pairs and its range. On one CPU thread the times are CPU times. Memory is what forward and
backward take above the inputs: the growth of a fresh fork's peak resident size (on a GPU, the allocator's
peak). The share of the roofline is the FLOPs of the formula (2 products forward, 4 backward; what is computed
again is not counted) by time, against the rate of a 2048 x 2048 matrix product in the same dtype.

What was tried, forward + backward in ms of CPU time, k = 7, float32, one thread of an AMD EPYC (Zen 5), torch
2.12, with other jobs beside (repeats differ by 10 %, those of unfold by 25 %), each with its best chunk:

    formulation, hand-written backward unless noted             56x56x64  28x28x128  14x14x256  7x7x512
    F.unfold, elementwise products, autograd                         770        311        176       36
    F.unfold, einsum, autograd                                      1043        412        210        -
    Tensor.unfold view, einsum, autograd (the exported one)          816        314        155        -
    the same under torch.compile                                     550        226         93        -
    one offset at a time, all heads                                   85         35         18        -
    one offset at a time, chunks of heads                             79         35         18        -
    k offsets at a time, chunks of heads                              82         36         19        -
    kept: all offsets of a channel at a time for logits, one
      offset at a time for weighted sums, chunks of heads             71         30         18       12
    the same with the sums by products of all offsets, and the
      log-sum-exp kept for the backward                               64         31         16        -
    dense, blocks of 1 to 14 rows with their neighbouring rows       251         42         15        -
    dense, all positions and two sums for those outside                -        147         22        4

What this script prints for the kept one (5 repeats, a second job on the machine's other core), as ratios of
unfold's time to ours, forward + backward at k = 7: 11.2, 10.9 and 9.6 on the three maps in float32 (geometric
mean 10.5), 7.5, 7.7 and 3.5 in bfloat16 (5.9), at 0.05 to 0.12 of unfold's memory and 7 % (1.5 %) of the rate
of matrix products. Means at k = 5 and 3: 7.2 and 3.0, 4.5 and 2.6. The smallest of all 36 cases is 2.0
(14x14x256, k = 3, bfloat16), where memory is 0.43 of unfold's.

One body for all sizes is kept. Dense products gain only where nearly the whole map is the neighbourhood (7x7
at k = 7; nothing at k = 3), and take four times as long at 14x14 and k = 3. Products of all offsets in the
sums were no faster when timed alone. Chunks of 2 MB take as long as those of 4 MB and less memory; those of
1 MB take 10 to 20 % longer. The softmax weights are computed again in the backward: one product in seven, and
nothing beside the inputs is kept for it. Half precision is computed in float32: in bfloat16 the same takes
1.2 to 1.5 times as long. FlexAttention compiled has no backward on the CPU; its forward, on
a padded map with the logits in its score_mod, takes 31 ms at 14x14x256 (6 ms here). timm's HaloAttn is
another function: whole blocks attend. torch.compile calls the operator as it is, which costs no compilation;
the code that it generates from the exported formulation is slower. Nothing was measured on a GPU.

Not reached: where there is next to no work, the calls of 0.2 ms forward and 0.7 ms in all (k = 3; twice that
at k = 7) exceed unfold's: one image with 8 heads of 8 channels on a 7x7 map takes twice as long, one head on
a 4x4 map up to five times.
"""

import argparse
import math
import os
import resource
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.layers.local_attention import _plain_local_attention, local_attention

Attention = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int], Tensor]
MAPS = ((56, 64), (28, 128), (14, 256))
BATCH, HEADS = 4, 8


def unfold_attention(
    q: Tensor, k: Tensor, v: Tensor, logits_h: Tensor, logits_w: Tensor, kernel_size: int
) -> Tensor:
    """The same function in the usual way: k * k copies of keys and of values."""
    size, r = (*k.shape[:3], kernel_size**2, *k.shape[3:]), kernel_size // 2
    k = F.unfold(k.flatten(1, 2), kernel_size, padding=r).view(size)
    v = F.unfold(v.flatten(1, 2), kernel_size, padding=r).view(size)
    logits = (logits_h[:, :, :, None] + logits_w[:, :, None]).flatten(2, 3) + (q[:, :, :, None] * k).sum(2)
    return (logits.softmax(2)[:, :, None] * v).sum(3)


def make_inputs(side: int, channels: int, kernel_size: int, dtype: torch.dtype, device: str) -> list[Tensor]:
    sizes = [channels // HEADS] * 3 + [kernel_size] * 2
    return [
        torch.randn(BATCH, HEADS, size, side, side, dtype=dtype, device=device).requires_grad_()
        for size in sizes
    ]


def run(attention: Attention, inputs: list[Tensor], kernel_size: int, backward: bool) -> None:
    with torch.set_grad_enabled(backward):
        q, k, v, logits_h, logits_w = inputs
        out = attention(q, k, v, logits_h, logits_w, kernel_size)
        if backward:
            torch.autograd.grad(out, inputs, out.detach())


def seconds(work: Callable[[], object], device: str) -> float:
    """On one CPU thread its CPU time, which other jobs on the machine disturb less; else wall time."""
    clock = time.process_time if device == 'cpu' and torch.get_num_threads() == 1 else time.perf_counter
    started = clock()
    work()
    if device == 'cuda':
        torch.cuda.synchronize()
    return clock() - started


def matmul_rate(dtype: torch.dtype, device: str) -> float:
    """FLOP/s of the product of two matrices of 2048 x 2048: the best of five."""
    a = torch.randn(2048, 2048, dtype=dtype, device=device)
    torch.mm(a, a)
    return 2 * 2048**3 / min(seconds(lambda: torch.mm(a, a), device) for _ in range(5))


def peak_memory(
    attention: Attention, make: Callable[[], list[Tensor]], kernel_size: int, device: str
) -> float:
    """MB above the inputs, forward and backward: in a fork, the growth of its peak resident size."""
    if device == 'cuda':
        inputs = make()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(attention, inputs, kernel_size, True)
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        inputs = make()
        run(attention, [x[:1, :1, :, :2, :2].detach().requires_grad_() for x in inputs], kernel_size, True)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        run(attention, inputs, kernel_size, True)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        os.write(writing, str(grown).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as file:
        return int(file.read()) * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--repeats', type=int, default=9)
    parser.add_argument('--quick', action='store_true', help='k = 7 and three repeats')
    parser.add_argument('--compiled', action='store_true', help='torch.compile of plain operations, at k = 7')
    args = parser.parse_args()
    kernel_sizes, repeats = ((7,), 3) if args.quick else ((3, 5, 7), args.repeats)
    devices = ['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu']
    cases = [
        (device, dtype, side, channels, kernel_size)
        for device in devices
        for dtype in (torch.float32, torch.bfloat16)
        for side, channels in MAPS
        for kernel_size in kernel_sizes
    ]
    memory = {}
    for case in cases:  # before any other work: a fork has the memory that its parent has freed
        device, dtype, side, channels, kernel_size = case
        make = partial(make_inputs, side, channels, kernel_size, dtype, device)
        sides = (local_attention, unfold_attention)
        memory[case] = [peak_memory(attention, make, kernel_size, device) for attention in sides]

    torch.set_num_threads(args.threads)
    rates = {(device, dtype): matmul_rate(dtype, device) for device, dtype, *_ in cases}
    for (device, dtype), rate in rates.items():
        print(f'{device} {dtype}: matrix products at {rate / 1e9:.0f} GFLOP/s, {args.threads} threads')
    gains: dict[tuple[str, torch.dtype, int], list[float]] = {}
    for case in cases:
        device, dtype, side, channels, kernel_size = case
        torch.manual_seed(0)
        inputs = make_inputs(side, channels, kernel_size, dtype, device)
        attentions: dict[str, Attention] = {'ours': local_attention, 'unfold': unfold_attention}
        if args.compiled and kernel_size == 7:
            torch.compiler.reset()
            attentions['compiled'] = torch.compile(_plain_local_attention, dynamic=False)
        ours, mb = memory[case]
        print(
            f'{device} {dtype} {side} x {side} x {channels}, k = {kernel_size}: '
            f'{ours:.0f} MB, unfold {mb:.0f} MB ({ours / mb:.2f})'
        )
        products = 4 * BATCH * channels * side**2 * kernel_size**2
        for backward in (False, True):
            times: dict[str, list[float]] = {name: [] for name in attentions}
            for repeat in range(repeats + 1):
                for name, attention in attentions.items():
                    work = partial(run, attention, inputs, kernel_size, backward)
                    taken = seconds(work, device)
                    if repeat:
                        times[name].append(taken)
            fraction = (
                products * (3 if backward else 1) / statistics.median(times['ours']) / rates[device, dtype]
            )
            text = [f'ours {1e3 * statistics.median(times["ours"]):.1f} ms ({fraction:.1%} of matmul)']
            for name in [*attentions][1:]:
                pairs = [b / a for a, b in zip(times['ours'], times[name], strict=True)]
                if backward and name == 'unfold':
                    gains.setdefault((device, dtype, kernel_size), []).append(statistics.median(pairs))
                text.append(
                    f'{name} {1e3 * statistics.median(times[name]):.1f} ms, '
                    f'x {statistics.median(pairs):.1f} ({min(pairs):.1f} to {max(pairs):.1f})'
                )
            print(f'  {"forward + backward" if backward else "forward":<18}', ', '.join(text), flush=True)
    for (device, dtype, kernel_size), found in gains.items():
        mean = math.prod(found) ** (1 / len(found))
        print(f'{device} {dtype}, k = {kernel_size}: x {mean:.1f} over the maps, forward + backward')


if __name__ == '__main__':
    main()
