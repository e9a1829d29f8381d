"""Small random spaces with costs, what they must contain by brute force, and exact distributions of draws."""

import itertools
from collections import Counter
from collections.abc import Callable, Hashable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import strategies as st

from search.cost import CostModel, Factor
from search.space import Choice, Space

VALUES = st.lists(st.integers(1, 9) | st.sampled_from([0.5, 2.5]), min_size=1, max_size=3, unique=True).map(
    tuple
)


@st.composite
def small_spaces(draw: st.DrawFn, max_choices: int = 6) -> Space:
    """Up to 3**6 architectures; a choice may depend on any earlier one."""
    choices: list[Choice] = []
    for i in range(draw(st.integers(1, max_choices))):
        parent = draw(st.sampled_from([None, *choices]))
        if parent is None:
            choices.append(Choice(f'c{i}', draw(VALUES)))
        else:
            when = draw(st.lists(st.sampled_from(parent.values), min_size=1, unique=True))
            choices.append(Choice(f'c{i}', draw(VALUES), parent.name, tuple(when)))
    return Space('small', tuple(choices))


@st.composite
def small_models(draw: st.DrawFn, max_choices: int = 5, max_cost: int = 10**9) -> CostModel:
    """A small space with random costs of one to three choices each, and a constant."""
    space = draw(small_spaces(max_choices))
    names = [choice.name for choice in space.choices]
    scopes = draw(st.lists(st.lists(st.sampled_from(names), max_size=3, unique=True), max_size=6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    factors = []
    for scope in [[], *scopes]:
        shape = tuple(len(space.choices[space.position(name)].values) for name in scope)
        factors.append(Factor(tuple(scope), *rng.integers(0, max_cost, (2, *shape))))
    return CostModel(space, factors)


@pytest.fixture(scope='session')
def spaces() -> st.SearchStrategy[Space]:
    return small_spaces()


@pytest.fixture(scope='session')
def models() -> Callable[..., st.SearchStrategy[CostModel]]:
    return small_models


@pytest.fixture(scope='session')
def brute_force() -> Callable[[Space], list[dict]]:
    """All architectures of a space as {choice: value}, from the definition of an active choice."""

    def list_all(space: Space) -> list[dict]:
        found = set()
        for values in itertools.product(*(choice.values for choice in space.choices)):
            chosen = dict(zip((choice.name for choice in space.choices), values, strict=True))
            active: dict[str, bool] = {}
            for choice in space.choices:
                parent = choice.parent
                active[choice.name] = parent is None or (active[parent] and chosen[parent] in choice.when)
            found.add(tuple((name, value) for name, value in chosen.items() if active[name]))
        return [dict(items) for items in found]

    return list_all


class Scripted:
    """A ``random.Random`` whose draws follow a script, then take the first outcome, and are weighed."""

    def __init__(self, script: list[int]) -> None:
        self.script = script
        self.taken: list[tuple[int, int]] = []
        self.probability = Fraction(1)

    def branch(self, probabilities: list[Fraction]) -> int:
        index = self.script[len(self.taken)] if len(self.taken) < len(self.script) else 0
        self.taken.append((index, len(probabilities)))
        self.probability *= probabilities[index]
        return index

    def randrange(self, stop: int) -> int:
        return self.branch([Fraction(1, stop)] * stop)

    def random(self) -> 'Uniform':
        return Uniform(self)


class Uniform:
    """A number drawn from [0, 1) that is only compared with a probability."""

    def __init__(self, rng: Scripted) -> None:
        self.rng = rng

    def __lt__(self, prob: float) -> bool:
        return self.rng.branch([Fraction(prob), 1 - Fraction(prob)]) == 0


@pytest.fixture(scope='session')
def distribution() -> Callable[[Callable], dict[Hashable, Fraction]]:
    """The exact probability of each result of ``draw(rng)``: every path through its random decisions."""

    def explore(draw: Callable) -> dict[Hashable, Fraction]:
        results: Counter = Counter()
        script: list[int] = []
        while True:
            rng = Scripted(script)
            result = draw(rng)
            results[result] += rng.probability
            taken = rng.taken
            while taken and taken[-1][0] + 1 == taken[-1][1]:
                taken.pop()
            if not taken:
                return {result: probability for result, probability in results.items() if probability}
            script = [index for index, _ in taken[:-1]] + [taken[-1][0] + 1]

    return explore
