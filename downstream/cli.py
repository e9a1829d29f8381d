"""The command line of downstream work: ``searchzoo downstream ...``, also ``python -m downstream ...``.

What a command needs is imported when it is called: its help costs nothing and needs no extra.
"""

import argparse
from collections.abc import Sequence

__all__ = ['main']

EXAMPLES = """examples:
  searchzoo downstream doctor
  searchzoo downstream shapes data/shapes
  searchzoo downstream train shapes/mask-rcnn_uninet_shapes
"""


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
    return parser


def _doctor(args: argparse.Namespace) -> int:
    from downstream.doctor import run_doctor

    return run_doctor()


def _shapes(args: argparse.Namespace) -> None:
    from downstream.shapes import write_shapes

    print(f'Drawn: {write_shapes(args.folder, args.train, args.val, args.seed)}')
