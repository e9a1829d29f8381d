"""The command ``searchzoo zoo|search|downstream ...``: calls ``<package>.cli:main`` and explains mistakes."""

import importlib
import os
import sys

from zoo import __version__
from zoo.errors import ZooError

__all__ = ['main']

PACKAGES = {
    'zoo': 'the networks: list, info, validate, convert, ...',
    'search': 'the searches: run',
    'downstream': 'detection, segmentation, retrieval',
}

EXTRAS = {
    'accelerate': 'search',
    'jinja2': 'search',
    'matplotlib': 'search',
    'sklearn': 'search',
    'tensorboard': 'search',
    'torchmetrics': 'search',
    'yaml': 'search',
    'dask': 'dask',
    'distributed': 'dask',
    'mmcv': 'seg',
    'mmengine': 'seg',
    'mmseg': 'seg',
    'mmdet': 'mm',
    'pytorch_metric_learning': 'retrieval',
    'onnx': 'export',
    'onnxruntime': 'export',
    'onnxscript': 'export',
}
"""The extra of this distribution that brings a module."""

USAGE = 'usage: searchzoo [-h] [--version] {zoo,search,downstream} ...\n'


def main(argv: list[str] | None = None) -> int:
    """Runs a command of one of the packages.

    Args:
        argv: The arguments after ``searchzoo``, by default those of the process.

    Returns:
        Exit code: 0, 1 after a mistake in what the user gave, 2 after wrong usage.
    """
    argv = sys.argv[1:] if argv is None else argv
    if not argv:
        sys.stderr.write(USAGE)
        return 2
    package, *rest = argv
    if package in ('-h', '--help'):
        lines = [f'  {name:12}{text}\n' for name, text in PACKAGES.items()]
        sys.stdout.write(
            f'{USAGE}\n{"".join(lines)}\n`searchzoo zoo --help` shows the commands of one of them.\n'
        )
        return 0
    if package == '--version':
        print(f'searchzoo {__version__}')
        return 0
    if package not in PACKAGES:
        sys.stderr.write(f'{USAGE}searchzoo: unknown command {package!r}, known are {", ".join(PACKAGES)}\n')
        return 2
    return _run(package, rest)


def _run(package: str, argv: list[str]) -> int:
    try:
        code = int(importlib.import_module(f'{package}.cli').main(argv) or 0)
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # argparse, after it has said why
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BrokenPipeError:  # the reader (`| head`) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    except ZooError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        return _fail(_explain(error, package, argv[:1]))
    except OSError as error:
        if error.filename is None or error.strerror is None:
            raise
        return _fail(f'{error.filename}: {error.strerror}.')


def _explain(error: ModuleNotFoundError, package: str, command: list[str]) -> str:
    """Which extra brings a missing module; any other missing module is a fault of ours and raised again."""
    if error.name in (package, f'{package}.cli'):
        return f'`searchzoo {package}` has no command line in this version.'
    extra = EXTRAS.get((error.name or '').partition('.')[0])
    if extra is None:
        raise error
    if command in (['finetune'], ['retrieve']):  # mmengine is part of two extras
        extra = 'retrieval'
    return (
        f"`searchzoo {package}` needs {error.name}, which is not installed: pip install 'searchzoo[{extra}]'."
    )


def _fail(message: str) -> int:
    sys.stderr.write(f'{message}\n')
    return 1


if __name__ == '__main__':
    sys.exit(main())
