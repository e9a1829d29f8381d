"""What the packages may import: the floors between them, and only libraries that pyproject.toml declares."""

import ast
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, files, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {'zoo': {'search', 'downstream'}, 'search': {'downstream'}, 'downstream': {'search'}}


def imported(path: Path) -> set[str]:
    """Top-level names of every import in a file, those inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names.update(alias.name.split('.')[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split('.')[0])
    return names


@pytest.mark.parametrize('package', FORBIDDEN)
def test_floor(package: str) -> None:
    paths = sorted((ROOT / package).rglob('*.py'))
    assert paths
    broken = {str(path.relative_to(ROOT)): imported(path) & FORBIDDEN[package] for path in paths}
    assert {path: names for path, names in broken.items() if names} == {}


DECLARED: dict[str, set[str]] = {
    'zoo': set(),
    'search': {'search', 'dask'},
    'downstream': {'seg', 'mm', 'retrieval'},
    'tests': {'search', 'dask', 'export', 'seg', 'mm', 'retrieval', 'dev'},
    'benchmarks': {'search', 'seg', 'dev'},
    'examples': {'search', 'mm'},
    'docs': {'search'},
}
"""The extras that each folder may import beside the base dependencies."""
OPTIONAL = {
    'zoo/accuracy.py': {'search'},
    'zoo/digits.py': {'search'},
    'zoo/export.py': {'export'},
    'zoo/gallery.py': {'search'},
    'zoo/picture.py': {'search'},
}
"""The extras that a file may import where it is used, and names in an error where they are missing."""


def provided(extras: set[str]) -> set[str]:
    """Names that the base dependencies and these extras make importable, of those that are installed."""
    names: set[str] = set()
    for requirement in map(Requirement, requires('searchzoo') or ()):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({'extra': extra}) for extra in extras):
            with suppress(PackageNotFoundError):
                names.update(file.parts[0].split('.')[0] for file in files(requirement.name) or ())
    return names


@pytest.mark.parametrize('folder', DECLARED)
def test_imports_are_declared_dependencies(folder: str) -> None:
    own = {path.stem for path in (ROOT / folder).rglob('*.py')}
    allowed = provided(DECLARED[folder]) | {*DECLARED} | own | sys.stdlib_module_names
    undeclared: dict[str, list[str]] = {}
    for path in sorted((ROOT / folder).rglob('*.py')):
        optional = OPTIONAL.get(path.relative_to(ROOT).as_posix(), set())
        for name in imported(path) - (provided(optional) if optional else set()) - allowed:
            undeclared.setdefault(name, []).append(str(path.relative_to(ROOT)))
    assert undeclared == {}
