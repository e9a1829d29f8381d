"""Accuracies as a plain loop over the images finds them, whatever the batch size, workers and processes."""

import hashlib
import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import IterableDataset

import zoo
from zoo import images
from zoo.console import main
from zoo.digits import Digits
from zoo.entry import read_entry
from zoo.errors import ZooError
from zoo.evaluate import evaluate, evaluate_name, load_model
from zoo.files import sha256_file

ROOT = Path(zoo.__file__).parents[1]
BLOCK = {'num_heads': 1, 'window_size': 4, 'mlp_ratio': 2.0}
ARCH = {'stages': [{'embed_dim': 8, 'blocks': [BLOCK]}, {'embed_dim': 16, 'blocks': [BLOCK]}]}
NAME = 's3_evaluated'
MEAN, STD, CROP = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), 0.8
CLASSES, COUNT = 7, 41


def write_entry(folder: Path, image: dict[str, Any], num_classes: int, seed: int = 0) -> Path:
    """A network with random weights whose guesses differ from image to image."""
    torch.manual_seed(seed)
    model = timm.create_model('s3', arch=ARCH, in_chans=image['size'][0], num_classes=num_classes)
    nn.init.normal_(model.get_classifier().weight)
    folder.mkdir(exist_ok=True)
    file = folder / f'{NAME}.safetensors'
    save_file(model.state_dict(), file)
    entry = {
        'schema': 1,
        'name': NAME,
        'family': 's3',
        'num_classes': num_classes,
        'arch': ARCH,
        'input': image,
        'weights': {'test': {'sources': [{'file': file.name, 'sha256': sha256_file(file)}]}},
        'provenance': {'kind': 'searched', 'note': 'Found by a test.'},
    }
    (folder / f'{NAME}.json').write_text(json.dumps(entry))
    return folder / f'{NAME}.json'


@pytest.fixture(scope='module')
def entry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    image = {'size': [3, 32, 32], 'mean': MEAN, 'std': STD, 'crop_pct': CROP}
    return write_entry(tmp_path_factory.mktemp('entry'), image, CLASSES)


@pytest.fixture(scope='module')
def grey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    image = {'size': [1, 32, 32], 'mean': [0.3], 'std': [0.4], 'interpolation': 'bilinear', 'crop_pct': 1.0}
    return write_entry(tmp_path_factory.mktemp('grey'), image, 10)


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """41 pictures of several sizes and modes, in seven classes of which 10 comes after 2."""
    path = tmp_path_factory.mktemp('pictures')
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        label = ('1', '2', '3', '10', '11', '12', 'a')[i % CLASSES]
        (path / 'val' / label).mkdir(parents=True, exist_ok=True)
        height, width = rng.integers(36, 70, 2)
        blocks = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8)).resize((width, height))
        mode = ('RGB', 'L', 'RGBA')[i % 3]
        blocks.convert(mode).save(path / 'val' / label / f'{i:02}.png')
    (path / 'train' / 'a').mkdir(parents=True)
    return path


def network(entry: Path) -> nn.Module:
    data = read_entry(entry)
    model = timm.create_model('s3', arch=ARCH, in_chans=data.input.size[0], num_classes=data.num_classes)
    model.load_state_dict(load_file(entry.with_suffix('.safetensors')))
    model.pretrained_cfg.update(
        input_size=data.input.size, mean=data.input.mean, std=data.input.std, crop_pct=data.input.crop_pct
    )
    return model.eval()


