"""The report of a run: its figures as PNG files, and a page that holds all of them and needs nothing else.

The page is for anyone, with no search engine at hand: what was found, how to use it, what tells whether the
search was any good, and every figure with what it rests on. A run is only read; one that is not finished is
reported as far as it is. The same run gives the same bytes.
"""

import argparse
import base64
import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from search.checklist_report import list_points
from search.report_figures import Shown, list_figures, spread
from search.runfiles import SECTIONS, RunFiles
from zoo.files import write_atomic

__all__ = ['add_parser', 'render', 'write_report']

SCALE = 0.8
"""Of a figure on the page: its pixels for one of the file."""


def write_report(folder: Path | str, out: Path | str | None = None) -> Path:
    """Writes ``index.html`` and the figures.

    Args:
        folder: Of the run.
        out: Where to; by default the folder ``report`` in that of the run.

    Returns:
        The page.

    Raises:
        ZooError: The folder holds no search.
        OSError: The files cannot be written.
    """
    run = RunFiles.open(folder)
    out = run.folder / 'report' if out is None else Path(out)
    figures = list_figures(run)
    page = render(run, figures)
    out.mkdir(parents=True, exist_ok=True)
    for figure in figures:
        write_atomic(out / f'{figure.name}.png', figure.png)
    write_atomic(out / 'index.html', page.encode())
    return out / 'index.html'


def render(run: RunFiles, figures: list[Shown]) -> str:
    """The page, with the figures in it."""
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    facts: list[tuple[str, str]] = []
    with run.noting('What was found is left out: a file is not as this version writes it.'):
        facts = list_facts(run)
    usage, checklist = describe_usage(run), list_checklist(run)
    return environment.get_template('report.html.j2').render(
        title=f'{run.name}: a search of method {run.config["method"]}',
        facts=facts,
        usage=usage,
        figures=[prepare(figure) for figure in figures],
        checklist=checklist,
        config=json.dumps({'versions': run.versions, 'config': run.config}, indent=2),
        notes=list_notes(run, figures),
    )


def prepare(figure: Shown) -> dict[str, Any]:
    """A figure for the template; a PNG file begins with its width."""
    (width,) = struct.unpack('>I', figure.png[16:20])
    data = base64.b64encode(figure.png).decode()
    return {'title': figure.title, 'caption': figure.caption, 'data': data, 'width': round(SCALE * width)}


def list_notes(run: RunFiles, figures: list[Shown]) -> list[str]:
    """What is missing or damaged."""
    notes = list(dict.fromkeys(run.faults))
    if run.entry is None:
        notes.append('The search is not finished: there is no result yet. Below is what there is.')
    if not figures:
        notes.append('Nothing has been logged yet, so that there are no figures.')
    return notes


def list_facts(run: RunFiles) -> list[tuple[str, str]]:
    """What was found, what it costs and how good it is."""
    entry = run.entry
    if entry is None or entry.measured is None:
        return []
    size = ' x '.join(map(str, entry.input.size[1:]))
    facts = [
        ('entry', f'{entry.name}, a network of family {entry.family}'),
        ('params', f'{entry.measured.params:,}'),
        ('MACs', f'{entry.measured.macs:,} for an image of {size} pixels'),
    ]
    random = run.read_comparison('random')
    for role in ('test', 'val'):
        values = [row[f'{role}_top1'] for row in run.again if f'{role}_top1' in row]
        others = [row[f'{role}_top1'] for row in random if f'{role}_top1' in row]
        beside = f'; random networks of equal cost: {spread(others)}' if others else ''
        error = ((run.result or {}).get(role) or {}).get('standard_error')
        if error is not None:
            images = run.result[role]['images']  # type: ignore[index]
            beside = f'; standard error of one training over {images} images: {error:.2f} %{beside}'
        facts.append((f'top-1 on {role}', f'{spread(values)}{beside}'))
    facts.append(('how it was found', entry.provenance.note))
    return facts


def describe_usage(run: RunFiles) -> str | None:
    """Three lines that build the network with its weights."""
    if run.entry is None:
        return None
    name = run.entry.name
    return (
        'import timm, zoo\n'
        f'zoo.register({f"{name}.json"!r})\n'
        f'model = timm.create_model({name!r}, pretrained=True)'
    )


def list_checklist(run: RunFiles) -> list[tuple[str, Sequence[str]]]:
    """The points of result.json in words, each with its lines."""
    if run.result is None:
        return []
    measured = [found for section in SECTIONS if (found := run.correlation(section)) is not None]
    later = {'rank_correlation': measured[-1]} if measured else {}
    with run.noting('result.json is not as this version writes it, and left out.'):
        return list_points(run.result | later)
    return []


def add_parser(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the command ``report``.

    Args:
        add: Makes a command of a name, what it is about, and a handler.
    """
    about = 'write the figures of a run, and a page that shows all of them'
    command = add('report', about, handler=print_report)
    command.add_argument('run', type=Path, metavar='RUN', help='folder of a search, finished or not')
    about = "where to; by default the folder 'report' in that of the run"
    command.add_argument('--out', type=Path, metavar='DIR', help=about)


def print_report(args: argparse.Namespace) -> None:
    """Writes a report, and says where it is."""
    print(f'{write_report(args.run, args.out)}: written, with its figures beside it.')
