"""The JSON Schema of an entry, for editors and other programs: the source of ``zoo/entry.schema.json``."""

from typing import Any

from pydantic.json_schema import models_json_schema

from zoo.entry import Entry
from zoo.models import FAMILIES

__all__ = ['entry_schema']


def entry_schema() -> dict[str, Any]:
    """The schema: an entry whose ``arch`` is that of its ``family``.

    Rules across fields (such as widths that heads must divide) are left to ``searchzoo zoo validate``.
    """
    models = [(Entry, 'validation'), *((module.Arch, 'validation') for module in FAMILIES.values())]
    references, definitions = models_json_schema(models, by_alias=True)  # type: ignore[arg-type]
    parts = definitions['$defs']
    entry: dict[str, Any] = parts.pop(references[Entry, 'validation']['$ref'].rpartition('/')[2])
    entry['properties']['family']['enum'] = sorted(FAMILIES)
    rules = [
        {
            'if': {'properties': {'family': {'const': family}}},
            'then': {'properties': {'arch': references[FAMILIES[family].Arch, 'validation']}},
        }
        for family in sorted(FAMILIES)
    ]
    head = {'$schema': 'https://json-schema.org/draft/2020-12/schema'}
    return head | entry | {'allOf': rules, '$defs': dict(sorted(parts.items()))}
