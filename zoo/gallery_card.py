"""What the gallery says of one entry: its network in words, its figures and record, and code to copy."""

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from zoo.entry import Entry, Source
from zoo.outline import OPERATORS, Block, Outline, Part, Stage, make_outline
from zoo.picture import LETTERS, make_scale, measure_columns, part_height, used_operators
from zoo.registry import describe_missing

__all__ = ['Card', 'describe_stage', 'list_figures', 'list_snippets', 'locate', 'make_card', 'shorten']

PIXELS = 88
"""Of the page, for an inch of a picture file."""

Figures = tuple[str, str, str, str]


@dataclass(frozen=True)
class Card:
    """An entry, made ready for the page.

    Attributes:
        entry: The entry.
        outline: Of its network, at its image size.
        words: The outline in words: each stage, and its blocks.
        column: Width of a block in the picture, in pixels.
        height: Gives a part's height in the picture, in pixels.
        operators: Names of the operators in the picture.
        letters: What the letters in the picture stand for.
        figures: Rows of name, measured, published, difference.
        record: Of the search that found the architecture.
        weights: 'auto' if there are some that can be fetched, 'hand' if only people can, or 'none'.
        missing: How to come by weights where there are none.
        snippets: Titles and code.
    """

    entry: Entry
    outline: Outline
    words: list[tuple[str, list[str]]]
    column: int
    height: Callable[[Part], int]
    operators: list[str]
    letters: list[str]
    figures: list[Figures]
    record: list[str]
    weights: Literal['auto', 'hand', 'none']
    missing: str
    snippets: list[tuple[str, str]]


def make_card(entry: Entry, file: str | None = None) -> Card:
    """What the page says of an entry.

    Args:
        entry: The entry.
        file: Its file, where users have to register it.
    """
    outline = make_outline(entry.arch, entry.input.size[1:])
    scale = make_scale(outline)
    state = find_weights(entry)
    return Card(
        entry=entry,
        outline=outline,
        words=[describe_stage(stage) for stage in outline.stages],
        column=round(PIXELS * measure_columns(outline)[0]) + 4,
        height=lambda part: round(PIXELS * part_height(part, scale)),
        operators=used_operators(outline),
        letters=list_letters(outline),
        figures=list_figures(entry),
        record=list_record(entry),
        weights=state,
        missing=describe_missing(entry) if state == 'none' else '',
        snippets=list_snippets(entry, file),
    )


def find_weights(entry: Entry) -> Literal['auto', 'hand', 'none']:
    """See :class:`Card`."""
    if not entry.weights:
        return 'none'
    return 'hand' if all(weights.by_hand for weights in entry.weights.values()) else 'auto'


def locate(source: Source) -> str:
    """The web address of a source of weights; '' for a file."""
    if source.hf_hub_id:
        return f'https://huggingface.co/{source.hf_hub_id}/tree/{source.revision or "main"}'
    return source.url or source.page or ''


# ---- the picture, in words


def describe_stage(stage: Stage) -> tuple[str, list[str]]:
    """A stage for those who cannot see it, and its blocks; equal ones in a row are described once."""
    details = stage.details.replace('\n', ', ')
    before = f', after {stage.before}' if stage.before else ''
    runs = [list(run) for _, run in groupby(stage.blocks, key=lambda block: block.parts)]
    return f'{stage.label.capitalize()} ({details}){before}.', [describe_run(run) for run in runs]


def describe_run(blocks: list[Block]) -> str:
    """'Blocks 1 to 3: axial attention, heads 4, expansion 2; 1x1 convolution.'"""
    first, last = blocks[0], blocks[-1]
    numbers = f'Block {first.label}' if first is last else f'Blocks {first.label} to {last.label}'
    return f'{numbers}: {"; ".join(" beside ".join(map(describe_part, row)) for row in first.rows())}.'


def describe_part(part: Part) -> str:
    """'axial attention, heads 4, expansion 2'."""
    details = [f'{LETTERS[line[0]].partition(" (")[0]} {line[1:]}' for line in lettered_lines(part)]
    words = [] if details or not part.text else [part.text.replace('\n', ' ')]
    return ', '.join([OPERATORS[part.operator], *details, *words])


def list_letters(outline: Outline) -> list[str]:
    """The letters that stand in a picture, with their meaning."""
    used = {line[0] for part in outline.parts for line in lettered_lines(part)}
    return [f'{letter} {word}' for letter, word in LETTERS.items() if letter in used]


def lettered_lines(part: Part) -> list[str]:
    """What stands in a part as a letter and a number, such as h4; the other texts are words."""
    return [line for line in part.text.split('\n') if line[:1] in LETTERS and line[1:2].isdigit()]


# ---- the facts


