"""``searchzoo downstream``: what a user types, and what comes out."""

import argparse
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip('mmseg')
pytest.importorskip('mmcv._ext')

from mmengine.config import Config
from safetensors.numpy import load_file

from downstream.cli import _parser
from downstream.runner import load_config
from downstream.shapes import write_shapes
from zoo.console import main
from zoo.registry import config_path

SEGMENTOR = 'shapes/upernet_trionet_shapes'
BRIEF = ('train_cfg.max_iters=1', 'train_cfg.val_interval=1', 'train_dataloader.batch_size=2')


def run(*words: str) -> int:
    return main(['downstream', *words])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'data').mkdir()
    write_shapes('data/shapes', 2, 2, sizes=(64, 80))
    return tmp_path


def test_every_command_has_help_and_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    (commands,) = (action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction))
    assert len(commands.choices) == 10
    for name in commands.choices:
        assert run(name, '--help') == 0
        assert f'example: searchzoo downstream {name}' in capsys.readouterr().out


def test_no_two_configs_write_to_the_same_folder() -> None:
    names = [
        path.stem
        for path in config_path('search/demo.yaml').parents[1].rglob('*.py')
        if '_base_' not in path.parts
    ]
    assert len(names) > 20
    assert len({*names}) == len(names)


@pytest.mark.parametrize(
    'name',
    [
        'panoptic/panoptic-deeplab_trionet-b_8xb1-200k_coco-640x640',
        'detection/mask-rcnn_uninet-b3_fpn_1x_coco',
    ],
)
def test_what_is_printed_is_a_config(name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run('print', name, '--cfg-options', 'model.backbone.drop_path_rate=0.25') == 0
    path = tmp_path / 'mine.py'
    path.write_text(capsys.readouterr().out)
    mine, shipped = Config.fromfile(path), load_config(name)
    assert mine.model.backbone.pop('drop_path_rate') == 0.25
    shipped.model.backbone.pop('drop_path_rate', None)
    assert mine.model == shipped.model
    assert mine.train_dataloader == shipped.train_dataloader


def test_train_test_predict(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run('train', SEGMENTOR, '--work-dir', 'run', '--cfg-options', *BRIEF) == 0
    assert run('test', SEGMENTOR, 'run/iter_1.pth', '--work-dir', 'test') == 0
    assert 'mIoU' in capsys.readouterr().out
    assert run('predict', SEGMENTOR, 'run/iter_1.pth', 'data/shapes/val', '--out', 'drawn') == 0
    assert [Image.open(path).mode for path in sorted(Path('drawn').iterdir())] == ['RGB', 'RGB']


def test_grid_features(folder: Path) -> None:
    Image.new('RGB', (40, 60)).convert('L').save('data/shapes/val/grey.png')
    assert run('grid-features', 's3_digits', 'data/shapes/val', 'features', '--size', '64x96') == 0
    maps = [load_file(path)['features'] for path in sorted(Path('features').glob('*.safetensors'))]
    assert len(maps) == 3
    assert len({features.shape for features in maps}) == 1


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (('train', 'shapes/none'), 'no configuration'),
        (('train', SEGMENTOR, '--cfg-options', 'max_iters'), "found 'max_iters', KEY=VALUE is needed"),
        (('test', SEGMENTOR, 'gone.pth', '--tta'), 'no tta_model'),
        (('grid-features', 's3_tinny', 'data', 'features'), 's3_tiny'),
    ],
)
def test_mistakes(
    words: tuple[str, ...], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words) == 1
    err = capsys.readouterr().err
    assert message in err
    assert 'Traceback' not in err
