"""The command line of the search: ``searchzoo search ...``, also ``python -m search ...``."""

import argparse
import shlex
import statistics
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

from search.arguments import add_command, add_config, add_overrides, count, find_config
from search.budget import Limits
from search.checklist import build_checklist
from search.checklist_report import describe_checklist
from search.comparison_report import add_parser as add_compare
from search.config import load_config
from search.correlation import add_parser as add_correlate
from search.data import Data
from search.describe import describe_space
from search.latency import LatencyModel
from search.latency_report import describe_latencies
from search.methods import METHODS, Result
from search.plan_report import describe_plan
from search.planner import make_plan
from search.rehearsal import Fake
from search.report import add_parser as add_report
from search.report import write_report
from search.run import Interrupted
from search.seeds import describe_seeds, run_seeds
from search.sources import digits_indices, load_digits
from search.spaces import LOADERS, FamilySpace, load_space
from search.tabulate import add_parser as add_tabulate
from search.timing import make_header, measure
from search.train import find_entry, load_train_config, train_entry
from search.yamlfile import read_yaml
from zoo.entry import read_entry
from zoo.errors import ZooError
from zoo.registry import config_path, register

__all__ = ['main']

PAPER_SIZES = {'carnet': (3, 32, 32), 'uninet': (3, 160, 160)}
"""Images of the papers' searches, where they are not of 224 pixels."""

EXAMPLES = """examples:
  searchzoo search run configs/search/s3_digits.yaml --out runs/digits
  searchzoo search run configs/search/s3_imagenet.yaml --out runs/s3 data.root=/data/imagenet
  searchzoo search run my_search.yaml --out runs/mine seed=1 supernet.recipe.epochs=100
  searchzoo search run configs/search/s3_digits.yaml --out runs/three --seeds 3
  searchzoo search demo --out runs/demo
  searchzoo search space trionet --macs 0 1e9
  searchzoo search latency my_search.yaml --out latency.jsonl
  searchzoo search plan configs/search/s3_digits.yaml
  searchzoo search plan search/s3_imagenet.yaml --devices 8 --images 1271167 10000 50000 --classes 1000
  searchzoo search tabulate configs/search/digits_table.yaml --out runs/table --repeated 200
  searchzoo search compare runs/table/table.jsonl.gz --out comparison.png
  searchzoo search report runs/digits
  searchzoo search correlate runs/digits
  searchzoo search train s3_tiny configs/train/s3_imagenet.yaml --out runs/s3_tiny data.root=/data/imagenet
  searchzoo search train runs/digits/s3_digits.json configs/train/s3_digits.yaml --out runs/again seed=1

A run that was interrupted is continued by the same command.
"""


