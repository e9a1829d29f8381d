"""The reward: known values, and what the printed formula of UniNet would get wrong."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from search.reward import Reward
from zoo.errors import ZooError

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
