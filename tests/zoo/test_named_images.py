"""Five data sets read from small copies in the layouts of their archives, with labels that pixels repeat."""

import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision.datasets import Flowers102

from zoo.console import main
from zoo.digits import load_digits
from zoo.errors import ZooError
from zoo.images import Images, count_classes, open_images, read_labels
from zoo.named_images import NAMED, open_named


def draw(path: Path, label: int) -> None:
    """A picture whose brightness is 40 times its label."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (10, 8), (40 * label,) * 3).save(path)


def write_cars(root: Path) -> None:
    folder = root / 'stanford_cars'
    (folder / 'devkit').mkdir(parents=True)
    names = np.array([f'Car {i}' for i in range(196)], object)
    savemat(folder / 'devkit' / 'cars_meta.mat', {'class_names': names})
    for part, labels, file in (
        ('train', (3, 1, 1, 2, 3), 'devkit/cars_train_annos.mat'),
        ('test', (2, 1, 3), 'cars_test_annos_withlabels.mat'),
    ):
        rows = np.array(
            [(f'{i + 1:05}.jpg', label) for i, label in enumerate(labels)],
            [('fname', object), ('class', object)],
        )
        savemat(folder / file, {'annotations': rows})
        for name, label in rows:
            draw(folder / f'cars_{part}' / name, label - 1)


def write_aircraft(root: Path) -> None:
    data = root / 'fgvc-aircraft-2013b' / 'data'
    variants = ['Boeing 707-320', 'A300B4', 'Yak-42']
    draw(data / 'images' / '0.jpg', 0)
    (data / 'variants.txt').write_text('\n'.join(variants) + '\n')
    number = 0
    for part, count in (('train', 4), ('val', 3), ('test', 6)):
        lines = []
        for i in range(count):
            number += 1
            lines.append(f'{number:07} {variants[i % 3]}')
            draw(data / 'images' / f'{number:07}.jpg', i % 3)
        (data / f'images_variant_{part}.txt').write_text('\n'.join(lines) + '\n')


def write_cub(root: Path) -> None:
    folder = root / 'CUB_200_2011'
    categories = ['001.Black_footed_Albatross', '002.Laysan_Albatross', '010.Red_winged_Blackbird']
    names = [f'{category}/bird_{i}.jpg' for category in categories for i in range(4)]
    for name in names:
        draw(folder / 'images' / name, categories.index(name.partition('/')[0]))
    lists = {
        'images': names,
        'train_test_split': [str(int(i % 4 != 1)) for i in range(len(names))],
        'image_class_labels': [str(1 + i // 4) for i in range(len(names))],
    }
    for list_name, words in lists.items():
        lines = [f'{i} {word}\n' for i, word in enumerate(words, 1)]
        (folder / f'{list_name}.txt').write_text(''.join(lines))


def write_caltech(root: Path) -> None:
    folder = root / 'caltech101' / '101_ObjectCategories'
    draw(folder / 'BACKGROUND_Google' / 'image_0001.jpg', 6)
    for label, (category, count) in enumerate([('Faces', 33), ('accordion', 31), ('yin_yang', 40)]):
        for i in range(count):
            draw(folder / category / f'image_{i + 1:04}.jpg', label)


def write_flowers(root: Path) -> None:
    folder = root / 'flowers-102'
    labels = [1, 2, 3, 1, 2, 3, 3, 2, 1]
    for i, label in enumerate(labels, 1):
        draw(folder / 'jpg' / f'image_{i:05}.jpg', label - 1)
    savemat(folder / 'imagelabels.mat', {'labels': labels})
    savemat(folder / 'setid.mat', {'trnid': [1, 2, 3], 'valid': [4, 6, 5], 'tstid': [9, 8, 7]})


WRITERS: dict[str, Callable[[Path], None]] = {
    'cars': write_cars,
    'aircraft': write_aircraft,
    'cub': write_cub,
    'caltech101': write_caltech,
    'flowers102': write_flowers,
}
CLASSES = {'cars': 196, 'aircraft': 3, 'cub': 3, 'caltech101': 3, 'flowers102': 102}
"""Of the copies; cars and flowers102 say how many there are."""
SIZES = {
    'cars': {'train': 5, 'test': 3},
    'aircraft': {'train': 4, 'val': 3, 'test': 6},
    'cub': {'train': 9, 'test': 3},
    'caltech101': {'train': 90, 'test': 14},
    'flowers102': {'train': 3, 'val': 3, 'test': 3},
}


@pytest.fixture
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for write in WRITERS.values():
        write(tmp_path)
    folder = tmp_path / 'flowers-102'
    digests = {  # torchvision compares them with those of the real files
        key: (name, hashlib.md5((folder / name).read_bytes()).hexdigest())
        for key, name in (('label', 'imagelabels.mat'), ('setid', 'setid.mat'))
    }
    monkeypatch.setattr(Flowers102, '_file_dict', digests)
    return tmp_path


@pytest.mark.parametrize('name', NAMED)
def test_images_have_their_labels_and_are_in_one_part(name: str, copies: Path):
    seen: Counter[str] = Counter()
    for split, size in SIZES[name].items():
        dataset = open_named(name, copies, split)
        labels = read_labels(dataset)
        assert len(dataset) == len(labels) == size
        assert count_classes(dataset) == CLASSES[name]
        for index, label in enumerate(labels):
            image, own = dataset[index]
            assert own == label
            assert abs(np.asarray(image).mean() / 40 - label) < 0.1
        seen.update(dataset.filenames(absolute=True))
    assert max(seen.values()) == 1
    whole = open_named(name, copies, 'all')
    assert set(whole.filenames(absolute=True)) == set(seen)
    assert set(read_labels(whole)) == {0, 1, 2}
    both = [split for split in SIZES[name] if split != 'test']
    assert len(open_named(name, copies, 'trainval')) == sum(SIZES[name][split] for split in both)


def test_thirty_images_of_each_class_of_caltech_are_drawn_once_and_for_all(copies: Path):
    train = open_named('caltech101', copies, 'train')
    assert Counter(read_labels(train)) == {0: 30, 1: 30, 2: 30}
    digest = hashlib.sha256('\n'.join(train.filenames()).encode()).hexdigest()
    assert digest == '96737d1c312d79ce42c1232964c8cc6574acb7026ce6da6ff324370d594831d0'
    numbers = [int(name[-8:-4]) for name in train.filenames(basename=True)[60:]]
    assert numbers != list(range(1, 31))


def test_cub_from_its_own_folder_and_from_two_folders(copies: Path, tmp_path_factory: pytest.TempPathFactory):
    above, inside = (open_named('cub', root, 'test') for root in (copies, copies / 'CUB_200_2011'))
    assert above.filenames(absolute=True) == inside.filenames(absolute=True)
    root = tmp_path_factory.mktemp('divided')
    for part, count in (('train', 3), ('test', 2)):
        for label in range(3):
            for i in range(count):
                draw(root / part / f'{label + 1:03}.Bird' / f'{i}.jpg', label)
    assert [len(open_named('cub', root, split)) for split in ('train', 'test', 'all')] == [9, 6, 15]
    draw(root / 'test' / '004.Other' / '0.jpg', 3)
    with pytest.raises(
        ZooError, match=r'cub: train and test do not have the same classes \(004.Other in one'
    ):
        open_named('cub', root, 'test')


@pytest.mark.parametrize('name', NAMED)
def test_nothing_there(name: str, tmp_path: Path):
    with pytest.raises(ZooError) as caught:
        open_named(name, tmp_path, 'train')
    message = str(caught.value)
    assert message.startswith(f'{name}: ')
    assert f'{tmp_path} has to have ' in message
    assert '\n' not in message
    assert ('download' in message) == NAMED[name].downloads
    assert list(tmp_path.iterdir()) == []  # torchvision makes folders
    with pytest.raises(ZooError, match=f'{name}: there is no folder {tmp_path}/none; .*has to have'):
        open_named(name, tmp_path / 'none', 'train')


@pytest.mark.parametrize('name', ['cars', 'cub'])
def test_what_cannot_be_downloaded(name: str, tmp_path: Path):
    with pytest.raises(
        ZooError, match=f'{name} cannot be downloaded from here: get it, so that .* has the folder'
    ):
        open_named(name, tmp_path, 'train', download=True)


def test_an_image_that_is_missing_or_damaged(copies: Path):
    victim = copies / 'fgvc-aircraft-2013b' / 'data' / 'images' / '0000006.jpg'
    victim.write_bytes(b'no image')
    source, _ = open_images('aircraft', 'val', str(copies))
    found = Images(source, lambda image: image, 'RGB')[1]
    assert str(found) == f'{victim} cannot be read: it is no image.'
    victim.unlink()
    with pytest.raises(ZooError, match=f'aircraft: there is no image {victim}, which belongs to val'):
        open_named('aircraft', copies, 'val')


def test_lists_that_are_damaged(copies: Path):
    (copies / 'CUB_200_2011' / 'images.txt').write_text('1\n')
    with pytest.raises(ZooError, match=r"images.txt: found a line '1', a number and a word are needed"):
        open_named('cub', copies, 'train')
    (copies / 'stanford_cars' / 'devkit' / 'cars_train_annos.mat').write_bytes(b'x')
    with pytest.raises(ZooError, match=r'cars: .* has to have the folder stanford_cars'):
        open_named('cars', copies, 'train')
    for i in range(32, 41):
        (copies / 'caltech101' / '101_ObjectCategories' / 'yin_yang' / f'image_{i:04}.jpg').unlink()
    (copies / 'caltech101' / '101_ObjectCategories' / 'yin_yang' / 'image_0031.jpg').unlink()
    with pytest.raises(ZooError, match='yin_yang has 30 images, not even one for test'):
        open_named('caltech101', copies, 'train')


def test_splits_that_are_not_there(copies: Path):
    with pytest.raises(
        ZooError, match=r"cars: found split 'val', one of train, test, trainval, all is needed"
    ):
        open_named('cars', copies, 'val')
    with pytest.raises(ZooError, match='flowers102: found no root'):
        open_images('flowers102')


def test_a_network_is_evaluated_on_one(copies: Path, capsys: pytest.CaptureFixture[str]):
    """Digits laid out as CUB: nine of ten classes have no image in test."""
    folder = copies / 'CUB_200_2011'
    lists: dict[str, list[Any]] = {'images': [], 'train_test_split': []}
    for i, (image, label) in enumerate(load_digits()[:60]):
        name = f'{label:03}.Digit/{i}.png'
        (folder / 'images' / name).parent.mkdir(exist_ok=True)
        image.save(folder / 'images' / name)
        lists['images'].append(name)
        lists['train_test_split'].append(int(i < 20))
    for list_name, words in lists.items():
        (folder / f'{list_name}.txt').write_text(''.join(f'{i} {word}\n' for i, word in enumerate(words)))
    command = ['zoo', 'evaluate', 'carnet_digits', '--data', 'cub', '--root', str(copies), '--workers', '0']
    assert main(command) == 0
    assert '40 images' in capsys.readouterr().out
