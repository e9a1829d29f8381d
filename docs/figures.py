"""Writes each family's table of figures into its page, and the README's picture: ``python docs/figures.py``.

The tables stand between the markers of ``searchzoo zoo table``; a test says when one is out of date.
"""

import io
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from zoo.files import write_atomic
from zoo.models import FAMILIES
from zoo.outline import OPERATORS, Block, make_outline
from zoo.picture import COLORS
from zoo.registry import list_entries, load_entry
from zoo.table import BEGIN, END, markdown_table, replace_between

PAGES = Path(__file__).resolve().parent / 'families'
PICTURE = PAGES.parent / 'architectures.svg'
SHOWN = ('trionet_b', 'glit_tiny', 's3_tiny', 'uninet_b0', 'carnet_c112')
WIDTH, LEFT, ROW, TALL = 10.0, 2.0, 0.95, 0.62
"""Of the picture, in inches: all, the names, a network's row, the tallest block."""


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


def draw_families() -> bytes:
    """One network of each family as an SVG: a column a block, a colour an operator, grouped by stage."""
    height = ROW * len(SHOWN) + 0.75
    with rc_context({'svg.hashsalt': 'searchzoo', 'svg.fonttype': 'none', 'font.family': 'DejaVu Sans'}):
        figure = Figure(figsize=(WIDTH, height))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, WIDTH), ylim=(height, 0))
        axes.axis('off')
        used: set[str] = set()
        for i, name in enumerate(SHOWN):
            used |= draw_network(axes, name, ROW * i + 0.1)
        for i, operator in enumerate(operator for operator in OPERATORS if operator in used):
            x, y = 0.15 + i % 4 * 2.5, ROW * len(SHOWN) + 0.2 + i // 4 * 0.22
            axes.add_patch(Rectangle((x, y - 0.06), 0.16, 0.12, facecolor=COLORS[operator]))
            axes.text(x + 0.24, y, OPERATORS[operator], fontsize=8, va='center')
        buffer = io.BytesIO()
        figure.savefig(buffer, format='svg', metadata={'Date': None}, facecolor='white')
    return buffer.getvalue()


def draw_network(axes: Axes, name: str, top: float) -> set[str]:
    """Draws a row; returns the operators that occur in it."""
    entry = load_entry(name)
    outline = make_outline(entry.arch, entry.input.size[1:])
    figures = f'{entry.measured.params / 1e6:.1f} M params, {entry.measured.macs / 1e9:.1f} G MACs'
    origin = f'architecture: {entry.provenance.kind.replace("_", " ")}'
    axes.text(0.15, top + 0.14, name, fontsize=11, fontweight='bold', va='center')
    axes.text(0.15, top + 0.36, figures, fontsize=7.5, va='center', color='#555555')
    axes.text(0.15, top + 0.53, origin, fontsize=7.5, va='center', color='#555555')
    gap = 0.16
    column = (WIDTH - LEFT - 0.1 - gap * len(outline.stages)) / len(outline.blocks)
    scale = TALL / max(sum(heights(block)) for block in outline.blocks)
    x, floor = LEFT, top + TALL
    for stage in outline.stages:
        for block in stage.blocks:
            y = floor
            for row, size in zip(block.rows(), heights(block), strict=True):
                left, size = x, size * scale
                for part in row:
                    width = (column - 0.03) * part.share
                    box = Rectangle((left, y - size), width, size, facecolor=COLORS[part.operator])
                    axes.add_patch(box)
                    left += width
                y -= size
            x += column
        size = stage.details.split(',')[0]
        axes.text(
            x - column * len(stage.blocks), floor + 0.1, size, fontsize=6.5, va='center', color='#555555'
        )
        x += gap
    return {part.operator for part in outline.parts}


def heights(block: Block) -> list[float]:
    """Of a block's rows, before they are scaled; what has no size is thin."""
    return [max(part.size for part in row) + 0.3 for row in block.rows()]


def main() -> None:
    """Writes all pages, and the picture."""
    write_atomic(PICTURE, draw_families())
    for family in FAMILIES:
        page = PAGES / f'{family}.md'
        write_atomic(page, render(family, page.read_text(encoding='utf-8')).encode())


if __name__ == '__main__':
    main()
