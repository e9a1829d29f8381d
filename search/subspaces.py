"""One iteration of S3's search of a space (arXiv 2111.14725, Algorithm 1, lines 4 to 8).

Every subspace is measured: architectures of it are drawn within the limits and scored with the supernet. Then
the space moves, as far as it stays one that can be searched.
"""

import math
from collections.abc import Sequence
from random import Random
from typing import Any

from search.budget import BudgetSampler, Limits
from search.candidates import open_workers
from search.config import SpaceSearchConfig
from search.problem import Problem
from search.sampling import Sampler, SpaceSampler
from search.section import Section
from search.seeding import derive_seed
from search.space import Genotype
from search.space_evolution import (
    Dimension,
    ErrorQuality,
    Evolution,
    Line,
    et_error,
    fit_line,
    list_dimensions,
    num_steps,
    redeclare,
)
from search.spaces import FamilySpace, load_space
from zoo.arch import Arch
from zoo.errors import ZooError
from zoo.jsonfile import format_json

__all__ = ['evolve', 'move']

Record = dict[str, Any]


def evolve(problem: Problem, declaration: Record, run: Section) -> bytes:
    """Step 2 of Sec. 2.3: measures every subspace and moves the space, as JSON."""
    evolution = evolution_of(problem)
    dimensions = list_dimensions(declaration, list(evolution.steps))
    drawn = {
        (dimension, value): draw(problem, dimension, value)
        for dimension in dimensions
        for value in dimension.values
        if len(dimension.values) > 1
    }
    networks: dict[Arch, Genotype] = {}  # one that is drawn several times is evaluated once
    for genotypes in drawn.values():
        for genotype in genotypes:
            networks.setdefault(problem.space.decode(genotype), genotype)
    errors = dict(zip(networks, evaluate(problem, run, list(networks.values())), strict=True))
    subspaces, records, lines = [], [], {}
    for dimension in dimensions:
        qualities: dict[float, ErrorQuality] = {}
        positions = dimension.positions(evolution.paper)
        for position, value in zip(positions, dimension.values, strict=True):
            of_value = [errors[problem.space.decode(g)] for g in drawn.get((dimension, value), [])]
            about = {'stage': dimension.stage, 'name': dimension.name, 'value': value, 'n': len(of_value)}
            if of_value:
                qualities[position] = quality = et_error(of_value, evolution.top_share)
                about |= {'e_error': quality.expected, 't_error': quality.top, 'et_error': quality.value}
            subspaces.append(about | {'errors': of_value})
        if len(qualities) > 1:
            lines[dimension] = fit_line(list(qualities), list(qualities.values()), evolution.confidence)
    following, reasons = move(problem, declaration, lines, evolution)
    for dimension in dimensions:
        record = {'stage': dimension.stage, 'name': dimension.name, 'values': list(dimension.values)}
        if (line := lines.get(dimension)) is not None:
            record |= {'slope': line.slope, 'interval': list(line.interval), 'r2': line.r2}
            record |= {'steps': -num_steps(line, evolution)}
        record['next'] = following['stages'][dimension.stage - 1][dimension.name]
        records.append(record | {'decision': reasons.get(dimension, 'moved')})
    result = {'networks': len(networks), 'dimensions': records, 'subspaces': subspaces, 'next': following}
    return format_json(result).encode()


def evolution_of(problem: Problem) -> Evolution:
    assert isinstance(problem.config, SpaceSearchConfig)
    return problem.config.evolve


def make_sampler(problem: Problem, space: FamilySpace) -> Sampler:
    """The architectures of another space than the problem's within its limits."""
    limits = problem.config.search.limits
    if limits.params is None and limits.macs is None:
        return SpaceSampler(space.space)
    return BudgetSampler(space.cost_model(problem.data.num_classes), Limits(limits.params, limits.macs))


def draw(problem: Problem, dimension: Dimension, value: float) -> list[Genotype]:
    """N architectures of a subspace within the limits, uniformly; none if there are none."""
    part = problem.space.restrict(dimension.fix(problem.space.space, value))
    try:
        sampler = make_sampler(problem, part)
    except ZooError:
        return []
    index, seed = dimension.values.index(value), problem.config.seed
    rngs = [
        Random(derive_seed(seed, 'errors', dimension.stage, dimension.name, index, number))
        for number in range(evolution_of(problem).architectures)
    ]
    whole = problem.space.space
    return [whole.genotype(part.space.values(sampler.sample(rng))) for rng in rngs]


def evaluate(problem: Problem, run: Section, networks: Sequence[Genotype]) -> list[float]:
    """Top-1 errors in per cent on val, with the weights of the run's supernet."""
    state = run.load('errors')
    errors: list[float] = [] if state is None else list(state)

    def save() -> None:
        run.save('errors', list(errors))

    def look_up() -> None:
        if run.stop_asked:
            save()

    with (
        open_workers(problem, run) as workers,
        run.progress('measuring the space', len(networks), len(errors), 'network') as progress,
    ):
        ahead = len(errors)
        while len(errors) < len(networks):
            while len(workers) < workers.capacity and ahead < len(networks):
                workers.submit(networks[ahead], -math.inf)
                ahead += 1
            _, outcome = workers.next(look_up)
            if outcome.failure is not None:
                raise ZooError(f'errors: an architecture of the space has failed by {outcome.failure}.')
            errors.append(100 - outcome.metrics['top1'])
            run.log('errors', len(errors), error=errors[-1])
            progress.update(f'mean error {sum(errors) / len(errors):.2f} %')
            run.reached('errors: network')
            if run.due() and len(errors) < len(networks):
                save()
    return errors


def move(
    problem: Problem, declaration: Record, lines: dict[Dimension, Line], evolution: Evolution
) -> tuple[Record, dict[Dimension, str]]:
    """Shifts what wants to move (Eq. 8), as long as the space stays valid and has networks within the limits.

    Where not everything can move at once, the dimensions are tried one by one, the steepest first.

    Returns:
        The declaration of the next space, and why dimensions stay.
    """
    dimensions = list_dimensions(declaration, list(evolution.steps))
    reasons, moved = {}, {}
    for dimension in dimensions:
        if (line := lines.get(dimension)) is None:
            single = len(dimension.values) == 1
            reasons[dimension] = 'one value' if single else 'fewer than two values within the limits'
        elif not (steps := num_steps(line, evolution)):
            low, high = line.interval
            flat = not evolution.paper and low <= 0 <= high
            reasons[dimension] = 'the interval contains 0' if flat else 'the slope is smaller than tau'
        else:
            try:
                moved[dimension] = dimension.shift(-steps * evolution.steps[dimension.name])
            except ZooError as error:
                reasons[dimension] = str(error)
    at_once = redeclare(declaration, {(d.stage, d.name): values for d, values in moved.items()})
    if find_fault(problem, at_once) is None:
        return at_once, reasons
    following = declaration
    for dimension in sorted(moved, key=lambda dimension: -abs(lines[dimension].slope)):
        attempt = redeclare(following, {(dimension.stage, dimension.name): moved[dimension]})
        if fault := find_fault(problem, attempt):
            reasons[dimension] = fault
        else:
            following = attempt
    return following, reasons


def find_fault(problem: Problem, declaration: Record) -> str | None:
    """Why a space cannot be the next one, if so."""
    try:
        make_sampler(problem, load_space(declaration, problem.config.input.size))
    except ZooError as error:
        return str(error)
    return None
