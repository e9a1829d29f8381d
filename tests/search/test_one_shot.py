"""A whole search in seconds: what it writes, what it reads, and that no interruption changes a byte of it."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from interruptions import Recorder, Stop, read_all, read_log
from PIL import Image
from safetensors import safe_open
from sklearn import datasets

import zoo
from search import data as search_data
from search import emit
from search.candidates import load_supernet
from search.config import RunConfig, load_config
from search.evaluate import SupernetEvaluator
from search.methods import one_shot
from search.phases import draw_near
from search.problem import Problem
from zoo.entry import read_entry
from zoo.errors import ZooError

TINY = Path(__file__).with_name('tiny.yaml')
EMITTED = ('tiny.json', 'tiny.safetensors')


def tiny(*overrides: str) -> RunConfig:
    return load_config(TINY, overrides)


@pytest.fixture(scope='module')
def whole(tmp_path_factory) -> tuple[Path, list[str]]:
    """An uninterrupted run and the points that it passed."""
    folder, recorder = tmp_path_factory.mktemp('whole'), Recorder()
    one_shot(tiny('checkpoint_seconds=0'), folder, fault=recorder, quiet=True)
    return folder, recorder.points


def test_every_phase_has_points(whole):
    points = whole[1]
    for phase in ('supernet', 'search', 'weights', 'entry', 'again1', 'random1', 'random2'):
        for kind in ('begin', 'computed', 'written', 'done'):
            assert points.count(f'{phase}: {kind}') == 1
    assert points.count('supernet: step') == points.count('retrain: step') == 8
    assert points.count('search: candidate') == 10
    assert points.count('search: saved') == 9


def run_in_pieces(folder: Path, points_each: int, seconds: float) -> int:
    """Runs until it is done, stopped after every so many points; gives the number of pieces."""
    for piece in range(1, 100):
        torch.manual_seed(piece)
        try:
            one_shot(
                tiny(f'checkpoint_seconds={seconds}'), folder, fault=Recorder(points_each - 1), quiet=True
            )
        except Stop:
            continue
        return piece
    raise AssertionError('no progress in 100 pieces')


@pytest.mark.parametrize(('points_each', 'seconds', 'least'), [(5, 0, 40), (17, 1e6, 6)])
def test_interrupted_again_and_again_it_ends_in_the_same_bytes(whole, tmp_path, points_each, seconds, least):
    """With a checkpoint after every step, and with none but at the end of a phase."""
    assert run_in_pieces(tmp_path, points_each, seconds) >= least
    assert read_all(tmp_path) == read_all(whole[0])
    assert read_log(tmp_path) == read_log(whole[0])


@pytest.mark.slow
def test_interrupted_at_any_point_it_ends_in_the_same_bytes(whole, tmp_path):
    for place, point in enumerate(whole[1]):
        folder = tmp_path / str(place)
        with pytest.raises(Stop):
            one_shot(tiny('checkpoint_seconds=0'), folder, fault=Recorder(place), quiet=True)
        torch.manual_seed(place)
        one_shot(tiny('checkpoint_seconds=0'), folder, quiet=True)
        assert read_all(folder) == read_all(whole[0]), point
        assert read_log(folder) == read_log(whole[0]), point


def test_a_finished_run_does_nothing_again(whole):
    before = {path: path.stat().st_mtime_ns for path in whole[0].glob('[!.]*.*')}
    recorder = Recorder()
    one_shot(tiny(), whole[0], fault=recorder, quiet=True)
    assert recorder.points == []
    after = {path: path.stat().st_mtime_ns for path in whole[0].glob('[!.]*.*')}
    assert after == before


def test_kill_9(whole, tmp_path):
    command = [
        sys.executable,
        '-m',
        'search',
        'run',
        str(TINY),
        '--out',
        str(tmp_path),
        'checkpoint_seconds=0',
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    while 'search' not in (
        log := (tmp_path / 'events.jsonl').read_text() if any(tmp_path.glob('ev*')) else ''
    ):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / 'tiny.json').exists(), log
    subprocess.run(command, check=True, capture_output=True)
    assert read_all(tmp_path) == read_all(whole[0])
    assert read_log(tmp_path) == read_log(whole[0])
    assert not [path for path in tmp_path.rglob('*.tmp') if path.name.startswith('.tiny')]


class TestResult:
    def test_entry_tells_what_was_done(self, whole):
        entry = read_entry(whole[0] / 'tiny.json')
        assert entry.provenance.kind == 'searched'
        assert entry.provenance.seed == 3
        assert entry.provenance.config == json.loads(json.dumps(tiny().decisive()))
        assert entry.provenance.cost == {'evaluations': 10, 'retrain_steps': 8, 'supernet_steps': 8}
        weights = (whole[0] / 'tiny.safetensors').read_bytes()
        assert entry.weights['digits'].sources[0].sha256 == hashlib.sha256(weights).hexdigest()
        with safe_open(whole[0] / 'tiny.safetensors', 'pt') as file:
            assert list(file.metadata()) == ['searchzoo']
            assert json.loads(file.metadata()['searchzoo'])['arch'] == entry.arch.model_dump(mode='json')

    def test_limits_hold(self, whole):
        found = json.loads((whole[0] / 'search.json').read_text())
        assert len(found['candidates']) == 10
        assert all(20_000 <= candidate['macs'] <= 80_000 for candidate in found['candidates'])
        archs = {Problem(tiny()).space.decode(tuple(c['genotype'])) for c in found['candidates']}
        assert len(archs) == 10

    def test_the_best_is_emitted(self, whole):
        found = json.loads((whole[0] / 'search.json').read_text())
        assert found['best']['score'] == max(candidate['score'] for candidate in found['candidates'])
        entry = read_entry(whole[0] / 'tiny.json')
        assert entry.arch == Problem(tiny()).space.decode(tuple(found['best']['genotype']))
        assert (entry.measured.params, entry.measured.macs) == (
            found['best']['params'],
            found['best']['macs'],
        )

    def test_timm_builds_it_with_its_accuracy(self, whole):
        """Independent of the package's data code: pixels resized and normalised by hand."""
        entry = read_entry(whole[0] / 'tiny.json')
        model = timm.create_model(zoo.register(whole[0] / 'tiny.json'), pretrained=True).eval()
        raw = datasets.load_digits()
        seen, test = [0] * 10, []
        for i, label in enumerate(raw.target):
            if seen[label] % 5 == 0:
                test.append(i)
            seen[label] += 1
        pixels = np.rint(raw.images[test] * (255 / 16)).astype(np.uint8)
        resized = [np.asarray(Image.fromarray(x).resize((16, 16), Image.Resampling.BICUBIC)) for x in pixels]
        x = (torch.tensor(np.stack(resized))[:, None] / 255 - 0.3) / 0.35
        with torch.no_grad():
            top1 = (model(x).argmax(1).numpy() == raw.target[test]).mean() * 100
        assert entry.weights['digits'].metrics['test_top1'] == pytest.approx(top1, abs=1e-3)

    def test_comparison_is_with_other_networks_of_equal_cost(self, whole):
        problem = Problem(tiny())
        entry = read_entry(whole[0] / 'tiny.json')
        others = [json.loads((whole[0] / f'comparison/random{i}.json').read_text()) for i in (1, 2)]
        again = json.loads((whole[0] / 'comparison/again1.json').read_text())
        archs = {problem.space.decode(tuple(other['genotype'])) for other in others}
        assert len(archs | {entry.arch}) == 3
        for other in others:
            assert abs(other['macs'] / entry.measured.macs - 1) <= 0.3
        assert problem.space.decode(tuple(again['genotype'])) == entry.arch

    def test_a_seed_changes_the_result(self, whole, tmp_path):
        one_shot(tiny('seed=4', 'compare=null'), tmp_path, quiet=True)
        assert (tmp_path / 'tiny.safetensors').read_bytes() != (whole[0] / 'tiny.safetensors').read_bytes()


