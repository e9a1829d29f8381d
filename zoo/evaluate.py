"""The command ``searchzoo zoo evaluate``: a network by its name, measured on a data set by its name."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
from torch import nn

from zoo.accuracy import Evaluation, evaluate, processes
from zoo.errors import ZooError
from zoo.files import write_atomic
from zoo.hub.fetch import explain_hub
from zoo.images import open_images
from zoo.jsonfile import format_json
from zoo.registry import register, suggest

__all__ = ['Evaluation', 'add_parser', 'evaluate', 'evaluate_name', 'load_model']


def evaluate_name(
    name: str,
    data: str,
    *,
    split: str | None = None,
    root: str | None = None,
    download: bool = False,
    checkpoint: Path | str | None = None,
    size: int | None = None,
    **options: Any,
) -> Evaluation:
    """Measures a network by its name on a data set by its name.

    Args:
        name: As for :func:`load_model`, likewise ``checkpoint`` and ``size``.
        data: As for :func:`zoo.images.open_images`, likewise ``split``, ``root`` and ``download``.
        checkpoint: Another file of weights.
        size: Height and width of the images.
        options: Of :func:`evaluate`.

    Raises:
        ZooError: The name, the weights or the data are at fault.
    """
    model = load_model(name, checkpoint, size)
    source, label = open_images(data, split, root, download)
    return evaluate(model, source, label, **options)


def load_model(name: str, checkpoint: Path | str | None = None, size: int | None = None) -> nn.Module:
    """A network with weights.

    Args:
        name: What ``timm.create_model`` takes, or the path of an entry's .json file, which is registered.
        checkpoint: A file of weights to take instead of the published ones.
        size: Height and width of the images, by default what the weights were made for.

    Raises:
        ZooError: There is no such network, or no weights; or they cannot be read, or do not fit.
    """
    if name.endswith('.json'):
        name = register(name)
    elif ':' not in name and not timm.is_model(name):
        near = suggest(name.partition('.')[0], timm.list_models())
        raise ZooError(f'There is no network {name!r}{near}.')
    overlay: dict[str, Any] = {}
    if checkpoint is not None:
        if not Path(checkpoint).is_file():
            raise ZooError(f'{checkpoint}: there is no such file.')
        overlay = {'file': str(checkpoint), 'source': ''}  # hf-hub and local-dir would leave the file out
    try:
        if size is not None:
            cfg: Any = timm.create_model(name, device='meta').pretrained_cfg
            overlay |= {'input_size': (cfg['input_size'][0], size, size), 'test_input_size': None}
        model: nn.Module = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay or None)
    except ZooError:
        raise
    except (AssertionError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        at = f' for {size}x{size} pixels' if size else ''
        raise ZooError(f'{name} cannot be created{at}: {explain_hub(error)}.') from error
    return model


def add_parser(commands: Any) -> None:
    """Adds the command to those of ``searchzoo zoo``."""
    command = commands.add_parser(
        'evaluate',
        help='measure top-1 and top-5 accuracy',
        description='Measures a network on labelled images, preprocessed as it wants them. Several processes '
        'share the work: accelerate launch -m zoo evaluate ...',
        epilog='example: searchzoo zoo evaluate s3_tiny --data /data/imagenet --split val',
    )
    command.add_argument(
        'name',
        metavar='NAME',
        help="a name with or without tag, an entry's .json file, hf-hub:ORG/NAME, local-dir:FOLDER",
    )
    command.add_argument(
        '--data',
        required=True,
        help='digits, a folder with one folder of images for each class, or a name as timm has them: '
        'torch/cifar10, hfds/..., tfds/...',
    )
    command.add_argument('--split', help='part of the data (test of the digits, else validation or val)')
    command.add_argument('--root', metavar='FOLDER', help="where a named data set is (not a folder's)")
    command.add_argument('--download', action='store_true', help='download a named data set to there')
    command.add_argument('--checkpoint', metavar='FILE', help='weights in place of the published ones')
    side = _whole(1, 4096)
    command.add_argument('--size', type=side, metavar='PIXELS', help='height and width of the images')
    command.add_argument('--bf16', action='store_true', help='run under autocast to bfloat16')
    command.add_argument(
        '--batch-size',
        type=_whole(1, 65536),
        default=64,
        metavar='N',
        help='images at once, in each process; halved when memory runs out (default: 64)',
    )
    command.add_argument(
        '--workers',
        type=_whole(0, 256),
        default=min(4, os.cpu_count() or 1),
        metavar='N',
        help='processes that load images, for each process (default: 4, fewer on fewer processors)',
    )
    command.add_argument('--json', metavar='FILE', help='write what a weight record holds of this, as JSON')
    command.set_defaults(run=_run)


def _whole(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f'{text!r} is not a whole number from {least} to {most}')
        return int(text)

    return parse


def _run(args: argparse.Namespace) -> int:
    if args.json and not Path(args.json).absolute().parent.is_dir():
        raise ZooError(f'--json: found {args.json}, a file in a folder that exists is needed.')
    found = evaluate_name(
        args.name,
        args.data,
        split=args.split,
        root=args.root,
        download=args.download,
        checkpoint=args.checkpoint,
        size=args.size,
        batch_size=args.batch_size,
        bf16=args.bf16,
        num_workers=args.workers,
    )
    state = processes()
    if state.is_main_process:
        for label, value in _facts(args.name, found):
            print(f'{label:15}{value}')
        if args.json:
            write_atomic(args.json, format_json(found.record()).encode())
    state.destroy_process_group()
    return 0


def _facts(name: str, found: Evaluation) -> list[tuple[str, str]]:
    return [
        ('network', name),
        ('data', f'{found.data}, {found.images} images'),
        *(
            (key, f'{value:.2f} % (standard error {found.standard_error(key):.2f})')
            for key, value in found.metrics.items()
        ),
        ('preprocessing', found.preprocessing),
        ('precision', f'{found.dtype}, {found.batch_size} images at once'),
    ]
