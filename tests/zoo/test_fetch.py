"""Weights come from where the entry says, are the ones it means, and nothing half-fetched is ever used."""

import hashlib
import json
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants
from loopback_hub import Hub
from safetensors.torch import load, save
from test_registry import ARCH, BLOCK, small, write

import zoo
from zoo import console
from zoo.errors import ZooError
from zoo.files import sha256_file

NAME = 's3_small_test'
REPO = 'org/s3_small_test.digits'
pytestmark = pytest.mark.filterwarnings('error:Weights of')


@pytest.fixture(scope='module')
def weights() -> bytes:
    torch.manual_seed(0)
    return save(timm.create_model('s3', arch=ARCH, in_chans=1, num_classes=10).state_dict())


def digest(data: bytes) -> dict[str, Any]:
    return {'sha256': hashlib.sha256(data).hexdigest(), 'size': len(data)}


def register(folder: Path, *sources: dict[str, Any]) -> Path:
    path = write(folder, small(weights={'digits': {'sources': list(sources)}}))
    zoo.register(path)
    return path


def equal(model: torch.nn.Module, data: bytes) -> bool:
    wanted = load(data)
    found = model.state_dict()
    return found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob('*') if path.is_file())


def test_weights_of_a_pinned_revision(hub: Hub, tmp_path: Path, weights: bytes) -> None:
    commit = hub.put(REPO, {'model.safetensors': weights})
    hub.put(REPO, {'model.safetensors': b'newer ones'})
    register(tmp_path, {'hf_hub_id': REPO, 'revision': commit, **digest(weights)})
    for name in (NAME, f'{NAME}.digits'):
        model = timm.create_model(name, pretrained=True)
        assert equal(model, weights)
        assert model.pretrained_cfg == model.default_cfg
        assert model.pretrained_cfg['hf_hub_id'] == f'{REPO}@{commit}'
        assert 'file' not in model.pretrained_cfg
    assert not any('main' in request for request in hub.requests)
    backbone = timm.create_model(NAME, pretrained=True, features_only=True)
    assert 'file' not in backbone.pretrained_cfg
    assert torch.equal(backbone.patch_embed.proj.weight, load(weights)['patch_embed.proj.weight'])


def test_without_a_pin_there_is_one_warning(hub: Hub, tmp_path: Path, weights: bytes) -> None:
    hub.put(REPO, {'model.safetensors': weights})
    register(tmp_path, {'hf_hub_id': REPO})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('default')
        for _ in range(3):
            assert equal(timm.create_model(NAME, pretrained=True), weights)
    assert [str(w.message) for w in caught] == [
        f'Weights of {NAME}.digits from {REPO}: the entry does not pin them yet, so that other ones would '
        f'not be noticed; `searchzoo zoo verify --update {NAME}` writes revision and sha256.'
    ]
    assert caught[0].filename == __file__


@pytest.mark.parametrize('kind', ['hub', 'url', 'file'])
def test_other_bytes_are_refused_and_stay(kind: str, hub: Hub, tmp_path: Path, weights: bytes) -> None:
    other = save({key: tensor + 1 for key, tensor in load(weights).items()})
    said = digest(weights)
    source: dict[str, Any] = {'hf_hub_id': REPO, 'revision': hub.put(REPO, {'model.safetensors': other})}
    if kind == 'url':
        source = {'url': hub.serve('w.safetensors', other)}
    elif kind == 'file':
        source = {'file': 'w.safetensors'}
        (tmp_path / 'w.safetensors').write_bytes(other)
    # a second source must not make up for a wrong first one
    register(tmp_path, source | said, {'url': hub.serve('good.safetensors', weights), **said})
    with pytest.raises(ZooError) as caught:
        timm.create_model(NAME, pretrained=True)
    for text in (NAME, digest(other)['sha256'] if kind != 'url' else '', said['sha256']):
        assert text in str(caught.value)
    assert '\n' not in str(caught.value)
    if kind == 'file':
        assert (tmp_path / 'w.safetensors').read_bytes() == other


