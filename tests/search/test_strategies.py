"""One contract for every strategy, on spaces with and without a budget; then what is evolution's own."""

import json
import math
from random import Random
from statistics import mean, median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.budget import BudgetSampler, Limits
from search.sampling import SpaceSampler, sandwich
from search.space import INACTIVE, Choice, Space
from search.spaces import load_space
from search.strategies import Evolution, EvolutionSettings, make_strategy
from zoo.errors import ZooError

BLOCKS = dict(depth=[1, 2, 3], num_heads=[1], mlp_ratio=[1, 2, 3])
STAGES = [
    dict(embed_dim=[8, 16], window_size=[2, 4, 8], **BLOCKS),
    dict(embed_dim=[16, 24, 32], window_size=[2, 4, 8], **BLOCKS),
]
DIGITS = load_space({'family': 's3', 'stages': STAGES}, (1, 32, 32))
MODEL = DIGITS.cost_model(10)
MIDDLE = MODEL.cost(DIGITS.space.largest()).params / 2

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
}
SAMPLERS = {
    'uniform': SpaceSampler(DIGITS.space),
    'hierarchical': SpaceSampler(DIGITS.space, hierarchical=True),
    'budget': BudgetSampler(MODEL, Limits(params=(0.98 * MIDDLE, MIDDLE))),
}
TINY = Space('tiny', (Choice('op', ('a', 'b')), Choice('x', (1, 2, 3), 'op', ('a',)), Choice('y', (1, 2))))


@pytest.fixture(params=STRATEGIES.values(), ids=STRATEGIES)
def data(request):
    return request.param


@pytest.fixture(params=SAMPLERS.values(), ids=SAMPLERS)
def sampler(request):
    return request.param


