"""Evolution's own behaviour, the settings of all strategies, and sandwiches. See also the contract test."""

import math
from random import Random
from statistics import mean, median

import pytest

from search.budget import BudgetSampler, Limits
from search.sampling import SpaceSampler, sandwich
from search.space import INACTIVE, Choice, Space
from search.spaces import load_space
from search.strategies import Evolution, EvolutionSettings, make_strategy
from zoo.errors import ZooError

DIGITS = load_space(
    {
        'family': 's3',
        'stages': [
            dict(
                embed_dim=[8, 16],
                depth=[1, 2, 3],
                window_size=[2, 4, 8],
                num_heads=[1],
                mlp_ratio=[1, 2, 3],
            )
        ],
    },
    (1, 32, 32),
).space


def run(strategy, number, scorer=sum):
    while len(strategy.genotypes) < number and (candidate := strategy.ask()) is not None:
        strategy.tell(candidate, scorer(candidate))
    return strategy.genotypes


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
        best[name] = median(max(map(closeness, run(s, 150, closeness))) for s in strategies)
    assert best['evolution'] >= best['random'] + 5


def test_offspring_is_of_the_best_of_all_generations():
    """Without mutation every gene of a child is one that a parent has; parents are the best told before."""
    space = load_space('s3').space
    settings_ = EvolutionSettings(population=20, parents=4, mutation=0, crossover=20)
    strategy = Evolution(SpaceSampler(space), 0, settings=settings_)
    fitness = lambda genotype: sum(genotype[:8])  # noqa: E731
    run(strategy, 60, fitness)
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
    run(strategy, 40)
    parent = max(strategy.genotypes[:20], key=sum)
    for mutant in strategy.genotypes[20:]:
        for choice, old, new in zip(space.choices, parent, mutant, strict=True):
            assert choice.parent is None or old == new or INACTIVE in (old, new)
    roots = [i for i, choice in enumerate(space.choices) if choice.parent is None]
    changed = mean(mutant[i] != parent[i] for mutant in strategy.genotypes[20:] for i in roots)
    assert 0.2 < changed < 0.5  # half of them are drawn anew, a third of those as they were


def test_presets_are_the_published_settings():
    assert make_strategy({'name': 'evolution'}, SpaceSampler(DIGITS), 0).settings == EvolutionSettings(
        population=50, parents=10, mutation=25, crossover=25, mutation_prob=0.1, root_mutation_prob=None
    )
    settings_ = {'name': 'evolution', 'preset': 'autoformer', 'population': 60}
    assert make_strategy(settings_, SpaceSampler(DIGITS), 0).settings == EvolutionSettings(
        population=60, parents=10, mutation=25, crossover=25, mutation_prob=0.2, root_mutation_prob=0.4
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
    asked = run(strategy, 40)
    assert len(set(asked)) == 40
    assert all(middle <= model.cost(genotype).macs <= 1.0002 * middle for genotype in asked)


@pytest.mark.parametrize(
    ('data', 'words'),
    [
        ({}, ['$.name', 'None', 'random, evolution, ppo']),
        ({'name': 'ppo2'}, ['$.name', "'ppo2'", 'random, evolution, ppo']),
        ({'name': 'random', 'population': 3}, ['population', 'no settings']),
        ({'name': 'evolution', 'preset': 'x'}, ['$.preset', "'x'", 'spos, autoformer']),
        ({'name': 'evolution', 'size': 3}, ['strategy: $.size', 'population']),
        ({'name': 'evolution', 'population': 0}, ['strategy: $.population', '0']),
        ({'name': 'evolution', 'population': 10}, ['mutation + crossover is 50', '10']),
        ({'name': 'evolution', 'mutation_prob': 1.5}, ['strategy: $.mutation_prob', '1.5']),
        ({'name': 'evolution', 'mutation_prob': math.nan}, ['strategy:']),
        ({'name': 'ppo', 'preset': 'spos'}, ['$.preset', "'spos'", 'fast, steady']),
        ({'name': 'ppo', 'population': 3}, ['strategy: $.population', 'batch', 'entropy']),
        ({'name': 'ppo', 'lr': 0}, ['strategy: $.lr', '0']),
        ({'name': 'ppo', 'batch': 2.5}, ['strategy: $.batch', '2.5']),
    ],
)
def test_faulty_settings(data, words):
    with pytest.raises(ZooError) as caught:
        make_strategy(data, SpaceSampler(DIGITS), 0)
    assert all(word in str(caught.value) for word in words), caught.value


def test_sandwich():
    space = DIGITS
    drawn = sandwich(SpaceSampler(space), Random(0))
    assert drawn[:2] == [space.largest(), space.smallest()]
    assert len(set(drawn)) == 4
    assert drawn == sandwich(SpaceSampler(space), Random(0)) != sandwich(SpaceSampler(space), Random(1))
    assert sandwich(SpaceSampler(space), Random(0), 0, largest=False) == [space.smallest()]
    one = Space('one', (Choice('a', (1,)),))
    assert sandwich(SpaceSampler(one), Random(0)) == [(0,)]