def read(path: Path, crop: float = CROP, size: int = 32) -> torch.Tensor:
    """What the network sees of a picture: (1, 3, H, W)."""
    image = Image.open(path).convert('RGB')
    short = int(size / crop)
    scale = short / min(image.size)
    width, height = (short if side == min(image.size) else int(side * scale) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    pixels = np.asarray(image.crop((left, top, left + size, top + size)), np.float64) / 255
    return torch.from_numpy((pixels - MEAN) / STD).permute(2, 0, 1)[None].float()


def guesses(model: nn.Module, folder: Path, **options: Any) -> list[tuple[int, list[int]]]:
    """Of each picture the class and the network's guesses, the likeliest first."""
    names = ('1', '2', '3', '10', '11', '12', 'a')
    found = []
    with torch.no_grad():
        for label, name in enumerate(names):
            for path in sorted((folder / 'val' / name).iterdir()):
                logits = model(read(path, **options))[0].tolist()
                found.append((label, sorted(range(CLASSES), key=lambda k, row=logits: -row[k])))
    return found


def count(found: list[tuple[int, list[int]]]) -> dict[str, int]:
    return {f'top{k}': sum(label in ranks[:k] for label, ranks in found) for k in (1, 5)}


@pytest.fixture(scope='module')
def expected(entry: Path, folder: Path) -> dict[str, int]:
    """By the plain loop; the test would be worth less if all or no images were right."""
    model = network(entry)
    correct = count(guesses(model, folder))
    assert 0 < correct['top1'] < correct['top5'] < COUNT
    assert correct != count(guesses(model, folder, crop=1.0))
    return correct


def test_accuracies_are_those_of_a_plain_loop(entry: Path, folder: Path, expected: dict[str, int]) -> None:
    found = evaluate_name(str(entry), str(folder), quiet=True)
    assert (found.images, found.correct) == (COUNT, expected)
    share = expected['top1'] / COUNT
    assert found.metrics == {name: round(100 * value / COUNT, 4) for name, value in expected.items()}
    assert found.standard_error('top1') == pytest.approx(100 * (share * (1 - share) / COUNT) ** 0.5)
    assert (found.data, found.dtype, found.batch_size) == (f'{folder.name} (val)', 'float32', 64)
    for text in (
        '3x32x32 pixels',
        'bicubic',
        'crop_pct 0.8 (center)',
        'mean 0.5 0.4 0.3',
        'std 0.2 0.25 0.3',
    ):
        assert text in found.preprocessing


@pytest.mark.parametrize(('batch_size', 'num_workers'), [(1, 0), (7, 0), (7, 2), (41, 0)])
def test_neither_batch_size_nor_workers_matter(
    batch_size: int, num_workers: int, entry: Path, folder: Path, expected: dict[str, int]
) -> None:
    """With one image at a time top-1 and top-5 agree on the first batches."""
    found = evaluate_name(
        str(entry), f'{folder}/val', batch_size=batch_size, num_workers=num_workers, quiet=True
    )
    assert (found.images, found.correct, found.batch_size) == (COUNT, expected, batch_size)


def test_bf16(entry: Path, folder: Path) -> None:
    model = network(entry)
    with torch.autocast('cpu', torch.bfloat16):
        correct = count(guesses(model, folder))
    found = evaluate_name(str(entry), str(folder), bf16=True, batch_size=1, quiet=True)
    assert found.dtype == 'bfloat16 (autocast)'
    assert abs(found.correct['top1'] - correct['top1']) <= 1  # of equal logits either may be the first
    dtypes = []
    model.get_classifier().register_forward_hook(lambda module, args, output: dtypes.append(output.dtype))
    evaluate(model, [(Image.new('RGB', (40, 40)), 0)], bf16=True, quiet=True)
    evaluate(model, [(Image.new('RGB', (40, 40)), 0)], quiet=True)
    assert dtypes == [torch.bfloat16, torch.float32]


def test_other_size_and_other_weights(entry: Path, folder: Path, tmp_path: Path) -> None:
    other = write_entry(tmp_path, json.loads(entry.read_text())['input'], CLASSES, seed=1)
    model = network(other)
    correct = count(guesses(model, folder, size=48))
    assert correct != count(guesses(network(entry), folder, size=48))
    file = other.with_suffix('.safetensors')
    found = evaluate_name(str(entry), str(folder), checkpoint=file, size=48, quiet=True)
    assert found.correct == correct
    assert '3x48x48 pixels' in found.preprocessing


def test_models_by_any_name(entry: Path, folder: Path, expected: dict[str, int], tmp_path: Path) -> None:
    """A folder as timm saves it; another file of weights is not passed over in silence."""
    name = zoo.register(entry)
    timm.models.save_for_hf(load_model(name), tmp_path / 'hub', safe_serialization=True)
    changed = {key: -value for key, value in load_file(entry.with_suffix('.safetensors')).items()}
    save_file(changed, tmp_path / 'changed.safetensors')
    for model in (name, f'{name}.test', f'local-dir:{tmp_path / "hub"}'):
        assert evaluate_name(model, str(folder), quiet=True).correct == expected
        other = load_model(model, checkpoint=tmp_path / 'changed.safetensors')
        assert torch.equal(other.norm.weight.data, changed['norm.weight'])


class OutOfMemory(nn.Module):
    """Fails for batches of more than ``most`` images, from the ``first`` batch on."""

    def __init__(self, model: nn.Module, most: int, error: Exception, first: int = 0):
        super().__init__()
        self.model, self.most, self.error, self.first = model, most, error, first
        self.pretrained_cfg, self.num_classes = model.pretrained_cfg, model.num_classes
        self.sizes: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(x))
        if len(x) > self.most and len(self.sizes) > self.first:
            raise self.error
        return self.model(x)


