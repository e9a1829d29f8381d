"""A small network of every family as an entry, for the tests of backbones."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import zoo

CONV = {'operator': 'conv', 'expansion': 0.5, 'kernel_size': 3}
AXIAL = {'operator': 'axial', 'expansion': 0.5, 'qk_rate': 0.5, 'v_rate': 1.0, 'num_heads': 2}
LOCAL = AXIAL | {'operator': 'local', 'kernel_size': 3}
GLOBAL = {'global_heads': 2, 'local_heads': 0, 'qkv_dim': 16, 'mlp_ratio': 2.0}
SEQUENCE_CONV = {'global_heads': 0, 'local_heads': 2, 'kernel_size': 3, 'expansion': 1.5, 'mlp_ratio': 1.0}
MIXED = SEQUENCE_CONV | {'global_heads': 1, 'local_heads': 1, 'qkv_dim': 8}


def window_stage(embed_dim: int, *windows: int) -> dict[str, Any]:
    blocks = [{'num_heads': 1, 'window_size': window, 'mlp_ratio': 1.5} for window in windows]
    return {'embed_dim': embed_dim, 'blocks': blocks}


def uninet_stage(operator: str, downsample: str | None, channels: int) -> dict[str, Any]:
    stage = {'operator': operator, 'expansion': 2, 'channels': channels, 'repeats': 1}
    return stage | ({'downsample': downsample} if downsample else {})


LOCAL_K3, NON_LOCAL = ['local_k3_h4'], ['non_local']
OPERATORS = [LOCAL_K3, LOCAL_K3, LOCAL_K3, NON_LOCAL, NON_LOCAL]
ARCHS: dict[str, dict[str, Any]] = {
    'carnet': {'channels': 16, 'operators': OPERATORS, 'stem': 'conv'},
    'glit': {'embed_dim': 16, 'num_heads': 2, 'blocks': [GLOBAL, SEQUENCE_CONV, MIXED, MIXED]},
    's3': {
        'stages': [window_stage(8, 4, 4), window_stage(16, 7, 3), window_stage(24, 5), window_stage(32, 3)]
    },
    'trionet': {'stages': [[CONV], [CONV, LOCAL], [LOCAL, AXIAL], [AXIAL]], 'out_channels': [8, 16, 24, 32]},
    'uninet': {
        'stages': [
            uninet_stage('dwconv', None, 8),
            uninet_stage('conv', 'l', 8),
            uninet_stage('lsa', 'lg', 16),
            uninet_stage('mlp', 'l', 24),
            uninet_stage('sa', 'l', 24),
            uninet_stage('sa', 'g', 32),
        ],
        'stem_channels': 8,
        'head_channels': 48,
    },
}


def write_file(folder: Path, name: str, family: str, arch: dict[str, Any], **changes: Any) -> Path:
    """Writes an entry of a network for images of 64 x 64 pixels and 10 classes."""
    entry = {
        'schema': 1,
        'name': name,
        'family': family,
        'num_classes': 10,
        'arch': arch,
        'input': {'size': [3, 64, 64], 'mean': [0.5] * 3, 'std': [0.25] * 3, 'crop_pct': 1.0},
        'provenance': {'kind': 'searched', 'note': 'Made up by a test.'},
    }
    path = folder / f'{name}.json'
    path.write_text(json.dumps(entry | changes))
    return path


@pytest.fixture(scope='module')
def tiny_entries(tmp_path_factory: pytest.TempPathFactory) -> None:
    """``tiny_<family>`` of every family, and ``tiny_flat``, a carnet for small images: strides 1, 2, 4."""
    folder = tmp_path_factory.mktemp('entries')
    for family, arch in ARCHS.items():
        zoo.register(write_file(folder, f'tiny_{family}', family, arch))
    zoo.register(write_file(folder, 'tiny_flat', 'carnet', {'channels': 16, 'operators': OPERATORS}))


@pytest.fixture
def write_entry(tmp_path: Path) -> Callable[..., Path]:
    """``write_entry(name, family, **changes)`` writes an entry of the family's small network."""
    return lambda name, family, **changes: write_file(tmp_path, name, family, ARCHS[family], **changes)
