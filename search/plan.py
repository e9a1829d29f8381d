"""What a run will take, before it is begun: hours, memory and disk, predicted from a few of its units."""

import itertools
import json
import math
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import psutil  # type: ignore[import-untyped]
from safetensors.torch import save

from search.candidates import make_evaluator, make_record
from search.config import RunConfig
from search.emit import weights_bytes
from search.evaluate import Evaluation, SupernetEvaluator, validate
from search.growth import (
    FEWEST,
    UNITS,
    WARM_UP,
    Memory,
    Sample,
    Seconds,
    clock,
    extrapolate,
    extrapolate_memory,
    factor,
    grow,
    weighed,
)
from search.phases import train_supernet
from search.rehearsal import Fake, Laps, Rehearsal, Stopwatch, first_images, loading_seconds
from search.run import Abandoned
from search.seeding import derive_seed
from search.space import Genotype
from search.training import STEPS_BETWEEN_EVENTS, Recipe, check_share, device, evaluate
from search.workers import Outcome
from zoo.arch import Arch
from zoo.errors import ZooError
from zoo.jsonfile import format_json

__all__ = ['Phase', 'Plan', 'format_bytes', 'make_plan']

PROXY_CANDIDATES = 3
TYPICAL_OF = 101
SCALAR_BYTES = 40
"""Of a number in TensorBoard's files, beside its name."""


@dataclass(frozen=True)
class Phase:
    """A part of the run.

    Attributes:
        units: How many there are.
        unit: What they are.
        seconds: Each takes, on this machine.
        shared: Whether several devices divide the phase among them.
    """

    name: str
    units: int
    unit: str
    seconds: Seconds
    shared: bool = True

    def hours(self, devices: int = 1) -> float:
        return self.units * self.seconds.median / 3600 / (devices if self.shared else 1)


@dataclass
class Plan:
    """What a run will take.

    Attributes:
        devices: That share the work.
        phases: In their order.
        memory: Peak of one process, by what it does then.
        disk: Bytes by file.
        notes: Sentences on how the numbers came about.
    """

    devices: int
    phases: list[Phase] = field(default_factory=list)
    memory: dict[str, Memory] = field(default_factory=dict)
    disk: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def total_hours(self, devices: int = 1) -> float:
        return sum(phase.hours(devices) for phase in self.phases)


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
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'This DataLoader will create')
        return _Planner(problem, Plan(devices), seconds).make()


