"""Latency: what is measured, what is predicted from it exactly, what is stored, and search within limits."""

import json
import statistics
import time
from collections import Counter
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from search import cli, timing
from search.budget import Limits
from search.candidates import make_record
from search.config import load_config
from search.cost import CostModel
from search.latency import LatencyModel, _make_factors, list_variants
from search.latency_report import describe_latencies, rank_correlation
from search.latency_sampler import LatencySampler
from search.measurements import Measurements
from search.methods import one_shot
from search.problem import Problem
from search.run import Interrupted
from search.spaces import load_space
from search.strategies import make_strategy
from search.timing import build, make_clock, make_header, measure, plan_checks, plan_networks, time_network
from search.workers import Outcome
from zoo.console import main
from zoo.errors import ZooError

S3 = {
    'family': 's3',
    'stages': [
        {'embed_dim': [8, 16], 'depth': [1, 2], 'window_size': [2, 4], 'num_heads': [1], 'mlp_ratio': [1, 2]},
        {'embed_dim': [8, 24], 'depth': [1, 3], 'window_size': [2], 'num_heads': [1, 2], 'mlp_ratio': [1]},
    ],
}
AXIAL = {'expansion': [0.5], 'qk_rate': [0.5, 1.0], 'v_rate': [1.0], 'num_heads': [2, 4]}
LOCAL = {'expansion': [0.5], 'kernel_size': [3, 5], 'qk_rate': [1.0], 'v_rate': [0.5, 1.0], 'num_heads': [2]}
CONV = {'expansion': [0.25, 0.5], 'kernel_size': [1, 3]}
TRIONET = {
    'family': 'trionet',
    'out_channels': [16, 16, 32, 32],
    'stages': [
        {'depth': [1, 2], 'conv': CONV, 'local': LOCAL, 'axial': AXIAL},
        {'depth': [1], 'conv': CONV, 'local': None, 'axial': AXIAL},
        {'depth': [2, 3], 'conv': None, 'local': LOCAL, 'axial': None},
        {'depth': [1], 'conv': CONV, 'local': LOCAL, 'axial': None},
    ],
}
GLIT = {
    'family': 'glit',
    'embed_dim': 24,
    'depth': 2,
    'patch_size': 8,
    'all_global': {'qkv_dim': [12, 24], 'mlp_ratio': [1, 2]},
    'all_local': {'kernel_size': [3, 5], 'expansion': [1], 'mlp_ratio': [2]},
    'mixed': {'kernel_size': [3], 'expansion': [1, 2], 'mlp_ratio': [1]},
}
UNINET = {
    'family': 'uninet',
    'stages': [
        {
            'operator': ['dwconv', 'sa'],
            'downsample': ['l', 'lg'],
            'expansion': [2],
            'channels': [8, 16],
            'repeats': [1, 2],
        },
        {
            'operator': ['mlp', 'lsa'],
            'downsample': ['g'],
            'expansion': [1, 2],
            'channels': [16],
            'repeats': [1],
        },
    ],
    'first': {'operator': 'dwconv', 'expansion': 1.0, 'channels': 8, 'repeats': 1},
    'strides': [1, 2, 2],
    'stem_channels': 8,
    'head_channels': 16,
}
CARNET = {
    'family': 'carnet',
    'channels': 16,
    'stages': [
        {'layers': 1, 'operators': ['local_k3_h4', 'non_local']},
        {'layers': 2, 'operators': ['local_k3_h4', 'local_k5_h4', 'non_local']},
        {'layers': 1, 'operators': ['non_local']},
        {'layers': 1},
        {'layers': 1, 'operators': ['local_k7_h8', 'non_local']},
    ],
}
SPACES = {data['family']: data for data in (S3, TRIONET, GLIT, UNINET, CARNET)}
SIZE = (1, 32, 32)
REST = 0.000123


def known_seconds(module):
    """A time for every module, of whole microseconds: what it is made of decides it."""
    sizes = [value.numel() for value in module.parameters()]
    return (sum(sizes) + 7 * len(sizes)) * 1e-6


