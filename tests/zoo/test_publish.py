"""Publishing: what is published loads to the same outputs everywhere; what is refused leaves nothing."""

import json
import os
import pickle
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from huggingface_hub import HfApi, ModelCard, constants
from loopback_hub import Hub
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import zoo
from zoo.console import main
from zoo.convert import save_weights
from zoo.entry import Entry, Source, Weights, make_entry, read_entry
from zoo.errors import ZooError
from zoo.files import sha256_file
from zoo.hub.card import make_card
from zoo.hub.folder import FILES
from zoo.hub.papers import PAPERS
from zoo.hub.publish import publish, publish_all
from zoo.models import FAMILIES

CONV = {'operator': 'conv', 'expansion': 0.5, 'kernel_size': 3}
LOCAL = {**CONV, 'operator': 'local', 'qk_rate': 1.0, 'v_rate': 0.5, 'num_heads': 2}
AXIAL = {'operator': 'axial', 'expansion': 0.5, 'qk_rate': 1.0, 'v_rate': 1.0, 'num_heads': 2}
MIXED = {'global_heads': 1, 'local_heads': 1, 'qkv_dim': 10, 'kernel_size': 5, 'expansion': 2.0}
ARCHS: dict[str, dict[str, Any]] = {
    'carnet': {
        'channels': 16,
        'operators': [['local_k3_h4'], ['non_local'], ['local_k5_h4'], ['local_k3_h4'], ['non_local']],
    },
    'glit': {'embed_dim': 16, 'num_heads': 2, 'patch_size': 4, 'blocks': [{**MIXED, 'mlp_ratio': 1.0}] * 2},
    's3': {
        'stages': [
            {'embed_dim': 16, 'blocks': [{'num_heads': 1, 'window_size': 3, 'mlp_ratio': 1.5}]},
            {'embed_dim': 24, 'blocks': [{'num_heads': 2, 'window_size': 2, 'mlp_ratio': 1.0}]},
        ]
    },
    'trionet': {'stages': [[CONV], [AXIAL], [LOCAL], [CONV]], 'out_channels': [16, 32, 32, 48]},
    'uninet': {
        'stages': [
            {'operator': 'dwconv', 'expansion': 1.0, 'channels': 8, 'repeats': 1},
            {'operator': 'sa', 'downsample': 'lg', 'expansion': 2.0, 'channels': 16, 'repeats': 1},
            {'operator': 'mlp', 'downsample': 'g', 'expansion': 2.0, 'channels': 24, 'repeats': 1},
        ],
        'strides': [1, 2, 2],
        'stem_channels': 8,
        'head_channels': 32,
    },
}
COLOR = {'size': [3, 32, 40], 'mean': [0.4, 0.5, 0.6], 'std': [0.2, 0.25, 0.3]}
GREY = {'size': [1, 32, 32], 'mean': [0.3], 'std': [0.35], 'interpolation': 'bilinear', 'crop_pct': 0.9}
NAME, TAG, REPO = 's3_published', 'test', 'org/s3_published.test'
DIGEST = 'a' * 64


@dataclass
class Network:
    """An entry that is not bundled, with weights, and what its network makes of an input."""

    name: str
    path: Path
    weights: Path
    x: Tensor
    logits: Tensor

    @property
    def repo(self) -> str:
        return f'org/{self.name}.{TAG}'


def make_network(folder: Path, family: str = 's3', **changes: Any) -> Network:
    """Weights and statistics are far from their initial values, so that every tensor matters."""
    name, path = f'{family}_published', folder / f'{family}_published.json'
    data = {
        'schema': 1,
        'name': name,
        'family': family,
        'num_classes': 7,
        'arch': ARCHS[family],
        'input': GREY if family in ('s3', 'carnet') else COLOR,
        'measured': {'params': 1000, 'macs': 2000},
        'provenance': {'kind': 'searched', 'note': 'Found in a test.', 'seed': 3},
    }
    path.write_text(json.dumps(data | changes))
    zoo.register(path)
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5 if 'var' in key else torch.randn_like(tensor) * 0.3)
    weights = folder / f'{name}.safetensors'
    save_weights(weights, model.state_dict(), {'steps': 5})
    x = torch.randn(2, *zoo.load_entry(name).input.size)
    with torch.no_grad():
        return Network(name, path, weights, x, model(x))


@pytest.fixture
def network(tmp_path: Path) -> Network:
    folder = tmp_path / 'entry'
    folder.mkdir()
    return make_network(folder)


@pytest.fixture
def quick_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where pictures are not what is tested."""
    monkeypatch.setattr('zoo.picture.draw_architecture', lambda entry: b'\x89PNG')


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of temporary folders, in which nothing may be left."""
    folder = tmp_path / 'temporary'
    folder.mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(folder))
    yield folder
    assert os.listdir(folder) == []


