"""Entries as timm models: names, configurations, pickling, weights, and what is said of faulty weights."""

import json
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import model_entrypoint

import zoo
from zoo import registry
from zoo.entry import Entry, make_entry
from zoo.errors import ZooError
from zoo.files import sha256_file
from zoo.models import FAMILIES

NAMES = zoo.list_entries()
BLOCK = {'num_heads': 1, 'window_size': 4, 'mlp_ratio': 2.0}
ARCH = {'stages': [{'embed_dim': 8, 'blocks': [BLOCK]}, {'embed_dim': 16, 'blocks': [BLOCK, BLOCK]}]}


def small(name: str = 's3_small_test', **changes: Any) -> dict[str, Any]:
    """The file of a small searched network for gray images of 32 x 32 pixels and 10 classes."""
    base = {
        'schema': 1,
        'name': name,
        'family': 's3',
        'num_classes': 10,
        'arch': ARCH,
        'input': {'size': [1, 32, 32], 'mean': [0.5], 'std': [0.25], 'crop_pct': 1.0},
        'provenance': {'kind': 'searched', 'note': 'Found by a test.'},
    }
    return base | changes


def write(folder: Path, entry: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f'{entry["name"]}.json'
    path.write_text(json.dumps(entry))
    return path


def searched(folder: Path, name: str = 's3_small_test', seed: int = 0, **changes: Any) -> Path:
    """What a search leaves: an entry and its weights side by side."""
    torch.manual_seed(seed)
    model = timm.create_model('s3', arch=ARCH, in_chans=1, num_classes=10)
    folder.mkdir(exist_ok=True)
    save_file(model.state_dict(), folder / f'{name}.safetensors')
    source = {'file': f'{name}.safetensors', 'sha256': sha256_file(folder / f'{name}.safetensors')}
    return write(folder, small(name, weights={'digits': {'sources': [source | changes]}}))


@pytest.mark.parametrize('name', NAMES)
def test_bundled_entry_is_a_timm_model(name: str) -> None:
    entry = zoo.load_entry(name)
    module = FAMILIES[entry.family]
    entrypoint = model_entrypoint(name)
    assert entrypoint is getattr(module, name)
    assert (entrypoint.__name__, entrypoint.__module__) == (name, module.__name__)
    assert entry.provenance.note in entrypoint.__doc__
    assert name in module.__all__
    assert name in timm.list_models(module=entry.family)
    assert pickle.loads(pickle.dumps(entrypoint)) is entrypoint

    cfg = timm.get_pretrained_cfg(name)
    assert (cfg.architecture, name in module.default_cfgs) == (name, True)
    for key in ('interpolation', 'crop_pct', 'crop_mode', 'mean', 'std'):
        assert getattr(cfg, key) == getattr(entry.input, key)
    assert (cfg.input_size, cfg.num_classes) == (entry.input.size, entry.num_classes)
    fetched = {tag for tag, weights in (entry.weights or {}).items() if not weights.sources[0].page}
    assert set(timm.list_pretrained(f'{name}.*')) == {f'{name}.{tag}' for tag in fetched}


@pytest.mark.parametrize('name', NAMES)
def test_bundled_entry_creates_its_network(name: str) -> None:
    entry = zoo.load_entry(name)
    model = timm.create_model(name, device='meta')
    assert sum(parameter.numel() for parameter in model.parameters()) == entry.measured.params
    state = model.state_dict()
    first = model.pretrained_cfg['first_conv']
    for layer in (model.pretrained_cfg['classifier'], *((first,) if isinstance(first, str) else first)):
        assert f'{layer}.weight' in state


def test_s3_weights_are_those_of_timms_re_host() -> None:
    for size in ('tiny', 'small', 'base'):
        cfg = timm.get_pretrained_cfg(f's3_{size}.ms_in1k')
        assert cfg.hf_hub_id == f'timm/swin_s3_{size}_224.ms_in1k'
        assert timm.get_pretrained_cfg(f'swin_s3_{size}_224').hf_hub_id in ('timm/', cfg.hf_hub_id)
        assert (cfg.crop_pct, cfg.license) == (0.875, 'mit')
        assert '0.9' in zoo.load_entry(f's3_{size}').weights['ms_in1k'].note


def test_register_and_create(tmp_path: Path) -> None:
    entry = make_entry(small())
    assert zoo.register(entry) == 's3_small_test'
    assert zoo.load_entry('s3_small_test') == entry
    assert 's3_small_test' in zoo.list_entries('s3_small*')
    model = timm.create_model('s3_small_test').eval()
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 10)
    assert model.pretrained_cfg['input_size'] == (1, 32, 32)
    assert 's3_small_test' in timm.list_models('s3_*', module='s3')
    assert 's3_small_test' not in timm.list_models(pretrained=True)


