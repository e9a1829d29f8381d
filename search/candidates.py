"""The search phase: a strategy asks, evaluators score, wherever they run; every candidate is recorded."""

import json
import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from safetensors.torch import load

from search.config import OneShotConfig, parse_config
from search.data import Role
from search.evaluate import Evaluator, SupernetEvaluator
from search.problem import Problem
from search.proxy import ProxyEvaluator
from search.reward import Reward
from search.rivals import Rivals
from search.run import Abandoned, Run
from search.section import Section
from search.space import Genotype
from search.strategies import Strategy
from search.supernet import Supernet
from search.table import TableEvaluator
from search.training import autocast, device
from search.workers import Outcome, Task, Workers
from zoo.arch import Arch
from zoo.errors import ZooError
from zoo.jsonfile import format_json
from zoo.models import FAMILIES
from zoo.profile import profile

__all__ = [
    'calibration',
    'find_best',
    'load_supernet',
    'make_evaluator',
    'make_record',
    'open_workers',
    'search',
]

SUPERNET = 'supernet.safetensors'
"""The trained supernet, in the run's folder."""


def search(
    problem: Problem,
    run: Run | Section,
    strategy: Strategy | None = None,
    phase: str = 'search',
    known: Sequence[dict[str, Any]] = (),
    evaluations: int | None = None,
) -> bytes:
    """Scores candidates and gives all of them and the best, as JSON.

    The records stand in the order in which the strategy asked, whatever the order in which workers finish.

    Args:
        problem: What is searched.
        run: Where.
        strategy: In place of the config's.
        phase: Of the run.
        known: Records of candidates that the strategy has been told.
        evaluations: In place of the config's, those included.

    Returns:
        The candidates' records and the best; how many were asked before any score was told, and how many were
        known.

    Raises:
        ZooError: Too many candidates in a row failed, or none has a score.
        Interrupted: The user asked to stop.
    """
    strategy = strategy or problem.make_strategy()
    candidates = list(known)
    evaluations = evaluations or problem.search_config.evaluations
    if (state := run.load(phase)) is not None:
        state = json.loads(state)
        strategy.restore(state['strategy'])
        candidates = state['candidates']

    def save() -> None:
        state = strategy.state()
        log_reports(run, strategy)
        run.save(phase, json.dumps({'strategy': state, 'candidates': candidates}))

    try:
        with open_workers(problem, run) as workers:
            _evaluate(problem, run, strategy, phase, candidates, evaluations, workers, save)
    except Abandoned:
        save()
    best = find_best(candidates)
    if best is None:
        raise ZooError(
            f'search: none of {len(candidates)} networks has a finite score; the search has no result.'
        )
    space = problem.space.space
    found = {
        'space_size': str(space.size()),
        'unguided': int(min(strategy.num_unguided, len(candidates))),
        'reused': len(known),
        'best': best,
        'candidates': candidates,
    }
    return format_json(found).encode()


def _evaluate(
    problem: Problem,
    run: Run | Section,
    strategy: Strategy,
    phase: str,
    candidates: list[dict[str, Any]],
    evaluations: int,
    workers: Workers,
    save: Callable[[], None],
) -> None:
    config = problem.search_config
    best = find_best(candidates)
    failures = 0
    rivals = Rivals(problem.config.top if isinstance(problem.config, OneShotConfig) else 1)

    def hand_out(genotype: Genotype) -> None:
        workers.submit(genotype, needed(problem, strategy, candidates, genotype, rivals))

    def look_up() -> None:
        if run.stop_asked:
            save()

    label = 'searching' if phase == 'search' else f'searching: {phase}'
    with run.progress(label, evaluations, len(candidates), 'network') as progress:
        for genotype in strategy.pending:
            hand_out(genotype)
        while len(candidates) < evaluations:
            while len(workers) < workers.capacity and len(strategy.genotypes) < evaluations:
                asked = strategy.ask()
                log_reports(run, strategy)
                if asked is None:  # scores must be told first, or there are no more different networks
                    break
                hand_out(asked)
            if not len(workers):
                break
            genotype, outcome = workers.next(look_up)
            candidates.append(make_record(problem, genotype, outcome))
            strategy.tell(genotype, candidates[-1]['score'])
            failures = 0 if outcome.failure is None else failures + 1
            if failures == config.failures_in_a_row:
                raise ZooError(
                    f'search: {failures} candidates in a row have failed, the last one by {outcome.failure}.'
                )
            best = find_best([best, candidates[-1]] if best else candidates[-1:])
            run.log(phase, len(candidates), **{k: v for k, v in candidates[-1].items() if k != 'genotype'})
            progress.update(f'best score {best["score"]:.4g}' if best else '')
            run.reached(f'{phase}: candidate')
            if run.due() and len(candidates) < evaluations:
                save()
    strategy.learn()
    log_reports(run, strategy)


def log_reports(run: Run | Section, strategy: Strategy) -> None:
    """Logs what a strategy has learned since the last time."""
    for values in strategy.reports:
        run.log('policy', int(values['batch']), **{k: v for k, v in values.items() if k != 'batch'})
    strategy.reports.clear()


