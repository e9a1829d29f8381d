"""The same conditions on every machine: one thread, no network, the same examples in every run.

What tests register is forgotten, and a stand-in for the Hub is at hand. The environment is set before torch,
Hugging Face's libraries and matplotlib are imported: they read it once.
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

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import pytest
import torch
from huggingface_hub import constants, hf_api
from huggingface_hub.utils import _http
from loopback_hub import Hub
from timm.models import _registry

from zoo import registry
from zoo.models import FAMILIES

torch.set_num_threads(1)

hypothesis.settings.register_profile('same', derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile('same')


@contextmanager
def restored_registry() -> Iterator[None]:
    """Undoes every registration that is made within, in timm's tables as well."""
    before = dict(registry._ENTRYPOINTS)
    yield
    for name, entrypoint in list(registry._ENTRYPOINTS.items()):
        if entrypoint is before.get(name):
            continue
        module = FAMILIES[entrypoint.entry.family]
        delattr(module, name)
        module.__all__.remove(name)
        del module.default_cfgs[name], registry._ENTRYPOINTS[name], _registry._model_entrypoints[name]
        _registry._clear_model_entries(name)
        if name in before:
            registry._register(before[name].entry, before[name].path)


@pytest.fixture(autouse=True, scope='module')
def _restore_registry_after_module() -> Iterator[None]:
    """After what fixtures of a whole module register."""
    with restored_registry():
        yield


@pytest.fixture(autouse=True)
def _restore_registry() -> Iterator[None]:
    with restored_registry():
        yield


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub without repositories, of this test alone (see :class:`loopback_hub.Hub`).

    The Hub's client in this process is logged in to it, has an empty cache, and does not wait before it tries
    again; all that is undone afterwards. The client has read its environment when it was imported, therefore
    its constants are replaced as well. A fresh process gets ``env=hub.environment(an_empty_folder)``.

    >>> def test_something(hub: Hub) -> None:
    ...     commit = hub.put('org/name', {'model.safetensors': data, 'config.json': text})
    ...     hub.fail('model.safetensors', status=500, times=1)
    """
    home = tmp_path_factory.mktemp('hf_home')
    with Hub() as server:
        redirect_client(server, home, monkeypatch)
        yield server
    _http.close_session()


def redirect_client(server: Hub, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _http.close_session()
    for key, value in server.variables(home).items():
        monkeypatch.setenv(key, value)
    replaced = {
        'ENDPOINT': server.url,
        'HUGGINGFACE_CO_URL_TEMPLATE': server.url + '/{repo_id}/resolve/{revision}/{filename}',
        'HF_HOME': str(home),
        'HF_HUB_CACHE': str(home / 'hub'),
        'HF_HUB_DISABLE_XET': True,
        'HF_HUB_OFFLINE': False,
        'HF_TOKEN_PATH': str(home / 'token'),
        'HF_STORED_TOKENS_PATH': str(home / 'stored_tokens'),
    }
    for name, value in replaced.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(hf_api.api, 'endpoint', server.url)
    impatient = SimpleNamespace(**{**vars(time), 'sleep': lambda _: None})
    for module in ('huggingface_hub.utils._http', 'huggingface_hub.file_download'):
        monkeypatch.setattr(f'{module}.time', impatient)
