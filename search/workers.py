"""Where candidates are evaluated: in this process, in worker processes, or on a Dask cluster.

All are :class:`concurrent.futures.Executor`. What a worker needs is named by a :class:`Task`; it loads that
once. A candidate that raises has failed, with its reason; a worker that dies costs its candidate another
evaluation, and only a candidate that keeps killing workers has failed.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from concurrent.futures import TimeoutError as NotDone
from dataclasses import dataclass, field
from functools import lru_cache
from types import TracebackType
from typing import Annotated, Any

import torch
from pydantic import Field, model_validator

from search.evaluate import Evaluator
from search.space import Genotype
from zoo.arch import Part
from zoo.errors import ZooError

__all__ = ['Outcome', 'Task', 'Workers', 'WorkersConfig', 'score']

MAX_DEATHS = 3
"""A candidate whose workers died so often has failed."""
AHEAD = 2
"""Candidates that are handed out for each worker, so that none waits for this process."""
SECONDS_BETWEEN_LOOKS = 0.5


class WorkersConfig(Part):
    """Worker processes: of this machine, or those of a Dask cluster that sees the run's folder."""

    processes: Annotated[int, Field(ge=1, le=1024)] | None = None
    dask: str | None = Field(None, description="address of the scheduler, such as 'tcp://10.0.0.1:8786'")

    @model_validator(mode='after')
    def _check_one(self) -> 'WorkersConfig':
        if (self.processes is None) == (self.dask is None):
            raise ValueError('exactly one of processes and dask is needed')
        return self


@dataclass(frozen=True)
class Outcome:
    """What came of a candidate: a score with metrics, or the reason why there is none."""

    score: float | None
    metrics: dict[str, float] = field(default_factory=dict)
    failure: str | None = None
    standard_error: float | None = None


@dataclass(frozen=True)
class Task:
    """What makes an evaluator, by itself and in other processes.

    Args:
        make: A function that can be imported, called with the arguments.
        args: Small, and hashable.
    """

    make: Callable[..., Evaluator]
    args: tuple[Any, ...]


def score(evaluator: Evaluator, genotype: Genotype, needed: float) -> Outcome:
    """Evaluates a candidate. Errors of its computation become the reason of its failure; others are raised,
    since every candidate would have them."""
    try:
        evaluation = evaluator(genotype, needed)
    except (RuntimeError, ArithmeticError, MemoryError) as error:
        reason = str(error).strip().split('\n')[0][:300]
        return Outcome(None, {}, f'{type(error).__name__}: {reason}' if reason else type(error).__name__)
    return Outcome(evaluation.score, evaluation.metrics, None, evaluation.standard_error)


