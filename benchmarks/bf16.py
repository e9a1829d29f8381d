"""What bfloat16 autocast gains over float32: training a supernet and a network alone, evaluating a candidate.

    python benchmarks/bf16.py [--configs CONFIG ...] [--repeats 5]

Takes the space and the image size of search configs, by default both bundled ones. Float32 and bfloat16
alternate in one process; the least and the median time are printed.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from search.config import load_config
from search.evaluate import SupernetEvaluator
from search.sampling import SpaceSampler, sandwich
from search.spaces import load_space
from search.supernet import Supernet
from search.training import autocast, bf16_supported, device
from zoo.registry import config_path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--configs', nargs='+', default=['search/demo.yaml', 'search/s3_imagenet.yaml'])
    parser.add_argument('--repeats', type=int, default=5)
    args = parser.parse_args()
    where = device()
    print(f'{where}, {torch.get_num_threads()} threads, bfloat16 in hardware: {bf16_supported(where)}')
    for name in args.configs:
        compare(name, args.repeats, where)


def compare(name: str, repeats: int, where: torch.device) -> None:
    config = load_config(config_path(name))
    space = load_space(config.space, config.input.size)  # type: ignore[arg-type]
    num_classes, batch_size = (10, 64) if config.data.name == 'digits' else (1000, 8)
    supernet = Supernet(space, num_classes).to(where)
    images = torch.randn(batch_size, *config.input.size, device=where)
    labels = torch.arange(batch_size, device=where) % num_classes
    drawn = [space.decode(g) for g in sandwich(SpaceSampler(space.space), random.Random(0))]
    optimizer = torch.optim.AdamW(supernet.parameters(), lr=1e-6)

    def train(bf16: bool) -> None:
        supernet.train()
        for arch in drawn:
            with autocast(where, bf16):
                loss = F.cross_entropy(supernet(arch, images), labels)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    alone = supernet.build(drawn[-1]).to(where).train()
    own_optimizer = torch.optim.AdamW(alone.parameters(), lr=1e-6)

    def train_alone(bf16: bool) -> None:
        with autocast(where, bf16):
            loss = F.cross_entropy(alone(images), labels)
        loss.backward()
        own_optimizer.step()
        own_optimizer.zero_grad(set_to_none=True)

    genotype = space.space.largest()

    def evaluate(bf16: bool) -> None:
        SupernetEvaluator(supernet, images, labels, autocast=lambda: autocast(where, bf16))(genotype)

    print(f'\n{name}: {config.input.size} pixels, batch {batch_size}, least (median) ms')
    for label, work in (
        ('sandwich step', train),
        ('step of a random one alone', train_alone),
        ('evaluation of the largest', evaluate),
    ):
        times = measure(work, repeats, where)
        gain = min(times[False]) / min(times[True])
        shown = [f'{1000 * min(t):8.1f} ({1000 * statistics.median(t):.1f})' for t in times.values()]
        print(f'  {label:26} float32 {shown[0]}   bfloat16 {shown[1]}   gain {gain:.2f} x')


def measure(work: Callable[[bool], None], repeats: int, where: torch.device) -> dict[bool, list[float]]:
    times: dict[bool, list[float]] = {False: [], True: []}
    for i in range(repeats + 1):
        for bf16 in times:
            started = time.perf_counter()
            work(bf16)
            if where.type == 'cuda':
                torch.cuda.synchronize()
            if i:  # the first round builds modules
                times[bf16].append(time.perf_counter() - started)
    return times


if __name__ == '__main__':
    main()
