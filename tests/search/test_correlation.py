"""How a run's estimates rank networks, against the definition of Kendall's tau and against known orders."""

import gzip
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from search.config import load_config
from search.correlation import _ceiling, correlate, describe, rank_correlation, spearman, summarize
from search.methods import METHODS
from search.problem import Problem
from search.table import read_rows
from search.variance import variance_share
from zoo.console import main
from zoo.errors import ZooError

HERE = Path(__file__).parent
FAST = ['retrain.epochs=1', 'retrain.batch_size=512']


def tau_b(x, y) -> float:
    """By the definition, over all pairs."""
    concordant = ties_x = ties_y = 0
    pairs = list(itertools.combinations(zip(x, y, strict=True), 2))
    for (a, b), (c, d) in pairs:
        concordant += np.sign(a - c) * np.sign(b - d)
        ties_x += a == c
        ties_y += b == d
    return concordant / math.sqrt((len(pairs) - ties_x) * (len(pairs) - ties_y))


@pytest.mark.parametrize('levels', [3, 10, 1000])
def test_tau_by_its_definition(levels):
    rng = np.random.default_rng(levels)
    x, y = rng.integers(levels, size=(2, 40))
    found = rank_correlation(x, x + y)
    assert found.tau == pytest.approx(tau_b(x, x + y))
    assert found.tau == pytest.approx(stats.kendalltau(x, x + y).statistic)
    assert found.interval[0] <= found.tau <= found.interval[1]
    assert found.n == 40
    assert spearman(x, x + y) == pytest.approx(stats.spearmanr(x, x + y).statistic)


def test_interval_covers_what_is_true():
    """Of normal scores with correlation rho, tau is 2 / pi asin(rho)."""
    rho, covered = 0.6, 0
    true = 2 / math.pi * math.asin(rho)
    for seed in range(200):
        x, noise = np.random.default_rng(seed).normal(size=(2, 50))
        low, high = rank_correlation(x, rho * x + math.sqrt(1 - rho**2) * noise).interval
        covered += low <= true <= high
    assert covered >= 176  # of 200: at 95 % fewer are rarer than 1e-4, at 80 % as many are rarer than 0.01


def test_orders_that_are_known():
    forward = list(range(20))
    assert rank_correlation(forward, forward).tau == pytest.approx(1)
    assert rank_correlation(forward, forward[::-1]).tau == pytest.approx(-1)
    noise = np.random.default_rng(0).permutation(20)
    low, high = rank_correlation(forward, noise).interval
    assert low < 0 < high


def test_the_best_third_is_that_of_the_truth():
    """Well ranked on the whole and the wrong way round among the best."""
    points = [{'genotype': [i], 'supernet': i if i < 20 else 60 - i, 'alone': i} for i in range(30)]
    found = summarize(points)
    assert (found['n'], found['n_top_third']) == (30, 10)
    assert found['tau_top_third'] == pytest.approx(-1)
    assert found['tau'] > 0.5


def test_equal_scores_have_no_order():
    points = [{'genotype': [i], 'supernet': min(i, 20), 'alone': i} for i in range(30)]
    found = summarize(points)
    assert found['tau'] > 0.5
    assert (found['tau_top_third'], found['interval_top_third'], found['n_top_third']) == (None, None, 10)
    text = '\n'.join(describe(found | {'objective': 'top1', 'repeatability': None}))
    assert 'the best third   not measured: all scores are equal, n = 10' in text
    assert summarize([point | {'supernet': 1} for point in points])['tau'] is None


@pytest.mark.parametrize(('noise', 'trainings'), [(0.5, 1), (1.0, 4)])
def test_ceiling_is_the_tau_of_the_truth_with_noisy_means(noise, trainings):
    rng = np.random.default_rng(0)
    truth = rng.normal(size=4000)
    groups = truth[:, None] + noise * rng.normal(size=(4000, 5))
    share = variance_share(groups[:, -2:].tolist()).share
    expected = stats.kendalltau(truth, groups[:, :trainings].mean(1)).statistic
    assert _ceiling(share, trainings) == pytest.approx(expected, abs=0.02)
    assert _ceiling(1.0, 1) == 1
    assert _ceiling(-0.2, 3) == 0
    assert _ceiling(math.nan, 3) is None


