"""The phases of a run and how many units each has, whose times are measured (:mod:`search.unit_times`)."""

import json
import math
import time
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

import psutil  # type: ignore[import-untyped]
from safetensors.torch import save

from search.baseline import TOP, count_drawn, has_baseline
from search.config import (
    DifferentiableConfig,
    OneShotConfig,
    RunConfig,
    SpaceSearchConfig,
    TargetConfig,
    TwoLevelConfig,
)
from search.emit import weights_bytes
from search.growth import UNITS, WARM_UP, Seconds
from search.methods.two_level import first_level, second_level
from search.phases import train_supernet
from search.plan import Phase, Plan, format_bytes
from search.rehearsal import Fake, Rehearsal, Stopwatch, loading_seconds
from search.relaxation import Relaxation
from search.space_evolution import list_dimensions
from search.training import STEPS_BETWEEN_EVENTS, check_share
from search.unit_times import UnitTimes
from zoo.errors import ZooError
from zoo.jsonfile import format_json

__all__ = ['make_plan']

SCALAR_BYTES = 40
"""Of a number in TensorBoard's files, beside its name."""


def make_plan(config: RunConfig, devices: int = 1, fake: Fake | None = None, seconds: float = 20.0) -> Plan:
    """Measures a few units of each phase and multiplies. Nothing is written.

    Args:
        config: Of the run.
        devices: Processes that train together, and workers of the search.
        fake: Noise to measure with, in place of the data.
        seconds: About as long every phase is measured, at most three times.

    Raises:
        ZooError: The config cannot work, or its batches cannot be shared by so many devices.
    """
    try:
        problem = Rehearsal(config, fake)
    except ZooError as error:
        if fake is None and str(error).startswith('data'):
            reason = str(error).removesuffix('.')
            raise ZooError(f'{reason}; --images and --classes plan without the data.') from None
        raise
    for recipe in problem.recipes():
        check_share(recipe, devices)
    plan, began = Plan(devices), time.perf_counter()
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'This DataLoader will create')
        _Planner(problem, plan, seconds).make()
    plan.notes.insert(0, f'Measured in {time.perf_counter() - began:.0f} s.')
    return plan


