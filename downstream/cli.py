"""The command line of downstream work: ``searchzoo downstream ...``, also ``python -m downstream ...``.

What a command needs is imported when it is called: its help costs nothing and needs no extra.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from zoo.errors import ZooError
from zoo.files import write_atomic

__all__ = ['main']

EXAMPLES = """examples:
  searchzoo downstream doctor
  searchzoo downstream shapes data/shapes
  searchzoo downstream train shapes/mask-rcnn_uninet_shapes
  searchzoo downstream train detection/cascade-mask-rcnn_s3-tiny_fpn_1x_coco --resume
  searchzoo downstream test my_config.py work_dirs/my_config/iter_400.pth
"""

CONFIG = 'a .py file, or a shipped config such as segmentation/upernet_s3-tiny_8xb2-160k_ade20k-512x512'
CHECKPOINT = 'of the whole model: .pth or .safetensors, a URL, or hf-hub://org/name'


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: The arguments after ``searchzoo downstream``, by default those of the process.

    Returns:
        Exit code: 0, or 1 if ``doctor`` found something that fails.

    Raises:
        ZooError: The user's mistake, in one sentence.
        SystemExit: With code 2 on wrong usage, with 0 after ``--help``.
    """
    args = _parser().parse_args(argv)
    return int(args.run(args) or 0)


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        'searchzoo downstream',
        description="The zoo's models in detection, segmentation, retrieval and fine-grained recognition.",
        epilog=EXAMPLES,
        formatter_class=raw,
    )
    commands = parser.add_subparsers(metavar='COMMAND', required=True)

    command = commands.add_parser(
        'doctor',
        help='check that mmengine, mmcv, mmseg and mmdet work here, and say how to mend them',
        epilog='example: searchzoo downstream doctor',
    )
    command.set_defaults(run=_doctor)

    command = commands.add_parser(
        'shapes',
        help='draw a small data set for detection, segmentation and panoptic segmentation',
        epilog='example: searchzoo downstream shapes data/shapes',
    )
    command.add_argument('folder', metavar='FOLDER', help='a folder that does not exist yet')
    command.add_argument('--train', type=int, default=200, help='images to learn from (default: 200)')
    command.add_argument('--val', type=int, default=50, help='images to test on (default: 50)')
    command.add_argument('--seed', type=int, default=0, help='(default: 0)')
    command.set_defaults(run=_shapes)

    for name, what, run in (
        ('train', 'train a model by a config', _train),
        ('finetune', 'train a classifier by a config of fine_grained/ and export its weights', _finetune),
        ('retrieve', 'train an embedding by a config of retrieval/ and measure Recall@K', _retrieve),
    ):
        command = _add_run(commands, name, what)
        command.add_argument('--resume', action='store_true', help='continue from the last checkpoint')
        command.set_defaults(run=run)

    command = _add_run(commands, 'test', 'evaluate a checkpoint on the test data of a config')
    command.add_argument('checkpoint', metavar='CHECKPOINT', help=CHECKPOINT)
    command.add_argument(
        '--tta', action='store_true', help="average over the config's tta_pipeline: scales, flips"
    )
    command.set_defaults(run=_test)

    command = commands.add_parser(
        'print',
        help='print a config with all that it inherits',
        epilog='example: searchzoo downstream print shapes/mask-rcnn_s3_shapes',
    )
    _add_config(command)
    command.set_defaults(run=_print)

    command = commands.add_parser(
        'predict',
        help='draw what a model predicts for images',
        epilog='example: searchzoo downstream predict my_config.py CHECKPOINT photos --out drawn',
    )
    _add_config(command)
    command.add_argument('checkpoint', metavar='CHECKPOINT', help=CHECKPOINT)
    command.add_argument('images', nargs='+', metavar='IMAGE', help='files, or folders of them')
    command.add_argument('--out', required=True, metavar='FOLDER', help='a folder that does not exist yet')
    command.add_argument('--score', type=float, default=0.3, help='draw no object below it (default: 0.3)')
    command.set_defaults(run=_predict)

    command = commands.add_parser(
        'grid-features',
        help='store the feature map of every image of a folder, for visual question answering and the like',
        epilog='example: searchzoo downstream grid-features s3_tiny photos features --size 608x1088',
    )
    command.add_argument(
        'entry', metavar='ENTRY', help='name, file or hf-hub: id of a zoo entry, or a timm model'
    )
    command.add_argument('folder', metavar='FOLDER', help='of images, with folders in it or not')
    command.add_argument('out', metavar='OUT', help='a folder; features that are there already are kept')
    command.add_argument(
        '--size',
        default='600',
        metavar='N|HxW',
        help='pixels of the shorter side, or height and width (default: 600)',
    )
    command.add_argument(
        '--index', type=int, default=-1, metavar='I', help='stage of the network (default: -1, the last)'
    )
    command.add_argument('--batch-size', type=int, default=1, metavar='N', help='images at once (default: 1)')
    command.add_argument('--weights', metavar='FILE', help='weights in place of the published ones')
    command.add_argument(
        '--dtype', default='float16', choices=('float16', 'float32'), help='(default: float16)'
    )
    command.add_argument(
        '--workers', type=int, default=0, metavar='N', help='processes that load images (default: 0)'
    )
    command.set_defaults(run=_grid_features)

    command = commands.add_parser(
        'table',
        help="print the Markdown table of the shipped configs: size and cost beside the papers'",
        epilog='example: searchzoo downstream table --write docs/downstream.md',
    )
    command.add_argument('--write', metavar='FILE', help='write it between the markers of this file instead')
    command.set_defaults(run=_table)
    return parser