def test_sources_are_tried_in_order(hub: Hub, tmp_path: Path, weights: bytes) -> None:
    """A mirror may hold another file of the same tensors, such as the one that the authors released."""
    torch.save({'model': load(weights), 'epoch': 3}, tmp_path / 'released.pth')
    released = (tmp_path / 'released.pth').read_bytes()
    register(
        tmp_path,
        {'page': 'https://example.org/by-hand'},
        {'hf_hub_id': 'org/moved', 'revision': 'a' * 40, **digest(weights)},
        {'url': f'{hub.url}/files/gone.pth', **digest(released)},
        {'url': hub.serve('released.pth?download=1', released).partition('?')[0] + '?download=1'}
        | digest(released),
    )
    hub.files['released.pth'] = released
    assert equal(timm.create_model(NAME, pretrained=True), weights)
    (cached,) = (path for path in Path(torch.hub.get_dir(), 'checkpoints').iterdir())
    assert cached.name == f'{NAME}.digits-{digest(released)["sha256"][:8]}.pth'
    before = len(hub.requests)
    assert equal(timm.create_model(NAME, pretrained=True), weights)
    assert not any('released' in request for request in hub.requests[before:])


@pytest.mark.parametrize(
    ('status', 'reason'), [(404, 'no such'), (401, 'hf auth login'), (500, 'the server answered 500')]
)
def test_a_server_that_refuses_is_named(
    status: int, reason: str, hub: Hub, tmp_path: Path, weights: bytes
) -> None:
    source = {'hf_hub_id': REPO, 'revision': hub.put(REPO, {'model.safetensors': weights}), **digest(weights)}
    mirror = {'url': hub.serve('w.safetensors', weights), **digest(weights)}
    register(tmp_path, source, mirror)
    hub.fail(status=status)
    with pytest.raises(ZooError) as caught:
        timm.create_model(NAME, pretrained=True)
    assert '\n' not in str(caught.value)
    for text in (
        f'Weights of {NAME}.digits cannot be fetched',
        reason,
        REPO,
        mirror['url'],
        'dict(file=...)',
    ):
        assert text in str(caught.value)
    assert timm.create_model(NAME) is not None
    hub.heal()
    assert equal(timm.create_model(NAME, pretrained=True), weights)


@pytest.mark.parametrize('kind', ['hub', 'url', 'url of unknown size'])
def test_a_cut_download_leaves_nothing(kind: str, hub: Hub, tmp_path: Path, weights: bytes) -> None:
    source: dict[str, Any] = {'url': hub.serve('w.safetensors', weights)} | digest(weights)
    if kind == 'hub':
        source = {'hf_hub_id': REPO, 'revision': hub.put(REPO, {'model.safetensors': weights})}
        source |= digest(weights)
    elif kind == 'url of unknown size':
        del source['size'], source['sha256']
    register(tmp_path, source)
    hub.fail(r'/cdn/|/files/', method='GET')
    with pytest.raises(ZooError, match='cannot be fetched') as caught:
        timm.create_model(NAME, pretrained=True)
    assert '\n' not in str(caught.value)
    assert not files_in(Path(torch.hub.get_dir()))
    assert 'model.safetensors' not in files_in(Path(constants.HF_HUB_CACHE))
    hub.heal()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert equal(timm.create_model(NAME, pretrained=True), weights)


def test_a_download_goes_on_where_it_was_cut(hub: Hub, tmp_path: Path, weights: bytes) -> None:
    register(tmp_path, {'url': hub.serve('w.safetensors', weights), **digest(weights)})
    hub.fail('/files/', method='GET', times=1)
    assert equal(timm.create_model(NAME, pretrained=True), weights)


