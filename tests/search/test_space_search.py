"""The search of a space: its mathematics on known landscapes, and a run that no interruption changes."""

import json
import math
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest
from interruptions import Recorder, Stop, read_all, read_log

from search import subspaces
from search.config import SpaceSearchConfig, load_config
from search.methods import METHODS, space_search
from search.problem import Problem
from search.space_evolution import (
    Dimension,
    ErrorQuality,
    Evolution,
    Line,
    et_error,
    fit_line,
    list_dimensions,
    num_steps,
    redeclare,
    t_quantile,
)
from search.spaces import load_space
from search.subspaces import evolve, move
from zoo.entry import read_entry
from zoo.errors import ZooError
from zoo.registry import config_path

TINY = Path(__file__).with_name('tiny_s3_space.yaml')
FREE = 'search.limits={}'


def tiny(*overrides: str) -> SpaceSearchConfig:
    config = load_config(TINY, overrides)
    assert isinstance(config, SpaceSearchConfig)
    return config


def line(slope: float, low: float = -math.inf, high: float = math.inf) -> Line:
    return Line(slope, 0.0, None, (low, high))


class TestErrorQuality:
    @pytest.mark.parametrize(
        ('count', 'share', 'best'), [(1000, 0.05, 50), (40, 0.05, 2), (7, 0.05, 1), (6, 1, 6)]
    )
    def test_by_the_definition(self, count, share, best):
        errors = np.random.default_rng(count).normal(20, 3, count).tolist()
        found = et_error(errors, share)
        assert found.num_top == best
        assert found.expected == pytest.approx(sum(errors) / count)
        assert found.top == pytest.approx(sum(sorted(errors)[:best]) / best)
        assert found.value == pytest.approx((found.expected + found.top) / 2)

    @pytest.mark.parametrize('count', [100, 1000])
    def test_deviation_is_that_of_repeated_draws(self, count):
        rng = np.random.default_rng(0)
        qualities = [et_error(rng.normal(20, 3, count), 0.05) for _ in range(400)]
        spread = np.std([quality.value for quality in qualities])
        assert np.mean([quality.deviation for quality in qualities]) == pytest.approx(spread, rel=0.15)


class TestLine:
    @pytest.mark.parametrize('x', [[0, 1], [0, 1, 2], [224, 256, 288], [7, 14], [0.5, 3.0, 1.0, 9.0]])
    def test_is_numpys(self, x):
        y = np.random.default_rng(len(x)).normal(20, 3, len(x))
        found = fit_line(x, [ErrorQuality(0, 0, value, 0.1, 2) for value in y], 0.95)
        slope, intercept = np.polyfit(x, y, 1)
        assert (found.slope, found.intercept) == pytest.approx((slope, intercept))
        assert found.r2 == pytest.approx(np.corrcoef(x, y)[0, 1] ** 2)
        assert sum(found.interval) / 2 == pytest.approx(found.slope)

    def test_without_scatter(self):
        flat = fit_line([0, 1, 2], [ErrorQuality(0, 0, 5.0, 0.0, 1)] * 3, 0.95)
        assert (flat.slope, flat.r2, flat.interval) == (0, None, (0, 0))

    @pytest.mark.parametrize(
        ('probability', 'degrees', 'tabulated'),
        [(0.975, 4, 2.776), (0.975, 10, 2.228), (0.95, 6, 1.943), (0.995, 20, 2.845), (0.975, 10**6, 1.960)],
    )
    def test_students_t(self, probability, degrees, tabulated):
        assert t_quantile(probability, degrees) == pytest.approx(tabulated, rel=2e-3)

    @pytest.mark.parametrize(
        ('draw', 'least'),
        [
            (lambda rng, shape: rng.normal(20, 3, shape), 0.94),
            (lambda rng, shape: 20 + np.exp(rng.normal(0, 0.6, shape)), 0.94),
            (lambda rng, shape: 20 - np.exp(rng.normal(0, 0.6, shape)), 0.91),
            (lambda rng, shape: 100 * rng.binomial(362, rng.uniform(0.03, 0.07, shape)) / 362, 0.93),
        ],
        ids=['normal', 'few much worse', 'few much better', 'counted on 362 images'],
    )
    @pytest.mark.parametrize(('choices', 'count'), [(2, 20), (3, 30), (3, 100)])
    def test_the_interval_covers_the_slope(self, draw, least, choices, count):
        """Of 95 %, in 1500 simulations; the slope is known: errors are drawn alike, then a line is added."""
        rng, hits, true = np.random.default_rng(choices * count), 0, 0.7
        for errors in draw(rng, (1500, choices, count)):
            qualities = [et_error(row + true * i, 0.05) for i, row in enumerate(errors)]
            low, high = fit_line(range(choices), qualities, 0.95).interval
            hits += low <= true <= high
        assert least <= hits / 1500 <= 0.995


