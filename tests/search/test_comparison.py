"""Strategies compared on a table: the numbers by their definitions, and ``searchzoo search compare``."""

import gzip
import json
import math
from random import Random

import numpy as np
import pytest
from PIL import Image

from search import comparison, comparison_report
from search.comparison import BASELINE, STRATEGIES, Comparison, bootstrap, compare, search_landscape
from search.comparison_report import describe_comparisons, find_noise
from search.config import load_config
from search.figures.comparison import draw_comparison
from search.landscape import Landscape, read_landscape, sub_landscapes
from search.space import Choice, Space
from search.spaces import load_space
from search.strategies import make_strategy
from search.variance import variance_share
from zoo.console import main
from zoo.errors import ZooError
from zoo.registry import config_path

SPACE = Space('letters', tuple(Choice(f'x{i}', tuple(range(3))) for i in range(7)))
CONDITIONAL = Space(
    'operators',
    (
        Choice('op', ('conv', 'attention', 'none')),
        Choice('kernel', (3, 5), 'op', ('conv',)),
        Choice('width', (8, 16)),
        Choice('depth', (1, 2, 3)),
    ),
)
SMALL = STRATEGIES[1]


def additive(seed: int, noise: float = 0.0, rows: int | None = None) -> Landscape:
    """Every choice adds its part; of the 2,187 architectures all or some at random."""
    rng = Random(seed)
    worth = [[rng.gauss(0, 1) for _ in choice.values] for choice in SPACE.choices]
    genotypes = rng.sample(list(SPACE.enumerate()), rows or SPACE.size())
    scores = {g: sum(w[i] for w, i in zip(worth, g, strict=True)) + rng.gauss(0, noise) for g in genotypes}
    return Landscape('planted', SPACE, scores)


def expected_regrets(landscape: Landscape, budget: int) -> list[float]:
    """Of random search without replacement, exactly. With the regrets in order, the best of n of N rows is
    number i with probability C(N - i, n - 1) / C(N, n)."""
    regrets = [landscape.ranked[0] - score for score in landscape.ranked]
    count = len(regrets)
    return [
        sum(r * math.comb(count - i, n - 1) for i, r in enumerate(regrets, 1)) / math.comb(count, n)
        for n in range(1, budget + 1)
    ]


class TestRegret:
    def test_of_random_search_is_what_combinatorics_expects(self):
        """The deviations of 400 seeds' mean at several budgets, in standard errors."""
        landscape = additive(0, rows=300)
        found = compare([landscape], [300], 400, [BASELINE])[0].regrets['random']
        expected = expected_regrets(landscape, 299)
        for n in (1, 5, 30, 100, 200):
            error = found[:, n - 1].std(ddof=1) / math.sqrt(400)
            assert abs(found[:, n - 1].mean() - expected[n - 1]) < 3.5 * error
        assert (found[:, -1] == 0).all()  # all rows, each once

    def test_is_by_definition(self):
        landscape = additive(1, noise=1.0, rows=500)
        best = max(landscape.scores.values())
        for contender in STRATEGIES:
            strategy = make_strategy(contender.strategy, landscape, comparison.derive_seed('compare', 3))
            regrets = []
            for _ in range(60):
                strategy.tell(genotype := strategy.ask(), landscape.scores[genotype])
                assert genotype in landscape.scores
                regrets.append(best - max(score for score in strategy.scores))
            assert search_landscape(landscape, contender, 3, 60).tolist() == regrets
            assert regrets == sorted(regrets, reverse=True)
            assert min(regrets) >= 0

    def test_failures_find_nothing(self):
        """All rows but two failed: the regret is the worst row's until the best one is found."""
        first, second, *others = SPACE.enumerate()
        failed = dict.fromkeys(others[:30], math.nan)
        landscape = Landscape('failures', SPACE, {first: 1.0, second: 4.0, **failed})
        for contender in STRATEGIES:
            regrets = search_landscape(landscape, contender, 0, 32)
            assert set(regrets.tolist()) == {3.0, 0.0}

    def test_a_search_that_runs_dry_keeps_its_regret(self):
        landscape = Landscape('two', SPACE, {(0,) * 7: 1.0, (1,) * 7: 2.0})
        assert search_landscape(landscape, BASELINE, 0, 5)[1:].tolist() == [0.0] * 4


