"""The folder of a run: what it refuses, what it keeps, what it says."""

import json
import os
import signal
import threading
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from search.run import Interrupted, Run
from search.section import Section
from zoo.errors import ZooError

CONFIG = {'seed': 1, 'supernet': {'epochs': 3, 'lr': 0.1}}
VERSIONS = {'searchzoo': '1.0', 'torch': '2'}


def open_run(folder: Path, config=CONFIG, versions=VERSIONS, **kwargs) -> Run:
    return Run(folder, config, versions, **{'checkpoint_seconds': 0.0, 'quiet': True, **kwargs})


def steps(folder: Path) -> list[int]:
    return [json.loads(line)['step'] for line in (folder / 'events.jsonl').read_text().splitlines()]


def drawn(folder: Path, tag: str) -> list[tuple[int, float]]:
    """What a TensorBoard that reads every file of the folder shows, purged steps included."""
    board = EventAccumulator(str(folder / 'tensorboard'), {'scalars': 0}, purge_orphaned_data=False).Reload()
    return [(event.step, event.value) for event in board.Scalars(tag)]


class TestRefusals:
    def test_another_config_names_the_keys(self, tmp_path):
        open_run(tmp_path).__exit__(None, None, None)
        with pytest.raises(ZooError) as caught:
            open_run(tmp_path, {'seed': 2, 'supernet': {'epochs': 3, 'lr': 0.1, 'warm': 1}})
        assert 'seed was 1, now 2; supernet.warm was None, now 1' in str(caught.value)

    def test_another_version(self, tmp_path):
        open_run(tmp_path).__exit__(None, None, None)
        with pytest.raises(ZooError, match=r'made by searchzoo 1.0, this is 1.1'):
            open_run(tmp_path, versions={**VERSIONS, 'searchzoo': '1.1'})

    def test_another_torch_is_a_note(self, tmp_path, capsys):
        open_run(tmp_path).__exit__(None, None, None)
        with open_run(tmp_path, versions={'searchzoo': '1.0', 'torch': '3'}, quiet=False) as run:
            assert run.versions == VERSIONS
        assert 'begun with torch 2, continued with 3' in capsys.readouterr().err

    def test_a_folder_with_other_files(self, tmp_path):
        (tmp_path / 'thesis.tex').touch()
        with pytest.raises(ZooError, match='holds files but no run'):
            open_run(tmp_path)
        assert [path.name for path in tmp_path.iterdir() if not path.name.startswith('.')] == ['thesis.tex']

    def test_a_file(self, tmp_path):
        (tmp_path / 'file').touch()
        with pytest.raises(ZooError, match='cannot be used as the folder'):
            open_run(tmp_path / 'file')

    def test_two_at_a_time(self, tmp_path):
        with open_run(tmp_path), pytest.raises(ZooError, match='another process is running here'):
            open_run(tmp_path)
        open_run(tmp_path).__exit__(None, None, None)

    @pytest.mark.parametrize(
        'content',
        [
            *(b'', b'PK\x03\x04 truncated', b'{"versions": 1}', b'[' * 3000),
            *(b'null', b'[]', b'{"versions": null, "config": {}}', b'{"versions": {}, "config": null}'),
        ],
    )
    def test_damaged_files(self, tmp_path, content):
        with open_run(tmp_path) as run:
            run.save('a', {'step': 1})
        for name in ('checkpoint.pt', 'config.json'):
            before = (tmp_path / name).read_bytes()
            (tmp_path / name).write_bytes(content)
            with pytest.raises(ZooError, match=rf'{name}: is damaged') as caught:
                open_run(tmp_path)
            assert str(caught.value).isprintable()
            (tmp_path / name).write_bytes(before)
        with open_run(tmp_path) as run:
            assert run.load('a') == {'step': 1}

    @pytest.mark.parametrize(
        'change',
        [
            *({'done': None}, {'done': {'a': 1}}, {'log_size': -1}, {'seconds': {'a': 'long'}}, {'phase': 1}),
            *({'more': 1}, None),
        ],
    )
    def test_a_checkpoint_that_holds_something_else(self, tmp_path, change):
        with open_run(tmp_path) as run:
            run.save('a', {'step': 1})
        path = tmp_path / 'checkpoint.pt'
        torch.save(change and torch.load(path) | change, path)
        with pytest.raises(ZooError, match=r'checkpoint.pt: is damaged \(1 validation error'):
            open_run(tmp_path)

    def test_a_checkpoint_of_which_one_bit_has_changed(self, tmp_path):
        with open_run(tmp_path) as run:
            run.save('a', torch.full((1000,), 3.0))
        path = tmp_path / 'checkpoint.pt'
        data = bytearray(path.read_bytes())
        data[data.find(torch.full((1000,), 3.0).numpy().tobytes()) + 2003] ^= 1
        path.write_bytes(data)
        assert torch.load(path)['state'].sum() != 3000
        with pytest.raises(ZooError, match=r'checkpoint.pt: is damaged \(.*data/0 has another checksum'):
            open_run(tmp_path)

    def test_many_differences_are_counted(self, tmp_path):
        open_run(tmp_path, {f'\0{i}': i for i in range(20)}).__exit__(None, None, None)
        with pytest.raises(ZooError, match=r'config: \\x000 was 0, now None; .*; and 14 more\.') as caught:
            open_run(tmp_path)
        assert str(caught.value).isprintable()

    def test_a_checkpoint_that_would_run_code_is_refused(self, tmp_path):
        class Trap:
            def __reduce__(self):
                return os.system, (f'touch {tmp_path}/trapped',)

        open_run(tmp_path).__exit__(None, None, None)
        torch.save(Trap(), tmp_path / 'checkpoint.pt')
        with pytest.raises(ZooError, match=r'checkpoint.pt: is damaged'):
            open_run(tmp_path)
        assert not (tmp_path / 'trapped').exists()

    @pytest.mark.parametrize('content', [None, b'other'])
    def test_a_finished_phase_whose_file_has_changed(self, tmp_path, content):
        with open_run(tmp_path) as run:
            run.phase('a', 'a.bin', lambda: b'result')
        (tmp_path / 'a.bin').unlink()
        if content is not None:
            (tmp_path / 'a.bin').write_bytes(content)
        with (
            open_run(tmp_path) as run,
            pytest.raises(ZooError, match=r'a.bin: is (missing|damaged); put it back'),
        ):
            run.phase('a', 'a.bin', lambda: b'result')

    def test_a_deleted_checkpoint_does_not_lose_what_is_done(self, tmp_path):
        with open_run(tmp_path) as run:
            run.phase('a', 'a.safetensors', lambda: b'result')
        (tmp_path / 'checkpoint.pt').unlink()
        with pytest.raises(ZooError, match=r'checkpoint.pt: is missing'):
            open_run(tmp_path)
        assert (tmp_path / 'a.safetensors').read_bytes() == b'result'


