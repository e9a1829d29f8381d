"""Plans: as many units and bytes as a real run has, whatever is searched and how; times only add up."""

import itertools
import json
import re
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from timm.optim import create_optimizer_v2

from search.config import RunConfig, load_config
from search.growth import UNITS, Memory, Sample, Seconds, extrapolate, extrapolate_memory, grow
from search.methods import METHODS, one_shot
from search.phases import train_supernet
from search.plan import Plan
from search.plan_report import describe_plan
from search.planner import make_plan
from search.rehearsal import Fake, Rehearsal, Stopwatch, saved_bytes
from search.run import Abandoned
from zoo.console import main
from zoo.errors import ZooError

TINY = Path(__file__).with_name('tiny.yaml')
RECIPE = '{epochs: 3, batch_size: 64, lr: 0.002}'
TRIONET = """{family: trionet, out_channels: [8, 16, 16, 16], stages: [
    {depth: [1], local: null, axial: null},
    {depth: [1], conv: {expansion: [0.5], kernel_size: [3]}, local: null, axial: {expansion: [0.5, 1.0],
     qk_rate: [1.0], v_rate: [1.0], num_heads: [2]}},
    {depth: [1], conv: {expansion: [0.5], kernel_size: [3]}, local: null, axial: null},
    {depth: [1], conv: {expansion: [0.5], kernel_size: [3]}, local: null, axial: null}]}"""
TRIONET_INPUT = '{size: [1, 32, 32], mean: [0.3], std: [0.35]}'


SMALL = (
    'supernet.recipe.epochs=1',
    'supernet.recipe.batch_size=64',
    'retrain.batch_size=64',
    'retrain.epochs=1',
    'search.batch_size=64',
)


NO_SUPERNET = ('compare=null', 'supernet=null')


def tiny(*overrides: str) -> RunConfig:
    """Of 16 steps a training."""
    return load_config(TINY, [*SMALL, *overrides])


def check(plan: Plan) -> dict[str, int]:
    """What holds for all plans; gives the units by phase."""
    for phase in plan.phases:
        assert 0 <= phase.seconds.low <= phase.seconds.median <= phase.seconds.high
        assert phase.seconds.median > 0
        assert phase.hours() == pytest.approx(phase.units * phase.seconds.median / 3600)
        assert phase.hours(5) == pytest.approx(phase.hours() / (5 if phase.shared else 1))
    for devices in (1, 5):
        assert plan.total_hours(devices) == pytest.approx(sum(phase.hours(devices) for phase in plan.phases))
    assert all(peak.host > 50e6 for peak in plan.memory.values())
    assert all(size > 0 for size in plan.disk.values())
    return {phase.name: phase.units for phase in plan.phases}


OVERRIDES = ('search.limits.params=[3000, 3250]', 'search.give_up=false', 'checkpoint_seconds=0')


@pytest.fixture(scope='module')
def run(tmp_path_factory) -> tuple[Path, list[str], int]:
    """Its folder, the points it passed, and the size of its largest checkpoint."""
    folder, points, checkpoints = tmp_path_factory.mktemp('run'), [], []

    def note(point: str) -> None:
        points.append(point)
        if point.endswith(': saved'):
            checkpoints.append((folder / 'checkpoint.pt').stat().st_size)

    one_shot(tiny(*OVERRIDES), folder, fault=note, quiet=True)
    return folder, points, max(checkpoints)


@pytest.fixture(scope='module')
def plan() -> Plan:
    return make_plan(tiny(*OVERRIDES), seconds=0.2)


