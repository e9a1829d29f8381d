"""Data by role: fixed splits, order and augmentation that depend on seed and step alone, one clear error."""

import hashlib
import json
import struct
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn import datasets
from timm.data import auto_augment
from torch.utils.data import IterableDataset

from search import data as search_data
from search import sources
from search.config import load_config
from search.data import Augment, Data, DataConfig, train_batches
from search.sources import carve
from zoo.entry import Input
from zoo.errors import ZooError
from zoo.registry import config_path

GREY = Input(size=(1, 16, 16), mean=(0.5,), std=(0.25,))
RGB = Input(size=(3, 16, 16), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
SHIFT = Augment(scale=(0.5, 1.0), hflip=0.5, color_jitter=0.2, re_prob=0.5)


def write_images(folder: Path, classes: dict[str, int], size: int = 8) -> None:
    """Images whose pixels tell them apart: class * 50 + number."""
    for c, (name, count) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new('RGB', (size, size), (c * 50 + i,) * 3).save(folder / name / f'{i:03}.png')


def folder_config(root: Path, **changes) -> DataConfig:
    return DataConfig(name='folder', root=str(root), **changes)


def pixels(images: search_data.Images) -> set[int]:
    """Which of the images of write_images these are."""
    values = images.tensors()[0].mean((1, 2, 3)) * 0.25 + 0.5
    return {round(float(value) * 255) for value in values}


def keys_of(images: search_data.Images, repeats: int, rank: int = 0, processes: int = 1) -> list[list]:
    """Which images nine batches of 16 ask for."""
    return list(train_batches(images, 16, 1, 0, 9, 0, rank, processes, repeats).batch_sampler)


class TestDigits:
    def test_split_is_fixed_forever(self):
        source = sources.load_digits()
        indices = {role: sources.digits_indices(role, source) for role in ('train', 'val', 'test')}
        assert {role: len(chosen) for role, chosen in indices.items()} == {
            'train': 1071,
            'val': 362,
            'test': 364,
        }
        assert sorted(index for chosen in indices.values() for index in chosen) == list(range(1797))
        digest = hashlib.sha256(json.dumps(indices).encode()).hexdigest()
        assert digest == 'e927fbf1fab90464aa2a876706b528fffd3e082e8a2713433c9ca43979a14fec'

    def test_split_is_stratified(self):
        labels = datasets.load_digits().target
        source = sources.load_digits()
        for role, share in (('train', 0.6), ('val', 0.2), ('test', 0.2)):
            counts = Counter(labels[sources.digits_indices(role, source)].tolist())
            for digit in range(10):
                assert abs(counts[digit] - share * (labels == digit).sum()) <= 2

    @pytest.mark.parametrize('image', [GREY, RGB], ids=['grey', 'rgb'])
    def test_images_are_the_bundled_ones_resized_and_normalised(self, image):
        raw = datasets.load_digits()
        test = Data(DataConfig(), image).images('test')
        x, y = test.tensors()
        assert x.shape == (364, *image.size)
        assert y.tolist() == raw.target[test.indices].tolist()
        for i in (0, 100, 363):
            picture = Image.fromarray(np.rint(raw.images[test.indices[i]] * 255 / 16).astype(np.uint8))
            resized = np.asarray(picture.resize((16, 16), Image.Resampling.BICUBIC), np.float32) / 255
            expected = torch.from_numpy((resized - 0.5) / 0.25).expand(image.size)
            torch.testing.assert_close(x[i], expected)

    def test_has_ten_classes(self):
        assert Data(DataConfig(), GREY).num_classes == 10


class TestCarve:
    @given(st.lists(st.integers(0, 4), min_size=2, max_size=60), st.integers(1, 59), st.integers(0, 99))
    def test_takes_each_class_its_share(self, labels, count, seed):
        if count >= len(labels):
            with pytest.raises(ZooError, match='held out'):
                carve(range(len(labels)), labels, count, seed)
            return
        rest, taken = carve(range(len(labels)), labels, count, seed)
        assert len(taken) == count
        assert sorted(rest + taken) == list(range(len(labels)))
        for label, total in Counter(labels).items():
            assert abs(sum(labels[i] == label for i in taken) - count * total / len(labels)) < 1

    def test_seed_decides(self):
        labels = [i % 3 for i in range(90)]
        draws = {tuple(carve(range(90), labels, 30, seed)[1]) for seed in (0, 0, 1, 2)}
        assert len(draws) == 3


class TestNamed:
    """The small data sets of TrioNet's experiments, of which zoo.named_images reads five."""

    @pytest.mark.parametrize('name', ['cars', 'aircraft', 'cub', 'caltech101', 'flowers102'])
    def test_one_option_away(self, name, tmp_path):
        config = load_config(config_path('search/trionet_small.yaml'), [f'data.name={name}', 'data.root=/d'])
        assert (config.data.name, config.data.train, config.data.val) == (name, 'trainval', None)
        data = Data(config.data.model_copy(update={'root': str(tmp_path)}), RGB)
        with pytest.raises(ZooError, match=f'data: {name}: .*{tmp_path} has to have'):
            data.images('train')

    def test_val_is_carved_from_what_is_not_test(self, tmp_path):
        write_images(tmp_path / 'train', {'001.Gull': 20, '002.Tern': 10})
        write_images(tmp_path / 'test', {'001.Gull': 2, '002.Tern': 4})
        data = Data(DataConfig(name='cub', root=str(tmp_path), train='trainval', val_size=6), RGB)
        parts = [pixels(data.images(role)) for role in ('train', 'val', 'test')]
        assert [len(part) for part in parts] == [24, 6, 6]
        assert parts[0] | parts[1] == {*range(20), *range(50, 60)}
        assert parts[2] == {0, 1, 50, 51, 52, 53}
        assert data.num_classes == 2

    @pytest.mark.parametrize(
        ('changes', 'message'),
        [
            ({'train': 'trainval', 'val': 'val'}, 'train, val and test are trainval, val, test; each role'),
            ({'train': 'all'}, 'train, val and test are all, test; each role needs a split of its own'),
            ({'train': 'training'}, "aircraft: found split 'training', one of train, val, test, trainval"),
            ({'root': None}, "data.root: found nothing, the folder of 'aircraft' is needed"),
        ],
    )
    def test_splits_that_share_images_or_are_not_there(self, changes, message):
        with pytest.raises(ZooError, match=message):
            Data(DataConfig(**{'name': 'aircraft', 'root': '/data'} | changes), RGB)


class TestFolder:
    def test_splits_by_name_and_synonym(self, tmp_path):
        for split, count in (('train', 4), ('valid', 2), ('test', 3)):
            write_images(tmp_path / split, {'a': count, 'b': count})
        data = Data(folder_config(tmp_path, val='validation'), RGB)
        assert [len(data.images(role)) for role in ('train', 'val', 'test')] == [8, 4, 6]
        assert data.num_classes == 2

    def test_val_is_carved_from_train_where_there_is_none(self, tmp_path):
        write_images(tmp_path / 'train', {'a': 20, 'b': 10})
        write_images(tmp_path / 'test', {'a': 2, 'b': 2})
        data = Data(folder_config(tmp_path, val_size=6), RGB)
        train, val = pixels(data.images('train')), pixels(data.images('val'))
        assert len(train) == 24
        assert len(val) == 6
        assert train | val == {*range(20), *range(50, 60)}
        assert len(val & set(range(20))) == 4

    def test_one_folder_gives_all_three(self, tmp_path):
        write_images(tmp_path, {'a': 20, 'b': 20})
        data = Data(folder_config(tmp_path, test=None, val_size=0.25, test_size=0.2), RGB)
        parts = [pixels(data.images(role)) for role in ('train', 'val', 'test')]
        assert [len(part) for part in parts] == [22, 10, 8]
        assert set.union(*parts) == {*range(20), *range(50, 70)}

    def test_nothing_need_be_held_out(self, tmp_path):
        write_images(tmp_path / 'train', {'a': 20, 'b': 10})
        write_images(tmp_path / 'test', {'a': 2, 'b': 2})
        data = Data(folder_config(tmp_path, val_size=0), RGB)
        assert [data.has(role) for role in ('train', 'val', 'test')] == [True, False, True]
        assert pixels(data.images('train')) == {*range(20), *range(50, 60)}
        with pytest.raises(ZooError, match='has no images for val'):
            data.images('val')

    def test_labels_are_read_without_decoding_images(self, tmp_path):
        write_images(tmp_path, {'a': 3, 'b': 3})
        for file in tmp_path.rglob('*.png'):
            file.write_bytes(b'')
        data = Data(folder_config(tmp_path, test=None, val_size=2, test_size=2), RGB)
        assert data.num_classes == 2

    def test_no_split_is_opened_before_its_role_is_asked_for(self, tmp_path, monkeypatch):
        for split in ('train', 'val', 'test'):
            write_images(tmp_path / split, {'a': 2, 'b': 2})
        opened = []
        original = search_data.open_split
        monkeypatch.setattr(
            search_data, 'open_split', lambda config, split: opened.append(split) or original(config, split)
        )
        data = Data(folder_config(tmp_path, val='val'), RGB)
        assert opened == []
        data.images('train').tensors()
        data.images('val').tensors()
        assert opened == ['train', 'val']
        data.images('test')
        assert opened == ['train', 'val', 'test']


class TestOtherSources:
    def test_torchvision_sets(self, tmp_path):
        raw = tmp_path / 'MNIST' / 'raw'
        raw.mkdir(parents=True)
        for part, count in (('train', 20), ('t10k', 10)):
            images = np.arange(count, dtype=np.uint8)[:, None, None].repeat(28, 1).repeat(28, 2)
            labels = np.arange(count, dtype=np.uint8) % 10
            (raw / f'{part}-images-idx3-ubyte').write_bytes(
                struct.pack('>4i', 2051, count, 28, 28) + images.tobytes()
            )
            (raw / f'{part}-labels-idx1-ubyte').write_bytes(
                struct.pack('>2i', 2049, count) + labels.tobytes()
            )
        data = Data(DataConfig(name='torch/mnist', root=str(tmp_path), val_size=0.5), GREY)
        assert [len(data.images(role)) for role in ('train', 'val', 'test')] == [10, 10, 10]
        assert sorted(data.images('val').tensors()[1].tolist()) == list(range(10))

    def test_a_stream_is_read_into_memory_once(self, monkeypatch):
        class Stream(IterableDataset):
            passes = 0

            def __iter__(self):
                Stream.passes += 1
                for i in range(6):
                    yield Image.new('RGB', (4, 4), (i,) * 3), i % 2

        monkeypatch.setattr(sources, 'create_dataset', lambda *args, **kwargs: Stream())
        data = Data(DataConfig(name='wds/shards', root='.', val_size=2), RGB)
        assert pixels(data.images('train')) | pixels(data.images('val')) == set(range(6))
        assert Stream.passes == 1


class TestPad:
    """Shifted by up to two pixels, what comes in is black, flipped or not."""

    IMAGE = Input(size=(1, 8, 8), mean=(0.0,), std=(1.0,))

    def test_crops_are_shifted_images(self):
        images = Data(DataConfig(), self.IMAGE).images('train', Augment(pad=2), 5)
        original = Data(DataConfig(), self.IMAGE).images('train')[0, 3][0][0].numpy()
        padded = np.pad(original, 2)
        shifts = {
            crop.tobytes(): (dx, dy, flip)
            for dy in range(5)
            for dx in range(5)
            for flip, crop in enumerate(
                [padded[dy : dy + 8, dx : dx + 8], padded[dy : dy + 8, dx : dx + 8][:, ::-1]]
            )
        }
        found = Counter(shifts[images[epoch, 3][0][0].numpy().tobytes()] for epoch in range(400))
        assert len({(dx, dy) for dx, dy, _ in found}) == 25
        assert 140 < sum(count for (_, _, flip), count in found.items() if flip) < 260

    def test_without_a_margin_the_whole_image_is_seen(self, tmp_path):
        (tmp_path / 'a').mkdir()
        picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 33, 3), np.uint8))
        for i in range(4):
            picture.save(tmp_path / 'a' / f'{i}.png')
        data = Data(folder_config(tmp_path, test=None, val_size=1, test_size=1), RGB)
        resized = np.asarray(picture.resize((16, 16), Image.Resampling.BICUBIC), np.float32) / 255
        expected = torch.from_numpy((resized - 0.5) / 0.25).permute(2, 0, 1)
        torch.testing.assert_close(data.images('train', Augment(pad=0, hflip=0.0), 5)[0, 0][0], expected)


