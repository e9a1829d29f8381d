"""A pytest plugin that turns timm's own tests/test_models.py, unchanged, on the entries of the zoo.

timm writes the names of its networks into ``parametrize`` marks while the file is imported. So the names are
exchanged there: what ``timm.list_models`` returns and, for the tests that have a list of their own, the
mark. The task is the JSON in the environment variable ``TIMM_SUITE``::

    {"entries": ["s3_tiny"], "without_maps": [], "listed": {"test_head_hidden_size": ["s3_tiny"]},
     "weights": "FOLDER", "report": "FOLDER/report.json"}

``entries`` are what ``list_models`` returns, of which ``without_maps`` are those whose ``forward_features``
gives no map; ``listed`` are the tests with a list of their own and the networks that these shall run on.
The report is a list of [test, network, outcome, message].
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
from timm.models import get_arch_name

import zoo

TASK: dict[str, Any] = json.loads(os.environ['TIMM_SUITE'])
REPORT: list[tuple[str, str, str, str]] = []
TAG = 'random'
# timm's patterns of its own networks without maps, in its list of exclusions, begin with this one.
WITHOUT_MAPS = 'vit_*'

list_all_models = timm.list_models


def give_weights(name: str) -> None:
    """Random weights in a file, so that timm's tests of pretrained networks run and need no network."""
    folder = Path(TASK['weights'])
    network = timm.create_model(name)
    safetensors.torch.save_file(network.state_dict(), folder / f'{name}.safetensors')
    entry = json.loads(zoo.load_entry(name).to_json())
    entry['weights'] = {TAG: {'sources': [{'file': f'{name}.safetensors'}]}}
    (folder / f'{name}.json').write_text(json.dumps(entry))
    zoo.register(folder / f'{name}.json')


def list_models(
    filter: str | list[str] = '',
    module: str | list[str] = '',
    pretrained: bool = False,
    exclude_filters: str | list[str] = '',
    name_matches_cfg: bool = False,
    include_tags: bool | None = None,
) -> list[str]:
    """``timm.list_models`` in a world of our entries, for all of which any ``module`` stands."""
    kept = set(TASK['entries'])
    if WITHOUT_MAPS in exclude_filters:
        kept -= set(TASK['without_maps'])
    elif WITHOUT_MAPS in filter:
        kept &= set(TASK['without_maps'])
        filter = ''
    names = list_all_models(
        filter,
        pretrained=pretrained,
        exclude_filters=exclude_filters,
        name_matches_cfg=name_matches_cfg,
        include_tags=include_tags,
    )
    return [name for name in names if get_arch_name(name) in kept]


def pytest_configure() -> None:
    for name in TASK['entries']:
        give_weights(name)
    timm.list_models = list_models
    timm.list_pretrained = lambda *args, **kwargs: list_models(*args, **kwargs, pretrained=True)


def argument(name: str, key: str) -> Any:
    """What a test with a list of its own gets for a network: sizes are its own and a larger one."""
    size = timm.get_pretrained_cfg(name).input_size[-1]
    return {'model_name': name, 'img_size': size, 'new_size': size + 32}.get(key, {})


def pytest_pycollect_makeitem(name: str, obj: Any) -> None:
    """Exchanges the networks in the mark of a test that has a list of its own."""
    if name not in TASK['listed']:
        return
    marks = []
    for mark in obj.pytestmark:
        if mark.name == 'parametrize' and mark.args[0].startswith('model_name'):
            keys = [key.strip() for key in mark.args[0].split(',')]
            values = [tuple(argument(network, key) for key in keys) for network in TASK['listed'][name]]
            mark = pytest.mark.parametrize(keys, values, ids=TASK['listed'][name]).mark
        marks.append(mark)
    obj.pytestmark = marks


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Function]) -> None:
    """Keeps the tests that have one of our networks, and of those of timm the ones which the task names."""
    kept, left = [], []
    for item in items:
        found = getattr(item, 'callspec', None) and item.callspec.params.get('model_name')
        wanted = TASK['listed'].get(item.originalname, TASK['entries'])
        (kept if isinstance(found, str) and get_arch_name(found) in wanted else left).append(item)
    for item in kept:
        item.user_properties.append((item.originalname, get_arch_name(item.callspec.params['model_name'])))
    config.hook.pytest_deselected(items=left)
    items[:] = kept


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == 'call' or report.outcome != 'passed':
        ((test, network),) = report.user_properties
        crash = getattr(report.longrepr, 'reprcrash', None)
        message = crash.message if crash else report.longrepr or ''
        REPORT.append((test, network, report.outcome, str(message)))


def pytest_sessionfinish() -> None:
    Path(TASK['report']).write_text(json.dumps(REPORT))