class TestAgainstARun:
    """Networks of nearly equal params, so that any of them says how large the result's file is."""

    def test_units(self, run, plan):
        units = check(plan)
        points = run[1]
        assert units.pop('supernet training') == points.count('supernet: step') == 16
        assert units.pop('weights: retrain') == points.count('retrain: step') == 16
        compared = sum(points.count(f'{phase}: step') for phase in ('again1', 'random1', 'random2'))
        assert units.pop('comparison: 3 trainings') == compared == 48
        events = [json.loads(line) for line in (run[0] / 'events.jsonl').read_text().splitlines()]
        searched = [event['step'] for event in events if event['phase'] == 'search']
        assert units.pop('search: supernet') == len(searched) == 10
        drawn = [event['step'] for event in events if event['phase'] == 'random']
        assert units.pop('random baseline') == len(drawn) == 6
        assert units.pop('loading val') == 362
        assert units.pop('final evaluation') == (1 + 3) * (362 + 364)
        assert not units

    def test_disk(self, run, plan):
        folder, _, checkpoint = run
        board = sum(file.stat().st_size for file in (folder / 'tensorboard').iterdir())
        found = {file.name: file.stat().st_size for file in folder.iterdir() if file.is_file()}
        for name in ('supernet.safetensors', 'tiny.safetensors', 'search.json', 'random.json'):
            assert plan.disk[name] == pytest.approx(found[name], rel=0.1), name
        log = plan.disk['events.jsonl and tensorboard']
        assert log == pytest.approx(found['events.jsonl'] + board, rel=0.1)
        assert plan.disk['checkpoint.pt'] == plan.disk['checkpoint.pt, the next one']
        assert plan.disk['checkpoint.pt'] == pytest.approx(checkpoint, rel=0.02)

    def test_memory_is_of_the_steps_and_of_the_search(self, plan):
        assert list(plan.memory) == [
            'supernet training, 64 images a step',
            'search, 64 images at once, all 362 kept',
            'retraining, 64 images a step',
            'final evaluation, 64 images at once',
        ]


class TestKinds:
    def test_proxy(self):
        evaluator = f'search.evaluator={{kind: proxy, recipe: {RECIPE}}}'
        plan = make_plan(tiny(*NO_SUPERNET, evaluator), seconds=0.2)
        assert check(plan) == {
            'loading val': 362,
            'search: proxy': 10,
            'random baseline': 6,
            'weights: retrain': 16,
            'final evaluation': 726,
        }
        seconds = {phase.name: phase.seconds.median for phase in plan.phases}
        assert seconds['search: proxy'] > 3 * seconds['weights: retrain']  # 48 steps against 1
        assert 'supernet.safetensors' not in plan.disk

    def test_table(self, tmp_path):
        file = tmp_path / 'table.jsonl'
        config = tiny(
            *NO_SUPERNET,
            f'search.evaluator={{kind: table, file: {file}}}',
            'search.evaluations=1000',
        )
        space = Rehearsal(config).space.space
        rows = (
            {'genotype': genotype, 'metrics': {'top1': 1.0 + sum(genotype)}} for genotype in space.enumerate()
        )
        file.write_text(''.join(json.dumps(row) + '\n' for row in rows))
        plan = make_plan(config, seconds=0.2)
        units = {'search: table': space.size(), 'random baseline': space.size() - 4}
        units |= {'weights: retrain': 16, 'final evaluation': 726}
        assert check(plan) == units
        assert space.size() < 1000

    def test_batch_norms_are_calibrated(self):
        overrides = (f'space={TRIONET}', f'input={TRIONET_INPUT}', 'weights=inherit', 'compare=null')
        more = ('search.limits={}', 'search.calibration_images=300', 'search.evaluations=2')
        plan = make_plan(tiny(*overrides, *more), seconds=0.2)
        assert check(plan) == {
            'supernet training': 16,
            'loading val': 362,
            'search: supernet': 2,
            'weights: inherit': 1,
            'final evaluation': 726,
        }
        assert any('calibrated on 320 images' in note for note in plan.notes)
        search, inherit = (plan.phases[i].seconds.median for i in (2, 3))
        assert search > inherit

    def test_inherited_weights_are_compared_with_all_seeds(self):
        units = check(make_plan(tiny('weights=inherit'), seconds=0.1))
        assert units['weights: inherit'] == 1
        assert units['comparison: 4 trainings'] == 4 * 16
        assert units['final evaluation'] == 5 * 726


