"""The command ``searchzoo zoo export``: a network by its name, as a file for other programs."""

import argparse
import inspect
from pathlib import Path
from typing import Any

import timm
from timm.data import resolve_data_config
from timm.layers import set_layer_config
from torch import nn

from zoo.errors import ZooError
from zoo.evaluate import load_model
from zoo.export import FORMATS, TOLERANCE, explain, export_network, import_onnx
from zoo.registry import register

__all__ = ['add_parser', 'describe']


def add_parser(commands: Any) -> None:
    """Adds the command to those of ``searchzoo zoo``."""
    command = commands.add_parser(
        'export',
        help='write a network as ONNX, pt2 or TorchScript',
        description='Writes a network with its published weights to one file, once that file computes what '
        "the network computes. The number of images is free. A JSON text 'searchzoo' inside (in ONNX's "
        'metadata_props, or an extra file) says how images are preprocessed.',
        epilog='example: searchzoo zoo export s3_tiny --format onnx --out s3_tiny.onnx',
    )
    command.add_argument(
        'name',
        metavar='NAME',
        help="a name with or without tag, an entry's .json file, hf-hub:ORG/NAME, local-dir:FOLDER",
    )
    command.add_argument('--format', required=True, choices=FORMATS)
    command.add_argument(
        '--out', required=True, metavar='FILE', help=f'with the ending {", ".join(FORMATS.values())}'
    )
    command.add_argument(
        '--dynamic', action='store_true', help="height and width are free: multiples of the network's stride"
    )
    command.add_argument('--size', type=_side, metavar='PIXELS', help='height and width of the images')
    weights = command.add_mutually_exclusive_group()
    weights.add_argument('--checkpoint', metavar='FILE', help='weights in place of the published ones')
    weights.add_argument('--random', action='store_true', help='no weights, where only the speed matters')
    command.set_defaults(run=_run)


def _side(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 4096:
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number from 1 to 4096')
    return int(text)


def _run(args: argparse.Namespace) -> int:
    path, ending = Path(args.out), FORMATS[args.format]
    if path.suffix != ending:
        raise ZooError(f'--out: found {args.out}, --format {args.format} needs the ending {ending}.')
    if not path.absolute().parent.is_dir() or path.is_dir():
        raise ZooError(f'--out: found {args.out}, a file in a folder that exists is needed.')
    if args.format == 'onnx':
        import_onnx()  # before weights are fetched
    model = create(args.name, args.checkpoint, args.size, args.random)
    weights = 'random' if args.random else args.checkpoint and Path(args.checkpoint).name
    info = describe(model, args.name, weights)
    channels, height, width = info['input_size']
    agreements = export_network(model, path, (height, width), args.dynamic, info)

    sides, free = f'{height}, {width}', ''
    if args.dynamic:
        sides, free = 'height, width', f', multiples of {model.feature_info[-1]["reduction"]}'
    name = 'images' if args.format == 'onnx' else next(iter(inspect.signature(model.forward).parameters))
    print(f'{args.out}: written, {path.stat().st_size / 1e6:.1f} MB')
    print(f'weights  {info["weights"]}' + (f' (license {info["license"]})' if info['license'] else ''))
    print(f'input    {name}: float32 [batch, {channels}, {sides}]{free}')
    for agreement in agreements:
        print(f'checked  {list(agreement.shape)}: differs by {agreement.difference:.1e}')
    print(f"(the largest difference over the outputs' root mean square; {TOLERANCE:.0e} are allowed)")
    return 0


def create(name: str, checkpoint: str | None = None, size: int | None = None, random: bool = False) -> Any:
    """A network that torch can export, in evaluation mode; the arguments are those of :func:`load_model`.

    Args:
        name: The network.
        checkpoint: A file of weights to take instead of the published ones.
        size: Height and width of the images.
        random: Load no weights.

    Raises:
        ZooError: There is no such network, or no weights; or they cannot be read, or do not fit.
    """
    with set_layer_config(exportable=True):
        if not random:
            try:
                return load_model(name, checkpoint, size).eval()
            except ZooError as error:
                raise ZooError(str(error).replace('use pretrained=False', 'pass --random')) from None
        name = register(name) if name.endswith('.json') else name
        with explain(f'{name} cannot be created'):
            overlay = None
            if size is not None:
                cfg: Any = timm.create_model(name, device='meta').pretrained_cfg
                overlay = {'input_size': (cfg['input_size'][0], size, size), 'test_input_size': None}
            return timm.create_model(name, pretrained_cfg_overlay=overlay).eval()


def describe(model: nn.Module, name: str, weights: str | None = None) -> dict[str, Any]:
    """What a file says to those who run it: names, licence, input size and preprocessing.

    Args:
        model: The network.
        name: What it was created by.
        weights: What its weights are, if not published ones, which have a tag and a licence.
    """
    cfg: Any = model.pretrained_cfg
    return {
        'name': cfg['architecture'] if name.endswith('.json') else name,
        'weights': weights or cfg.get('tag') or 'published',
        'license': None if weights else cfg.get('license'),
        'num_classes': model.num_classes,
        **resolve_data_config(pretrained_cfg=cfg, use_test_size=True),
    }