class TestSteps:
    """Eq. 8: the choices become v - steps * gamma."""

    @pytest.mark.parametrize(
        ('slope', 'default', 'paper'),
        [
            (0.39, 0, 0),
            (0.41, 1, 1),
            (0.9, 2, 2),
            (-0.01, 0, -1),
            (-0.39, 0, -1),
            (-0.41, -1, -2),
            (-0.9, -2, -3),
        ],
    )
    def test_rounding(self, slope, default, paper):
        evolution = Evolution(architectures=2)
        assert num_steps(line(slope, slope, slope), evolution) == default
        assert num_steps(line(slope), evolution.model_copy(update={'paper': True})) == paper

    @pytest.mark.parametrize('interval', [(-0.1, 5), (-5, 0.1), (0, 5), (-5, 0)])
    def test_a_slope_that_may_be_zero_moves_nothing(self, interval):
        assert num_steps(line(sum(interval) / 2, *interval), Evolution(architectures=2)) == 0

    @pytest.mark.parametrize('scatter', [1.0, 3.0, 10.0])
    @pytest.mark.parametrize('values', [(7, 14), (2, 3, 4)])
    def test_a_dimension_that_does_nothing(self, values, scatter):
        """In 400 simulations each: it moves in at most 10 % by default, and upward in half by the paper."""
        rng = np.random.default_rng(0)
        default, paper = Evolution(architectures=40), Evolution(architectures=40, paper=True)
        steps: dict[str, list[int]] = {'default': [], 'paper': []}
        for errors in rng.normal(20, scatter, (400, len(values), 40)):
            qualities = [et_error(row, 0.05) for row in errors]
            ranks, sizes = (Dimension(1, 'depth', values).positions(paper) for paper in (False, True))
            steps['default'].append(num_steps(fit_line(ranks, qualities, 0.95), default))
            steps['paper'].append(num_steps(fit_line(sizes, qualities, 0.95), paper))
        moved = {name: np.mean(np.array(found) != 0) for name, found in steps.items()}
        up, down = (np.mean(np.sign(steps['paper']) == sign) for sign in (-1, 1))
        assert moved['default'] <= 0.1
        assert moved['paper'] >= 0.4
        assert up == pytest.approx(0.5, abs=0.1)
        assert up > down

    def test_the_papers_settings(self):
        evolution = Evolution(architectures=1000)
        assert (evolution.iterations, evolution.tau, evolution.top_share) == (3, 0.4, 0.05)
        steps = {'depth': 1, 'embed_dim': 64, 'window_size': 7, 'num_heads': 2, 'mlp_ratio': 0.5}
        assert evolution.steps == steps  # 2 heads are 64 channels of q, k and v

    def test_what_is_not_above_zero_is_dropped(self):
        assert Dimension(1, 'depth', (1, 2, 3)).shift(-2) == (1,)
        assert Dimension(1, 'mlp_ratio', (0.5, 1.0, 1.5)).shift(-0.5) == (0.5, 1.0)
        assert Dimension(1, 'window_size', (7, 14)).shift(-7) == (7,)
        assert Dimension(1, 'embed_dim', (288, 224)).shift(64) == (352, 288)
        with pytest.raises(ZooError, match='leaves none'):
            Dimension(1, 'depth', (1, 2)).shift(-2)

    def test_x_is_the_rank_or_as_the_paper_prints_it_the_value(self):
        assert Dimension(1, 'embed_dim', (288, 224, 256)).positions(False) == [2, 0, 1]
        assert Dimension(1, 'embed_dim', (288, 224, 256)).positions(True) == [288, 224, 256]
        assert Dimension(1, 'num_heads', (7, 8, 9)).positions(True) == [224, 256, 288]