class _Planner:
    def __init__(self, problem: Rehearsal, plan: Plan, seconds: float):
        self.problem, self.config, self.plan, self.seconds = problem, problem.config, plan, seconds
        self.sizes = {role: len(problem.data.images(role)) for role in ('train', 'val', 'test')}
        self.loaders = min(self.config.data.num_workers, os.cpu_count() or 1)
        self.strategy = self.problem.make_strategy()
        self.records: list[dict[str, Any]] = []
        self.evaluations = min(self.problem.search_config.evaluations, self.problem.space.space.size())
        self.checkpoint = 0
        self.log = 0

    def make(self) -> Plan:
        began = time.perf_counter()
        config, plan = self.config, self.plan
        typical = self.problem.space.decode(self._typical())
        if self.problem.has_supernet:
            recipe = self.problem.supernet_config.recipe
            steps = self.problem.num_steps(recipe, self.problem.supernet_config.images)
            run = partial(train_supernet, self.problem)
            seconds = self._training('supernet training', recipe, [run])
            plan.phases.append(Phase('supernet training', steps, 'steps', seconds))
            self._log_training('supernet', steps)
            store = {key: value.detach().cpu() for key, value in self.problem.make_supernet().store.items()}
            plan.disk['supernet.safetensors'] = len(save(store))
            del store
        inherit = self._search(typical)
        self.problem.forget_supernet()
        trainings = 0
        if config.compare is not None:
            trainings = config.compare.random + config.compare.seeds - 1 + (config.weights == 'inherit')
        if config.weights == 'inherit':
            plan.phases.append(Phase('weights: inherit', 1, 'networks', inherit, shared=False))
        if config.retrain is not None and (config.weights == 'retrain' or trainings):
            steps = self.problem.num_steps(config.retrain)
            seconds = self._training(
                'retraining', config.retrain, [self._train_alone(typical, config.retrain)]
            )
            if config.weights == 'retrain':
                plan.phases.append(Phase('weights: retrain', steps, 'steps', seconds))
                self._log_training('retrain', steps)
            if trainings:
                name = f'comparison: {trainings} training' + 's' * (trainings > 1)
                plan.phases.append(Phase(name, trainings * steps, 'steps', seconds))
                self._log_training('random1', steps, trainings)
        self._final(typical, 1 + trainings)
        self._disk(typical)
        self._notes()
        plan.notes.insert(0, f'Measured in {time.perf_counter() - began:.0f} s.')
        return plan

    def _typical(self) -> Genotype:
        """The candidate of median MACs among some random ones."""
        sampler, seed = self.problem.sampler, self.config.seed
        drawn = {sampler.sample(Random(derive_seed(seed, 'plan', i))) for i in range(TYPICAL_OF)}
        ordered = sorted(drawn, key=lambda genotype: (self.problem.cost(genotype).macs, genotype))
        return ordered[len(ordered) // 2]

    # ---- trainings

    def _train_alone(self, arch: Arch, recipe: Recipe) -> Callable[[Stopwatch], Any]:
        return lambda watch: self.problem.train_alone(arch, recipe, 'plan', 'measuring', watch)

    def _training(self, name: str, recipe: Recipe, runs: Sequence[Callable[[Stopwatch], Any]]) -> Seconds:
        """Seconds of a step: of one training, or by the medians of several."""
        waits: dict[int, float] = {}

        def measure(batch_size: int) -> Sample:
            watches = [Stopwatch(batch_size, self.seconds / len(runs)) for _ in runs]
            with weighed() as peak:
                for run, watch in zip(runs, watches, strict=True):
                    with suppress(Abandoned):
                        run(watch)
            steps = [watch.seconds for watch in watches]
            waits[batch_size] = statistics.median(wait for watch in watches for wait in watch.waits)
            self.checkpoint = max(self.checkpoint, *(watch.checkpoint for watch in watches))
            seconds = steps[0] if len(steps) == 1 else [statistics.median(values) for values in steps]
            return Sample(batch_size, seconds, peak())

        full = recipe.batch_size
        samples = self._grow(name, measure, full)
        found = extrapolate(samples, full)
        last = samples[-1]
        share = waits[last.batch_size] / statistics.median(last.seconds)
        if self.loaders:
            images = self.problem.data.images('train', recipe.augment, 0)
            loading = loading_seconds(images) * full / self.loaders
            is_bottleneck = share > 0.5 or loading > found.median
            found = found.at_least(loading)
            how = f'by {self.loaders} processes' if self.loaders > 1 else 'by another process'
        else:
            loading = share * found.median
            is_bottleneck = share > 0.5
            how = 'between the steps'
        self.plan.notes.append(
            f'{name}: loading a batch {how} takes {loading:.3g} s, {100 * loading / found.median:.0f} % of a '
            f'step: {"the" if is_bottleneck else "not the"} bottleneck.'
        )
        of_device = full // self.plan.devices
        label = f'{name}, {of_device:,} images a step'
        self.plan.memory[label] = extrapolate_memory(samples, of_device)
        return found

    def _grow(self, name: str, measure: Callable[[int], Sample], full: int) -> list[Sample]:
        print(f'measuring: {name}', file=sys.stderr, flush=True)
        samples = grow(measure, full, self.seconds)
        if samples[-1].batch_size < full:
            sizes = ' and '.join(f'{sample.batch_size:,}' for sample in samples[-2:])
            self.plan.notes.append(
                f'{name}: measured with batches of {sizes} images, extrapolated linearly to {full:,}.'
            )
        return samples

    # ---- search

    def _search(self, typical: Arch) -> Seconds:
        """Adds the search; gives the seconds in which a network inherits its weights."""
        kind, config = self.problem.search_config.evaluator.kind, self.problem.search_config
        inherit = Seconds(0, 0, 0)
        if kind != 'table':
            val = self.problem.data.images('val')
            loading = loading_seconds(val) / max(self.loaders, 1)
            phase = Phase('loading val', len(val), 'images', Seconds(loading, loading, loading), shared=False)
            self.plan.phases.append(phase)
        if kind == 'supernet':
            seconds, inherit = self._supernet_candidates()
        elif config.evaluator.kind == 'proxy':
            seconds = self._proxy_candidates(config.evaluator.recipe, typical)
        else:
            seconds = self._table_candidates()
        self.plan.phases.append(Phase(f'search: {kind}', self.evaluations, 'networks', seconds))
        return inherit

    def _ask(self) -> Genotype:
        """A candidate that the strategy asks for, from the beginning again in a tiny space."""
        if (genotype := self.strategy.ask()) is None:
            self.strategy = self.problem.make_strategy()
            genotype = self.strategy.ask()
            assert genotype is not None
        return genotype

    def _tell(self, genotype: Genotype, evaluation: Evaluation) -> None:
        self.strategy.tell(genotype, evaluation.score)
        outcome = Outcome(evaluation.score, evaluation.metrics)
        self.records.append(make_record(self.problem, genotype, outcome))

    def _supernet_candidates(self) -> tuple[Seconds, Seconds]:
        """Seconds in which a network is scored, and in which one inherits its weights."""
        config, supernet = self.problem.search_config, self.problem.make_supernet().to(device())
        val = self.problem.data.images('val')
        full = min(config.batch_size, len(val))
        calibration_size, calibrations = self.problem.calibration_size()
        parts: dict[int, list[tuple[float, float, float]]] = {}

        def measure(batch_size: int) -> Sample:
            images, labels = (x.to(device()) for x in first_images(val, 2 * batch_size).tensors(batch_size))
            laps = Laps(config.bf16)
            calibration = [images[:batch_size]] if supernet.has_batch_norm else []
            evaluator = SupernetEvaluator(
                supernet, images, labels, batch_size, config.objective, laps, calibration
            )
            taken = parts.setdefault(batch_size, [])
            began = clock()
            with weighed() as peak:
                for number in range(WARM_UP + UNITS):
                    if number >= WARM_UP + FEWEST and clock() - began > self.seconds:
                        break
                    laps.times = [clock()]
                    genotype = self._ask()
                    evaluation = evaluator(genotype)
                    end = clock()
                    self._tell(genotype, evaluation)
                    start, calibrated, scored, *_ = laps.times
                    batches = len(labels) / batch_size
                    taken.append((calibrated - start, scored - calibrated, (end - scored) / batches))
            del taken[:WARM_UP]
            return Sample(batch_size, [sum(times) for times in taken], peak())

        samples = self._grow('search', measure, full)
        points = [
            [(size, statistics.median(part)) for part in zip(*taken, strict=True)]
            for size, taken in parts.items()
        ]
        _, to_calibration, to_full = zip(*points, strict=True)
        calibrate = calibrations * factor(to_calibration, calibration_size) if supernet.has_batch_norm else 0
        score = len(val) / full * factor(to_full, full)
        last = parts[samples[-1].batch_size]
        self._remember_evaluation(samples, full)
        if supernet.has_batch_norm:
            self.plan.notes.append(
                'search: batch norms of each network are calibrated on '
                f'{calibrations * calibration_size:,} images.'
            )
        if config.give_up:
            self.plan.notes.append(
                'search: networks that are given up early take less than what is predicted.'
            )
        return (
            Seconds.of([a + calibrate * b + score * c for a, b, c in last]),
            Seconds.of([a + calibrate * b for a, b, _ in last]),
        )

    def _proxy_candidates(self, recipe: Recipe, typical: Arch) -> Seconds:
        """Seconds in which a network is trained and scored."""
        asked = [self._ask() for _ in range(min(PROXY_CANDIDATES, self.problem.space.space.size()))]
        runs = [self._train_alone(self.problem.space.decode(genotype), recipe) for genotype in asked]
        step = self._training('search: a training', recipe, runs)
        config, val = self.problem.search_config, self.problem.data.images('val')
        full = min(config.batch_size, len(val))
        model = self.problem.build(typical).to(device()).eval()

        def measure(batch_size: int) -> Sample:
            images, labels = (x.to(device()) for x in first_images(val, 2 * batch_size).tensors(batch_size))
            laps = Laps(config.bf16)
            with weighed() as peak:
                for _ in asked:
                    evaluation = validate(model, images, labels, batch_size, config.objective, laps)
            for genotype in self.strategy.pending:
                self._tell(genotype, evaluation)
            return Sample(batch_size, differences([*laps.times, clock()]), peak())

        samples = self._grow('search: scoring', measure, full)
        self._remember_evaluation(samples, full)
        score = extrapolate(samples, full).times(len(val) / full)
        return step.times(self.problem.num_steps(recipe)).plus(score)

    def _table_candidates(self) -> Seconds:
        evaluator = make_evaluator(self.problem, Path())
        taken = []
        for _ in range(WARM_UP + UNITS):
            start = clock()
            genotype = self._ask()
            self._tell(genotype, evaluator(genotype))
            taken.append(clock() - start)
        return Seconds.of(taken[WARM_UP:])

    def _remember_evaluation(self, samples: Sequence[Sample], full: int) -> None:
        count = self.sizes['val']
        kept = math.prod(self.config.input.size) * 4 * count
        peak = extrapolate_memory(samples, full)
        on_gpu = kept if device().type == 'cuda' else 0
        label = f'search, {full:,} images at once, all {count:,} kept'
        self.plan.memory[label] = Memory(peak.host + kept, peak.gpu + on_gpu)

    # ---- what is left at the end

    def _final(self, typical: Arch, networks: int) -> None:
        """Adds the evaluations on val and test."""
        model, val = self.problem.build(typical).to(device()), self.problem.data.images('val')
        full = min(self.problem.search_config.batch_size, len(val))
        laps = Laps(bf16=False)
        model.register_forward_pre_hook(lambda *_: laps() and None)

        def measure(batch_size: int) -> Sample:
            laps.times = []
            images = first_images(val, (WARM_UP + FEWEST + 1) * batch_size)
            with weighed() as peak:
                evaluate(model, images, batch_size, self.config.data.num_workers)
            times = differences(laps.times if len(laps.times) > 1 else [*laps.times, clock()])
            return Sample(batch_size, times[WARM_UP:] or times, peak())

        samples = self._grow('final evaluation', measure, full)
        each = extrapolate(samples, full).times(1 / full)
        if self.loaders:
            each = each.at_least(loading_seconds(val) / self.loaders)
        images = networks * (self.sizes['val'] + self.sizes['test'])
        self.plan.phases.append(Phase('final evaluation', images, 'images', each, shared=False))
        self.plan.memory[f'final evaluation, {full:,} images at once'] = extrapolate_memory(samples, full)

    def _log_training(self, phase: str, steps: int, count: int = 1) -> None:
        values = {'epoch': 100 / 3, 'loss': 2 / 3, 'lr': 1 / 3000}
        self.log += count * math.ceil(steps / STEPS_BETWEEN_EVENTS) * event_bytes(phase, values)

    def _disk(self, typical: Arch) -> None:
        evaluations, records, strategy = self.evaluations, self.records, self.strategy
        found = {'space_size': str(self.problem.space.space.size()), 'best': records[0]}
        base = len(format_json(found | {'candidates': []}))
        each = (len(format_json(found | {'candidates': records})) - base) / len(records)
        state = len(json.dumps(strategy.state())) / len(strategy.genotypes)
        state += len(json.dumps(records)) / len(records)
        self.checkpoint = max(self.checkpoint, round(state * evaluations))
        values = {key: value for key, value in records[0].items() if key != 'genotype'}
        self.log += evaluations * event_bytes('search', values)
        tensors = self.problem.build(typical).state_dict()
        self.plan.disk |= {
            'search.json': round(base + each * evaluations),
            f'{self.config.name}.safetensors': len(weights_bytes(self.problem, typical, tensors)),
            'events.jsonl and tensorboard': self.log,
            'checkpoint.pt': self.checkpoint,
            'checkpoint.pt, the next one': self.checkpoint,
        }

    def _notes(self) -> None:
        plan, notes = self.plan, self.plan.notes
        if self.loaders < self.config.data.num_workers:
            notes.append(
                f'This machine has {self.loaders} cores for the {self.config.data.num_workers} processes of '
                'data.num_workers.'
            )
        if self.problem.search_config.workers is not None:
            notes.append("search: in one process; the config's workers divide its hours among them.")
        notes.append(
            f'Writing a checkpoint takes up to {format_bytes(2 * self.checkpoint)} of memory in addition.'
        )
        most = max(peak.host for peak in plan.memory.values()) + 2 * self.checkpoint
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


def differences(times: Sequence[float]) -> list[float]:
    return [b - a for a, b in itertools.pairwise(times)]


def event_bytes(phase: str, values: Mapping[str, Any]) -> int:
    """What an event takes in the run's log and in TensorBoard's files."""
    line = json.dumps({'phase': phase, 'step': 1000, **values, 'time': 1700000000.123})
    return len(line) + 1 + sum(SCALAR_BYTES + len(f'{phase}/{key}') for key in values)


def format_bytes(count: float) -> str:
    """Three digits: ``12.3 MB``."""
    for unit in ('B', 'kB', 'MB', 'GB'):
        if count < 999.5:
            return f'{count:.3g} {unit}'
        count /= 1000
    return f'{count:,.3g} TB'
