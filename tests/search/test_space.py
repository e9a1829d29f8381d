"""Spaces against brute force: what they hold, how they count it, and with which probability they draw it."""

import json
import math
import pickle
from collections import Counter
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.space import INACTIVE, Choice, Space
from zoo.errors import ZooError

OPS = Space(
    'ops',
    (
        Choice('depth', (1, 2)),
        Choice('op1', ('conv', 'axial'), 'depth', (1, 2)),
        Choice('kernel1', (3, 5, 7), 'op1', ('conv',)),
        Choice('heads1', (4, 8), 'op1', ('axial',)),
        Choice('op2', ('conv', 'axial'), 'depth', (2,)),
        Choice('kernel2', (3, 5, 7), 'op2', ('conv',)),
        Choice('heads2', (4, 8), 'op2', ('axial',)),
    ),
)


def freeze(values):
    return tuple(values.items())


@given(st.data())
def test_holds_exactly_the_distinct_architectures(spaces, brute_force, data):
    space = data.draw(spaces)
    expected = {freeze(values) for values in brute_force(space)}
    genotypes = list(space.enumerate())
    assert space.size() == len(genotypes) == len(set(genotypes)) == len(expected)
    assert {freeze(space.values(genotype)) for genotype in genotypes} == expected


@given(st.data())
def test_values_and_canonical_form_lead_back(spaces, data):
    space = data.draw(spaces)
    for genotype in space.enumerate():
        assert space.canonical(space.canonical([max(index, 0) for index in genotype])) == genotype
        assert space.genotype(space.values(genotype)) == genotype


@settings(max_examples=40)
@given(st.data())
def test_sample_is_uniform(spaces, distribution, data):
    space = data.draw(spaces)
    assert distribution(space.sample) == dict.fromkeys(space.enumerate(), Fraction(1, space.size()))


def test_sample_is_uniform_with_a_real_generator():
    rng = Random(0)
    counts = Counter(OPS.sample(rng) for _ in range(30_000))
    expected = 30_000 / OPS.size()
    chi_square = sum((counts[genotype] - expected) ** 2 / expected for genotype in OPS.enumerate())
    degrees = OPS.size() - 1
    assert abs(chi_square - degrees) < 4 * math.sqrt(2 * degrees)


@settings(max_examples=40)
@given(st.data())
def test_hierarchical_sample_is_uniform_in_each_choice(spaces, distribution, data):
    space = data.draw(spaces)
    sizes = {choice.name: len(choice.values) for choice in space.choices}
    assert distribution(space.sample_hierarchical) == {
        genotype: Fraction(1, math.prod(sizes[name] for name in space.values(genotype)))
        for genotype in space.enumerate()
    }


@settings(max_examples=30)
@given(st.data(), st.sampled_from([0.25, 0.5]))
def test_mutation_keeps_or_redraws_each_gene(spaces, distribution, data, prob):
    space = data.draw(spaces.filter(lambda space: space.size() <= 60))
    genotype = space.unrank(data.draw(st.integers(0, space.size() - 1)))
    expected = {}
    for child in space.enumerate():
        expected[child] = Fraction(1)
        for choice, old, new in zip(space.choices, genotype, child, strict=True):
            if new == INACTIVE:
                continue
            uniform = Fraction(1, len(choice.values))
            fresh = uniform if old == INACTIVE else Fraction(prob) * uniform
            expected[child] *= fresh + (1 - Fraction(prob)) * (old == new != INACTIVE)
    expected = {child: probability for child, probability in expected.items() if probability}
    assert distribution(lambda rng: space.mutate(genotype, rng, prob)) == expected


def test_mutation_probabilities_by_choice():
    genotype = OPS.genotype({'depth': 2, 'op1': 'conv', 'kernel1': 3, 'op2': 'axial', 'heads2': 8})
    only_heads = [float(choice.name == 'heads2') for choice in OPS.choices]
    mutants = {OPS.mutate(genotype, Random(seed), only_heads) for seed in range(20)}
    assert [OPS.values(mutant) | {'heads2': 0} for mutant in mutants] == [
        OPS.values(genotype) | {'heads2': 0}
    ] * 2


@settings(max_examples=30)
@given(st.data())
def test_crossover_takes_every_gene_from_a_parent(spaces, distribution, data):
    space = data.draw(spaces)
    a, b = (space.unrank(data.draw(st.integers(0, space.size() - 1))) for _ in range(2))
    children = distribution(lambda rng: space.crossover(a, b, rng))
    assert sum(children.values()) == 1
    for child in children:
        assert space.canonical(child) == child
        for gene, from_a, from_b in zip(child, a, b, strict=True):
            assert gene == INACTIVE or gene in (from_a, from_b)
    if all(choice.parent is None for choice in space.choices):
        differing = sum(x != y for x, y in zip(a, b, strict=True))
        assert set(children.values()) == {Fraction(1, 2**differing)}
    assert distribution(lambda rng: space.crossover(a, a, rng)) == {a: 1}


