"""UniNet's search in seconds: rewards, the best few, the scaled family, and that no interruption shows."""

import itertools
import json
import math
import sys
from pathlib import Path

import pytest
import timm
import torch
from interruptions import Recorder, Stop, kill, read_all, read_log
from safetensors.torch import load_file

import zoo
from search import candidates as search_candidates
from search.cli import print_result
from search.config import ProxyConfig, load_config, parse_config
from search.evaluate import Evaluation
from search.methods import METHODS, one_shot, proxy
from search.methods.proxy import scale_entry
from search.problem import Problem
from search.scaling import scale_arch
from search.strategies import Ppo
from search.yamlfile import read_yaml
from zoo.entry import read_entry
from zoo.errors import ZooError
from zoo.profile import profile
from zoo.registry import config_path

TINY = Path(__file__).with_name('tiny_uninet.yaml')
FAMILY = 'tiny_uninet_b1', 'tiny_uninet_b2'


def tiny(*overrides: str) -> ProxyConfig:
    config = load_config(TINY, overrides)
    assert isinstance(config, ProxyConfig)
    return config


def read_candidates(folder: Path) -> list[dict]:
    return json.loads((folder / 'search.json').read_text())['candidates']


@pytest.fixture(scope='module')
def whole(tmp_path_factory) -> tuple[Path, list[str]]:
    """An uninterrupted run and the points that it passed."""
    folder, recorder = tmp_path_factory.mktemp('whole'), Recorder()
    result = proxy(tiny('checkpoint_seconds=0'), folder, fault=recorder, quiet=True)
    assert result.entry == folder / 'tiny_uninet.json'
    assert result.family == tuple(folder / f'family/{name}.json' for name in FAMILY)
    return folder, recorder.points


def write_table(path: Path, top1) -> None:
    """A table of the whole tiny space; ``top1`` gives the accuracy of a genotype."""
    lines = (
        {'genotype': genotype, 'metrics': {'top1': top1(genotype)}}
        for genotype in Problem(tiny()).space.space.enumerate()
    )
    path.write_text('\n'.join(map(json.dumps, lines)))


class TestReward:
    def test_it_is_the_score(self, whole):
        records = read_candidates(whole[0])
        assert len(records) == 10
        for record in records:
            assert record['accuracy'] == record['top1']
            assert record['score'] == pytest.approx(record['top1'] * (record['macs'] / 1e5) ** -0.3)
        best = max(records, key=lambda record: record['score'])
        assert json.loads((whole[0] / 'search.json').read_text())['best'] == best

    def test_a_larger_network_never_earns_more_at_equal_accuracy(self, tmp_path, monkeypatch):
        """What the strategy is told, in a space whose networks are all equally accurate."""
        write_table(tmp_path / 'table.jsonl', lambda genotype: 60.0)
        told = {}
        original = Ppo.tell

        def tell(self, genotype, score):
            told[genotype] = score
            original(self, genotype, score)

        monkeypatch.setattr(Ppo, 'tell', tell)
        table = f'search.evaluator={{kind: table, file: {tmp_path}/table.jsonl}}'
        config = tiny(table, 'search.evaluations=100', 'search.strategy.batch=20', 'scale=[]', 'top=1')
        with pytest.raises(Stop):
            proxy(config, tmp_path / 'run', fault=stop_after_the_search, quiet=True)
        cost = {genotype: Problem(config).cost(genotype).macs for genotype in told}
        by_cost = sorted(told, key=lambda genotype: cost[genotype])
        assert all(told[a] >= told[b] for a, b in itertools.pairwise(by_cost))
        assert cost[by_cost[0]] < cost[by_cost[-1]]
        assert told[by_cost[0]] > told[by_cost[-1]]
        asked = list(told)
        first, last = ([cost[genotype] for genotype in part] for part in (asked[:20], asked[60:80]))
        assert sum(last) < 0.9 * sum(first)

    def test_flops_are_those_of_fvcore(self, tmp_path):
        config = tiny('search.reward={target: 5e4, cost: fvcore}', 'search.evaluations=2', 'scale=[]')
        with pytest.raises(Stop):
            proxy(config, tmp_path, fault=stop_after_the_search, quiet=True)
        problem = Problem(config)
        for record in read_candidates(tmp_path):
            counted = profile(problem.build(problem.space.decode(tuple(record['genotype']))), (1, 16, 16))
            assert (counted.params, counted.macs) == (record['params'], record['macs'])
            assert record['fvcore'] == counted.fvcore > counted.macs
            assert record['score'] == pytest.approx(record['top1'] * (record['fvcore'] / 5e4) ** -0.07)

    def test_giving_up_changes_neither_the_search_nor_the_front_nor_the_best_five(self, tmp_path):
        """Another method and evaluator. Few parents, so that the best five are more than those."""
        found = {}
        for give_up in (True, False):
            folder = tmp_path / str(give_up)
            changes = [
                f'search.give_up={str(give_up).lower()}',
                'search.batch_size=32',
                'search.evaluations=30',
                'search.reward={target: 5e4, alpha: -0.2}',
                'search.objective=top1',
                'search.limits={}',
                'supernet.recipe.epochs=8',
                'supernet.recipe.lr=0.02',
                'weights=inherit',
                'top=5',
                'compare=null',
            ]
            config = load_config(TINY.with_name('tiny.yaml'), changes)
            with pytest.raises(Stop):
                one_shot(config, folder, fault=stop_after_the_search, quiet=True)
            found[give_up] = read_candidates(folder)
        pairs = list(zip(found[True], found[False], strict=True))
        dropped = [(a, b) for a, b in pairs if 'images' in a]
        assert dropped
        for a, b in pairs:
            assert a['genotype'] == b['genotype']
            assert a == b or ('images' in a and b['score'] <= a['score'] + 1e-9)
        assert best_five(found[True]) == best_five(found[False])
        assert front(found[True]) == front(found[False])


