"""The command line: what it prints, its exit codes, and one sentence for each of a user's mistakes."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from safetensors.torch import load_file

import zoo
from zoo.console import EXTRAS, main
from zoo.entry import read_entry
from zoo.errors import ZooError
from zoo.table import BEGIN, END, markdown_table, replace_table

ROOT = Path(zoo.__file__).parents[1]
ENTRIES = ROOT / 'zoo' / 'entries'
COMMANDS = ('list', 'info', 'validate', 'convert', 'table', 'picture', 'schema', 'measure')
COMMANDS += ('verify', 'publish', 'evaluate', 'export', 'autoload', 'gallery')
Capture = pytest.CaptureFixture[str]


def run(capsys: Capture, *argv: str | Path) -> tuple[int, str, str]:
    code = main([str(argument) for argument in argv])
    out, err = capsys.readouterr()
    assert 'Traceback' not in err
    return code, out, err


def test_list(capsys: Capture) -> None:
    code, out, err = run(capsys, 'zoo', 'list')
    assert (code, err) == (0, '')
    assert [line.split()[0] for line in out.splitlines()] == zoo.list_entries()
    code, out, err = run(capsys, 'zoo', 'list', 's3_*_384')
    assert [line.split()[0] for line in out.splitlines()] == ['s3_base_384', 's3_small_384']
    assert '384x384' in out


def test_info(capsys: Capture) -> None:
    code, out, err = run(capsys, 'zoo', 'info', 's3_tiny')
    assert (code, err) == (0, '')
    for text in (
        '28,328,674',
        '4,623,332,352',
        '82.1 % top-1',
        'timm/swin_s3_tiny_224.ms_in1k',
        '0.9',
        'license: mit',
        'searchzoo search train s3_tiny train/s3_imagenet.yaml',
    ):
        assert text in out
    code, small, err = run(capsys, 'zoo', 'info', 'glit_tiny', '--size', '160')
    assert code == 0
    assert '3x160x160' in small
    assert 'download by hand from https://drive.google.com' in small
    assert 'license: none was given' in small


def test_info_of_a_file(capsys: Capture, tmp_path: Path) -> None:
    data = json.loads((ENTRIES / 's3_tiny.json').read_text())
    path = tmp_path / 'mine.json'
    path.write_text(json.dumps(data | {'name': 'mine'}))
    code, out, err = run(capsys, 'zoo', 'info', path)
    assert (code, err) == (0, '')
    assert out.startswith('name         mine\n')


@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        (['info', 's3_tny'], "There is no entry 's3_tny' (did you mean s3_tiny"),
        (['info', 'qqqqq'], "There is no entry 'qqqqq'. See docs/index.md#what-can-be-asked-of-an-entry.\n"),
        (['info', 'none.json'], 'none.json: cannot be read: No such file or directory.'),
        (['info', 'glit_tiny', '--size', '7'], 'glit_tiny cannot be built for 7x7 pixels: '),
        (['list', 's4_tiny'], "No entry matches 's4_tiny' (did you mean s3_tiny"),
        (['convert', 's3_tiny', 'none.pth', 'x.safetensors'], 'none.pth: there is no such file.'),
        (['table', '--write', 'none.md'], 'none.md: No such file or directory.'),
        (['schema', '--write', 'none/schema.json'], 'No such file or directory.'),
        (['measure', 'none.json'], 'none.json: cannot be read'),
    ],
)
def test_mistakes_take_one_sentence_and_exit_code_1(
    argv: list[str], message: str, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, 'zoo', *argv)
    assert (code, out) == (1, '')
    assert message in err
    assert err.count('\n') == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    'argv',
    [
        [],
        ['bogus'],
        ['zoo'],
        ['zoo', 'bogus'],
        ['zoo', 'info'],
        ['zoo', 'info', 's3_tiny', '--size', 'big'],
        ['zoo', 'info', 's3_tiny', '--size', '0'],
        ['zoo', 'validate'],
        ['zoo', 'list', '--nope'],
    ],
    ids=' '.join,
)
def test_wrong_usage_has_exit_code_2(argv: list[str], capsys: Capture) -> None:
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, '')
    assert 'usage: searchzoo' in err


@pytest.mark.parametrize(
    'argv',
    [['--help'], ['zoo', '--help'], *(['zoo', command, '--help'] for command in COMMANDS)],
)
def test_help_has_examples(argv: list[str], capsys: Capture) -> None:
    code, out, err = run(capsys, *argv)
    assert (code, err) == (0, '')
    assert 'searchzoo zoo' in out.partition('\n\n')[2]


def test_version(capsys: Capture) -> None:
    assert run(capsys, '--version') == (0, f'searchzoo {zoo.__version__}\n', '')


def test_validate(capsys: Capture, tmp_path: Path) -> None:
    files = sorted(ENTRIES.glob('*.json'))
    code, out, err = run(capsys, 'zoo', 'validate', *files)
    assert (code, err) == (0, '')
    assert out.splitlines() == [f'{file}: valid' for file in files]

    data = json.loads(files[0].read_text())
    data['num_classes'] = '1000'
    data['arch']['depth'] = 3
    faulty, missing = tmp_path / 'faulty.json', tmp_path / 'missing.json'
    faulty.write_text(json.dumps(data))
    code, out, err = run(capsys, 'zoo', 'validate', faulty, files[0], missing)
    lines = out.splitlines()
    assert (code, err, len(lines)) == (1, '', 4)
    assert lines[0] == f"{faulty}: $.num_classes: found '1000', must be a valid integer."
    assert lines[1].startswith(f'{faulty}: $.arch.depth: found 3, this key is not known here; known are ')
    assert lines[2] == f'{files[0]}: valid'
    assert lines[3].startswith(f'{missing}: cannot be read')


def test_convert(capsys: Capture, tmp_path: Path) -> None:
    state = timm.create_model('glit_tiny').state_dict()
    source, target = tmp_path / 'x.pth', tmp_path / 'y.safetensors'
    torch.save({'model': {k: v + 1 for k, v in state.items()}, 'model_ema': state}, source)
    code, out, err = run(capsys, 'zoo', 'convert', 'glit_tiny', source, target, '--key', 'model_ema')
    assert (code, err) == (0, '')
    assert f"{target}: written (from 'model_ema'), sha256 " in out
    assert torch.equal(load_file(target)['pos_embed'], state['pos_embed'])
    model = eval(out.splitlines()[-1], {'timm': timm})
    assert torch.equal(model.pos_embed, state['pos_embed'])


def test_table_of_the_readme_is_in_step() -> None:
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    assert text == replace_table(text, 'README.md'), 'searchzoo zoo table --write README.md'


def test_table(capsys: Capture, tmp_path: Path) -> None:
    code, out, err = run(capsys, 'zoo', 'table')
    assert (code, err) == (0, '')
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in out.splitlines()]
    assert len({len(row) for row in rows}) == 1
    assert [row[0] for row in rows[2:]] == [f'`{name}`' for name in zoo.list_entries()]
    row = next(row for row in rows if row[0] == '`s3_tiny`')
    assert row[1:] == [
        *(
            '224x224',
            '28.33',
            '4.62',
            '28.1',
            '4.7 macs',
            '+0.8%, -1.6%',
            '82.1',
            '`ms_in1k`',
            'official code',
        )
    ]

    path = tmp_path / 'README.md'
    path.write_text(f'Networks\n{BEGIN}\nold\n{END}\nMore\n')
    assert run(capsys, 'zoo', 'table', '--write', path) == (0, '', '')
    assert path.read_text() == f'Networks\n{BEGIN}\n{markdown_table()}{END}\nMore\n'
    for text in ('no markers', f'{END} {BEGIN}', BEGIN):
        with pytest.raises(ZooError, match='markers'):
            replace_table(text, 'README.md')


def test_schema(capsys: Capture, tmp_path: Path) -> None:
    code, out, err = run(capsys, 'zoo', 'schema')
    assert (code, out, err) == (0, (ROOT / 'zoo' / 'entry.schema.json').read_text(), '')
    assert run(capsys, 'zoo', 'schema', '--write', tmp_path / 's.json') == (0, '', '')
    assert (tmp_path / 's.json').read_text() == out


def test_measure_restores_a_bundled_file(capsys: Capture, tmp_path: Path) -> None:
    text = (ENTRIES / 'glit_tiny.json').read_text()
    data = json.loads(text)
    del data['measured']
    path = tmp_path / 'glit_tiny.json'
    path.write_text(json.dumps(data))
    code, out, err = run(capsys, 'zoo', 'measure', path)
    assert (code, err) == (0, '')
    assert '7,264,456 params' in out
    assert path.read_text() == text
    assert read_entry(path) == zoo.load_entry('glit_tiny')


def missing_module(name: str) -> SimpleNamespace:
    def fail(argv: list[str]) -> int:
        raise ModuleNotFoundError(f'No module named {name!r}', name=name)

    return SimpleNamespace(main=fail)


def test_missing_optional_dependency_names_the_extra(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib, 'import_module', lambda name: missing_module('yaml.nodes'))
    code, out, err = run(capsys, 'search', 'run')
    assert (code, out) == (1, '')
    assert (
        err
        == "`searchzoo search` needs yaml.nodes, which is not installed: pip install 'searchzoo[search]'.\n"
    )
    monkeypatch.setattr(importlib, 'import_module', lambda name: missing_module('downstream.cli'))
    code, out, err = run(capsys, 'downstream')
    assert (code, err) == (1, '`searchzoo downstream` has no command line in this version.\n')
    monkeypatch.setattr(importlib, 'import_module', lambda name: missing_module('zoo.misspelt'))
    with pytest.raises(ModuleNotFoundError, match='misspelt'):
        main(['zoo', 'list'])


def test_extras_exist() -> None:
    declared = (ROOT / 'pyproject.toml').read_text()
    for extra in set(EXTRAS.values()):
        assert f'\n{extra} = [' in declared


def test_faults_of_the_program_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib, 'import_module', lambda name: SimpleNamespace(main=lambda argv: 1 / 0))
    with pytest.raises(ZeroDivisionError):
        main(['zoo', 'list'])


def test_interrupt_is_quiet(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(argv: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib, 'import_module', lambda name: SimpleNamespace(main=interrupt))
    assert run(capsys, 'zoo', 'list') == (130, '', '')


def test_module_runs_and_a_closed_pipe_is_quiet() -> None:
    """As in ``python -m zoo table | head``: the reader is gone before anything is written."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, '-m', 'zoo', 'table']
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=300)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, '')
