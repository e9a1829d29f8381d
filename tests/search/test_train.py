"""``searchzoo search train``: an entry trained anew, whatever interrupts it, and used as any user would."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from interruptions import read_log
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn import datasets

import zoo
from search.config import load_config
from search.problem import Problem
from search.run import Interrupted
from search.train import Training, find_entry, load_train_config, train_entry
from zoo.console import main
from zoo.entry import Entry, make_entry, read_entry
from zoo.errors import ZooError
from zoo.registry import config_path, load_entry

TINY = Path(__file__).with_name('tiny.yaml')
RECIPE = """
seed: 5
test: true
recipe:
  epochs: 3
  batch_size: 256
  lr: 5e-3
  warmup_epochs: 1
  drop_rate: 0.1
  drop_path_rate: 0.1
  ema: 0.8
  repeats: 3
  augment: {pad: 1, hflip: 0.0, mixup: 0.2}
"""
CONFIGS = sorted(config_path('train/s3_imagenet.yaml').parent.glob('*.yaml'))
ENTRIES = {
    'carnet': 'carnet_c112',
    'glit': 'glit_tiny',
    's3': 's3_tiny',
    'trionet': 'trionet_a',
    'uninet': 'uninet_b0',
}


class Stop(Exception):
    """What a test raises in place of an interruption."""


def little_entry(num_classes: int = 10) -> Entry:
    """A network of 1,571 weights that came from a search."""
    space = Problem(load_config(TINY)).space
    provenance = {
        'kind': 'searched',
        'note': 'Found by a test.',
        'seed': 3,
        'space': 'tiny',
        'config': {'x': 1},
    }
    return make_entry(
        {
            'schema': 1,
            'name': 'little',
            'family': 's3',
            'num_classes': num_classes,
            'arch': space.decode(space.space.smallest()).model_dump(mode='json'),
            'input': {'size': [1, 16, 16], 'mean': [0.3], 'std': [0.35]},
            'provenance': provenance,
        }
    )


@pytest.fixture(scope='module')
def given(tmp_path_factory) -> Path:
    """A folder with an entry's file and a config."""
    folder = tmp_path_factory.mktemp('given')
    (folder / 'little.json').write_text(little_entry().to_json())
    (folder / 'train.yaml').write_text(RECIPE)
    return folder


def train(given: Path, folder: Path, *overrides: str, fault=None) -> Path:
    entry = find_entry(str(given / 'little.json'))
    config = load_train_config(given / 'train.yaml', entry, overrides)
    return train_entry(config, entry, folder, fault=fault, quiet=True)


def read_all(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob('little*')}


@pytest.fixture(scope='module')
def whole(given, tmp_path_factory) -> tuple[Path, list[str]]:
    """An uninterrupted training and the points that it passed."""
    folder, points = tmp_path_factory.mktemp('whole'), []
    train(given, folder, 'checkpoint_seconds=0', fault=points.append)
    return folder, points


