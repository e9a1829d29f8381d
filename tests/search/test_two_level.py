"""GLiT's search at two levels: what each may choose, what is kept, that no interruption changes a byte."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import timm
import torch
from interruptions import Recorder, Stop, read_all, read_log

import zoo
from search import data as search_data
from search.config import TwoLevelConfig, load_config, parse_config
from search.methods import one_shot, two_level
from search.methods.two_level import first_level, second_level
from search.problem import Problem
from zoo.entry import read_entry
from zoo.errors import ZooError
from zoo.models.glit import GLiT

TINY = Path(__file__).with_name('tiny_glit.yaml')
S3 = Path(__file__).with_name('tiny.yaml')

# by hand: the middle of each list of tiny_glit.yaml, of two values the greater one
FIXED = {'global.qkv_dim': 12, 'global.mlp_ratio': 2, 'local.kernel_size': 5, 'local.expansion': 1}
FIXED |= {'local.mlp_ratio': 2, 'mixed.kernel_size': 5, 'mixed.expansion': 1, 'mixed.mlp_ratio': 2}


def tiny(*overrides: str) -> TwoLevelConfig:
    config = load_config(TINY, overrides)
    assert isinstance(config, TwoLevelConfig)
    return config


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


@pytest.fixture(scope='module')
def whole(tmp_path_factory) -> tuple[Path, list[str]]:
    """An uninterrupted run and the points that it passed."""
    folder, recorder = tmp_path_factory.mktemp('whole'), Recorder()
    two_level(tiny('checkpoint_seconds=0'), folder, fault=recorder, quiet=True)
    return folder, recorder.points


def test_every_phase_has_points(whole):
    done = [point.removesuffix(': done') for point in whole[1] if point.endswith(': done')]
    level = ['supernet', 'search', 'random', 'top1', 'top1 on val', 'top2', 'top2 on val', 'weights']
    assert done == [
        *(f'level1/{x}' for x in level),
        *(f'level2/{x}' for x in level),
        'weights',
        'entry',
        'random1',
        'data',
    ]
    for name in ('level1', 'level2'):
        assert whole[1].count(f'{name}/supernet: step') == whole[1].count(f'{name}/top2: step') == 4
        assert whole[1].count(f'{name}/search: candidate') == 6


@pytest.mark.parametrize(('points_each', 'seconds', 'least'), [(11, 0, 15), (29, 1e6, 4)])
def test_interrupted_again_and_again_it_ends_in_the_same_bytes(whole, tmp_path, points_each, seconds, least):
    """With a checkpoint after every step, and with none but at the end of a phase."""
    for piece in range(1, 100):
        torch.manual_seed(piece)
        fault = Recorder(points_each - 1)
        try:
            two_level(tiny(f'checkpoint_seconds={seconds}'), tmp_path, fault=fault, quiet=True)
        except Stop:
            continue
        break
    assert piece >= least
    assert read_all(tmp_path) == read_all(whole[0])
    assert read_log(tmp_path) == read_log(whole[0])


def check_interruption(whole: tuple[Path, list[str]], place: int, folder: Path) -> None:
    with pytest.raises(Stop):
        two_level(tiny('checkpoint_seconds=0'), folder, fault=Recorder(place), quiet=True)
    torch.manual_seed(place)
    two_level(tiny('checkpoint_seconds=0'), folder, quiet=True)
    assert read_all(folder) == read_all(whole[0]), whole[1][place]
    assert read_log(folder) == read_log(whole[0]), whole[1][place]


@pytest.mark.parametrize('point', ['level1/weights: done', 'weights: computed'])
def test_interrupted_between_levels_it_ends_in_the_same_bytes(whole, tmp_path, point):
    check_interruption(whole, whole[1].index(point), tmp_path)


@pytest.mark.slow
def test_interrupted_at_many_points_it_ends_in_the_same_bytes(whole, tmp_path):
    for place in sorted(random.Random(0).sample(range(len(whole[1])), 40)):
        check_interruption(whole, place, tmp_path / str(place))


def test_a_finished_run_does_nothing_again(whole):
    before = {path: path.stat().st_mtime_ns for path in whole[0].rglob('*.[js]*')}
    recorder = Recorder()
    two_level(tiny(), whole[0], fault=recorder, quiet=True)
    assert recorder.points == []
    assert {path: path.stat().st_mtime_ns for path in whole[0].rglob('*.[js]*')} == before


def kill_and_resume(config: Path, folder: Path, mark: str, seconds: float) -> None:
    """Runs a config by the command line, kills it once some phase has logged an event, and runs it again."""
    command = [sys.executable, '-m', 'search', 'run', str(config), '--out', str(folder)]
    command.append(f'checkpoint_seconds={seconds}')
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    log = folder / 'events.jsonl'
    while not log.exists() or mark not in log.read_text():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(folder.glob('*.safetensors'))
    subprocess.run(command, check=True, capture_output=True)


def test_kill_9(whole, tmp_path):
    kill_and_resume(TINY, tmp_path, 'level2/search', 0)
    assert read_all(tmp_path) == read_all(whole[0])
    assert read_log(tmp_path) == read_log(whole[0])


class TestLevels:
    def first(self) -> Problem:
        """The first level, as a user would restrict the space to it by hand."""
        allowed = {f'block{i}.{name}': [value] for i in (1, 2) for name, value in FIXED.items()}
        return Problem(tiny(f'restrict={json.dumps(allowed)}'))

    def second(self, heads: list[int]) -> Problem:
        allowed = {f'block{i}.global_heads': [value] for i, value in enumerate(heads, 1)}
        return Problem(tiny(f'restrict={json.dumps(allowed)}'))

    def test_the_first_one_decides_the_distribution_alone(self, whole):
        found = read_json(whole[0] / 'level1/search.json')
        assert found['space_size'] == '16'
        archs = [self.first().space.decode(tuple(record['genotype'])) for record in found['candidates']]
        for arch in archs:
            for block in arch.blocks:
                heads = block.global_heads
                attn = {'qkv_dim': 4 * heads, 'mlp_ratio': 2} if heads else {'mlp_ratio': 2}
                conv = {'kernel_size': 5, 'expansion': 1} if heads < 3 else {}
                kept = block.model_dump(exclude_none=True, exclude={'global_heads', 'local_heads'})
                assert kept == attn | conv
        assert len({tuple(block.global_heads for block in arch.blocks) for arch in archs}) == len(archs) == 6

    def test_the_second_one_has_the_distribution_of_the_first_one_s_best(self, whole):
        best = self.first().space.decode(find_winner(whole[0] / 'level1')[1])
        heads = [block.global_heads for block in best.blocks]
        second, found = self.second(heads).space, read_json(whole[0] / 'level2/search.json')
        assert found['space_size'] == str(second.space.size())
        archs = {second.decode(tuple(record['genotype'])) for record in found['candidates']}
        assert len(archs) == 6
        assert all([block.global_heads for block in arch.blocks] == heads for arch in archs)
        entry = read_entry(whole[0] / 'tiny_glit.json')
        assert entry.arch == second.decode(find_winner(whole[0] / 'level2')[1])

    def test_limits_hold_at_both(self, whole):
        for name in ('level1', 'level2'):
            found = read_json(whole[0] / name / 'search.json')
            assert max(candidate['macs'] for candidate in found['candidates']) <= 15_000

    def test_they_have_supernets_and_seeds_of_their_own(self, whole):
        problem = Problem(tiny())
        first = first_level(problem)
        values = {'block1.global_heads': 3, 'block2.global_heads': 0, 'block1.global.qkv_dim': 12}
        second = second_level(problem, values)
        assert len({problem.config.seed, first.config.seed, second.config.seed}) == 3
        assert second.config.restrict == {'block1.global_heads': [3], 'block2.global_heads': [0]}
        assert first.make_supernet().store.keys() != second.make_supernet().store.keys()

    def test_other_processes_make_the_same_problem(self):
        for problem in (
            first_level(Problem(tiny())),
            second_level(Problem(tiny()), {'block1.global_heads': 2}),
        ):
            again = Problem(parse_config(json.loads(problem.config.model_dump_json())))
            assert again.space.space == problem.space.space
            assert again.config == problem.config

    def test_restrictions_of_the_user_hold_at_both(self, tmp_path):
        restrict = {'block1.global_heads': [0, 3], 'block1.global.qkv_dim': [6], 'block2.global_heads': [1]}
        two_level(tiny(f'restrict={json.dumps(restrict)}', 'top=1', 'compare=null'), tmp_path, quiet=True)
        assert read_json(tmp_path / 'level1/search.json')['space_size'] == '2'
        blocks = read_entry(tmp_path / 'tiny_glit.json').arch.blocks
        assert blocks[0].global_heads in (0, 3)
        assert blocks[0].qkv_dim in (6, None)
        assert blocks[1].global_heads == 1


def find_winner(level: Path) -> tuple[int, tuple[int, ...]]:
    """Number and genotype of the one of the two best that has the better loss on val after its training."""
    candidates = read_json(level / 'search.json')['candidates']
    first, second = sorted(candidates, key=lambda record: (record['loss'], record['macs']))[:2]
    losses = [read_json(level / f'top/top{i}.json')['loss'] for i in (1, 2)]
    assert losses[0] != losses[1]
    number = 1 if losses[0] < losses[1] else 2
    return number, tuple((first, second)[number - 1]['genotype'])


class TestResult:
    def test_the_best_of_those_that_were_trained_is_kept(self, whole):
        numbers = []
        for name in ('level1', 'level2'):
            level = whole[0] / name
            numbers.append(find_winner(level)[0])
            kept = (level / 'tiny_glit.safetensors').read_bytes()
            assert kept == (level / f'top/top{numbers[-1]}.safetensors').read_bytes()
        assert (whole[0] / 'tiny_glit.safetensors').read_bytes() == kept
        assert sorted(numbers) == [1, 2]  # not always the one that the supernet thought best

    def test_its_score_is_that_of_the_emitted_network(self, whole):
        model = timm.create_model(zoo.register(whole[0] / 'tiny_glit.json'), pretrained=True).eval()
        assert isinstance(model, GLiT)
        x, labels = Problem(tiny()).data.images('val').tensors()
        with torch.no_grad():
            logits = model(x)
        number = find_winner(whole[0] / 'level2')[0]
        trained = read_json(whole[0] / f'level2/top/top{number}.json')
        assert trained['loss'] == pytest.approx(
            torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-5
        )
        top1 = 100 * (logits.argmax(1) == labels).float().mean().item()
        metrics = read_entry(whole[0] / 'tiny_glit.json').weights['digits'].metrics
        assert trained['top1'] == pytest.approx(top1)
        assert metrics['val_top1'] == pytest.approx(top1, abs=1e-3)

    def test_the_entry_tells_what_was_done(self, whole):
        provenance = read_entry(whole[0] / 'tiny_glit.json').provenance
        level = {'evaluations': 6, 'supernet_steps': 4, 'retrain_steps': 2 * 4}
        assert provenance.cost == {'level1': level, 'level2': level}
        assert provenance.config == json.loads(json.dumps(tiny().decisive()))
        assert provenance.seed == 7
        size = read_json(whole[0] / 'level2/search.json')['space_size']
        assert provenance.note.startswith(
            'At two levels. First, what blocks are. Found by evolution among 16 '
        )
        assert f'Then, what they look like. Found by evolution among {size} ' in provenance.note
        assert (
            provenance.note.count('Of the best 2, with their final weights, the one that is best on val') == 2
        )

    def test_comparison_is_with_networks_of_the_whole_space(self, whole):
        entry, other = (
            read_entry(whole[0] / 'tiny_glit.json'),
            read_json(whole[0] / 'comparison/random1.json'),
        )
        assert Problem(tiny()).space.decode(tuple(other['genotype'])) != entry.arch
        assert other['macs'] == pytest.approx(entry.measured.macs, rel=0.05)

    def test_a_space_smaller_than_the_number_of_networks_to_train(self, tmp_path):
        two_level(tiny('search.evaluations=1', 'top=5', 'compare=null'), tmp_path, quiet=True)
        level = {'evaluations': 1, 'supernet_steps': 4, 'retrain_steps': 4}
        entry = read_entry(tmp_path / 'tiny_glit.json')
        assert entry.provenance.cost == {'level1': level, 'level2': level}
        assert 'with their final weights' not in entry.provenance.note


def test_the_search_never_reads_the_test_split(tmp_path, monkeypatch):
    asked = []
    original = search_data.Data.images

    def images(self, role, *args, **kwargs):
        asked.append(role)
        return original(self, role, *args, **kwargs)

    monkeypatch.setattr(search_data.Data, 'images', images)

    def stop_before_the_entry(point):
        if point == 'entry: begin':
            raise Stop

    with pytest.raises(Stop):
        two_level(tiny(), tmp_path, fault=stop_before_the_entry, quiet=True)
    assert set(asked) == {'train', 'val'}


def test_one_level_is_a_one_shot_search_of_the_whole_space(tmp_path):
    two_level(tiny('levels=1'), tmp_path / 'two_level', quiet=True)
    data = json.loads(tiny().model_dump_json(exclude={'levels'})) | {'method': 'one_shot'}
    one_shot(parse_config(data), tmp_path / 'one_shot', quiet=True)
    found, expected = (read_all(tmp_path / name) for name in ('two_level', 'one_shot'))
    assert found.keys() == expected.keys()
    assert not [name for name in found if name.startswith('level')]
    assert read_json(tmp_path / 'two_level/search.json')['space_size'] == '324'
    same = [name for name in found if name not in ('config.json', 'tiny_glit.json')]
    assert all(found[name] == expected[name] for name in same)
    entry = read_entry(tmp_path / 'two_level/tiny_glit.json')
    assert entry.provenance.note.startswith('Found by evolution among 324 architectures')


@pytest.mark.slow
def test_workers_change_nothing(whole, tmp_path):
    two_level(tiny('search.workers={processes: 1}'), tmp_path, quiet=True)
    assert read_all(tmp_path) == read_all(whole[0])


@pytest.mark.parametrize(
    ('config', 'overrides', 'message'),
    [
        (S3, ['method=two_level', 'supernet.random=1'], r"space: found family 's3', which has no two levels"),
        (TINY, ['search.limits.macs=[0, 9000]'], 'limits: found macs from 0.0 to 9,000.0'),
        (TINY, ['restrict={block1.heads: [1]}'], "found choice 'block1.heads'"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(config, overrides, message, tmp_path):
    with pytest.raises(ZooError, match=message):
        two_level(load_config(config, overrides), tmp_path / 'run', quiet=True)
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
    ('override', 'message'),
    [
        ('levels=3', r'levels: found 3, must be 1 or 2'),
        ('weights=fine_tune', "weights: found 'fine_tune'"),
    ],
)
def test_faulty_configs(override, message):
    with pytest.raises(ZooError, match=message):
        tiny(override)