def known_times(network, images, paths):
    """Takes the place of measuring: all modules together and REST."""
    modules = dict(network.named_modules())
    parts = {path: known_seconds(modules[path]) if path in modules else 0.0 for path in known_times.paths}
    return sum(parts.values()) + REST, [parts[path] for path in paths]


def measure_known(data, path, size=SIZE):
    header = make_header(data, size, 10, 1, 'cpu', 1)
    known_times.paths = list(header.modules)
    return measure(header, path, known_times, quiet=True)


@pytest.fixture(scope='module', params=SPACES)
def known(request, tmp_path_factory):
    """(space, file) of a space whose modules have known times."""
    path = tmp_path_factory.mktemp('latency') / 'latency.jsonl'
    measure_known(SPACES[request.param], path)
    return load_space(SPACES[request.param], SIZE), path


@pytest.fixture(scope='module')
def s3_file(tmp_path_factory):
    path = tmp_path_factory.mktemp('latency') / 's3.jsonl'
    measure_known(S3, path)
    return path


# ---- what is measured


@pytest.mark.parametrize('family', SPACES)
def test_networks_have_every_variant_of_every_module(family):
    family_space = load_space(SPACES[family], SIZE)
    space = family_space.space
    plan = plan_networks(family_space)
    assert plan == plan_networks(family_space)
    assert len(plan) == len(set(plan))
    sample = [space.values(space.sample_hierarchical(Random(i))) for i in range(200)]
    covered = [space.values(genotype) for genotype in plan]
    for names in family_space.modules.values():
        keys = {tuple(values.get(name) for name in names) for values in covered}
        assert {tuple(values.get(name) for name in names) for values in sample} <= keys
        assert keys == set(list_variants(space, names))


def test_networks_of_the_papers_spaces_are_few():
    """Not many more than the largest table has entries."""
    for family, largest in (('s3', 57), ('trionet', 71), ('glit', 36), ('uninet', 625), ('carnet', 7)):
        family_space = load_space(family, (3, 32, 32) if family == 'carnet' else (3, 224, 224))
        tables = [list_variants(family_space.space, names) for names in family_space.modules.values()]
        assert max(map(len, tables)) == largest
        assert largest <= len(plan_networks(family_space)) <= 1.2 * largest


def describe_module(module):
    """All that a module is: its layers with their settings and the shapes of their tensors."""
    return [
        (name, type(part).__name__, part.extra_repr(), settings(part), [v.shape for v in part.parameters()])
        for name, part in module.named_modules()
    ]


def settings(part):
    simple = (int, float, str, bool, tuple)
    return {
        key: value
        for key, value in vars(part).items()
        if isinstance(value, simple) and not key.startswith('_')
    }


@pytest.mark.parametrize('family', SPACES)
def test_modules_depend_on_nothing_else(family):
    """Equal values of the choices that a module names: the same module, or none in both networks."""
    family_space = load_space(SPACES[family], SIZE)
    found = {}
    present = set()
    for i in range(60):
        genotype = family_space.space.sample_hierarchical(Random(i))
        values = family_space.space.values(genotype)
        modules = dict(build(family_space, genotype, 10).named_modules())
        for path, names in family_space.modules.items():
            key = path, tuple(values.get(name) for name in names)
            described = describe_module(modules[path]) if path in modules else None
            assert found.setdefault(key, described) == described
            present |= {path} & modules.keys()
    assert present == set(family_space.modules)
    assert len(found) < 60 * len(family_space.modules)


class Clock:
    """A clock that stands still but where a module says that it takes time."""

    now = 100.0

    def mark(self):
        return self.now

    def between(self, start, end):
        return end - start


class Slow(nn.Module):
    """Takes the next of its times at every call."""

    def __init__(self, clock, times, inner=None):
        super().__init__()
        self.clock, self.times, self.calls, self.inner = clock, times, 0, inner

    def forward(self, x):
        assert not torch.is_grad_enabled()
        self.clock.now += self.times[self.calls % len(self.times)]
        self.calls += 1
        return x if self.inner is None else self.inner(x)