class TestInterruptions:
    def test_every_phase_has_points(self, whole):
        points = whole[1]
        assert points.count('training: step') == 12
        assert points.count('training: saved') == 11
        for phase in ('weights', 'entry'):
            for kind in ('begin', 'computed', 'written', 'done'):
                assert points.count(f'{phase}: {kind}') == 1

    @pytest.mark.parametrize(('points_each', 'seconds', 'least'), [(7, 0, 7), (20, 1e6, 2)])
    def test_interrupted_again_and_again_it_ends_in_the_same_bytes(
        self, given, whole, tmp_path, points_each, seconds, least
    ):
        """With a checkpoint after every step, and with none but at the end of a phase."""
        for piece in range(1, 30):
            passed = []

            def fault(point, passed=passed):
                passed.append(point)
                if len(passed) == points_each:
                    raise Stop

            torch.manual_seed(piece)
            try:
                train(given, tmp_path, f'checkpoint_seconds={seconds}', fault=fault)
            except Stop:
                continue
            break
        assert least <= piece < 29
        assert read_all(tmp_path) == read_all(whole[0])
        assert read_log(tmp_path) == read_log(whole[0])

    def test_kill_9(self, given, whole, tmp_path):
        command = [
            sys.executable,
            '-m',
            'search',
            'train',
            str(given / 'little.json'),
            str(given / 'train.yaml'),
        ]
        command += ['--out', str(tmp_path / 'run'), 'checkpoint_seconds=0']
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        while not (tmp_path / 'run' / 'checkpoint.pt').exists():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / 'run' / 'little_digits.json').exists()
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        assert read_all(tmp_path / 'run') == read_all(whole[0])
        assert read_log(tmp_path / 'run') == read_log(whole[0])
        assert 'Trained little_digits, a network of family s3' in done.stdout
        assert re.search(r'test accuracy \d+\.\d\d % \(val \d+\.\d\d %\)', done.stdout)

    def test_a_finished_one_does_nothing_again(self, given, whole):
        points = []
        train(given, whole[0], fault=points.append)
        assert points == []

    def test_another_entry_or_config_in_the_folder_is_refused(self, given, whole):
        with pytest.raises(ZooError, match=r'made by another config: recipe\.epochs was 3, now 4'):
            train(given, whole[0], 'recipe.epochs=4')
        other = find_entry('s3_tiny')
        config = load_train_config(given / 'train.yaml', other, ['name=little_digits'])
        with pytest.raises(ZooError, match=r"entry was 'little', now 's3_tiny'"):
            train_entry(config, other, whole[0], quiet=True)


class TestResult:
    def test_the_entry_says_how_its_weights_were_trained(self, whole):
        entry, weights = read_entry(whole[0] / 'little_digits.json'), whole[0] / 'little_digits.safetensors'
        old = little_entry()
        assert (entry.name, entry.num_classes, entry.input) == ('little_digits', 10, old.input)
        assert (entry.arch, entry.provenance, entry.published) == (old.arch, old.provenance, None)
        model = timm.create_model('s3', arch=entry.arch, in_chans=1, img_size=16, num_classes=10)
        assert entry.measured.params == sum(p.numel() for p in model.parameters())
        record = entry.weights['digits']
        (source,) = record.sources
        assert source.size == weights.stat().st_size
        assert source.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
        assert record.data == 'digits: 1071 images of its train split'
        assert record.training['steps'] == 12
        assert record.training['config']['seed'] == 5
        assert record.training['config']['recipe']['ema'] == 0.8
        assert record.training['config']['entry'] == 'little'
        assert record.metrics.keys() == {'val_top1', 'test_top1'}
        assert 'from scratch' in record.note
        assert 'moving averages of the weights' in record.note

    def test_timm_builds_it_with_its_accuracy(self, given, tmp_path):
        """Independent of the package's data code: pixels resized and normalised by hand."""
        recipe = 'recipe={epochs: 8, batch_size: 32, lr: 5e-2, clip_grad: 1.0, warmup_epochs: 2}'
        path = train(given, tmp_path, recipe, 'name=learned')
        entry = read_entry(path)
        model = timm.create_model(zoo.register(path), pretrained=True).eval()
        raw = datasets.load_digits()
        seen, test = [0] * 10, []
        for i, label in enumerate(raw.target):
            if seen[label] % 5 == 0:
                test.append(i)
            seen[label] += 1
        pixels = np.rint(raw.images[test] * (255 / 16)).astype(np.uint8)
        resized = [np.asarray(Image.fromarray(x).resize((16, 16), Image.Resampling.BICUBIC)) for x in pixels]
        x = (torch.tensor(np.stack(resized))[:, None] / 255 - 0.3) / 0.35
        with torch.no_grad():
            top1 = (model(x).argmax(1).numpy() == raw.target[test]).mean() * 100
        assert top1 > 50
        assert entry.weights['digits'].metrics['test_top1'] == pytest.approx(top1, abs=1e-3)

    def test_a_seed_changes_the_result(self, given, whole, tmp_path):
        train(given, tmp_path, 'seed=6')
        name = 'little_digits.safetensors'
        assert (tmp_path / name).read_bytes() != (whole[0] / name).read_bytes()

    def test_names_tags_and_input_can_be_given(self, given, tmp_path):
        changes = ('tag=hand_written', 'recipe.epochs=1', 'input={size: [1, 32, 32], crop_pct: 0.9}')
        entry = read_entry(train(given, tmp_path, *changes))
        assert entry.name == 'little_hand_written'
        assert list(entry.weights) == ['hand_written']
        assert entry.input.size == (1, 32, 32)
        assert (entry.input.crop_pct, entry.input.mean) == (0.9, (0.3,))

    def test_where_nothing_is_held_out_only_test_is_measured(self, given, tmp_path):
        for split, count in (('train', 6), ('test', 2)):
            for label in range(3):
                (tmp_path / split / str(label)).mkdir(parents=True)
                for i in range(count):
                    Image.new('L', (16, 16), 80 * label + i).save(tmp_path / split / str(label) / f'{i}.png')
        data = f'data={{name: folder, root: {tmp_path}, val_size: 0}}'
        entry = read_entry(train(given, tmp_path / 'run', data, 'recipe.batch_size=18', 'tag=greys'))
        assert entry.num_classes == 3
        assert entry.weights['greys'].metrics.keys() == {'test_top1'}
        assert entry.weights['greys'].data == 'folder: 18 images of its train split'
        unread = read_entry(train(given, tmp_path / 'other', data, 'recipe.batch_size=18', 'test=false'))
        assert unread.weights['folder'].metrics is None
        assert 'Its accuracy was not measured.' in unread.weights['folder'].evaluation