def shorten(value: float) -> str:
    """A count in three digits: '28.3 M'."""
    for factor, unit in ((1e9, 'G'), (1e6, 'M'), (1e3, 'k')):
        if value >= 0.9995 * factor:
            return f'{value / factor:#.3g}'.rstrip('.') + f' {unit}'
    return f'{value:.3g}'


def list_figures(entry: Entry) -> list[Figures]:
    """What was counted on this network beside what the authors printed, cost in their unit as well."""
    measured, published = entry.measured, entry.published
    differences = {key: f'{100 * value:+.2f} %' for key, value in entry.deviations().items()}
    params = f'{published.params / 1e6:g} M' if published and published.params else ''
    cost = published.cost if published else None
    rows = [('parameters', f'{measured.params:,}' if measured else '', params, differences.get('params', ''))]
    if cost is None or cost.unit != 'macs':
        rows.append(('MACs', f'{measured.macs:,}' if measured else '', '', ''))
    if cost is not None:
        label = 'MACs' if cost.unit == 'macs' else f'cost ({cost.unit})'
        counted = entry.measured_cost()
        counted_text = '' if counted is None else f'{counted:,}'
        rows.append((label, counted_text, f'{cost.value / 1e9:g} G', differences.get('cost', '')))
    if published and published.top1 is not None:
        known = [weights.metrics or {} for weights in (entry.weights or {}).values()]
        found = [f'{metrics["top1"]:g} %' for metrics in known if 'top1' in metrics] or ['not measured']
        rows.append(('top-1 accuracy', found[0], f'{published.top1:g} %', ''))
    return rows


def list_record(entry: Entry) -> list[str]:
    """What a search has recorded of itself, except its configuration and space."""
    origin = entry.provenance
    method = origin.config.get('method') if isinstance(origin.config, dict) else None
    facts = {'method': method, 'seed': origin.seed, 'commit': origin.commit} | flatten(origin.cost or {})
    return [f'{key} {value}' for key, value in facts.items() if value is not None]


def flatten(cost: dict) -> dict[str, str]:
    """{'level1': {'retrain_steps': 9}} becomes {'level1 retrain steps': '9'}."""
    found: dict[str, str] = {}
    for key, value in cost.items():
        text = value if isinstance(value, str) else json.dumps(value)
        inner = flatten(value) if isinstance(value, dict) else {'': text}
        found |= {f'{key.replace("_", " ")} {name}'.strip(): text for name, text in inner.items()}
    return found


# ---- the code


def list_snippets(entry: Entry, file: str | None = None) -> list[tuple[str, str]]:
    """Code to copy, with titles: the network, its feature maps, its training.

    Args:
        entry: The entry.
        file: Its file, where users have to register it.
    """
    name, state = entry.name, find_weights(entry)
    head = 'import timm\nimport zoo\n\n' + (f'zoo.register({file!r})\n' if file else '')
    transform = (
        'config = timm.data.resolve_model_data_config(model)\n'
        'transform = timm.data.create_transform(**config)'
    )
    snippets = []
    if state == 'auto':
        tags = [tag for tag, weights in (entry.weights or {}).items() if not weights.by_hand]
        full = name if tags[0] == next(iter(entry.weights or {})) else f'{name}.{tags[0]}'
        model = f'model = timm.create_model({full!r}, pretrained=True).eval()'
        snippets.append(('With weights', f'{head}{model}\n{transform}'))
    elif state == 'hand':
        weights_file = f'{name}.safetensors'
        overlay = f"cfg = {{'file': {weights_file!r}}}"
        model = f'model = timm.create_model({name!r}, pretrained=True, pretrained_cfg_overlay=cfg).eval()'
        if file is None:
            command = f'searchzoo zoo convert {name} FILE {weights_file}'
            snippets.append(('Convert the downloaded FILE', command))
        snippets.append(('With the converted weights', f'{head}{overlay}\n{model}\n{transform}'))
    else:
        snippets.append(('Without weights', f'{head}model = timm.create_model({name!r})'))
    maps = (
        f'backbone = timm.create_model({name!r}, features_only=True)\n'
        'print(backbone.feature_info.channels(), backbone.feature_info.reduction())'
    )
    snippets.append(('As a backbone', f'{head}{maps}'))
    if entry.input.size[0] == 3:
        loaded = ', pretrained=True' if state == 'auto' else ''
        config = (
            "custom_imports = dict(imports=['downstream.backbone'], allow_failed_imports=False)\n"
            f"backbone = dict(type='ZooBackbone', name={file or name!r}{loaded})"
        )
        snippets.append(('In a configuration of mmdetection or mmsegmentation', config))
    if entry.recipe:
        command = f'searchzoo search train {shlex.quote(file or name)} {entry.recipe} --out runs/{name}'
        snippets.append(('Train it', command))
    return snippets