def test_shortest_times_of_the_whole_and_of_its_modules():
    clock = Clock()
    first, inner = Slow(clock, [4.0, 0.5, 2.0]), Slow(clock, [0.25])
    network = nn.Sequential(first, nn.Sequential(Slow(clock, [1.0]), inner), Slow(clock, [8.0]))
    total, modules = time_network(network, torch.zeros(1), ['0', 'absent', '1.1', '1'], 6, clock)
    assert total == 0.5 + 1.25 + 8.0
    assert modules == [0.5, 0.0, 0.25, 1.25]
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in network.modules())
    assert first.calls == inner.calls == 2 * (timing.WARM_UP + 6)


def test_warm_up_does_not_count():
    clock = Clock()
    times = [0.0] * 2 * timing.WARM_UP + [3.0] * 8
    assert time_network(Slow(clock, times), torch.zeros(1), [''], 4, clock) == (3.0, [3.0])
    calls = Slow(clock, [1.0])
    assert time_network(calls, torch.zeros(1), [], 4, clock) == (1.0, [])
    assert calls.calls == timing.WARM_UP + 4


@pytest.mark.parametrize(('threads', 'function'), [(1, time.thread_time), (2, time.perf_counter)])
def test_clock_of_one_thread_is_its_own(threads, function):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        clock = make_clock('cpu')
    finally:
        torch.set_num_threads(before)
    assert clock.mark is function
    assert clock.between(2.0, 2.5) == 0.5


# ---- what is predicted


def test_prediction_is_the_sum_of_the_modules(known):
    """Also of networks that were never measured, whose modules are timed here."""
    family_space, path = known
    model = LatencyModel(family_space, 10, path)
    measured = {network.genotype for network in Measurements.read(path).networks}
    unseen = 0
    for i in range(40):
        genotype = family_space.space.sample_hierarchical(Random(i))
        unseen += genotype not in measured
        modules = dict(build(family_space, genotype, 10).named_modules())
        expected = sum(known_seconds(modules[name]) for name in family_space.modules if name in modules)
        assert model.latency(genotype) == pytest.approx(expected + REST, rel=0, abs=1e-12)
    assert unseen >= 10


def test_factors_are_the_same_latency(known):
    family_space, path = known
    model = LatencyModel(family_space, 10, path)
    costs = CostModel(family_space.space, model.factors)
    genotypes = [family_space.space.sample_hierarchical(Random(i)) for i in range(100)]
    latencies = [model.latency(genotype) for genotype in genotypes]
    assert [costs.cost(genotype).params / 1e9 for genotype in genotypes] == latencies
    least, most = model.attainable()
    assert least <= min(latencies) < max(latencies) <= most


@given(st.data())
def test_factors_of_any_conditional_choices(spaces, data):
    space = data.draw(spaces)
    positions = data.draw(
        st.lists(st.integers(0, len(space.choices) - 1), min_size=1, max_size=4, unique=True)
    )
    table = {}
    for genotype in space.enumerate():
        table.setdefault(tuple(genotype[p] for p in positions), data.draw(st.integers(0, 99)))
    model = CostModel(space, _make_factors(space, positions, table))
    for genotype in space.enumerate():
        assert model.cost(genotype).params == table[tuple(genotype[p] for p in positions)]


def test_measurements_serve_parts_of_the_space(s3_file):
    whole = load_space(S3, SIZE)
    model = LatencyModel(whole, 10, s3_file)
    declared = {'family': 's3', 'stages': [S3['stages'][0] | {'depth': [1]}, S3['stages'][1]]}
    for part in (whole.restrict({'stage2.depth': 1, 'stage1.embed_dim': 16}), load_space(declared, SIZE)):
        smaller = LatencyModel(part, 10, s3_file)
        for genotype in part.space.enumerate():
            same = whole.space.genotype(part.space.values(genotype))
            assert smaller.latency(genotype) == model.latency(same)
        assert smaller.attainable()[0] >= model.attainable()[0]


