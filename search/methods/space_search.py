"""Searching the search space: S3 (arXiv 2111.14725), Algorithm 1, then a search in the space that it found.

T times: a supernet of the current space is trained by sandwich (Sec. 2.3, Step 1; Eq. 3); from the part of
the space in which a size of a stage has one value, for every such size and value, architectures are drawn
within the limits and scored with it; the E-T errors of the values say where the space moves (Step 2; see
:mod:`search.space_evolution`). The last space is searched as by one_shot (Sec. 2.4; Eq. 4).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from search.candidates import SUPERNET
from search.config import SpaceSearchConfig
from search.emit import describe_search
from search.figures.space_evolution import draw_evolution
from search.phases import Result, compare, count_cost, emit, find, open_run, train_best, train_supernet
from search.problem import Problem
from search.run import Run
from search.section import Section
from search.seeding import derive_seed
from search.space_evolution import Evolution
from search.subspaces import evolve
from zoo.errors import ZooError
from zoo.jsonfile import format_json

__all__ = ['space_search']

Record = dict[str, Any]


def space_search(
    config: SpaceSearchConfig,
    folder: Path | str,
    *,
    fault: Callable[[str], None] | None = None,
    quiet: bool = False,
) -> Result:
    """Runs a config in a folder, or continues it there.

    Args:
        config: What to do.
        folder: See :class:`search.run.Run`, as for the other arguments. What belongs to an iteration stands
            in its folder ``iteration<t>``: its space (``space.json``), its supernet, and the errors by which
            the space moved (``errors.json``); ``space.json`` beside them is the last space.

    Raises:
        ZooError: The config cannot work (a space that cannot move, infeasible limits), or the folder is of
            another run.
        Interrupted: The user asked to stop; the same call continues.
    """
    problem = Problem(config)
    declaration = check_space(problem, config.evolve)
    with open_run(problem, folder, fault, quiet) as run:
        spaces, found = [declaration], []
        for t in range(1, config.evolve.iterations + 1):
            found.append(iterate(problem, spaces[-1], t, run))
            spaces.append(found[-1]['next'])
        run.phase('space', 'space.json', lambda: format_json(spaces[-1]).encode())
        run.phase('figure', 'space_evolution.png', partial(draw_evolution, spaces, found, config.evolve))
        final = replace(problem, config=config.model_copy(update={'space': spaces[-1]}))
        candidates = find(final, run)
        best = train_best(final, run, candidates)
        steps = problem.num_steps(problem.supernet_config.recipe, problem.supernet_config.images)
        spent = {
            'space_supernet_steps': steps * len(found),
            'space_evaluations': sum(iteration['networks'] for iteration in found),
        }
        how = f'{describe(found)} {describe_search(final)}'
        entry = emit(final, run, best, count_cost(final, len(candidates)) | spent, how, config)
        again, others = compare(final, run, best.genotype, entry)
    return Result(entry, best.best, again, others)


def check_space(problem: Problem, evolution: Evolution) -> Record:
    """The declaration of the initial space.

    Raises:
        ZooError: Its family's spaces cannot move, or the steps are not for its sizes.
    """
    declaration = problem.space.declaration
    if declaration is None:
        raise ZooError(
            f'space: found family {problem.space.family!r}, whose spaces cannot move; s3 is allowed.'
        )
    for name, step in evolution.steps.items():
        stage = declaration['stages'][0]
        if name not in stage:
            raise ZooError(f'evolve.steps: found {name!r}, allowed are {", ".join(stage)}.')
        if not isinstance(step, int) and all(isinstance(value, int) for value in stage[name]):
            raise ZooError(f'evolve.steps: {name}: found {step}, a whole number is needed.')
    return dict(declaration)


def iterate(problem: Problem, declaration: Record, number: int, run: Run) -> Record:
    """Iteration t of Algorithm 1, with seeds of its own: what errors.json holds, with the next space."""
    section, name = Section(run, f'iteration{number}'), f'iteration{number}'
    section.phase('space', 'space.json', lambda: format_json(declaration).encode())
    update = {'space': declaration, 'seed': derive_seed(problem.config.seed, name)}
    current = replace(problem, config=problem.config.model_copy(update=update))
    section.phase('supernet', SUPERNET, partial(train_supernet, current, section), together=True)
    compute = partial(evolve, current, declaration, section)
    found: Record = json.loads(section.phase('errors', 'errors.json', compute))
    return found


def describe(found: Sequence[Record]) -> str:
    """A sentence on the iterations."""
    moves = [sum(d['decision'] == 'moved' for d in iteration['dimensions']) for iteration in found]
    return (
        f'The space was searched first, in {len(found)} iterations in which '
        f'{", ".join(map(str, moves))} of {len(found[0]["dimensions"])} dimensions moved.'
    )
