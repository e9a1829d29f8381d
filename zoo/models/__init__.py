"""The families: one file each, with ``Arch`` (what a search decides) and the network (what that means)."""

from types import ModuleType

from zoo.models import carnet, glit, s3, trionet, uninet

__all__ = ['FAMILIES']

FAMILIES: dict[str, ModuleType] = {
    'carnet': carnet,
    'glit': glit,
    's3': s3,
    'trionet': trionet,
    'uninet': uninet,
}
"""The file of each family, by the name that entries use."""