def test_median_of_networks_that_share_a_module(s3_file):
    """Times of one module differ from network to network."""
    measurements = Measurements.read(s3_file)
    noisy = [
        network.model_copy(update={'modules': tuple(x + 0.001 * i**2 for x in network.modules)})
        for i, network in enumerate(measurements.networks)
        if network.modules is not None
    ]
    dim = 'stage1.embed_dim'
    seconds = Measurements(measurements.header, tuple(noisy)).seconds['patch_embed']
    space = measurements.load_space().space
    for value in (8, 16):
        times = [n.modules[0] for n in noisy if space.values(n.genotype)[dim] == value]
        assert seconds[(value,)] == statistics.median(times)
        assert len(times) > 2


OTHERS = [
    pytest.param(
        S3 | {'stages': S3['stages'][:1]}, SIZE, 10, 'another space of family s3', id='fewer stages'
    ),
    pytest.param('s3', SIZE, 10, 'another space of family s3', id='other values'),
    pytest.param(GLIT, SIZE, 10, 'another space of family s3', id='other family'),
    pytest.param(S3, (1, 32, 40), 10, r'images of \(1, 32, 32\).* \(1, 32, 40\)', id='other images'),
    pytest.param(S3, SIZE, 11, '10 classes, those for .* 11 classes are needed', id='other classes'),
]


@pytest.mark.parametrize(('data', 'size', 'classes', 'message'), OTHERS)
def test_measurements_of_other_networks(s3_file, data, size, classes, message):
    if data == 's3':
        size = (1, 32, 32)
    with pytest.raises(ZooError, match=message):
        LatencyModel(load_space(data, size), classes, s3_file)


def test_same_choices_in_another_frame(tmp_path):
    """GLiT's embedding width is not a choice."""
    measure_known(GLIT, tmp_path / 'latency')
    with pytest.raises(ZooError, match='another space of family glit'):
        LatencyModel(load_space(GLIT | {'embed_dim': 48}, SIZE), 10, tmp_path / 'latency')


# ---- the file


def test_interrupted_measurement_continues(tmp_path, s3_file):
    """Into the same bytes; what is there cannot be used before it is complete."""
    path = tmp_path / 'latency.jsonl'
    header = make_header(S3, SIZE, 10, 1, 'cpu', 1)
    known_times.paths = list(header.modules)
    calls = []

    def time_until_interrupted(*args):
        calls.append(args)
        if len(calls) % 5 == 0:
            raise KeyboardInterrupt
        return known_times(*args)

    lengths = []
    while True:
        try:
            measure(header, path, time_until_interrupted, quiet=True)
            break
        except Interrupted:
            lengths.append(len(Measurements.read(path).networks))
            if len(lengths) == 1:
                with pytest.raises(ZooError, match='is not complete'):
                    LatencyModel(load_space(S3, SIZE), 10, path)
    assert lengths == [4 * (i + 1) for i in range(len(lengths))]
    assert len(lengths) > 3
    assert path.read_bytes() == s3_file.read_bytes()
    before = len(calls)
    measure(header, path, time_until_interrupted, quiet=True)
    assert len(calls) == before


def test_measurement_is_written_now_and_then(tmp_path, monkeypatch):
    """A killed process loses little."""
    monkeypatch.setattr(timing, 'SECONDS_BETWEEN_WRITES', 0.0)
    path = tmp_path / 'latency'
    found = []

    def count_written(network, images, paths):
        found.append(len(path.read_bytes().splitlines()))
        return 1.0, [0.0] * len(paths)

    measure(make_header(S3, SIZE, 10, 1, 'cpu', 1), path, count_written, quiet=True)
    assert found == list(range(1, len(found) + 1))


