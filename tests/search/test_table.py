"""Candidates scored from a file: what is read is checked line by line, what is missing is said."""

import json
import math
import pickle
from random import Random

import pytest

from search import table
from search.sampling import SpaceSampler
from search.space import Choice, Space
from search.strategies import make_strategy
from search.table import TableEvaluator
from zoo.errors import ZooError

SPACE = Space(
    'operators',
    (
        Choice('op', ('conv', 'attention')),
        Choice('kernel', (3, 5, 7), 'op', ('conv',)),
        Choice('ratio', (0.5, 1.0, 2)),
    ),
)


def measure(genotype):
    return {'top1': 50.0 + sum(genotype), 'loss': 2.0 - sum(genotype) / 10}


def write(path, rows):
    path.write_text('\n'.join(row if isinstance(row, str) else json.dumps(row) for row in rows) + '\n')
    return path


@pytest.fixture
def path(tmp_path):
    """Half by values, half by genotype, in no order."""
    rows = []
    for i, genotype in enumerate(SPACE.enumerate()):
        candidate = {'values': SPACE.values(genotype)} if i % 2 else {'genotype': genotype}
        rows.append(candidate | {'metrics': measure(genotype)})
    Random(0).shuffle(rows)
    return write(tmp_path / 'table.jsonl', rows)


def test_scores_are_the_metrics_of_the_table(path):
    top1, loss = TableEvaluator(SPACE, path), TableEvaluator(SPACE, path, 'loss', minimize=True)
    for genotype in SPACE.enumerate():
        assert top1(genotype).metrics == loss(genotype).metrics == measure(genotype)
        assert top1(genotype).score == measure(genotype)['top1']
        assert loss(genotype).score == -measure(genotype)['loss']
        assert top1(genotype, needed=1e9) == top1(genotype)


def test_metrics_are_copies(path):
    evaluator = TableEvaluator(SPACE, path)
    genotype = next(SPACE.enumerate())
    evaluator(genotype).metrics['top1'] = 0.0
    assert evaluator(genotype).metrics == measure(genotype)


def test_evaluator_goes_to_another_process(path):
    evaluator = pickle.loads(pickle.dumps(TableEvaluator(SPACE, path)))
    assert all(evaluator(genotype).metrics == measure(genotype) for genotype in SPACE.enumerate())


@pytest.mark.parametrize('name', ['random', 'evolution', 'ppo'])
def test_strategies_find_the_best_of_a_table(path, name):
    evaluator = TableEvaluator(SPACE, path)
    strategy = make_strategy({'name': name}, SpaceSampler(SPACE), 0)
    while (genotype := strategy.ask()) is not None:
        strategy.tell(genotype, evaluator(genotype).score)
    assert max(strategy.scores) == max(measure(genotype)['top1'] for genotype in SPACE.enumerate())


def test_failed_candidate_has_no_score(tmp_path):
    path = write(tmp_path / 'table', [{'genotype': [0, 1, 2], 'metrics': None}])
    evaluation = TableEvaluator(SPACE, path)((0, 1, 2))
    assert math.isnan(evaluation.score)
    assert evaluation.metrics == {}


def test_missing_candidate_is_an_error(tmp_path):
    path = write(tmp_path / 'table', ['', {'genotype': [1, -1, 0], 'metrics': {'top1': 1}}, '  '])
    evaluator = TableEvaluator(SPACE, path)
    assert evaluator((1, -1, 0)).score == 1
    with pytest.raises(
        ZooError, match=r"table: candidate \{'op': 'conv', 'kernel': 5, 'ratio': 2\}: found noth"
    ):
        evaluator((0, 1, 2))


METRICS = {'top1': 1.0}