@pytest.mark.parametrize('policy', ['rand-m9-mstd0.5-inc1', 'original', 'augmix-m9'])
def test_a_policy_that_keeps_no_bit_of_an_image_makes_it_black(policy, monkeypatch):
    """Of 20,000 images of rand-m9-mstd0.5-inc1 some thirty; Pillow 13 refuses them."""
    monkeypatch.setitem(auto_augment.LEVEL_TO_ARG, 'PosterizeIncreasing', lambda *_: (0,))
    monkeypatch.setitem(auto_augment.LEVEL_TO_ARG, 'PosterizeOriginal', lambda *_: (0,))
    image = Input(size=(3, 8, 8), mean=(0.0,) * 3, std=(1.0,) * 3)
    transform = Data(DataConfig(), image).images('train', Augment(auto_augment=policy), 5).transform
    (augment,) = (part for part in transform.transforms if hasattr(part, 'ops') or hasattr(part, 'policy'))
    ops = augment.ops if hasattr(augment, 'ops') else [op for ops in augment.policy for op in ops]
    found = [op for op in ops if op.name.startswith('Posterize')]
    assert found
    picture = Image.new('RGB', (8, 8), (250, 130, 70))
    for op in found:
        op.prob = 1.0
        assert op(picture).getcolors() == [(64, (0, 0, 0))]
    monkeypatch.undo()
    assert all(op.aug_fn(picture, 1).getcolors() == [(64, (128, 128, 0))] for op in found)


