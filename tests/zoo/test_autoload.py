"""Autoload: `import timm` brings the zoo where that is enabled; nothing else is slower, different or broken.

Everything runs in scratch environments. The command and its promise are tested with timm itself; the ways to
import it with a small package of the same name, which starts in milliseconds.
"""

import json
import os
import shutil
import site
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import zoo
from zoo.autoload import PTH_NAME, pth_line
from zoo.console import main

PACKAGE = Path(zoo.__file__).resolve().parent
WARNING = "RuntimeWarning: searchzoo's models are not registered with timm, `import zoo` failed: "
Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch


@dataclass
class Environment:
    """A virtual environment without pip, and an empty folder `here` in which its programs start."""

    folder: Path

    @property
    def packages(self) -> Path:
        return next(self.folder.glob('lib/python*/site-packages'))

    @property
    def pth(self) -> Path:
        return self.packages / PTH_NAME

    def write(self, path: str, text: str = '') -> None:
        """Writes a file of an installed package."""
        file = self.packages / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding='utf-8')

    def run(self, *argv: str | Path, **variables: str) -> tuple[int, str, str]:
        """The exit code, output and errors of an interpreter."""
        here = self.folder / 'here'
        here.mkdir(exist_ok=True)
        own = {name: value for name, value in os.environ.items() if not name.startswith('PYTHON')}
        done = subprocess.run(
            [self.folder / 'bin' / 'python', *argv],
            cwd=here,
            env=own | variables,
            capture_output=True,
            text=True,
            timeout=300,
        )
        return done.returncode, done.stdout, done.stderr

    def prints(self, code: str, *arguments: str, options: str = '') -> list[str]:
        """The lines of a program, which must end well and without a warning."""
        found = self.run(*options.split(), '-c', code, *arguments)
        assert found == (0, found[1], '')
        return found[1].splitlines()


def environment(folder: Path) -> Environment:
    venv.EnvBuilder(symlinks=True).create(folder)
    return Environment(folder)


COMMANDS = """
import sys
import timm
print(timm.is_model('uninet_b0'))
from zoo.console import main
print(*[main(['zoo', 'autoload', option]) for option in sys.argv[1:]])
"""
USE = """
import json
import importlib.resources, importlib.util, inspect, pkgutil
import timm

def facts():
    spec = importlib.util.find_spec('timm')
    return {
        'spec': [spec is timm.__spec__, spec.name, spec.cached, spec.parent, list(timm.__path__)],
        'loader': [spec.loader is timm.__loader__, repr(type(spec.loader)), vars(spec.loader)],
        'attributes': [name for name in vars(timm) if name.startswith('__')],
        'source': [inspect.getsourcefile(timm), inspect.getsource(timm), spec.loader.get_source('timm')],
        'data': [len(pkgutil.get_data('timm', '__init__.py')), spec.loader.is_package('timm')],
        'resources': sorted(path.name for path in importlib.resources.files('timm').iterdir()),
        'modules': [module.name for module in pkgutil.iter_modules(timm.__path__)],
    }

found = [facts(), importlib.reload(timm) is timm, facts()]
if timm.is_model('uninet_b0'):
    print(timm.create_model('uninet_b0', num_classes=3)(__import__('torch').zeros(1, 3, 64, 64)).shape)
print(json.dumps(found))
"""
TRANSFORMERS = """
from transformers import TimmWrapperConfig, TimmWrapperForImageClassification
print(type(TimmWrapperForImageClassification(TimmWrapperConfig(architecture='carnet_c80')).timm_model))
"""


