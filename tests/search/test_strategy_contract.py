"""One contract for every strategy, on flat and conditional spaces, with and without a budget."""

import json
import math
import random
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from search.budget import BudgetSampler, Limits
from search.sampling import SpaceSampler
from search.space import Choice, Space
from search.spaces import load_space
from search.strategies import make_strategy
from zoo.errors import ZooError

BLOCKS = dict(depth=[1, 2, 3], num_heads=[1], mlp_ratio=[1, 2, 3])
STAGES = [
    dict(embed_dim=[8, 16], window_size=[2, 4, 8], **BLOCKS),
    dict(embed_dim=[16, 24, 32], window_size=[2, 4, 8], **BLOCKS),
]
DIGITS = load_space({'family': 's3', 'stages': STAGES}, (1, 32, 32))
MODEL = DIGITS.cost_model(10)
MIDDLE = MODEL.cost(DIGITS.space.largest()).params / 2
FLAT = Space('flat', tuple(Choice(f'x{i}', tuple(range(2 + i % 4))) for i in range(9)))


def operator_space(num_blocks):
    """Blocks of one of two operators, which have choices of their own, one of them nested."""
    choices = []
    for name in (f'block{i}' for i in range(num_blocks)):
        choices += [
            Choice(f'{name}.op', ('conv', 'attention')),
            Choice(f'{name}.kernel', (3, 5, 7), f'{name}.op', ('conv',)),
            Choice(f'{name}.heads', (1, 2), f'{name}.op', ('attention',)),
            Choice(f'{name}.window', (4, 8), f'{name}.heads', (2,)),
        ]
    return Space('operators', (*choices, Choice('width', (8, 16, 24))))


STRATEGIES = {
    'random': {'name': 'random'},
    'evolution': {'name': 'evolution', 'population': 8, 'parents': 3, 'mutation': 4, 'crossover': 3},
    'autoformer': {
        'name': 'evolution',
        'preset': 'autoformer',
        'population': 6,
        'mutation': 3,
        'crossover': 3,
    },
    'ppo': {'name': 'ppo', 'batch': 7, 'width': 8, 'epochs': 2, 'rounds': 4},
    'greedy ppo': {'name': 'ppo', 'batch': 5, 'width': 8, 'lr': 0.1, 'entropy': 0.0, 'rounds': 2},
}
SAMPLERS = {
    'flat': SpaceSampler(FLAT),
    'operators': SpaceSampler(operator_space(3)),
    'uniform': SpaceSampler(DIGITS.space),
    'hierarchical': SpaceSampler(DIGITS.space, hierarchical=True),
    'budget': BudgetSampler(MODEL, Limits(params=(0.98 * MIDDLE, MIDDLE))),
}
TINY = operator_space(1)


@pytest.fixture(params=STRATEGIES.values(), ids=STRATEGIES)
def data(request):
    return request.param


@pytest.fixture(params=SAMPLERS.values(), ids=SAMPLERS)
def sampler(request):
    return request.param


def score(genotype):
    """Failures, ties and optima; depends on nothing but the genotype."""
    total = sum(index * (1 + i % 3) for i, index in enumerate(genotype))
    return None if total % 7 == 0 else -abs(total - 17) / 3


def run(strategy, number, workers=1, seed=0, scorer=score):
    """Keeps workers busy, finishes candidates in random order until so many are told; gives the asked."""
    rng = Random(seed)
    running = strategy.pending
    told = len(strategy.genotypes) - len(running)
    while told < number:
        candidate = strategy.ask() if len(running) < workers and told + len(running) < number else None
        if candidate is not None:
            running.append(candidate)
        elif running:
            candidate = running.pop(rng.randrange(len(running)))
            strategy.tell(candidate, scorer(candidate))
            told += 1
        else:
            break
    return strategy.genotypes


def make(data, sampler, seed=0):
    return make_strategy(data, sampler, seed, key_of(sampler))


def key_of(sampler):
    return DIGITS.decode if sampler.space is DIGITS.space else tuple


def test_asks_different_networks_that_the_sampler_allows(data, sampler):
    strategy = make(data, sampler)
    asked = run(strategy, 60)
    assert len(asked) == len(set(map(key_of(sampler), asked))) == 60
    assert all(map(sampler.allows, asked))
    assert all(
        sampler.space.canonical([max(index, 0) for index in genotype]) == genotype for genotype in asked
    )
    assert strategy.scores == list(map(score, asked))
    assert strategy.pending == []


def test_seed_decides(data, sampler):
    assert (
        run(make(data, sampler, 1), 30) == run(make(data, sampler, 1), 30) != run(make(data, sampler, 2), 30)
    )


def test_global_generators_are_neither_used_nor_moved(data, sampler):
    expected = run(make(data, sampler), 30)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    assert run(make(data, sampler), 30) == expected
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    assert after == before


@pytest.mark.parametrize('workers', [2, 5, 30])
def test_workers_and_their_order_change_nothing(data, sampler, workers):
    alone, together = make(data, sampler), make(data, sampler)
    assert run(alone, 40) == run(together, 40, workers, seed=workers)
    assert alone.state() == together.state()


