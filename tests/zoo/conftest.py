"""The stand-in for the Hub, and a registry that forgets, as fixtures."""

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants, hf_api
from huggingface_hub.utils import _http
from loopback_hub import Hub
from timm.models import _registry

from zoo import registry
from zoo.models import FAMILIES


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


@pytest.fixture
def clean_registry() -> Iterator[None]:
    """Undoes every registration of a test, in timm's tables as well."""
    before = set(registry._ENTRYPOINTS)
    yield
    for name in set(registry._ENTRYPOINTS) - before:
        module = FAMILIES[registry._ENTRYPOINTS.pop(name).entry.family]
        delattr(module, name)
        module.__all__.remove(name)
        del module.default_cfgs[name]
        _registry._clear_model_entries(name)
        del _registry._model_entrypoints[name]
