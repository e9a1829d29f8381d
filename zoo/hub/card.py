"""The model card of a published network: README.md of its repository on the Hub.

Everything in it comes from the entry. What the authors published and what was measured here stand apart, and
whose result an architecture and its weights are is said first.
"""

import json

from huggingface_hub import EvalResult, ModelCardData

from zoo.entry import Entry, Input, Weights
from zoo.hub.papers import PAPERS, Paper

__all__ = ['PICTURE', 'make_card']

PICTURE = 'architecture.png'

HUB_LICENSES = (
    'agpl-3.0',
    'apache-2.0',
    'bsd-2-clause',
    'bsd-3-clause',
    'cc-by-4.0',
    'cc-by-nc-4.0',
    'cc-by-nc-nd-4.0',
    'cc-by-nc-sa-4.0',
    'cc-by-sa-4.0',
    'cc0-1.0',
    'gpl-3.0',
    'lgpl-3.0',
    'mit',
    'mpl-2.0',
    'openrail',
    'unlicense',
)
"""Licences of weights that the Hub has identifiers for. Any other one is called ``other``, with its name."""

HUB_DATASETS = {'ImageNet-1k': 'imagenet-1k'}
"""What entries call data, and the Hub's identifiers."""

ORIGINS = {
    'paper': "The architecture is the authors': a table of the paper gives it.",
    'official_code': "The architecture is the authors': their code gives it.",
    'reconstructed': 'The architecture is a reconstruction, not known to be that of the authors.',
    'placeholder': 'The architecture is a placeholder, not that of the authors.',
    'searched': "The architecture was found by searchzoo's own search, not by the authors of the paper.",
}
MACS = 'multiply-accumulates (MACs)'
METRICS = {'top1': 'top-1 accuracy (%)', 'top5': 'top-5 accuracy (%)'}


def make_card(entry: Entry, tag: str, repo: str, sha256: str, size: int) -> str:
    """The card's Markdown, with its metadata as YAML.

    Args:
        entry: The entry, with measured figures and a record of the weights.
        tag: Which of its weights are published.
        repo: ``org/name``.
        sha256: Of the file of weights.
        size: Of the file of weights, in bytes.
    """
    assert entry.weights is not None
    weights, papers = entry.weights[tag], PAPERS[entry.family]
    parts = [
        f'---\n{_metadata(entry, weights, repo).to_yaml()}\n---',
        f'# {entry.name}.{tag}',
        f'![The architecture of {entry.name}]({PICTURE})',
        _summary(entry, weights, papers),
        f'## Figures\n\n{_figures(entry)}',
        f'## Weights\n\n{_weights(weights, sha256, size)}',
        f'## Preprocessing\n\n{_preprocessing(weights.input or entry.input)}',
        f'## Use\n\n{_usage(entry, repo)}',
        f'## Licence\n\n{_license(weights)}',
        f'## Citation\n\n{_citation(entry, papers)}',
    ]
    return '\n\n'.join(parts) + '\n'


def _metadata(entry: Entry, weights: Weights, repo: str) -> ModelCardData:
    task = 'image-classification' if entry.num_classes else 'image-feature-extraction'
    license = (weights.license or 'unknown').lower()
    known = license in (*HUB_LICENSES, 'unknown')
    dataset = HUB_DATASETS.get(weights.data or '')
    results = [
        EvalResult(
            task_type=task,
            dataset_type=dataset or 'other',
            dataset_name=weights.data or 'not stated',
            metric_type='accuracy' if name in METRICS else name,
            metric_name=METRICS.get(name, name),
            metric_value=value,
        )
        for name, value in (weights.metrics or {}).items()
    ]
    return ModelCardData(
        library_name='timm',
        pipeline_tag=task,
        tags=[task, 'timm', 'transformers', 'searchzoo', 'neural-architecture-search', entry.family],
        license=license if known else 'other',
        license_name=None if known else weights.license,
        datasets=[dataset] if dataset else None,
        metrics=['accuracy'] if any(name in METRICS for name in weights.metrics or ()) else None,
        model_name=repo.partition('/')[2] if results else None,
        eval_results=results or None,
    )


def _summary(entry: Entry, weights: Weights, papers: tuple[Paper, ...]) -> str:
    cited = ' and '.join(f'[{paper.short}](https://arxiv.org/abs/{paper.arxiv})' for paper in papers)
    classes = f'{entry.num_classes} classes' if entry.num_classes else 'features, without a classifier'
    lines = [
        f'A vision network of the family {entry.family} ({cited}) for '
        f'{_shape(weights.input or entry.input)} images and {classes}, in [timm](https://github.com/'
        'huggingface/pytorch-image-models) and transformers through the package `searchzoo`.',
        f'**Where it comes from.** {ORIGINS[entry.provenance.kind]} {_line(entry.provenance.note)}',
    ]
    if entry.provenance.space is not None:
        lines.append("`entry.json` has the search's record: its space, configuration, seed, commit and cost.")
    return '\n\n'.join(lines)