class TestInit:
    """Without steps that change anything, what comes out is what went in."""

    STILL = ('recipe.lr=1e-30', 'recipe.weight_decay=0', 'recipe.epochs=1', 'recipe.ema=null')

    def file(self, folder: Path, num_classes: int = 10, **changes) -> Path:
        torch.manual_seed(1)
        arch = little_entry().arch
        model = timm.create_model('s3', arch=arch, in_chans=1, img_size=16, num_classes=num_classes)
        save_file(
            {key: value + 0.5 for key, value in model.state_dict().items()} | changes,
            folder / 'a.safetensors',
        )
        return folder / 'a.safetensors'

    def test_a_file(self, given, tmp_path):
        file = self.file(tmp_path)
        path = train(given, tmp_path / 'run', *self.STILL, f'init={file}')
        found, expected = load_file(path.with_suffix('.safetensors')), load_file(file)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)
        record = read_entry(path).weights['digits']
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        assert record.training['config']['init'] == {'sha256': sha256}
        assert 'from other weights' in record.note

    def test_a_classifier_of_other_classes_is_left_out(self, given, tmp_path):
        file = self.file(tmp_path, num_classes=7)
        found, expected = [], load_file(file)
        for run in ('one', 'two'):
            torch.manual_seed(len(found))
            path = train(given, tmp_path / run, *self.STILL, f'init={file}')
            found.append(load_file(path.with_suffix('.safetensors')))
        assert found[0]['head.fc.weight'].shape == (10, 8)
        assert torch.equal(found[0]['head.fc.weight'], found[1]['head.fc.weight'])
        assert all(
            torch.equal(found[0][key], expected[key]) for key in expected if not key.startswith('head.fc')
        )

    def test_the_weights_of_an_entry(self, given, whole, tmp_path):
        entry = find_entry(str(whole[0] / 'little_digits.json'))
        config = load_train_config(given / 'train.yaml', entry, [*self.STILL, 'init=digits', 'name=further'])
        path = train_entry(config, entry, tmp_path, quiet=True)
        found, expected = (
            load_file(p.with_suffix('.safetensors')) for p in (path, whole[0] / 'little_digits.json')
        )
        assert all(torch.equal(found[key], expected[key]) for key in expected)
        assert 'from weights digits of little_digits' in read_entry(path).weights['digits'].note

    @pytest.mark.filterwarnings('ignore::UserWarning')  # of torch, about timm's interpolation
    def test_larger_images(self, given, tmp_path):
        """timm fits position terms to the size of windows, here 4 in place of 2."""
        arch = little_entry().arch.model_dump(mode='json')
        arch['stages'][0]['blocks'][0]['window_size'] = 4
        entry = make_entry(json.loads(little_entry().to_json()) | {'arch': arch, 'name': 'wide'})
        zoo.register(entry)
        config = load_train_config(
            given / 'train.yaml', entry, [f'init={self.file(tmp_path)}', 'recipe.epochs=1']
        )
        assert (
            Training(config, entry).initial['stages.0.blocks.0.attn.relative_position_bias_table'].shape[0]
            == 7
        )

    @pytest.mark.parametrize(
        ('tensors', 'message'),
        [
            ({'extra': torch.zeros(1)}, r'a\.safetensors cannot be loaded: .*extra'),
            ({'patch_embed.proj.weight': torch.zeros(5, 1, 4, 4)}, r'a\.safetensors cannot be loaded'),
        ],
    )
    def test_weights_of_another_network_are_refused(self, given, tmp_path, tensors, message):
        file = self.file(tmp_path, **tensors)
        with pytest.raises(ZooError, match=message):
            train(given, tmp_path / 'run', f'init={file}')
        assert not (tmp_path / 'run').exists()