def test_other_measurements_are_kept(tmp_path, s3_file):
    path = tmp_path / 'latency.jsonl'
    path.write_bytes(s3_file.read_bytes())
    other = make_header(S3, SIZE, 10, 2, 'cpu', 1)
    with pytest.raises(ZooError, match=r'holds other latencies: batch_size was 1, now 2; use another file'):
        measure(other, path, known_times, quiet=True)
    assert path.read_bytes() == s3_file.read_bytes()
    path.write_text('my thesis')
    with pytest.raises(ZooError, match=r':1: not JSON'):
        measure(other, path, known_times, quiet=True)
    assert path.read_text() == 'my thesis'
    with pytest.raises(ZooError, match='nowhere/latency: cannot be written: No such file'):
        measure(other, tmp_path / 'nowhere' / 'latency', known_times, quiet=True)


HEADER, NETWORK = 0, 1
FAULTS = [
    (HEADER, {'schema': 2}, ['$.schema', 'found 2']),
    (HEADER, {'unit': 'ms'}, ['$.unit', "'ms'"]),
    (HEADER, {'batch_size': 0}, ['$.batch_size', 'found 0']),
    (HEADER, {'note': 'x'}, ['$.note', 'not known']),
    (HEADER, {'threads': None}, ['$.threads']),
    (HEADER, {'space': 's4'}, ["found 's4'"]),
    (HEADER, {'input_size': [1, 4, 4]}, ['found images of (1, 4, 4)']),
    (HEADER, {'modules': {'patch_embed': ['stage1.depth']}}, ['$.modules', 'measure again']),
    (NETWORK, {'genotype': [0, 1]}, ['found 2 indices']),
    (NETWORK, {'genotype': [0.5]}, ['$.genotype[0]', '0.5']),
    (NETWORK, {'genotype': [9] * 19}, ["'stage1.embed_dim'", '0 ... 1']),
    (NETWORK, {'genotype': [0] * 19}, ['inactive']),
    (NETWORK, {'seconds': -1.0}, ['$.seconds', '-1.0']),
    (NETWORK, {'seconds': '1'}, ['$.seconds', "'1'"]),
    (NETWORK, {'modules': [0.1]}, ['$.modules', 'found 1 times', '8 modules']),
    (NETWORK, {'modules': [-0.1] * 8}, ['$.modules[0]', '-0.1']),
    (NETWORK, {'mean': 1.0}, ['$.mean', 'not known']),
]


@pytest.mark.parametrize(('line', 'change', 'words'), FAULTS)
def test_faulty_files(tmp_path, s3_file, line, change, words):
    lines = s3_file.read_text().splitlines()
    lines[line] = json.dumps(json.loads(lines[line]) | change)
    path = tmp_path / 'latency.jsonl'
    path.write_text('\n'.join(lines))
    with pytest.raises(ZooError) as caught:
        LatencyModel(load_space(S3, SIZE), 10, path)
    assert all(word in str(caught.value) for word in words), caught.value


def test_damaged_files(tmp_path, s3_file):
    family_space, path = load_space(S3, SIZE), tmp_path / 'latency.jsonl'
    with pytest.raises(ZooError, match='cannot be read: No such file'):
        LatencyModel(family_space, 10, path)
    path.write_bytes(b'')
    with pytest.raises(ZooError, match='found nothing'):
        LatencyModel(family_space, 10, path)
    data = s3_file.read_bytes()
    path.write_bytes(data.splitlines(keepends=True)[0])
    with pytest.raises(ZooError, match=r'found no time of patch_embed .* not complete'):
        LatencyModel(family_space, 10, path)
    path.write_bytes(data[:-20])
    with pytest.raises(ZooError, match=r'latency.jsonl:\d+: not JSON'):
        LatencyModel(family_space, 10, path)


def test_too_many_variants():
    data = S3 | {
        'stages': [S3['stages'][0] | {'embed_dim': list(range(1, 101)), 'mlp_ratio': list(range(1, 31))}]
    }
    with pytest.raises(ZooError, match=r'variants of a module .* at most 4,096 can be timed'):
        plan_networks(load_space(data, SIZE))


# ---- search within limits