def make_record(problem: Problem, genotype: Genotype, outcome: Outcome) -> dict[str, Any]:
    """What is kept of a candidate; the score is None if it failed or is not a finite number.

    Where there is a reward it is the score, and what the evaluator gave is kept as the accuracy.
    """
    value = outcome.score
    score = value if value is not None and math.isfinite(value) else None
    cost: dict[str, float] = problem.cost(genotype)._asdict()
    if problem.latency_model is not None:
        cost['latency'] = problem.latency_model.latency(genotype)
    accuracy, error = {}, outcome.standard_error
    if score is not None and (reward := problem.search_config.reward) is not None:
        accuracy['accuracy'] = score
        cost[reward.cost] = find_cost(problem, genotype, reward)
        score = reward(score, cost[reward.cost])
        error = None if error is None else reward(error, cost[reward.cost])
    record = {'genotype': list(genotype), **cost, 'score': score, **accuracy}
    if score is not None and error is not None:
        record['standard_error'] = error
    return record | outcome.metrics | ({'failure': outcome.failure} if outcome.failure else {})


def find_cost(problem: Problem, genotype: Genotype, reward: Reward) -> int:
    """What a candidate costs, in the reward's unit."""
    if reward.cost == 'macs':
        return problem.cost(genotype).macs
    space = problem.space
    return _count_fvcore(space.family, space.decode(genotype), space.input_size, problem.data.num_classes)


@lru_cache(maxsize=1024)  # asked when a candidate is handed out, and again when it has been scored
def _count_fvcore(family: str, arch: Arch, input_size: tuple[int, int, int], num_classes: int) -> int:
    in_chans, *img_size = input_size
    args = dict(in_chans=in_chans, img_size=tuple(img_size), num_classes=num_classes)
    return profile(FAMILIES[family].build(arch, family, device='meta', **args), input_size).fvcore


def needed(
    problem: Problem,
    strategy: Strategy,
    candidates: list[dict[str, Any]],
    genotype: Genotype,
    rivals: Rivals,
) -> float:
    """What an evaluator must give, lest the candidate changes nothing: neither what is asked later, nor the
    best ones that are trained, nor the front of accuracy and MACs.

    Where there is a reward, it is translated to the accuracy that earns it. Only candidates whose scores
    every process knows when this one is asked are looked at, so that what is given up does not depend on the
    number of workers.
    """
    config, (settled, influence) = problem.search_config, strategy.settled()
    if not config.give_up or not settled:
        return -math.inf
    rivals.learn(candidates, settled)
    least = min(influence, rivals.top_score())
    if config.reward is not None and least > -math.inf:
        least = config.reward.find_accuracy(least, find_cost(problem, genotype, config.reward))
    return min(least, rivals.accuracy(problem.cost(genotype).macs))


def find_best(candidates: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The highest score; the fewest MACs, then the earliest, among equals."""
    scored = [candidate for candidate in candidates if candidate['score'] is not None]
    return max(scored, key=lambda candidate: (candidate['score'], -candidate['macs']), default=None)


def make_evaluator(
    problem: Problem, folder: Path, stop: Callable[[], bool] = lambda: False, role: Role = 'val'
) -> Evaluator:
    """The evaluator that a config names; a trained supernet is read from the run's folder, and scored on the
    images of a role."""
    config = problem.search_config
    if config.evaluator.kind == 'table':
        table = config.evaluator
        return TableEvaluator(problem.space.space, table.file, table.metric, table.minimize)
    if config.evaluator.kind == 'proxy':
        return ProxyEvaluator(problem, config.evaluator.recipe, stop)
    supernet, where = load_supernet(problem, (folder / SUPERNET).read_bytes()), device()
    images, labels = problem.data.images(role).tensors(config.batch_size, problem.config.data.num_workers)
    return SupernetEvaluator(
        supernet,
        images.to(where),
        labels.to(where),
        config.batch_size,
        config.objective,
        partial(autocast, where, config.bf16),
        calibration(problem, supernet),
    )


def open_workers(problem: Problem, run: Run | Section) -> Workers:
    """Evaluators of a run's candidates, where the config wants them."""
    task = Task(_make_in_worker, (problem.config.model_dump_json(), str(run.folder.resolve())))
    make = partial(make_evaluator, problem, run.folder, lambda: run.stop_asked)
    return Workers(problem.search_config.workers, task, make)


def _make_in_worker(config: str, folder: str) -> Evaluator:
    return make_evaluator(Problem(parse_config(json.loads(config))), Path(folder))


def load_supernet(problem: Problem, store: bytes) -> Supernet:
    supernet = problem.make_supernet()
    supernet.load_state_dict({key.replace('.', '/'): value for key, value in load(store).items()})
    return supernet.to(device()).eval()


def calibration(problem: Problem, supernet: Supernet) -> list[Any]:
    """Batches of images that batch norms are calibrated on, none where there are none."""
    return [x.to(device()) for x in problem.calibration()] if supernet.has_batch_norm else []
