"""One-shot search: train a supernet, search among its sub-networks, train what was found.

As TrioNet's (arXiv 2111.07547) and S3's last step (arXiv 2111.14725, Sec. 2.4): sandwich training without
limits on cost, then a search under limits. With another evaluator there is no supernet, and with
``strategy: {name: random}`` no search to speak of: the baselines.
"""

from collections.abc import Callable
from pathlib import Path

from search.config import OneShotConfig
from search.emit import describe_search
from search.phases import Result, compare, count_cost, emit, find, open_run, train_best
from search.problem import Problem

__all__ = ['one_shot']


def one_shot(
    config: OneShotConfig,
    folder: Path | str,
    *,
    fault: Callable[[str], None] | None = None,
    quiet: bool = False,
) -> Result:
    """Runs a config in a folder, or continues it there.

    Args:
        config: What to do.
        folder: See :class:`search.run.Run`, as for the other arguments.

    Raises:
        ZooError: The config cannot work (unknown data, infeasible limits), or the folder is of another run.
        Interrupted: The user asked to stop; the same call continues.
    """
    problem = Problem(config)
    with open_run(problem, folder, fault, quiet) as run:
        candidates = find(problem, run)
        found = train_best(problem, run, candidates)
        cost = count_cost(problem, len(candidates))
        entry = emit(problem, run, found, cost, describe_search(problem))
        again, others = compare(problem, run, found.genotype, entry)
    return Result(entry, found.best, again, others)
