"""The same conditions on every machine: one thread, no network, the same examples in every run.

The environment is set before torch, Hugging Face's libraries and matplotlib are imported: they read it once.
"""

import os

os.environ.update(
    OMP_NUM_THREADS='1',
    MKL_NUM_THREADS='1',
    HF_HUB_OFFLINE='1',
    HF_DATASETS_OFFLINE='1',
    HF_HUB_DISABLE_TELEMETRY='1',
    MPLBACKEND='Agg',
)

import hypothesis
import torch

torch.set_num_threads(1)

hypothesis.settings.register_profile('same', derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile('same')