class TestMistakes:
    @pytest.mark.parametrize(
        ('entry', 'overrides', 'message'),
        [
            ('s3_tinny', [], r"There is no entry 's3_tinny' \(did you mean s3_tiny"),
            ('nowhere/entry.json', [], r'nowhere/entry\.json'),
            ('{given}/train.yaml', [], r'train\.yaml'),
            (
                '{given}/little.json',
                ['recipe.epoch=3'],
                r'recipe\.epoch: found 3, this key is not known here',
            ),
            ('{given}/little.json', ['input=3'], r'\$\.input: found 3, keys are needed'),
            ('{given}/little.json', ['input.size=[3, 16, 16]'], r'mean has 1 values, size says 3 channels'),
            (
                '{given}/little.json',
                ['input.size=[1, 2, 2]'],
                r'input\.size: found \(1, 2, 2\): The input is smaller',
            ),
            (
                '{given}/little.json',
                ['init=missing.safetensors'],
                r'init: missing\.safetensors is no safetensors',
            ),
            (
                '{given}/little.json',
                ['init={given}/train.yaml'],
                r'init: .*train\.yaml is no safetensors file',
            ),
            ('{given}/little.json', ['name=s3_tiny'], r"found 's3_tiny', which is the name of another model"),
            (
                '{given}/little.json',
                ['name=resnet18'],
                r"found 'resnet18', which is the name of another model",
            ),
            ('{given}/little.json', [f'tag={"a" * 64}'], r'at most 64 letters are allowed'),
            ('{given}/little.json', ['recipe.batch_size=2000'], r'batch_size: found 2000'),
            ('{given}/little.json', ['data.name=digitz'], r"data\.name: found 'digitz'"),
            ('{given}/little.json', ['recipe.augment.auto_augment=magic'], r"timm does not take 'magic'"),
        ],
    )
    def test_one_sentence_and_nothing_is_written(self, given, tmp_path, capsys, entry, overrides, message):
        overrides = [text.format(given=given) for text in overrides]
        command = ['search', 'train', entry.format(given=given), str(given / 'train.yaml')]
        assert main([*command, '--out', str(tmp_path / 'run'), *overrides]) == 1
        error = capsys.readouterr().err
        assert re.search(message, error), error
        assert error.count('\n') == 1
        assert not (tmp_path / 'run').exists()

    def test_the_name_of_another_searched_network(self, given, tmp_path):
        arch = little_entry().arch.model_dump(mode='json')
        arch['stages'][0]['blocks'][0]['mlp_ratio'] = 2.0
        zoo.register(make_entry(json.loads(little_entry().to_json()) | {'arch': arch, 'name': 'other'}))
        with pytest.raises(ZooError, match="found 'other', which is the name of another architecture"):
            train(given, tmp_path / 'run', 'name=other')

    def test_usage(self, capsys):
        assert main(['search', 'train', 's3_tiny', 'x.yaml']) == 2
        assert main(['search', 'train', 's3_tiny', 'x.yaml', '--out', 'x', 'fast']) == 2
        assert main(['search', 'train', '--help']) == 0
        assert 'searchzoo search train s3_tiny configs/train/s3_imagenet.yaml' in capsys.readouterr().out

    def test_interrupted(self, given, tmp_path, capsys, monkeypatch):
        def stop(config, entry, folder):
            raise Interrupted

        monkeypatch.setattr('search.cli.train_entry', stop)
        command = [
            'search',
            'train',
            str(given / 'little.json'),
            str(given / 'train.yaml'),
            '--out',
            str(tmp_path),
        ]
        assert main(command) == 130
        assert f'the same command continues: searchzoo {" ".join(command)}' in capsys.readouterr().err


