"""Budgets against brute force: what is drawn, how evenly, what is refused; tight ones are no slower."""

import math
from collections import Counter
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search import budget
from search.budget import BudgetSampler, Limits
from search.budget_layers import build_layers
from search.cost import Cost
from search.spaces import load_space
from zoo.errors import ZooError


@pytest.fixture(scope='module')
def paper():
    """The cost model of S3's initial space at 224 pixels, and the costs of 20,000 of its architectures."""
    model = load_space('s3').cost_model(1000)
    rng = Random(0)
    return model, np.sort(model.costs([model.space.sample(rng) for _ in range(20_000)]), axis=0)


@pytest.fixture
def coarse(monkeypatch):
    """So few bins that almost every cost is blurred."""
    monkeypatch.setattr(budget, 'CELLS', (16,))


def draw_interval(data, costs):
    ends = st.sampled_from(costs) | st.integers(min(costs) - 2, max(costs) + 2)
    return tuple(sorted((data.draw(ends), data.draw(ends))))


def draw_limits(data, model):
    costs = [model.cost(genotype) for genotype in model.space.enumerate()]
    params, macs = ([cost[axis] for cost in costs] for axis in range(2))
    return Limits(
        params=draw_interval(data, params) if data.draw(st.booleans()) else None,
        macs=draw_interval(data, macs) if data.draw(st.booleans()) else None,
    )


def is_uniform(draws, feasible):
    """Chi-square within four standard deviations of its mean."""
    counts = Counter(draws)
    expected = len(draws) / len(feasible)
    chi_square = sum((counts[genotype] - expected) ** 2 / expected for genotype in feasible)
    degrees = len(feasible) - 1
    return set(counts) <= set(feasible) and abs(chi_square - degrees) <= 4 * math.sqrt(2 * degrees) + 1e-9


@settings(max_examples=60)
@given(data=st.data())
def test_layers_hold_every_architecture_once_with_its_cost(models, data):
    model = data.draw(models(max_choices=6))
    layers = build_layers(model)

    def walk(t, context, genes, cost):
        if t == len(layers):
            yield genes, cost
            return
        layer = layers[t]
        assert layer.start == len(genes)
        for option in np.flatnonzero(layer.target[context] >= 0):
            added = tuple(layer.genes[context, option].tolist())
            yield from walk(
                t + 1, layer.target[context, option], genes + added, cost + layer.costs[context, option]
            )

    found = [(genes, Cost(*cost.tolist())) for genes, cost in walk(0, 0, (), np.zeros(2, np.int64))]
    assert sorted(found) == sorted((genes, model.cost(genes)) for genes in model.space.enumerate())


@pytest.mark.parametrize('max_cost', [100, 10**9])
@settings(max_examples=80)
@given(data=st.data())
def test_draws_what_is_feasible_or_says_that_nothing_is(models, max_cost, data):
    model = data.draw(models(max_cost=max_cost))
    limits = draw_limits(data, model)
    feasible = [genotype for genotype in model.space.enumerate() if limits.allow(model.cost(genotype))]
    if not feasible:
        with pytest.raises(ZooError, match='limits: found '):
            BudgetSampler(model, limits)
        return
    sampler = BudgetSampler(model, limits)
    assert [genotype for genotype in model.space.enumerate() if sampler.allows(genotype)] == feasible
    assert {sampler.sample(Random(seed)) for seed in range(10)} <= set(feasible)
    assert sampler.share() == pytest.approx(len(feasible) / model.space.size(), rel=0.1)


@pytest.mark.parametrize('binding', [('params',), ('macs',), ('params', 'macs')])
@pytest.mark.parametrize('bins', ['fine', 'coarse'])
@pytest.mark.parametrize('seed', range(2))
def test_uniform_over_the_feasible(models, request, binding, bins, seed):
    if bins == 'coarse':
        request.getfixturevalue('coarse')
    model = make_model(seed)
    genotypes = list(model.space.enumerate())
    costs = model.costs(genotypes)
    middle = np.quantile(costs, [0.3, 0.7], axis=0)
    limits = Limits(
        **{name: tuple(middle[:, axis]) for axis, name in enumerate(Cost._fields) if name in binding}
    )
    feasible = [genotype for genotype in genotypes if limits.allow(model.cost(genotype))]
    assert 20 < len(feasible) < len(genotypes) / 2
    sampler = BudgetSampler(model, limits)
    draws: list = []
    for generator in map(np.random.default_rng, range(1000)):
        for accepted, _ in sampler._batches(generator):
            draws += map(tuple, accepted.tolist())
            if len(accepted) > 500:
                break
        if len(draws) > 40 * len(feasible):
            break
    assert is_uniform(draws, feasible)
    assert sampler.share(0.01) == pytest.approx(len(feasible) / len(genotypes), rel=0.05)


