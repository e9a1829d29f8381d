"""The command line of the search: ``searchzoo search ...``, also ``python -m search ...``."""

import argparse
import shlex
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

from search.config import load_config
from search.methods import METHODS, Result
from search.run import Interrupted
from search.sources import digits_indices, load_digits
from zoo.entry import read_entry
from zoo.registry import config_path, register

__all__ = ['main']

EXAMPLES = """examples:
  searchzoo search run configs/search/s3_digits.yaml --out runs/digits
  searchzoo search run configs/search/s3_imagenet.yaml --out runs/s3 data.root=/data/imagenet
  searchzoo search run my_search.yaml --out runs/mine seed=1 supernet.recipe.epochs=100
  searchzoo search demo --out runs/demo

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
    if wrong := [item for item in [*args.overrides, *more] if item.startswith('-') or '=' not in item]:
        parser.error(f'unrecognized arguments: {" ".join(wrong)}')
    config = load_config(_find_config(args.config), [*args.overrides, *more])
    try:
        result = METHODS[config.method](config, args.out)
    except Interrupted:
        command = shlex.join(['searchzoo', 'search', *argv])
        print(f'Stopped. Everything is in {args.out}; the same command continues: {command}', file=sys.stderr)
        return 130
    print_result(result)
    if args.command == 'demo':
        print_predictions(result.entry)
    return 0


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        'searchzoo search', description=__doc__, epilog=EXAMPLES, formatter_class=raw
    )
    commands = parser.add_subparsers(metavar='COMMAND', required=True, dest='command')
    for name, about in (
        ('run', 'run the search of a config, or continue it'),
        ('demo', 'search on handwritten digits, compare with random networks, and use what was found'),
    ):
        command = commands.add_parser(
            name, help=about, description=about, epilog=EXAMPLES, formatter_class=raw
        )
        if name == 'run':
            command.add_argument(
                'config', metavar='CONFIG', help='a YAML file, yours or one of configs/search'
            )
            command.add_argument('--out', required=True, type=Path, metavar='DIR', help='folder of the run')
        else:
            command.set_defaults(config='search/s3_digits.yaml')
            command.add_argument(
                '--out', default=Path('runs/demo'), type=Path, metavar='DIR', help='folder of the run'
            )
        command.add_argument(
            'overrides', nargs='*', metavar='key=value', help='such as supernet.recipe.epochs=10'
        )
    return parser


def _find_config(path: str) -> Path:
    """A file of the user's, else a bundled config of that name."""
    return Path(path) if Path(path).exists() else config_path(path)


def print_result(result: Result) -> None:
    """What was found, what it costs, and how good it is beside random architectures of equal cost."""
    entry = read_entry(result.entry)
    print(f'\nFound {entry.name}, a network of family {entry.family}:')
    print('\n'.join(describe(entry.arch.model_dump(mode='json'))))
    assert entry.measured is not None
    print(f'\nparams {entry.measured.params:,}   MACs {entry.measured.macs:,}   input {entry.input.size}')
    print(f'test accuracy {result.again[0]["test_top1"]:.2f} % (val {result.again[0]["val_top1"]:.2f} %)')
    if result.random:
        print('\nTop-1 in %, mean ± standard deviation:')
        print(f'{"":36}{"MACs":>12}{"val":>15}{"test":>15}')
        for label, rows in (
            (f'found, {_times(len(result.again), "training")}', result.again),
            (f'random, {_times(len(result.random), "network")} of equal cost', result.random),
        ):
            macs = statistics.mean(row['macs'] for row in rows)
            spreads = [_spread([row[key] for row in rows]) for key in ('val_top1', 'test_top1')]
            print(f'{label:36}{macs:>12,.0f}{spreads[0]:>15}{spreads[1]:>15}')
    print(f'\n{result.entry} and its weights beside it; to use them:')
    print(f'  >>> import timm, zoo\n  >>> zoo.register({str(result.entry)!r})')
    print(f'  >>> model = timm.create_model({entry.name!r}, pretrained=True)')


def describe(value: dict[str, Any], indent: str = '  ') -> list[str]:
    """An architecture as lines: plain values of a part on one, its parts below, numbered from 1."""
    plain = [f'{key} {item}' for key, item in value.items() if not isinstance(item, (dict, list))]
    lines = [indent + ', '.join(plain)] if plain else []
    for key, item in value.items():
        for i, part in enumerate(item if isinstance(item, list) else [], 1):
            inner = describe(part, '') if isinstance(part, dict) else [str(part)]
            lines.append(f'{indent}{key.removesuffix("s")} {i}: {inner[0]}')
            lines.extend(f'{indent}  {line}' for line in inner[1:])
    return lines


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