def test_registering_the_same_again_does_nothing(tmp_path: Path) -> None:
    path = searched(tmp_path / 'run')
    zoo.register(path)
    entrypoint = model_entrypoint('s3_small_test')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert zoo.register(str(path)) == 's3_small_test'
    assert model_entrypoint('s3_small_test') is entrypoint
    assert FAMILIES['s3'].__all__.count('s3_small_test') == 1


def test_the_same_architecture_with_other_weights_replaces_them(tmp_path: Path) -> None:
    zoo.register(searched(tmp_path / 'first', seed=1))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        zoo.register(searched(tmp_path / 'second', seed=2))
    model = timm.create_model('s3_small_test', pretrained=True)
    wanted = load_file(tmp_path / 'second/s3_small_test.safetensors')
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in model.state_dict().items())


def test_a_search_replaces_what_an_earlier_one_found() -> None:
    zoo.register(make_entry(small()))
    other = make_entry(small(arch={'stages': [{'embed_dim': 8, 'blocks': [BLOCK]}]}))
    with pytest.warns(UserWarning, match='^s3_small_test was another architecture until now'):
        zoo.register(other)
    assert zoo.load_entry('s3_small_test') == other
    assert len(timm.create_model('s3_small_test').stages) == 1
    arch = {'channels': 16, 'operators': [['non_local']] * 5}
    foreign = make_entry(small(family='carnet', arch=arch))
    with pytest.raises(ZooError, match='s3_small_test: this name is taken by another architecture'):
        zoo.register(foreign)


def test_taken_names_are_refused() -> None:
    own = {'provenance': {'kind': 'paper', 'note': 'From a paper.'}}
    zoo.register(make_entry(small(**own)))
    other = {'stages': [{'embed_dim': 8, 'blocks': [BLOCK]}]}
    for changes in ({}, own):
        with pytest.raises(ZooError, match='s3_small_test: this name is taken by another architecture'):
            zoo.register(make_entry(small(arch=other) | changes))
    with pytest.raises(ZooError, match='resnet18: this name is taken by a model of timm'):
        zoo.register(make_entry(small('resnet18')))
    with pytest.raises(ZooError, match=r's3: this name has another meaning in zoo\.models\.s3'):
        zoo.register(make_entry(small('s3')))
    with pytest.raises(ZooError, match=r'build: this name has another meaning in zoo\.models\.s3'):
        zoo.register(make_entry(small('build')))
    with pytest.raises(ZooError, match='s3_tiny: this name is taken by another architecture'):
        zoo.register(make_entry(small('s3_tiny')))
    assert zoo.load_entry('s3_small_test').arch == make_entry(small()).arch
    assert callable(FAMILIES['s3'].build)
    assert timm.create_model('resnet18', device='meta').fc.out_features == 1000


@pytest.mark.parametrize(
    'file', ['../x.safetensors', '/etc/x.safetensors', 'a/b.safetensors', '..', 'x.pth', 'C:x.safetensors']
)
def test_weights_are_files_of_the_entrys_folder(file: str) -> None:
    with pytest.raises(ZooError, match=r'\$\.weights\.digits\.sources\[0\]\.file: found'):
        make_entry(small(weights={'digits': {'sources': [{'file': file}]}}))


