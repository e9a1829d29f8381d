"""The official networks' outputs for weights and an image made by formula (see tests/golden/README.md)."""

import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

GOLDEN = Path(__file__).parents[2] / 'golden'


@dataclass
class Official:
    state_dict: dict[str, torch.Tensor]  # in the official layout, without buffers that are derived
    image: torch.Tensor  # (2, 3, 224, 224)
    golden: dict[str, Any]

    def check_logits(self, logits: torch.Tensor) -> None:
        error = (logits - torch.tensor(self.golden['logits'])).abs().max().item()
        assert error <= 5e-6 * self.golden['logits_std']

    def check_statistics(self, found: dict[str, torch.Tensor], group: str) -> None:
        """`found` holds an output for every tag of the golden's group 'stages' or 'blocks', channels last."""
        expected = self.golden[group]
        assert found.keys() == expected.keys()
        for tag, output in found.items():
            want, out = expected[tag], output.double()
            assert out.numel() == math.prod(want['shape']), tag
            first = out[0].reshape(-1, out.shape[-1])[0, : len(want.get('first8', []))]
            measured = [out.mean().item(), out.std(correction=0).item(), out.abs().max().item()]
            measured += first.tolist()
            wanted = [want['mean'], want['std'], want['absmax'], *want.get('first8', [])]
            np.testing.assert_allclose(measured, wanted, rtol=5e-6, atol=5e-6 * want['std'], err_msg=tag)


def fill(name: str, shape: list[int]) -> torch.Tensor:
    """The tensor that the goldens were computed with, from its official name and shape."""
    k = np.arange(1, math.prod(shape) + 1, dtype=np.int64)
    t = np.sin(0.7 * k + 1.1 * ((k * k) % 10007) + zlib.crc32(name.encode()) % 1000)
    if name.endswith('running_var'):
        t = 1 + 0.1 * np.abs(t)
    elif name.endswith(('pos_embed', 'cls_token', 'gamma_1', 'gamma_2')):
        t = 0.5 * t
    elif len(shape) >= 2:
        t = t / math.sqrt(math.prod(shape[1:]))
    elif name.endswith('.weight'):
        t = 1 + 0.1 * t
    else:
        t = 0.1 * t
    return torch.from_numpy(t.reshape(shape)).float()


@pytest.fixture
def official():
    def load(name: str) -> Official:
        derived = ('attn_mask', 'relative_position_index', 'num_batches_tracked')
        layout = json.loads((GOLDEN / f'{name}_state_dict.json').read_text())
        b, c, i, j = np.ogrid[0:2, 0:3, 0:224, 0:224]
        return Official(
            {key: fill(key, shape) for key, shape in layout if not key.endswith(derived)},
            torch.from_numpy(np.sin(0.01 * (31 * b + 17 * c + 3 * i + 7 * j))).float(),
            json.loads((GOLDEN / f'{name}_golden.json').read_text()),
        )

    return load