def test_offline(hub: Hub, tmp_path: Path, weights: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = hub.put(REPO, {'model.safetensors': weights})
    register(tmp_path, {'hf_hub_id': REPO, 'revision': commit, **digest(weights)})
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    with pytest.raises(ZooError, match='HF_HUB_OFFLINE is set, and it is not in the cache'):
        timm.create_model(NAME, pretrained=True)
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    timm.create_model(NAME, pretrained=True)
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    before = len(hub.requests)
    assert equal(timm.create_model(NAME, pretrained=True), weights)
    assert len(hub.requests) == before


def test_a_users_own_source_is_loaded_as_timm_loads_it(hub: Hub, tmp_path: Path, weights: bytes) -> None:
    register(tmp_path, {'hf_hub_id': REPO, 'revision': 'a' * 40, **digest(b'0')})
    (tmp_path / 'own.safetensors').write_bytes(weights)
    torch.save(load(weights), tmp_path / 'own.pth')
    hub.put('someone/else', {'model.safetensors': weights})
    for overlay in (
        {'file': str(tmp_path / 'own.safetensors')},
        {'state_dict': load(weights)},
        {'hf_hub_id': 'someone/else'},
        {'url': (tmp_path / 'own.pth').as_uri(), 'hf_hub_id': None},
    ):
        model = timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=overlay)
        assert equal(model, weights)
        assert model.pretrained_cfg.get('file') == overlay.get('file')