class TestDimensions:
    def test_of_the_paper(self):
        """Four stages and five sizes, q-k-v and heads being one: D = 20 subspaces."""
        space = load_space('s3')
        assert space.declaration is not None
        found = list_dimensions(space.declaration, list(Evolution(architectures=2).steps))
        assert len(found) == 20
        assert Counter(dimension.values for dimension in found if dimension.stage == 3) == Counter(
            [(2, 3, 4), (224, 256, 288), (7, 14), (7, 8, 9), (3.0, 3.5, 4.0)]
        )
        assert math.prod(len(d.fix(space.space, d.values[0])) for d in found[:5]) == 1 * 1 * 4 * 4 * 4

    @pytest.mark.parametrize('name', ['depth', 'embed_dim', 'window_size', 'num_heads', 'mlp_ratio'])
    def test_a_subspace_has_one_value_in_all_blocks_of_the_stage(self, name):
        space = load_space('s3')
        dimension = next(d for d in list_dimensions(space.declaration, [name]) if d.stage == 2)
        part = space.restrict(dimension.fix(space.space, dimension.values[1]))
        rng = Random(0)
        for _ in range(12):
            stages = part.decode(part.space.sample(rng)).model_dump()['stages']
            for stage in stages:
                stage['depth'] = len(stage['blocks'])
            of_stage = [stages[1]] if name in stages[1] else stages[1]['blocks']
            assert {item[name] for item in of_stage} == {dimension.values[1]}
        assert part.space.size() < space.space.size()

    def test_redeclare_leaves_the_old_one(self):
        before = load_space('s3').declaration
        after = redeclare(before, {(2, 'depth'): (3, 4)})
        assert after['stages'][1]['depth'] == [3, 4]
        assert before['stages'][1]['depth'] == before['stages'][0]['depth'] == [2, 3, 4]
        assert load_space(after).space.size() < load_space('s3').space.size()


class TestLandscape:
    """Evolution with errors that are a known function of the architecture, and noise."""

    CONFIG = (
        FREE,
        'space.stages=[{embed_dim: [16, 24, 32], depth: [2, 3, 4], window_size: [2, 4], num_heads: [2, 3], '
        'mlp_ratio: [2, 3, 4]}]',
        'evolve={architectures: 40, steps: {depth: 1, embed_dim: 8, mlp_ratio: 0.5}}',
    )

    def run(self, monkeypatch, seed: int, *overrides: str) -> dict[str, dict]:
        problem = Problem(tiny(*self.CONFIG, f'seed={seed}', *overrides))

        def error_of(genotype, rng):
            arch = problem.space.decode(genotype).stages[0]
            return 30 - 1.5 * len(arch.blocks) + arch.embed_dim / 8 + rng.normal(0, 1)

        def evaluate(problem, run, networks):
            rng = np.random.default_rng(seed)
            return [error_of(genotype, rng) for genotype in networks]

        monkeypatch.setattr(subspaces, 'evaluate', evaluate)
        found = json.loads(evolve(problem, problem.space.declaration, None))
        return {dimension['name']: dimension for dimension in found['dimensions']}

    def test_what_matters_moves_the_right_way_and_what_does_nothing_stays(self, monkeypatch):
        """The MLP ratio does nothing here."""
        moved: Counter = Counter()
        for seed in range(16):
            default = self.run(monkeypatch, seed)
            paper = self.run(monkeypatch, seed, 'evolve.paper=true')
            assert default['depth']['next'][0] > 2
            assert default['embed_dim']['next'][-1] < 32
            moved['default'] += default['mlp_ratio']['decision'] == 'moved'
            moved['paper'] += paper['mlp_ratio']['decision'] == 'moved'
            moved['paper up'] += paper['mlp_ratio']['next'] == [2.5, 3.5, 4.5]
        assert moved['default'] <= 2
        assert moved['paper up'] == moved['paper']
        assert 3 <= moved['paper'] <= 13

    def test_the_papers_slopes_are_per_unit(self, monkeypatch):
        default, paper = self.run(monkeypatch, 0), self.run(monkeypatch, 0, 'evolve.paper=true')
        for name, unit in (('depth', 1), ('embed_dim', 8), ('mlp_ratio', 1)):
            assert paper[name]['slope'] * unit == pytest.approx(default[name]['slope'])
        assert paper['embed_dim']['next'] == [16, 24, 32]  # floor(0.125 / 0.4) = 0: widths never shrink


