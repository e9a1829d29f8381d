"""Searched vision backbones as timm models: importing this package registers every bundled entry.

>>> import timm, zoo
>>> model = timm.create_model('s3_tiny')
"""

from pathlib import Path

from zoo.errors import ZooError
from zoo.fuse import fuse
from zoo.models import dsm as _dsm  # noqa: F401  (registers Swin and PVT with UniNet's modules)
from zoo.registry import config_path, list_entries, load_entry, register

__all__ = ['ZooError', '__version__', 'config_path', 'fuse', 'list_entries', 'load_entry', 'register']

__version__ = '0.1.0'

for _path in sorted((Path(__file__).resolve().parent / 'entries').glob('*.json')):
    register(_path)
