"""A picture of an architecture, as the papers have them: a column for each block, a colour for each operator,
a height for its expansion, width or kernel.

Blocks stand from left to right, grouped by stage; within a column the parts of a block from the bottom up.
matplotlib, of the extra ``search``, is imported when a picture is drawn.
"""

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from zoo.arch import Arch
from zoo.entry import Entry
from zoo.errors import ZooError
from zoo.outline import OPERATORS, Block, Outline, Part, Stage, make_outline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ['COLORS', 'draw_architecture']

COLORS = {
    'projection': '#9a9a9a',
    'conv': '#5b8ec4',
    'dwconv': '#8fbce0',
    'conv1d': '#8fbce0',
    'local': '#f0a043',
    'window': '#f5c26b',
    'axial': '#7fb069',
    'global': '#e2706a',
    'non_local': '#c8565f',
    'token_mlp': '#a48cc4',
    'mlp': '#d5cbe3',
}
WIDEST, LEAST = 12.0, 6.2
"""Width of the picture; all lengths are in inches."""
NARROW, WIDE, GAP, STAGE_GAP, BEFORE = 0.3, 0.86, 0.07, 0.28, 0.3
THIN, LINE, PADDING, TALLEST = 0.055, 0.125, 0.07, 1.5
HEAD, FOOT, TOP, LEGEND, ENTRY = 0.62, 0.2, 0.5, 0.26, 2.55
LETTER, SMALL = 0.078, 0.062
"""Width of a letter of a stage's label, and of a block's."""
LETTERS = {'k': 'kernel', 'w': 'window (tokens)', 'h': 'heads', 'd': 'width of q, k, v', 'x': 'expansion'}


@dataclass(frozen=True)
class Piece:
    """The part of a stage that stands in a line.

    Attributes:
        stage: The stage.
        blocks: Those in this line.
        first: The stage begins here.
        width: In inches.
    """

    stage: Stage
    blocks: tuple[Block, ...]
    first: bool
    width: float


def draw_architecture(
    network: Entry | Arch,
    img_size: tuple[int, int] | None = None,
    file_format: Literal['png', 'svg'] = 'png',
) -> bytes:
    """A picture file; the same architecture gives the same bytes.

    Args:
        network: An entry, or an architecture of any family.
        img_size: Height and width of the images; by default the entry's, 224 pixels for an architecture.
        file_format: Of the file.

    Raises:
        ZooError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise ZooError(
            "Pictures need matplotlib, which is not installed: pip install 'searchzoo[search]'."
        ) from None
    if isinstance(network, Entry):
        arch, title, native = network.arch, network.name, network.input.size[1:]
    else:
        arch, title, native = network, network.family, (224, 224)
    height_px, width_px = img_size or native
    outline = make_outline(arch, (height_px, width_px))
    column, tallest = measure_columns(outline)
    lines = break_lines(outline, column)
    content = max(sum(piece.width + STAGE_GAP for piece in line) for line in lines)
    width = min(WIDEST, max(LEAST, content))
    legend_lines = -(-len(used_operators(outline)) // int(width / ENTRY))
    line_height = HEAD + tallest + FOOT
    height = TOP + len(lines) * line_height + LEGEND * (legend_lines + 1)
    with rc_context({'svg.hashsalt': 'searchzoo', 'font.family': 'DejaVu Sans'}):
        figure = Figure(figsize=(width, height), dpi=130)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.axis('off')
        count = len(outline.blocks)
        about = f'{arch.family}, image {height_px}x{width_px}, {count} block{"s" * (count > 1)}'
        axes.text(0.15, 0.3, title, fontsize=13, fontweight='bold', va='center', parse_math=False)
        axes.text(width - 0.15, 0.3, about, fontsize=9.5, va='center', ha='right', color='#444444')
        scale = make_scale(outline)
        for i, pieces in enumerate(lines):
            draw_line(axes, pieces, TOP + i * line_height, tallest, column, scale)
        draw_legend(axes, outline, int(width / ENTRY), TOP + len(lines) * line_height + LEGEND / 2)
        buffer = io.BytesIO()
        metadata: dict[str, Any] = {'Date': None} if file_format == 'svg' else {}
        figure.savefig(buffer, format=file_format, metadata=metadata, facecolor='white')
    return buffer.getvalue()


def used_operators(outline: Outline) -> list[str]:
    return [name for name in OPERATORS if any(part.operator == name for part in outline.parts)]


# ---- sizes


def make_scale(outline: Outline) -> float:
    """Inches for 1 of a part's size, so that the largest part is as tall as a picture allows."""
    return TALLEST / max(part.size for part in outline.parts)


def part_height(part: Part, scale: float) -> float:
    """Room for the text, and the part's size above it."""
    if not part.size:
        return THIN
    return PADDING + LINE * (part.text.count('\n') + 1) + scale * part.size / 2


def measure_columns(outline: Outline) -> tuple[float, float]:
    """The width of a column, and the height of the tallest one."""
    scale = make_scale(outline)
    wanted = [(SMALL * max(map(len, part.text.split('\n'))) + 0.06) / part.share for part in outline.parts]
    column = min(max(NARROW, *wanted), WIDE)
    tallest = max(
        sum(max(part_height(part, scale) for part in row) for row in block.rows()) for block in outline.blocks
    )
    return column, tallest


