"""The families: one file each, with ``Arch`` (what a search decides) and the network (what that means)."""

from types import ModuleType

from zoo.models import glit, s3, uninet

__all__ = ['FAMILIES']

FAMILIES: dict[str, ModuleType] = {'glit': glit, 's3': s3, 'uninet': uninet}
"""The file of each family, by the name that entries use."""
