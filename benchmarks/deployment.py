"""How fast networks run in the ways they are deployed: eager, fused, compiled, exported, in ONNX Runtime.

    python benchmarks/deployment.py [--names s3_tiny ...] [--ways fused onnx ...] [--batches 1 16]
                                    [--rounds 15] [--threads 1] [--size 224] [--out FOLDER]

Random weights, float32, on the CPU. All ways of a network at a batch size take turns in one process, in an
order that changes from round to round; the first round is not counted. On one thread times are CPU times.
A ratio is taken within a round, of eager's time by the other's: its median and quartiles stand in the table,
all times in the JSON file. `eager` is the network as timm makes it and `fused` is `zoo.fuse` of it.
`compiled` is torch.compile, `exported` the program of torch.export, `aot` that program compiled ahead of time
(AOTInductor), and `onnx` ONNX Runtime, each of the network; with `fused ` in front, of the fused one. A way
that cannot be prepared (without a C++ compiler, say) has its error in the table. Outputs of each way are
compared with eager's: random weights amplify rounding. Writes deployment.json and deployment.md.
"""

import argparse
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from tqdm import tqdm

import zoo
from zoo.export import capture, compare, import_onnx, quiet, write
from zoo.files import write_atomic
from zoo.jsonfile import clip, format_json

NAMES = ('carnet_c112', 'glit_tiny', 's3_tiny', 'trionet_a', 'uninet_b0')

Run = Callable[[Tensor], Tensor]


def compiled(model: nn.Module, images: Tensor, folder: Path) -> Run:
    torch._dynamo.reset()
    run: Run = torch.compile(model, fullgraph=True, dynamic=False)
    run(images)
    return run


def exported(model: nn.Module, images: Tensor, folder: Path) -> Run:
    run: Run = torch.export.export(model, (images,)).module()
    return run


def aot(model: nn.Module, images: Tensor, folder: Path) -> Run:
    path = torch._inductor.aoti_compile_and_package(
        torch.export.export(model, (images,)), package_path=str(folder / 'model.pt2')
    )
    run: Run = torch._inductor.aoti_load_package(path)
    return run


def onnx(model: nn.Module, images: Tensor, folder: Path) -> Run:
    path = folder / 'model.onnx'
    write(capture(model, path.suffix, (images.shape[2], images.shape[3])), path, {})
    onnxruntime = import_onnx()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])

    def run(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {'images': x.numpy()})[0])

    return run


PREPARED = {'compiled': compiled, 'exported': exported, 'aot': aot, 'onnx': onnx}
WAYS = ('fused', *(f'{fused}{way}' for way in PREPARED for fused in ('', 'fused ')))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--names', nargs='+', default=NAMES, help='entries or models of timm')
    parser.add_argument('--ways', nargs='+', default=WAYS, choices=WAYS, help='beside eager')
    parser.add_argument('--batches', nargs='+', type=int, default=(1, 16))
    parser.add_argument('--rounds', type=int, default=15)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--size', type=int, help="side of the images; by default the network's own")
    parser.add_argument('--out', type=Path, default=Path())
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    found: dict[str, Any] = {
        'machine': platform.machine(),
        'threads': args.threads,
        'torch': torch.__version__,
        'rounds': args.rounds,
        'results': [],
    }
    for name in args.names:
        for batch in args.batches:
            found['results'].append(measure(name, batch, args))
            write_atomic(args.out / 'deployment.json', f'{format_json(found)}\n'.encode())
            write_atomic(args.out / 'deployment.md', table(found).encode())
    print(table(found))


def measure(name: str, batch: int, args: argparse.Namespace) -> dict[str, Any]:
    """What preparing each way took, its times in ms, and how far its outputs are from eager's."""
    torch.manual_seed(0)
    size = {'img_size': args.size} if args.size else {}
    model: Any = timm.create_model(name, exportable=True, **size).eval()
    side = (args.size, args.size) if args.size else model.pretrained_cfg['input_size'][1:]
    images = torch.randn(batch, model.in_chans, *side)
    networks = {'': model, 'fused ': zoo.fuse(model)}
    ways: dict[str, Run] = {'eager': model, 'fused': networks['fused ']}
    result: dict[str, Any] = {'name': name, 'images': list(images.shape), 'ways': {'eager': {}}}
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        for way in tqdm(args.ways, f'{name}, {batch}: prepare', leave=False):
            fused, prepare = ('fused ' if way.startswith('fused ') else ''), way.removeprefix('fused ')
            begin = time.perf_counter()
            try:
                if prepare in PREPARED:
                    with quiet():
                        own = Path(tempfile.mkdtemp(dir=folder))
                        ways[way] = PREPARED[prepare](networks[fused], images, own)
                difference = compare(ways[way](images), model(images))
            except Exception as error:  # of any type, from torch, its compiler or ONNX Runtime
                ways.pop(way, None)
                result['ways'][way] = {'error': clip(str(error).strip().splitlines()[0], 120)}
                continue
            result['ways'][way] = {
                'prepared_s': round(time.perf_counter() - begin, 1),
                'difference': difference,
            }
        ways = {way: run for way, run in ways.items() if way == 'eager' or way in args.ways}
        for way, times in race(ways, images, args.rounds, f'{name}, {batch}: measure').items():
            result['ways'][way]['ms'] = times
    return result


def race(ways: dict[str, Run], images: Tensor, rounds: int, label: str) -> dict[str, list[float]]:
    """Times in ms of each, round by round."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times: dict[str, list[float]] = {way: [] for way in ways}
    names = list(ways)
    for i in tqdm(range(rounds + 1), label, leave=False):
        shift = i % len(names)
        for way in names[shift:] + names[:shift]:
            begin = clock()
            ways[way](images)
            if i:
                times[way].append(round(1000 * (clock() - begin), 3))
    return times


def table(found: dict[str, Any]) -> str:
    """As Markdown."""
    clock = 'CPU time' if found['threads'] == 1 else 'wall time'
    lines = [
        f'Inference on the CPU ({found["machine"]}, {found["threads"]} threads, {clock}, float32, torch '
        f'{found["torch"]}, {found["rounds"]} rounds): images/s by the median time, and the ratio of '
        "eager's time by that way's within a round, median (quartiles).",
        '',
        '| network | batch | way | images/s | times as fast as eager | difference | prepared in s |',
        '|---|---|---|---|---|---|---|',
    ]
    for result in found['results']:
        batch = result['images'][0]
        eager = result['ways']['eager']['ms']
        for way, of_way in result['ways'].items():
            start = f'| {result["name"]} | {batch} | {way} |'
            if 'error' in of_way:
                lines.append(f'{start} {of_way["error"].replace("|", " ")} | | | |')
                continue
            rate = f'{1000 * batch / statistics.median(of_way["ms"]):.1f}'
            if way == 'eager':
                lines.append(f'{start} {rate} | 1 | | |')
                continue
            pairs = [a / b for a, b in zip(eager, of_way['ms'], strict=True)]
            low, middle, high = statistics.quantiles(pairs, n=4) if len(pairs) > 1 else pairs * 3
            lines.append(
                f'{start} {rate} | {middle:.2f} ({low:.2f} to {high:.2f}) | {of_way["difference"]:.0e} | '
                f'{of_way["prepared_s"]} |'
            )
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    sys.exit(main())
