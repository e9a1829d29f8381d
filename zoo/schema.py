"""The JSON Schema of an entry, for editors and other programs: the source of ``zoo/entry.schema.json``."""

from typing import Any

from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from zoo.entry import Entry
from zoo.models import FAMILIES

__all__ = ['entry_schema']


def entry_schema() -> dict[str, Any]:
    """The schema: an entry whose ``arch`` is that of its ``family``.

    Rules across fields (such as widths that heads must divide) are left to ``searchzoo zoo validate``.
    """
    models: list[Any] = [(Entry, 'validation')]
    models += [(module.Arch, 'validation') for module in FAMILIES.values()]
    references, document = models_json_schema(models, by_alias=True, schema_generator=_Plain)
    parts = document['$defs']
    for part in parts.values():
        if 'description' in part:
            part['description'] = ' '.join(part['description'].partition('\n\n')[0].split())
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


class _Plain(GenerateJsonSchema):
    """Without a title at every field, which would only repeat its name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False