class TestMove:
    def lines(self, problem: Problem, **slopes: float) -> dict[Dimension, Line]:
        dimensions = list_dimensions(problem.space.declaration, list(problem.config.evolve.steps))
        return {
            d: line(slopes.get(d.name, 0.0), slopes.get(d.name, 0.0), slopes.get(d.name, 0.0))
            for d in dimensions
        }

    def move(self, *overrides: str, **slopes: float) -> tuple[dict, dict[str, str]]:
        problem = Problem(tiny(*overrides))
        lines = self.lines(problem, **slopes)
        space, reasons = move(problem, problem.space.declaration, lines, problem.config.evolve)
        return space['stages'][0], {dimension.name: reason for dimension, reason in reasons.items()}

    def test_moves(self):
        stage, reasons = self.move(FREE, depth=-0.25, embed_dim=0.15, mlp_ratio=0.05)
        assert (stage['depth'], stage['embed_dim'], stage['mlp_ratio']) == ([3, 4], [8], [1.0, 2.0])
        assert reasons == {'mlp_ratio': 'the interval contains 0'} or 'tau' in reasons['mlp_ratio']

    def test_an_emptied_list_stays(self):
        stage, reasons = self.move(FREE, depth=0.5, mlp_ratio=-0.1)
        assert stage['depth'] == [1, 2]
        assert stage['mlp_ratio'] == [1.5, 2.5]
        assert 'leaves none of 1, 2 above zero' in reasons['depth']

    def test_an_invalid_space_is_not_moved_to(self):
        stage, reasons = self.move(FREE, depth=-40.0, mlp_ratio=-0.1)
        assert (stage['depth'], stage['mlp_ratio']) == ([1, 2], [1.5, 2.5])
        assert 'depth' in reasons['depth']

    def test_limits_stop_the_weaker_move(self):
        """Ten blocks more fit below the limit, and so do wider ones, but not both."""
        limits = 'search.limits.macs=[0, 300_000]'
        for slopes in ({'depth': -1.0, 'embed_dim': -0.9}, {'depth': -0.9, 'embed_dim': -1.0}):
            stage, reasons = self.move(limits, 'evolve.steps={depth: 1, embed_dim: 2}', **slopes)
            strong, weak = sorted(slopes, key=slopes.get)
            assert stage[strong][0] > 8
            assert stage[weak] == Problem(tiny()).space.declaration['stages'][0][weak]
            assert 'no architecture of space' in reasons[weak]

    def test_one_value_has_no_line(self):
        problem = Problem(tiny('evolve.steps={num_heads: 2}'))
        space, reasons = move(problem, problem.space.declaration, {}, problem.config.evolve)
        assert space == problem.space.declaration
        assert set(reasons.values()) == {'one value'}