class TestContinuing:
    def test_phases_are_computed_once(self, tmp_path):
        with open_run(tmp_path) as run:
            assert run.phase('a', 'parts/a.bin', lambda: b'result') == b'result'
        with open_run(tmp_path) as run:
            assert run.phase('a', 'parts/a.bin', lambda: pytest.fail('again')) == b'result'
        assert (tmp_path / 'parts' / 'a.bin').read_bytes() == b'result'

    def test_state_belongs_to_its_phase(self, tmp_path):
        state = {'tensor': torch.arange(3), 'list': [1, 2.5, 'x', None], 'nested': {0: True}}
        with open_run(tmp_path) as run:
            run.save('a', state)
        with open_run(tmp_path) as run:
            assert run.load('b') is None
            loaded = run.load('a')
        assert torch.equal(loaded.pop('tensor'), torch.arange(3))
        assert loaded == {'list': [1, 2.5, 'x', None], 'nested': {0: True}}

    def test_no_step_is_logged_or_drawn_twice(self, tmp_path):
        for last in (7, 9, 12):
            with open_run(tmp_path) as run:
                first = run.load('a') or 0
                for step in range(first, last):
                    run.log('a', step, loss=step / 10, kind='text')
                    if step % 5 == 4:
                        run.save('a', step + 1)
        assert steps(tmp_path) == list(range(12))
        expected = [(step, pytest.approx(step / 10)) for step in range(12)]
        assert drawn(tmp_path, 'a/loss') == expected

    def test_a_half_written_line_is_cut_off(self, tmp_path):
        with open_run(tmp_path) as run:
            run.log('a', 1, loss=1.0)
            run.save('a', 1)
        with open(tmp_path / 'events.jsonl', 'a') as file:
            file.write('{"phase": "a", "st')
        with open_run(tmp_path) as run:
            run.log('a', 2, loss=2.0)
        assert steps(tmp_path) == [1, 2]

    @pytest.mark.parametrize(
        'line',
        [
            *(b'\0\0', b'{', b'3', b'[' * 3000, b'{"phase": "a", "loss": 1}'),
            *(b'{"phase": "a", "step": 1e99, "time": 1, "loss": 1}', b'{"loss": 1' + b'0' * 400 + b'}'),
        ],
    )
    def test_damaged_lines_are_not_drawn(self, tmp_path, line, capsys):
        with open_run(tmp_path) as run:
            run.log('a', 1, loss=0.5)
            run.save('a', 1)
        log, path = tmp_path / 'events.jsonl', tmp_path / 'checkpoint.pt'
        log.write_bytes(log.read_bytes() + line + b'\n')
        torch.save(torch.load(path) | {'log_size': log.stat().st_size}, path)
        with open_run(tmp_path, quiet=False) as run:
            assert run.load('a') == 1
        assert 'events.jsonl: 1 line is damaged and not drawn' in capsys.readouterr().err
        assert drawn(tmp_path, 'a/loss') == [(1, 0.5)]

    def test_without_checkpoint_it_starts_again(self, tmp_path):
        with open_run(tmp_path) as run:
            run.log('a', 1, loss=1.0)
        with open_run(tmp_path) as run:
            assert run.load('a') is None
        assert steps(tmp_path) == []

    def test_nothing_half_written_is_left(self, tmp_path, monkeypatch):
        with open_run(tmp_path) as run:
            run.save('a', 1)
            before = (tmp_path / 'checkpoint.pt').read_bytes()

            def fail(source, target):
                raise OSError(28, 'No space left on device')

            monkeypatch.setattr(os, 'replace', fail)
            with pytest.raises(ZooError, match=r'cannot be written: No space left on device'):
                run.save('a', 2)
            with pytest.raises(ZooError, match=r'cannot be written: No space left on device'):
                run.phase('a', 'a.bin', lambda: b'result')
            monkeypatch.undo()
        assert (tmp_path / 'checkpoint.pt').read_bytes() == before
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
            ['.lock', 'checkpoint.pt', 'config.json', 'events.jsonl', 'tensorboard']
        )