GPU_ERROR = torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB.')
CPU_ERROR = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate")


@pytest.mark.parametrize(
    ('error', 'first', 'sizes'),
    [(GPU_ERROR, 0, [20, 10, 5, 5]), (CPU_ERROR, 0, [20, 10, 5, 5]), (GPU_ERROR, 1, [20, 20, 10, 5, 5])],
    ids=['gpu', 'cpu', 'second batch'],
)
def test_batches_that_do_not_fit_are_halved(
    error: Exception, first: int, sizes: list[int], entry: Path, folder: Path, expected: dict[str, int]
) -> None:
    """From the beginning, so that nothing counts twice."""
    model = OutOfMemory(network(entry), 5, error, first)
    source, label = images.open_images(str(folder))
    found = evaluate(model, source, label, batch_size=20, quiet=True)
    assert (found.images, found.correct, found.batch_size) == (COUNT, expected, 5)
    assert model.sizes[: len(sizes)] == sizes


def test_not_even_one_image_fits(entry: Path, folder: Path) -> None:
    source, label = images.open_images(str(folder))
    with pytest.raises(ZooError, match='not even one image at a time fits into memory'):
        evaluate(OutOfMemory(network(entry), 0, GPU_ERROR), source, label, quiet=True)
    broken = OutOfMemory(network(entry), 0, RuntimeError('CUDA error: unspecified launch failure.'))
    with pytest.raises(ZooError, match=r'cannot be evaluated: CUDA error: unspecified launch failure\.$'):
        evaluate(broken, source, label, quiet=True)


class TestDigits:
    @pytest.mark.parametrize(
        ('split', 'size', 'digest'),
        [
            ('train', 1071, '1efb20dc775a5d4a5d1184c0bf22c3ae85f0e21681363589f1ef3f1c9c58983b'),
            ('val', 362, '2f12f4a7be19004458cbddba8196246853186d80e51df000f6d7f626a8ab321f'),
            ('test', 364, 'bf6eda5048535fe5ce1beac6a2456b24448c9258ec009573df19f52bba857f60'),
        ],
    )
    def test_split_is_fixed_forever(self, split: str, size: int, digest: str) -> None:
        digits = Digits(split)
        pairs = [digits[index] for index in range(len(digits))]
        assert len(pairs) == size
        data = b''.join(image.tobytes() + bytes([label]) for image, label in pairs)
        assert hashlib.sha256(data).hexdigest() == digest

    def test_grey_images(self, grey: Path) -> None:
        model, correct = network(grey), {'top1': 0, 'top5': 0}
        digits = Digits('test')
        with torch.no_grad():
            for image, label in (digits[index] for index in range(364)):
                pixels = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR), np.float64) / 255
                logits = model(torch.from_numpy((pixels - 0.3) / 0.4).float()[None, None])[0]
                rank = int((logits > logits[label]).sum())
                correct['top1'] += rank < 1
                correct['top5'] += rank < 5
        found = evaluate_name(str(grey), 'digits', batch_size=100, quiet=True)
        assert (found.data, found.images) == ('digits (test)', 364)
        assert found.correct == correct
        assert 0 < correct['top1'] < correct['top5'] < 364
        assert evaluate_name(str(grey), 'digits', split='val', quiet=True).images == 362