def score(genotype):
    """Failures, ties and one optimum; depends on nothing but the genotype."""
    if sum(genotype) % 7 == 0:
        return None
    return -abs(MODEL.cost(genotype).macs // 1000 - 700)


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
    return make_strategy(data, sampler, seed, DIGITS.decode)


def test_asks_different_networks_that_the_sampler_allows(data, sampler):
    strategy = make(data, sampler)
    asked = run(strategy, 60)
    assert len(asked) == len(set(map(DIGITS.decode, asked))) == 60
    assert all(map(sampler.allows, asked))
    assert all(
        DIGITS.space.canonical([max(index, 0) for index in genotype]) == genotype for genotype in asked
    )
    assert strategy.scores == list(map(score, asked))
    assert strategy.pending == []


def test_seed_decides(data, sampler):
    assert (
        run(make(data, sampler, 1), 30) == run(make(data, sampler, 1), 30) != run(make(data, sampler, 2), 30)
    )


@pytest.mark.parametrize('workers', [2, 5, 30])
def test_workers_and_their_order_change_nothing(data, sampler, workers):
    alone, together = make(data, sampler), make(data, sampler)
    assert run(alone, 40) == run(together, 40, workers, seed=workers)
    assert alone.state() == together.state()


@settings(max_examples=40)
@given(
    stops=st.lists(st.integers(0, 45), max_size=3),
    workers=st.integers(1, 9),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_restored_run_asks_the_same(stops, workers, seed, data):
    """Stopped anywhere, with candidates out, and continued in another process from JSON."""
    name, limits = data.draw(st.sampled_from([*STRATEGIES])), data.draw(st.sampled_from([*SAMPLERS]))
    expected = run(make(STRATEGIES[name], SAMPLERS[limits]), 45)
    strategy = make(STRATEGIES[name], SAMPLERS[limits])
    for stop in sorted(stops):
        run(strategy, stop, workers, seed)
        for _ in range(data.draw(st.integers(0, 4))):
            strategy.ask()
        state = json.loads(json.dumps(strategy.state()))
        pending = strategy.pending
        strategy = make(STRATEGIES[name], SAMPLERS[limits])
        strategy.restore(state)
        assert strategy.pending == pending
        assert strategy.state() == state
    run(strategy, 45, workers, seed)
    assert strategy.genotypes[:45] == expected


def test_asking_changes_nothing_before_the_answer_is_used(data, sampler):
    strategy = make(data, sampler)
    run(strategy, 20)
    assert strategy.propose() == strategy.propose() == strategy.ask()


def test_small_space_ends(data):
    strategy = make_strategy(data, SpaceSampler(TINY), 0)
    asked = run(strategy, 100, workers=3, scorer=sum)
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
    strategy = make_strategy(data, SpaceSampler(TINY), 0, key=lambda genotype: genotype[2])
    assert sorted(genotype[2] for genotype in run(strategy, 100, scorer=sum)) == [0, 1]


def test_candidates_may_all_fail(data, sampler):
    strategy = make(data, sampler)
    assert len(run(strategy, 30, workers=4, scorer=lambda genotype: None)) == 30
    assert strategy.scores == [None] * 30


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


def test_evolution_finds_more_than_random_search():
    """Median over seeds of the best of 150, on a smooth objective over the paper's space."""
    space = load_space('s3').space
    target = space.sample(Random(99))

    def closeness(genotype):
        return sum(a == b != INACTIVE for a, b in zip(genotype, target, strict=True))

    best = {}
    for name in ('random', 'evolution'):
        settings_ = {'name': name} | (
            {} if name == 'random' else {'population': 15, 'mutation': 7, 'crossover': 7}
        )
        strategies = [make_strategy(settings_, SpaceSampler(space), seed) for seed in range(5)]
        best[name] = median(max(map(closeness, run(s, 150, scorer=closeness))) for s in strategies)
    assert best['evolution'] >= best['random'] + 5


def test_offspring_is_of_the_best_of_all_generations():
    """Without mutation every gene of a child is one that a parent has; parents are the best told before."""
    space = load_space('s3').space
    settings_ = EvolutionSettings(population=20, parents=4, mutation=0, crossover=20)
    strategy = Evolution(SpaceSampler(space), 0, settings=settings_)
    fitness = lambda genotype: sum(genotype[:8])  # noqa: E731
    run(strategy, 60, workers=7, scorer=fitness)
    for generation in (1, 2):
        born = generation * 20
        earlier = sorted(range(born), key=lambda i: (-fitness(strategy.genotypes[i]), i))[:4]
        genes = [set(column) for column in zip(*(strategy.genotypes[i] for i in earlier), strict=True)]
        for child in strategy.genotypes[born : born + 20]:
            assert all(
                gene in allowed or gene == INACTIVE for gene, allowed in zip(child, genes, strict=True)
            )
    assert mean(map(fitness, strategy.genotypes[40:])) > mean(map(fitness, strategy.genotypes[:20]))


def test_roots_can_mutate_more_often():
    space = load_space('s3').space
    settings_ = EvolutionSettings(
        population=20, parents=1, mutation=20, crossover=0, mutation_prob=0, root_mutation_prob=0.5
    )
    strategy = Evolution(SpaceSampler(space), 0, settings=settings_)
    run(strategy, 40, scorer=sum)
    parent = max(strategy.genotypes[:20], key=sum)
    for mutant in strategy.genotypes[20:]:
        for choice, old, new in zip(space.choices, parent, mutant, strict=True):
            assert choice.parent is None or old == new or INACTIVE in (old, new)
    roots = [i for i, choice in enumerate(space.choices) if choice.parent is None]
    changed = mean(mutant[i] != parent[i] for mutant in strategy.genotypes[20:] for i in roots)
    assert 0.2 < changed < 0.5  # half of them are drawn anew, a third of those as they were


def test_presets_are_the_published_settings():
    assert make_strategy({'name': 'evolution'}, SAMPLERS['uniform'], 0).settings == EvolutionSettings(
        population=50, parents=10, mutation=25, crossover=25, mutation_prob=0.1, root_mutation_prob=None
    )
    assert make_strategy(STRATEGIES['autoformer'], SAMPLERS['uniform'], 0).settings == EvolutionSettings(
        population=6, parents=10, mutation=3, crossover=3, mutation_prob=0.2, root_mutation_prob=0.4
    )


def test_evolution_within_a_tight_budget_of_the_paper_space():
    family_space = load_space('s3')
    model = family_space.cost_model(1000)
    middle = (
        sum(model.cost(g).macs for g in (family_space.space.largest(), family_space.space.smallest())) / 2
    )
    sampler = BudgetSampler(model, Limits(macs=(middle, 1.0002 * middle)))
    assert sampler.share() < 1e-3
    strategy = make_strategy(
        {'name': 'evolution', 'population': 10, 'mutation': 5, 'crossover': 5}, sampler, 0
    )
    asked = run(strategy, 40, scorer=sum)
    assert len(set(asked)) == 40
    assert all(middle <= model.cost(genotype).macs <= 1.0002 * middle for genotype in asked)


@pytest.mark.parametrize(
    ('data', 'words'),
    [
        ({}, ['$.name', 'None', 'random, evolution']),
        ({'name': 'ppo2'}, ['$.name', "'ppo2'", 'random, evolution']),
        ({'name': 'random', 'population': 3}, ['population', 'no settings']),
        ({'name': 'evolution', 'preset': 'x'}, ['$.preset', "'x'", 'spos, autoformer']),
        ({'name': 'evolution', 'size': 3}, ['strategy: $.size', 'population']),
        ({'name': 'evolution', 'population': 0}, ['strategy: $.population', '0']),
        ({'name': 'evolution', 'population': 10}, ['mutation + crossover is 50', '10']),
        ({'name': 'evolution', 'mutation_prob': 1.5}, ['strategy: $.mutation_prob', '1.5']),
        ({'name': 'evolution', 'mutation_prob': math.nan}, ['strategy:']),
    ],
)
def test_faulty_settings(data, words):
    with pytest.raises(ZooError) as caught:
        make_strategy(data, SAMPLERS['uniform'], 0)
    assert all(word in str(caught.value) for word in words), caught.value


def test_sandwich():
    space = DIGITS.space
    drawn = sandwich(SpaceSampler(space), Random(0))
    assert drawn[:2] == [space.largest(), space.smallest()]
    assert len(set(drawn)) == 4
    assert drawn == sandwich(SpaceSampler(space), Random(0)) != sandwich(SpaceSampler(space), Random(1))
    assert sandwich(SpaceSampler(space), Random(0), 0, largest=False) == [space.smallest()]
    one = Space('one', (Choice('a', (1,)),))
    assert sandwich(SpaceSampler(one), Random(0)) == [(0,)]
