"""The wheel: its contents, its use away from the checkout, and the pins that meet what it asks for."""

import json
import os
import re
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import zoo

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = {'search', 'dask', 'seg', 'mm', 'retrieval', 'export', 'dev'}
PYTHONS = ('3.10', '3.11', '3.12', '3.13')


def run(*command: str | Path, cwd: Path) -> str:
    """Runs a command that must succeed, without the settings of this environment; returns what it printed."""
    own = ('PYTHON', 'PIP_', 'VIRTUAL_ENV')
    env = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f'{command}\n{done.stdout}\n{done.stderr}'
    return done.stdout


@pytest.fixture(scope='module')
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as a release would build it: from the source distribution, without a network."""
    out = tmp_path_factory.mktemp('dist')
    run(sys.executable, '-m', 'build', '--no-isolation', '--outdir', out, ROOT, cwd=out)
    (path,) = out.glob('*.whl')
    return path


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith('.dist-info/METADATA'))
        return Parser().parsestr(archive.read(name).decode())


def in_checkout(folder: str, pattern: str) -> set[str]:
    paths = (ROOT / folder).rglob(pattern)
    return {path.relative_to(ROOT).as_posix() for path in paths if '__pycache__' not in path.parts}


def test_wheel_holds_the_packages_their_data_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert wheel.name == f'searchzoo-{zoo.__version__}-py3-none-any.whl'
    assert {name.split('/')[0] for name in names} == {
        'zoo',
        'search',
        'downstream',
        f'searchzoo-{zoo.__version__}.dist-info',
    }
    for package in ('zoo', 'search', 'downstream'):
        files = {name for name in names if name.startswith(f'{package}/')}
        modules = {name for name in files if name.endswith('.py') and '/_configs/' not in name}
        assert modules == in_checkout(package, '*.py')
        assert f'{package}/py.typed' in names
    assert in_checkout('zoo', '*.json') | in_checkout('zoo', '*.safetensors') <= names
    assert {f'zoo/entries/{name}.json' for name in ('s3_tiny', 'glit_tiny', 'uninet_b0')} <= names
    configs = {name.replace('configs/', 'zoo/_configs/', 1) for name in in_checkout('configs', '*.*')}
    assert 'zoo/_configs/search/s3_digits.yaml' in configs
    assert configs == {name for name in names if name.startswith('zoo/_configs/')}


def test_wheel_metadata(wheel: Path) -> None:
    fields = metadata(wheel)
    assert fields['Requires-Python'] == '<3.14,>=3.10'
    assert fields['License-Expression'] == 'Apache-2.0'
    assert set(fields.get_all('Provides-Extra', [])) == EXTRAS
    requirements = [Requirement(line) for line in fields.get_all('Requires-Dist', [])]
    base = {requirement.name for requirement in requirements if requirement.marker is None}
    assert base == {
        'torch',
        'torchvision',
        'timm',
        'safetensors',
        'huggingface-hub',
        'numpy',
        'pillow',
        'pydantic',
        'tqdm',
    }
    with zipfile.ZipFile(wheel) as archive:
        (licence,) = (name for name in archive.namelist() if name.endswith('/licenses/LICENSE'))
        assert archive.read(licence) == (ROOT / 'LICENSE').read_bytes()


def test_constraints_pin_every_requirement_on_every_python(wheel: Path) -> None:
    text = (ROOT / 'constraints.txt').read_text()
    assert not re.search(r'https?:|file:|--(index|extra|find)', text), 'a pin file names no host'
    pins = [Requirement(line) for line in text.splitlines() if line and not line.startswith('#')]
    for line in metadata(wheel).get_all('Requires-Dist', []):
        wanted = Requirement(line)
        if wanted.name == 'searchzoo':
            continue
        for python in PYTHONS:
            env = {'python_version': python, 'python_full_version': f'{python}.0', 'sys_platform': 'linux'}
            found = [
                str(pin.specifier).removeprefix('==')
                for pin in pins
                if canonicalize_name(pin.name) == canonicalize_name(wanted.name)
                and (pin.marker is None or pin.marker.evaluate(env))
            ]
            assert len(found) == 1, f'{wanted} on Python {python}: pins {found}'
            assert wanted.specifier.contains(found[0]), f'{wanted} on Python {python}: pinned {found[0]}'


def link_dependencies(wheel: Path, target: Path) -> list[str]:
    """Links the wheel's requirements (no extras) and, in turn, theirs, from this environment to another's.

    Nothing else becomes importable there, so a missing requirement shows as it would for a user, and nobody
    has to fetch gigabytes to see it. Returns the names of the linked distributions.
    """
    wanted = [Requirement(line) for line in metadata(wheel).get_all('Requires-Dist', [])]
    queue = [requirement for requirement in wanted if requirement.marker is None]
    extras: dict[str, set[str]] = {}
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        if name in extras and requirement.extras <= extras[name]:
            continue
        extras[name] = extras.get(name, set()) | requirement.extras
        found = distribution(name)
        for top in {path.parts[0] for path in found.files or ()} - {'..', '__pycache__'}:
            link, source = target / top, Path(str(found.locate_file(top)))
            if not link.exists():
                link.symlink_to(source)
        for line in found.requires or ():
            child = Requirement(line)
            settings = [{'extra': extra} for extra in ('', *extras[name])]
            if child.marker is None or any(child.marker.evaluate(setting) for setting in settings):
                queue.append(child)
    return sorted(extras)


CREATE = """
import importlib, json, pkgutil, sys
import timm, torch, zoo
names = [module.name for module in pkgutil.walk_packages(zoo.__path__, 'zoo.')]
for name in names:
    if name != 'zoo.__main__':
        importlib.import_module(name)
