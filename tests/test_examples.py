"""The scripts in examples/: short, and they run as they stand, without network."""

import ast
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
from PIL import Image

import zoo

EXAMPLES = Path(__file__).resolve().parents[1] / 'examples'


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(name: str, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``python examples/<name>.py <arguments>``, in this process."""
    path = EXAMPLES / f'{name}.py'
    monkeypatch.setattr(sys, 'argv', [str(path), *arguments])
    runpy.run_path(str(path), run_name='__main__')


def test_each_example_is_short_says_what_it_does_and_is_run_here() -> None:
    for path in EXAMPLES.glob('*.py'):
        text = path.read_text(encoding='utf-8')
        assert len(text.splitlines()) <= 60, path.name
        assert ast.get_docstring(ast.parse(text)), path.name
        assert f'test_{path.stem}' in globals(), path.name


def test_classify(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run('classify', monkeypatch=monkeypatch)
    assert capsys.readouterr().out.startswith('class 0: ')  # the first digit of the test split is a 0
    picture = np.asarray(Image.open('attention.png'))
    assert picture.shape == (320, 640, 3)
    assert picture[:, 320:, 0].max() > 200  # somewhere the network looks
    assert not picture[:, 320:, 1:].any()


def test_classify_takes_a_file(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new('RGB', (50, 40), 'red').save('photo.png')
    run('classify', 'photo.png', '--out', 'seen.png', monkeypatch=monkeypatch)
    assert capsys.readouterr().out.count('class ') == 3
    assert Path('seen.png').exists()


def test_search_folder(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run('search_folder', monkeypatch=monkeypatch)
    assert len(list(Path('images').rglob('*.png'))) == 120
    assert 'runs/my_images/my_images.json' in capsys.readouterr().out
    name = zoo.register('runs/my_images/my_images.json')
    assert zoo.load_entry(name).measured.macs <= 1_000_000
    assert timm.create_model(name, pretrained=True).num_classes == 3


def test_publish(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run('publish', monkeypatch=monkeypatch)
    assert {path.name for path in Path('to_publish').iterdir()} >= {
        'README.md',
        'entry.json',
        'model.safetensors',
    }
    assert capsys.readouterr().out.splitlines()[-1] == 'loads as a network of 32,380 params'


def test_detect(monkeypatch: pytest.MonkeyPatch) -> None:
    run('detect', '--iterations', '2', '--images', '8', monkeypatch=monkeypatch)
    drawn = list(Path('detected/drawn').iterdir())
    assert len(drawn) == 2
    assert all(Image.open(path).mode == 'RGB' for path in drawn)
