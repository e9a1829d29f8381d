"""Measuring latencies: few networks that have every module of a space, timed module by module.

Modules are timed where they run, in whole networks, so that caches, memory formats and launches are those of
use. Passes with and without hooks take turns. The shortest time counts, since whatever else the machine does
only adds to it.
"""

import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, Protocol

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from search.latency import list_variants
from search.measurements import Header, Key, Measurements, Network
from search.progress import Progress
from search.run import Interrupted
from search.seeding import derive_seed, forked_rng
from search.space import Genotype
from search.spaces import FamilySpace, load_space
from zoo.entry import describe_faults
from zoo.errors import ZooError
from zoo.jsonfile import shorten
from zoo.models import FAMILIES

__all__ = [
    'Timer',
    'find_device_name',
    'make_clock',
    'make_header',
    'measure',
    'plan_checks',
    'plan_networks',
    'time_network',
]

WARM_UP = 3
CHECKS = 20
"""Random networks with which the sums of modules are compared."""
SECONDS_BETWEEN_WRITES = 5.0

Timer = Callable[[nn.Module, Tensor, Sequence[str]], tuple[float, list[float]]]
"""Gives the seconds of a network for some images, and those of its modules of these paths (0 if absent)."""


class Clock(Protocol):
    def mark(self) -> Any:
        """This moment."""

    def between(self, start: Any, end: Any) -> float:
        """Seconds from one moment to another."""


class ProcessorClock:
    """Of work that is done when a call returns.

    Where one thread does all of it, that thread's own time is read, in which other programs have no part.
    """

    def __init__(self) -> None:
        self.mark = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter

    def between(self, start: float, end: float) -> float:
        return end - start


class GpuClock:
    """Of work that is queued: moments are events in the queue, so that reading it does not hold work up."""

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        end.synchronize()
        return start.elapsed_time(end) / 1e3


def make_clock(device: str) -> Clock:
    """The clock of a kind of device.

    Raises:
        ZooError: There is no such device.
    """
    if device == 'cuda' and not torch.cuda.is_available():
        raise ZooError("device: found 'cuda', torch sees no such device here; 'cpu' is there.")
    return GpuClock() if device == 'cuda' else ProcessorClock()


def make_header(
    space: Any, input_size: tuple[int, int, int], num_classes: int, batch_size: int, device: str, repeats: int
) -> Header:
    """What :func:`measure` is to measure, with torch's current number of threads.

    Args:
        space: As a config declares it.
        input_size: (C, H, W) of the images.
        num_classes: Of the classifier.
        batch_size: Images at once.
        device: ``cpu`` or ``cuda``.
        repeats: Passes of each network, whole and by modules.

    Raises:
        ZooError: A wrong declaration, or the device is not there.
    """
    make_clock(device)
    modules = dict(load_space(space, input_size).modules)
    data = {
        'schema': 1,
        'space': space,
        'input_size': input_size,
        'num_classes': num_classes,
        'batch_size': batch_size,
        'device': device,
        'device_name': find_device_name(device),
        'threads': torch.get_num_threads(),
        'torch': torch.__version__,
        'repeats': repeats,
        'modules': modules,
    }
    return Header.model_validate_json(json.dumps(data))


def find_device_name(device: str) -> str:
    """What a person calls the device."""
    if device == 'cuda':
        return torch.cuda.get_device_name()
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return models[0] if models else platform.processor() or platform.machine()


def measure(
    header: Header, path: Path | str, timer: Timer | None = None, quiet: bool = False
) -> Measurements:
    """Measures what is needed to predict the latency of every network of a space, or continues.

    Args:
        header: What to measure. Networks run with torch's current number of threads.
        path: Of the file, which is written every few seconds and holds what was measured so far.
        timer: Measures one network, by default :func:`time_network`.
        quiet: No progress on stderr.

    Raises:
        ZooError: The file holds something else or cannot be written, or the device is not there.
        Interrupted: The user asked to stop; the same call continues.
    """
    clock = make_clock(header.device)
    measured = Measurements(header, ())
    if Path(path).exists():
        measured = Measurements.read(path)
        if differences := _differences(measured.header, header):
            raise ZooError(f'{path}: holds other latencies: {differences}; use another file.')
    family_space = measured.load_space()
    done = {network.genotype for network in measured.networks}
    plan = [(genotype, True) for genotype in plan_networks(family_space)]
    plan += [(genotype, False) for genotype in plan_checks(family_space, {genotype for genotype, _ in plan})]
    left = [(genotype, apart) for genotype, apart in plan if genotype not in done]
    networks = list(measured.networks)
    images = torch.rand(header.batch_size, *header.input_size, generator=torch.Generator().manual_seed(0))
    images = images.to(header.device)

    def time_one(genotype: Genotype, apart: bool) -> Network:
        network = build(family_space, genotype, header.num_classes).to(header.device)
        paths = list(header.modules) if apart else []
        if timer is not None:
            seconds, modules = timer(network, images, paths)
        else:
            seconds, modules = time_network(network, images, paths, header.repeats, clock)
        times = tuple(round(value, 9) for value in modules) if apart else None
        return Network(genotype=genotype, seconds=round(seconds, 9), modules=times)

    def write() -> Measurements:
        measured = Measurements(header, tuple(networks))
        measured.write(path)
        return measured

    write()
    written = time.monotonic()
    try:
        with Progress('timing networks', len(plan), len(plan) - len(left), 'network', quiet) as progress:
            for genotype, apart in left:
                networks.append(time_one(genotype, apart))
                progress.update(f'{1e3 * networks[-1].seconds:.3g} ms')
                if time.monotonic() - written >= SECONDS_BETWEEN_WRITES:
                    write()
                    written = time.monotonic()
    except KeyboardInterrupt:
        raise Interrupted from None
    finally:
        measured = write()
    return measured


