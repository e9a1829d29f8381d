"""README and docs: what their code blocks say works, and their tables are those of the entries.

A block of Python or of shell commands (``sh``) is run: those of a page one after the other, in a process and
an empty folder of the page's own. A block with ``title="FILE"`` becomes that file there. A block titled "not
run by the tests: <why>", and commands in a block without a language, are only checked: names exist, and
arguments are those that the commands take.
"""

import argparse
import ast
import builtins
import contextlib
import importlib
import importlib.util
import inspect
import io
import multiprocessing
import os
import re
import shlex
import subprocess
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import metadata
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType

import pytest
import timm
import yaml

import downstream.cli
import search.cli
import zoo.cli
from search.arguments import find_config
from search.config import load_config
from search.spaces import LOADERS
from search.train import find_entry, load_train_config
from zoo import console
from zoo.hub.papers import PAPERS
from zoo.models import FAMILIES

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted(path.relative_to(ROOT) for path in (ROOT / 'docs').rglob('*.md'))
PAGES = [Path('README.md'), Path('CONTRIBUTING.md'), *DOCS]
PARSERS = {'zoo': zoo.cli._parser, 'search': search.cli._parser, 'downstream': downstream.cli._parser}
NOT_RUN = 'not run by the tests: '
FENCE = re.compile(r'^(?P<indent> *)```(?P<info>[^`\n]*)\n(?P<code>.*?)^(?P=indent)```$', re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A fenced code block.

    Attributes:
        page: Of the repository.
        line: Of the opening fence, from 1.
        language: Of the info string, or nothing.
        title: Of the info string, or nothing.
        code: Without the fences.
    """

    page: Path
    line: int
    language: str
    title: str
    code: str

    @property
    def is_run(self) -> bool:
        return self.language in ('python', 'sh') and not self.title


def read_blocks(page: Path) -> list[Block]:
    text = (ROOT / page).read_text(encoding='utf-8')
    blocks = []
    for match in FENCE.finditer(text):
        language = re.match(r'\w*', match['info'])[0]
        title = re.search(r'title="([^"]*)"', match['info'])
        line = text.count('\n', 0, match.start()) + 1
        blocks.append(Block(page, line, language, title[1] if title else '', match['code']))
    return blocks


BLOCKS = {page: read_blocks(page) for page in PAGES}


# ---- blocks that are run


def run_page(page: Path, folder: Path, channel: Connection) -> None:
    """Runs a page's blocks; sends nothing, or what went wrong."""
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    names: dict[str, object] = {'__name__': '__main__'}
    printed = io.StringIO()
    block = BLOCKS[page][0]
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            for block in BLOCKS[page]:
                if block.is_run:
                    run_block(block, names)
                elif block.title and not block.title.startswith(NOT_RUN):
                    (folder / block.title).write_text(block.code)
    except BaseException:
        channel.send(
            f'{page}, block of line {block.line}\n{traceback.format_exc()}\n{printed.getvalue()[-3000:]}'
        )
    else:
        channel.send('')


def run_block(block: Block, names: dict[str, object]) -> None:
    if block.language == 'python':
        exec(compile('\n' * block.line + block.code, str(block.page), 'exec'), names)
        return
    for words in read_commands(block):
        assert words[0] == 'searchzoo', (
            f'{words[0]} is not run by the tests: say so in the title of the block'
        )
        assert console.main(words[1:]) == 0, shlex.join(words)


@pytest.mark.parametrize('page', [p for p in PAGES if any(b.is_run for b in BLOCKS[p])], ids=str)
def test_blocks_run(page: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context('fork')
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=run_page, args=(page, tmp_path, sender))
    process.start()
    sender.close()
    try:
        problem = receiver.recv()
    except EOFError:
        process.join()
        problem = f'{page}: the process ended with exit code {process.exitcode}'
    process.join()
    assert not problem, problem


# ---- blocks that are only checked


def read_commands(block: Block) -> Iterator[list[str]]:
    """The words of each command, without what a reader may leave out: [--option]."""
    for line in block.code.replace('\\\n', ' ').splitlines():
        words = shlex.split(line.replace('[', ' ').replace(']', ' ') if '[-' in line else line, comments=True)
        while words and re.fullmatch(r'[A-Z_]+=\S*', words[0]):
            del words[0]
        if '>' in words:
            words = words[: words.index('>')]
        if words:
            yield words


def check_command(words: list[str]) -> None:
    """Fails unless a command exists and takes these arguments."""
    program, *rest = words
    if program in ('accelerate', 'torchrun', 'python') and '-m' in rest:
        program, *rest = 'searchzoo', *rest[rest.index('-m') + 1 :]
    if program == 'searchzoo':
        check_arguments(*rest)
    elif program == 'make':
        targets = re.findall(r'^([a-z-]+):', (ROOT / 'Makefile').read_text(), re.M)
        assert {word for word in rest if '=' not in word} <= set(targets), f'make has {targets}'
    elif program == 'pip':
        extras = metadata('searchzoo').get_all('Provides-Extra', [])
        asked = [extra for word in rest for extra in re.findall(r'(?:searchzoo|^\.)\[([\w,]+)\]', word)]
        assert set(','.join(asked).split(',')) <= {'', *extras}
    elif program == 'python':
        assert (ROOT / rest[0]).is_file() or rest[0] == 'tools/train.py'  # OpenMMLab's
    else:
        raise AssertionError(f'{program}: a command that this test does not know')


def check_arguments(package: str, *words: str) -> None:
    """Fails unless argparse takes the words, and a config that exists the values that change it."""
    if words in (('--help',), ('-h',)):
        return
    parser = PARSERS[package]()
    args, more = parser.parse_known_args(words)
    if '--help' in words:
        return
    if package != 'search':
        assert not more, f'unknown arguments {more}'
        return
    overrides = [*getattr(args, 'overrides', []), *more]
    assert not overrides or hasattr(args, 'overrides'), f'unknown arguments {more}'
    assert all(re.match(r'[a-z_.]+=', word) for word in overrides), f'unknown arguments {overrides}'
    name = getattr(args, 'config', 'CONFIG')
    own = not (ROOT / name).exists() and not name.startswith(('search/', 'train/', 'configs/'))
    if name.isupper() or own:
        return
    if hasattr(args, 'entry'):
        if args.entry in zoo.list_entries():
            load_train_config(find_config(name), find_entry(args.entry), overrides)
    else:
        load_config(find_config(name), overrides)


@pytest.mark.parametrize('page', PAGES, ids=str)
def test_commands_exist(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for block in BLOCKS[page]:
        if block.language not in ('', 'sh'):
            continue
        for words in read_commands(block):
            try:
                check_command(words)
            except (Exception, SystemExit) as error:
                pytest.fail(f'{page}, block of line {block.line}: {shlex.join(words)}: {error}')


def check_python(code: str) -> None:
    """Fails unless the code compiles, its imports and their names exist, and functions have its keywords."""
    tree = ast.parse(code)
    names: dict[str, object] = dict(vars(builtins))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            exec(compile(ast.Module([node], []), 'import', 'exec'), names)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or (function := find_name(node.func, names)) is None:
            continue
        parameters = inspect.signature(function).parameters
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values()):
            unknown = {keyword.arg for keyword in node.keywords} - {*parameters, None}
            assert not unknown, f'{ast.unparse(node.func)} has no {unknown}'
        first = node.args[0] if node.args else None
        if function is timm.create_model and isinstance(first, ast.Constant) and ':' not in first.value:
            assert timm.is_model(first.value), f'{first.value}: there is no such model'


def find_name(node: ast.expr, names: dict[str, object]) -> object | None:
    """What a dotted name of an imported module is, which must have it; None for anything else."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = find_name(node.value, names)
        if isinstance(owner, ModuleType):
            assert hasattr(owner, node.attr), f'{owner.__name__} has no {node.attr}'
            return getattr(owner, node.attr)
    return None


@pytest.mark.parametrize(
    'block',
    [
        b
        for blocks in BLOCKS.values()
        for b in blocks
        if b.language == 'python' and b.title.startswith(NOT_RUN)
    ],
    ids=lambda block: f'{block.page}:{block.line}',
)
def test_python_that_is_not_run_names_what_exists(block: Block) -> None:
    check_python(block.code)


def test_checks_find_what_is_wrong() -> None:
    for words in (
        'searchzoo zoo exprot s3_tiny',
        'searchzoo zoo export s3_tiny --formt onnx --out a.onnx',
        'searchzoo search run search/s3_digits.yaml --out a supernet.recipe.epoch=3',
        'searchzoo search run search/s3_digit.yaml --out a',
        'make coffee',
        "pip install 'searchzoo[sugar]'",
        'python examples/absent.py',
        'rm -rf a',
    ):
        with pytest.raises((Exception, SystemExit)):
            check_command(shlex.split(words))
    for code in (
        'import zoo\nzoo.registre("a")',
        'import timm\nimport zoo\ntimm.create_model("s3_tinny")',
        'from zoo import unregister',
        'import zoo\nzoo.register(name="a")',
    ):
        with pytest.raises((AssertionError, ImportError)):
            check_python(code)


# ---- what pages hold, and the site


def load_figures() -> ModuleType:
    spec = importlib.util.spec_from_file_location('figures', ROOT / 'docs' / 'figures.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize('family', FAMILIES)
def test_figures_are_those_of_the_entries(family: str) -> None:
    text = (ROOT / 'docs' / 'families' / f'{family}.md').read_text(encoding='utf-8')
    assert text == load_figures().render(family, text), 'python docs/figures.py'
    assert set(re.findall(r'^\| `(\w+)`', text, re.M)) == {
        name for name in zoo.list_entries() if zoo.load_entry(name).family == family
    }


def test_picture_is_that_of_the_entries() -> None:
    figures = load_figures()
    assert figures.PICTURE.read_bytes() == figures.draw_families(), 'python docs/figures.py'
    assert {zoo.load_entry(name).family for name in figures.SHOWN} == set(FAMILIES)


def test_the_readme_is_short() -> None:
    assert len((ROOT / 'README.md').read_text(encoding='utf-8').splitlines()) < 200


def test_every_family_has_a_page_and_a_space() -> None:
    pages = {path.stem for path in (ROOT / 'docs' / 'families').glob('*.md')}
    assert pages == set(FAMILIES) == set(LOADERS)


@pytest.mark.parametrize('page', PAGES, ids=str)
def test_files_that_are_named_exist(page: Path) -> None:
    text = FENCE.sub('', (ROOT / page).read_text(encoding='utf-8'))
    folders = r'(?:zoo|search|train|downstream|configs|tests|benchmarks|docs|examples|scripts)'
    named = set(re.findall(rf'`({folders}/[\w./-]+\.\w+)`', text))
    own = {'zoo/models/plain.py', 'search/spaces/plain.py', 'zoo/entries/plain_digits.json'}
    own |= {'tests/zoo/models/test_plain.py', 'tests/search/test_spaces_plain.py'}
    assert {
        name for name in named - own if not any((ROOT / top / name).exists() for top in ('', 'configs'))
    } == set()


def test_the_site_builds_without_warnings_and_asks_no_other_host(tmp_path: Path) -> None:
    command = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', str(tmp_path / 'site')]
    env = os.environ | {'NO_MKDOCS_2_WARNING': '1'}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert 'WARNING' not in done.stderr
    pages = list((tmp_path / 'site').rglob('*.html'))
    assert len(pages) == len(DOCS) + 1  # and 404.html
    for page in pages:
        for tag in re.findall(
            r'<(?:script|link|img|iframe|source)\b[^>]*>', page.read_text(encoding='utf-8')
        ):
            assert not re.search(r'(?:src|href)="?(?:https?:)?//', tag), f'{page.name}: {tag}'
    assert not (tmp_path / 'site' / 'figures.py').exists()


def test_errors_of_every_command_name_a_place_that_exists(tmp_path: Path) -> None:
    commands = {
        f'{package} {name}'
        for package, make in PARSERS.items()
        for action in make()._actions
        if isinstance(action, argparse._SubParsersAction)
        for name in action.choices
    }
    assert set(console.PAGES) == commands
    named = {*console.PAGES.values(), 'faq.md#pretrainedtrue-says-there-are-no-weights'}
    for place in named:
        page, _, anchor = place.partition('#')
        text = FENCE.sub('', (ROOT / 'docs' / page).read_text(encoding='utf-8'))
        titles = re.findall(r'^#+ (.*)$', text, re.M)
        assert not anchor or anchor in {
            re.sub(r'[\s-]+', '-', re.sub(r'[^\w\s-]', '', t).lower()) for t in titles
        }


# ---- what stands beside the README


def test_citation_is_valid_and_up_to_date() -> None:
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text(encoding='utf-8'))
    assert {'cff-version', 'message', 'title', 'authors'} <= set(citation)  # what version 1.2.0 requires
    assert citation['cff-version'] == '1.2.0'
    assert citation['version'] == zoo.__version__
    papers = {paper.arxiv: paper for papers in PAPERS.values() for paper in papers}
    references = {
        entry['identifiers'][0]['value'].removeprefix('arXiv:'): entry for entry in citation['references']
    }
    assert set(references) == set(papers)
    for arxiv, entry in references.items():
        assert {'type', 'title', 'authors'} <= set(entry)
        names = tuple(f'{author["given-names"]} {author["family-names"]}' for author in entry['authors'])
        found = (entry['title'], names, entry['year'])
        assert found == (papers[arxiv].title, papers[arxiv].authors, papers[arxiv].year)


def test_changelog_and_notice_name_what_they_have_to() -> None:
    changelog = (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8')
    assert re.search(rf'^## \[.*{re.escape(zoo.__version__)}', changelog, re.M)
    notice = (ROOT / 'NOTICE').read_text(encoding='utf-8')
    assert all(paper.arxiv in notice for papers in PAPERS.values() for paper in papers)