def stop_after_the_search(point: str) -> None:
    if point == 'search: done':
        raise Stop


def best_five(records: list[dict]) -> list[dict]:
    return sorted(records, key=lambda record: (-record['score'], record['macs']))[:5]


def front(records: list[dict]) -> list[dict]:
    return [
        r
        for r in records
        if not any(o['macs'] <= r['macs'] and o['accuracy'] > r['accuracy'] for o in records)
    ]


class TestBest:
    def test_of_the_best_few_the_most_accurate_one_is_kept(self, whole):
        folder, _ = whole
        records = sorted(read_candidates(folder), key=lambda record: (-record['score'], record['macs']))
        problem = Problem(tiny())
        images, labels = problem.data.images('val').tensors()
        accuracies, archs = [], []
        for i, record in enumerate(records[:2], 1):
            archs.append(problem.space.decode(tuple(record['genotype'])))
            model = problem.build(archs[-1]).eval()
            model.load_state_dict(load_file(folder / f'top/top{i}.safetensors'))
            with torch.no_grad():
                accuracies.append(100 * (model(images).argmax(1) == labels).float().mean().item())
            kept = json.loads((folder / f'top/top{i}.json').read_text())
            assert kept['score'] == kept['top1'] == pytest.approx(accuracies[-1], abs=1e-3)
        winner = accuracies.index(max(accuracies))
        assert read_entry(folder / 'tiny_uninet.json').arch == archs[winner]
        weights = (folder / f'top/top{winner + 1}.safetensors').read_bytes()
        assert (folder / 'tiny_uninet.safetensors').read_bytes() == weights
        assert not (folder / 'top/top3.json').exists()

    def test_a_lower_reward_can_win(self, tmp_path, monkeypatch):
        """The second by reward is the more accurate one when both are fully trained."""
        original = Problem.score
        scored = []

        def score(self, model):
            scored.append(model)
            return original(self, model) | {'score': float(len(scored))}

        monkeypatch.setattr(Problem, 'score', score)
        result = proxy(tiny('scale=[]', 'retrain.epochs=1', 'search.evaluations=4'), tmp_path, quiet=True)
        records = sorted(read_candidates(tmp_path), key=lambda record: -record['score'])
        assert result.best['genotype'] == records[1]['genotype'] != records[0]['genotype']

    def test_the_entry_tells_how(self, whole):
        entry = read_entry(whole[0] / 'tiny_uninet.json')
        assert 'Found by ppo among 256 architectures' in entry.provenance.note
        assert 'Score: accuracy * (macs / 100000) ** -0.3.' in entry.provenance.note
        assert 'Of the best 2, fully trained, the one that is most accurate' in entry.provenance.note
        assert entry.provenance.cost == {'evaluations': 10, 'proxy_steps': 40, 'retrain_steps': 16}