@settings(max_examples=30, deadline=None)
@given(
    stops=st.lists(st.integers(0, 45), max_size=3),
    workers=st.integers(1, 9),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_restored_run_asks_the_same(stops, workers, seed, data):
    """Stopped anywhere, with candidates out, and continued in another process from JSON."""
    name, limits = data.draw(st.sampled_from([*STRATEGIES])), data.draw(st.sampled_from([*SAMPLERS]))
    whole = make(STRATEGIES[name], SAMPLERS[limits])
    expected = list(run(whole, 45))
    strategy = make(STRATEGIES[name], SAMPLERS[limits])
    for stop in sorted(stops):
        run(strategy, stop, workers, seed)
        for _ in range(data.draw(st.integers(0, 4))):
            strategy.ask()
        state = json.loads(json.dumps(strategy.state(), allow_nan=False))
        pending = strategy.pending
        strategy = make(STRATEGIES[name], SAMPLERS[limits])
        strategy.restore(state)
        assert strategy.pending == pending
        assert strategy.state() == state
    run(strategy, 45, workers, seed)
    assert strategy.genotypes[:45] == expected
    if len(strategy.genotypes) == 45:
        assert strategy.state() == whole.state()


def test_asking_and_saving_change_nothing(data, sampler):
    strategy = make(data, sampler)
    run(strategy, 20)
    state = strategy.state()
    assert strategy.propose() == strategy.propose()
    assert strategy.state() == state
    assert strategy.propose() == strategy.ask()
    undisturbed = make(data, sampler)
    assert run(undisturbed, 20) == strategy.genotypes[:20]
    assert undisturbed.ask() == strategy.genotypes[20]


def test_scores_below_the_settled_one_change_nothing(data, sampler):
    """An evaluation that is given up tells another score than a whole one; the search goes on the same."""
    whole, given_up = make(data, sampler), make(data, sampler)
    while len(given_up.genotypes) < 60:
        candidate = given_up.ask()
        count, needed = given_up.settled()
        assert all(genotype not in given_up.pending for genotype in given_up.genotypes[:count])
        value = score(candidate)
        if value is not None and value < needed:
            value = (value + needed) / 2
        given_up.tell(candidate, value)
    assert run(whole, 60) == given_up.genotypes


@pytest.mark.parametrize('workers', [1, 3])
def test_small_space_ends(data, workers):
    strategy = make_strategy(data, SpaceSampler(TINY), 0)
    asked = run(strategy, 100, workers=workers)
    assert sorted(asked) == sorted(TINY.enumerate())
    assert strategy.ask() is None


@pytest.fixture(scope='module')
def twenty():
    """A budget that few architectures meet, in a space too large to look through."""
    part = DIGITS.restrict({'stage1.depth': [2, 3], 'stage2.depth': 2, 'stage2.embed_dim': [16, 24]})
    part = part.restrict({f'stage1.block{j}.window_size': 4 for j in (2, 3)})
    assert part.space.size() > 2e4
    model = part.cost_model(10)
    genotypes = list(part.space.enumerate())
    params = model.costs(genotypes)[:, 0]
    limits = Limits(params=(0, sorted(params)[19]))
    return BudgetSampler(model, limits), {
        g for g, value in zip(genotypes, params, strict=True) if value <= limits.params[1]
    }


def test_small_budget_ends(data, twenty):
    sampler, feasible = twenty
    strategy = make_strategy(data, sampler, 0)
    assert set(run(strategy, 1000, scorer=sum)) == feasible
    assert strategy.ask() is None


def test_small_space_ends_when_networks_are_equal(data):
    strategy = make_strategy(data, SpaceSampler(TINY), 0, key=lambda genotype: genotype[-1])
    assert sorted(genotype[-1] for genotype in run(strategy, 100, scorer=sum)) == [0, 1, 2]


def test_candidates_may_all_fail(data, sampler):
    strategy = make(data, sampler)
    assert len(run(strategy, 30, workers=4, scorer=lambda genotype: None)) == 30
    assert strategy.scores == [None] * 30


def test_scores_may_all_be_equal(data, sampler):
    assert len(run(make(data, sampler), 30, scorer=lambda genotype: 0.0)) == 30


@pytest.mark.parametrize('value', [None, math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_a_failure(data, value):
    strategy = make(data, SAMPLERS['uniform'])
    strategy.tell(strategy.ask(), value)
    assert strategy.scores == [None]
    json.dumps(strategy.state(), allow_nan=False)


def test_only_pending_candidates_can_be_told(data):
    strategy = make(data, SAMPLERS['uniform'])
    candidate = strategy.ask()
    other = next(genotype for genotype in DIGITS.space.enumerate() if genotype != candidate)
    with pytest.raises(ZooError, match=r'never asked.* 1 pending'):
        strategy.tell(other, 1.0)
    strategy.tell(candidate, 1.0)
    with pytest.raises(ZooError, match=r'score already.* 0 pending'):
        strategy.tell(candidate, 2.0)
    assert strategy.scores == [1.0]


def test_state_of_another_space_is_refused(data):
    state = make(data, SAMPLERS['uniform']).state() | {
        'genotypes': [[0, 0, 0]],
        'scores': [None],
        'pending': [0],
    }
    with pytest.raises(ZooError, match='found 3 indices'):
        make(data, SAMPLERS['uniform']).restore(state)