class TestConfigs:
    """The bundled ones, of which each is for the family that its name begins with."""

    def test_every_paper_has_some(self):
        names = [path.stem for path in CONFIGS]
        for family in ENTRIES:
            assert {f'{family}_digits'} < {name for name in names if name.startswith(f'{family}_')}

    @pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
    def test_valid_for_a_network_of_the_family(self, path):
        family, _, data = path.stem.partition('_')
        entry = load_entry(ENTRIES[family] if 'cifar' not in data else 'carnet_c96')
        config = load_train_config(path, entry)
        is_digits = data == 'digits'
        names = {'digits': 'digits', 'cifar10': 'torch/cifar10', 'small': 'cars'}
        assert config.data.name == names.get(data, 'folder')
        assert config.data.val_size == (0.1 if is_digits else 0)
        in_chans, *img_size = config.input.size
        args = dict(in_chans=in_chans, img_size=tuple(img_size), num_classes=7, device='meta')
        rates = dict(drop_rate=config.recipe.drop_rate, drop_path_rate=config.recipe.drop_path_rate)
        timm.create_model(entry.name, **args, **rates)(torch.zeros(2, *config.input.size, device='meta'))

    @pytest.mark.parametrize(
        ('name', 'expected'),
        [
            ('trionet_imagenet', dict(epochs=130, batch_size=256, opt='nesterov', lr=0.1, weight_decay=8e-5)),
            ('trionet_small', dict(batch_size=256, drop_rate=0.1, weight_decay=1e-3)),
            ('s3_imagenet', dict(epochs=300, batch_size=1024, warmup_epochs=20, lr=1e-3, drop_path_rate=0.2)),
            ('s3_imagenet_384', dict(epochs=10, lr=1e-5, min_lr=1e-5, weight_decay=1e-8)),
            ('glit_imagenet', dict(epochs=300, batch_size=1024, clip_grad=1.0, repeats=3, ema=None)),
            ('uninet_imagenet_small', dict(epochs=310, cooldown_epochs=10, ema=0.99996, repeats=1)),
            ('carnet_cifar10', dict(epochs=500, opt='momentum', lr=0.04, weight_decay=4e-4)),
            ('carnet_imagenet', dict(epochs=200, opt='momentum', lr=0.04, weight_decay=3e-5)),
        ],
    )
    def test_the_papers_settings(self, name, expected):
        family = name.partition('_')[0]
        config = load_train_config(config_path(f'train/{name}.yaml'), load_entry(ENTRIES[family]))
        assert {key: getattr(config.recipe, key) for key in expected} == expected

    def test_input_is_the_entrys_but_for_what_is_said(self):
        for name in ('uninet_b0', 'uninet_b3'):
            entry = load_entry(name)
            assert (
                load_train_config(config_path('train/uninet_imagenet_small.yaml'), entry).input == entry.input
            )


def test_two_processes_train_what_one_trains(given, tmp_path):
    changes = ('recipe.augment.mixup=0', 'recipe.drop_rate=0', 'recipe.drop_path_rate=0', 'recipe.bf16=false')
    command = [sys.executable, '-m', 'accelerate.commands.launch', '--multi_gpu', '--num_processes', '2']
    command += ['--num_machines', '1', '--mixed_precision', 'no', '--dynamo_backend', 'no']
    command += ['--main_process_port', '0', '-m', 'search', 'train', str(given / 'little.json')]
    command += [str(given / 'train.yaml'), '--out', str(tmp_path / 'two'), *changes]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=os.environ)
    assert done.returncode == 0, done.stderr[-3000:]
    train(given, tmp_path / 'one', *changes)
    one, two = (load_file(tmp_path / number / 'little_digits.safetensors') for number in ('one', 'two'))
    for key in one:
        torch.testing.assert_close(two[key], one[key], rtol=1e-4, atol=1e-5, msg=key)
