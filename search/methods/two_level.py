"""Search at two levels: first what every block is, then what it looks like.

GLiT (Chen et al., ICCV 2021), Sec. 3.3, "Hierarchical Neural Architecture Search". First stage: the
low-level choices (d_k, d_z, E, K) are fixed, and SPOS (arXiv 1904.00420) searches the distribution N* of
global and local heads over the blocks. Second stage: N* is fixed, and SPOS searches the low-level choices S*.
Each stage trains a supernet of its own, evolves sub-networks under a limit of cost, and retrains the best
five, of which the one that is best on val is kept. With ``levels: 1`` all of that is done once in the whole
space: the paper's baseline (Table 5).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from search.config import TwoLevelConfig
from search.emit import describe_search
from search.phases import Result, Trained, compare, count_cost, emit, find, open_run, train_best
from search.problem import Problem
from search.run import Run
from search.section import Section
from search.seeding import derive_seed
from search.space import Value
from zoo.errors import ZooError

__all__ = ['two_level']

Found = tuple[Trained, dict[str, Any], str]
"""A network, what finding it took, and sentences on how it was found."""


def two_level(
    config: TwoLevelConfig,
    folder: Path | str,
    *,
    fault: Callable[[str], None] | None = None,
    quiet: bool = False,
) -> Result:
    """Runs a config in a folder, or continues it there.

    Args:
        config: What to do.
        folder: See :class:`search.run.Run`, as for the other arguments. What belongs to one of two levels
            stands in its folders ``level1`` and ``level2``.

    Raises:
        ZooError: The config cannot work (a space without two levels, infeasible limits), or the folder is of
            another run.
        Interrupted: The user asked to stop; the same call continues.
    """
    problem = Problem(config)
    first = None if config.levels == 1 else first_level(problem)
    with open_run(problem, folder, fault, quiet) as run:
        if first is None:
            found, cost, how = search_level(problem, run)
        else:
            found, cost, how = search_levels(problem, first, run)
        entry = emit(problem, run, found, cost, how)
        again, others = compare(problem, run, found.genotype, entry)
    return Result(entry, found.best, again, others)


def search_levels(problem: Problem, first: Problem, run: Run) -> Found:
    """Both levels. The genotype of what is found is one of the whole space."""
    best, first_cost, first_how = search_level(first, Section(run, 'level1'))
    second = second_level(problem, first.space.space.values(best.genotype))
    found, second_cost, second_how = search_level(second, Section(run, 'level2'))
    weights = run.phase('weights', f'{problem.config.name}.safetensors', lambda: found.weights)
    genotype = problem.space.space.genotype(second.space.space.values(found.genotype))
    trained = Trained(found.best | {'genotype': list(genotype)}, weights)
    how = f'At two levels. First, what blocks are. {first_how} Then, what they look like. {second_how}'
    return trained, {'level1': first_cost, 'level2': second_cost}, how


def search_level(problem: Problem, run: Run | Section) -> Found:
    """The three steps of SPOS: supernet training, subnet searching and subnet retraining."""
    candidates = find(problem, run)
    found = train_best(problem, run, candidates)
    how = describe_search(problem)
    if (rivals := min(problem.config.top, len(candidates))) > 1:  # type: ignore[attr-defined]
        how += f' Of the best {rivals}, with their final weights, the one that is best on val was kept.'
    return found, count_cost(problem, len(candidates)), how


def first_level(problem: Problem) -> Problem:
    """The search of the distribution, with everything else fixed."""
    space = problem.space
    if space.first_level is None:
        raise ZooError(f'space: found family {space.family!r}, which has no two levels; glit is allowed.')
    return restrict(problem, 'level1', space.first_level(space.space))


def second_level(problem: Problem, found: Mapping[str, Value]) -> Problem:
    """The search of everything else, with a found distribution.

    Args:
        problem: The whole search.
        found: The values of what the first level has found.
    """
    assert problem.space.first_level is not None
    details = problem.space.first_level(problem.space.space)
    distribution = {name: value for name, value in found.items() if name not in details}
    return restrict(problem, 'level2', distribution)


def restrict(problem: Problem, name: str, values: Mapping[str, Value]) -> Problem:
    """A level: the search in the part of the space that has some values, with seeds of its own."""
    config = problem.config
    allowed = config.restrict | {choice: [value] for choice, value in values.items()}
    update = {'restrict': allowed, 'seed': derive_seed(config.seed, name)}
    return replace(problem, config=config.model_copy(update=update))