def test_inherited_weights_are_the_supernets(tmp_path):
    one_shot(tiny('weights=inherit', 'compare=null', 'name=tiny_inherited'), tmp_path, quiet=True)
    entry = read_entry(tmp_path / 'tiny_inherited.json')
    problem = Problem(tiny())
    supernet = load_supernet(problem, (tmp_path / 'supernet.safetensors').read_bytes())
    model = timm.create_model(zoo.register(tmp_path / 'tiny_inherited.json'), pretrained=True).eval()
    x, labels = problem.data.images('val').tensors()
    with torch.no_grad():
        assert torch.equal(model(x), supernet(entry.arch, x))
        top1 = 100 * (model(x).argmax(1) == labels).float().mean().item()
    assert entry.weights['digits'].metrics['val_top1'] == pytest.approx(top1, abs=1e-3)
    found = json.loads((tmp_path / 'search.json').read_text())['best']
    assert found['loss'] == pytest.approx(
        torch.nn.functional.cross_entropy(model(x), labels).item(), rel=0.02
    )


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
        one_shot(tiny(), tmp_path, fault=stop_before_the_entry, quiet=True)
    assert set(asked) == {'train', 'val'}
    one_shot(tiny(), tmp_path, quiet=True)
    assert 'test' in asked


@pytest.mark.parametrize(
    ('overrides', 'message'),
    [
        (['search.limits.macs=[1, 2]'], 'limits: found macs from 1.0 to 2.0'),
        (['data.name=digitz'], 'data.name: found'),
        (['name=s3_tiny'], "name: found 's3_tiny', which is the name of another model"),
        (['name=resnet18'], "name: found 'resnet18', which is the name of another model"),
        (['search.strategy.name=guess'], r'strategy: \$.name: found'),
        (['space.family=s4'], "space: .*found 's4', allowed are carnet, glit, s3"),
        (['input.size=[1, 2, 2]'], 'space: found images of'),
        (['retrain.augment.auto_augment=magic'], "augment: timm does not take 'magic'"),
        (['retrain.batch_size=2000'], 'batch_size: found 2000'),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(overrides, message, tmp_path):
    with pytest.raises(ZooError, match=message):
        one_shot(tiny(*overrides), tmp_path / 'run', quiet=True)
    assert not (tmp_path / 'run').exists()


def test_a_candidate_without_a_finite_score_is_not_chosen(tmp_path, monkeypatch):
    original: Callable = SupernetEvaluator.__call__
    calls = []

    def evaluate(self, genotype, needed):
        calls.append(genotype)
        found = original(self, genotype, needed)
        return type(found)(float('nan'), found.metrics) if len(calls) % 2 else found

    monkeypatch.setattr(SupernetEvaluator, '__call__', evaluate)
    one_shot(tiny('compare=null'), tmp_path, quiet=True)
    found = json.loads((tmp_path / 'search.json').read_text())
    assert [candidate['score'] is None for candidate in found['candidates']] == [True, False] * 5
    assert found['best']['score'] == max(c['score'] for c in found['candidates'] if c['score'] is not None)


def test_a_search_ends_when_the_space_is_exhausted(tmp_path):
    one_shot(tiny('search.evaluations=1000', 'compare=null'), tmp_path, quiet=True)
    problem = Problem(tiny())
    within = {problem.space.decode(g) for g in problem.space.space.enumerate() if problem.sampler.allows(g)}
    found = json.loads((tmp_path / 'search.json').read_text())
    assert len(found['candidates']) == len(within) < 40


def test_draw_near_gives_up_where_there_are_too_few():
    problem = Problem(tiny())
    genotype = problem.space.space.smallest()
    drawn = draw_near(problem, genotype, 50, 0.05)
    macs = problem.cost(genotype).macs
    near = {
        problem.space.decode(g)
        for g in problem.space.space.enumerate()
        if abs(problem.cost(g).macs / macs - 1) <= 0.05
    } - {problem.space.decode(genotype)}
    assert {problem.space.decode(g) for g in drawn} == near


def test_thread_count_is_part_of_what_decides_the_last_digits(whole):
    versions = json.loads((whole[0] / 'config.json').read_text())['versions']
    assert versions['threads'] == str(torch.get_num_threads()) == os.environ['OMP_NUM_THREADS']
    assert emit.HOW.keys() == {'retrain', 'inherit', 'fine_tune'}
