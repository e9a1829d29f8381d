"""Proxy search: every candidate is trained for a short time, and what is found is scaled to a family.

UniNet (Liu et al., arXiv 2110.04035v1), Sec. 3.5, "Search algorithm", and Sec. 4: a recurrent controller,
trained by PPO, proposes architectures; each is trained for 5 epochs (the proxy task) and rewarded for its
accuracy and its cost (:class:`search.reward.Reward`); the k that earn most are trained fully, and of these
the one that performs best is scaled to a family, by Sec. 5.1's compound scaling (:mod:`search.scaling`).
Any strategy can stand in the controller's place. What performs best is what is most accurate on val: the
reward has chosen the k, the cost decides nothing any more.
"""

from collections.abc import Callable
from pathlib import Path

from search.config import Member, ProxyConfig
from search.emit import describe_search
from search.phases import Result, compare, count_cost, emit, find, open_run, train_best
from search.problem import Problem, check_name
from search.run import Run
from search.scaling import scale_arch
from zoo.entry import Entry, make_entry, read_entry
from zoo.errors import ZooError
from zoo.profile import measure

__all__ = ['proxy', 'scale_entry']


def proxy(
    config: ProxyConfig,
    folder: Path | str,
    *,
    fault: Callable[[str], None] | None = None,
    quiet: bool = False,
) -> Result:
    """Runs a config in a folder, or continues it there.

    Args:
        config: What to do.
        folder: See :class:`search.run.Run`, as for the other arguments. The family stands in its folder
            ``family``.

    Raises:
        ZooError: The config cannot work (unknown data, infeasible limits, networks that cannot be scaled), or
            the folder is of another run.
        Interrupted: The user asked to stop; the same call continues.
    """
    problem = Problem(config)
    check_family(problem, config.scale)
    with open_run(problem, folder, fault, quiet) as run:
        candidates = find(problem, run)
        found = train_best(problem, run, candidates)
        cost = count_cost(problem, len(candidates))
        entry = emit(problem, run, found, cost, describe(problem, min(config.top, len(candidates))))
        family = tuple(emit_member(run, entry, member) for member in config.scale)
        again, others = compare(problem, run, found.genotype, entry)
    return Result(entry, found.best, again, others, family)


def describe(problem: Problem, rivals: int) -> str:
    """The sentences of the entry: how candidates were judged, and how the best of them were told apart."""
    how, reward = describe_search(problem), problem.search_config.reward
    if reward is not None:
        how += f' Score: accuracy * ({reward.cost} / {reward.target:g}) ** {reward.alpha:g}.'
    if rivals > 1:
        how += f' Of the best {rivals}, fully trained, the one that is most accurate on val was kept.'
    return how


def check_family(problem: Problem, members: list[Member]) -> None:
    """Refuses scaled networks that cannot be, by one of the space's largest sizes, before anything is
    trained."""
    space = problem.space.space
    picks = [
        choice.values.index(choice.values[-1] if isinstance(choice.values[0], str) else max(choice.values))
        for choice in space.choices
    ]
    largest = problem.space.decode(space.canonical(picks))
    for member in members:
        try:
            check_name(member.name, problem.space.family)
            scale_arch(largest, problem.config.input.size, member)
        except ZooError as error:
            raise ZooError(f'scale: {member.name}: {error}') from None


def emit_member(run: Run, entry: Path, member: Member) -> Path:
    """Writes the entry of a scaled network."""
    file = f'family/{member.name}.json'
    run.phase(
        f'family {member.name}', file, lambda: scale_entry(read_entry(entry), member).to_json().encode()
    )
    return run.folder / file


def scale_entry(base: Entry, member: Member) -> Entry:
    """The entry of a scaled network, without weights.

    Raises:
        ZooError: See :func:`search.scaling.scale_arch`; or the network would be too large.
    """
    arch, size = scale_arch(base.arch, base.input.size, member)
    data = base.model_dump(mode='json', by_alias=True, exclude_none=True, exclude={'measured', 'published'})
    note = (
        f'Scaled from {base.name}: width x {member.width:g}, depth x {member.depth:g}, resolution x '
        f'{member.resolution:g}; it was not trained. Of {base.name}: {base.provenance.note}'
    )
    data |= {
        'name': member.name,
        'arch': arch.model_dump(mode='json'),
        'input': data['input'] | {'size': size},
        'weights': {},
        'provenance': data['provenance'] | {'note': note},
    }
    counted = measure(make_entry(data, member.name)).model_dump(exclude_none=True)
    return make_entry(data | {'measured': counted}, member.name)