class Workers:
    """Evaluates candidates somewhere. Use as a context manager.

    Attributes:
        capacity: Candidates to hand out before the first one's outcome is waited for.
    """

    def __init__(self, config: WorkersConfig | None, task: Task, make: Callable[[], Evaluator]):
        """
        Args:
            config: Where; None for this process.
            task: Makes the evaluator in other processes.
            make: Makes it in this one.

        Raises:
            ZooError: Dask is not installed, or there is no scheduler at the address.
        """
        self.config = config
        self.task = task
        self._evaluator = make() if config is None else None
        self._client: Any = None
        self._executor: Executor | None = None
        self._handed_out: list[tuple[Future, Genotype, float]] = []
        self.capacity = 1
        if config is not None:
            self._connect(config)

    def __enter__(self) -> 'Workers':
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        if self._client is not None:
            self._client.close()

    def submit(self, genotype: Genotype, needed: float) -> None:
        """Hands a candidate out; outcomes come in the same order."""
        try:
            future = self._start(genotype, needed)
        except BrokenExecutor:  # a worker died while none was waited for
            self._start_again()
            future = self._start(genotype, needed)
        self._handed_out.append((future, genotype, needed))

    def __len__(self) -> int:
        """Candidates that are handed out."""
        return len(self._handed_out)

    def next(self, look_up: Callable[[], None]) -> tuple[Genotype, Outcome]:
        """The outcome of the candidate that was handed out first.

        Args:
            look_up: Is called now and then while waiting, and may raise.

        Raises:
            ZooError: The evaluator cannot be made in the worker, or the cluster is lost.
        """
        deaths = 0
        while True:
            future, genotype, _ = self._handed_out[0]
            try:
                outcome = future.result(timeout=SECONDS_BETWEEN_LOOKS)
            except NotDone:
                if future.done():  # the evaluator itself raised it
                    raise
                look_up()
                continue
            except BrokenExecutor:
                look_up()
                deaths += 1
                self._start_again()
                if deaths < MAX_DEATHS:
                    continue
                outcome = Outcome(None, {}, f'its worker process died {MAX_DEATHS} times')
            except Exception as error:
                outcome = self._explain(error)
            self._handed_out.pop(0)
            return genotype, outcome

    # ---- executors

    def _connect(self, config: WorkersConfig) -> None:
        if config.processes is not None:
            self.capacity = AHEAD * config.processes
            self._executor = self._make_pool(config.processes)
            return
        try:
            from distributed import Client
        except ImportError:
            raise ZooError("search.workers.dask needs Dask: pip install 'searchzoo[dask]'.") from None
        try:
            self._client = Client(config.dask, timeout=20)
        except (OSError, ValueError, TypeError) as error:
            reason = str(error).strip().split('\n')[0]
            raise ZooError(
                f'search.workers.dask: no scheduler answers at {config.dask!r}: {reason}.'
            ) from None
        threads = sum(self._client.nthreads().values())
        self.capacity = AHEAD * max(1, threads)
        self._executor = self._client.get_executor(pure=False)

    def _make_pool(self, processes: int) -> Executor:
        return ProcessPoolExecutor(
            processes,
            mp_context=multiprocessing.get_context('spawn'),
            initializer=_begin_worker,
            initargs=(os.getpid(), torch.get_num_threads()),
        )

    def _start(self, genotype: Genotype, needed: float) -> Future:
        if self._executor is not None:
            return self._executor.submit(score_in_worker, self.task, genotype, needed)
        assert self._evaluator is not None
        future: Future = Future()
        future.set_result(score(self._evaluator, genotype, needed))
        return future

    def _start_again(self) -> None:
        """Makes a new pool and hands out again what has no outcome yet."""
        assert self.config is not None
        assert self.config.processes is not None
        self._close()
        self._executor = self._make_pool(self.config.processes)
        self._handed_out = [
            (future, genotype, needed)
            if future.done() and not future.cancelled() and future.exception() is None
            else (self._start(genotype, needed), genotype, needed)
            for future, genotype, needed in self._handed_out
        ]

    def _close(self) -> None:
        if isinstance(self._executor, ProcessPoolExecutor):
            processes = list(getattr(self._executor, '_processes', None) or {})
            self._executor.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                if child.pid in processes:
                    child.terminate()
        for future, _, _ in self._handed_out:
            future.cancel()

    def _explain(self, error: Exception) -> Outcome:
        if self._client is None:
            raise error
        from distributed import CancelledError
        from distributed.scheduler import KilledWorker

        if isinstance(error, KilledWorker):
            return Outcome(None, {}, 'its workers died, as often as the scheduler allows')
        if isinstance(error, (CancelledError, OSError)):
            assert self.config is not None
            raise ZooError(
                f'The Dask scheduler at {self.config.dask} is lost; the same command continues the run.'
            ) from None
        raise error


# ---- in the worker

_LOCK = threading.Lock()


@lru_cache(maxsize=1)
def evaluator_of(task: Task) -> Evaluator:
    return task.make(*task.args)


def score_in_worker(task: Task, genotype: Genotype, needed: float) -> Outcome:
    with _LOCK:  # a supernet is for one thread at a time
        return score(evaluator_of(task), genotype, needed)


def _begin_worker(parent: int, threads: int) -> None:
    """The first process decides when a worker ends; one whose first process is gone ends itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
