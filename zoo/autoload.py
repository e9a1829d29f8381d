"""``searchzoo zoo autoload``: whether ``import timm`` is enough to find the zoo's models.

Enabled, a ``.pth`` file among the environment's packages executes ``_timm_hook.py`` whenever Python starts.
It names that file by its path and does nothing where the file is gone, so it may outlive the package.
"""

import argparse
import contextlib
import site
import sys
import sysconfig
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from zoo.errors import ZooError
from zoo.files import write_atomic

__all__ = ['PTH_NAME', 'add_parser', 'pth_line']

PTH_NAME = 'searchzoo_autoload.pth'

HOOK = Path(__file__).resolve().with_name('_timm_hook.py')


def add_parser(commands: Any) -> None:
    """Adds ``autoload`` to the commands of ``searchzoo zoo``."""
    command = commands.add_parser(
        'autoload',
        help='let timm find the zoo without importing it',
        description='With autoload, `import timm` also imports the zoo, in all programs of this environment.',
        epilog='example: searchzoo zoo autoload --enable',
    )
    flags = command.add_mutually_exclusive_group(required=True)
    for flag, run, text in (
        ('--enable', _enable, 'do so from now on'),
        ('--disable', _disable, 'no longer do so'),
        ('--status', _status, 'say which it is; exit code 0 if it is enabled and works, 1 if not'),
    ):
        flags.add_argument(flag, action='store_const', const=run, dest='run', help=text)


def pth_line(hook: Path) -> str:
    """What the ``.pth`` file holds: one line, in ASCII, that executes the hook by its cached bytecode."""
    return (
        f'import os, _frozen_importlib_external as e; hook = {str(hook)!a}; '
        "os.access(hook, os.R_OK) and exec(e.SourceFileLoader('zoo', hook).get_code('zoo'), "
        "{'__name__': 'zoo._timm_hook', '__file__': hook})\n"
    )


def _enable(args: argparse.Namespace) -> int:
    import py_compile

    found = PathFinder.find_spec('zoo', sys.path[1:])  # without the folder that a command starts in
    if not (found and found.origin and HOOK.parent.samefile(Path(found.origin).parent)):
        raise ZooError(
            f'autoload: {HOOK.parent} is found from here only, install searchzoo in {sys.prefix} first.'
        )
    with contextlib.suppress(
        OSError
    ):  # an interpreter that may not write bytecode would compile it at every start
        py_compile.compile(str(HOOK))
    own = [sysconfig.get_path('purelib'), site.getusersitepackages()]
    failures = []
    for path in (path for path in _pth_paths() if str(path.parent) in own):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, pth_line(HOOK).encode())
        except OSError as error:
            failures.append(f'{path.parent} ({error.strerror})')
        else:
            print(f'enabled: {path}')
            return 0
    raise ZooError(
        f'autoload: {" and ".join(failures) or own[0]} cannot be written to; '
        'install searchzoo in a virtual environment of your own (python -m venv DIR) and enable it there.'
    )


def _disable(args: argparse.Namespace) -> int:
    for path in _pth_paths():
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise ZooError(f'autoload: {path} cannot be removed ({error.strerror}).') from error
    print('disabled')
    return 0


def _status(args: argparse.Namespace) -> int:
    lines = {path: path.read_text('ascii', 'replace') for path in _pth_paths() if path.is_file()}
    sound = [path for path, line in lines.items() if line == pth_line(HOOK)]
    if sound:
        print(f'enabled: {sound[0]}')
        return 0
    for path, line in lines.items():
        hook = line.partition('hook = ')[2].partition('; os')[0] or 'something else'
        print(f"enabled but broken: {path} is for {hook}, not for '{HOOK}' (--enable repairs it)")
    if not lines:
        print('disabled')
    return 1


def _pth_paths() -> list[Path]:
    """Where this interpreter would read the file: in its environment, in those below it, for its user."""
    folders = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    return [Path(folder, PTH_NAME) for folder in folders]