def test_timm_and_transformers_find_the_zoo_while_it_is_enabled(tmp_path: Path) -> None:
    real = environment(tmp_path / 'first')
    real.write('packages.pth', f'{sysconfig.get_path("purelib")}\n')
    shutil.copytree(PACKAGE, real.packages / 'zoo', ignore=shutil.ignore_patterns('__pycache__'))
    hook = real.packages / 'zoo' / '_timm_hook.py'

    known, *said, codes = real.prints(COMMANDS, '--status', '--enable', '--enable', '--status')
    assert (known, codes) == ('False', '1 0 0 0')
    assert said == ['disabled', *3 * [f'enabled: {real.pth}']]
    assert real.pth.read_text(encoding='ascii') == pth_line(hook)
    assert sorted(path.name for path in real.packages.iterdir()) == ['packages.pth', PTH_NAME, 'zoo']
    shape, enabled = real.prints(USE)
    assert shape == 'torch.Size([1, 3])'
    assert real.prints(TRANSFORMERS) == ["<class 'zoo.models.carnet.CARNet'>"]

    moved = Environment(real.folder.rename(tmp_path / 'second'))
    known, *said, codes = moved.prints(COMMANDS, '--status', '--enable', '--status', '--disable', '--status')
    assert (known, codes) == ('False', '1 0 0 0 1')
    broken = (
        f"enabled but broken: {moved.pth} is for '{hook}', not for '{moved.packages / 'zoo' / hook.name}'"
    )
    assert said == [f'{broken} (--enable repairs it)', *2 * [f'enabled: {moved.pth}'], *2 * ['disabled']]
    assert not moved.pth.exists()
    moved.folder.rename(real.folder)
    (disabled,) = real.prints(USE)
    assert json.loads(disabled) == json.loads(enabled)


@pytest.fixture
def small(tmp_path: Path) -> Environment:
    """An enabled environment with a `timm` and a `zoo` that print their names when they are executed."""
    made = environment(tmp_path / 'environment')
    made.write('timm/__init__.py', "from timm import models\nprint('timm')\nfinished = True\n")
    for path in ('timm/models.py', 'timm/layers/__init__.py', 'timm/tool.py'):
        made.write(path)
    made.write('zoo/__init__.py', "import timm\nprint('zoo' if timm.finished else 'timm is not ready')\n")
    shutil.copy(PACKAGE / '_timm_hook.py', made.packages / 'zoo')
    made.write(PTH_NAME, pth_line(made.packages / 'zoo' / '_timm_hook.py'))
    return made


MODULES = 'import sys; print(sorted(sys.modules))'


def test_an_interpreter_that_does_not_import_timm_loads_nothing(small: Environment) -> None:
    enabled = small.prints(MODULES)
    small.write(PTH_NAME, '# any .pth file has Python 3.13 load a codec')
    assert enabled == small.prints(MODULES)
    assert "'timm'" not in enabled[0]


FOLLOWED = {
    'import': 'import timm',
    'both': 'import timm, zoo',
    'zoo first': 'import zoo',
    'submodule': 'import timm.layers',
    'from submodule': 'from timm.models import __name__',
    'by name': 'import importlib; importlib.import_module("timm.layers")',
    'after a search': 'from importlib.util import find_spec as f; f("timm"); assert f("timm"); import timm',
    'thread': 'import threading as t; t = t.Thread(target=__import__, args=["timm"]); t.start(); t.join()',
    'lazy': """
import importlib.util as u, sys
spec = u.find_spec('timm')
spec.loader = u.LazyLoader(spec.loader)
timm = sys.modules['timm'] = u.module_from_spec(spec)
spec.loader.exec_module(timm)
assert 'zoo' not in sys.modules and timm.finished
""",
    'by hand': """
import importlib.util as u, sys
spec = u.find_spec('timm')
timm = sys.modules['timm'] = u.module_from_spec(spec)
spec.loader.exec_module(timm)
""",
    'a finder that asks all others': """
import sys
class Asks:
    def find_spec(self, *args):
        for other in sys.meta_path:
            if other is not self and (spec := other.find_spec(*args)):
                return spec
sys.meta_path.insert(PLACE, Asks())
import timm
""",
}


@pytest.mark.parametrize('code', FOLLOWED.values(), ids=FOLLOWED.keys())
def test_zoo_follows_timm_however_that_is_imported(small: Environment, code: str) -> None:
    for place in range(2 if 'PLACE' in code else 1):
        assert small.prints(code.replace('PLACE', str(place)), options='-I -X dev') == ['timm', 'zoo']


SPAWNS = """
import multiprocessing

def imports():
    import timm

if __name__ == '__main__':
    process = multiprocessing.get_context('spawn').Process(target=imports)
    process.start()
    process.join()
    assert process.exitcode == 0
"""


def test_zoo_follows_timm_in_other_programs(small: Environment) -> None:
    assert small.run('-m', 'timm.tool') == (0, 'timm\nzoo\n', '')
    small.write('packages.pth', sysconfig.get_path('purelib'))
    small.write('test_it.py', "def test_it():\n    import timm, sys\n    assert 'zoo' in sys.modules\n")
    options = ('-p', 'no:cacheprovider', '--rootdir', small.packages, '-W', 'error')
    code, out, err = small.run('-m', 'pytest', '-q', *options, small.packages / 'test_it.py')
    assert (code, err) == (0, ''), out
    small.write('spawns.py', SPAWNS)
    assert small.run(small.packages / 'spawns.py') == (0, 'timm\nzoo\n', '')