@pytest.fixture(scope='module')
def s3_model(s3_file):
    return LatencyModel(load_space(S3, SIZE), 10, s3_file)


def limits_between(values, low, high):
    ordered = sorted(values)
    return ordered[int(low * len(ordered))], ordered[int(high * len(ordered))]


@pytest.mark.parametrize('limited', [(), ('macs',), ('params',), ('params', 'macs')])
def test_draws_are_uniform_within_all_limits(s3_model, limited):
    family_space = load_space(S3, SIZE)
    costs = family_space.cost_model(10)
    everything = list(family_space.space.enumerate())
    seconds = limits_between(map(s3_model.latency, everything), 0.2, 0.4)
    ranges = {
        name: limits_between([getattr(costs.cost(g), name) for g in everything], 0.1, 0.35)
        for name in limited
    }
    sampler = LatencySampler(costs, Limits(**ranges), s3_model, seconds)
    allowed = {
        genotype
        for genotype in everything
        if seconds[0] <= s3_model.latency(genotype) <= seconds[1]
        and all(low <= getattr(costs.cost(genotype), name) <= high for name, (low, high) in ranges.items())
    }
    assert {genotype for genotype in everything if sampler.allows(genotype)} == allowed
    rng = Random(0)
    counts = Counter(sampler.sample(rng) for _ in range(1500))
    assert set(counts) <= allowed
    expected = 1500 / len(allowed)
    chi_square = sum((counts[genotype] - expected) ** 2 / expected for genotype in allowed)
    freedom = len(allowed) - 1
    assert freedom > 5
    assert abs(chi_square - freedom) < 5 * (2 * freedom) ** 0.5


def test_limits_that_nothing_meets(s3_model):
    costs = load_space(S3, SIZE).cost_model(10)
    least, most = s3_model.attainable()
    for seconds in ((0.0, 0.9 * least), (1.1 * most, 2.0)):
        with pytest.raises(ZooError) as caught:
            LatencySampler(costs, Limits(), s3_model, seconds)
        message = str(caught.value)
        assert message.startswith(
            f'limits: found latency from {seconds[0]:.4g} to {seconds[1]:.4g} s: no arch'
        )
        assert f'it has latency from {least:.4g} to {most:.4g} s and params from' in message
    few_params = (0, 1.01 * min(costs.cost(g).params for g in load_space(S3, SIZE).space.enumerate()))
    for limits in (Limits(params=few_params), Limits(params=few_params, macs=(0, 1e9))):
        with pytest.raises(
            ZooError, match=r'limits: found latency .* and params from 0 to .*: no architecture'
        ):
            LatencySampler(costs, limits, s3_model, (0.95 * most, most))
    with pytest.raises(ZooError, match=r'latency: found \(2.0, 1.0\), \(lowest, highest\)'):
        LatencySampler(costs, Limits(), s3_model, (2.0, 1.0))


@pytest.mark.parametrize('name', ['random', 'evolution', 'ppo'])
def test_strategies_ask_within_limits(s3_model, name):
    family_space = load_space(S3, SIZE)
    seconds = limits_between(map(s3_model.latency, family_space.space.enumerate()), 0.3, 0.4)
    sampler = LatencySampler(family_space.cost_model(10), Limits(), s3_model, seconds)
    strategy = make_strategy({'name': name}, sampler, 0)
    for _ in range(60):
        genotype = strategy.ask()
        assert seconds[0] <= s3_model.latency(genotype) <= seconds[1]
        strategy.tell(genotype, s3_model.latency(genotype))


TINY = """
name: tiny
input: {size: [1, 16, 16], mean: [0.3], std: [0.35]}
space:
  family: s3
  stages:
    - {embed_dim: [8, 16], depth: [1, 2], window_size: [2, 4], num_heads: [1], mlp_ratio: [1, 2]}
supernet: {recipe: {epochs: 1, batch_size: 512, lr: 0.002}}
search: {strategy: {name: random}, evaluations: 4}
retrain: {epochs: 1, batch_size: 512, lr: 2e-3}
compare: {random: 1, macs_within: 0.5}
"""


