"""Writes the table of each family's figures into its page: ``python docs/figures.py``.

The table stands between the markers of ``searchzoo zoo table``; a test says when a page is out of date.
"""

from pathlib import Path

from zoo.files import write_atomic
from zoo.models import FAMILIES
from zoo.registry import list_entries, load_entry
from zoo.table import BEGIN, END, markdown_table, replace_between

PAGES = Path(__file__).resolve().parent / 'families'


def render(family: str, text: str) -> str:
    """The page of a family with its table made anew.

    Args:
        family: A key of :data:`zoo.models.FAMILIES`.
        text: The page.

    Raises:
        ZooError: The page has no markers.
    """
    names = [name for name in list_entries() if load_entry(name).family == family]
    return replace_between(text, f'{family}.md', BEGIN, END, lambda: markdown_table(names))


def main() -> None:
    """Writes all pages."""
    for family in FAMILIES:
        page = PAGES / f'{family}.md'
        write_atomic(page, render(family, page.read_text(encoding='utf-8')).encode())


if __name__ == '__main__':
    main()