@pytest.mark.parametrize('kind', ['hub', 'url'])
def test_two_processes_fetch_at_once(kind: str, hub: Hub, tmp_path: Path, weights: bytes) -> None:
    source = {'hf_hub_id': REPO, 'revision': hub.put(REPO, {'model.safetensors': weights})}
    if kind == 'url':
        source = {'url': hub.serve('w.safetensors', weights)}
    path = register(tmp_path / 'entry', source | digest(weights))
    code = (
        'import sys, timm, zoo; zoo.register(sys.argv[1]); '
        f'timm.create_model("{NAME}", pretrained=True); print("done")'
    )
    processes = [
        subprocess.Popen(
            [sys.executable, '-c', code, str(path)],
            cwd=Path(zoo.__file__).parents[1],
            env=hub.environment(tmp_path / 'home'),
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    assert [process.communicate(timeout=300)[0] for process in processes] == ['done\n', 'done\n']


class Hostile:
    """A pickle of it creates a file when it is read."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize('ending', ['.pth', '.bin', '.safetensors'])
def test_a_pickle_is_not_run(ending: str, hub: Hub, tmp_path: Path, weights: bytes) -> None:
    torch.save({'model': load(weights), 'extra': Hostile(tmp_path / 'created')}, tmp_path / 'w.pth')
    data = (tmp_path / 'w.pth').read_bytes()
    register(tmp_path, {'url': hub.serve(f'w{ending}', data), **digest(data)})
    with pytest.raises(ZooError, match=f'Weights of {NAME} from .* cannot be loaded') as caught:
        timm.create_model(NAME, pretrained=True)
    assert '\n' not in str(caught.value)
    assert 'Re-running' not in str(caught.value)
    assert not (tmp_path / 'created').exists()
    torch.load(tmp_path / 'w.pth', weights_only=False)  # it would have
    assert (tmp_path / 'created').exists()


# ---- entries of repositories


def published(weights: bytes, **changes: Any) -> dict[str, bytes]:
    source = {'hf_hub_id': REPO, **digest(weights)}
    entry = small(weights={'digits': {'sources': [source], 'license': 'mit'}}) | changes
    return {'entry.json': json.dumps(entry).encode(), 'model.safetensors': weights}


def test_register_from_the_hub(hub: Hub, weights: bytes) -> None:
    first = hub.put(REPO, published(weights))
    other = save({key: tensor + 1 for key, tensor in load(weights).items()})
    second = hub.put(REPO, published(other))
    for name, commit, wanted in [(f'{REPO}@{first}', first, weights), (REPO, second, other)]:
        assert zoo.register(f'hf-hub:{name}') == NAME
        source = zoo.load_entry(NAME).weights['digits'].sources[0]
        assert (source.hf_hub_id, source.revision) == (REPO, commit)
        assert equal(timm.create_model(NAME, pretrained=True), wanted)
    entrypoint = pickle.loads(pickle.dumps(timm.models.model_entrypoint(NAME)))
    assert equal(entrypoint(pretrained=True), other)


@pytest.mark.parametrize(
    ('name', 'files', 'reason'),
    [
        ('org/nothing', None, 'there is no such repository'),
        (REPO, {'config.json': b'{}'}, r'its entry\.json cannot be fetched: the repository has no such file'),
        (f'{REPO}@v2', {'entry.json': b'{}'}, 'no such revision'),
        (REPO, {'entry.json': b'{}'}, r'\$\.name: found nothing'),
        (REPO, {'entry.json': b'\x80\x04garbage'}, 'not UTF-8'),
        (REPO, {'entry.json': b'[' * 5000 + b']' * 5000}, 'nested too deeply'),
        (REPO, {'family': 'resnet'}, 'must be one of carnet'),
        (REPO, {'name': '../../x'}, r'\$\.name: found'),
        (REPO, {'arch': {'stages': [{'embed_dim': 10**9, 'blocks': []}]}}, r'embed_dim: found 1000000000'),
        ('no-slash', None, 'the form hf-hub:org/name'),
        ('org/..', None, 'cannot be fetched'),
    ],
)
def test_faulty_repositories(
    name: str, files: dict[str, Any] | None, reason: str, hub: Hub, weights: bytes
) -> None:
    if files is not None:
        is_files = any('.' in key for key in files)
        hub.put(REPO, files if is_files else published(weights, **files))
    with pytest.raises(ZooError, match=reason):
        zoo.register(f'hf-hub:{name}')
    assert not timm.is_model(NAME)


# ---- searchzoo zoo verify


def verify(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, list[str]]:
    code = console.main(['zoo', 'verify', *args])
    out, err = capsys.readouterr()
    return code, (out + err).splitlines()


def test_verify(hub: Hub, tmp_path: Path, weights: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / 'w.safetensors').write_bytes(weights)
    commit = hub.put(REPO, {'model.safetensors': weights})
    path = register(
        tmp_path,
        {'file': 'w.safetensors', **digest(weights)},
        {'hf_hub_id': REPO, 'revision': commit, **digest(weights)},
        {'url': hub.serve('w.safetensors', weights), **digest(weights)},
        {'page': 'https://example.org/by-hand'},
    )
    before = path.read_bytes()
    code, lines = verify(capsys, str(path))
    assert (code, len(lines)) == (0, 5), lines
    assert [line.split()[0] for line in lines[:4]] == ['holds', 'holds', 'holds', 'by']
    assert lines[-1] == '4 sources, none of which fail'
    assert path.read_bytes() == before
    assert not files_in(Path(constants.HF_HUB_CACHE))
    assert not Path(torch.hub.get_dir()).exists()

    hub.files['w.safetensors'] = weights + b'0'
    hub.fail(f'/{REPO}/', status=404)
    (tmp_path / 'w.safetensors').unlink()
    code, lines = verify(capsys, NAME)
    assert code == 1
    assert [line.split()[0] for line in lines[:4]] == ['FAILS', 'FAILS', 'FAILS', 'by']
    assert lines[-1] == '4 sources, 3 of which fail'


def test_verify_notices_what_the_hub_serves_today(
    hub: Hub, tmp_path: Path, weights: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    commit = hub.put(REPO, {'model.safetensors': weights[:-8] + b'01234567'})
    path = register(tmp_path, {'hf_hub_id': REPO, 'revision': commit, **digest(weights)})
    code, lines = verify(capsys, str(path), '--update')
    assert code == 1
    assert digest(weights)['sha256'] in lines[0]
    assert (
        json.loads(path.read_text())['weights']['digits']['sources'][0]['sha256'] == digest(weights)['sha256']
    )


def test_update_writes_what_is_not_known_yet(
    hub: Hub, tmp_path: Path, weights: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    small_file = save({'x': torch.zeros(1)})
    commit = hub.put(REPO, {'model.safetensors': weights, 'plain.bin': small_file})
    url = hub.serve('w.safetensors', weights)
    path = register(tmp_path, {'hf_hub_id': REPO}, {'hf_hub_id': REPO, 'filename': 'plain.bin'}, {'url': url})
    code, lines = verify(capsys, NAME)
    assert code == 1
    assert 'revision and sha256 and size are not recorded; --update writes them' in lines[0]
    assert verify(capsys, NAME, '--update')[0] == 0
    sources = json.loads(path.read_text())['weights']['digits']['sources']
    assert sources == [
        {'hf_hub_id': REPO, 'revision': commit, **digest(weights)},
        {'hf_hub_id': REPO, 'filename': 'plain.bin', 'revision': commit, **digest(small_file)},
        {'url': url, **digest(weights)},
    ]
    assert sha256_file(path) == sha256_file(path)
    assert verify(capsys, NAME) == (0, verify(capsys, NAME)[1])
    hub.put(REPO, {'model.safetensors': b'newer'})
    assert equal(timm.create_model(NAME, pretrained=True), weights)


def test_verify_needs_names_or_all(capsys: pytest.CaptureFixture[str]) -> None:
    for args in ([], ['s3_tiny', '--all']):
        code, (line,) = verify(capsys, *args)
        assert (code, line.partition(' See ')[0]) == (
            1,
            'verify: either names of entries or --all is needed.',
        )
    code, lines = verify(capsys, 's3_tny')
    assert code == 1
    assert 'did you mean s3_tiny' in lines[0]


# ---- config.json of repositories, which timm reads


@pytest.mark.parametrize(
    ('changes', 'error', 'reason'),
    [
        ({'architecture': 'no_such_network'}, RuntimeError, r'Unknown model \(no_such_network\)'),
        (
            {'model_args': {'arch': {'stages': [{'embed_dim': 10**12, 'blocks': [BLOCK]}]}}},
            ZooError,
            'embed_dim',
        ),
        (
            {'model_args': {'arch': {**ARCH, 'depth': 3}}},
            ZooError,
            r'arch: \$\.depth: found 3, this key is not known',
        ),
        ({'model_args': {}}, ZooError, 's3 needs arch='),
        ({'model_args': {'arch': '/etc/passwd'}}, ZooError, '/etc/passwd: not JSON'),
        (
            {'model_args': {'arch': ARCH, 'img_size': 10**8}},
            ZooError,
            'img_size: found 100000000, whole numbers',
        ),
        (
            {'model_args': {'arch': ARCH, 'in_chans': 10**8}},
            ZooError,
            'found .*100000000.*, whole numbers',
        ),
        ({'num_classes': 10**10}, ZooError, 'num_classes: found 10000000000, whole numbers'),
        ({'pretrained_cfg': {'input_size': [3, 10**8, 10**8]}}, ZooError, 'input_size: found'),
    ],
    ids=str,
)
def test_faulty_configurations(
    changes: dict[str, Any], error: type[Exception], reason: str, hub: Hub, weights: bytes
) -> None:
    config = {
        'architecture': 's3',
        'num_classes': 10,
        'model_args': {'arch': ARCH, 'in_chans': 1},
        'pretrained_cfg': {'input_size': [1, 32, 32], 'num_classes': 10},
    }
    hub.put(REPO, {'config.json': json.dumps(config).encode(), 'model.safetensors': weights})
    assert equal(timm.create_model(f'hf-hub:{REPO}', pretrained=True), weights)
    hub.put(REPO, {'config.json': json.dumps(config | changes).encode()})
    with pytest.raises(error, match=reason) as caught:
        timm.create_model(f'hf-hub:{REPO}', pretrained=True)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('name', ['../x.safetensors', '/etc/passwd', 'a/../../x.safetensors', '..', 'a\\b'])
def test_names_that_leave_the_folder_are_refused(name: str, tmp_path: Path) -> None:
    for key in ({'file': name}, {'hf_hub_id': REPO, 'filename': name}):
        with pytest.raises(ZooError, match=r'sources\[0\]\.file(name)?: found'):
            register(tmp_path, key)
    assert not timm.is_model(NAME)
