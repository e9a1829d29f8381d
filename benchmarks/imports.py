"""What `import zoo` costs beside `import timm.models`, which it needs.

    python benchmarks/imports.py [--repeats 15] [--target 0.1]

Every import has a fresh interpreter; they take turns, in an order that changes with each turn. Times are CPU
times of the process less those of an empty one. The first turn only warms the caches. Prints the median and
the range of both and of the ratio within a turn, and exits with 1 if the median ratio is above the target.
"""

import argparse
import resource
import statistics
import subprocess
import sys

IMPORTS = {'nothing': 'pass', 'timm.models': 'import timm.models', 'zoo': 'import zoo'}


def measure(statement: str) -> float:
    """CPU seconds of an interpreter that runs the statement and ends."""

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = used()
    subprocess.run([sys.executable, '-c', statement], check=True)
    return used() - before


def report(name: str, values: list[float], unit: str) -> None:
    print(f'  {name:<26} {statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f}) {unit}')


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--repeats', type=int, default=15)
    parser.add_argument('--target', type=float, default=0.1, help='highest allowed share above timm.models')
    args = parser.parse_args()

    turns: list[dict[str, float]] = []
    for turn in range(args.repeats + 1):
        names = list(IMPORTS) if turn % 2 else list(reversed(IMPORTS))
        found = {name: measure(IMPORTS[name]) for name in names}
        if turn:
            turns.append({name: found[name] - found['nothing'] for name in ('timm.models', 'zoo')})

    print(f'importing in a fresh interpreter, {args.repeats} turns: median (lowest to highest)')
    for name in ('timm.models', 'zoo'):
        report(name, [turn[name] for turn in turns], 's CPU')
    ratios = [turn['zoo'] / turn['timm.models'] for turn in turns]
    report('zoo / timm.models', ratios, f'(target: at most {1 + args.target:.2f})')
    return int(statistics.median(ratios) > 1 + args.target)


if __name__ == '__main__':
    sys.exit(main())
