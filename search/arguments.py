"""What the commands of the search take on their command lines, in the same way."""

import argparse
from pathlib import Path

from zoo.registry import config_path

__all__ = ['add_command', 'add_config', 'add_overrides', 'count', 'find_config']


def add_command(
    commands: 'argparse._SubParsersAction[argparse.ArgumentParser]',
    name: str,
    about: str,
    examples: str,
    handler: object,
) -> argparse.ArgumentParser:
    """A subcommand.

    Args:
        commands: Of the parser.
        name: Of the subcommand.
        about: In a line.
        examples: Shown below the help.
        handler: Called with the parsed arguments. May raise :class:`search.run.Interrupted` where the
            arguments have ``out``, the folder of a run.
    """
    raw = argparse.RawDescriptionHelpFormatter
    command = commands.add_parser(name, help=about, description=about, epilog=examples, formatter_class=raw)
    command.set_defaults(handler=handler)
    return command


def add_config(command: argparse.ArgumentParser, folder: str, example: str) -> None:
    """A config of a run, and values to change in it: ``args.config`` and ``args.overrides``.

    Args:
        command: The subcommand.
        folder: Of the bundled configs.
        example: Of a changed value.
    """
    command.add_argument('config', metavar='CONFIG', help=f'a YAML file, yours or one of configs/{folder}')
    add_overrides(command, example)


def add_overrides(command: argparse.ArgumentParser, example: str) -> None:
    """Values to change in a config: ``args.overrides``."""
    command.add_argument('overrides', nargs='*', metavar='key=value', help=f'such as {example}')


def count(text: str) -> int:
    """A number from 1 on, as an argument's type."""
    if not text.isdecimal() or not 1 <= int(text) <= 100_000_000:
        raise argparse.ArgumentTypeError(f'{text!r} is not a number from 1 on')
    return int(text)


def find_config(path: str) -> Path:
    """A file of the user's, else a bundled config of that name."""
    return Path(path) if Path(path).exists() else config_path(path)