class TestComparison:
    def test_small_evolution_beats_random_search(self):
        """The population is at most 16, the budget 10 % of the rows."""
        assert SMALL.strategy['preset'] == 'small'
        assert make_strategy(SMALL.strategy, additive(0), 0).settings.population <= 16
        for found in compare([additive(2), additive(3, noise=1.0)], [218, 218], 20, [BASELINE, SMALL]):
            gap = found.difference(SMALL.label)
            assert gap.low <= gap.mean <= gap.high < -0.2
            assert found.regret(SMALL.label, 218).high < found.regret('random', 218).low
            assert found.evaluations_to_top(SMALL.label) < found.evaluations_to_top('random') + 100

    def test_where_nothing_can_be_learned_it_does_not(self):
        rng = Random(5)
        landscape = Landscape('noise', SPACE, {g: rng.gauss(0, 1) for g in SPACE.enumerate()})
        gap = compare([landscape], [100], 60, [BASELINE, SMALL])[0].difference(SMALL.label)
        assert gap.low < 0 < gap.high

    def test_does_not_depend_on_the_workers(self):
        landscapes, budgets = [additive(0, rows=200), additive(1, rows=100)], [30, 21]
        alone = compare(landscapes, budgets, 11, processes=1)
        shared = compare(landscapes, budgets, 11, processes=2)
        for one, other, budget in zip(alone, shared, budgets, strict=True):
            assert list(one.regrets) == list(other.regrets) == [c.label for c in STRATEGIES]
            for label in one.regrets:
                assert one.regrets[label].shape == (11, budget)
                assert np.array_equal(one.regrets[label], other.regrets[label])
                assert len({tuple(row) for row in one.regrets[label].tolist()}) > 1

    def test_seeds_are_the_first_of_more(self):
        few, many = (compare([additive(0)], [30], n, [BASELINE, SMALL])[0] for n in (5, 13))
        for label in few.regrets:
            assert np.array_equal(few.regrets[label], many.regrets[label][:5])

    def test_evaluations_to_the_best_percent(self):
        """Of 200 rows the two best count, whose regrets are 0 and 1."""
        landscape = Landscape('line', SPACE, {SPACE.unrank(i): float(-i) for i in range(200)})
        regrets = np.array([[9, 1, 1], [9, 9, 0], [2, 2, 2]], float)
        assert Comparison(landscape, {'random': regrets}).evaluations_to_top('random') == 3
        assert Comparison(landscape, {'random': regrets[[0, 2, 2]]}).evaluations_to_top('random') == math.inf

    @pytest.mark.parametrize(
        'draw', [Random.gauss, lambda rng: rng.expovariate(1) - 1], ids=['normal', 'skewed']
    )
    def test_intervals_cover_the_mean(self, draw):
        """Of 50 seeds, 400 times: a 95 % interval should hold the true mean, 0, in 380."""
        rng = Random(0)
        values = np.array([[draw(rng) for _ in range(400)] for _ in range(50)])
        mean, low, high = bootstrap(values)
        assert np.allclose(mean, values.mean(0))
        assert 360 <= ((low <= 0) & (high >= 0)).sum() <= 395


class TestVarianceShare:
    @pytest.mark.parametrize('share', [0.2, 0.8])
    @pytest.mark.parametrize('sizes', [(3,), (2, 3, 5, 1)], ids=['equal', 'unequal'])
    def test_finds_the_simulated_one(self, share, sizes):
        """Mean over 60 simulations of 200 architectures."""
        rng, found = Random(1), []
        for _ in range(60):
            groups = []
            for i in range(200):
                mean = rng.gauss(5, math.sqrt(share))
                groups.append([rng.gauss(mean, math.sqrt(1 - share)) for _ in range(sizes[i % len(sizes)])])
            found.append(variance_share(groups))
            assert found[-1].architectures == sum(len(group) > 1 for group in groups)
        assert np.mean([each.share for each in found]) == pytest.approx(share, abs=0.02)
        assert np.mean([each.noise for each in found]) == pytest.approx(math.sqrt(1 - share), abs=0.02)

    def test_of_equal_groups_is_the_textbooks(self):
        """Shrout and Fleiss (1979), Table 2: their ICC(1,1) is 0.17."""
        judges = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
        assert variance_share(judges).share == pytest.approx(0.17, abs=0.005)

    def test_needs_repeated_ones(self):
        with pytest.raises(ValueError, match='found 1 groups'):
            variance_share([[1.0], [1.0, 2.0], [3.0]])
        assert math.isnan(variance_share([[1.0, 1.0], [1.0, 1.0]]).share)