class TestFamily:
    def test_timm_builds_it(self, whole):
        for name, side in zip(FAMILY, (24, 32), strict=True):
            entry = read_entry(whole[0] / f'family/{name}.json')
            model = timm.create_model(zoo.register(whole[0] / f'family/{name}.json')).eval()
            assert entry.input.size == (1, side, side)
            assert model(torch.zeros(2, 1, side, side)).shape == (2, 10)
            assert sum(p.numel() for p in model.parameters()) == entry.measured.params
            with pytest.raises(ZooError, match='weights'):
                timm.create_model(name, pretrained=True)

    def test_it_grows(self, whole):
        base = read_entry(whole[0] / 'tiny_uninet.json')
        members = [base, *(read_entry(whole[0] / f'family/{name}.json') for name in FAMILY)]
        for small, large in itertools.pairwise(members):
            assert small.measured.params < large.measured.params
            assert small.measured.macs < large.measured.macs
        for (w, d, divisors), member in zip(
            ((1.5, 1.5, (8,) * 3), (2, 3, (8, 8, 32))), members[1:], strict=True
        ):
            for a, b, divisor in zip(base.arch.stages, member.arch.stages, divisors, strict=True):
                assert b.repeats == math.ceil(a.repeats * d)
                assert b.channels % divisor == 0
                assert abs(b.channels - a.channels * w) <= max(divisor / 2, 0.1 * a.channels * w)

    def test_it_tells_where_it_comes_from(self, whole):
        base = read_entry(whole[0] / 'tiny_uninet.json')
        entry = read_entry(whole[0] / 'family/tiny_uninet_b2.json')
        assert entry.weights == {}
        assert entry.provenance.kind == 'searched'
        how = 'Scaled from tiny_uninet: width x 2, depth x 3, resolution x 2; it was not trained.'
        assert entry.provenance.note == f'{how} Of tiny_uninet: {base.provenance.note}'
        assert entry.provenance.config == base.provenance.config == json.loads(json.dumps(tiny().decisive()))

    def test_the_command_line_prints_it(self, whole, capsys):
        print_result(proxy(tiny(), whole[0], quiet=True))
        lines = capsys.readouterr().out.splitlines()
        place = lines.index('Scaled from it, not trained:')
        for name, line in zip(FAMILY, lines[place + 1 :], strict=False):
            entry = read_entry(whole[0] / f'family/{name}.json')
            assert f'family/{name}.json   params {entry.measured.params:,}' in line
            assert f'MACs {entry.measured.macs:,}   input {entry.input.size}' in line


class TestInterruption:
    def test_every_phase_has_points(self, whole):
        phases = 'search', 'top1', 'top1 on val', 'top2', 'top2 on val', 'weights', 'entry'
        for phase in (*phases, *(f'family {name}' for name in FAMILY)):
            for kind in ('begin', 'computed', 'written', 'done'):
                assert whole[1].count(f'{phase}: {kind}') == 1
        assert whole[1].count('search: candidate') == 10

    @pytest.mark.parametrize(('points_each', 'seconds', 'least'), [(11, 0, 9), (23, 1e6, 4)])
    def test_again_and_again_it_ends_in_the_same_bytes(self, whole, tmp_path, points_each, seconds, least):
        """With a checkpoint after every step, and with none but at the end of a phase."""
        for piece in range(1, 100):
            torch.manual_seed(piece)
            recorder = Recorder(points_each - 1)
            try:
                proxy(tiny(f'checkpoint_seconds={seconds}'), tmp_path, fault=recorder, quiet=True)
            except Stop:
                continue
            break
        assert piece >= least
        assert read_all(tmp_path) == read_all(whole[0])
        assert read_log(tmp_path) == read_log(whole[0])

    @pytest.mark.slow
    def test_at_any_point_it_ends_in_the_same_bytes(self, whole, tmp_path):
        for place, point in enumerate(whole[1]):
            folder = tmp_path / str(place)
            with pytest.raises(Stop):
                proxy(tiny('checkpoint_seconds=0'), folder, fault=Recorder(place), quiet=True)
            proxy(tiny('checkpoint_seconds=0'), folder, quiet=True)
            assert read_all(folder) == read_all(whole[0]), point

    @pytest.mark.parametrize('processes', [None, 2])
    def test_kill_9_while_candidates_are_trained(self, whole, tmp_path, processes):
        """Continued in one process, whatever was killed: workers do not decide the result."""
        workers = f'search.workers={{processes: {processes}}}' if processes else 'search.workers=null'
        command = [sys.executable, '-m', 'search', 'run', str(TINY), '--out', str(tmp_path), workers]
        kill([*command, 'checkpoint_seconds=0'], tmp_path, 'search')
        assert not (tmp_path / 'search.json').exists()
        proxy(tiny(), tmp_path, quiet=True)
        assert read_all(tmp_path) == read_all(whole[0])
        assert read_log(tmp_path) == read_log(whole[0])


@pytest.mark.parametrize(
    ('overrides', 'message'),
    [
        (['search.objective=loss'], 'reward needs an accuracy, .*found objective: loss'),
        (
            ['search.evaluator={kind: table, file: x, minimize: true}'],
            'reward needs an accuracy, .*found evaluator.minimize: true',
        ),
        (
            ['search.evaluator={kind: supernet}', 'supernet.recipe={epochs: 1, batch_size: 8, lr: 1}'],
            'needs proxy',
        ),
        (['weights=inherit'], 'weights'),
        (['search.reward.alpha=0.07'], r'reward\.alpha'),
        (['search.reward.cost=seconds'], r'reward\.cost'),
        (['search.reward={alpha: -0.1}'], r'reward\.target'),
        (['scale=[{name: tiny_uninet, width: 2.0}]'], 'the name tiny_uninet stands for two networks'),
        (['scale=[{name: a, width: 2.0}, {name: a, width: 3.0}]'], 'the name a stands for two networks'),
        (['scale=[{name: a, factor: 2.0}]'], 'factor'),
        (['scale=[{name: a, width: 0}]'], 'width'),
    ],
)
def test_configs_that_do_not_fit_together(overrides, message):
    with pytest.raises(ZooError, match=message):
        tiny(*overrides)