def break_lines(outline: Outline, column: float) -> list[list[Piece]]:
    """Stages from left to right; one that is longer than what is left of a line begins a line, and one that
    is longer than a line goes on in the next."""
    room = WIDEST - 0.3
    lines: list[list[Piece]] = [[]]
    for stage in outline.stages:
        blocks, first = list(stage.blocks), True
        while blocks:
            used = sum(piece.width + STAGE_GAP for piece in lines[-1])
            start = BEFORE + GAP if first and stage.before else 0.0
            fitting = int((room - used - start + GAP) / (column + GAP))
            label = LETTER * max(map(len, [stage.label, *stage.details.split('\n')]))
            too_small = fitting < len(blocks) and len(blocks) * (column + GAP) + start <= room
            if lines[-1] and (too_small or fitting < 1 or used + label > room):
                lines.append([])
                continue
            taken, blocks = blocks[:fitting], blocks[fitting:]
            width = max(start + len(taken) * (column + GAP) - GAP, label)
            lines[-1].append(Piece(stage, tuple(taken), first, width))
            first = False
    return lines


# ---- drawing


def draw_line(
    axes: 'Axes', pieces: list[Piece], top: float, tallest: float, column: float, scale: float
) -> None:
    """One line of blocks."""
    x, floor = 0.15, top + HEAD + tallest
    for piece in pieces:
        axes.plot([x, x + piece.width], [top + 0.08] * 2, color='#666666', linewidth=1.2)
        label = piece.stage.label if piece.first else f'{piece.stage.label}, continued'
        axes.text(x, top + 0.2, label, fontsize=9, fontweight='bold', va='center')
        if piece.first:
            axes.text(x, top + 0.42, piece.stage.details, fontsize=7.5, va='center', linespacing=1.15)
        left = x
        if piece.first and piece.stage.before:
            draw_before(axes, piece.stage.before, left, floor, tallest)
            left += BEFORE + GAP
        for block in piece.blocks:
            draw_block(axes, block, left, floor, column, scale)
            left += column + GAP
        x += piece.width + STAGE_GAP


def draw_before(axes: 'Axes', text: str, x: float, floor: float, tallest: float) -> None:
    """A stem or down-sampling module, with its name from the bottom up."""
    from matplotlib.patches import Rectangle

    height = min(tallest, max(0.9, 0.075 * len(text) + 0.1))
    box = Rectangle((x, floor - height), BEFORE - 0.04, height, facecolor='#efefef', edgecolor='#8a8a8a')
    axes.add_patch(box)
    size = 6.8 if 0.066 * len(text) <= height else 6.8 * height / (0.066 * len(text))
    axes.text(
        x + BEFORE / 2 - 0.02, floor - height / 2, text, fontsize=size, rotation=90, ha='center', va='center'
    )


def draw_block(axes: 'Axes', block: Block, x: float, floor: float, column: float, scale: float) -> None:
    """A column."""
    from matplotlib.patches import Rectangle

    y = floor
    for row in block.rows():
        left, tallest = x, max(part_height(part, scale) for part in row)
        if len(row) > 1:
            axes.add_patch(
                Rectangle((x, y - tallest), column, tallest, facecolor='#f6f6f6', edgecolor='#bbbbbb')
            )
        for part in row:
            width, height = column * part.share, part_height(part, scale)
            fill = COLORS[part.operator]
            axes.add_patch(
                Rectangle(
                    (left, y - height), width, height, facecolor=fill, edgecolor='#333333', linewidth=0.6
                )
            )
            if part.text:
                axes.text(
                    left + width / 2,
                    y - height / 2,
                    part.text,
                    fontsize=6.5,
                    ha='center',
                    va='center',
                    linespacing=1.1,
                )
            left += width
        y -= tallest
    axes.text(
        x + column / 2, floor + 0.09, block.label, fontsize=6, ha='center', va='center', color='#777777'
    )


def draw_legend(axes: 'Axes', outline: Outline, columns: int, y: float) -> None:
    """What the colours, the letters and the heights are."""
    from matplotlib.patches import Rectangle

    used = used_operators(outline)
    written = {line[:1] for part in outline.parts for line in part.text.split('\n') if line[1:2].isdigit()}
    for i, name in enumerate(used):
        x, row = 0.15 + i % columns * ENTRY, y + i // columns * LEGEND
        axes.add_patch(
            Rectangle((x, row - 0.07), 0.18, 0.14, facecolor=COLORS[name], edgecolor='#333333', linewidth=0.6)
        )
        axes.text(x + 0.25, row, OPERATORS[name], fontsize=8.5, va='center')
    letters = ', '.join(f'{letter} {word}' for letter, word in LETTERS.items() if letter in written)
    row = y + -(-len(used) // columns) * LEGEND
    about = f'height grows with: {outline.sizes};   {letters}'
    axes.text(0.15, row, about, fontsize=8, va='center', color='#444444')
