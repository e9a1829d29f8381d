"""The Markdown table of all entries, and its place in the README."""

from collections.abc import Callable

from zoo.entry import Entry, Weights
from zoo.errors import ZooError
from zoo.registry import list_entries, load_entry

__all__ = ['BEGIN', 'END', 'markdown_table', 'replace_between', 'replace_table']

BEGIN, END = '<!-- table:begin -->', '<!-- table:end -->'

COLUMNS = (
    'name',
    'input',
    'params (M)',
    'MACs (G)',
    'published params (M)',
    'published cost (G)',
    'deviation: params, cost',
    'published top-1 (%)',
    'weights',
    'architecture',
)


def markdown_table(names: list[str] | None = None) -> str:
    """One row an entry, from what the entries store; costs are compared in the unit that the paper used.

    Args:
        names: Entries, by default all.
    """
    rows = [COLUMNS, tuple('---' for _ in COLUMNS)]
    rows += [_row(load_entry(name)) for name in (list_entries() if names is None else names)]
    return ''.join(f'| {" | ".join(row)} |\n' for row in rows)


def _row(entry: Entry) -> tuple[str, ...]:
    measured, published = entry.measured, entry.published
    cost = published.cost if published else None
    deviations = entry.deviations()
    compared = ', '.join(f'{100 * deviations[key]:+.1f}%' for key in ('params', 'cost') if key in deviations)
    if published and not published.reproducible:
        compared += ' (not reproducible)'
    return (
        f'`{entry.name}`',
        'x'.join(str(side) for side in entry.input.size[1:]),
        f'{measured.params / 1e6:.2f}' if measured else '',
        f'{measured.macs / 1e9:.2f}' if measured else '',
        f'{published.params / 1e6:g}' if published and published.params else '',
        f'{cost.value / 1e9:g} {cost.unit}' if cost else '',
        compared,
        f'{published.top1:g}' if published and published.top1 is not None else '',
        ', '.join(map(_describe_tag, (entry.weights or {}).items())) or 'none',
        entry.provenance.kind.replace('_', ' '),
    )


def replace_table(text: str, where: str) -> str:
    """A Markdown text with the table between its two markers made anew.

    Args:
        text: The text.
        where: What errors call it.

    Raises:
        ZooError: The markers are missing or in the wrong order.
    """
    return replace_between(text, where, BEGIN, END, markdown_table)


def replace_between(text: str, where: str, begin: str, end: str, make: Callable[[], str]) -> str:
    """A text in which what stands between two markers is made anew.

    Args:
        text: The text.
        where: What errors call it.
        begin: The first marker.
        end: The second one.
        make: Makes it; called where the markers are there.

    Raises:
        ZooError: The markers are missing or in the wrong order.
    """
    before, first, rest = text.partition(begin)
    _, second, after = rest.partition(end)
    if not first or not second:
        raise ZooError(f'{where}: the markers {begin} and {end} are needed, in this order.')
    return f'{before}{begin}\n{make()}{end}{after}'


def _describe_tag(item: tuple[str, Weights]) -> str:
    tag, weights = item
    return f'`{tag}` (by hand)' if weights.by_hand else f'`{tag}`'