def test_weights_beside_the_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = searched(tmp_path / 'run')
    monkeypatch.chdir(path.parent)
    zoo.register(path.name)
    monkeypatch.chdir(tmp_path)
    assert timm.is_model_pretrained('s3_small_test')
    assert timm.list_pretrained('s3_small_test*') == ['s3_small_test.digits']
    wanted = load_file(path.with_suffix('.safetensors'))
    for name in ('s3_small_test', 's3_small_test.digits'):
        model = timm.create_model(name, pretrained=True)
        assert all(torch.equal(tensor, wanted[key]) for key, tensor in model.state_dict().items())
    backbone = timm.create_model('s3_small_test', pretrained=True, features_only=True)
    assert torch.equal(backbone.state_dict()['patch_embed.proj.weight'], wanted['patch_embed.proj.weight'])
    finer = timm.create_model('s3_small_test', pretrained=True, num_classes=3, in_chans=3)
    assert torch.equal(finer.norm.weight, wanted['norm.weight'])
    assert finer.get_classifier().out_features == 3


def test_weights_that_are_files_need_the_entrys_path(tmp_path: Path) -> None:
    entry = make_entry(json.loads(searched(tmp_path).read_text()))
    with pytest.raises(ZooError, match='register the path of that file'):
        zoo.register(entry)
    assert not timm.is_model('s3_small_test')


