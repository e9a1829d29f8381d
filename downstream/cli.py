"""``searchzoo downstream ...``: says that this release has no such commands."""

import sys
from collections.abc import Sequence

__all__ = ['main']


def main(argv: Sequence[str] | None = None) -> int:
    """Prints one sentence on standard error, whatever ``argv``; the exit code is a usage error's, 2."""
    backbone = 'downstream.backbone.ZooBackbone, a backbone for configurations of mmsegmentation'
    print(f'error: this release has no such commands, but {backbone}.', file=sys.stderr)
    return 2
