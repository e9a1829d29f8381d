"""Candidates are evaluated anywhere, workers die, candidates fail, and the result of a run is the same."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import worker_evaluators
from interruptions import read_all

from search import candidates as search_candidates
from search.candidates import find_best
from search.config import RunConfig, load_config
from search.evaluate import Evaluation
from search.methods import one_shot
from search.problem import Problem
from search.run import Interrupted, Run
from search.workers import Outcome, Task, Workers, WorkersConfig
from zoo.errors import ZooError

TINY = Path(__file__).with_name('tiny.yaml')
GENOTYPES = [(a, b) for a in range(4) for b in range(3)]
EXPECTED = [(g, Outcome(float(sum(g)), {'first': float(g[0])})) for g in GENOTYPES]


def tiny(*overrides: str) -> RunConfig:
    return load_config(TINY, ['compare=null', *overrides])


def evaluate_all(config: WorkersConfig | None, task: Task, middle=lambda: None) -> list:
    found = []
    with Workers(config, task, lambda: task.make(*task.args)) as workers:
        left = list(GENOTYPES)
        while left or len(workers):
            while left and len(workers) < workers.capacity:
                workers.submit(left.pop(0), -1.0)
            found.append(workers.next(lambda: None))
            if len(found) == 4:
                middle()
    return found


@pytest.mark.parametrize('processes', [None, 2])
def test_outcomes_come_in_the_order_of_the_candidates(processes, tmp_path):
    config = WorkersConfig(processes=processes) if processes else None
    assert evaluate_all(config, Task(worker_evaluators.make_slow, (str(tmp_path), 0.01))) == EXPECTED
    pids = {int(path.stem) for path in tmp_path.glob('*.pid')}
    assert (os.getpid() in pids) == (processes is None)
    assert len(pids) <= (processes or 1)
    deadline = time.monotonic() + 20
    while processes and any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes is None or not any(map(is_alive, pids))


def is_alive(pid: int) -> bool:
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except FileNotFoundError:
        return False


def test_a_candidate_that_raises_has_failed_with_its_reason(tmp_path):
    for genotype, outcome in evaluate_all(None, Task(worker_evaluators.make_clumsy, (str(tmp_path),))):
        if sum(genotype) % 2:
            assert outcome == Outcome(None, {}, 'RuntimeError: out of memory')
        else:
            assert outcome == Outcome(float(sum(genotype)), {'first': float(genotype[0])})


@pytest.mark.parametrize(('deaths', 'dies'), [(1, False), pytest.param(99, True, marks=pytest.mark.slow)])
def test_a_worker_that_dies_costs_its_candidate_another_evaluation(deaths, dies, tmp_path):
    task = Task(worker_evaluators.make_deadly, (str(tmp_path), (1, 2), deaths))
    found = dict(evaluate_all(WorkersConfig(processes=1), task))
    if dies:
        assert found.pop((1, 2)).failure == 'its worker process died 3 times'
    assert found == {g: outcome for g, outcome in EXPECTED if g in found}
    assert len(list(tmp_path.glob('*.death'))) >= (3 if dies else 1)


def test_a_candidate_can_be_handed_out_when_the_pool_has_just_died(tmp_path):
    task = Task(worker_evaluators.make_slow, (str(tmp_path), 0.0))
    with Workers(WorkersConfig(processes=1), task, list) as workers:
        workers.submit((1, 0), -1.0)
        assert workers.next(lambda: None)[1].score == 1.0
        os.kill(int(next(tmp_path.glob('*.pid')).stem), signal.SIGKILL)
        time.sleep(1.0)
        workers.submit((1, 2), -1.0)
        assert workers.next(lambda: None) == ((1, 2), Outcome(3.0, {'first': 1.0}))


def test_dask_workers_of_which_one_is_killed(tmp_path):
    from distributed import LocalCluster

    def kill_one() -> None:
        os.kill(int(next(tmp_path.glob('*.pid')).stem), signal.SIGKILL)

    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        config = WorkersConfig(dask=cluster.scheduler_address)
        task = Task(worker_evaluators.make_slow, (str(tmp_path), 0.2))
        assert evaluate_all(config, task, kill_one) == EXPECTED
    assert len(list(tmp_path.glob('*.pid'))) >= 2


def test_an_address_without_a_scheduler():
    with pytest.raises(ZooError, match='no scheduler answers at'):
        Workers(WorkersConfig(dask='nonsense://x'), Task(worker_evaluators.make_slow, ()), list)


@pytest.fixture(scope='module')
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('whole')
    one_shot(tiny(), folder, quiet=True)
    return folder


def test_two_processes_interrupted_in_the_middle_give_the_same_bytes(whole, tmp_path):
    points = []

    def stop(point: str) -> None:
        points.append(point)
        if point == 'search: candidate' and points.count(point) == 5:
            os.kill(os.getpid(), signal.SIGINT)

    config = tiny('search.workers.processes=2')
    with pytest.raises(Interrupted):
        one_shot(config, tmp_path, fault=stop, quiet=True)
    with Run(
        tmp_path, config.decisive(), json.loads((tmp_path / 'config.json').read_text())['versions']
    ) as run:
        state = json.loads(run.load('search'))
    assert 5 <= len(state['candidates']) < 10
    one_shot(config, tmp_path, quiet=True)
    assert read_all(tmp_path) == read_all(whole)


def test_proxy_training_needs_no_supernet_and_does_not_depend_on_the_order(tmp_path):
    recipe = '{epochs: 1, batch_size: 256, lr: 0.01}'
    changes = (
        'supernet=null',
        f'search.evaluator={{kind: proxy, recipe: {recipe}}}',
        'search.strategy={name: random}',
        'search.evaluations=4',
    )
    one_shot(tiny(*changes), tmp_path / 'here', quiet=True)
    one_shot(tiny(*changes, 'search.workers.processes=2'), tmp_path / 'there', quiet=True)
    assert read_all(tmp_path / 'here') == read_all(tmp_path / 'there')
    assert not (tmp_path / 'here/supernet.safetensors').exists()
    problem = Problem(tiny(*changes))
    evaluator = search_candidates.make_evaluator(problem, tmp_path)
    records = json.loads((tmp_path / 'here/search.json').read_text())['candidates']
    for record in reversed(records):
        assert evaluator(tuple(record['genotype'])).score == record['score']
    provenance = json.loads((tmp_path / 'here/tiny.json').read_text())['provenance']
    assert provenance['cost'] == {'evaluations': 4, 'proxy_steps': 16, 'retrain_steps': 8}


def test_a_proxy_training_is_abandoned_when_the_user_asks_to_stop(tmp_path, monkeypatch):
    recipe = '{epochs: 50, batch_size: 64, lr: 0.01}'
    config = tiny('supernet=null', f'search.evaluator={{kind: proxy, recipe: {recipe}}}')
    steps = []

    def stop(point: str) -> None:
        steps.append(point)

    original = search_candidates.ProxyEvaluator.__call__

    def call(self, genotype, needed):
        os.kill(os.getpid(), signal.SIGINT)
        return original(self, genotype, needed)

    monkeypatch.setattr(search_candidates.ProxyEvaluator, '__call__', call)
    with pytest.raises(Interrupted):
        one_shot(config, tmp_path, fault=stop, quiet=True)
    assert 'search: save' in steps
    assert 'search: candidate' not in steps


def test_too_many_failures_in_a_row_stop_the_search(tmp_path, monkeypatch):
    calls = []

    def call(self, genotype, needed):
        calls.append(genotype)
        if len(calls) in (1, 2, 4, 5, 6):
            raise MemoryError
        return Evaluation(1.0, {})

    monkeypatch.setattr(search_candidates.SupernetEvaluator, '__call__', call)
    with pytest.raises(ZooError, match='3 candidates in a row have failed, the last one by MemoryError'):
        one_shot(tiny('search.failures_in_a_row=3'), tmp_path, quiet=True)
    assert len(calls) == 6


def test_giving_up_changes_neither_the_search_nor_the_front(tmp_path):
    """Small batches, so that candidates are given up on the way."""
    found = {}
    for give_up in (True, False):
        folder = tmp_path / str(give_up)
        changes = f'search.give_up={str(give_up).lower()}', 'search.batch_size=8', 'search.evaluations=40'
        train = 'supernet.recipe.epochs=12', 'supernet.recipe.lr=0.02', 'search.objective=top1'
        end = 'search.limits={}', 'weights=inherit', 'retrain=null'
        one_shot(tiny(*changes, *train, *end), folder, quiet=True)
        found[give_up] = json.loads((folder / 'search.json').read_text())
    assert found[True]['best'] == found[False]['best']
    pairs = list(zip(found[True]['candidates'], found[False]['candidates'], strict=True))
    dropped = [(a, b) for a, b in pairs if 'images' in a]
    assert dropped
    for a, b in pairs:
        assert a['genotype'] == b['genotype']
        assert a == b or ('images' in a and a['images'] < 362 and b['score'] <= a['score'] + 1e-6)
    front = {tuple(r['genotype']) for r in pareto([b for _, b in pairs])}
    assert front == {tuple(r['genotype']) for r in pareto([a for a, _ in pairs])}
    assert not front & {tuple(a['genotype']) for a, _ in dropped}
    assert find_best([a for a, _ in pairs]) == found[False]['best']


def pareto(records: list[dict]) -> list[dict]:
    return [
        r for r in records if not any(o['macs'] <= r['macs'] and o['score'] > r['score'] for o in records)
    ]


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (['supernet=null'], 'supernet is needed'),
        (
            ['search.evaluator={kind: proxy, recipe: {epochs: 1, batch_size: 8, lr: 1}}'],
            'supernet is not used',
        ),
        (['search.workers={}'], 'exactly one of processes and dask'),
        (['search.evaluator={kind: oracle}'], 'oracle'),
    ],
)
def test_configs_that_do_not_fit_together(changes, message):
    with pytest.raises(ZooError, match=message):
        tiny(*changes)
