"""What `inference.py`, `training.py` and `growth.py` share: taking turns, ratios, memory, files.

On a CPU everything runs on one thread and times are CPU times, which other jobs on the machine disturb less;
on a GPU they are wall times. A ratio is taken within a round; its median and quartiles are given. Memory is
by how much a step grows what is in use at its peak: on a CPU the resident size of a process of its own, in
which each allocation above 64 kB goes back to the system when it is freed.
"""

import argparse
import ctypes
import gc
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from tqdm import tqdm

from search.growth import weighed
from zoo.errors import ZooError
from zoo.files import write_atomic
from zoo.jsonfile import format_json

TURN = 0.2
"""Seconds of a turn at least: fast steps are repeated."""
NETWORKS = ('carnet_c112', 'glit_tiny', 's3_tiny', 'trionet_a', 'uninet_b0')
"""One of each family, for what is not measured of all."""

Step = Callable[[], Any]


class Spread(NamedTuple):
    """The median and the quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> 'Spread':
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method='inclusive')
        return cls(median, low, high)

    def __str__(self) -> str:
        return f'{self.median:.2f} ({self.low:.2f} to {self.high:.2f})'


def ratio(ours: Sequence[float], others: Sequence[float], factor: float = 1.0) -> Spread:
    """How many times as fast as the others we are, by times of the same rounds; multiplied by a factor."""
    return Spread.of([factor * other / own for own, other in zip(ours, others, strict=True)])


def seconds(step: Step, device: str, calls: int = 1) -> float:
    """A call takes, as the mean of several."""
    clock = time.process_time if device == 'cpu' else time.perf_counter
    begin = clock()
    for _ in range(calls):
        step()
    if device != 'cpu':
        torch.cuda.synchronize()
    return (clock() - begin) / calls


def race(steps: dict[Any, Step], rounds: int, device: str, label: str) -> dict[Any, list[float]]:
    """Seconds of each step, round by round, in an order that turns. Each has been called before."""
    keys, calls = list(steps), {}
    times: dict[Any, list[float]] = {key: [] for key in keys}
    for key in keys:
        seconds(steps[key], device)
        calls[key] = math.ceil(TURN / max(seconds(steps[key], device), TURN / 1000))
    for i in tqdm(range(rounds), label, leave=False):
        shift = i % max(1, len(keys))
        for key in keys[shift:] + keys[:shift]:
            times[key].append(seconds(steps[key], device, calls[key]))
    return times


def peak(step: Step, device: str) -> int:
    """Bytes by which a step grows what is in use, at most."""
    step()
    gc.collect()
    if device != 'cpu':
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    if sys.platform == 'linux':
        ctypes.CDLL(None).malloc_trim(0)
        Path('/proc/self/clear_refs').write_text('5')  # from now on the peak is that of what follows
        before = resident('VmRSS')
        step()
        return max(0, resident('VmHWM') - before)
    with weighed() as most:
        before = int(most().host)
        step()
        return int(most().host) - before


def resident(field: str) -> int:
    """A size of this process in bytes."""
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


# ---- arguments, files and tables


@contextmanager
def explained() -> Iterator[None]:
    """A mistake in the arguments ends the script with a sentence."""
    try:
        yield
    except ZooError as error:
        sys.exit(str(error))


def make_parser(doc: str | None, stem: str) -> argparse.ArgumentParser:
    """For networks at some batch sizes."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--models', nargs='+', default=NETWORKS, metavar='ENTRY')
    parser.add_argument('--batch-sizes', nargs='+', type=int, default=(1, 16), metavar='N')
    parser.add_argument('--repeats', type=int, default=9, metavar='N', help='rounds that are counted')
    add_files(parser, stem)
    return parser


def add_files(parser: argparse.ArgumentParser, stem: str) -> None:
    parser.add_argument('--json', type=Path, default=Path(f'runs/{stem}.json'), metavar='FILE')
    parser.add_argument('--markdown', type=Path, default=Path(f'runs/{stem}.md'), metavar='FILE')


def describe_machine(device: str) -> dict[str, str]:
    """What is measured on; on a CPU, on one thread from now on."""
    name = torch.cuda.get_device_name() if device != 'cpu' else platform.machine()
    if device == 'cpu':
        torch.set_num_threads(1)
        if sys.platform == 'linux':
            lines = Path('/proc/cpuinfo').read_text().splitlines()
            name = next((x.partition(': ')[2] for x in lines if x.startswith('model name')), name)
        name = f'one thread of {name}'
    return {'device': name, 'torch': torch.__version__, 'timm': timm.__version__}


def save(found: dict[str, Any], args: argparse.Namespace, markdown: str) -> None:
    """Writes both files."""
    for path, text in ((args.json, f'{format_json(found)}\n'), (args.markdown, markdown)):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text.encode())


def head(what: str, found: dict[str, Any]) -> str:
    """The first sentence over tables."""
    versions = f'torch {found["torch"]}, timm {found["timm"]}'
    return (
        f'{what}: {found["device"]}, {versions}; medians of {found["repeats"]} rounds, ratios with quartiles.'
    )


def markdown_table(head: str, rows: Sequence[Sequence[object]]) -> list[str]:
    """Lines; columns of the head are separated by bars."""
    columns = head.split(' | ')
    lines = [f'| {head} |', '|---' * len(columns) + '|']
    return [*lines, *('| ' + ' | '.join(str(x).replace('|', '/') for x in row) + ' |' for row in rows), '']