FAKE = Fake(2000, 100, 300, num_classes=7)


@pytest.fixture(scope='module')
def fake_plan() -> Plan:
    overrides = ('data.name=folder', 'input.size=[3, 16, 16]', 'compare=null', 'data.num_workers=1')
    channels = ('input.mean=[0.5, 0.5, 0.5]', 'input.std=[0.5, 0.5, 0.5]', 'search.limits={}')
    return make_plan(tiny(*overrides, *channels), devices=4, fake=FAKE, seconds=0.2)


class TestFakeImages:
    def test_units_are_those_of_the_stated_sizes(self, fake_plan):
        assert check(fake_plan) == {
            'supernet training': 2000 // 64,
            'loading val': 100,
            'search: supernet': 10,
            'random baseline': 6,
            'weights: retrain': 2000 // 64,
            'final evaluation': 400,
        }

    def test_says_what_was_not_measured(self, fake_plan):
        assert any('made up' in note and 'reading and decoding was not' in note for note in fake_plan.notes)
        assert any(
            re.match('supernet training: loading a batch by another process', note)
            for note in fake_plan.notes
        )

    def test_devices_share_steps_and_candidates(self, fake_plan):
        shared = {phase.name for phase in fake_plan.phases if phase.shared}
        assert shared == {'supernet training', 'search: supernet', 'random baseline', 'weights: retrain'}
        assert 'supernet training, 16 images a step' in fake_plan.memory
        assert any(note.startswith('For 4 devices, ideal scaling is assumed') for note in fake_plan.notes)

    def test_report(self, fake_plan):
        lines = describe_plan(fake_plan)
        rows = lines[1 : lines.index('')]
        assert rows[0].split() == ['phase', 'units', 'each', 'middle', 'half', 'hours', 'on', '4']
        assert len({len(row) for row in rows}) == 1
        assert rows[1].startswith('  supernet training')
        assert ' 31  steps ' in rows[1]
        assert [row.split()[0] for row in rows[-2:]] == ['final', 'total']


class TestGrowth:
    @staticmethod
    def measure(sizes: list[int], fixed: float, each: float, memory: float = 0.0):
        def at(size: int) -> Sample:
            sizes.append(size)
            return Sample(size, [fixed + each * size] * 3, Memory(1000 + memory * size, 0))

        return at

    def test_ends_with_the_whole_batch(self):
        sizes: list[int] = []
        samples = grow(self.measure(sizes, 1e-3, 1e-6), 1000, 1.0)
        assert sizes == [2, 16, 1000]
        assert extrapolate(samples, 1000).median == pytest.approx(2e-3)

    def test_stops_in_time_and_follows_the_line(self):
        sizes: list[int] = []
        samples = grow(self.measure(sizes, 0.1, 0.1, 5.0), 10_000, 10.0)
        assert sizes[-1] < 100
        assert all(b >= 2 * a for a, b in itertools.pairwise(sizes))
        assert extrapolate(samples, 10_000).median == pytest.approx(0.1 + 1000, rel=1e-6)
        assert extrapolate_memory(samples, 10_000).host == pytest.approx(51_000)

    def test_two_sizes_at_least(self):
        sizes: list[int] = []
        grow(self.measure(sizes, 100.0, 1.0), 64, 1.0)
        assert sizes == [2, 4]

    @pytest.mark.parametrize('full', [1, 2])
    def test_small_batches(self, full):
        sizes: list[int] = []
        grow(self.measure(sizes, 1.0, 1.0), full, 1.0)
        assert sizes == [full]

    def test_stops_before_memory_ends(self):
        sizes: list[int] = []
        grow(self.measure(sizes, 1e-6, 1e-9, memory=1e12), 1 << 20, 1.0)
        assert sizes == [2, 16]

    def test_stops_where_memory_ends(self):
        def measure(size: int) -> Sample:
            if size > limit:
                raise torch.OutOfMemoryError('CUDA out of memory')
            return Sample(size, [1e-6], Memory(0, 0))

        limit = 100
        assert [sample.batch_size for sample in grow(measure, 1000, 1.0)] == [2, 16]
        limit = 1
        with pytest.raises(ZooError, match='A batch of 2 images needs more memory'):
            grow(measure, 1000, 1.0)

    def test_noise_can_at_most_halve_the_slope(self):
        samples = [Sample(2, [1.0], Memory(0, 0)), Sample(4, [1.0], Memory(0, 0))]
        assert extrapolate(samples, 104).median == pytest.approx(1.0 + 100 * 0.125)
        steep = [Sample(2, [0.1], Memory(0, 0)), Sample(4, [1.0], Memory(0, 0))]
        assert extrapolate(steep, 104).median == pytest.approx(26.0)

    def test_quartiles(self):
        assert Seconds.of([4.0, 1.0, 2.0, 3.0, 5.0]) == (3.0, 2.0, 4.0)
        assert Seconds.of([2.0]) == (2.0, 2.0, 2.0)


