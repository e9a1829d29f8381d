"""Makes the bundled networks anew: for each family a search on the digits, then training of what it found.

    make regenerate

Runs lie in runs/regenerate, where the same command continues; without that folder all is made anew. Only
the training reads the test split, once.
"""

import subprocess
import sys
from pathlib import Path

from zoo.entry import read_entry
from zoo.files import sha256_file, write_atomic
from zoo.models import FAMILIES

ROOT = Path(__file__).resolve().parents[1]
RUNS, ENTRIES = ROOT / 'runs' / 'regenerate', ROOT / 'zoo' / 'entries'
LICENSE = 'apache-2.0'


def main() -> None:
    for name in (f'{family}_digits' for family in FAMILIES):
        found, trained = RUNS / name / 'search', RUNS / name / 'train'
        command('run', f'search/{name}.yaml', '--out', found, 'test=false')
        command('train', found / f'{name}.json', f'train/{name}.yaml', '--out', trained, f'name={name}')
        bundle(trained / f'{name}.json')


def command(*args: object) -> None:
    subprocess.run([sys.executable, '-m', 'search', *map(str, args)], cwd=ROOT, check=True)


def bundle(path: Path) -> None:
    """Copies an entry and its weights, under a name with tag and digest, with a licence."""
    entry = read_entry(path)
    assert entry.weights is not None
    ((tag, weights),) = entry.weights.items()
    source = path.parent / str(weights.sources[0].file)
    file = f'{entry.name}.{tag}-{sha256_file(source)[:8]}.safetensors'
    for old in ENTRIES.glob(f'{entry.name}.*.safetensors'):
        old.unlink()
    write_atomic(ENTRIES / file, source.read_bytes())
    place = weights.sources[0].model_copy(update={'file': file})
    record = weights.model_copy(update={'sources': (place,), 'license': LICENSE})
    changes = {'weights': {tag: record}, 'recipe': f'train/{entry.name}.yaml'}
    write_atomic(ENTRIES / f'{entry.name}.json', entry.model_copy(update=changes).to_json().encode())
    print(f'{file}: {source.stat().st_size:,} bytes, {record.metrics}')


if __name__ == '__main__':
    main()
