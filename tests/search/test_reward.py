"""The reward: known values, and what the printed formula of UniNet would get wrong."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from search.reward import Reward
from zoo.errors import ZooError
from zoo.registry import load_entry

UNINET = Reward(target=550e6)
accuracies = st.floats(0, 100)
costs = st.floats(1e3, 1e15)


def test_known_values():
    assert UNINET.alpha == -0.07
    assert UNINET(70.0, 550e6) == 70.0
    assert UNINET(70.0, 1100e6) == pytest.approx(70.0 / 2**0.07)  # MnasNet: twice the cost, 5 % less
    assert UNINET(70.0, 275e6) == pytest.approx(70.0 * 2**0.07)
    assert Reward(target=1.0, alpha=0.0)(0.5, 1e9) == 0.5


@given(accuracy=accuracies, small=costs, large=costs, alpha=st.floats(-2, 0))
def test_larger_network_never_earns_more(accuracy, small, large, alpha):
    small, large = sorted((small, large))
    reward = Reward(target=550e6, alpha=alpha)
    assert reward(accuracy, large) <= reward(accuracy, small)


@given(low=accuracies, high=accuracies, cost=costs)
def test_more_accurate_network_never_earns_less(low, high, cost):
    low, high = sorted((low, high))
    assert UNINET(low, cost) <= UNINET(high, cost)
    if high > low * (1 + 1e-9) + 1e-12:
        assert UNINET(low, cost) < UNINET(high, cost)


def test_failed_accuracy_stays_failed():
    assert math.isnan(UNINET(math.nan, 1e6))


def test_faulty_arguments():
    with pytest.raises(ZooError, match=r'accuracy -2\.3, zero or more'):
        UNINET(-2.3, 1e6)
    with pytest.raises(ZooError, match='cost 0, more than zero'):
        UNINET(70.0, 0)
    for fault in ({'target': 0.0}, {'target': math.inf}, {'target': 1e6, 'alpha': 0.07}, {}):
        with pytest.raises(ValidationError):
            Reward(**fault)


def test_uninets_flops_are_those_of_fvcore():
    """UniNet-B0 costs about the paper's target of 550 M, in the unit of its tables."""
    b0 = load_entry('uninet_b0')
    assert (b0.measured.macs, b0.measured.cost) == (543_530_688, 555_380_288)
    assert UNINET(79.1, b0.measured.cost) == pytest.approx(79.1 * (550 / 555.380288) ** 0.07)


@given(reward=st.floats(1e-9, 1e3), cost=costs, alpha=st.floats(-2, 0))
def test_least_accuracy_that_earns_a_reward(reward, cost, alpha):
    """To the last bit: what is given up below it would have earned less, and nothing else."""
    earn = Reward(target=550e6, alpha=alpha)
    least = earn.find_accuracy(reward, cost)
    assert earn(least, cost) >= reward > earn(math.nextafter(least, 0), cost)


@pytest.mark.parametrize('reward', [0.0, -1.0, -math.inf])
def test_any_accuracy_earns_nothing(reward):
    assert UNINET.find_accuracy(reward, 1e6) == -math.inf