class TestRehearsal:
    def test_steps_are_timed_and_abandoned(self):
        problem, watch = Rehearsal(tiny()), Stopwatch(8, 100.0)
        with pytest.raises(Abandoned):
            train_supernet(problem, watch)
        assert len(watch.seconds) == len(watch.waits) == UNITS
        assert all(0 < wait < step for wait, step in zip(watch.waits, watch.seconds, strict=True))

    def test_checkpoint_has_the_state_of_parameters_not_yet_trained(self):
        """With the smallest network alone many stored tensors have no gradient, as yet."""
        alone = ('supernet.largest=false', 'supernet.random=0')
        problem, watch = Rehearsal(tiny(*alone)), Stopwatch(8, 0.1)
        with suppress(Abandoned):
            train_supernet(problem, watch)
        model = problem.supernet
        optimizer = create_optimizer_v2(model, 'adamw', lr=1e-3, weight_decay=0.05)
        assert len(watch.with_state) < len(list(model.parameters()))
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        state = {'model': model.state_dict(), 'optimizer': optimizer.state_dict()}
        assert watch.checkpoint == pytest.approx(saved_bytes(state), rel=0.1)

    def test_size_is_that_of_the_file(self, tmp_path):
        state = {'model': {'weight': torch.zeros(1000, 7)}, 'step': 3}
        torch.save(state, tmp_path / 'file')
        assert saved_bytes(state) == pytest.approx((tmp_path / 'file').stat().st_size, rel=0.02)


class TestCommand:
    def test_prints_a_plan_and_writes_nothing(self, tmp_path, capsys, monkeypatch):
        monkeypatch.chdir(tmp_path)
        overrides = [*SMALL, 'compare=null', 'weights=inherit']
        args = ['search', 'plan', str(TINY), '--seconds', '1', '--devices', '2', *overrides]
        assert main(args) == 0
        out = capsys.readouterr().out
        for text in ('supernet training', 'search: supernet', 'weights: inherit', 'total', 'checkpoint.pt'):
            assert text in out
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ('args', 'message'),
        [
            (['data.name=folder'], '--images and --classes plan without the data'),
            (['--devices', '3'], 'found 64, 3 processes cannot share it equally'),
            (['search.limits.macs=[0, 1]'], 'macs'),
            (['--images', '50', '50', '50', '--classes', '5'], 'at most the 50 training images'),
            (['--classes', '3'], '--images and --classes go together'),
        ],
    )
    def test_mistakes_are_one_sentence(self, args, message, capsys):
        assert main(['search', 'plan', str(TINY), *SMALL, *args]) == 1
        error = capsys.readouterr().err
        assert error.count('\n') == 1
        assert message in error

    @pytest.mark.parametrize('args', [['--images', '1', '2'], ['--devices', '0'], ['--speed', '3'], ['fast']])
    def test_usage(self, args, capsys):
        assert main(['search', 'plan', str(TINY), *args]) == 2
        assert 'usage' in capsys.readouterr().err


