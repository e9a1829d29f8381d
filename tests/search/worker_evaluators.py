"""Evaluators that worker processes of the tests import: some of them misbehave."""

import math
import os
import time
from pathlib import Path

from search.evaluate import Evaluation

__all__ = ['make_clumsy', 'make_deadly', 'make_slow']


class Slow:
    """Scores a genotype by its digits, after a while, and leaves a file with the process's id."""

    def __init__(self, folder: str, seconds: float):
        self.folder, self.seconds = Path(folder), seconds

    def __call__(self, genotype, needed=-math.inf) -> Evaluation:
        (self.folder / f'{os.getpid()}.pid').touch()
        time.sleep(self.seconds)
        return Evaluation(float(sum(genotype)), {'first': float(genotype[0])})


class Clumsy(Slow):
    """Fails at odd sums."""

    def __call__(self, genotype, needed=-math.inf) -> Evaluation:
        if sum(genotype) % 2:
            raise RuntimeError('out of memory\nwith a long explanation')
        return super().__call__(genotype, needed)


class Deadly(Slow):
    """Ends its process at one genotype, the first few times."""

    def __init__(self, folder: str, seconds: float, victim: tuple[int, ...], deaths: int):
        super().__init__(folder, seconds)
        self.victim, self.deaths = victim, deaths

    def __call__(self, genotype, needed=-math.inf) -> Evaluation:
        died = len(list(self.folder.glob('*.death')))
        if genotype == self.victim and died < self.deaths:
            (self.folder / f'{died}.death').touch()
            os._exit(1)
        return super().__call__(genotype, needed)


def make_slow(folder: str, seconds: float) -> Slow:
    return Slow(folder, seconds)


def make_clumsy(folder: str) -> Clumsy:
    return Clumsy(folder, 0.0)


def make_deadly(folder: str, victim: tuple[int, ...], deaths: int) -> Deadly:
    return Deadly(folder, 0.01, victim, deaths)