class _Planner:
    """Adds phases to a plan.

    Args:
        folder: Of a section of the run.
    """

    def __init__(self, problem: Rehearsal, plan: Plan, seconds: float, folder: str = ''):
        self.problem, self.config, self.plan, self.seconds = problem, problem.config, plan, seconds
        self.folder, self.prefix = folder, folder.replace('/', ': ')
        self.times = UnitTimes(problem, plan, seconds, self.prefix)

    def make(self) -> None:
        config = self.config
        if isinstance(config, DifferentiableConfig):
            self._relax(config)
        elif isinstance(config, TwoLevelConfig) and config.levels == 2:
            self._search_levels()
        else:
            self._search_and_train()
        self._finish()
        self._add_notes()

    # ---- methods

    def _search_levels(self) -> None:
        """Both levels; the second one with the typical distribution of the first."""
        first = first_level(self.problem)
        assert isinstance(first, Rehearsal)
        planner = _Planner(first, self.plan, self.seconds, 'level1/')
        planner._search_and_train()
        second = second_level(self.problem, first.space.space.values(planner.times.typical_genotype))
        assert isinstance(second, Rehearsal)
        _Planner(second, self.plan, self.seconds, 'level2/')._search_and_train()

    def _search_and_train(self) -> None:
        """What :func:`search.phases.find` and :func:`search.phases.train_best` do; before that, and measured
        in the initial space, the iterations of a search of the space."""
        config = self.config
        assert isinstance(config, OneShotConfig)
        iterations = config.evolve.iterations if isinstance(config, SpaceSearchConfig) else 0
        if config.supernet is not None:
            self._train_supernets(iterations)
        each, inherit = self._search()
        if isinstance(config, SpaceSearchConfig):
            dimensions = list_dimensions(self.problem.space.declaration or {}, list(config.evolve.steps))
            values = sum(len(d.values) for d in dimensions if len(d.values) > 1)
            count = iterations * values * config.evolve.architectures
            errors = Phase('errors of subspaces, at most', count, 'networks', each)
            names = [phase.name for phase in self.plan.phases]
            self.plan.phases.insert(names.index('search: supernet'), errors)
            self.plan.notes.append(
                f'{iterations} iterations of the search of the space were measured in the first space; the '
                'later ones can be larger or smaller.'
            )
        self.problem.forget_supernet()
        if config.weights == 'inherit':
            name = f'{self.prefix}weights: inherit'
            self.plan.phases.append(Phase(name, config.top, 'networks', inherit, shared=False))
        else:
            self._retrain(config.weights, config.top)

    def _train_supernets(self, iterations: int) -> None:
        config, plan = self.problem.supernet_config, self.plan
        steps = self.problem.num_steps(config.recipe, config.images)
        name = f'{self.prefix}supernet training'
        seconds = self.times.training(name, config.recipe, [partial(train_supernet, self.problem)])
        plan.phases.append(Phase(name, (1 + iterations) * steps, 'steps', seconds))
        self._log_training('supernet', steps, 1 + iterations)
        store = {key: value.detach().cpu() for key, value in self.problem.make_supernet().store.items()}
        for folder in [*(f'iteration{i}/' for i in range(1, iterations + 1)), self.folder]:
            plan.disk[f'{folder}supernet.safetensors'] = len(save(store))

    def _search(self) -> tuple[Seconds, Seconds]:
        """The search by a strategy; gives seconds of a candidate, and of one that inherits its weights."""
        times, config = self.times, self.problem.search_config
        inherit = Seconds(0, 0, 0)
        if config.evaluator.kind != 'table':
            val = self.problem.data.images('val')
            loading = loading_seconds(val) / max(times.loaders, 1)
            name = f'{self.prefix}loading val'
            self.plan.phases.append(
                Phase(name, len(val), 'images', Seconds(loading, loading, loading), shared=False)
            )
        if config.evaluator.kind == 'supernet':
            seconds, inherit = times.supernet_candidates()
        elif config.evaluator.kind == 'proxy':
            seconds = times.proxy_candidates(config.evaluator.recipe)
        else:
            seconds = times.table_candidates()
        count = min(config.evaluations, self.problem.space.space.size())
        name = f'{self.prefix}search: {config.evaluator.kind}'
        self.plan.phases.append(Phase(name, count, 'networks', seconds))
        self._add_files_of_search(count)
        if has_baseline(self.problem):
            more = max(0, count - count_drawn(self.problem))
            self._add_files_of_search(count, 'random', more)
            if more:
                self.plan.phases.append(Phase(f'{self.prefix}random baseline', more, 'networks', seconds))
        if config.evaluator.kind == 'supernet' and self.problem.data.has('recheck'):
            share = len(self.problem.data.images('recheck')) / self.times.sizes['val']
            name = f'{self.prefix}best on other images'
            self.plan.phases.append(Phase(name, min(TOP, count), 'networks', seconds.times(share), False))
        return seconds, inherit

    def _relax(self, config: DifferentiableConfig) -> None:
        """Both phases of a differentiable search, and the training of each result."""
        relaxation, seeds = Relaxation(self.problem), config.search.seeds
        for name, phase in relaxation.phases().items():
            check_share(phase.recipe, self.plan.devices)

            def run(watch: Stopwatch, phase: TargetConfig = phase) -> None:
                update = {'batch_size': watch.batch_size, 'epochs': phase.recipe.epochs + WARM_UP + UNITS}
                shorter = phase.model_copy(update={'recipe': phase.recipe.model_copy(update=update)})
                relaxation.run(shorter, None, watch, 1)

            label = 'search: ' + name.replace('_', '-')
            steps = relaxation.num_steps(phase)
            seconds = self.times.training(label, phase.recipe, [run])
            self.plan.phases.append(Phase(label, seeds * steps, 'steps', seconds))
            self._log_training(name, steps, seeds)
        self._retrain('retrain', seeds, 'result')

    # ---- what all of them end with

    def _retrain(self, how: str, count: int, file: str = 'top') -> None:
        """The trainings of what was found; several leave a file each."""
        assert self.config.retrain is not None
        steps = self.problem.num_steps(self.config.retrain)
        name = f'{self.prefix}weights: {how}' + (f' the best {count}' if count > 1 else '')
        self.plan.phases.append(Phase(name, count * steps, 'steps', self._retraining()))
        self._log_training('retrain', steps, count)
        if count > 1 or file != 'top':
            files = [f'{self.folder}top/{file}{i}.safetensors' for i in range(1, count + 1)]
            self.plan.disk |= dict.fromkeys(files, self._weights_size())
        if self.folder:
            self.plan.disk[f'{self.folder}{self.config.name}.safetensors'] = self._weights_size()

    def _retraining(self) -> Seconds:
        """Of a step; measured once, as all networks of a run that are trained cost about the same."""
        if self.plan.retraining is None:
            recipe = self.config.retrain
            assert recipe is not None
            run = self.times.train_alone(self.times.typical, recipe)
            self.plan.retraining = self.times.training('retraining', recipe, [run])
        return self.plan.retraining

    def _finish(self) -> None:
        """The comparison and the final evaluations."""
        config, plan, trainings = self.config, self.plan, 0
        if config.compare is not None:
            assert config.retrain is not None
            trainings = config.compare.random + config.compare.seeds - 1 + (config.weights == 'inherit')
            steps = self.problem.num_steps(config.retrain)
            name = f'comparison: {trainings} training' + 's' * (trainings > 1)
            if trainings:
                plan.phases.append(Phase(name, trainings * steps, 'steps', self._retraining()))
                self._log_training('random1', steps, trainings)
        images = (1 + trainings) * (self.times.sizes['val'] + self.times.sizes['test'])
        seconds = self.times.final_evaluation()
        plan.phases.append(Phase('final evaluation', images, 'images', seconds, shared=False))
        plan.disk |= {
            f'{config.name}.safetensors': self._weights_size(),
            'events.jsonl and tensorboard': plan.log,
            'checkpoint.pt': plan.checkpoint,
            'checkpoint.pt, the next one': plan.checkpoint,
        }

    # ---- disk

    def _log_training(self, phase: str, steps: int, count: int = 1) -> None:
        values = {'epoch': 100 / 3, 'loss': 2 / 3, 'lr': 1 / 3000}
        self.plan.log += count * math.ceil(steps / STEPS_BETWEEN_EVENTS) * event_bytes(phase, values)

    def _add_files_of_search(self, evaluations: int, name: str = 'search', new: int | None = None) -> None:
        records, strategy, plan = self.times.records, self.times.strategy, self.plan
        found = {
            'space_size': str(self.problem.space.space.size()),
            'unguided': 10,
            'reused': 10,
            'best': records[0],
        }
        base = len(format_json(found | {'candidates': []}))
        each = (len(format_json(found | {'candidates': records})) - base) / len(records)
        state = len(json.dumps(strategy.state())) / len(strategy.genotypes)
        state += len(json.dumps(records)) / len(records)
        plan.checkpoint = max(plan.checkpoint, round(state * evaluations))
        values = {key: value for key, value in records[0].items() if key != 'genotype'}
        plan.log += (evaluations if new is None else new) * event_bytes(name, values)
        plan.disk[f'{self.folder}{name}.json'] = round(base + each * evaluations)

    def _weights_size(self) -> int:
        typical = self.times.typical
        return len(weights_bytes(self.problem, typical, self.problem.build(typical).state_dict()))

    def _add_notes(self) -> None:
        plan, notes = self.plan, self.plan.notes
        if self.times.loaders < self.config.data.num_workers:
            notes.append(
                f'This machine has {self.times.loaders} cores for the {self.config.data.num_workers} '
                'processes of data.num_workers.'
            )
        if isinstance(self.config, OneShotConfig) and self.config.search.workers is not None:
            notes.append("search: in one process; the config's workers divide its hours among them.")
        notes.append(
            f'Writing a checkpoint takes up to {format_bytes(2 * plan.checkpoint)} of memory in addition.'
        )
        most = max(peak.host for peak in plan.memory.values()) + 2 * plan.checkpoint
        if most > (there := psutil.virtual_memory().total):
            notes.append(
                f'This machine has {format_bytes(there)} of memory: a process that needs '
                f'{format_bytes(most)} does not fit.'
            )
        if self.problem.fake is not None:
            notes.append('Images were made up: transforming them was measured, reading and decoding was not.')
        if plan.devices > 1:
            notes.append(
                f'For {plan.devices} devices, ideal scaling is assumed: each takes an equal share of every '
                'batch, and they score different networks; loading val and final evaluations are not shared.'
            )


def event_bytes(phase: str, values: Mapping[str, Any]) -> int:
    """What an event takes in the run's log and in TensorBoard's files."""
    line = json.dumps({'phase': phase, 'step': 1000, **values, 'time': 1700000000.123})
    return len(line) + 1 + sum(SCALAR_BYTES + len(f'{phase}/{key}') for key in values)