class TestCommand:
    def run(self, capsys: pytest.CaptureFixture[str], *argv: str | Path) -> tuple[int, str, str]:
        code = main(['zoo', 'evaluate', *map(str, argv), '--workers', '0'])
        out, err = capsys.readouterr()
        assert 'Traceback' not in err
        return code, out, err

    def test_prints_and_writes_what_a_weight_record_holds(
        self, entry: Path, folder: Path, expected: dict[str, int], tmp_path: Path, capsys: Any
    ) -> None:
        target = tmp_path / 'record.json'
        code, out, err = self.run(capsys, entry, '--data', folder, '--json', target)
        assert code == 0
        top1, top5 = (100 * expected[name] / COUNT for name in ('top1', 'top5'))
        error = (top1 * (100 - top1) / COUNT) ** 0.5
        lines = dict(line.split(maxsplit=1) for line in out.splitlines())
        assert lines['data'] == f'{folder.name} (val), {COUNT} images'
        assert lines['top1'] == f'{top1:.2f} % (standard error {error:.2f})'
        assert lines['top5'].startswith(f'{top5:.2f} %')
        assert 'crop_pct 0.8' in lines['preprocessing']
        assert lines['precision'] == 'float32, 64 images at once'
        assert re.search(r'\(val\): 100%.*1/1 ', err)
        record = json.loads(target.read_text())
        data = json.loads(entry.read_text())
        data['weights']['test'].update(record)
        (tmp_path / 'entry.json').write_text(json.dumps(data))
        weights = read_entry(tmp_path / 'entry.json').weights['test']
        assert weights.metrics == {'top1': round(top1, 4), 'top5': round(top5, 4)}
        for text in (f'{COUNT} images of {folder.name} (val)', 'crop_pct 0.8', 'float32', timm.__version__):
            assert text in weights.evaluation
        assert str(folder) not in weights.evaluation

    @pytest.mark.parametrize(
        ('argv', 'message'),
        [
            (['uninet_b0', '--data', 'digits'], 'uninet_b0 has no published weights: '),
            (['s3_evaluatd', '--data', 'digits'], "There is no network 's3_evaluatd'"),
            (['s3_tiny.nope', '--data', 'digits'], 's3_tiny.nope cannot be created: Invalid pretrained tag'),
            (['local-dir:nowhere', '--data', 'digits'], 'local-dir:nowhere cannot be created: '),
            (['hf-hub:org/x', '--data', 'digits'], 'hf-hub:org/x cannot be created: HF_HUB_OFFLINE is set'),
            (['nowhere.json', '--data', 'digits'], 'nowhere.json: cannot be read: No such file'),
            (['ENTRY', '--data', 'digits'], 'digits (test) has 10 classes, the network tells 7 apart.'),
            (['ENTRY', '--data', 'digits', '--split', 'validation'], "digits: found split 'validation', one"),
            (['ENTRY', '--data', 'nowhere'], 'nowhere: there is no such folder; a folder, digits or one of'),
            (['ENTRY', '--data', 'EMPTY'], 'cannot be opened: Found 0 images in subfolders of'),
            (['ENTRY', '--data', 'FOLDER', '--split', 'test'], "the folders train, val, 'test' is needed."),
            (['ENTRY', '--data', 'FOLDER/train'], 'cannot be opened: Found 0 images'),
            (['ENTRY', '--data', 'FOLDER/val/..', '--split', 'dev'], "'dev' is needed."),
            (['ENTRY', '--data', 'FIVE'], 'FIVE has 5 classes, the network tells 7 apart.'),
            (['ENTRY', '--data', 'TRAIN'], 'found the folders train, one of validation, val, valid, '),
            (['ENTRY', '--data', 'torch/cifar10'], 'torch/cifar10: found no root, the folder'),
            (['ENTRY', '--data', 'torch/x', '--root', '.'], 'torch/x cannot be opened: Unknown torchvision'),
            (['ENTRY', '--data', 'torch/cifar10', '--root', '.'], 'Dataset not found or corrupted'),
            (['ENTRY', '--data', 'hfds/x'], 'hfds/x needs datasets, which is not installed'),
            (['ENTRY', '--data', 'FOLDER', '--checkpoint', 'no.pth'], 'no.pth: there is no such file.'),
            (
                ['ENTRY', '--data', 'FOLDER', '--size', '3'],
                '(val) cannot be evaluated: The input is smaller than 8 x 8',
            ),
            (['ENTRY', '--data', 'FOLDER', '--json', 'no/r.json'], '--json: found no/r.json, a file in a'),
        ],
    )
    def test_mistakes_are_one_sentence(
        self,
        argv: list[str],
        message: str,
        entry: Path,
        folder: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: Any,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setitem(sys.modules, 'datasets', None)
        monkeypatch.delitem(sys.modules, 'timm.data.readers.reader_hfds', raising=False)
        (tmp_path / 'EMPTY').mkdir()
        (tmp_path / 'TRAIN/train').mkdir(parents=True)
        for label in 'abcde':
            (tmp_path / 'FIVE' / label).mkdir(parents=True)
            Image.new('L', (40, 40)).save(tmp_path / 'FIVE' / label / 'x.png')
        places = {'ENTRY': str(entry), 'FOLDER': str(folder)}
        argv = [re.sub('ENTRY|FOLDER', lambda found: places[found[0]], part) for part in argv]
        code, _, err = self.run(capsys, *argv)
        assert code == 1
        *before, sentence = err.splitlines()
        assert message in sentence
        assert all('batch/s]' in line for line in before if line)

    def test_help_has_an_example(self, capsys: Any) -> None:
        code, out, _ = self.run(capsys, '--help')
        assert code == 0
        assert 'example: searchzoo zoo evaluate s3_tiny --data' in out


@pytest.mark.parametrize('num_workers', [0, 2])
@pytest.mark.parametrize('damage', ['truncated', 'garbage', 'empty'])
def test_unreadable_image_is_named(damage: str, num_workers: int, entry: Path, tmp_path: Path) -> None:
    for i in range(CLASSES):
        (tmp_path / str(i)).mkdir()
        noise = np.random.default_rng(i).integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / str(i) / 'x.png')
    file = tmp_path / '3/x.png'
    data = file.read_bytes()
    file.write_bytes({'truncated': data[: len(data) // 2], 'garbage': b'x' * 100, 'empty': b''}[damage])
    reason = 'image file is truncated' if damage == 'truncated' else 'it is no image.'
    with pytest.raises(ZooError, match=re.escape(f'{file} cannot be read: {reason}')) as caught:
        evaluate_name(str(entry), str(tmp_path), num_workers=num_workers, batch_size=2, quiet=True)
    assert '\n' not in str(caught.value)


def test_torchvision_sets(grey: Path, tmp_path: Path) -> None:
    raw = tmp_path / 'MNIST/raw'
    raw.mkdir(parents=True)
    for part, number in (('train', 20), ('t10k', 13)):
        pixels = np.random.default_rng(number).integers(0, 256, (number, 28, 28), np.uint8)
        labels = (np.arange(number) % 10).astype(np.uint8)
        head = struct.pack('>4i', 2051, number, 28, 28)
        (raw / f'{part}-images-idx3-ubyte').write_bytes(head + pixels.tobytes())
        (raw / f'{part}-labels-idx1-ubyte').write_bytes(struct.pack('>2i', 2049, number) + labels.tobytes())
    found = evaluate_name(str(grey), 'torch/mnist', root=str(tmp_path), quiet=True)
    assert (found.data, found.images) == ('torch/mnist (validation)', 13)
    assert evaluate_name(str(grey), 'torch/mnist', root=str(tmp_path), split='train', quiet=True).images == 20


class Forward(IterableDataset):
    """Gives what a sequence has, one after another."""

    def __init__(self, source: Any):
        self.source = source

    def __iter__(self) -> Iterator[Any]:
        return (self.source[index] for index in range(len(self.source)))


def test_streams(grey: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, 'create_dataset', lambda name, **options: Forward(Digits(options['split'])))
    found = evaluate_name(str(grey), 'wds/digits', split='val', num_workers=2, batch_size=100, quiet=True)
    assert found.images == 362
    assert found.correct == evaluate_name(str(grey), 'digits', split='val', quiet=True).correct
    with pytest.raises(ZooError, match='there are no images'), pytest.warns(UserWarning, match='compute'):
        evaluate(network(grey), Forward([]), quiet=True)


def test_what_cannot_be_measured(entry: Path, grey: Path) -> None:
    picture = Image.new('RGB', (40, 40))
    with pytest.raises(ZooError, match='Found labels from 0 to 7, of 0 to 6 that the network tells apart'):
        evaluate(network(entry), [(picture, 0), (picture, 7)], quiet=True)
    with pytest.raises(ZooError, match='Found labels from -1 to 0'):
        evaluate(network(entry), [(picture, 0), (picture, -1)], quiet=True)
    with pytest.raises(ZooError, match='found 0 images, at least one for each process is needed'):
        evaluate(network(entry), [], quiet=True)
    model = network(entry)
    nn.init.constant_(model.norm.weight, float('nan'))
    with pytest.raises(ZooError, match='The network gives NaN'):
        evaluate(model, [(picture, 0)], quiet=True)
    model = network(entry)
    model.reset_classifier(0)
    with pytest.raises(ZooError, match='The network tells 0 classes apart, at least two are needed'):
        evaluate(model, [(picture, 0)], quiet=True)
    model = network(grey)
    model.pretrained_cfg['mean'] = (0.5, 0.5, 0.5)
    with pytest.raises(ZooError, match=r'Found a network for 1 channels, mean \(0\.5, 0\.5, 0\.5\)'):
        evaluate(model, [(picture, 0)], quiet=True)


def test_top5_needs_more_than_five_classes(tmp_path: Path) -> None:
    image = {'size': [3, 32, 32], 'mean': MEAN, 'std': STD}
    pictures = [(Image.new('RGB', (40, 40)), label) for label in range(5)]
    found = evaluate(load_model(str(write_entry(tmp_path, image, 5))), pictures, quiet=True)
    assert found.metrics == {'top1': 20.0}


PROCESS = """
import os, sys
import torch
from zoo.console import main
from zoo.evaluate import evaluate, load_model
from zoo.images import open_images

entry, folder, record = sys.argv[1:]
rank = os.environ['RANK']

def fail(module, args):
    if rank == '1' and len(args[0]) > 2:
        raise torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB.')

model = load_model(entry)
model.register_forward_pre_hook(fail)
found = evaluate(model, *open_images(folder), batch_size=8, quiet=True)
print(f'process {rank}: {found.images} {found.correct} {found.batch_size}', flush=True)
options = ['--batch-size', '4', '--workers', '0', '--json', record]
sys.exit(main(['zoo', 'evaluate', entry, '--data', folder, *options]))
"""


def test_two_processes_count_every_image_once(
    entry: Path, folder: Path, expected: dict[str, int], tmp_path: Path
) -> None:
    """First one of them alone runs out of memory, then the command as a user starts it.

    ``--multi_gpu`` is how accelerate starts processes, on a machine without GPU, too.
    """
    script, record = tmp_path / 'script.py', tmp_path / 'record.json'
    script.write_text(PROCESS)
    command = [sys.executable, '-m', 'accelerate.commands.launch', '--multi_gpu', '--num_processes', '2']
    command += ['--num_machines', '1', '--mixed_precision', 'no', '--dynamo_backend', 'no']
    command += ['--main_process_port', '0', str(script), str(entry), str(folder), str(record)]
    env = os.environ | {'PYTHONPATH': str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    for rank, batch_size in ((0, 8), (1, 2)):
        assert f'process {rank}: {COUNT} {expected} {batch_size}' in done.stdout
    assert done.stdout.count('network ') == 1
    assert sum('100%' in line for line in done.stderr.split('\n')) == 1  # a bar may draw its line again
    assert f'{COUNT} images' in done.stdout
    metrics = json.loads(record.read_text())['metrics']
    assert metrics == {name: round(100 * value / COUNT, 4) for name, value in expected.items()}


def test_other_commands_do_not_import_what_this_one_needs() -> None:
    code = (
        "import sys; from zoo.cli import main; main(['list', 's3_tiny']); "
        "print({'accelerate', 'sklearn', 'torchmetrics'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines()[-1] == 'set()', done.stderr