@pytest.fixture
def tiny(tmp_path):
    """A config whose limit is the faster half of its space."""
    path, file = tmp_path / 'tiny.yaml', tmp_path / 'latency.jsonl'
    path.write_text(TINY)
    config = load_config(path)
    measure_known(config.space, file, config.input.size)
    model = LatencyModel(load_space(config.space, config.input.size), 10, file)
    least, most = model.attainable()
    limit = f'search.limits.latency={{file: {file}, seconds: [0, {(least + most) / 2}]}}'
    return path, limit, file


def test_contents_of_the_file_decide_a_run(tiny, tmp_path):
    path, limit, file = tiny
    config = load_config(path, [limit])
    decisive = config.decisive()
    moved = tmp_path / 'moved.jsonl'
    moved.write_bytes(file.read_bytes())
    elsewhere = load_config(path, [limit.replace(str(file), str(moved))])
    assert elsewhere.decisive() == decisive != load_config(path).decisive()
    assert str(file) not in json.dumps(decisive)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b''.join(lines[:-1]))
    assert load_config(path, [limit]).decisive() != decisive
    assert config.decisive() == decisive
    file.unlink()
    with pytest.raises(ZooError, match='cannot be read'):
        load_config(path, [limit]).decisive()


def test_records_have_the_latency(tiny):
    path, limit, file = tiny
    problem = Problem(load_config(path, [limit]))
    genotype = problem.sampler.sample(Random(0))
    record = make_record(problem, genotype, Outcome(0.5, {}))
    assert record['latency'] == LatencyModel(problem.space, 10, file).latency(genotype)
    assert 'latency' not in make_record(Problem(load_config(path)), genotype, Outcome(0.5, {}))


def test_run_keeps_to_the_limit_and_stores_what_it_used(tiny, tmp_path):
    path, limit, file = tiny
    config = load_config(path, [limit])
    most = config.search.limits.latency.seconds[1]
    result = one_shot(config, tmp_path / 'run', quiet=True)
    assert (tmp_path / 'run' / 'latency.jsonl').read_bytes() == file.read_bytes()
    model = LatencyModel(load_space(config.space, config.input.size), 10, file)
    candidates = json.loads((tmp_path / 'run' / 'search.json').read_text())['candidates']
    assert len(candidates) == 4
    for record in candidates:
        assert record['latency'] == model.latency(tuple(record['genotype'])) <= most
    assert all(model.latency(tuple(record['genotype'])) <= most for record in result.random)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b''.join(lines[:-1]))
    with pytest.raises(ZooError, match=r'another config: search.limits.latency.sha256 was'):
        one_shot(load_config(path, [limit]), tmp_path / 'run', quiet=True)


# ---- the command


def read_numbers(line):
    return [float(word.strip('.,;:')) for word in line.split() if word[0].isdigit()]


def test_command_measures_this_machine(tiny, tmp_path, capsys):
    """A real measurement: positive times whose modules are parts of the whole."""
    out = tmp_path / 'measured.jsonl'
    command = ['search', 'latency', str(tiny[0]), '--out', str(out), '--repeats', '2', '--threads', '1']
    threads = torch.get_num_threads()
    assert main(command) == 0
    assert torch.get_num_threads() == threads
    printed = capsys.readouterr().out.splitlines()
    assert 'batches of 1, images of 1x16x16, 10 classes' in printed[0]
    assert '1 thread,' in printed[0]
    measurements = Measurements.read(out)
    space = measurements.load_space()
    assert (measurements.header.device, measurements.header.repeats) == ('cpu', 2)
    for network in measurements.networks:
        assert network.seconds > 0
        modules = dict(build(space, network.genotype, 10).named_modules())
        for path, seconds in zip(measurements.header.modules, network.modules or (), strict=False):
            assert (seconds > 0) == (path in modules)
    assert len(measurements.checks()) == timing.CHECKS
    assert read_numbers(printed[1]) == [len(measurements.networks) - timing.CHECKS]
    least, most = read_numbers(printed[3])
    assert 0 < least < most < 60
    ratios = read_numbers(printed[4].partition('median')[2])
    assert 0 < ratios[1] <= ratios[0] <= ratios[2]
    assert f'file: {out}' in printed[-1]
    written = out.read_bytes()
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines() == printed
    assert out.read_bytes() == written
    assert main([*command[:-1], '2']) == 1
    assert 'threads was 1, now 2' in capsys.readouterr().err


