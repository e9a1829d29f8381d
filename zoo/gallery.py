"""``searchzoo zoo gallery``: one page with the picture, figures, origin, weights and use of every entry.

The page needs nothing but itself: its own policy keeps it from fetching anything, and from running any script
but its one. The same entries give the same bytes. jinja2, of the extra ``search``, is imported when a page is
made.
"""

import argparse
import base64
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from zoo import __version__
from zoo.entry import Entry
from zoo.errors import ZooError
from zoo.files import write_atomic
from zoo.gallery_card import locate, make_card, shorten
from zoo.hub.card import METRICS, ORIGINS
from zoo.hub.papers import PAPERS
from zoo.outline import OPERATORS
from zoo.picture import COLORS
from zoo.registry import entry_file, list_entries, load_entry, register

__all__ = ['add_parser', 'make_gallery']

HERE = Path(__file__).resolve().parent
UNITS = {
    'macs': 'multiply-accumulates; some papers call them FLOPs',
    'flops': "twice the multiply-accumulates, and local attention's products with each neighbour's position",
    'fvcore': "fvcore's total: multiply-accumulates, and a few operations an element of norms and pooling",
    'glit': "the formula of the authors' code, which leaves out half of one convolution",
}
"""What publications count as cost, by the names that entries give it."""


def add_parser(commands: Any) -> None:
    """Adds ``gallery`` to the commands of ``searchzoo zoo``."""
    command = commands.add_parser(
        'gallery',
        help='write a page that shows all entries',
        description='Writes one page with the picture, figures, origin, weights and use of every entry. It '
        'needs no network and no other file: open it in a browser.',
        epilog='example: searchzoo zoo gallery gallery.html',
    )
    command.add_argument('out', type=Path, metavar='OUT', help='the page, a file of the ending .html')
    command.add_argument(
        '--entries', nargs='+', default=[], metavar='FILE', help="entries' .json files to be shown as well"
    )
    command.set_defaults(run=_gallery)


def _gallery(args: argparse.Namespace) -> int:
    out: Path = args.out
    if out.suffix != '.html' or out.is_dir():
        raise ZooError(f'OUT: found {str(out)!r}, the name of a .html file is needed.')
    if not out.parent.is_dir():
        raise ZooError(f'{out}: there is no folder {out.parent}.')
    for file in args.entries:
        register(file)
    page = make_gallery().encode()
    write_atomic(out, page)
    print(f'{out}: written, {len(list_entries())} entries, {len(page):,} bytes')
    return 0


def make_gallery(names: Iterable[str] | None = None) -> str:
    """The page, as HTML.

    Args:
        names: Entries in their order on the page, by default all.

    Raises:
        ZooError: There is no entry of such a name.
        ModuleNotFoundError: jinja2 is not installed.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    entries = [load_entry(name) for name in (list_entries() if names is None else names)]
    script = (HERE / 'gallery.js').read_text(encoding='utf-8')
    style = (HERE / 'gallery.css').read_text(encoding='utf-8')
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(locate=locate, short=shorten)
    return environment.get_template('gallery.html.j2').render(
        cards=[make_card(entry, find_file(entry)) for entry in entries],
        families=sorted({entry.family for entry in entries}),
        kinds={kind: text for kind, text in ORIGINS.items() if kind in {e.provenance.kind for e in entries}},
        style=style,
        script=script,
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        operators=OPERATORS,
        colors=COLORS,
        units=UNITS,
        papers=PAPERS,
        metrics=METRICS,
        version=__version__,
    )


def find_file(entry: Entry) -> str | None:
    """The name of the file that has to be registered first; None for an entry that the package brings."""
    try:
        path = entry_file(entry.name)
    except ZooError:  # it was registered without a file
        return f'{entry.name}.json'
    return None if path.parent == HERE / 'entries' else path.name
