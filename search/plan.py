"""What a run will take: hours, memory and disk. See :mod:`search.planner`."""

from dataclasses import dataclass, field

from search.growth import Memory, Seconds

__all__ = ['Phase', 'Plan', 'format_bytes']


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
        retraining: A step of a stand-alone training, once it has been measured.
        checkpoint: Bytes of the largest one.
        log: Bytes of all events.
    """

    devices: int
    phases: list[Phase] = field(default_factory=list)
    memory: dict[str, Memory] = field(default_factory=dict)
    disk: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    retraining: Seconds | None = None
    checkpoint: int = 0
    log: int = 0

    def total_hours(self, devices: int = 1) -> float:
        return sum(phase.hours(devices) for phase in self.phases)


def format_bytes(count: float) -> str:
    """Three digits: ``12.3 MB``."""
    for unit in ('B', 'kB', 'MB', 'GB'):
        if count < 999.5:
            return f'{count:.3g} {unit}'
        count /= 1000
    return f'{count:,.3g} TB'