class TestParts:
    def test_fix_one_choice_each(self):
        scores = {g: float(i) for i, g in enumerate(CONDITIONAL.enumerate())}
        whole = Landscape('whole', CONDITIONAL, scores)
        parts = sub_landscapes(whole, 10, 1)
        # 2 + 1 + 1 operators with kernels, 2 widths, 3 depths: 24 architectures
        assert [(part.name, len(part)) for part in parts] == [
            ('op = conv', 12),
            ('width = 8', 12),
            ('depth = 1', 8),
            ('kernel = 3', 6),
        ]
        for part in parts:
            name, value = part.name.split(' = ')
            expected = {
                tuple(sorted(CONDITIONAL.values(g).items())): score
                for g, score in scores.items()
                if str(CONDITIONAL.values(g).get(name)) == value
            }
            found = {tuple(sorted(part.space.values(g).items())): s for g, s in part.scores.items()}
            assert found == expected
            assert part.space.size() == len(part)

    def test_number_and_size(self):
        whole = Landscape('whole', CONDITIONAL, dict.fromkeys(CONDITIONAL.enumerate(), 0.0))
        assert [len(part) for part in sub_landscapes(whole, 2, 1)] == [12, 12]
        assert [len(part) for part in sub_landscapes(whole, 10, 7)] == [12, 12, 8]
        assert sub_landscapes(whole, 10, 13) == []

    def test_a_part_of_failures_is_none(self):
        scores = {g: math.nan if g[2] == 0 else 1.0 for g in CONDITIONAL.enumerate()}
        names = [part.name for part in sub_landscapes(Landscape('whole', CONDITIONAL, scores), 10, 1)]
        assert 'width = 8' not in names
        assert 'op = conv' in names


@pytest.fixture(scope='module')
def table(tmp_path_factory):
    """700 architectures of a small space, 40 of them three times, one failed."""
    config = load_config(config_path('search/demo.yaml'))
    stages = [
        {
            'embed_dim': [8, 16],
            'depth': [1, 2],
            'window_size': [2, 4],
            'num_heads': [1],
            'mlp_ratio': [1, 2, 3],
        }
    ] * 2
    data = config.decisive() | {'space': {'family': 's3', 'stages': stages}}
    space = load_space(data['space'], config.input.size).space
    rng = Random(0)

    def train(genotype):
        loss = 0.3 + sum(i * k % 5 for i, k in enumerate(genotype)) / 50 + rng.gauss(0, 0.05)
        return {'loss': loss, 'top1': 100 - 40 * loss}

    lines = [{'table': {'config': data, 'architectures': 700}}]
    for i, genotype in enumerate(rng.sample(list(space.enumerate()), 700)):
        row = {'values': space.values(genotype), 'metrics': train(genotype) if i != 5 else None}
        if i % 10 == 0 and i < 400:
            row['again'] = [train(genotype) for _ in range(2)]
        lines.append(row)
    path = tmp_path_factory.mktemp('table') / 'table.jsonl.gz'
    path.write_bytes(gzip.compress('\n'.join(map(json.dumps, lines)).encode()))
    return path


@pytest.fixture
def alone(monkeypatch):
    """No worker processes, which take seconds to start."""
    monkeypatch.setattr(comparison_report, 'MAX_PROCESSES', 1)


class TestReading:
    def test_scores(self, table):
        lines = [json.loads(line) for line in gzip.decompress(table.read_bytes()).decode().splitlines()[1:]]
        for metric, sign in (('loss', -1), ('top1', 1)):
            landscape, repeated = read_landscape(table, metric)
            assert len(landscape) == 700
            assert len(landscape.ranked) == 699
            for line in lines:
                score = landscape.scores[landscape.space.genotype(line['values'])]
                assert (
                    math.isnan(score) if line['metrics'] is None else score == sign * line['metrics'][metric]
                )
            assert sorted(repeated) == sorted(
                [trained[metric] for trained in (line['metrics'], *line['again'])]
                for line in lines
                if 'again' in line
            )
            means = [sum(values) / 3 for values in repeated]
            assert means == sorted(means, reverse=sign > 0)
            assert variance_share(repeated).noise == pytest.approx(0.05 if sign < 0 else 2, rel=0.25)

    def test_noise_is_that_of_good_architectures(self):
        """The best third scatters by 1, the others by 9."""
        rng = Random(0)
        repeated = [[rng.gauss(0, 1 if i < 100 else 9) for _ in range(3)] for i in range(300)]
        assert find_noise(repeated) == pytest.approx(1, rel=0.1)
        assert find_noise(repeated[:5]) is None

    def test_without_repeated_trainings(self, table, tmp_path):
        path = tmp_path / 'once.jsonl'
        lines = [json.loads(line) for line in gzip.decompress(table.read_bytes()).decode().splitlines()]
        for line in lines:
            line.pop('again', None)
        path.write_text('\n'.join(map(json.dumps, lines)))
        assert read_landscape(path, 'loss')[1] == []