def _differences(found: Header, wanted: Header) -> str:
    pairs = [(name, getattr(found, name), getattr(wanted, name)) for name in Header.model_fields]
    return ', '.join(f'{name} was {shorten(a)}, now {shorten(b)}' for name, a, b in pairs if a != b)


def build(family_space: FamilySpace, genotype: Genotype, num_classes: int) -> nn.Module:
    """A candidate's network with random weights, in evaluation mode.

    Raises:
        ZooError: The space has candidates that are no valid architectures, and this is one.
    """
    in_chans, *img_size = family_space.input_size
    args = dict(in_chans=in_chans, img_size=tuple(img_size), num_classes=num_classes, drop_path_rate=0.0)
    try:
        arch = family_space.decode(genotype)
    except ValidationError as error:
        raise ZooError('\n'.join(describe_faults(error, 'space: a network of it'))) from None
    with forked_rng('latency'):
        return FAMILIES[family_space.family].build(arch, family_space.family, **args).eval()


def plan_networks(family_space: FamilySpace) -> list[Genotype]:
    """Networks that together have every module, in each of its variants, in an order that means nothing.

    Each network takes as many modules that are new as fit together, those with the most variants left first.
    """
    space = family_space.space
    left = {path: list_variants(space, names) for path, names in family_space.modules.items()}
    rng = Random(derive_seed('latency', 'networks'))
    plan = []
    while any(left.values()):
        fixed: dict[int, int] = {}
        for path in sorted(left, key=lambda path: len(left[path]), reverse=True):
            fitting = (way for ways in left[path].values() for way in ways if _agree(way, fixed))
            fixed |= next(fitting, {})
        drawn = [fixed.get(i, rng.randrange(len(choice.values))) for i, choice in enumerate(space.choices)]
        plan.append(space.canonical([max(index, 0) for index in drawn]))
        values = space.values(plan[-1])
        for path, names in family_space.modules.items():
            key: Key = tuple(values.get(name) for name in names)
            left[path].pop(key, None)
    rng.shuffle(plan)
    return plan


def _agree(way: Mapping[int, int], fixed: Mapping[int, int]) -> bool:
    return all(fixed.get(position, index) == index for position, index in way.items())


def plan_checks(family_space: FamilySpace, known: set[Genotype]) -> list[Genotype]:
    """Random networks that are not known, fewer if the space is small."""
    rng = Random(derive_seed('latency', 'checks'))
    drawn = (family_space.space.sample(rng) for _ in range(10 * CHECKS))
    return list(dict.fromkeys(genotype for genotype in drawn if genotype not in known))[:CHECKS]


def time_network(
    network: nn.Module, images: Tensor, paths: Sequence[str], repeats: int, clock: Clock
) -> tuple[float, list[float]]:
    """Seconds of a network for a batch, and of its modules of these paths, 0 if it has none there."""
    modules = dict(network.named_modules())
    present = [path for path in paths if path in modules]
    totals: list[float] = []
    parts: dict[str, list[float]] = {path: [] for path in present}
    with torch.no_grad():
        for i in range(WARM_UP + repeats):
            total = time_pass(network, images, clock)
            seconds = time_modules(network, images, present, modules, clock) if present else {}
            if i >= WARM_UP:
                totals.append(total)
                for path in present:
                    parts[path].append(seconds[path])
    return min(totals), [min(parts[path]) if path in parts else 0.0 for path in paths]


def time_pass(network: nn.Module, images: Tensor, clock: Clock) -> float:
    """Seconds of the whole network; the device is idle when this returns."""
    start = clock.mark()
    network(images)
    return clock.between(start, clock.mark())


def time_modules(
    network: nn.Module, images: Tensor, paths: Sequence[str], modules: Mapping[str, nn.Module], clock: Clock
) -> dict[str, float]:
    """Seconds of each module in one pass."""
    moments: dict[str, list[Any]] = {path: [] for path in paths}
    handles = []
    for path in paths:
        mark = lambda *_, path=path: moments[path].append(clock.mark())  # noqa: E731
        handles += [modules[path].register_forward_pre_hook(mark), modules[path].register_forward_hook(mark)]
    try:
        time_pass(network, images, clock)
    finally:
        for handle in handles:
            handle.remove()
    return {path: clock.between(*marks) for path, marks in moments.items()}