def _add_run(commands: Any, name: str, what: str) -> argparse.ArgumentParser:
    example = {
        'train': 'train shapes/upernet_glit_shapes --cfg-options train_cfg.max_iters=100',
        'test': 'test shapes/upernet_glit_shapes work_dirs/upernet_glit_shapes/iter_400.pth',
        'finetune': 'finetune fine_grained/carnet_digits',
        'retrieve': 'retrieve retrieval/proxynca_carnet_digits',
    }[name]
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=what, epilog=f'example: searchzoo downstream {example}'
    )
    _add_config(command)
    command.add_argument(
        '--work-dir', metavar='DIR', help='of checkpoints and logs (default: work_dirs/<name of the config>)'
    )
    command.add_argument(
        '--launcher',
        default='none',
        choices=('none', 'pytorch', 'slurm', 'mpi'),
        help='what has started the processes that train together (default: none)',
    )
    return command


def _add_config(command: argparse.ArgumentParser) -> None:
    command.add_argument('config', metavar='CONFIG', help=CONFIG)
    command.add_argument(
        '--cfg-options',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        help='values to change, such as train_dataloader.batch_size=4 or model.backbone.name=s3_small',
    )


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """The changed values, read as mmdet's and mmseg's tools read them."""
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={})
    wrong = [text for text in args.cfg_options if '=' not in text]
    if wrong:
        raise ZooError(f'--cfg-options: found {wrong[0]!r}, KEY=VALUE is needed.')
    changed = ['--cfg-options', *args.cfg_options] if args.cfg_options else []
    return dict(parser.parse_args(changed).cfg_options)


def _train(args: argparse.Namespace) -> None:
    from downstream.runner import train

    train(args.config, args.work_dir, args.resume, _options(args), args.launcher)


def _finetune(args: argparse.Namespace) -> None:
    from downstream.fine_grained import finetune

    finetune(args.config, args.work_dir, args.resume, _options(args), args.launcher)


def _retrieve(args: argparse.Namespace) -> None:
    from downstream.retrieval import retrieve

    retrieve(args.config, args.work_dir, args.resume, _options(args), args.launcher)


def _test(args: argparse.Namespace) -> None:
    from downstream.runner import test

    test(args.config, args.checkpoint, args.work_dir, _options(args), args.launcher, args.tta)


def _print(args: argparse.Namespace) -> None:
    from downstream.runner import show

    with redirect_stdout(sys.stderr):  # OpenMMLab's packages print when they are imported
        text = show(args.config, _options(args))
    print(text)


def _predict(args: argparse.Namespace) -> None:
    from downstream.predict import predict

    predict(args.config, args.checkpoint, args.images, args.out, _options(args), args.score)


def _grid_features(args: argparse.Namespace) -> int:
    from downstream.grid_features import run

    return run(args)


def _table(args: argparse.Namespace) -> None:
    from downstream.table import make_table, replace_table

    if args.write:
        path = Path(args.write)
        write_atomic(path, replace_table(path.read_text(encoding='utf-8'), args.write).encode())
    else:
        with redirect_stdout(sys.stderr):
            table = make_table()
        sys.stdout.write(table)


def _doctor(args: argparse.Namespace) -> int:
    from downstream.doctor import run_doctor

    return run_doctor()


def _shapes(args: argparse.Namespace) -> None:
    from downstream.shapes import write_shapes

    print(f'Drawn: {write_shapes(args.folder, args.train, args.val, args.seed)}')