def run_fresh(script: str, *args: Any, env: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        [sys.executable, '-c', script, json.dumps(args)], env=env, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


# ---- what is published loads everywhere

LOAD = """
import json, sys
import numpy, timm, torch, zoo
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from transformers import AutoImageProcessor, AutoModelForImageClassification

for name, timm_name, hub_name, tensors, image in json.loads(sys.argv[1])[0]:
    assert name not in zoo.list_entries() and not timm.is_model(name)
    x, logits = torch.load(tensors)
    model = timm.create_model(timm_name, pretrained=True).eval()
    wrapped = AutoModelForImageClassification.from_pretrained(hub_name).eval()
    with torch.no_grad():
        assert torch.equal(model(x), logits), name
        assert torch.equal(wrapped(x).logits, logits), name
    found = resolve_model_data_config(model)
    assert list(found.pop('input_size')) == image['size'], found
    assert found == {
        'mean': image['mean'],
        'std': image['std'],
        'interpolation': image.get('interpolation', 'bicubic'),
        'crop_pct': image.get('crop_pct', 1.0),
        'crop_mode': 'center',
    }, found
    assert model.pretrained_cfg['tag'] == 'test' and model.pretrained_cfg['license'] == 'mit'
    photo = numpy.random.default_rng(0).integers(0, 255, (50, 60, 3), dtype='uint8')
    photo = Image.fromarray(photo).convert('L' if image['size'][0] == 1 else 'RGB')
    expected = create_transform(**resolve_model_data_config(model))(photo)
    assert expected.shape == tuple(image['size'])
    if image['size'][0] == 3:  # the processor itself makes colour images of grey ones
        processor = AutoImageProcessor.from_pretrained(hub_name)
        assert torch.equal(processor(photo)['pixel_values'][0], expected)
    if timm_name.startswith('hf-hub:'):
        assert zoo.register(timm_name) == name
        with torch.no_grad():
            assert torch.equal(timm.create_model(name, pretrained=True).eval()(x), logits), name
"""


def test_folders_of_all_families_load_in_a_process_that_knows_nothing(tmp_path: Path) -> None:
    cases = []
    for family in FAMILIES:
        network = make_network(tmp_path, family)
        before, folder = network.path.read_bytes(), tmp_path / family
        assert publish(network.name, network.weights, network.repo, 'MIT', dry_run=folder) is None
        assert network.path.read_bytes() == before
        assert sorted(os.listdir(folder)) == sorted(FILES)
        assert (folder / 'model.safetensors').read_bytes() == network.weights.read_bytes()
        assert {stat.S_IMODE((folder / file).stat().st_mode) for file in FILES} == {0o644}
        config = json.loads((folder / 'config.json').read_bytes())
        assert (config['architecture'], config['num_classes']) == (family, 7)
        assert 'num_classes' not in config['model_args']
        torch.save((network.x, network.logits), tmp_path / f'{family}.pt')
        image = GREY if family in ('s3', 'carnet') else COLOR
        cases.append(
            [network.name, f'local-dir:{folder}', str(folder), str(tmp_path / f'{family}.pt'), image]
        )
    run_fresh(LOAD, cases)


def test_round_trip_over_the_network(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = []
    for family in ('s3', 'glit'):
        network = make_network(tmp_path, family)
        command = ['zoo', 'publish', str(network.path), '--weights', str(network.weights)]
        assert main([*command, '--repo', network.repo, '--license', 'mit']) == 0
        commit = hub.repos[network.repo][-1]
        assert len(hub.repos[network.repo]) == 2, 'one commit, after the one that made the repository'
        assert commit.files.keys() == {*FILES, '.gitattributes'}
        assert f'{network.repo}: published, commit {commit.sha}' in capsys.readouterr().out
        torch.save((network.x, network.logits), tmp_path / f'{family}.pt')
        image = GREY if family == 's3' else COLOR
        case = [network.name, f'hf-hub:{network.repo}', network.repo, str(tmp_path / f'{family}.pt'), image]
        cases.append(case)
    run_fresh(LOAD, cases, env=hub.environment(tmp_path / 'home'))


# ---- what the entry says afterwards


@pytest.mark.usefixtures('quick_picture')
def test_the_entry_names_the_commit_and_loads_from_it(hub: Hub, network: Network) -> None:
    commit = publish(str(network.path), network.weights, network.repo, 'mit')
    assert commit == hub.repos[network.repo][-1].sha
    entry = read_entry(network.path)
    assert network.path.read_text() == entry.to_json()
    expected = Source(
        hf_hub_id=network.repo,
        revision=commit,
        sha256=sha256_file(network.weights),
        size=network.weights.stat().st_size,
    )
    assert entry.weights == {TAG: Weights(sources=(expected,), license='mit')}
    assert zoo.load_entry(network.name) == entry
    hub.put(network.repo, {'model.safetensors': b'another file since'})
    network.weights.unlink()
    with torch.no_grad():
        assert torch.equal(timm.create_model(network.name, pretrained=True).eval()(network.x), network.logits)


@pytest.mark.usefixtures('quick_picture')
def test_the_same_again_makes_no_commit(hub: Hub, network: Network) -> None:
    first = publish(network.name, network.weights, network.repo, 'mit')
    written = network.path.read_bytes()
    assert publish(network.name, network.weights, network.repo) == first
    assert len(hub.repos[network.repo]) == 2
    assert network.path.read_bytes() == written


@pytest.mark.usefixtures('quick_picture')
def test_files_beside_the_entry_stay_first_and_other_sources_come_last(hub: Hub, tmp_path: Path) -> None:
    sha256 = sha256_file(make_network(tmp_path).weights)
    record = {
        'sources': [
            {'url': 'https://example.org/a.pth'},
            {'hf_hub_id': REPO, 'filename': 'old.safetensors'},
            {'file': f'{NAME}.safetensors', 'sha256': sha256},
            {'page': 'https://example.org'},
        ],
        'license': 'bsd-3-clause',
        'data': 'ImageNet-1k',
        'metrics': {'top1': 71.25},
        'evaluation': 'Once.',
    }
    local = {'sources': [{'file': f'{NAME}.safetensors', 'sha256': sha256}]}
    other = {'sources': [{'hf_hub_id': 'other/other'}]}
    changes = {'weights': {'local': local, 'other': other, TAG: record}}
    network = make_network(tmp_path, **changes)
    commit = publish(NAME, network.weights, REPO)
    weights = read_entry(network.path).weights
    assert weights is not None
    assert list(weights) == ['local', 'other', TAG]
    places = [source.place for source in weights[TAG].sources]
    assert places == [f'{NAME}.safetensors', REPO, 'https://example.org/a.pth', 'https://example.org']
    assert weights[TAG].sources[1].revision == commit
    assert weights[TAG].metrics == {'top1': 71.25}
    published = make_entry(json.loads(hub.repos[REPO][-1].files['entry.json']))
    assert published.weights is not None
    assert list(published.weights) == [TAG, 'other'], 'the own tag is the default; no file of another machine'
    assert [source.place for source in published.weights[TAG].sources] == places[1:]
    assert published.weights[TAG].sources[0].revision is None


@pytest.mark.usefixtures('quick_picture')
def test_preprocessing_is_that_of_the_weights(tmp_path: Path) -> None:
    own = {'size': [1, 24, 24], 'mean': [0.1], 'std': [0.2], 'crop_pct': 0.8, 'crop_mode': 'squash'}
    record = {'sources': [{'url': 'https://example.org/a.pth'}], 'license': 'mit', 'input': own}
    network = make_network(tmp_path, weights={TAG: record})
    publish(NAME, network.weights, REPO, dry_run=tmp_path / 'folder')
    model = timm.create_model(f'local-dir:{tmp_path / "folder"}')
    found = timm.data.resolve_model_data_config(model)
    assert found['input_size'] == (1, 24, 24)
    assert (found['mean'], found['crop_pct'], found['crop_mode']) == ([0.1], 0.8, 'squash')


@pytest.mark.usefixtures('quick_picture')
def test_a_network_without_classifier(tmp_path: Path) -> None:
    network = make_network(tmp_path, num_classes=0)
    publish(NAME, network.weights, REPO, 'mit', dry_run=tmp_path / 'folder')
    with torch.no_grad():
        model = timm.create_model(f'local-dir:{tmp_path / "folder"}', pretrained=True).eval()
        assert torch.equal(model(network.x), network.logits)
    card = ModelCard.load(tmp_path / 'folder' / 'README.md')
    assert card.data.pipeline_tag == 'image-feature-extraction'
    assert 'AutoModelForImageClassification' not in card.text


# ---- what is refused before anything is written


def refused(network: Network, message: str, *, entry: str = '', **changes: Any) -> None:
    """The sentence, an entry that is as before, and no new file."""
    folder = network.path.parent
    before, files = network.path.read_bytes(), sorted(os.listdir(folder))
    arguments = {'weights': network.weights, 'repo': network.repo, 'license': 'mit'} | changes
    with pytest.raises(ZooError, match=message) as caught:
        publish(entry or network.name, **arguments)
    text = str(caught.value)
    assert '\n' not in text
    assert len(text) < 700
    assert network.path.read_bytes() == before
    assert sorted(os.listdir(folder)) == files


@pytest.mark.parametrize(
    'repo',
    [
        's3_published.test',
        'org/s3_published',
        'org/other.test',
        'org/s3_published.',
        'org/s3_published.Test',
        'a/org/s3_published.test',
        'org/s3_published.test@main',
        '../s3_published.test',
        'org--x/s3_published.a',
        f'org/s3_published.{"a" * 60}{"b" * 60}',
    ],
)
def test_repository_without_the_name_of_the_entry(repo: str, network: Network, hub: Hub) -> None:
    refused(network, r'^--repo: found .*, ORG/s3_published\.TAG is needed', repo=repo)
    assert hub.requests == []


def test_licence_has_to_be_known(tmp_path: Path, network: Network) -> None:
    refused(network, 'no licence of the weights is known: give one with --license, or --unlic', license=None)
    refused(network, '^--license: unknown is no licence', license='unknown')
    refused(network, "^--license: found 'no licence', an identifier such as", license='no licence')
    record = {'sources': [{'url': 'https://example.org/a.pth'}], 'license': 'apache-2.0'}
    stated = make_network(tmp_path, weights={TAG: record})
    refused(stated, f'found mit, but the weights {NAME}.{TAG} have the licence apache-2.0')
    refused(stated, '^--unlicensed: .* have the licence apache-2.0', license=None, unlicensed=True)


@pytest.mark.usefixtures('quick_picture')
def test_weights_that_nobody_licensed_say_so(network: Network, tmp_path: Path) -> None:
    publish(NAME, network.weights, REPO, unlicensed=True, dry_run=tmp_path / 'folder')
    card = ModelCard.load(tmp_path / 'folder' / 'README.md')
    assert card.data.license == 'unknown'
    assert '## Licence\n\n**None.** Whoever made the weights gave no licence' in card.text
    assert 'license' not in json.loads((tmp_path / 'folder' / 'config.json').read_bytes())['pretrained_cfg']


class Command:
    """Pickles as a call that makes a folder."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def edit(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    def edit_file(path: Path) -> None:
        tensors = load_file(path)
        change(tensors)
        save_file({key: tensor.clone() for key, tensor in tensors.items()}, path)

    return edit_file


FAULTY_WEIGHTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    'missing': (lambda path: path.unlink(), 'there is no such file'),
    'empty': (lambda path: path.write_bytes(b''), 'not a whole safetensors file'),
    'truncated': (lambda path: path.write_bytes(path.read_bytes()[:-9]), 'not a whole safetensors file'),
    'text': (lambda path: path.write_text('<html>'), 'not a whole safetensors file'),
    'pickle': (
        lambda path: path.write_bytes(pickle.dumps(Command(path.parent / 'trap'))),
        'not a whole safetensors file',
    ),
    'one less': (edit(lambda t: t.pop('norm.bias')), r'1 of \d+ tensors are missing \(norm\.bias\)'),
    'one more': (edit(lambda t: t.update(ema=torch.ones(1))), r'1 are not of this network \(ema\)'),
    'other shape': (
        edit(lambda t: t.update({'norm.bias': torch.ones(3)})),
        r'norm\.bias is \[3\], \[24\] is',
    ),
    'other dtype': (
        edit(lambda t: t.update({'norm.bias': t['norm.bias'].half()})),
        'norm.bias is torch.float16, torch.float32 is needed',
    ),
    'not a number': (edit(lambda t: t['norm.bias'].fill_(float('nan'))), r'1 tensors hold NaN or inf'),
}


@pytest.mark.parametrize('kind', FAULTY_WEIGHTS)
def test_faulty_weights(kind: str, network: Network, hub: Hub) -> None:
    spoil, message = FAULTY_WEIGHTS[kind]
    spoil(network.weights)
    hint = r'; `searchzoo zoo convert s3_published FILE s3_published\.safetensors` makes what is needed'
    refused(network, rf'^{re.escape(str(network.weights))}.*{message}.*{hint}')
    assert hub.requests == []


def test_other_formats_and_counters(tmp_path: Path) -> None:
    network = make_network(tmp_path, 'uninet')
    torch.save(load_file(network.weights), tmp_path / 'x.pth')
    refused(network, r"found suffix '\.pth', \.safetensors is needed; `searchzoo", weights=tmp_path / 'x.pth')
    edit(lambda t: [t.pop(key) for key in list(t) if key.endswith('num_batches_tracked')])(network.weights)
    refused(network, r'\d+ counters are missing; `searchzoo zoo convert uninet_published FILE')
    assert (
        main(['zoo', 'convert', network.name, str(network.weights), str(tmp_path / 'new.safetensors')]) == 0
    )
    assert (
        publish(network.name, tmp_path / 'new.safetensors', network.repo, 'mit', dry_run=tmp_path / 'x')
        is None
    )


def test_weights_of_a_tag_are_not_replaced_by_others(tmp_path: Path, hub: Hub) -> None:
    network = make_network(tmp_path)
    known = {'sources': [{'url': 'https://example.org/a.pth', 'sha256': DIGEST}], 'license': 'mit'}
    network = make_network(tmp_path, weights={TAG: known})
    refused(network, rf'its sha256 {sha256_file(network.weights)} is none of those that .* for its weights')
    save_weights(network.weights, load_file(network.weights), {'source_sha256': DIGEST})
    assert publish(NAME, network.weights, REPO, dry_run=tmp_path / 'converted') is None
    save_file(load_file(network.weights), network.weights, {'searchzoo': '[not JSON'})
    refused(network, 'publish it under another tag')


def test_output_that_is_not_finite(network: Network, temporary: Path) -> None:
    edit(lambda t: t['head.fc.weight'].fill_(3e38))(network.weights)
    refused(network, 'with these weights its output is not finite', dry_run=temporary / 'folder')


def test_folder_of_a_dry_run_is_new(network: Network, tmp_path: Path) -> None:
    (tmp_path / 'kept').mkdir()
    refused(network, r'kept: there is such a folder or file already', dry_run=tmp_path / 'kept')
    refused(network, r'there is no folder', dry_run=tmp_path / 'none' / 'folder')


def test_a_dry_run_that_fails_leaves_no_folder(network: Network, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(shutil, 'copyfile', lambda source, target: target.write_bytes(b'disk full'))
    target = tmp_path / 'new' / 'folder'
    target.parent.mkdir()
    refused(network, f'its entry says {sha256_file(network.weights)}, so it is refused', dry_run=target)
    assert os.listdir(target.parent) == []


def test_entry_has_to_exist_and_be_writable(network: Network, hub: Hub, monkeypatch: Any) -> None:
    refused(network, r'did you mean s3_published', entry='s3_publishd')
    refused(network, r'cannot be read', entry=str(network.path.with_name('none.json')))
    monkeypatch.setattr(os, 'access', lambda *_: False)
    refused(network, r's3_published\.json: cannot be written, but its weight record has to be')
    assert hub.requests == []


def test_matplotlib_is_needed(network: Network, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    refused(network, r"pip install 'searchzoo\[search\]'", dry_run=tmp_path / 'folder')
    assert not (tmp_path / 'folder').exists()


# ---- what the Hub refuses


def test_token_and_network_are_needed(network: Network, hub: Hub, monkeypatch: Any, temporary: Path) -> None:
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    refused(network, 'HF_HUB_OFFLINE is set: unset it, or use --dry-run')
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    monkeypatch.delenv('HF_TOKEN')
    refused(network, 'needs a token that may write: run `hf auth login`, or set HF_TOKEN')
    assert hub.requests == []
    monkeypatch.setenv('HF_TOKEN', 'hf_wrong')
    refused(network, 'was not published: the token is not valid: run `hf auth login`')
    monkeypatch.setattr(constants, 'ENDPOINT', 'http://127.0.0.1:9')
    refused(
        network, rf'^{REPO} was not published: the connection to the Hub failed .*: run the command again\.$'
    )
    assert hub.repos == {}


ERRORS = [
    ('create', 403, 'the token may not write to org: use one that may'),
    ('create', 404, 'there is no org on the Hub, or the token may not see'),
    ('create', 500, 'the server answered 500: run the command again later'),
    ('create', 0, 'the connection to the Hub failed .*: run the command again'),
    ('api/models/[^/]+/[^/]+$', 503, 'the server answered 503'),
    ('validate-yaml', 500, 'the server answered 500'),
    ('preupload', 401, 'the token is not valid'),
    ('batch', 500, 'the server answered 500'),
    ('lfs/[0-9a-f]+$', 403, 'the token may not write to org'),
    ('lfs/[0-9a-f]+$', 0, 'the connection to the Hub failed'),
    ('lfs/verify', 404, 'or the token may not see the repository'),
    ('commit', 400, r"Client error '400 Bad Request'|Bad request"),
    ('commit', 412, 'somebody else changed the repository at the same time'),
    ('commit', 500, 'the server answered 500'),
    ('commit', 0, 'the connection to the Hub failed .*: run the command again'),
]


@pytest.mark.usefixtures('quick_picture')
@pytest.mark.parametrize(('path', 'status', 'message'), ERRORS)
def test_a_hub_that_fails(
    path: str, status: int, message: str, network: Network, hub: Hub, temporary: Path
) -> None:
    hub.fail(path, status)
    refused(network, rf'^{REPO} was not published: .*{message}')
    assert len(hub.repos.get(REPO, [])) <= 1, 'the new repository may be there, without files'
    hub.heal()
    assert publish(NAME, network.weights, REPO, 'mit') == hub.repos[REPO][-1].sha


@pytest.mark.usefixtures('quick_picture')
def test_an_entry_that_cannot_be_written_after_all(network: Network, hub: Hub, monkeypatch: Any) -> None:
    def overwrite(*_: Any) -> str:
        network.path.write_text('{')
        return 'c' * 40

    monkeypatch.setattr('zoo.hub.publish.upload_folder', overwrite)
    with pytest.raises(ZooError, match=rf'^{REPO} was published, but .*not JSON.*revision c{{40}}, sha256 '):
        publish(NAME, network.weights, REPO, 'mit')
    assert network.path.read_text() == '{'


@pytest.mark.usefixtures('quick_picture')
def test_one_cut_connection_is_tried_again(network: Network, hub: Hub) -> None:
    hub.fail('lfs/[0-9a-f]+$', status=0, times=1)
    publish(NAME, network.weights, REPO, 'mit')
    assert hub.repos[REPO][-1].files['model.safetensors'] == network.weights.read_bytes()


@pytest.mark.usefixtures('quick_picture')
def test_repositories_of_something_else(network: Network, hub: Hub, tmp_path: Path, temporary: Path) -> None:
    folder = tmp_path / 'folder'
    publish(NAME, network.weights, REPO, 'mit', dry_run=folder)
    config = json.loads((folder / 'config.json').read_bytes())
    arch = ARCHS['s3'] | {'stages': ARCHS['s3']['stages'][:1]}
    others: list[tuple[dict[str, Any], str]] = [
        ({'config.json': config | {'model_args': {'arch': arch}}}, r'it holds another network \(s3\)'),
        ({'config.json': config | {'model_args': {'arch': 'entry.json'}}}, 'it holds another network'),
        ({'config.json': config | {'model_args': None}}, 'it holds another network'),
        ({'config.json': config | {'architecture': 'resnet18'}}, r'it holds another network \(resnet18\)'),
        ({'config.json': [config]}, r'it holds another network'),
        ({'tokenizer.json': {}, 'README.md': {}}, r'other files in it \(tokenizer\.json\), but no config'),
    ]
    for i, (files, message) in enumerate(others):
        repo = f'org{i}/{NAME}.{TAG}'
        sha = hub.put(repo, {name: json.dumps(data).encode() for name, data in files.items()})
        refused(network, rf'^{repo} was not published: .*{message}', repo=repo)
        assert hub.repos[repo][-1].sha == sha
    hub.put(REPO, {'config.json': b'{'})
    refused(network, f'^config.json of {REPO}: not JSON')


@pytest.mark.usefixtures('quick_picture')
def test_repositories_that_are_empty_or_the_same_network(network: Network, hub: Hub) -> None:
    hub.put(REPO, {'README.md': b'Soon.', 'LICENSE': b'MIT'})
    first = publish(NAME, network.weights, REPO, 'mit')
    edit(lambda t: t['norm.bias'].fill_(1.5))(network.weights)
    data = json.loads(network.path.read_bytes())
    network.path.write_text(json.dumps({key: value for key, value in data.items() if key != 'weights'}))
    second = publish(str(network.path), network.weights, REPO, 'mit')
    assert first != second
    assert [commit.sha for commit in hub.repos[REPO][1:]] == [first, second]
    assert hub.repos[REPO][-1].files['model.safetensors'] == network.weights.read_bytes()
    assert hub.repos[REPO][-1].files['LICENSE'] == b'MIT'


@pytest.mark.usefixtures('quick_picture')
def test_two_publishers_do_not_mix(network: Network, hub: Hub, monkeypatch: Any) -> None:
    ask = HfApi.model_info

    def ask_and_be_overtaken(api: HfApi, repo: str) -> Any:
        info = ask(api, repo)
        hub.put(repo, {'config.json': b'{}'})
        return info

    monkeypatch.setattr(HfApi, 'model_info', ask_and_be_overtaken)
    refused(network, 'somebody else changed the repository at the same time: run the command again')
    assert hub.repos[REPO][-1].files['config.json'] == b'{}'


# ---- an entry's own weights, and all


def test_weights_of_an_entry_need_not_be_named(tmp_path: Path, capsys: Any) -> None:
    words = [
        'zoo',
        'publish',
        's3_digits',
        '--repo',
        'lab/s3_digits.digits',
        '--dry-run',
        str(tmp_path / 'out'),
    ]
    assert main(words) == 0
    (own,) = (Path(zoo.__file__).parent / 'entries').glob('s3_digits.digits-*.safetensors')
    published = load_file(tmp_path / 'out' / 'model.safetensors')
    torch.testing.assert_close(published, load_file(own), rtol=0, atol=0)
    words[4] = 'lab/s3_digits.in1k'
    assert main(words) == 1
    assert "s3_digits has no weights 'in1k' of its own: --weights FILE" in capsys.readouterr().err


@pytest.mark.usefixtures('quick_picture')
def test_all_goes_on_after_a_failure(hub: Hub, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    def file_of(family: str) -> list[dict[str, Any]]:
        file = tmp_path / f'{family}_published.safetensors'
        return [{'file': file.name, 'sha256': sha256_file(file)}]

    networks = {family: make_network(tmp_path, family) for family in ('s3', 'glit', 'carnet', 'uninet')}
    half = {
        key: tensor.half() if tensor.is_floating_point() else tensor
        for key, tensor in (load_file(networks['uninet'].weights).items())
    }
    save_file(half, networks['uninet'].weights)
    by_hand = {'by_hand': {'sources': [{'page': 'https://example.org'}], 'license': 'mit'}}
    make_network(tmp_path, 's3', weights={TAG: {'sources': file_of('s3'), 'license': 'mit'}, **by_hand})
    make_network(tmp_path, 'glit', weights={TAG: {'sources': file_of('glit')}})
    sources = {'sources': [{'hf_hub_id': 'nobody/nothing'}], 'license': 'mit'}
    make_network(tmp_path, 'carnet', weights={TAG: sources})
    record = {'sources': file_of('uninet'), 'license': 'mit'}
    data = json.loads(networks['uninet'].path.read_bytes())
    networks['uninet'].path.write_text(json.dumps(data | {'weights': {TAG: record}}))
    zoo.register(networks['uninet'].path)
    names = [network.name for network in networks.values()]
    monkeypatch.setattr('zoo.hub.publish.list_entries', lambda: names)

    assert main(['zoo', 'publish', '--all', '--org', 'lab']) == 1
    table = capsys.readouterr().out.splitlines()[-5:]
    assert [line.split()[0] for line in table] == [
        's3_published.test',
        's3_published.by_hand',
        'glit_published.test',
        'carnet_published.test',
        'uninet_published.test',
    ]
    assert f'published as lab/s3_published.test@{hub.repos["lab/s3_published.test"][-1].sha}' in table[0]
    assert 'left out' in table[1]
    assert 'no licence of the weights is known' in table[2]
    assert 'cannot be fetched' in table[3]
    assert hub.repos.keys() == {'lab/s3_published.test', 'lab/uninet_published.test'}
    with torch.no_grad():
        model = timm.create_model('hf-hub:lab/uninet_published.test', pretrained=True).eval()
        assert torch.allclose(model(networks['uninet'].x), networks['uninet'].logits, atol=0.05)
    sources = read_entry(networks['uninet'].path).weights[TAG].sources
    assert [source.place for source in sources] == [
        'uninet_published.safetensors',
        'lab/uninet_published.test',
    ]
    assert sources[0].sha256 != sources[1].sha256
    assert not any('by_hand' in request for request in hub.requests)


@pytest.mark.usefixtures('quick_picture')
def test_all_as_a_dry_run(tmp_path: Path, monkeypatch: Any) -> None:
    network = make_network(tmp_path)
    record = {'sources': [{'file': network.weights.name}]}
    make_network(tmp_path, weights={TAG: record})
    monkeypatch.setattr('zoo.hub.publish.list_entries', lambda: [NAME])
    (tmp_path / 'out').mkdir()
    with pytest.warns(UserWarning, match='does not pin'):
        rows = publish_all('lab', unlicensed=True, dry_run=tmp_path / 'out')
    assert rows == [(f'{NAME}.{TAG}', f'written to {tmp_path / "out" / f"{NAME}.{TAG}"}', True)]
    assert sorted(os.listdir(tmp_path / 'out' / f'{NAME}.{TAG}')) == sorted(FILES)


@pytest.mark.parametrize(
    'arguments',
    [
        [],
        ['s3_tiny', '--weights', 'x.safetensors'],
        ['--all'],
        ['--all', '--org', 'lab', '--weights', 'x.safetensors'],
        ['--all', '--org', 'lab', '--license', 'mit'],
        ['s3_tiny', '--weights', 'x', '--repo', 'x', '--org', 'lab'],
        ['s3_tiny', '--weights', 'x', '--repo', 'x', '--license', 'mit', '--unlicensed'],
    ],
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['zoo', 'publish', *arguments]) == 2
    assert 'usage: searchzoo zoo publish' in capsys.readouterr().err


def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    command = ['zoo', 'publish', 's3_tiny', '--weights', 'none.safetensors', '--repo', 'org/s3_tiny.x']
    assert main([*command, '--license', 'mit']) == 1
    error = capsys.readouterr().err
    assert error.startswith('none.safetensors: there is no such file')
    assert error.count('\n') == 1


# ---- the card


def card_of(entry: Entry, **record: Any) -> ModelCard:
    """The card as the Hub reads it."""
    weights = Weights(sources=(Source(hf_hub_id='org/x'),), **record)
    changed = entry.model_copy(update={'weights': {'test': weights}})
    return ModelCard(make_card(changed, 'test', f'org/{entry.name}.test', DIGEST, 1234567))


@pytest.mark.parametrize('name', zoo.list_entries())
def test_every_entry_has_a_card_that_says_whose_result_it_is(name: str) -> None:
    entry = zoo.load_entry(name)
    text = card_of(entry, license='mit').text
    own = entry.provenance.kind in ('paper', 'official_code')
    assert ("The architecture is the authors'" in text) == own
    assert own or re.search('not (known to be that|that|by the authors) of|not by the authors', text)
    assert ' '.join(entry.provenance.note.split()) in text
    assert entry.measured is not None
    assert f'| parameters | {entry.measured.params:,} |' in text
    assert f'{entry.measured_cost():,}' in text
    assert entry.published is None or entry.published.source in text
    assert 'No accuracy was measured with this file.' in text
    assert 'do not take them for those of the paper' in text
    assert f"timm.create_model('hf-hub:org/{name}.test', pretrained=True)" in text
    assert f"AutoModelForImageClassification.from_pretrained('org/{name}.test')" in text
    assert f"backbone=dict(type='ZooBackbone', name='hf-hub:org/{name}.test')" in text
    assert f'1,234,567 bytes, sha256 `{DIGEST}`' in text
    for paper in PAPERS[entry.family]:
        assert paper.bibtex() in text
    assert all(len(row.split(' | ')) in (2, 4) for row in text.splitlines() if row.startswith('| '))


def test_figures_of_the_card_stand_apart(network: Network) -> None:
    text = card_of(zoo.load_entry('trionet_a')).text
    row = '| cost as the paper counts it (flops) | 1,999,228,416 | 2 G | -0.04% |'
    assert row in text
    assert '| multiply-accumulates (MACs) | 996,101,888 |  |  |' in text
    assert '| top-1 accuracy (%) | see below | 74.8 |  |' in text
    assert 'it was not measured with this file' in text
    assert 'published |' not in card_of(zoo.load_entry(NAME)).text, 'nothing is published, so no such column'


def test_metadata_of_the_card() -> None:
    entry = zoo.load_entry('s3_tiny')
    measured = {'metrics': {'top1': 81.5, 'top5': 95.25}, 'evaluation': 'On the | validation\nset.'}
    card = card_of(
        entry, license='mit', data='ImageNet-1k', training={'steps': 3}, note='Of ours.', **measured
    )
    data = yaml.safe_load(card.content.split('---\n')[1])
    results = data.pop('model-index')
    assert data == {
        'library_name': 'timm',
        'pipeline_tag': 'image-classification',
        'tags': [
            'image-classification',
            'timm',
            'transformers',
            'searchzoo',
            'neural-architecture-search',
            's3',
        ],
        'license': 'mit',
        'datasets': ['imagenet-1k'],
        'metrics': ['accuracy'],
    }
    assert results[0]['name'] == 's3_tiny.test'
    assert [result.metric_value for result in card.data.eval_results] == [81.5, 95.25]
    assert card.data.eval_results[0].dataset_type == 'imagenet-1k'
    assert '| top-1 accuracy (%) | 81.5 |' in card.text
    assert 'How it was measured: On the \\| validation set.' in card.text
    assert '"steps": 3' in card.text
    assert 'Of ours.' in card.text
    assert 'do not take them' not in card.text
    other = card_of(entry, license='Some Licence 1.0', data='My images')
    assert (other.data.license, other.data.license_name) == ('other', 'Some Licence 1.0')
    assert other.data.datasets is None
    assert other.data.eval_results is None


def test_picture_of_the_card_is_one(network: Network, tmp_path: Path) -> None:
    publish(NAME, network.weights, REPO, 'mit', dry_run=tmp_path / 'folder')
    with Image.open(tmp_path / 'folder' / 'architecture.png') as image:
        assert image.format == 'PNG'
        assert image.width > 500
    assert '](architecture.png)' in (tmp_path / 'folder' / 'README.md').read_text()


@pytest.mark.parametrize('family', FAMILIES)
def test_papers_are_cited_in_bibtex(family: str) -> None:
    for paper in PAPERS[family]:
        text = paper.bibtex()
        assert re.match(r'@(inproceedings|misc)\{[a-z]+\d{4}[a-z]*,\n', text)
        assert text.count('{') == text.count('}')
        fields = dict(re.findall(r'^  (\w+) = \{(.*)\},$', text, re.MULTILINE))
        assert fields['title'] == f'{{{paper.title}}}'
        assert fields['author'].count(' and ') == len(paper.authors) - 1
        assert re.fullmatch(r'\d{4}\.\d{5}', fields['eprint'])
        assert FAMILIES[family].__doc__ is not None
    assert PAPERS[family][0].arxiv in FAMILIES[family].__doc__ or family == 'glit'