class TestTrainBatches:
    @staticmethod
    def batches(start=0, stop=9, seed=1, augment=SHIFT, workers=0, repeats=1):
        images = Data(DataConfig(), GREY).images('train', augment, 5)
        images.indices = images.indices[:50]
        return list(train_batches(images, 16, seed, start, stop, workers, repeats=repeats))

    def test_continues_where_it_was_interrupted(self):
        for one, other in zip(self.batches()[4:], self.batches(start=4), strict=True):
            assert torch.equal(one[0], other[0])
            assert torch.equal(one[1], other[1])

    def test_does_not_depend_on_the_number_of_workers(self):
        for one, other in zip(self.batches(), self.batches(workers=2), strict=True):
            assert torch.equal(one[0], other[0])

    def test_each_epoch_is_shuffled_and_augmented_anew(self):
        plain = self.batches(augment=None)
        epochs = [torch.cat([x for x, _ in plain[first : first + 3]]) for first in (0, 3, 6)]
        for epoch in epochs:
            assert len(epoch.unique(dim=0)) == 48
        assert not torch.equal(epochs[0], epochs[1])
        images = Data(DataConfig(), GREY).images('train', SHIFT, 5)
        assert not torch.equal(images[0, 7][0], images[1, 7][0])
        assert not torch.equal(images[0, 7][0], Data(DataConfig(), GREY).images('train', SHIFT, 6)[0, 7][0])
        assert torch.equal(images[0, 7][0], images[0, 7][0])

    def test_repeated_augmentation(self):
        """Of 50 images, 16 in a batch: 17 different ones in an epoch, each three times, but for its end."""
        images = Data(DataConfig(), GREY).images('train', SHIFT, 5)
        images.indices = images.indices[:50]
        once = [key for batch in keys_of(images, repeats=1) for key in batch]
        thrice = [key for batch in keys_of(images, repeats=3) for key in batch]
        assert len(thrice) == len(once) == 9 * 16
        for epoch in range(3):
            first = [index for _, index in once[48 * epoch :][:48]]
            keys = thrice[48 * epoch :][:48]
            assert [index for _, index in keys] == [first[place // 3] for place in range(48)]
            assert [seeding for seeding, _ in keys] == [3 * epoch + place % 3 for place in range(48)]
        assert len(set(thrice)) == len(thrice)

    def test_repeated_images_are_augmented_anew(self):
        first = self.batches(stop=1, repeats=3)[0]
        assert [len(set(first[1][place : place + 3].tolist())) for place in range(0, 15, 3)] == [1] * 5
        assert len(first[0].unique(dim=0)) == 16

    @pytest.mark.parametrize('changes', [{'start': 4}, {'workers': 2}])
    def test_repeated_images_are_the_same_after_an_interruption_and_with_workers(self, changes):
        whole = self.batches(repeats=3)[changes.get('start', 0) :]
        for one, other in zip(whole, self.batches(repeats=3, **changes), strict=True):
            assert torch.equal(one[0], other[0])

    def test_processes_share_repeated_images(self):
        images = Data(DataConfig(), GREY).images('train')
        parts = [keys_of(images, 3, rank, 2) for rank in (0, 1)]
        for whole, first, second in zip(keys_of(images, 3), *parts, strict=True):
            assert first + second == whole

    def test_seed_decides_the_order(self):
        assert not torch.equal(self.batches(augment=None)[0][0], self.batches(augment=None, seed=2)[0][0])

    def test_leaves_the_global_generators_alone(self):
        before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
        self.batches()
        assert torch.equal(torch.get_rng_state(), before[0])
        assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002

    def test_refuses_a_batch_larger_than_the_data(self):
        images = Data(DataConfig(), GREY).images('train')
        with pytest.raises(ZooError, match=r'batch_size: found 2000, at most the 1071 training images'):
            train_batches(images, 2000, 0, 0, 1)


class TestErrors:
    @pytest.mark.parametrize(
        ('config', 'message'),
        [
            ({'name': 'digitz'}, "found 'digitz'.*; 'digits'?"),
            ({'name': 'torhc/cifar10', 'root': '.'}, "found 'torhc/cifar10'"),
            ({'name': 'torch/cifar10'}, 'data.root: found nothing'),
            ({'name': 'folder', 'root': 'nowhere'}, 'there is no such folder'),
            ({'name': 'torch/nothing', 'root': '.'}, "'torch/nothing' in .: split 'train' cannot be opened"),
            ({'name': 'torch/mnist', 'root': '.', 'val': 'val'}, 'has only a train and a test part'),
            ({'name': 'folder', 'root': '.', 'val': 'test'}, 'each role needs a split of its own'),
        ],
    )
    def test_unknown_data(self, config, message, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ZooError, match=message) as caught:
            Data(DataConfig(**config), RGB).images('train')
        assert '\n' not in str(caught.value)

    def test_empty_folder(self, tmp_path):
        (tmp_path / 'train').mkdir()
        with pytest.raises(ZooError, match=r"folder' in .*: split 'train' cannot be opened: Found 0 images"):
            Data(folder_config(tmp_path), RGB).images('train')

    def test_missing_split_is_not_replaced_by_the_whole_folder(self, tmp_path):
        write_images(tmp_path / 'train', {'a': 4, 'b': 4})
        with pytest.raises(ZooError, match="no folder for split 'test'; found train"):
            Data(folder_config(tmp_path, val_size=2), RGB).images('test')

    def test_missing_package(self, monkeypatch):
        monkeypatch.setitem(sys.modules, 'datasets', None)
        monkeypatch.delitem(sys.modules, 'timm.data.readers.reader_hfds', raising=False)
        with pytest.raises(ZooError, match="'hfds/some/thing': split 'train' cannot be opened"):
            Data(DataConfig(name='hfds/some/thing'), RGB).images('train')

    def test_test_classes_that_train_does_not_have(self, tmp_path):
        write_images(tmp_path / 'train', {'a': 4, 'b': 4})
        write_images(tmp_path / 'test', {'a': 2, 'b': 2, 'c': 2})
        with pytest.raises(ZooError, match='test has classes that train does not have'):
            Data(folder_config(tmp_path, val_size=2), RGB).images('test')

    def test_odd_channels(self):
        with pytest.raises(ZooError, match='found 2 channels'):
            Data(DataConfig(), Input(size=(2, 8, 8), mean=(0.0, 0.0), std=(1.0, 1.0)))