def _figures(entry: Entry) -> str:
    """What was counted on this network beside what the authors printed."""
    assert entry.measured is not None
    measured, published, deviations = entry.measured, entry.published, entry.deviations()
    rows = [('parameters', f'{measured.params:,}', '', '')]
    if published and published.params:
        published_params = f'{published.params / 1e6:g} M'
        rows = [('parameters', f'{measured.params:,}', published_params, f'{deviations["params"]:+.2%}')]
    cost = published.cost if published else None
    if cost is None or cost.unit != 'macs':
        rows.append((MACS, f'{measured.macs:,}', '', ''))
    if cost is not None:
        counted = entry.measured_cost()
        rows.append(
            (
                MACS if cost.unit == 'macs' else f'cost as the paper counts it ({cost.unit})',
                f'{counted:,}' if counted is not None else '',
                f'{cost.value / 1e9:g} G',
                f'{deviations["cost"]:+.2%}' if 'cost' in deviations else '',
            )
        )
    notes = [f'Counted with searchzoo, batch 1, {_shape(entry.input)} images.']
    if published:
        notes.append(f'Published: {_line(published.source)}.')
        notes += [_line(published.note)] if published.note else []
    if published and published.top1 is not None:
        rows.append(('top-1 accuracy (%)', 'see below', f'{published.top1:g}', ''))
        notes.append("The published accuracy is the authors' figure; it was not measured with this file.")
    columns = 4 if published else 2
    head = [('figure', 'this network', 'published', 'difference'), ('---', '---:', '---:', '---:')]
    table = '\n'.join(f'| {" | ".join(row[:columns])} |' for row in [*head, *rows])
    return f'{table}\n\n{" ".join(notes)}'


def _weights(weights: Weights, sha256: str, size: int) -> str:
    lines = [f'`model.safetensors`: {size:,} bytes, sha256 `{sha256}`.']
    lines.append(f'Trained on: {_line(weights.data or "not stated")}.')
    if weights.metrics:
        rows = [f'| {METRICS.get(name, name)} | {value:g} |' for name, value in weights.metrics.items()]
        lines.append('\n'.join(['| measured with this file | |', '|---|---:|', *rows]))
        lines.append(f'How it was measured: {_line(weights.evaluation or "")}')
    else:
        lines.append('No accuracy was measured with this file.')
    if weights.training:
        record = json.dumps(weights.training, indent=2, ensure_ascii=False)
        lines.append(f'They were trained by searchzoo:\n\n```json\n{record}\n```')
    if weights.note:
        lines.append(_line(weights.note))
    elif not weights.training:
        lines.append('Who trained them and how is not recorded: do not take them for those of the paper.')
    return '\n\n'.join(lines)


def _preprocessing(image: Input) -> str:
    rows = [
        ('input', _shape(image)),
        ('resize', f'{image.interpolation}, crop {image.crop_pct:g} ({image.crop_mode})'),
        ('mean', ', '.join(f'{value:g}' for value in image.mean)),
        ('std', ', '.join(f'{value:g}' for value in image.std)),
    ]
    table = '\n'.join(f'| {key} | {value} |' for key, value in rows)
    return f'Images with values from 0 to 1 become:\n\n| | |\n|---|---|\n{table}'


def _usage(entry: Entry, repo: str) -> str:
    auto = 'AutoModelForImageClassification' if entry.num_classes else 'AutoModel'
    return f"""The architecture has to be known to timm first: `pip install searchzoo`, and `import zoo`.

timm:

```python
import timm
import zoo

model = timm.create_model('hf-hub:{repo}', pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
features = timm.create_model('hf-hub:{repo}', pretrained=True, features_only=True)
```

By its name, with the sha256 of the weights checked:

```python
zoo.register('hf-hub:{repo}')
model = timm.create_model('{entry.name}', pretrained=True)
```

transformers:

```python
import zoo
from transformers import AutoImageProcessor, {auto}

processor = AutoImageProcessor.from_pretrained('{repo}')
model = {auto}.from_pretrained('{repo}')
```

Backbone in a configuration of mmdetection or mmsegmentation:

```python
backbone=dict(type='ZooBackbone', name='hf-hub:{repo}')
```"""


def _license(weights: Weights) -> str:
    if weights.license:
        return f'Of the weights: {_line(weights.license)}. Of the code, `searchzoo`: apache-2.0.'
    return (
        '**None.** Whoever made the weights gave no licence for them: without one, the right to use or share '
        'them is theirs to give. Ask them.'
    )


def _citation(entry: Entry, papers: tuple[Paper, ...]) -> str:
    bibtex = '\n\n'.join(paper.bibtex() for paper in papers)
    what = (
        'The search space and the operators are' if entry.provenance.kind == 'searched' else 'The family is'
    )
    return f'{what} of:\n\n```bibtex\n{bibtex}\n```'


def _shape(image: Input) -> str:
    """'3x224x224'."""
    return 'x'.join(map(str, image.size))


def _line(text: str) -> str:
    """Text of an entry as one line that does not break a table or begin a heading."""
    return ' '.join(text.split()).replace('|', '\\|')