class TestCommand:
    def test_prints_and_draws(self, table, tmp_path, capsys, alone, monkeypatch):
        monkeypatch.setattr(comparison_report, 'PARTS', 2)
        out = tmp_path / 'figure.png'
        arguments = ['search', 'compare', str(table), '--seeds', '5', '--budget', '90', '--out', str(out)]
        assert main(arguments) == 0
        printed = capsys.readouterr().out
        assert '700 architectures, of which 1 failed' in printed
        assert 'loss (less is better): best' in printed
        assert 'intraclass correlation, n = 40' in printed
        for contender in STRATEGIES:
            assert printed.count(f'\n{contender.label}') == 1 + (contender is not BASELINE)
        for text in ('mean of 5 seeds', 'after 22', 'after 45', 'after 90', 'minus random', '\nA: stage'):
            assert text in printed
        assert max(map(len, printed.splitlines())) <= 130
        with Image.open(out) as image:
            assert image.format == 'PNG'
            assert image.width > 1000

    def test_more_is_better(self, table, tmp_path, capsys, alone):
        out = str(tmp_path / 'figure.png')
        arguments = ['--seeds', '5', '--metric', 'top1', '--budget', '20', '--out', out]
        assert main(['search', 'compare', str(table), *arguments]) == 0
        printed = capsys.readouterr().out
        assert 'top1 (more is better): best' in printed
        assert 'On parts' not in printed  # too few evaluations for any

    @pytest.mark.parametrize(
        ('arguments', 'words'),
        [
            (['nowhere.jsonl'], ["There is no configuration 'nowhere.jsonl'"]),
            (['TABLE', '--metric', 'top5'], ["'loss', 'top1'", "'top5' is needed"]),
            (['TABLE', '--budget', '701'], ['--budget', 'found 701', '700']),
            (['TABLE', '--seeds', '2'], ['--seeds', 'found 2', '5 to 1000']),
            (['TABLE', '--out', 'nowhere/figure.png'], ['--out', "'nowhere/figure.png'", 'exists']),
            (['TABLE', '--out', 'figure.jpg'], ['--out', "'figure.jpg'", '.png']),
        ],
    )
    def test_mistakes_are_one_sentence(self, arguments, words, table, tmp_path, capsys, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert main(['search', 'compare', *(str(table) if a == 'TABLE' else a for a in arguments)]) == 1
        printed = capsys.readouterr()
        assert len(printed.err.strip().splitlines()) == 1
        for word in words:
            assert word in printed.err
        assert printed.out == ''
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ('lines', 'message'),
        [
            ([{'genotype': [0], 'metrics': {'loss': 1.0}}], 'found no config'),
            ([{'table': {'architectures': 3}}], 'found no config'),
            ([{'table': {'config': {'method': 'x'}}}], r'table\.config: method'),
        ],
    )
    def test_tables_of_an_unknown_space(self, lines, message, tmp_path):
        path = tmp_path / 'table.jsonl'
        path.write_text('\n'.join(map(json.dumps, lines)))
        with pytest.raises(ZooError, match=message):
            read_landscape(path, 'loss')

    def test_a_table_of_failures(self, table, tmp_path):
        path = tmp_path / 'table.jsonl'
        lines = gzip.decompress(table.read_bytes()).decode().splitlines()
        path.write_text('\n'.join([lines[0], json.dumps(json.loads(lines[1]) | {'metrics': None})]))
        with pytest.raises(ZooError, match='found failures only'):
            read_landscape(path, 'loss')


def test_everything_found_at_once_is_shown():
    """No regret is left anywhere: nothing to take a logarithm of."""
    landscape = Landscape('flat', SPACE, dict.fromkeys(SPACE.enumerate(), 1.0))
    found = compare([landscape] * 2, [8, 4], 5, [BASELINE, SMALL])
    assert '0.000 [0.000, 0.000]' in '\n'.join(describe_comparisons(found, [BASELINE, SMALL], 'loss'))
    assert draw_comparison(found, [BASELINE, SMALL], 'loss', None).startswith(b'\x89PNG')