def make_model(seed):
    """Two stages of one or two blocks: 800 architectures with costs that bins blur."""
    data = {'family': 's3', 'stages': [STAGE, STAGE | {'embed_dim': [16, 24]}]}
    return load_space(data, (3, 32 + 8 * seed, 32)).cost_model(10)


STAGE = dict(embed_dim=[8], depth=[1, 2], window_size=[2, 4], num_heads=[1, 2], mlp_ratio=[1])


def test_attainable_range_is_exact_and_named(paper):
    model, _ = paper
    smallest, largest = (model.cost(genotype) for genotype in (model.space.smallest(), model.space.largest()))
    for name in Cost._fields:
        low, high = getattr(smallest, name), getattr(largest, name)
        for limit, expected in (((0, low), low), ((high, math.inf), high)):
            sampler = BudgetSampler(model, Limits(**{name: limit}))
            assert getattr(model.cost(sampler.sample(Random(0))), name) == expected
        for limit in ((0, low - 1), (high + 1, math.inf)):
            with pytest.raises(ZooError) as caught:
                BudgetSampler(model, Limits(**{name: limit}))
            assert f'{name} from {limit[0]:,} to {limit[1]:,}' in str(caught.value)
            assert f'{name} from {low:,} to {high:,}' in str(caught.value)


def test_limits_that_exclude_each_other(paper):
    model, costs = paper
    with pytest.raises(ZooError, match=r'params from .* and macs from .* no architecture'):
        BudgetSampler(model, Limits(params=(0, costs[0, 0]), macs=(costs[-1, 1], math.inf)))


@pytest.mark.parametrize(
    'limit', ['loose', 'least params', 'middle params', 'least macs', 'middle macs', 'both in the middle']
)
def test_tight_budgets_of_a_large_space_are_met_by_few_draws(paper, limit):
    """0.03 % of the space: rejection would need 3,300 draws a sample, the two limits together 22,000."""
    model, costs = paper
    params, macs = costs.T
    limits = {
        'loose': Limits(params=(0, params[10_000])),
        'least params': Limits(params=(0, params[6])),
        'middle params': Limits(params=(params[10_000], params[10_006])),
        'least macs': Limits(macs=(0, macs[6])),
        'middle macs': Limits(macs=(macs[10_000], macs[10_006])),
        'both in the middle': Limits(
            params=(params[10_000], params[10_340]), macs=(macs[10_000], macs[10_340])
        ),
    }[limit]
    sampler = BudgetSampler(model, limits)
    accepted, drawn = sampler._try(100, 10_000)
    assert drawn < (100 if limit == 'both in the middle' else 10) * accepted
    samples = [sampler.sample(Random(seed)) for seed in range(20)]
    assert len(set(samples)) == 20
    assert all(limits.allow(model.cost(sample)) for sample in samples)
    assert all(model.space.canonical([max(i, 0) for i in sample]) == sample for sample in samples)


def test_share_of_a_large_space(paper):
    model, costs = paper
    sampler = BudgetSampler(
        model, Limits(params=(costs[5000, 0], costs[15_000, 0]), macs=(0, costs[10_000, 1]))
    )
    rng = Random(1)
    found = np.mean([sampler.allows(model.space.sample(rng)) for _ in range(20_000)])
    assert sampler.share() == pytest.approx(found, rel=0.06)


def test_deterministic_from_the_generator(paper):
    model, costs = paper
    limits = Limits(macs=(costs[9000, 1], costs[9100, 1]))
    a, b = (BudgetSampler(model, limits) for _ in range(2))
    assert [a.sample(Random(seed)) for seed in range(5)] == [
        b.sample(Random(seed)) for seed in (0, 1, 2, 3, 4)
    ]
    assert a.sample(Random(3)) == b.sample(Random(3))


def test_unlimited_is_uniform_over_the_space():
    model = make_model(0)
    sampler = BudgetSampler(model, Limits())
    rng = Random(0)
    assert is_uniform([sampler.sample(rng) for _ in range(8000)], list(model.space.enumerate()))
    assert sampler.share() == pytest.approx(1)


@pytest.mark.parametrize('limit', [(2, 1), (math.nan, 1), (1,), (1, 'x'), 5, (None, 1)])
def test_limits_that_are_none(limit):
    with pytest.raises(ZooError, match=r'limits: macs: found .*lowest, highest'):
        Limits(macs=limit)