def main(argv: list[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: The arguments after ``searchzoo search``, by default those of the process.

    Returns:
        Exit code: 0, or 130 after Ctrl-C.

    Raises:
        ZooError: The user's mistake, in one sentence.
        SystemExit: With code 2 on wrong usage, with 0 after ``--help``.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = _parser()
    args, more = parser.parse_known_args(argv)  # argparse takes no positional arguments after an option
    overrides = [*getattr(args, 'overrides', []), *more]
    takes_overrides = hasattr(args, 'overrides')
    if wrong := [x for x in overrides if not takes_overrides or x.startswith('-') or '=' not in x]:
        parser.error(f'unrecognized arguments: {" ".join(wrong)}')
    args.overrides = overrides
    try:
        args.handler(args)
    except Interrupted:
        return _say_how_to_continue(args.out, argv)
    return 0


def run_search(args: argparse.Namespace) -> None:
    """Runs or continues a config, and prints what it found."""
    config = load_config(find_config(args.config), args.overrides)
    if args.seeds > 1:
        results, found = run_seeds(METHODS[config.method], config, args.out, args.seeds)
        for result in results:
            print_result(result)
        print('', *describe_seeds(found), sep='\n')
        return
    print_result(METHODS[config.method](config, args.out))
    print(f'\nTo see it in pictures: {shlex.join(["searchzoo", "search", "report", str(args.out)])}')


def run_demo(args: argparse.Namespace) -> None:
    """Runs the demo's config, and uses what it found."""
    config = load_config(config_path('search/demo.yaml'), args.overrides)
    result = METHODS[config.method](config, args.out)
    print_result(result)
    print_predictions(result.entry)
    print(f'\nThe report, a page for any browser: {write_report(args.out)}')


def run_training(args: argparse.Namespace) -> None:
    """Trains an entry, or continues."""
    entry = find_entry(args.entry)
    config = load_train_config(find_config(args.config), entry, args.overrides)
    print_trained(train_entry(config, entry, args.out))


def print_plan(args: argparse.Namespace) -> None:
    """Predicts a run."""
    config = load_config(find_config(args.config), args.overrides)
    if (args.images is None) != (args.classes is None):
        raise ZooError('--images and --classes go together: found one without the other.')
    fake = Fake(*args.images, args.classes) if args.images else None  # type: ignore[call-arg]
    print('\n'.join(describe_plan(make_plan(config, args.devices, fake, args.seconds))))


def print_space(args: argparse.Namespace) -> None:
    """Describes a space."""
    print('\n'.join(describe_space(*_load_space(args), Limits(args.params, args.macs))))


def _say_how_to_continue(out: Path, argv: list[str]) -> int:
    command = shlex.join(['searchzoo', 'search', *argv])
    print(f'Stopped. Everything is in {out}; the same command continues: {command}', file=sys.stderr)
    return 130


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        'searchzoo search', description=__doc__, epilog=EXAMPLES, formatter_class=raw
    )
    commands = parser.add_subparsers(metavar='COMMAND', required=True)
    add = partial(add_command, commands, examples=EXAMPLES)

    command = add('run', 'run the search of a config, or continue it', handler=run_search)
    add_config(command, 'search', 'supernet.recipe.epochs=10')
    command.add_argument('--out', required=True, type=Path, metavar='DIR', help='folder of the run')
    about = "run so many searches, the config's seed and those after it, each in a folder of DIR"
    command.add_argument('--seeds', type=count, default=1, metavar='N', help=about)

    about = 'search on handwritten digits, compare with random networks, and use what was found'
    command = add('demo', about, handler=run_demo)
    add_overrides(command, 'supernet.recipe.epochs=10')
    out = Path('runs/demo')
    command.add_argument('--out', default=out, type=Path, metavar='DIR', help='folder of the run')

    about = "train an entry's architecture, from scratch or from given weights, or continue"
    command = add('train', about, handler=run_training)
    command.add_argument('entry', metavar='ENTRY', help="name of an entry, or an entry's file")
    add_config(command, 'train', 'recipe.epochs=10')
    command.add_argument('--out', required=True, type=Path, metavar='DIR', help='folder of the run')

    about = 'predict hours, memory and disk of a run from a few of its steps and candidates; writes nothing'
    command = add('plan', about, handler=print_plan)
    add_config(command, 'search', 'supernet.recipe.epochs=10')
    about = 'that share the batches and the candidates'
    command.add_argument('--devices', type=count, default=1, metavar='N', help=about)
    about = 'so many made-up images in place of the data'
    command.add_argument('--images', nargs=3, type=count, metavar=('TRAIN', 'VAL', 'TEST'), help=about)
    command.add_argument('--classes', type=count, metavar='N', help='of the made-up images')
    about = 'to measure each phase, about; by default 20'
    command.add_argument('--seconds', type=count, default=20, metavar='N', help=about)

    add_tabulate(add)
    add_correlate(add)
    add_compare(add)
    add_report(add)

    about = 'print the choices of a space, how many architectures it has and what they cost'
    command = add('space', about, handler=print_space)
    _add_space(command)
    for name in ('params', 'macs'):
        about = 'print the share of it within'
        command.add_argument(f'--{name}', nargs=2, type=float, metavar=('LOW', 'HIGH'), help=about)

    about = "measure on this machine what predicts the latency of a space's networks, or continue"
    command = add('latency', about, handler=measure_latencies)
    _add_space(command)
    about = 'for search.limits.latency.file of a config'
    command.add_argument('--out', required=True, type=Path, metavar='FILE', help=about)
    command.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    for name, default, about in (
        ('batch', 1, 'images that are classified at once'),
        ('repeats', 10, 'times that each network is run, whole and by modules; the shortest time counts'),
        ('threads', torch.get_num_threads(), 'of the processor'),
    ):
        about = f'{about}, by default {default}'
        command.add_argument(f'--{name}', type=count, default=default, metavar='N', help=about)
    return parser


def _add_space(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        'space',
        metavar='SPACE',
        help=f"a paper's: {', '.join(LOADERS)}; or a YAML file: a config, or a space",
    )
    command.add_argument('--size', nargs=3, type=count, metavar=('C', 'H', 'W'), help='of images')
    command.add_argument('--classes', type=int, metavar='N')


def measure_latencies(args: argparse.Namespace) -> None:
    """Measures, and prints how well the measurements predict."""
    data, size, classes = _find_space(args)
    before = torch.get_num_threads()
    torch.set_num_threads(args.threads)
    try:
        header = make_header(data, size, classes, args.batch, args.device, args.repeats)
        measurements = measure(header, args.out)
    finally:
        torch.set_num_threads(before)
    model = LatencyModel(measurements.load_space(), classes, args.out)
    print('\n'.join(describe_latencies(measurements, model)))
    print(f'To limit it in a search: search.limits.latency={{file: {args.out}, seconds: [LOW, HIGH]}}')


def _load_space(args: argparse.Namespace) -> tuple[FamilySpace, int]:
    """The space of the command line, and a number of classes."""
    data, size, classes = _find_space(args)
    return load_space(data, size), classes


def _find_space(args: argparse.Namespace) -> tuple[Any, tuple[int, int, int], int]:
    """The declaration of the command line's space, the size of images and the number of classes."""
    size, classes = args.size, args.classes
    data: Any = args.space
    if args.space not in LOADERS:
        data = read_yaml(find_config(args.space))
        if isinstance(data, dict) and 'space' in data:
            config = load_config(find_config(args.space))
            data = config.space
            size = size or config.input.size
            classes = classes or Data(config.data, config.input).num_classes
    return data, tuple(size or PAPER_SIZES.get(args.space, (3, 224, 224))), classes or 1000


def print_result(result: Result) -> None:
    """What was found, what it costs, and how good it is beside random architectures of equal cost."""
    entry = read_entry(result.entry)
    print(f'\nFound {entry.name}, a network of family {entry.family}:')
    print('\n'.join(f'  {line}' for line in describe(entry.arch.model_dump(mode='json'))))
    assert entry.measured is not None
    print(f'\nparams {entry.measured.params:,}   MACs {entry.measured.macs:,}   input {entry.input.size}')
    print(_accuracies(result.again[0]))
    if result.random:
        roles = [role for role in ('val', 'test') if f'{role}_top1' in result.again[0]]
        print('\nTop-1 in %, mean ± standard deviation:')
        print(f'{"":36}{"MACs":>12}' + ''.join(f'{role:>15}' for role in roles))
        for label, rows in (
            (f'found, {_times(len(result.again), "training")}', result.again),
            (f'random, {_times(len(result.random), "network")} of equal cost', result.random),
        ):
            macs = statistics.mean(row['macs'] for row in rows)
            spreads = [_spread([row[f'{role}_top1'] for row in rows]) for role in roles]
            print(f'{label:36}{macs:>12,.0f}' + ''.join(f'{spread:>15}' for spread in spreads))
    if result.family:
        print('\nScaled from it, not trained:')
    for path in result.family:
        member = read_entry(path)
        assert member.measured is not None
        counts = f'params {member.measured.params:,}   MACs {member.measured.macs:,}'
        print(f'  {path}   {counts}   input {member.input.size}')
    print('', *describe_checklist(build_checklist(result.entry.parent)), sep='\n')
    print_usage(result.entry, entry.name)


def print_trained(path: Path) -> None:
    """What was trained, what it costs, and how good it is."""
    entry = read_entry(path)
    assert entry.measured is not None
    assert entry.weights is not None
    weights = next(iter(entry.weights.values()))
    print(f'\nTrained {entry.name}, a network of family {entry.family}, on {weights.data}')
    print(f'params {entry.measured.params:,}   MACs {entry.measured.macs:,}   input {entry.input.size}')
    print(_accuracies(weights.metrics or {}))
    print_usage(path, entry.name)


def print_usage(path: Path, name: str) -> None:
    """How timm builds the network."""
    print(f'\n{path} and its weights beside it; to use them:')
    print(f'  >>> import timm, zoo\n  >>> zoo.register({str(path)!r})')
    print(f'  >>> model = timm.create_model({name!r}, pretrained=True)')


def describe(value: Any) -> list[str]:
    """An architecture as lines: plain values of a part on one, its parts indented below, numbered from 1."""
    if not isinstance(value, dict):
        return [_words(value)]
    value = {key: item for key, item in value.items() if item is not None}
    plain = [key for key, item in value.items() if not _has_parts(item)]
    lines = [', '.join(f'{key} {_words(value[key])}' for key in plain)] if plain else []
    for key in [key for key in value if key not in plain]:
        for i, part in enumerate(value[key], 1):
            first, *more = ['', *describe({'blocks': part})] if _has_parts(part) else describe(part)
            lines.append(f'{key.removesuffix("s")} {i}: {first}'.rstrip())
            lines.extend(f'  {line}' for line in more)
    return lines


def _accuracies(metrics: Mapping[str, Any]) -> str:
    test = 'not measured; test=true asks for it'
    if 'test_top1' in metrics:
        test = f'{metrics["test_top1"]:.2f} %'
    return f'test accuracy {test}' + (f' (val {metrics["val_top1"]:.2f} %)' if 'val_top1' in metrics else '')


def _has_parts(item: Any) -> bool:
    return isinstance(item, list) and any(isinstance(part, (dict, list)) for part in item)


def _words(item: Any) -> str:
    return ' '.join(map(str, item)) if isinstance(item, list) else str(item)


def _spread(values: list[float]) -> str:
    mean = statistics.mean(values)
    return f'{mean:.2f} ± {statistics.stdev(values):.2f}' if len(values) > 1 else f'{mean:.2f}'


def _times(count: int, noun: str) -> str:
    return f'{count} {noun}' + ('s' if count != 1 else '')


def print_predictions(path: Path, count: int = 5) -> None:
    """Draws test digits and says what the model makes of them, loaded as any user would."""
    name = register(path)
    model = timm.create_model(name, pretrained=True).eval()
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    source = load_digits()
    chosen = [source[index] for index in digits_indices('test', source)]
    chosen = chosen[:: len(chosen) // count][:count]
    with torch.no_grad():
        probabilities = model(torch.stack([transform(image) for image, _ in chosen])).softmax(1)
    print('\nSome test digits, as that model sees them:\n')
    drawings = [draw(image) for image, _ in chosen]
    print('\n'.join('   '.join(row) for row in zip(*drawings, strict=True)))
    captions = [
        f'{int(p.argmax())} ({100 * float(p.max()):.0f} %), is {label}'
        for p, (_, label) in zip(probabilities, chosen, strict=True)
    ]
    print('   '.join(f'{caption:16}' for caption in captions))


def draw(image: Image.Image) -> list[str]:
    """A grey image as text, two characters a pixel."""
    shades = ' .:-=+*#%@'
    return [''.join(shades[int(v) * len(shades) // 256] * 2 for v in row) for row in np.asarray(image)]