assert 'search' not in sys.modules and 'downstream' not in sys.modules
params = {}
for name in zoo.list_entries():
    model = timm.create_model(name, device='meta')
    params[name] = [sum(x.numel() for x in model.parameters()), zoo.load_entry(name).measured.params]
model = timm.create_model('s3_tiny', num_classes=10).eval()
with torch.inference_mode():
    shape = tuple(model(torch.zeros(1, 3, 224, 224)).shape)
config = zoo.config_path('search/s3_digits.yaml')
print(json.dumps({'zoo': zoo.__file__, 'version': zoo.__version__, 'config': str(config), 'shape': shape,
                  'bytes': len(config.read_bytes()), 'modules': names, 'params': params}))
"""


def test_installed_wheel_creates_every_model_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    venv = tmp_path / 'empty'
    run(sys.executable, '-m', 'venv', '--without-pip', venv, cwd=tmp_path)
    python = venv / 'bin' / 'python'
    (site,) = (venv / 'lib').glob('python3.*/site-packages')
    linked = link_dependencies(wheel, site)
    assert 'torch' in linked
    assert not {'scikit-learn', 'accelerate', 'pytest', 'searchzoo'} & set(linked)
    pip = (sys.executable, '-m', 'pip', '--python', python)
    run(*pip, 'install', '--no-index', '--no-deps', wheel, cwd=tmp_path)
    run(*pip, 'check', cwd=tmp_path)

    seen = json.loads(run(python, '-I', '-c', CREATE, cwd=tmp_path).splitlines()[-1])
    assert Path(seen['zoo']).parent == site / 'zoo'
    assert seen['version'] == zoo.__version__
    assert seen['params'].keys() == {path.stem for path in (ROOT / 'zoo' / 'entries').glob('*.json')}
    assert all(found == measured > 0 for found, measured in seen['params'].values())
    assert seen['shape'] == [1, 10]
    assert Path(seen['config']).is_relative_to(site / 'zoo' / '_configs')
    assert seen['bytes'] == (ROOT / 'configs' / 'search' / 's3_digits.yaml').stat().st_size
    assert {'zoo.cli', 'zoo.entry', 'zoo.models.s3'} <= set(seen['modules'])

    (tmp_path / 'search.py').write_text('raise SystemExit("the user\'s own search.py was run")')
    assert 's3_tiny' in run(venv / 'bin' / 'searchzoo', 'zoo', 'list', 's3*', cwd=tmp_path)
    assert 's3_tiny' in run(python, '-m', 'zoo', 'list', 's3*', cwd=tmp_path)
    search = [venv / 'bin' / 'searchzoo', 'search', 'run', 'search/s3_digits.yaml', '--out', 'run']
    done = subprocess.run(search, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "pip install 'searchzoo[search]'" in done.stderr
    assert 'Traceback' not in done.stderr


@pytest.mark.parametrize(
    ('python', 'what'),
    [('old', "'Python 3.9.18'"), ('new', "'Python 3.14.0'"), ('absent', 'not found')],
    ids=['too-old', 'too-new', 'absent'],
)
def test_install_names_the_pythons_it_takes(python: str, what: str, tmp_path: Path) -> None:
    (tmp_path / 'scripts').mkdir()
    for name in ('scripts/install.sh', 'pyproject.toml', 'constraints.txt'):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    interpreter = tmp_path / python
    if python != 'absent':  # answers --version, and refuses the check of its version with exit code 1
        interpreter.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo {what} && exit 0\nexit 1\n')
        interpreter.chmod(0o755)
    env = os.environ | {'PYTHON': str(interpreter)}
    done = subprocess.run(['sh', 'scripts/install.sh'], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 1
    for part in ('Python 3.10 to 3.13', what.strip("'"), str(interpreter)):
        assert part in done.stderr
    assert not (tmp_path / '.venv').exists()