def test_values_without_networks_within_the_limits_are_left_out(monkeypatch):
    problem = Problem(tiny('search.limits.macs=[0, 40_000]', 'evolve.steps={embed_dim: 8, mlp_ratio: 0.5}'))
    smallest = {
        dim: min(
            problem.cost(g).macs
            for g in problem.space.space.enumerate()
            if problem.space.decode(g).stages[0].embed_dim == dim
        )
        for dim in (8, 16)
    }
    assert smallest[8] < 40_000 < smallest[16]
    monkeypatch.setattr(subspaces, 'evaluate', lambda problem, run, networks: [50.0] * len(networks))
    found = json.loads(evolve(problem, problem.space.declaration, None))
    assert [part['n'] for part in found['subspaces']] == [4, 0, 4, 4]
    assert found['dimensions'][0]['decision'] == 'fewer than two values within the limits'


def test_drawn_networks_are_within_the_limits_of_their_subspace_and_evaluated_once(monkeypatch):
    problem = Problem(tiny())
    asked = []

    def evaluate(problem, run, networks):
        asked.extend(networks)
        return [float(problem.cost(genotype).macs) for genotype in networks]

    monkeypatch.setattr(subspaces, 'evaluate', evaluate)
    found = json.loads(evolve(problem, problem.space.declaration, None))
    archs = [problem.space.decode(genotype) for genotype in asked]
    assert len(set(archs)) == len(archs) == found['networks'] < sum(part['n'] for part in found['subspaces'])
    assert all(20_000 <= problem.cost(genotype).macs <= 200_000 for genotype in asked)
    for part in found['subspaces']:
        costs = {
            float(problem.cost(g).macs)
            for g, arch in zip(asked, archs, strict=True)
            for stage in arch.stages
            if part['value'] in (stage.embed_dim, len(stage.blocks)) or part['name'] == 'mlp_ratio'
        }
        assert set(part['errors']) <= costs


