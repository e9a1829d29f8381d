"""The Markdown table of the shipped configurations: what their models cost, and what the papers print."""

from collections.abc import Sequence

from mmengine.config import Config
from tqdm import tqdm

from downstream.complexity import Complexity, measure_complexity
from zoo.registry import config_path
from zoo.table import replace_between

__all__ = ['BEGIN', 'END', 'list_configs', 'make_table', 'replace_table']

BEGIN, END = '<!-- downstream:begin -->', '<!-- downstream:end -->'

AREAS = ('detection', 'segmentation', 'panoptic')

COLUMNS = (
    'configuration',
    'params (M)',
    'MACs (G)',
    'at',
    'published params (M)',
    'published MACs (G)',
    'deviation: params, MACs',
    'published result (%)',
    'note',
)

RESULTS = {
    'box_ap': 'box AP',
    'mask_ap': 'mask AP',
    'miou': 'mIoU',
    'miou_tta': 'with scales and flips',
    'pq': 'PQ',
}
"""Keys of ``published``, as the table calls them."""


def list_configs(areas: Sequence[str] = AREAS) -> list[str]:
    """The names of the shipped configurations, such as ``detection/mask-rcnn_uninet-b1_fpn_1x_coco``."""
    folder = config_path('_base_/detection_runtime.py').parents[1]
    return [f'{area}/{path.stem}' for area in areas for path in sorted((folder / area).glob('*.py'))]


def make_table(names: Sequence[str] | None = None) -> str:
    """One row a configuration; its model is built on the meta device and counted.

    Args:
        names: Of shipped configurations, by default all of them.
    """
    rows = [COLUMNS, tuple('---' for _ in COLUMNS)]
    for name in tqdm(list_configs() if names is None else names, unit='model', leave=False):
        config = Config.fromfile(config_path(f'{name}.py'))
        rows.append(_row(name, config.published, measure_complexity(config)))
    return ''.join(f'| {" | ".join(row)} |\n' for row in rows)


def replace_table(text: str, where: str) -> str:
    """A Markdown text with the table between its two markers made anew.

    Args:
        text: The text.
        where: What errors call it.

    Raises:
        ZooError: The markers are missing or in the wrong order.
    """
    return replace_between(text, where, BEGIN, END, make_table)


def _row(name: str, published: dict, found: Complexity) -> tuple[str, ...]:
    here = {'params': found.params / 1e6, 'macs': found.macs / 1e9}
    printed = {key: published[key] for key in here if key in published}
    height, width = published['shape']
    return (
        f'`{name}`',
        f'{here["params"]:.1f}',
        f'{here["macs"]:.1f}',
        f'{height}x{width}',
        *(f'{printed[key]:g}' if key in printed else '' for key in here),
        ', '.join(f'{100 * (here[key] / value - 1):+.1f}%' for key, value in printed.items()),
        ', '.join(f'{published[key]:g} {label}' for key, label in RESULTS.items() if key in published),
        published.get('note', ''),
    )
