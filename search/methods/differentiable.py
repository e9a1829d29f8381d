"""Differentiable search with context auto-regression (Zhou et al., arXiv 2111.07139, Sec. III, Fig. 4).

Every layer is a mixture of its candidate blocks. In the search phase, reconstructing masked images decides
how much each counts; in the fine-tuning phase, which starts from that, the target task does. Then the most
probable block of each layer stays, and the network is trained from scratch.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from search.config import DifferentiableConfig
from search.phases import Result, Trained, compare, emit, open_run, train_rival
from search.problem import Problem
from search.relaxation import Relaxation
from search.section import Section
from zoo.jsonfile import format_json

__all__ = ['differentiable']


def differentiable(
    config: DifferentiableConfig,
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
        ZooError: The config cannot work, or the folder is of another run.
        Interrupted: The user asked to stop; the same call continues.
    """
    problem = Problem(config)
    relaxation = Relaxation(problem)
    seeds = config.search.seeds
    with open_run(problem, folder, fault, quiet) as run:
        rivals = []
        for i in range(1, seeds + 1):
            found = relaxation.search(Section(run, f'seed{i}'), i)
            label = 'training the result' + (f' ({i}/{seeds})' if seeds > 1 else '')
            rivals.append(train_rival(problem, run, {'seed': i} | found, f'result{i}', label))
        best = max(rivals, key=lambda trained: trained.best['trained']['score'])
        run.phase('weights', f'{config.name}.safetensors', lambda: best.weights)
        run.phase('seeds', 'seeds.json', partial(report, rivals, best))
        entry = emit(problem, run, best, relaxation.count_cost(), describe_search(problem, relaxation))
        again, others = compare(problem, run, best.genotype, entry)
    return Result(entry, best.best, again, others)


def report(rivals: Sequence[Trained], best: Trained) -> bytes:
    """All searches: what each found, how it did when trained, and whether it was kept."""
    return format_json([rival.best | {'kept': rival is best} for rival in rivals]).encode()


def describe_search(problem: Problem, relaxation: Relaxation) -> str:
    """The entry's sentence on how the architecture was found."""
    names = {'self_supervised': 'reconstruction', 'target': 'classification'}
    tasks = [
        f'{names[name]} on {relaxation.data(phase).config.name}'
        for name, phase in relaxation.phases().items()
    ]
    seeds = relaxation.settings.seeds
    kept = f' The best of {seeds} seeds on {len(problem.data.images("val"))} held-out images.'
    return (
        f'Found by gradients of mixed operators among {relaxation.space.space.size():.4g} architectures: by '
        f'{", then by ".join(tasks)}.' + (kept if seeds > 1 else '')
    )