def test_timm_in_a_zip_file(small: Environment) -> None:
    with zipfile.ZipFile(small.folder / 'all.zip', 'w') as archive:
        for path in ('timm/__init__.py', 'timm/models.py'):
            archive.write(small.packages / path, path)
        archive.writestr('other.py', '')
    shutil.rmtree(small.packages / 'timm')
    small.write('zip.pth', str(small.folder / 'all.zip'))
    code = "import importlib.util as u; u.find_spec('timm'); import other; print('other'); import timm"
    assert small.prints(code) == ['other', 'timm', 'zoo']


def test_looking_for_timm_or_loading_it_again_does_not_import_the_zoo(small: Environment) -> None:
    looking = 'import importlib.util as u, sys; u.find_spec("timm"); print("zoo" in sys.modules)'
    assert small.prints(looking) == ['False']
    again = 'import timm, importlib, sys; del sys.modules["zoo"]; importlib.reload(timm)'
    assert small.prints(again) == ['timm', 'zoo', 'timm']


def test_threads_that_import_timm_and_zoo_at_once(small: Environment) -> None:
    small.write('timm/models.py', 'import time; time.sleep(0.2)')
    for first, second in (('timm', 'zoo'), ('zoo', 'timm')):
        code = f"""
import threading, time
for name in ('{first}', '{second}'):
    threading.Thread(target=__import__, args=[name]).start()
    time.sleep(0.1)
"""
        assert small.prints(code) == ['timm', 'zoo']


def test_two_enabled_files_act_as_one(small: Environment) -> None:
    shutil.copy(small.pth, small.packages / 'another.pth')
    (finders,) = small.prints('import sys; print(*[type(finder).__name__ for finder in sys.meta_path])')
    assert finders.split().count('TimmFinder') == 1
    small.write('zoo/__init__.py', 'raise ImportError("no zoo")')
    assert small.run('-c', 'import timm')[2].count('no zoo') == 1


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        ('import torhc', 'ModuleNotFoundError("No module named \'torhc\'")'),
        ('raise ValueError("taken")', "ValueError('taken')"),
        ('import timm; timm.missing', 'AttributeError('),
        ('class :', 'SyntaxError('),
    ],
)
def test_a_zoo_that_fails_is_one_warning(small: Environment, text: str, said: str) -> None:
    small.write('zoo/__init__.py', text)
    code, out, err = small.run('-c', '\nimport timm\nimport timm.layers\nprint(timm.finished)')
    assert (code, out) == (0, 'timm\nTrue\n')
    assert err.startswith(f'<string>:2: {WARNING}{said}')
    assert err.splitlines()[0].endswith('(`searchzoo zoo autoload --disable` ends this warning)')
    assert err.count('Warning:') == 1
    code, out, err = small.run('-W', 'error', '-c', 'import timm; print(timm.finished)')
    assert (code, out) == (0, 'timm\nTrue\n')
    assert err.startswith(WARNING.partition(' ')[2] + said)
    assert len(err.splitlines()) == 1


def test_another_package_of_that_name_is_left_alone(small: Environment) -> None:
    own = small.folder / 'here' / 'zoo'
    own.mkdir(parents=True)
    own.joinpath('__init__.py').write_text("print('animals')")
    code, out, err = small.run('-c', 'import timm; import zoo')
    assert (code, out) == (0, 'timm\nanimals\n')
    assert f'another package has this name, {own / "__init__.py"}' in err
    assert err.count('Warning:') == 1


def test_a_timm_that_fails_does_so_as_ever(small: Environment) -> None:
    small.write('timm/models.py', "import os; assert 'WORKS' in os.environ, 'broken'")
    code = """
import os
try:
    import timm
except AssertionError as error:
    print(error)
os.environ['WORKS'] = 'now'
import timm
"""
    assert small.prints(code) == ['broken', 'timm', 'zoo']
    shutil.rmtree(small.packages / 'timm')
    code, out, err = small.run('-c', 'import timm')
    assert (code, out) == (1, '')
    assert err.endswith("ModuleNotFoundError: No module named 'timm'\n")
    (small.folder / 'here' / 'timm').mkdir()
    assert small.prints('import timm; print(timm.__file__)') == ['None']