@pytest.mark.parametrize(
    ('overrides', 'message'),
    [
        (
            ['scale=[{name: resnet18}]'],
            "scale: resnet18: name: found 'resnet18', which is the name of another",
        ),
        (['scale=[{name: a, divisors: [8, 8]}]'], 'scale: a: divisors: found 2 for 3 stages'),
        (
            ['scale=[{name: a, resolution: 64.0}, {name: b, resolution: 0.1}]'],
            'scale: b: resolution: found 0.1 x 16',
        ),
        (
            ['scale=[{name: a, depth: 64.0}, {name: b, width: 64.0}, {name: c, resolution: 0.2}]'],
            'scale: c: ',
        ),
        (['search.evaluator.recipe.batch_size=2000'], 'batch_size: found 2000'),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(overrides, message, tmp_path):
    with pytest.raises(ZooError, match=message):
        proxy(tiny(*overrides), tmp_path / 'run', quiet=True)
    assert not (tmp_path / 'run').exists()


def test_only_uninets_are_scaled(tmp_path):
    data = read_yaml(TINY.with_name('tiny.yaml')) | {
        'method': 'proxy',
        'supernet': None,
        'scale': [{'name': 'a', 'width': 2.0}],
    }
    data['search'] |= {'evaluator': {'kind': 'proxy', 'recipe': {'epochs': 1, 'batch_size': 8, 'lr': 1}}}
    with pytest.raises(ZooError, match='scale: a: found a network of family s3'):
        proxy(parse_config(data), tmp_path / 'run', quiet=True)
    assert not (tmp_path / 'run').exists()


def test_a_negative_accuracy_earns_no_reward(tmp_path, monkeypatch):
    """A loss in an accuracy's place would turn the cost into a gain."""
    monkeypatch.setattr(
        search_candidates.ProxyEvaluator, '__call__', lambda self, genotype, needed: Evaluation(-2.3)
    )
    with pytest.raises(ZooError, match=r'reward: found accuracy -2\.3'):
        proxy(tiny(), tmp_path, quiet=True)


def test_a_candidate_that_fails_has_no_reward(tmp_path, monkeypatch):
    calls = []

    def call(self, genotype, needed):
        calls.append(genotype)
        if len(calls) % 2:
            raise MemoryError
        return Evaluation(50.0, {'top1': 50.0})

    monkeypatch.setattr(search_candidates.ProxyEvaluator, '__call__', call)
    with pytest.raises(Stop):
        proxy(tiny(), tmp_path, fault=stop_after_the_search, quiet=True)
    records = read_candidates(tmp_path)
    assert [record['score'] is None for record in records] == [True, False] * 5
    assert all(('accuracy' in record) == (record['score'] is not None) for record in records)


class TestConfigs:
    def test_imagenet_has_the_papers_settings(self):
        config = load_config(config_path('search/uninet_imagenet.yaml'))
        search = config.search
        assert METHODS[config.method] is proxy
        assert (search.reward.target, search.reward.alpha, search.reward.cost) == (550e6, -0.07, 'fvcore')
        assert (search.evaluations, search.evaluator.recipe.epochs, config.top) == (2000, 5, 5)
        assert (config.data.val_size, config.input.size) == (50_000, (3, 160, 160))
        assert config.space == 'uninet'

    def test_imagenet_scales_b0_to_the_zoos_family(self):
        """If the search found UniNet-B0, its family would be that of the zoo."""
        base = zoo.load_entry('uninet_b0')
        config = load_config(config_path('search/uninet_imagenet.yaml'))
        scaled = [scale_arch(base.arch, base.input.size, member) for member in config.scale]
        for i, found in enumerate(scaled[:5], 1):
            expected = zoo.load_entry(f'uninet_b{i}')
            assert found == (expected.arch, expected.input.size)
        assert scale_entry(base, config.scale[0]).measured.macs == zoo.load_entry('uninet_b1').measured.macs
        (found, size), expected = scaled[5], zoo.load_entry('uninet_eccv_b6')
        assert size == expected.input.size
        assert found.stages[1:] == expected.arch.stages[1:]
        assert (found.stages[0].repeats, expected.arch.stages[0].repeats) == (3, 4)  # no multiple of B0's