class TestMethods:
    """Units are those of a run (see each method's tests for its phases)."""

    def plan(self, name: str, *overrides: str) -> dict[str, int]:
        plan = make_plan(load_config(TINY.with_name(f'{name}.yaml'), overrides), seconds=0.1)
        lines = describe_plan(plan)
        for phase in plan.phases:
            assert any(line.strip().startswith(phase.name) for line in lines)
        self.files = {name for name in plan.disk if name.endswith('.safetensors')}
        return check(plan)

    def count(self, name: str, folder: Path, *overrides: str) -> Counter:
        points: Counter = Counter()
        config = load_config(TINY.with_name(f'{name}.yaml'), overrides)
        METHODS[config.method](config, folder, fault=lambda point: points.update([point]), quiet=True)
        assert self.files == {str(file.relative_to(folder)) for file in folder.rglob('*.safetensors')}
        return points

    def test_two_level(self, tmp_path):
        units = self.plan('tiny_glit')
        points = self.count('tiny_glit', tmp_path)
        for level in ('level1', 'level2'):
            assert units.pop(f'{level}: supernet training') == points[f'{level}/supernet: step']
            assert units.pop(f'{level}: search: supernet') == points[f'{level}/search: candidate']
            assert units.pop(f'{level}: random baseline') == points[f'{level}/random: candidate']
            trained = [key for key in units if key.startswith(f'{level}: weights: retrain')]
            steps = sum(
                number
                for point, number in points.items()
                if point.startswith(f'{level}/top') and point.endswith(': step')
            )
            assert [units.pop(key) for key in trained] == [steps]
            assert units.pop(f'{level}: loading val') == 362
        assert all(key.startswith(('final', 'comparison')) for key in units)

    def test_space_search(self, tmp_path):
        units = self.plan('tiny_s3_space')
        points = self.count('tiny_s3_space', tmp_path)
        supernets = sum(n for point, n in points.items() if point.endswith('supernet: step'))
        assert units['supernet training'] == supernets
        networks = sum(n for point, n in points.items() if point.endswith('errors: network'))
        assert units['errors of subspaces, at most'] >= networks > 0
        assert units['search: supernet'] == points['search: candidate']

    def test_differentiable(self, tmp_path):
        units = self.plan('tiny_carnet')
        points = self.count('tiny_carnet', tmp_path)
        for name, phase in (('self-supervised', 'self_supervised'), ('target', 'target')):
            steps = sum(n for point, n in points.items() if point.endswith(f'{phase}: step'))
            assert units[f'search: {name}'] == steps > 0
        trained = sum(n for point, n in points.items() if 'result' in point and point.endswith(': step'))
        assert sum(n for key, n in units.items() if key.startswith('weights: retrain')) == trained > 0

    def test_proxy(self, tmp_path):
        units = self.plan('tiny_uninet')
        points = self.count('tiny_uninet', tmp_path)
        assert units['search: proxy'] == points['search: candidate']
        trained = sum(
            n for point, n in points.items() if point.startswith('top') and point.endswith(': step')
        )
        assert sum(n for key, n in units.items() if key.startswith('weights: retrain')) == trained > 0

    def test_noise_stands_in_for_the_data_of_the_result_alone(self):
        config = load_config(
            TINY.with_name('tiny_carnet.yaml'), ['search.self_supervised.data={name: folder}']
        )
        with pytest.raises(ZooError, match=r'^search\.self_supervised\.data\.root: found nothing'):
            make_plan(config, fake=FAKE)