@given(st.data())
def test_restriction_is_the_part_with_the_allowed_values(spaces, data):
    space = data.draw(spaces)
    named = data.draw(st.lists(st.sampled_from(space.choices), unique=True))
    allowed = {c.name: data.draw(st.lists(st.sampled_from(c.values), min_size=1, unique=True)) for c in named}
    restricted = space.restrict(allowed)
    found = [space.genotype(restricted.values(genotype)) for genotype in restricted.enumerate()]
    assert len(found) == len(set(found)) == restricted.size()
    assert set(found) == {
        genotype
        for genotype in space.enumerate()
        if all(value in allowed.get(name, [value]) for name, value in space.values(genotype).items())
    }


def test_restriction_to_one_value_leaves_out_what_it_rules_out():
    conv = OPS.restrict({'depth': 1, 'op1': 'conv'})
    assert [choice.name for choice in conv.choices] == ['depth', 'op1', 'kernel1']
    assert conv.size() == 3


@given(st.data(), st.sampled_from([-2, 1, 0.5]))
def test_shift_moves_values_and_drops_what_is_not_positive(spaces, data, step):
    space = data.draw(spaces)
    parents = {choice.parent for choice in space.choices}
    choice = data.draw(st.sampled_from([choice for choice in space.choices if choice.name not in parents]))
    kept = [value for value in choice.values if value + step > 0]
    if not kept:
        with pytest.raises(ZooError, match='above zero'):
            space.shift({choice.name: step})
        return
    shifted = space.shift({choice.name: step})
    assert {freeze(shifted.values(genotype)) for genotype in shifted.enumerate()} == {
        freeze({name: value + step if name == choice.name else value for name, value in values.items()})
        for values in map(
            space.restrict({choice.name: kept}).values, space.restrict({choice.name: kept}).enumerate()
        )
    }


def test_shift_keeps_integers_and_removes_float_noise():
    space = Space('s', (Choice('a', (1, 2)), Choice('b', (0.1, 0.2)))).shift({'a': 3, 'b': 0.1})
    assert [choice.values for choice in space.choices] == [(4, 5), (0.2, 0.3)]
    assert all(isinstance(value, int) for value in space.choices[0].values)


@given(st.data())
def test_largest_and_smallest_take_the_extreme_of_each_choice(spaces, data):
    space = data.draw(spaces)
    for genotype, extreme in ((space.largest(), max), (space.smallest(), min)):
        assert space.canonical([max(index, 0) for index in genotype]) == genotype
        by_name = {choice.name: choice for choice in space.choices}
        assert all(value == extreme(by_name[name].values) for name, value in space.values(genotype).items())


@given(st.data())
def test_survives_json_and_pickle(spaces, data):
    space = data.draw(spaces)
    assert Space.from_data(json.loads(json.dumps(space.to_data()))) == space
    copy = pickle.loads(pickle.dumps(space))
    assert copy == space
    assert list(copy.enumerate()) == list(space.enumerate())


def test_rank_outside():
    with pytest.raises(IndexError):
        OPS.unrank(OPS.size())
    with pytest.raises(IndexError):
        OPS.unrank(-1)


@pytest.mark.parametrize(
    ('fault', 'words'),
    [
        (lambda: Choice('', (1,)), ["''", 'non-empty string']),
        (lambda: Choice('a', ()), ["'a'", 'at least one']),
        (lambda: Choice('a', (1, 1)), ["'a'", '(1, 1)', 'distinct']),
        (lambda: Choice('a', (True,)), ["'a'", 'True', 'numbers or strings']),
        (lambda: Choice('a', (math.nan,)), ["'a'", 'nan', 'finite']),
        (lambda: Choice('a', [1]), ["'a'", '[1]']),
        (lambda: Choice('a', (1,), 'b'), ["'a'", "'b'", 'either both or neither']),
        (lambda: Space('s', ()), ["'s'", 'no choices']),
        (lambda: Space('s', (Choice('a', (1,)), Choice('a', (2,)))), ["'a'", 'unique']),
        (lambda: Space('s', (Choice('a', (1,), 'b', (1,)), Choice('b', (1,)))), ["'a'", "'b'", 'before']),
        (lambda: Space('s', (Choice('a', (1,)), Choice('b', (1,), 'a', (2,)))), ["'b'", '(2,)', "'a': 1"]),
        (lambda: OPS.genotype({'depth': 3}), ["'depth'", 'found 3', '1, 2']),
        (lambda: OPS.genotype({'depth': True}), ["'depth'", 'found True', '1, 2']),
        (lambda: OPS.genotype({'depth': 1}), ["'op1'", 'found nothing', "'conv', 'axial'"]),
        (lambda: OPS.genotype({'width': 1}), ["'ops'", "'width'", "'depth', 'op1'"]),
        (
            lambda: OPS.genotype({'depth': 1, 'op1': 'conv', 'kernel1': 3, 'heads1': 4}),
            ["'heads1'", 'found 4', "'op1'", "'axial'"],
        ),
        (lambda: OPS.canonical([0]), ['found 1', '7']),
        (lambda: OPS.canonical([0, 0, 3, 0, 0, 0, 0]), ["'kernel1'", 'found index 3', '0 ... 2']),
        (lambda: OPS.canonical([0, -1, 0, 0, 0, 0, 0]), ["'op1'", 'found index -1', '0 ... 1']),
        (lambda: OPS.restrict({'op3': 1}), ["'op3'", 'allowed']),
        (lambda: OPS.restrict({'depth': 9}), ["'depth'", 'found 9', '1, 2']),
        (lambda: OPS.restrict({'depth': []}), ["'depth'", 'at least one']),
        (lambda: OPS.shift({'depth': 1}), ["'depth'", 'depend']),
        (lambda: OPS.shift({'kernel1': -9}), ["'kernel1'", '-9', '3, 5, 7']),
        (lambda: Space('s', (Choice('a', ('x',)),)).shift({'a': 1}), ["'a'", "'x'", 'only numbers']),
        (lambda: OPS.largest(), ["'op1'", "'conv', 'axial'", 'restrict']),
        (lambda: Space.from_data([]), ['space: $: ', '[]']),
        (
            lambda: Space.from_data({'name': 's', 'choices': [{'name': 'a'}]}),
            ['space: $.choices[0].values', 'required'],
        ),
    ],
)
def test_faults_name_what_was_found_and_what_is_allowed(fault, words):
    with pytest.raises(ZooError) as caught:
        fault()
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert '\n' not in message


