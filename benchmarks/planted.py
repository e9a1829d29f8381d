"""Whether searches choose operators according to the planted tasks (see ``search/planted.py``).

    python benchmarks/planted.py [--method trionet|carnet|alone] [--seeds 10] [--first 0] [--out runs/planted]
        [key=value ...]

trionet: whole searches; in how many seeds has the result axial attention? Right is none on planted_texture
and some on planted_relation. carnet: the softmax weight of non-local attention, as a mean over the layers,
when the search begins, after reconstruction and after classification; in how many seeds did it rise? alone:
top-1 of the largest networks of a single operator (local where axial is not to be chosen), each trained
alone by the recipe of the supernet.

Prints a line for each seed and the counts; --out/METHOD.json has the same. Every seed has a folder and, when
it is done, a record below --out, from which the same command continues. CPU seconds are those of the process
that finished a seed.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from search.config import load_config
from search.methods import METHODS
from search.mixed import Alpha, summarise
from search.planted import PLANTED
from search.problem import Problem
from search.run import Unrecorded
from zoo.files import write_atomic
from zoo.jsonfile import format_json
from zoo.registry import config_path

Record = dict[str, Any]
OPERATORS = 'conv', 'local', 'axial'


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--method', choices=list(MEASURED), default='trionet')
    parser.add_argument('--seeds', type=int, default=10)
    parser.add_argument('--first', type=int, default=0)
    parser.add_argument('--out', type=Path, default=Path('runs/planted'))
    parser.add_argument('overrides', nargs='*', metavar='key=value')
    args = parser.parse_args()
    records: dict[str, list[Record]] = {data: [] for data in PLANTED}
    for seed in range(args.first, args.first + args.seeds):
        for data, found in records.items():
            name = f'{data}_{args.method}_{seed}'
            overrides = [f'data.name={data}', f'seed={seed}', f'name={name}', *args.overrides]
            file = args.out / f'{name}.json'
            if not file.exists():
                started = time.process_time()
                record = {'seed': seed} | MEASURED[args.method](overrides, args.out / name)
                record['cpu_seconds'] = round(time.process_time() - started, 1)
                args.out.mkdir(parents=True, exist_ok=True)
                write_atomic(file, format_json(record).encode())
            found.append(json.loads(file.read_text()))
            print(data, json.dumps(found[-1]), flush=True)
    write_atomic(args.out / f'{args.method}.json', format_json(records).encode())
    for data, found in records.items():
        for key in ('axial', 'rose'):
            if isinstance(found[0].get(key), int):
                print(f'{data}: {key} in {sum(bool(r[key]) for r in found)} of {len(found)} seeds')
        for key in (key for key, value in found[0].items() if isinstance(value, float)):
            values = [record[key] for record in found]
            print(f'{data}: {key} mean {statistics.mean(values):.3f}, {min(values):.3f} to {max(values):.3f}')


def search_trionet(overrides: list[str], folder: Path) -> Record:
    config = load_config(config_path('search/planted_trionet.yaml'), overrides)
    best = METHODS['one_shot'](config, folder, quiet=True).best
    values = dict(Problem(config).space.space.values(tuple(best['genotype'])))
    operators = [value for key, value in values.items() if key.endswith('.operator')]
    return {'operators': operators, 'axial': operators.count('axial'), 'macs': best['macs']}


def search_carnet(overrides: list[str], folder: Path) -> Record:
    config = load_config(config_path('search/planted_carnet.yaml'), overrides)
    METHODS['differentiable'](config, folder, quiet=True)
    phases = {
        name: json.loads((folder / 'seed1' / f'{name}.json').read_text())['alpha']
        for name in ('self_supervised', 'target')
    }
    begun = {layer: dict.fromkeys(row, 0.0) for layer, row in phases['target'].items()}
    weights = [weight_of(alpha) for alpha in (begun, *phases.values())]
    record = dict(zip(('begun', *phases), weights, strict=True))
    return record | {'rose': record['target'] > record['begun']}


def weight_of(alpha: Alpha) -> float:
    """The softmax weight of non-local attention, as a mean over the layers."""
    return statistics.mean(
        value for key, value in summarise(alpha).items() if key.startswith('weight/') and 'non_local' in key
    )


def train_alone(overrides: list[str], _: Path) -> Record:
    problem = Problem(load_config(config_path('search/planted_trionet.yaml'), overrides))
    space = problem.space.space
    found: Record = {}
    for operator in OPERATORS:
        part = space.restrict(
            {
                choice.name: operator if operator in choice.values else 'local'
                for choice in space.choices
                if choice.name.endswith('.operator')
            }
        )
        arch = problem.space.decode(space.genotype(part.values(part.largest())))
        recipe = problem.supernet_config.recipe
        model = problem.train_alone(arch, recipe, operator, operator, Unrecorded())
        found[operator] = problem.score(model)['top1']
    return found


MEASURED = {'trionet': search_trionet, 'carnet': search_carnet, 'alone': train_alone}

if __name__ == '__main__':
    main()
