"""The commands over MMEngine's Runner: configs, checkpoints, pictures, and what users get wrong."""

import json
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

pytest.importorskip('mmseg')
pytest.importorskip('mmcv._ext')

from downstream.predict import list_images, predict
from downstream.runner import build, find_config, load_config, load_weights, show, train
from downstream.runner import test as evaluate
from downstream.scene import CLASSES, PALETTE, THINGS
from downstream.shapes import write_shapes
from zoo.errors import ZooError

SEGMENTOR = 'shapes/upernet_trionet_shapes'
DETECTOR = 'shapes/mask-rcnn_uninet_shapes'
BRIEF = {
    'train_cfg.max_iters': 1,
    'train_cfg.val_interval': 1,
    'train_dataloader.batch_size': 2,
    'default_hooks.checkpoint.interval': 1,
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The current folder, with ``data/shapes`` and a checkpoint of each model, not trained."""
    folder = tmp_path_factory.mktemp('runs')
    (folder / 'data').mkdir()
    write_shapes(folder / 'data' / 'shapes', 4, 3, sizes=(64, 80))
    before = Path.cwd()
    os.chdir(folder)
    for name in (SEGMENTOR, DETECTOR):
        model = build(load_config(name, {}, folder / 'build'), name).model
        model.init_weights()
        torch.save({'state_dict': model.state_dict(), 'meta': {}}, checkpoint(name))
    yield folder
    os.chdir(before)


def checkpoint(name: str) -> str:
    return f'{Path(name).name}.pth'


@pytest.fixture(autouse=True)
def _everywhere(folder: Path) -> None:
    """All tests are made in that folder."""


class TestConfigs:
    def test_shipped_and_own(self, tmp_path: Path) -> None:
        shipped = find_config(SEGMENTOR)
        assert shipped == find_config(f'{SEGMENTOR}.py')
        assert shipped.name == 'upernet_trionet_shapes.py'
        own = tmp_path / 'own.py'
        own.write_text('a = 1')
        assert find_config(own) == own
        with pytest.raises(ZooError, match=r'no configuration .*did you mean shapes/upernet_trionet_shapes'):
            find_config('shapes/upernet_trio_shapes')

    def test_values_and_folders(self) -> None:
        config = load_config(SEGMENTOR, {'train_cfg.max_iters': 7, 'model.backbone.drop_path_rate': 0.1})
        assert config.train_cfg.max_iters == 7
        assert config.model.backbone.drop_path_rate == 0.1
        assert config.work_dir == os.path.join('work_dirs', 'upernet_trionet_shapes')
        assert load_config(SEGMENTOR, {'work_dir': 'mine'}).work_dir == 'mine'
        assert load_config(SEGMENTOR, {'work_dir': 'mine'}, 'yours').work_dir == 'yours'

    def test_show(self) -> None:
        text = show(DETECTOR, {'train_cfg.max_iters': 7})
        assert 'max_iters=7' in text
        assert "type='MaskRCNN'" in text  # from mmdet

    def test_classes_are_those_of_the_data(self) -> None:
        for name, classes in ((SEGMENTOR, CLASSES), (DETECTOR, THINGS)):
            metainfo = load_config(name).test_dataloader.dataset.metainfo
            assert metainfo.classes == classes
            assert [tuple(colour) for colour in metainfo.palette] == list(PALETTE[: len(classes)])

    @pytest.mark.parametrize(
        ('text', 'message'),
        [
            ('a = ', 'SyntaxError'),
            ('a = b', 'NameError'),
            ("_base_ = './none.py'", r'none\.py'),
            (
                "_base_ = 'mmpose::_base_/default_runtime.py'",
                'mmpose is not installed.*searchzoo downstream doctor',
            ),
            ("custom_imports = dict(imports=['nomodule'])", 'nomodule.*searchzoo downstream doctor'),
        ],
    )
    def test_broken(self, tmp_path: Path, text: str, message: str) -> None:
        path = tmp_path / 'broken.py'
        path.write_text(text)
        with pytest.raises(ZooError, match=rf'broken\.py: .*{message}'):
            load_config(path)

    def test_option_that_does_not_fit(self) -> None:
        with pytest.raises(ZooError, match='given values'):
            load_config(SEGMENTOR, {'train_pipeline.9.type': 'X'})


FAULTS: list[tuple[str, dict[str, Any], str]] = [
    (SEGMENTOR, {'model.backbone.name': 'trionet_z'}, "no entry and no model of timm 'trionet_z'"),
    (SEGMENTOR, {'model.backbone.out_indices': (0, 1, 2, 9)}, 'out_indices has 9.* 4 feature maps'),
    (SEGMENTOR, {'model.backbone.depth': 50}, 'depth'),
    (SEGMENTOR, {'model.decode_head.type': 'NoHead'}, 'NoHead is not in the'),
    (SEGMENTOR, {'model.decode_head.in_channels': [64, 128, 192, 9]}, r'in_channels is \[64, 128, 192, 9\]'),
    (SEGMENTOR, {'model.backbone.out_indices': (0, 1)}, r'in_index has 2, the backbone gives 2'),
    (SEGMENTOR, {'model.decode_head.num_classes': 5}, r'num_classes is 5, the data have 8 classes'),
    (SEGMENTOR, {'train_cfg.max_iter': 5}, 'max_iter'),
    (SEGMENTOR, {'train_dataloader.dataset.data_prefix.img_path': 'no'}, r'img_path: there is no .*no'),
    (SEGMENTOR, {'train_dataloader.dataset.img_suffix': '.bmp'}, 'no image to use in data/shapes'),
    (SEGMENTOR, {'train_dataloader': None, 'train_cfg': None, 'optim_wrapper': None}, 'no train_dataloader'),
    (DETECTOR, {'model.neck.in_channels': [48, 96, 1]}, r'neck.in_channels is \[48, 96, 1\]'),
    (DETECTOR, {'model.roi_head.bbox_head.num_classes': 3}, 'bbox_head.num_classes is 3'),
    (
        DETECTOR,
        {'train_dataloader.dataset.ann_file': 'no.json'},
        r'ann_file: there is no data/shapes/no\.json',
    ),
    (DETECTOR, {'val_evaluator.ann_file': 'no.json'}, r'val_evaluator.ann_file: there is no no\.json'),
    (DETECTOR, {'train_dataloader.dataset.data_root': 'gone/'}, 'data_root: there is no gone/'),
]


@pytest.mark.parametrize(('name', 'options', 'message'), FAULTS)
def test_faulty_configs(name: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ZooError, match=message):
        train(name, tmp_path, options=BRIEF | options)


def test_unknown_launcher(tmp_path: Path) -> None:
    with pytest.raises(ZooError, match="no launcher 'ssh'"):
        train(SEGMENTOR, tmp_path, launcher='ssh')


def test_mixed_precision_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('downstream.runner.get_device', lambda: 'cpu')
    options = {'optim_wrapper.type': 'AmpOptimWrapper', 'optim_wrapper.loss_scale': 'dynamic'}
    runner = train(SEGMENTOR, tmp_path, options=BRIEF | options)
    assert type(runner.optim_wrapper).__name__ == 'OptimWrapper'


class TestAveraging:
    """``--tta``, with a model that is wrapped and a pipeline that makes several images of one."""

    @staticmethod
    def measure(folder: Path, *probabilities: float) -> dict[str, float]:
        flips = [{'type': 'RandomFlip', 'prob': prob, 'direction': 'horizontal'} for prob in probabilities]
        steps = [flips, [{'type': 'LoadAnnotations'}], [{'type': 'PackSegInputs'}]]
        options = {
            'tta_model': {'type': 'SegTTAModel'},
            'tta_pipeline': [{'type': 'LoadImageFromFile'}, {'type': 'TestTimeAug', 'transforms': steps}],
        }
        return evaluate(SEGMENTOR, checkpoint(SEGMENTOR), folder, options, tta=True)

    def test_of_one_image_is_none(self, tmp_path: Path) -> None:
        plain = evaluate(SEGMENTOR, checkpoint(SEGMENTOR), tmp_path / 'plain')
        assert self.measure(tmp_path / 'one', 0.0) == plain
        assert self.measure(tmp_path / 'two', 0.0, 1.0) != plain

    def test_without_a_pipeline(self, tmp_path: Path) -> None:
        with pytest.raises(ZooError, match='upernet_trionet_shapes has no tta_model'):
            evaluate(SEGMENTOR, checkpoint(SEGMENTOR), tmp_path, tta=True)


class TestCheckpoints:
    def test_safetensors_and_pth(self, tmp_path: Path) -> None:
        tensors = torch.load(checkpoint(SEGMENTOR), weights_only=True)['state_dict']
        safetensors.torch.save_file(tensors, tmp_path / 'model.safetensors')
        one = evaluate(SEGMENTOR, checkpoint(SEGMENTOR), tmp_path / 'a')
        assert one == evaluate(SEGMENTOR, tmp_path / 'model.safetensors', tmp_path / 'b')
        assert set(one) == {'aAcc', 'mIoU', 'mAcc'}

    @pytest.mark.parametrize('end', ['pth', 'safetensors'])
    def test_missing(self, end: str, tmp_path: Path) -> None:
        with pytest.raises(ZooError, match=rf'none\.{end}'):
            evaluate(SEGMENTOR, tmp_path / f'none.{end}', tmp_path)

    def test_of_another_model(self, tmp_path: Path) -> None:
        with pytest.raises(ZooError, match=r'is not a checkpoint of this model: .*tensors are missing'):
            evaluate(SEGMENTOR, checkpoint(DETECTOR), tmp_path)

    def test_resuming_another_model(self, tmp_path: Path) -> None:
        (tmp_path / 'last_checkpoint').write_text(str(Path(checkpoint(DETECTOR)).resolve()))
        with pytest.raises(ZooError, match='is not a checkpoint of this model'):
            train(SEGMENTOR, tmp_path, resume=True, options=BRIEF)

    def test_code_is_not_run(self, tmp_path: Path) -> None:
        class Evil:
            def __reduce__(self) -> Any:
                return os.mkdir, (str(tmp_path / 'made'),)

        path = tmp_path / 'evil.pth'
        torch.save({'state_dict': {}, 'evil': Evil()}, path, pickle_module=pickle)
        with pytest.raises(ZooError, match='would run code'):
            evaluate(SEGMENTOR, path, tmp_path / 'test')
        assert not (tmp_path / 'made').exists()

    def test_methods_of_logs_only(self, tmp_path: Path) -> None:
        """What stands for ``getattr`` in the Runner's files gives nothing else."""

        class Evil:
            def __reduce__(self) -> Any:
                return getattr, (np.ndarray, 'tofile')

        path = tmp_path / 'evil.pth'
        torch.save({'state_dict': {}, 'evil': Evil()}, path)
        with pytest.raises(ZooError):
            evaluate(SEGMENTOR, path, tmp_path / 'test')


class TestPredict:
    @pytest.mark.parametrize('name', [SEGMENTOR, DETECTOR])
    def test_pictures(self, name: str, tmp_path: Path) -> None:
        Image.new('RGB', (1, 1), (200, 30, 30)).save(tmp_path / 'one.png')
        Image.new('L', (90, 3), 99).save(tmp_path / 'flat.jpg')
        images = ['data/shapes/val', tmp_path / 'one.png', tmp_path / 'flat.jpg']
        pictures = predict(name, checkpoint(name), images, tmp_path / 'out', score=0.0)
        assert [p.name for p in pictures] == ['000000.png', '000001.png', '000002.png', 'one.png', 'flat.png']
        assert sorted(tmp_path.joinpath('out').iterdir()) == sorted(pictures)
        sizes = [Image.open(path).size for path in pictures]
        plain = [Image.open(path).size for path in list_images(images).values()]
        assert sizes == plain
        again = predict(name, checkpoint(name), images, tmp_path / 'again', score=0.0)
        assert [path.read_bytes() for path in again] == [path.read_bytes() for path in pictures]

    def test_faults(self, tmp_path: Path) -> None:
        (tmp_path / 'text.png').write_text('no image')
        (tmp_path / 'empty').mkdir()
        (tmp_path / 'empty' / 'notes.txt').touch()
        shutil.copy('data/shapes/val/000000.png', tmp_path / '000000.jpg')
        for images, message in [
            ([tmp_path / 'text.png'], r'text\.png: not an image'),
            ([tmp_path / 'gone.png'], r'gone\.png: there is no such image'),
            ([tmp_path / 'empty'], 'no image in this folder'),
            (['data/shapes/val', tmp_path / '000000.jpg'], r'would both become 000000\.png'),
        ]:
            with pytest.raises(ZooError, match=message):
                predict(SEGMENTOR, checkpoint(SEGMENTOR), images, tmp_path / 'out')
            assert not (tmp_path / 'out').exists()
        with pytest.raises(ZooError, match='already'):
            predict(SEGMENTOR, checkpoint(SEGMENTOR), ['data/shapes/val'], tmp_path / 'empty')
        with pytest.raises(ZooError, match='is not a checkpoint of this model'):
            predict(SEGMENTOR, checkpoint(DETECTOR), ['data/shapes/val'], tmp_path / 'out')
        assert not (tmp_path / 'out').exists()


class TestOddData:
    """Images of one pixel, and annotations without boxes or with boxes of no size."""

    def test_detection(self, tmp_path: Path) -> None:
        (tmp_path / 'train').mkdir()
        Image.new('RGB', (1, 1)).save(tmp_path / 'train' / 'one.png')
        Image.new('RGB', (60, 50)).save(tmp_path / 'train' / 'none.png')
        images = [
            {'id': 0, 'file_name': 'one.png', 'width': 1, 'height': 1},
            {'id': 1, 'file_name': 'none.png', 'width': 60, 'height': 50},
        ]
        box = {'category_id': 1, 'bbox': [0, 0, 1, 1], 'area': 1, 'iscrowd': 0}
        polygon = [[0, 0, 1, 0, 1, 1, 0, 1]]
        annotations = [
            box | {'id': 1, 'image_id': 0, 'segmentation': polygon},
            box | {'id': 2, 'image_id': 1, 'bbox': [5, 5, 0, 0], 'area': 0, 'segmentation': polygon},
        ]
        categories = [{'id': index + 1, 'name': name} for index, name in enumerate(THINGS)]
        content = {'images': images, 'annotations': annotations, 'categories': categories}
        (tmp_path / 'odd.json').write_text(json.dumps(content))
        data = {f'train_dataloader.dataset.{key}': value for key, value in self.places(tmp_path).items()}
        runner = train(DETECTOR, tmp_path / 'run', options=BRIEF | data)
        assert runner.iter == 1
        assert all(torch.isfinite(tensor).all() for tensor in runner.model.state_dict().values())
        assert len(runner.train_dataloader.dataset) == 2

    @staticmethod
    def places(folder: Path) -> dict[str, Any]:
        return {'data_root': f'{folder}/', 'ann_file': 'odd.json'}

    def test_segmentation(self, tmp_path: Path) -> None:
        for place in ('train', 'labels/train'):
            (tmp_path / place).mkdir(parents=True)
        for name, size in (('one', (1, 1)), ('two', (70, 2))):
            Image.new('RGB', size).save(tmp_path / 'train' / f'{name}.png')
            Image.new('L', size, 3).save(tmp_path / 'labels' / 'train' / f'{name}.png')
        data = {
            'train_dataloader.dataset.data_root': str(tmp_path),
            'test_dataloader.dataset.data_root': str(tmp_path),
            'test_dataloader.dataset.data_prefix': {'img_path': 'train', 'seg_map_path': 'labels/train'},
        }
        runner = train(SEGMENTOR, tmp_path / 'run', options=BRIEF | data)
        assert all(torch.isfinite(tensor).all() for tensor in runner.model.state_dict().values())
        metrics = evaluate(SEGMENTOR, tmp_path / 'run' / 'iter_1.pth', tmp_path / 'test', data)
        assert 0 <= metrics['aAcc'] <= 100


def test_whole_model_and_nothing_else(tmp_path: Path) -> None:
    config = load_config(SEGMENTOR, {}, tmp_path)
    first, second = (build(config, SEGMENTOR).model for _ in range(2))
    torch.save(first.state_dict(), tmp_path / 'plain.pth')
    load_weights(second, tmp_path / 'plain.pth')
    torch.testing.assert_close(second.state_dict(), first.state_dict(), rtol=0, atol=0)
