"""What tells how good a search is: as many random candidates, and the best ones on other images."""

import math
from functools import partial
from typing import Any

from search.candidates import make_evaluator, make_record, search
from search.problem import Problem
from search.run import Run
from search.section import Section
from search.seeding import derive_seed
from search.strategies import Evolution, RandomSearch
from search.workers import score
from zoo.jsonfile import format_json

__all__ = ['TOP', 'count_drawn', 'has_baseline', 'score_again', 'score_random']

TOP = 10
"""Candidates that are scored on other images."""

Record = dict[str, Any]


def score_random(problem: Problem, run: Run | Section, found: Record) -> None:
    """Scores as many random candidates as a search has evaluated, by the same evaluator; none is given up.

    A search that is random is its own baseline. Of an evolution the first generation is part of it, as that
    was drawn at random; PPO's first batch has equal odds for the values of a choice, not for architectures.

    Args:
        problem: What was searched.
        run: Where.
        found: What :func:`search.candidates.search` gave.
    """
    if not has_baseline(problem):
        return
    known = found['candidates'][: count_drawn(problem)]
    strategy = RandomSearch(problem.sampler, derive_seed(problem.config.seed, 'random'), problem.space.decode)
    strategy.restore(
        {
            'genotypes': [record['genotype'] for record in known],
            'scores': [record['score'] for record in known],
            'pending': [],
        }
    )
    compute = partial(search, problem, run, strategy, 'random', known, len(found['candidates']))
    run.phase('random', 'random.json', compute)


def has_baseline(problem: Problem) -> bool:
    """Whether random candidates are scored, and are not what the search itself scores."""
    config = problem.search_config
    return config.baseline and config.strategy.get('name') != 'random'


def count_drawn(problem: Problem) -> int:
    """How many of a search's first candidates are random ones of its space, within its limits."""
    strategy = problem.make_strategy()
    return int(strategy.num_unguided) if isinstance(strategy, Evolution) else 0


def score_again(problem: Problem, run: Run | Section, found: Record) -> None:
    """Scores the best candidates of a search on images that it did not see, with the supernet's weights."""
    if problem.search_config.evaluator.kind == 'supernet' and problem.data.has('recheck'):
        run.phase('recheck', 'recheck.json', partial(recheck, problem, run, found['candidates']))


def recheck(problem: Problem, run: Run | Section, candidates: list[Record]) -> bytes:
    """The best candidates' records, the best first, each with that of the other images under ``recheck``."""
    judged = [record for record in candidates if record['score'] is not None and 'images' not in record]
    best = sorted(judged, key=lambda record: (-record['score'], record['macs']))[:TOP]
    evaluator = make_evaluator(problem, run.folder, role='recheck')
    outcomes = [score(evaluator, tuple(record['genotype']), -math.inf) for record in best]
    return format_json(
        [
            record | {'recheck': make_record(problem, tuple(record['genotype']), outcome)}
            for record, outcome in zip(best, outcomes, strict=True)
        ]
    ).encode()