def test_an_uninstalled_package_leaves_an_interpreter_that_says_nothing(small: Environment) -> None:
    checkout = shutil.copytree(small.packages / 'zoo', small.folder / 'checkout' / 'zoo')
    shutil.rmtree(small.packages / 'zoo')
    assert small.prints(MODULES)
    assert small.prints('import timm') == ['timm']
    small.write(PTH_NAME, pth_line(checkout / '_timm_hook.py'))
    assert small.prints('import timm') == ['timm']
    shutil.rmtree(checkout)
    checkout.mkdir()
    assert small.prints('import timm', options='-X dev') == ['timm']


@pytest.mark.parametrize('name', ['ü ß', 'it\'s "so"; #no', 'back\\slash {hook} %s'])
def test_any_path_can_be_named(small: Environment, name: str) -> None:
    folder = (small.packages / 'zoo').rename(small.folder / name)
    shutil.copytree(folder, small.packages / 'zoo')
    small.write(PTH_NAME, pth_line(folder / '_timm_hook.py'))
    for language in ('C', 'C.UTF-8'):
        assert small.run('-c', 'import timm', LC_ALL=language) == (0, 'timm\nzoo\n', '')


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: Patch) -> list[Path]:
    """Stand-ins for this interpreter's own folder and its user's, which is enabled and not made yet."""
    own, user = tmp_path / 'own', tmp_path / 'user' / 'packages'
    own.mkdir()
    monkeypatch.setattr(sysconfig, 'get_path', lambda name: str(own))
    monkeypatch.setattr(site, 'getsitepackages', lambda: [str(own), str(tmp_path / 'below')])
    monkeypatch.setattr(site, 'getusersitepackages', lambda: str(user))
    monkeypatch.setattr(site, 'ENABLE_USER_SITE', True)
    monkeypatch.setattr(sys, 'path', ['', str(PACKAGE.parent), *sys.path])
    return [own, user]


def test_where_it_is_enabled(folders: list[Path], monkeypatch: Patch, capsys: Capture) -> None:
    own, user = folders
    assert main(['zoo', 'autoload', '--enable']) == 0
    assert [path.name for path in own.iterdir()] == [PTH_NAME]
    assert not user.exists()
    shutil.rmtree(own)
    own.write_text('not a folder')  # no one can write into it, not even root
    assert main(['zoo', 'autoload', '--enable']) == 0
    assert (user / PTH_NAME).read_text() == pth_line(PACKAGE / '_timm_hook.py')
    assert main(['zoo', 'autoload', '--status']) == 0
    assert capsys.readouterr().out.splitlines()[1:] == 2 * [f'enabled: {user / PTH_NAME}']
    shutil.rmtree(user)
    monkeypatch.setattr(site, 'ENABLE_USER_SITE', False)
    assert main(['zoo', 'autoload', '--enable']) == 1
    assert capsys.readouterr().err.startswith(
        f'autoload: {own} (File exists) cannot be written to; '
        'install searchzoo in a virtual environment of your own (python -m venv DIR) and enable it there.'
    )
    assert not user.exists()


def test_what_can_be_wrong(folders: list[Path], monkeypatch: Patch, capsys: Capture) -> None:
    pth = folders[0] / PTH_NAME
    pth.write_bytes(b'import \xff')
    assert main(['zoo', 'autoload', '--status']) == 1
    assert 'enabled but broken: ' in capsys.readouterr().out
    pth.unlink()
    pth.mkdir()
    assert main(['zoo', 'autoload', '--disable']) == 1
    assert f'{pth} cannot be removed (' in capsys.readouterr().err
    pth.rmdir()
    others = [folder for folder in sys.path if not Path(folder, 'zoo').exists()]
    monkeypatch.setattr(sys, 'path', [str(PACKAGE.parent), *others])
    assert main(['zoo', 'autoload', '--enable']) == 1
    assert capsys.readouterr().err.startswith(
        f'autoload: {PACKAGE} is found from here only, install searchzoo in {sys.prefix} first.'
    )
    assert not pth.exists()


@pytest.mark.parametrize('options', [[], ['--enable', '--disable'], ['--status', '--enable'], ['on']])
def test_exactly_one_option(folders: list[Path], capsys: Capture, options: list[str]) -> None:
    assert main(['zoo', 'autoload', *options]) == 2
    assert '--enable | --disable | --status' in capsys.readouterr().err
    assert list(folders[0].iterdir()) == []