def broken(kind: str, file: Path) -> None:
    """Damages a weight file."""
    data, tensors = file.read_bytes(), load_file(file)
    if kind == 'missing':
        file.unlink()
    elif kind == 'empty':
        file.write_bytes(b'')
    elif kind == 'truncated':
        file.write_bytes(data[: len(data) // 2])
    elif kind == 'garbage':
        file.write_bytes(os.urandom(1000))
    elif kind == 'lacks a block':
        save_file({k: v for k, v in tensors.items() if not k.startswith('stages.1.blocks.1.')}, file)
    elif kind == 'other model':
        save_file(timm.create_model('resnet18').state_dict(), file)
    elif kind == 'a flipped bit of the header':
        file.write_bytes(data[:9] + bytes([data[9] ^ 1]) + data[10:])
    elif kind == 'NaN':
        save_file(tensors | {'norm.weight': torch.full((16,), torch.nan)}, file)
    elif kind == 'whole numbers':
        save_file({k: v.to(torch.int32) for k, v in tensors.items()}, file)
    elif kind == 'other widths':
        save_file({k: v.repeat_interleave(2, 0) for k, v in tensors.items()}, file)


@pytest.mark.parametrize(
    'how', [{}, {'num_classes': 3}, {'num_classes': 0}, {'features_only': True}], ids=str
)
@pytest.mark.parametrize(
    'kind',
    [
        'missing',
        'empty',
        'truncated',
        'garbage',
        'a flipped bit of the header',
        'lacks a block',
        'other model',
        'other widths',
        'NaN',
        'whole numbers',
    ],
)
def test_faulty_weights_are_named(kind: str, how: dict[str, Any], tmp_path: Path) -> None:
    path = searched(tmp_path, sha256=None)
    zoo.register(path)
    file = path.with_suffix('.safetensors')
    broken(kind, file)
    with pytest.raises(ZooError, match='s3_small_test') as caught:
        timm.create_model('s3_small_test', pretrained=True, **how)
    message = str(caught.value)
    assert str(file) in message
    assert '\n' not in message
    assert len(message) < 900
    if kind == 'lacks a block':
        assert 'stages.1.blocks.1.attn.proj.bias' in message
    assert timm.create_model('s3_small_test', **how) is not None


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    path = searched(tmp_path)
    zoo.register(path)
    tensors = load_file(path.with_suffix('.safetensors'))
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, path.with_suffix('.safetensors'))
    found, said = sha256_file(path.with_suffix('.safetensors')), json.loads(path.read_text())
    said = said['weights']['digits']['sources'][0]['sha256']
    with pytest.raises(ZooError, match=f'has the sha256 {found}, its entry says {said}, so it is refused'):
        timm.create_model('s3_small_test', pretrained=True)
    assert path.with_suffix('.safetensors').is_file()


@pytest.mark.parametrize('name', ['uninet_b0', 's3_base_384', 'glit'])
def test_no_weights_anywhere(name: str) -> None:
    arch = {'arch': zoo.load_entry('glit_tiny').arch} if name == 'glit' else {}
    with pytest.raises(ZooError, match=f'^{name} has no published weights: train') as caught:
        timm.create_model(name, pretrained=True, device='meta', **arch)
    if not arch:
        recipe = zoo.load_entry(name).recipe
        assert f'searchzoo search train {name} {recipe}' in str(caught.value)
        assert zoo.config_path(recipe).is_file()


@pytest.mark.parametrize('name', ['glit_tiny', 'uninet_eccv_b1'])
def test_weights_that_people_download_by_hand(name: str) -> None:
    with pytest.raises(ZooError, match=f'^{name} has weights that cannot be fetched: download') as caught:
        timm.create_model(name, pretrained=True, device='meta')
    assert 'https://drive.google.com/' in str(caught.value)
    assert f'searchzoo zoo convert {name} FILE {name}.safetensors' in str(caught.value)


def test_weights_from_other_sources(tmp_path: Path) -> None:
    zoo.register(make_entry(small()))
    model = timm.create_model('s3_small_test')
    state = model.state_dict()
    save_file(state, tmp_path / 'w.safetensors')
    torch.save({'model': state}, tmp_path / 'w.pth')
    timm.models.save_for_hf(model, tmp_path / 'hub', safe_serialization=True)
    for name, overlay in [
        ('s3_small_test', {'file': str(tmp_path / 'w.safetensors')}),
        ('s3_small_test', {'file': str(tmp_path / 'w.pth')}),
        ('s3_small_test', {'state_dict': state}),
        (f'local-dir:{tmp_path / "hub"}', None),
    ]:
        copy = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
        assert all(torch.equal(tensor, state[key]) for key, tensor in copy.state_dict().items())
    lacking = {key: value for key, value in state.items() if key != 'norm.weight'}
    with pytest.raises(ZooError, match='the given state_dict cannot be loaded: 1 of'):
        timm.create_model('s3_small_test', pretrained=True, pretrained_cfg_overlay={'state_dict': lacking})


@pytest.mark.parametrize(
    ('key', 'value', 'most'),
    [
        ('img_size', 10**6, 4096),
        ('img_size', (32, -1), 4096),
        ('in_chans', 10**9, 256),
        ('num_classes', 1e9, 10**5),
    ],
)
def test_absurd_sizes_are_refused_before_memory_is_taken(key: str, value: Any, most: int) -> None:
    for name, arch in [('s3', {'arch': ARCH}), ('s3_tiny', {})]:
        with pytest.raises(ZooError, match=f'^{name}: {key}: found .*, whole numbers from 0 to {most} are'):
            timm.create_model(name, **arch, **{key: value})
    overlay = {'input_size': (3, 10**6, 10**6)}
    with pytest.raises(ZooError, match=r'glit_tiny: (img|input)_size: found'):
        timm.create_model('glit_tiny', pretrained_cfg_overlay=overlay)


def test_faults_outside_of_loading_stay_as_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    zoo.register(searched(tmp_path))
    with pytest.raises(TypeError, match='no_such_argument'):
        timm.create_model('s3_small_test', pretrained=True, no_such_argument=1)
    monkeypatch.setattr(FAMILIES['s3'].S3, 'init_weights', lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        timm.create_model('s3_small_test', pretrained=True)


def test_wrong_tag_is_refused() -> None:
    with pytest.raises(RuntimeError, match='nope'):
        timm.create_model('s3_tiny.nope')


def test_input_size_of_the_configuration_reaches_the_network() -> None:
    assert timm.create_model('glit_tiny', device='meta').pos_embed.shape[1] == 197
    overlay = {'input_size': (3, 256, 256)}
    assert (
        timm.create_model('glit_tiny', device='meta', pretrained_cfg_overlay=overlay).pos_embed.shape[1]
        == 257
    )
    assert timm.create_model('glit_tiny', device='meta', img_size=160).pos_embed.shape[1] == 101


def test_unknown_entry_suggests_near_ones() -> None:
    with pytest.raises(ZooError, match=r"There is no entry 's3_tny' \(did you mean s3_tiny"):
        zoo.load_entry('s3_tny')
    assert zoo.list_entries('nothing*') == []


def test_names_are_in_natural_order() -> None:
    for name in ('s3_v10', 's3_v9', 's3_v9a'):
        zoo.register(make_entry(small(name)))
    assert zoo.list_entries('s3_v*') == ['s3_v9', 's3_v9a', 's3_v10']


def test_config_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, config = tmp_path / 'site/zoo', tmp_path / 'site/configs/search/s3_digits.yaml'
    package.mkdir(parents=True)
    config.parent.mkdir(parents=True)
    config.write_text('family: s3\n')
    (tmp_path / 'site/secret.yaml').touch()
    monkeypatch.setattr(registry, '__file__', str(package / 'registry.py'))
    assert zoo.config_path('search/s3_digits.yaml') == config
    assert zoo.config_path('configs/search/s3_digits.yaml') == config
    with pytest.raises(ZooError, match=r'did you mean search/s3_digits\.yaml'):
        zoo.config_path('search/s3_digit.yaml')
    with pytest.raises(ZooError, match='There is no configuration'):
        zoo.config_path('../secret.yaml')
    installed = package / '_configs/search/s3_digits.yaml'
    installed.parent.mkdir(parents=True)
    installed.write_text('family: s3\n')
    assert zoo.config_path('search/s3_digits.yaml') == installed


PROCESS = """
import pickle, sys
from pathlib import Path
before = set(sys.modules)
import timm.models
own = set(sys.modules)
entrypoint = pickle.loads(Path(sys.argv[1]).read_bytes())
new = {name.partition('.')[0] for name in set(sys.modules) - own}
heavy = {'accelerate', 'dask', 'matplotlib', 'mmcv', 'mmengine', 'onnx', 'sklearn', 'tensorboard', 'yaml'}
print(sorted(heavy & new))
model = timm.create_model(entrypoint.__name__, pretrained=True)
print(model.pretrained_cfg['tag'], sum(p.numel() for p in model.parameters()))
"""


def test_entrypoint_works_in_another_process_and_importing_the_zoo_is_cheap(tmp_path: Path) -> None:
    """One process for both, since starting one costs seconds."""
    zoo.register(searched(tmp_path))
    (tmp_path / 'entrypoint.pkl').write_bytes(pickle.dumps(model_entrypoint('s3_small_test')))
    command = [sys.executable, '-X', 'importtime', '-c', PROCESS, str(tmp_path / 'entrypoint.pkl')]
    done = subprocess.run(
        command, cwd=Path(zoo.__file__).parents[1], capture_output=True, text=True, check=True, timeout=300
    )
    params = sum(p.numel() for p in timm.create_model('s3_small_test').parameters())
    assert done.stdout.splitlines() == ['[]', f'digits {params}']
    times = {
        line.split('|')[2].strip(): int(line.split('|')[1])
        for line in done.stderr.splitlines()[1:]
        if line.count('|') == 2
    }
    assert times['zoo'] <= 0.1 * times['timm.models']


def test_entry_objects_register_without_a_file() -> None:
    source = {'hf_hub_id': 'someone/network', 'revision': 'a' * 40}
    other = {'url': 'https://example.org/w.pth'}
    image = {'size': [1, 48, 48], 'mean': [0.1], 'std': [0.2], 'crop_pct': 0.5}
    weights = {
        'hub': {'sources': [source, other], 'license': 'mit'},
        'mirror': {'sources': [{'page': 'https://example.org/'}, other], 'input': image},
    }
    entry = make_entry(small(weights=weights))
    assert isinstance(entry, Entry)
    zoo.register(entry)
    cfg = timm.get_pretrained_cfg('s3_small_test.hub')
    assert (cfg.hf_hub_id, cfg.url, cfg.license) == (f'someone/network@{"a" * 40}', None, 'mit')
    cfg = timm.get_pretrained_cfg('s3_small_test.mirror')
    assert (cfg.hf_hub_id, cfg.url) == (None, 'https://example.org/w.pth')
    assert (cfg.input_size, cfg.mean, cfg.std, cfg.crop_pct) == ((1, 48, 48), (0.1,), (0.2,), 0.5)
    with pytest.raises(ZooError, match='registered without a file'):
        registry.entry_file('s3_small_test')
