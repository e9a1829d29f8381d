"""Damages what users hand over, and looks at what its readers say: python tests/fuzz/fuzz.py TARGET.

Valid files are changed: values in their data (removed, repeated, replaced by extreme ones), then bytes. A
reader must give a result that it can write and read again, or a ZooError in short lines, soon and with little
memory. All else is printed with the smallest input that Hypothesis finds, once for each line of code that
raises. This is not a test: what it has found stands in the tests.
"""

import argparse
import faulthandler
import reprlib
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / 'zoo'), str(HERE.parents[1])]

import conftest  # noqa: E402, F401, I001  (one thread, no network)
import hypothesis  # noqa: E402
from hypothesis import HealthCheck, Phase  # noqa: E402

from targets import TARGETS  # noqa: E402
from zoo.errors import ZooError  # noqa: E402

SHORT = reprlib.Repr()
SHORT.maxlevel = SHORT.maxdict = SHORT.maxlist = SHORT.maxtuple = 9
SHORT.maxstring = SHORT.maxother = 200
"""How inputs are printed."""
GROWTH = 1e9
"""Bytes of memory for one input."""
ADDRESSES = 8 * 2**30
"""Bytes of addresses for the process, much of them for torch's libraries."""
MAX_LINE, MAX_LINES = 1000, 60
OWN = ('zoo', 'search')

Check = Callable[[Any], object]


class TooSlow(BaseException):
    """No code that catches Exception holds this up."""


class Finding(Exception):
    """An outcome that is no exception by itself."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Time and memory of one input."""

    def stop(number: int, frame: object) -> None:
        raise TooSlow

    before = peak_memory()
    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(3 * seconds, exit=True)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
    if peak_memory() - before > GROWTH:
        raise Finding(f'{(peak_memory() - before) / 1e9:.1f} GB of memory')


def peak_memory() -> float:
    """Since this was last asked, in bytes (Linux)."""
    lines = Path('/proc/self/status').read_text()
    Path('/proc/self/clear_refs').write_text('5')
    return 1024 * int(lines.partition('VmHWM:')[2].split()[0])


def judge(check: Check, case: Any, seconds: float) -> bool:
    """Whether the input was read without a fault, which is said as it should be."""
    try:
        with limited(seconds):
            check(case)
    except ZooError as error:
        lines = str(error).split('\n')
        if len(lines) > MAX_LINES or not all(0 < len(x) <= MAX_LINE and x.isprintable() for x in lines):
            raise Finding(f'the message {str(error)[:3000]!r}') from error
        if any(word in str(error) for word in ('Traceback', 'File "', 'alloc', 'memory')):
            raise Finding(f'the message {str(error)!r}') from error
        return False
    return True


def place(error: BaseException) -> str:
    """The kind of an exception, and the last line of the package that was running."""
    frames = traceback.extract_tb((error.__cause__ or error).__traceback__)
    own = [f for f in frames if f.filename.startswith(tuple(str(HERE.parents[1] / name) for name in OWN))]
    last = own[-1] if own else frames[-1]
    return f'{type(error).__name__} at {Path(last.filename).name}:{last.lineno}'


def fuzz(target: str, seconds: float, seed: int, scratch: Path) -> dict[str, str]:
    """Feeds a target until time is up; gives what was found, by the place where it happens."""
    strategy, check, limit = TARGETS[target](scratch)
    found: dict[str, str] = {}
    counts = {True: 0, False: 0}
    end = time.monotonic() + seconds

    def run(case: Any) -> None:
        if time.monotonic() > end:
            return
        (scratch / 'last_input').write_text(repr(case))  # for what ends the process
        try:
            counts[judge(check, case, limit)] += 1
        except (Exception, TooSlow) as error:
            key = place(error)
            if key in known:
                return
            lines = traceback.format_exception(error)[-12:]
            found[key] = f'{SHORT.repr(case)}\n{"".join(lines)[-3000:]}'
            raise Finding(key) from error

    while time.monotonic() < end:
        known = set(found)
        settings = hypothesis.settings(
            max_examples=1000, deadline=None, database=None, phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck), report_multiple_bugs=False, print_blob=False,
        )  # fmt: skip
        try:
            hypothesis.seed(seed)(settings(hypothesis.given(strategy)(run)))()
        except Exception as error:  # what was found, or Hypothesis on an input that fails only sometimes
            print(f'seed {seed}: {str(error)[:200]}', flush=True)
        for key in found.keys() - known:
            print(f'--- {key}\n{found[key]}', flush=True)
        seed += 1
    print(f'{target}: {sum(counts.values())} inputs, {counts[True]} of them read, {len(found)} findings')
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('target', choices=TARGETS)
    parser.add_argument('--seconds', type=float, default=600)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    faulthandler.enable()
    warnings.simplefilter('ignore')
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    with tempfile.TemporaryDirectory() as scratch:
        return int(bool(fuzz(args.target, args.seconds, args.seed, Path(scratch))))


if __name__ == '__main__':
    sys.exit(main())
