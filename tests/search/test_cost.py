"""Looked-up costs against a plain sum over the factors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.cost import Cost, CostModel, Factor
from search.space import Choice, Space
from zoo.errors import ZooError


def add_up(model, values):
    """The definition: a factor's entry counts where all of its choices are active."""
    params = macs = 0
    for factor in model.factors:
        if all(name in values for name in factor.names):
            index = tuple(
                model.space.choices[model.space.position(name)].values.index(values[name])
                for name in factor.names
            )
            params += int(factor.params[index])
            macs += int(factor.macs[index])
    return Cost(params, macs)


@given(st.data())
def test_cost_is_the_sum_of_the_factors(models, data):
    model = data.draw(models(max_choices=6))
    genotypes = list(model.space.enumerate())
    expected = [add_up(model, model.space.values(genotype)) for genotype in genotypes]
    assert [model.cost(genotype) for genotype in genotypes] == expected
    batch = model.costs(genotypes)
    assert batch.dtype == np.int64
    assert batch.tolist() == [list(cost) for cost in expected]
    assert model.costs(np.array(genotypes, np.int8)).tolist() == batch.tolist()


def test_no_architectures_cost_nothing(models):
    space = Space('s', (Choice('a', (1, 2)),))
    assert CostModel(space, []).costs([]).shape == (0, 2)
    assert CostModel(space, []).cost((0,)) == Cost(0, 0)


def test_costs_do_not_overflow():
    space = Space('s', tuple(Choice(f'c{i}', (1, 2)) for i in range(40)))
    table = np.array([0, 10**15])
    model = CostModel(space, [Factor((choice.name,), table, table) for choice in space.choices])
    assert model.cost((1,) * 40) == Cost(4 * 10**16, 4 * 10**16)
    assert model.costs([(1,) * 40]).tolist() == [[4 * 10**16, 4 * 10**16]]


def test_wide_factors_stay_apart():
    """Tables are merged for speed only while they are small."""
    space = Space('s', tuple(Choice(f'c{i}', tuple(range(1, 31))) for i in range(4)))
    rng = np.random.default_rng(0)
    factors = [Factor((f'c{i}', f'c{i + 1}'), *rng.integers(0, 99, (2, 30, 30))) for i in range(3)]
    model = CostModel(space, factors)
    assert model.cost((5, 6, 7, 8)) == add_up(model, space.values((5, 6, 7, 8)))


def test_faults():
    space = Space('s', (Choice('a', (1, 2)),))
    with pytest.raises(ZooError, match="'b'"):
        CostModel(space, [Factor(('b',), np.zeros(2, int), np.zeros(2, int))])
    with pytest.raises(ValueError, match=r"\('a',\).*\(2,\)"):
        CostModel(space, [Factor(('a',), np.zeros(3, int), np.zeros(3, int))])