class TestStopping:
    def test_the_first_signal_waits_for_a_checkpoint(self, tmp_path):
        handler = signal.getsignal(signal.SIGINT)
        with open_run(tmp_path, checkpoint_seconds=1e9) as run:
            assert not run.due()
            os.kill(os.getpid(), signal.SIGINT)
            assert run.due()
            with pytest.raises(Interrupted):
                run.save('a', 5)
        assert signal.getsignal(signal.SIGINT) is handler
        with open_run(tmp_path) as run:
            assert run.load('a') == 5

    def test_a_finished_phase_is_kept(self, tmp_path):
        with open_run(tmp_path) as run:
            os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(Interrupted):
                run.phase('a', 'a.bin', lambda: b'result')
        with open_run(tmp_path) as run:
            assert run.phase('a', 'a.bin', lambda: pytest.fail('again')) == b'result'

    def test_the_second_signal_stops_at_once(self, tmp_path, capsys):
        with open_run(tmp_path, quiet=False):
            os.kill(os.getpid(), signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
        assert 'once more to stop at once' in capsys.readouterr().err

    def test_works_in_a_thread_where_signals_cannot_be_handled(self, tmp_path):
        def work():
            with open_run(tmp_path) as run:
                run.save('a', 1)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert (tmp_path / 'checkpoint.pt').exists()


def test_checkpoints_are_due_after_their_interval(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr('search.run.time.monotonic', lambda: now[0])
    with open_run(tmp_path, checkpoint_seconds=30.0) as run:
        assert not run.due()
        now[0] += 30
        assert run.due()
        run.save('a', 1)
        assert not run.due()


class TestSections:
    def test_phases_files_states_and_events_are_apart(self, tmp_path):
        with open_run(tmp_path) as run:
            parts = [Section(run, 'a'), Section(Section(run, 'a'), 'b'), Section(run, 'c')]
            for number, part in enumerate(parts):
                data = part.phase('p', 'p.json', lambda number=number: str(number).encode())
                assert data == str(number).encode() == (part.folder / 'p.json').read_bytes()
            parts[1].save('q', 5)
            parts[2].log('q', 1, loss=2.0)
        with open_run(tmp_path) as run:
            again = [Section(run, 'a'), Section(Section(run, 'a'), 'b'), Section(run, 'c')]
            assert [part.load('q') for part in again] == [None, 5, None]
            assert [part.phase('p', 'p.json', lambda: b'new') for part in again] == [b'0', b'1', b'2']
        assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob('*.json')) == [
            'a/b/p.json',
            'a/p.json',
            'c/p.json',
            'config.json',
        ]

    def test_a_deleted_checkpoint_does_not_lose_what_a_section_has_done(self, tmp_path):
        with open_run(tmp_path) as run:
            Section(run, 'level1').phase('supernet', 'supernet.safetensors', lambda: b'tensors')
        (tmp_path / 'checkpoint.pt').unlink()
        with pytest.raises(ZooError, match=r'checkpoint.pt: is missing'):
            open_run(tmp_path)
        assert (tmp_path / 'level1/supernet.safetensors').read_bytes() == b'tensors'

    def test_a_stop_is_seen_and_said(self, tmp_path, capsys):
        with open_run(tmp_path, checkpoint_seconds=1e9, quiet=False) as run:
            part = Section(run, 'level2')
            assert not part.due()
            signal.raise_signal(signal.SIGINT)
            assert part.stop_asked
            assert part.due()
            with part.progress('training', 3) as progress:
                progress.update('loss 1')
            with pytest.raises(Interrupted):
                part.save('training', {'step': 1})
        assert 'level2: training' in capsys.readouterr().err
