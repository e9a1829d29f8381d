"""How long the units of a run take, and how much memory: some steps of its trainings, some candidates."""

import itertools
import math
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

from search.candidates import make_evaluator, make_record
from search.config import OneShotConfig
from search.data import Role
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
from search.plan import Plan
from search.rehearsal import Laps, Rehearsal, Stopwatch, first_images, loading_seconds
from search.run import Abandoned
from search.seeding import derive_seed
from search.space import Genotype
from search.training import Recipe, device, evaluate
from search.workers import Outcome
from zoo.arch import Arch

__all__ = ['UnitTimes']

PROXY_CANDIDATES = 3
TYPICAL_OF = 101


class UnitTimes:
    """Measures units of a problem's run, and notes in a plan what memory they took.

    Attributes:
        typical: The candidate of median MACs among some random ones.
        records: Candidates that were evaluated on the way.
    """

    def __init__(self, problem: Rehearsal, plan: Plan, seconds: float, prefix: str = ''):
        """
        Args:
            problem: What is run.
            plan: Of the whole run.
            seconds: About as long every measurement takes.
            prefix: Of the names of phases.
        """
        self.problem, self.config, self.plan, self.seconds = problem, problem.config, plan, seconds
        self.prefix = prefix
        roles: tuple[Role, ...] = ('train', 'val', 'test') if self.config.test else ('train', 'val')
        self.sizes = {'test': 0} | {role: len(problem.data.images(role)) for role in roles}
        self.loaders = min(self.config.data.num_workers, os.cpu_count() or 1)
        self.records: list[dict[str, Any]] = []
        if isinstance(self.config, OneShotConfig):
            self.strategy = problem.make_strategy()
        drawn = {
            problem.sampler.sample(Random(derive_seed(self.config.seed, 'plan', i)))
            for i in range(TYPICAL_OF)
        }
        ordered = sorted(drawn, key=lambda genotype: (problem.cost(genotype).macs, genotype))
        self.typical_genotype = ordered[len(ordered) // 2]
        self.typical = problem.space.decode(self.typical_genotype)

    def train_alone(self, arch: Arch, recipe: Recipe) -> Callable[[Stopwatch], Any]:
        return lambda watch: self.problem.train_alone(arch, recipe, 'plan', 'measuring', watch)

    def training(self, name: str, recipe: Recipe, runs: Sequence[Callable[[Stopwatch], Any]]) -> Seconds:
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
            self.plan.checkpoint = max(self.plan.checkpoint, *(watch.checkpoint for watch in watches))
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
        if loading:
            self.plan.notes.append(
                f'{name}: loading a batch {how} takes {loading:.3g} s, '
                f'{100 * loading / found.median:.0f} % of a step: '
                f'{"the" if is_bottleneck else "not the"} bottleneck.'
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

    def _ask(self) -> Genotype:
        """A candidate that the strategy asks for, from the beginning again in a tiny space."""
        if (genotype := self.strategy.ask()) is None:
            self.strategy = self.problem.make_strategy()
            genotype = self.strategy.ask()
            assert genotype is not None
        return genotype

    def _tell(self, genotype: Genotype, evaluation: Evaluation) -> None:
        outcome = Outcome(evaluation.score, evaluation.metrics, None, evaluation.standard_error)
        self.records.append(make_record(self.problem, genotype, outcome))
        self.strategy.tell(genotype, self.records[-1]['score'])

    def supernet_candidates(self) -> tuple[Seconds, Seconds]:
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

        samples = self._grow(f'{self.prefix}search', measure, full)
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
                f'{self.prefix}search: batch norms of each network are calibrated on '
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

    def proxy_candidates(self, recipe: Recipe) -> Seconds:
        """Seconds in which a network is trained and scored."""
        asked = [self._ask() for _ in range(min(PROXY_CANDIDATES, self.problem.space.space.size()))]
        runs = [self.train_alone(self.problem.space.decode(genotype), recipe) for genotype in asked]
        step = self.training(f'{self.prefix}search: a training', recipe, runs)
        config, val = self.problem.search_config, self.problem.data.images('val')
        full = min(config.batch_size, len(val))
        model = self.problem.build(self.typical).to(device()).eval()

        def measure(batch_size: int) -> Sample:
            images, labels = (x.to(device()) for x in first_images(val, 2 * batch_size).tensors(batch_size))
            laps = Laps(config.bf16)
            with weighed() as peak:
                for _ in asked:
                    evaluation = validate(model, images, labels, batch_size, config.objective, laps)
            for genotype in self.strategy.pending:
                self._tell(genotype, evaluation)
            return Sample(batch_size, differences([*laps.times, clock()]), peak())

        samples = self._grow(f'{self.prefix}search: scoring', measure, full)
        self._remember_evaluation(samples, full)
        score = extrapolate(samples, full).times(len(val) / full)
        return step.times(self.problem.num_steps(recipe)).plus(score)

    def table_candidates(self) -> Seconds:
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
        label = f'{self.prefix}search, {full:,} images at once, all {count:,} kept'
        self.plan.memory[label] = Memory(peak.host + kept, peak.gpu + on_gpu)

    def final_evaluation(self) -> Seconds:
        """Seconds in which an image of val or test is classified in the end."""
        model, val = self.problem.build(self.typical).to(device()), self.problem.data.images('val')
        full = min(self.config.search.batch_size, len(val))
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
        self.plan.memory[f'final evaluation, {full:,} images at once'] = extrapolate_memory(samples, full)
        each = extrapolate(samples, full).times(1 / full)
        return each.at_least(loading_seconds(val) / self.loaders) if self.loaders else each


def differences(times: Sequence[float]) -> list[float]:
    return [b - a for a, b in itertools.pairwise(times)]
