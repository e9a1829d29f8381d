"""A training step of the entries beside timm's models of like cost and use: time and memory.

    python benchmarks/training.py [--models 's3_*' glit_tiny] [--modes eager compile+bf16]
                                  [--batch-sizes 8] [--device cuda] [--repeats 9]
                                  [--json FILE] [--markdown FILE]

Forward, cross-entropy, backward and AdamW, without stochastic depth; each network has its own image size. An
entry and its rivals take turns in all modes, in one process and an order that turns from round to round.
Modes are eager, channels_last (the layout), compile (torch.compile for one shape), bf16 (autocast: weights
and optimizer stay in float32), and several joined by +. A ratio is that of the times of a round.

Both files are written anew after each entry and batch size: what was measured survives an interruption.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from rivals import Benchmark, Network, of_networks, of_pairs
from timing import Step, explained, head

MODES = ('eager', 'channels_last', 'compile', 'bf16')


def prepare(network: Network, mode: set[str], batch: int, device: str) -> tuple[Step, int]:
    """A training step."""
    model = network.create(drop_path_rate=0.0).to(device).train()
    images = torch.randn(batch, *network.size, device=device)
    labels = torch.arange(batch, device=device) % model.num_classes
    if 'channels_last' in mode:
        model, images = (x.to(memory_format=torch.channels_last) for x in (model, images))
    run = torch.compile(model, dynamic=False) if 'compile' in mode else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled='bf16' in mode):
            loss = F.cross_entropy(run(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    weights = sum(parameter.nbytes for parameter in model.parameters())
    return step, 3 * weights + sum(buffer.nbytes for buffer in model.buffers())


def render(found: dict[str, Any]) -> str:
    """As Markdown."""
    note = (
        'MB held are weights and the two moments of AdamW, MB more what a step takes above them at its peak: '
        'activations and gradients.'
    )
    lines = [head('A training step', found), note, '', *of_networks(found['results'])]
    return '\n'.join([*lines, *of_pairs(found['results'])])


BENCHMARK = Benchmark(__file__, MODES, (8,), prepare, render)


def main(argv: Sequence[str] | None = None) -> None:
    with explained():
        BENCHMARK.run(BENCHMARK.make_parser(__doc__).parse_args(argv))


if __name__ == '__main__':
    main()
