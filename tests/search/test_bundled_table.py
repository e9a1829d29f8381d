"""The bundled table of the digits: what it must hold, and that a search in it is worth something."""

import numpy as np
import pytest

from search.comparison import STRATEGIES, compare
from search.config import load_config, parse_config
from search.landscape import read_landscape
from search.problem import Problem
from search.table import read_header, read_rows
from search.tabulate import alone_config, list_networks
from search.variance import variance_share
from zoo.registry import config_path

TABLE = config_path('tables/digits.jsonl.gz')


@pytest.fixture(scope='module')
def problem() -> Problem:
    return Problem(alone_config(load_config(config_path('search/digits_table.yaml'))))


def test_it_is_all_of_its_space_within_the_limits(problem):
    rows = read_rows(TABLE, problem.space.space, 'loss')
    assert list(rows) == list_networks(problem, None)
    assert len(rows) >= 2000
    assert sum(len(row.again) == 2 for row in rows.values()) == 200
    assert all(row.metrics is not None for row in rows.values())
    assert all(3e5 <= problem.cost(genotype).macs <= 6e5 for genotype in rows)


def test_it_was_made_by_the_bundled_config(problem):
    header = read_header(TABLE)
    assert parse_config(header['config']).decisive() == problem.config.decisive()
    assert (header['architectures'], header['repeated'], header['seeds']) == (2075, 200, 3)


def test_the_architecture_explains_most_of_it():
    _, repeated = read_landscape(TABLE, 'loss')
    assert variance_share(repeated).share > 0.6


def test_small_evolution_beats_random_search():
    """Fifty seeds, population 16, a tenth of the table: the interval is clear of zero."""
    whole, _ = read_landscape(TABLE, 'loss')
    [found] = compare([whole], [len(whole) // 10], 50, STRATEGIES[:2])
    assert found.difference(STRATEGIES[1].label).high < 0
    assert np.all(np.diff(found.regrets[STRATEGIES[1].label], axis=1) <= 0)