def forest(depths, block):
    """Stages of blocks behind a depth choice; ``block(prefix, parent, when)`` gives a block's choices."""
    choices = []
    for i, depth in enumerate(depths, 1):
        choices.append(Choice(f'stage{i}.depth', depth))
        for j in range(1, max(depth) + 1):
            choices += block(f'stage{i}.block{j}', f'stage{i}.depth', tuple(d for d in depth if d >= j))
    return choices


def trionet_block(prefix, parent, when):
    op, half = f'{prefix}.op', (0.5, 1)
    options = {
        'conv': dict(expansion=(0.125, 0.25), kernel_size=(3, 5, 7)),
        'local': dict(
            expansion=(0.25, 0.5), kernel_size=(3, 5, 7), qk_rate=half, v_rate=half, num_heads=(4, 8)
        ),
        'axial': dict(expansion=(0.25, 0.5), qk_rate=half, v_rate=half, num_heads=(4, 8)),
    }
    return [
        Choice(op, tuple(options), parent, when),
        *(
            Choice(f'{op}.{kind}.{name}', values, op, (kind,))
            for kind in options
            for name, values in options[kind].items()
        ),
    ]


def independent(number, **options):
    return Space('s', tuple(Choice(f'{i}.{name}', v) for i in range(number) for name, v in options.items()))


def test_trionet_count():
    """Paper: 7.2e25 = the sum over depths of 6 + 48 + 16 options a block."""
    space = Space('trionet', tuple(forest([(1, 2), (2, 3), (3, 4, 5, 6), (1, 2, 3)], trionet_block)))
    stages = [sum(70**d for d in depths) for depths in ((1, 2), (2, 3), (3, 4, 5, 6), (1, 2, 3))]
    assert space.size() == math.prod(stages)
    assert f'{space.size():.3e}' == '7.181e+25'
    genotype = space.sample(Random(0))
    assert space.genotype(space.values(genotype)) == genotype


def test_glit_count():
    """Paper: 1.3e30 in 12 blocks, 4 splits into global and local heads and 3 values of each of 4 sizes."""
    sizes = dict(d_k=(1, 2, 3), d_z=(2, 4, 6), expansion=(1, 2, 4), kernel_size=(17, 31, 45))
    assert independent(12, num_global=(0, 1, 2, 3), **sizes).size() == (4 * 81) ** 12


def test_uninet_count():
    """Paper: 5 operators, 3 down-sampling modules and 125 sizes in each of 5 stages."""
    ops, five = ('dwconv', 'conv', 'sa', 'lsa', 'mlp'), (1, 2, 3, 4, 5)
    assert independent(5, op=ops, dsm=('L', 'LG', 'G'), e=five, c=five, r=five).size() == (5 * 3 * 125) ** 5


def test_car_count():
    assert independent(15, op=tuple('abcdefg')).size() == 7**15


def test_s3_count_with_heads_independent_of_width():
    block = dict(window_size=(7, 14), num_heads=(7, 8, 9), qkv_dim=(224, 256, 288), mlp_ratio=(3, 3.5, 4))
    choices = forest(
        [(2, 3, 4)] * 4,
        lambda prefix, parent, when: [Choice(f'{prefix}.{n}', v, parent, when) for n, v in block.items()],
    )
    dims = [Choice(f'stage{i}.embed_dim', (224, 256, 288)) for i in range(4)]
    assert Space('s3', (*dims, *choices)).size() == 456294994537133870762322698496