def test_interrupted_command_says_how_to_continue(tiny, tmp_path, capsys, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    out = tmp_path / 'measured.jsonl'
    with monkeypatch.context() as patch:
        patch.setattr(timing, 'time_network', interrupt)
        assert cli.main(['latency', str(tiny[0]), '--out', str(out)]) == 130
    message = capsys.readouterr().err
    assert f'searchzoo search latency {tiny[0]} --out {out}' in message
    assert Measurements.read(out).networks == ()


@pytest.mark.parametrize(
    'wrong',
    [['--batch', '0'], ['--repeats', 'x'], ['--size', '1', '-2', '3'], ['--device', 'tpu'], ['seed=1']],
)
def test_wrong_usage(tmp_path, wrong):
    with pytest.raises(SystemExit) as caught:
        cli.main(['latency', 's3', '--out', str(tmp_path / 'latency'), *wrong])
    assert caught.value.code == 2


def test_device_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(ZooError, match="device: found 'cuda', torch sees no such device"):
        cli.main(['latency', 's3', '--out', str(tmp_path / 'latency'), '--device', 'cuda'])
    assert not (tmp_path / 'latency').exists()


def test_report_of_known_times(s3_file):
    measurements = Measurements.read(s3_file)
    lines = describe_latencies(measurements, LatencyModel(measurements.load_space(), 10, s3_file))
    assert f'seconds outside of the modules: {REST}' in lines
    assert 'other random networks, predicted / measured: median 1.000, 1.000 to 1.000, n = 20' in lines
    assert 'rank correlation (Spearman): 1.000, n = 20' in lines
    assert not any('scatter' in line for line in lines)
    worse = [
        network.model_copy(update={'seconds': network.seconds * (2 if i % 2 else 1)})
        for i, network in enumerate(measurements.networks)
    ]
    scattered = Measurements(measurements.header, tuple(worse))
    lines = describe_latencies(scattered, LatencyModel(measurements.load_space(), 10, s3_file))
    assert any('0.500 to 1.000, n = 20' in line for line in lines)
    assert 'scatter' in lines[-1]


def test_checks_are_other_networks():
    family_space = load_space(S3, SIZE)
    plan = set(plan_networks(family_space))
    checks = plan_checks(family_space, plan)
    assert len(set(checks)) == len(checks) == timing.CHECKS
    assert not plan & set(checks)
    tiny = family_space.restrict({choice.name: choice.values[0] for choice in family_space.space.choices})
    assert plan_checks(tiny, set(tiny.space.enumerate())) == []


@pytest.mark.parametrize(
    ('a', 'b', 'expected'),
    [
        ([1, 2, 3, 4], [10, 20, 25, 90], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        ([1, 2, 3, 4, 5], [5, 6, 7, 8, 7], 8 / 95**0.5),
        ([106, 86, 100, 101, 99, 103, 97, 113, 112, 110], [7, 0, 27, 50, 28, 29, 20, 12, 6, 17], -29 / 165),
    ],
)
def test_rank_correlation(a, b, expected):
    """The third has a tie, ranks (1, 2, 3.5, 5, 3.5); the last is a textbook's example."""
    assert rank_correlation(a, b) == pytest.approx(expected)


def test_rank_correlation_of_equal_values_is_unknown():
    assert rank_correlation([1.0, 1.0], [1.0, 2.0]) != rank_correlation([1.0, 1.0], [1.0, 2.0])