@pytest.fixture(scope='module')
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('run')
    config = load_config(HERE / 'tiny.yaml', ['compare=null'])
    METHODS[config.method](config, folder, quiet=True)
    return folder


def test_a_run(run):
    before = {path.name for path in run.iterdir()}
    [(section, record)] = correlate(run, FAST, 12, 2, quiet=True)
    assert section == ''
    assert {path.name for path in run.iterdir()} - before == {'alone', 'correlation.json'}
    assert json.loads((run / 'correlation.json').read_bytes()) == json.loads(json.dumps(record))
    assert (record['n'], record['n_top_third'], len(record['points'])) == (12, 4, 12)
    pairs = zip(*((point['supernet'], point['alone']) for point in record['points']), strict=True)
    assert record['tau'] == pytest.approx(tau_b(*pairs))
    rows = read_rows(run / 'alone' / 'table.jsonl.gz', Problem(load_config(HERE / 'tiny.yaml')).space.space)
    for point in record['points']:
        row = rows[tuple(point['genotype'])]
        both = [row.metrics['loss'], *(metrics['loss'] for metrics in row.again)]
        assert (len(both), point['alone']) == (2, pytest.approx(-sum(both) / 2))
    assert record['trainings'] == 2
    assert record['repeatability'] is not None
    assert all(point['supernet'] < 0 and point['alone'] < 0 for point in record['points'])
    text = '\n'.join(describe(record))
    assert 'n = 12' in text
    assert 'loss on val' in text


def test_estimates_are_the_searchs_own(run):
    """A network that the search has scored has the same score here."""
    correlate(run, FAST, 12, 2, quiet=True)
    points = json.loads((run / 'correlation.json').read_bytes())['points']
    searched = json.loads((run / 'search.json').read_bytes())['candidates']
    scores = {tuple(c['genotype']): c['score'] for c in searched if 'images' not in c}
    common = [point for point in points if tuple(point['genotype']) in scores]
    for point in common:
        assert point['supernet'] == pytest.approx(scores[tuple(point['genotype'])], abs=1e-6)


def test_both_levels(tmp_path, capsys):
    config = load_config(HERE / 'tiny_glit.yaml', ['compare=null'])
    METHODS[config.method](config, tmp_path, quiet=True)
    assert main(['search', 'correlate', str(tmp_path), *FAST, '--architectures', '6']) == 0
    printed = capsys.readouterr().out
    for level in ('level1', 'level2'):
        assert (tmp_path / level / 'correlation.json').is_file()
        assert f'{tmp_path / level}: 6 networks' in printed


class TestMistakes:
    def test_no_run(self, tmp_path, capsys):
        assert main(['search', 'correlate', str(tmp_path)]) == 1
        assert 'found no config.json' in capsys.readouterr().err

    def test_no_supernet_yet(self, run, tmp_path):
        (tmp_path / 'config.json').write_bytes((run / 'config.json').read_bytes())
        with pytest.raises(ZooError, match=r'supernet\.safetensors: found nothing'):
            correlate(tmp_path, quiet=True)

    def test_a_method_without_candidates(self, tmp_path):
        config = load_config(HERE / 'tiny_carnet.yaml').decisive()
        (tmp_path / 'config.json').write_text(json.dumps({'config': config, 'versions': {}}))
        with pytest.raises(ZooError, match='differentiable scores no candidates'):
            correlate(tmp_path, quiet=True)

    def test_too_few(self, run, tmp_path):
        table = tmp_path / 'table.jsonl'
        rows = (run / 'alone' / 'table.jsonl.gz').read_bytes()
        table.write_bytes(b''.join(gzip.decompress(rows).splitlines(keepends=True)[:5]))
        with pytest.raises(ZooError, match='found 4 networks with both scores, at least 5'):
            correlate(run, table=table, quiet=True)