@pytest.mark.parametrize(
    ('row', 'words'),
    [
        ('{', ['not JSON']),
        ('[1]', ['found']),
        ('{"genotype": [1, -1, 0], "metrics": {"top1": NaN}}', ['$.metrics.top1', 'finite']),
        ('{"genotype": [1, -1, 0], "genotype": [1, -1, 1], "metrics": null}', ['$.genotype', 'twice']),
        ({'genotype': [1, -1, 0]}, ['$.metrics', 'required']),
        ({'metrics': METRICS}, ['exactly one of values and genotype']),
        ({'genotype': [1, -1, 0], 'values': {}, 'metrics': METRICS}, ['exactly one of values and genotype']),
        ({'genotype': [1, -1, 0], 'metrics': {'loss': 1.0}}, ['$.metrics', "['loss']", "'top1' is needed"]),
        ({'genotype': [1, -1, 0], 'metrics': {'top1': '1'}}, ['$.metrics.top1', "'1'"]),
        ({'genotype': [1, -1, 0], 'metrics': METRICS, 'note': 'x'}, ['$.note', 'not known']),
        ({'genotype': [1, 0, 0], 'metrics': METRICS}, ['inactive', '[1, -1, 0]']),
        ({'genotype': [1, -1], 'metrics': METRICS}, ['found 2 indices, 3 are needed']),
        ({'genotype': [1, -1, 3], 'metrics': METRICS}, ["'ratio'", '0 ... 2']),
        ({'genotype': [True, -1, 0], 'metrics': METRICS}, ['$.genotype[0]', 'True']),
        ({'values': {'op': 'conv', 'ratio': 2}, 'metrics': METRICS}, ["'kernel'", 'found nothing']),
        ({'values': {'op': 'attention', 'kernel': 3, 'ratio': 2}, 'metrics': METRICS}, ["'kernel'", "'op'"]),
        ({'values': {'op': 'mlp', 'ratio': 2}, 'metrics': METRICS}, ["'op'", "'mlp'"]),
        ({'values': {'op': 'attention', 'ratio': 2.0}, 'metrics': METRICS}, ['again', '(1, -1, 2)']),
    ],
)
def test_faulty_lines(tmp_path, row, words):
    path = write(tmp_path / 'table', [{'genotype': [1, -1, 2], 'metrics': METRICS}, row])
    with pytest.raises(ZooError) as caught:
        TableEvaluator(SPACE, path)
    assert all(word in str(caught.value) for word in [f'{path}:2', *words]), caught.value


def test_files_that_are_no_tables(tmp_path, monkeypatch):
    with pytest.raises(ZooError, match=r'nothing: cannot be read: No such file'):
        TableEvaluator(SPACE, tmp_path / 'nothing')
    with pytest.raises(ZooError, match='found no candidates'):
        TableEvaluator(SPACE, write(tmp_path / 'empty', ['']))
    (tmp_path / 'long').write_bytes(b' ' * 100_000)
    with pytest.raises(ZooError, match='long:1: found more than 65536 bytes'):
        TableEvaluator(SPACE, tmp_path / 'long')
    (tmp_path / 'binary').write_bytes(b'\xff\xfe\n')
    with pytest.raises(ZooError, match='binary:1: byte 0 is not UTF-8'):
        TableEvaluator(SPACE, tmp_path / 'binary')
    monkeypatch.setattr(table, 'MAX_CANDIDATES', 2)
    rows = [{'genotype': [1, -1, i], 'metrics': METRICS} for i in range(3)]
    assert len(TableEvaluator(SPACE, write(tmp_path / 'two', rows[:2])).metrics) == 2
    with pytest.raises(ZooError, match='three:3: found more than 2 candidates'):
        TableEvaluator(SPACE, write(tmp_path / 'three', rows))


def test_large_table_is_read(tmp_path):
    """More values than the project's other JSON files may have."""
    space = Space('large', tuple(Choice(f'x{i}', (1, 2, 3, 4)) for i in range(6)))
    rows = [{'values': space.values(g), 'metrics': {'top1': float(sum(g))}} for g in space.enumerate()]
    evaluator = TableEvaluator(space, write(tmp_path / 'table', rows))
    assert len(evaluator.metrics) == space.size() == 4096
    assert evaluator((3, 3, 3, 3, 3, 3)).score == 18
