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

ASKING = 'index.md#what-can-be-asked-of-an-entry'
OWN = 'add_family.md#checked-then-searched'
SHIPPED = 'downstream.md#train-test-look'
PAGES = {
    'zoo autoload': 'faq.md#unknown-model-although-the-package-is-installed',
    'zoo convert': 'faq.md#the-weights-are-on-a-page-that-i-have-to-click-through',
    'zoo evaluate': 'publishing.md#measured-in-one-way',
    'zoo export': 'deployment.md#one-file',
    'zoo gallery': ASKING,
    'zoo info': ASKING,
    'zoo list': ASKING,
    'zoo measure': OWN,
    'zoo picture': ASKING,
    'zoo publish': 'publishing.md',
    'zoo schema': OWN,
    'zoo table': ASKING,
    'zoo validate': OWN,
    'zoo verify': 'publishing.md#weights-that-stay-what-they-are',
    'search compare': 'evidence.md#strategies-on-a-table',
    'search correlate': 'evidence.md#how-well-supernets-rank',
    'search demo': 'own_data.md#run',
    'search latency': 'faq.md#predicted-latency-is-not-measured-latency',
    'search plan': 'reproducing.md#how-long-on-your-machine',
    'search report': 'own_data.md#run',
    'search run': 'own_data.md#one-file-says-what-to-do',
    'search space': 'own_data.md#look-before-you-run',
    'search tabulate': 'evidence.md#strategies-on-a-table',
    'search train': 'reproducing.md#training-what-was-found-or-published',
    'downstream doctor': 'downstream.md#installation',
    'downstream finetune': 'downstream.md#fine-grained-recognition-and-retrieval',
    'downstream grid-features': 'downstream.md#grid-features',
    'downstream predict': SHIPPED,
    'downstream print': SHIPPED,
    'downstream retrieve': 'downstream.md#fine-grained-recognition-and-retrieval',
    'downstream shapes': SHIPPED,
    'downstream table': 'downstream.md#the-papers-configs',
    'downstream test': SHIPPED,
    'downstream train': SHIPPED,
}
"""What explains a command, below ``docs/``; an error names it."""

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
        page = PAGES.get(' '.join([package, *argv[:1]]))
        return _fail(f'{error} See docs/{page}.' if page else str(error))
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
