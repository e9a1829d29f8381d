"""Products of features and weights in inference on a CPU: PyTorch's layers beside `zoo/layers/pointwise.py`.

    python benchmarks/pointwise.py [--models s3_tiny ...] [--batch-sizes 1 16] [--repeats 9]
                                   [--json FILE] [--markdown FILE]

One thread, CPU times; the two sides take turns. For each network first the whole of it, with oneDNN and with
the same modules left to PyTorch, then each of its products (rows, inputs, outputs) that oneDNN computes, with
the number of layers that have it. The rate of a product is in GMAC/s.
"""

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timing import describe_machine, head, make_parser, markdown_table, race, ratio, save
from torch import Tensor, nn
from tqdm import tqdm

from zoo.layers import pointwise

Product = tuple[int, int, int]


@contextmanager
def replaced(name: str, value: object) -> Iterator[None]:
    """Another value of a name in the module that is measured."""
    before = getattr(pointwise, name)
    setattr(pointwise, name, value)
    try:
        yield
    finally:
        setattr(pointwise, name, before)


def products(model: nn.Module, images: Tensor) -> Counter[Product]:
    """Of a forward pass: those that oneDNN computes, and how often."""
    found: Counter[Product] = Counter()
    real = pointwise._onednn_linear

    def count(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        found[x.numel() // x.shape[-1], weight.shape[1], weight.shape[0]] += 1
        return real(x, weight, bias)

    with replaced('_onednn_linear', count):
        model(images)
    return found


def left_to_pytorch(model: nn.Module, images: Tensor) -> Tensor:
    with replaced('ONEDNN', False):
        out: Tensor = model(images)
    return out


def compare(steps: dict[str, Callable[[], Any]], repeats: int, label: str) -> dict[str, list[float]]:
    """Times in ms of both sides, round by round."""
    times = race(steps, repeats, 'cpu', label)
    return {side: [round(1000 * t, 5) for t in values] for side, values in times.items()}


@torch.inference_mode()
def measure(name: str, batch: int, repeats: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    images = torch.randn(batch, *model.pretrained_cfg['input_size'])
    label = f'{name}, batch {batch}'
    steps = {'onednn': lambda: model(images), 'pytorch': lambda: left_to_pytorch(model, images)}
    result: dict[str, Any] = {'name': name, 'batch': batch, 'network': compare(steps, repeats, label)}
    result['products'] = []
    for (rows, inputs, outputs), layers in tqdm(sorted(products(model, images).items()), label, leave=False):
        x, layer = torch.randn(rows, inputs), nn.Linear(inputs, outputs)
        weight, bias = layer.weight, layer.bias
        steps = {
            'onednn': lambda x=x, w=weight, b=bias: pointwise._onednn_linear(x, w, b),
            'pytorch': lambda x=x, w=weight, b=bias: F.linear(x, w, b),
        }
        times = compare(steps, repeats, 'products')
        result['products'].append({'size': [rows, inputs, outputs], 'layers': layers, **times})
    return result


def render(found: dict[str, Any]) -> str:
    """As Markdown."""
    networks, single = [], []
    for result in found['results']:
        name, batch, times = result['name'], result['batch'], result['network']
        ms = [f'{statistics.median(times[side]):.1f}' for side in ('pytorch', 'onednn')]
        networks.append([name, batch, *ms, ratio(times['onednn'], times['pytorch'])])
        for product in result['products']:
            rows, inputs, outputs = product['size']
            gmacs = rows * inputs * outputs / 1e6  # by ms
            rates = [f'{gmacs / statistics.median(product[side]):.0f}' for side in ('pytorch', 'onednn')]
            size = f'{rows} x {inputs} x {outputs}'
            times_as_fast = ratio(product['onednn'], product['pytorch'])
            single.append([name, batch, size, product['layers'], *rates, times_as_fast])
    lines = [head('Pointwise layers', found), '']
    lines += markdown_table('network | batch | PyTorch ms | oneDNN ms | times as fast', networks)
    columns = 'network | batch | rows x in x out | layers | PyTorch GMAC/s | oneDNN GMAC/s | times as fast'
    return '\n'.join([*lines, *markdown_table(columns, single)])


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser(__doc__, 'pointwise').parse_args(argv)
    found = {**describe_machine('cpu'), 'repeats': args.repeats, 'results': []}
    for name in args.models:
        for batch in args.batch_sizes:
            found['results'].append(measure(name, batch, args.repeats))
            save(found, args, render(found))
    print(render(found))


if __name__ == '__main__':
    main()