@pytest.mark.parametrize(
    ('overrides', 'message'),
    [
        (['space=glit', FREE], "space: found family 'glit', whose spaces cannot move"),
        (
            ['evolve.steps={depth: 1, kernel_size: 2}'],
            "evolve.steps: found 'kernel_size', allowed are embed_dim",
        ),
        (['evolve.steps={depth: 0.5}'], 'evolve.steps: depth: found 0.5, a whole number is needed'),
        (['evolve.steps={}'], 'steps: found none'),
        (['evolve.steps={depth: -1}'], r'evolve\.steps\.depth'),
        (['evolve.architectures=1'], r'evolve\.architectures: found 1'),
        (['evolve.confidence=1'], r'evolve\.confidence'),
        (['evolve=null'], r'\$\.evolve'),
        (['restrict={stage1.depth: [2]}'], 'restrict: found choices, but their values move'),
        (
            ['search.evaluator={kind: proxy, recipe: {epochs: 1, batch_size: 64, lr: 0.1}}', 'supernet=null'],
            'evaluator.kind is proxy, method space_search needs supernet',
        ),
        (
            ['search.limits.latency={file: x, seconds: [0, 1]}'],
            'limits.latency: a space that moves was not measured',
        ),
        (['search.limits.macs=[1, 2]'], 'limits: found macs from 1.0 to 2.0'),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(overrides, message, tmp_path):
    with pytest.raises(ZooError, match=message):
        space_search(tiny(*overrides), tmp_path / 'run', quiet=True)
    assert not (tmp_path / 'run').exists()


# ---- whole runs


@pytest.fixture(scope='module')
def whole(tmp_path_factory) -> tuple[Path, list[str]]:
    """An uninterrupted run and the points that it passed."""
    folder, recorder = tmp_path_factory.mktemp('whole'), Recorder()
    space_search(tiny('checkpoint_seconds=0'), folder, fault=recorder, quiet=True)
    return folder, recorder.points


class TestRun:
    def test_leaves_its_files(self, whole):
        folder, points = whole
        for name in ('iteration1', 'iteration2'):
            for phase in ('space', 'supernet', 'errors'):
                for kind in ('begin', 'computed', 'written', 'done'):
                    assert points.count(f'{name}/{phase}: {kind}') == 1
            found = json.loads((folder / name / 'errors.json').read_text())
            assert points.count(f'{name}/errors: network') == found['networks']
            assert points.count(f'{name}/errors: saved') == found['networks'] - 1
            assert (folder / name / 'supernet.safetensors').exists()
        assert (folder / 'space_evolution.png').read_bytes().startswith(b'\x89PNG')

    def test_each_space_is_the_next_of_the_one_before(self, whole):
        folder = whole[0]
        spaces = [
            json.loads((folder / name / 'space.json').read_text())
            for name in ('iteration1', 'iteration2', '.')
        ]
        assert spaces[0] == Problem(tiny()).space.declaration
        for before, after, name in zip(spaces, spaces[1:], ('iteration1', 'iteration2'), strict=False):
            found = json.loads((folder / name / 'errors.json').read_text())
            assert found['next'] == after
            for dimension in found['dimensions']:
                assert dimension['values'] == before['stages'][0][dimension['name']]
                assert dimension['next'] == after['stages'][0][dimension['name']]
                assert (dimension['values'] != dimension['next']) == (dimension['decision'] == 'moved')
        assert spaces[0] != spaces[2]

    def test_errors_are_the_supernets(self, whole):
        """By hand: the supernet's own files, networks one by one, accuracy by arg-max."""
        from search.candidates import load_supernet
        from search.seeding import derive_seed

        config = tiny()
        config = config.model_copy(update={'seed': derive_seed(config.seed, 'iteration1')})
        problem = Problem(config)
        supernet = load_supernet(problem, (whole[0] / 'iteration1/supernet.safetensors').read_bytes())
        images, labels = problem.data.images('val').tensors()
        found = json.loads((whole[0] / 'iteration1/errors.json').read_text())
        for part in found['subspaces']:
            dimension = Dimension(
                part['stage'], part['name'], problem.space.declaration['stages'][0][part['name']]
            )
            drawn = subspaces.draw(problem, dimension, part['value'])
            errors = []
            for genotype in drawn:
                logits = supernet(problem.space.decode(genotype), images)
                errors.append(100 * (logits.argmax(1) != labels).float().mean().item())
            assert errors == pytest.approx(part['errors'], abs=0.6)  # bfloat16 can turn over single images
            assert part['e_error'] == pytest.approx(sum(part['errors']) / 4)
            assert part['t_error'] == pytest.approx(min(part['errors']))

    def test_the_result_is_of_the_last_space(self, whole):
        folder = whole[0]
        space = json.loads((folder / 'space.json').read_text())
        stage = space['stages'][0]
        final = Problem(replace_space(tiny(), space))
        candidates = json.loads((folder / 'search.json').read_text())['candidates']
        assert len(candidates) == 6
        entry = read_entry(folder / 'tiny_s3_space.json')
        for arch in (*(final.space.decode(tuple(c['genotype'])) for c in candidates), entry.arch):
            assert arch.stages[0].embed_dim in stage['embed_dim']
            assert len(arch.stages[0].blocks) in stage['depth']
            assert {block.mlp_ratio for block in arch.stages[0].blocks} <= set(stage['mlp_ratio'])
        assert all(20_000 <= candidate['macs'] <= 200_000 for candidate in candidates)

    def test_entry_tells_what_was_done(self, whole):
        folder = whole[0]
        provenance = read_entry(folder / 'tiny_s3_space.json').provenance
        assert provenance.config == json.loads(json.dumps(tiny().decisive()))
        assert provenance.seed == 3
        assert provenance.space == json.loads((folder / 'space.json').read_text())
        networks = [
            json.loads((folder / name / 'errors.json').read_text())['networks']
            for name in ('iteration1', 'iteration2')
        ]
        assert provenance.cost == {
            'evaluations': 6,
            'retrain_steps': 4,
            'space_evaluations': sum(networks),
            'space_supernet_steps': 16,
            'supernet_steps': 8,
        }
        assert 'in 2 iterations' in provenance.note

    @pytest.mark.parametrize(('points_each', 'seconds', 'least'), [(23, 0, 8), (41, 1e6, 3)])
    def test_interrupted_again_and_again_it_ends_in_the_same_bytes(
        self, whole, tmp_path, points_each, seconds, least
    ):
        """With a checkpoint after every step and network, and with none but at the end of a phase."""
        pieces = 0
        for pieces in range(1, 40):  # noqa: B007
            try:
                config = tiny(f'checkpoint_seconds={seconds}')
                space_search(config, tmp_path, fault=Recorder(points_each - 1), quiet=True)
            except Stop:
                continue
            break
        assert pieces >= least
        assert read_all(tmp_path) == read_all(whole[0])
        assert read_log(tmp_path) == read_log(whole[0])

    @pytest.mark.parametrize(
        'point',
        [
            'iteration1/errors: network',
            'iteration2/errors: saved',
            'iteration2/errors: written',
            'figure: written',
        ],
    )
    def test_interrupted_at_a_point_it_ends_in_the_same_bytes(self, whole, tmp_path, point):
        places = [place for place, name in enumerate(whole[1]) if name == point]
        stop = Recorder(places[len(places) // 2])
        with pytest.raises(Stop):
            space_search(tiny('checkpoint_seconds=0'), tmp_path, fault=stop, quiet=True)
        resumed = Recorder()
        space_search(tiny('checkpoint_seconds=0'), tmp_path, fault=resumed, quiet=True)
        assert read_all(tmp_path) == read_all(whole[0])
        assert read_log(tmp_path) == read_log(whole[0])
        assert (tmp_path / 'space_evolution.png').read_bytes() == (
            whole[0] / 'space_evolution.png'
        ).read_bytes()
        if point == 'iteration2/errors: saved':
            assert (
                0
                < resumed.points.count('iteration2/errors: network')
                < whole[1].count('iteration2/errors: network')
            )

    def test_a_finished_run_does_nothing_again(self, whole):
        recorder = Recorder()
        space_search(tiny(), whole[0], fault=recorder, quiet=True)
        assert recorder.points == []

    def test_workers_change_nothing(self, whole, tmp_path):
        def stop(point):
            if point == 'iteration1/errors: done':
                raise Stop

        with pytest.raises(Stop):
            space_search(tiny('search.workers={processes: 2}'), tmp_path, fault=stop, quiet=True)
        one, other = ((folder / 'iteration1/errors.json').read_bytes() for folder in (tmp_path, whole[0]))
        assert one == other

    def test_kill_9(self, whole, tmp_path):
        kill_and_resume([str(TINY), 'checkpoint_seconds=0'], tmp_path, 'iteration2/errors')
        assert read_all(tmp_path) == read_all(whole[0])
        assert read_log(tmp_path) == read_log(whole[0])


def replace_space(config: SpaceSearchConfig, space: dict) -> SpaceSearchConfig:
    return config.model_copy(update={'space': space})


def kill_and_resume(args: list[str], folder: Path, phase: str) -> None:
    """Runs through the command line, is killed once the log speaks of a phase, and runs again."""
    command = [sys.executable, '-m', 'search', 'run', args[0], '--out', str(folder), *args[1:]]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    log = folder / 'events.jsonl'
    while not (log.exists() and f'"{phase}"' in log.read_text()):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / 'search.json').exists()
    subprocess.run(command, check=True, capture_output=True)


def test_configs_of_the_paper():
    config = load_config(config_path('search/s3_imagenet.yaml'))
    assert config.method == 'space_search' in METHODS
    assert (config.evolve.iterations, config.evolve.tau, config.evolve.top_share) == (3, 0.4, 0.05)
    assert config.evolve.steps == Evolution(architectures=2).steps
    assert config.space == 's3'
