"""Reports: which figures a run has, that they show what the run holds, and pages that need nothing else."""

import base64
import json
import os
import random
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
from interruptions import Stop

from search.cli import main as search_main
from search.config import load_config
from search.evidence import pareto_front
from search.figures.candidates import Searched, best_so_far
from search.figures.trainings import group_losses, join_phases
from search.methods import METHODS
from search.report import write_report
from search.report_figures import list_figures
from search.runfiles import RunFiles
from zoo.console import main
from zoo.errors import ZooError

HERE = Path(__file__).parent
SHORT = {
    'tiny': ('supernet.recipe.epochs=1', 'retrain.epochs=1'),
    'tiny_glit': ('search.evaluations=4', 'top=1'),
    'tiny_s3_space': ('supernet.recipe.epochs=1', 'compare=null'),
    'tiny_carnet': ('search.seeds=1',),
    'tiny_uninet': ('search.evaluations=4', 'top=1'),
}
FIGURES = {
    'tiny': ['architecture', 'comparison', 'front', 'history', 'losses', 'times'],
    'tiny_glit': [
        'architecture', 'comparison', 'level1_front', 'level1_history', 'level2_front', 'level2_history',
        'losses', 'times',
    ],
    'tiny_s3_space': [
        'architecture', 'front', 'history', 'space_evolution', 'losses', 'times',
    ],
    'tiny_carnet': ['architecture', 'alpha_seed1', 'losses', 'times'],
    'tiny_uninet': ['architecture', 'front', 'history', 'losses', 'times'],
}  # fmt: skip


@pytest.fixture(scope='module')
def make_run(tmp_path_factory) -> Callable[[str], Path]:
    """Runs of each method, made once."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            config = load_config(HERE / f'{name}.yaml', SHORT[name])
            METHODS[config.method](config, made[name], quiet=True)
        return made[name]

    return make


@pytest.fixture
def copy_run(make_run, tmp_path) -> Callable[[str], Path]:
    """A copy of a run that a test may change."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(make_run(name), tmp_path / name))

    return copy


class Page(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ''
        self.feed(path.read_text(encoding='utf-8'))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.text += ' '

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def images(self) -> list[bytes]:
        sources = [attrs['src'] or '' for tag, attrs in self.tags if tag == 'img']
        return [base64.b64decode(source.removeprefix('data:image/png;base64,')) for source in sources]


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = [path for path in sorted(folder.rglob('*')) if path.is_file() and 'report' not in path.parts]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def edit(path: Path, change: Callable[[Any], None]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


@pytest.mark.parametrize('name', FIGURES)
def test_figures_of_every_method(make_run, tmp_path, name):
    folder = make_run(name)
    before = snapshot(folder)
    page = Page(write_report(folder, tmp_path))
    assert snapshot(folder) == before
    assert sorted(path.stem for path in tmp_path.glob('*.png')) == sorted(FIGURES[name])
    files = [(tmp_path / f'{figure}.png').read_bytes() for figure in FIGURES[name]]
    assert page.images == files
    assert all(data.startswith(b'\x89PNG') and len(data) > 5000 for data in files)
    entry = json.loads((folder / f'{load_config(HERE / f"{name}.yaml").name}.json').read_text())
    assert f'timm.create_model({entry["name"]!r}, pretrained=True)' in page.text
    assert f'{entry["measured"]["macs"]:,} for an image of' in page.text


def test_same_bytes_every_time_and_everywhere(make_run, copy_run, tmp_path):
    pages = [write_report(make_run('tiny'), tmp_path / 'page'), write_report(copy_run('tiny'))]
    first, second = ({path.name: path.read_bytes() for path in page.parent.iterdir()} for page in pages)
    assert first == second


def test_page_needs_nothing_else(make_run, tmp_path):
    path = write_report(make_run('tiny'), tmp_path)
    source = path.read_text(encoding='utf-8')
    assert not re.search(r'https?:|//[a-z]|url\(|@import', re.sub(r'base64,[^"]*', '', source))
    tags = {tag for tag, _ in Page(path).tags}
    assert not tags & {'script', 'link', 'iframe', 'object', 'video', 'audio'}
    assert 'prefers-color-scheme: dark' in source
    assert 'width=device-width' in source


def test_numbers_of_the_page(make_run, tmp_path):
    """Mean and spread of the accuracies, from the files of the comparison by hand."""
    folder = make_run('tiny')
    text = Page(write_report(folder, tmp_path)).text
    entry = json.loads((folder / 'tiny.json').read_text())
    first = entry['weights']['digits']['metrics']['val_top1']
    second = json.loads((folder / 'comparison' / 'again1.json').read_text())['val_top1']
    mean = (first + second) / 2
    std = abs(first - second) / 2**0.5
    assert f'{mean:.2f} ± {std:.2f} % (n = 2)' in text
    assert '10 networks evaluated' in text
    assert 'negative loss on val' in text
    assert '2 random networks of nearly equal cost' in text


def test_what_was_not_measured_says_so(copy_run):
    folder = copy_run('tiny')
    text = re.sub(r'\s+', ' ', Page(write_report(folder)).text)
    assert ' predictor not measured ' in text
    assert ' rank correlation not measured; ' in text
    assert ' evaluations 10 candidates, 10 different networks' in text
    edit(folder / 'result.json', lambda data: data.update(time=None))
    write_report(folder, folder / 'report' / 'b')
    assert 'times' not in {path.stem for path in (folder / 'report' / 'b').iterdir()}
    edit(folder / 'result.json', lambda data: data.pop('space'))
    assert 'result.json is not as this version writes it' in Page(write_report(folder)).text
    (folder / 'result.json').unlink()
    assert 'This run has no result.json' in Page(write_report(folder)).text


def test_correlation_is_shown_where_it_was_measured(copy_run):
    folder = copy_run('tiny')
    assert 'correlation' not in [figure.name for figure in list_figures(RunFiles.open(folder))]
    points = [{'genotype': [i], 'supernet': i / 7, 'alone': i * i} for i in range(9)]
    found = {
        'tau': 0.5125, 'interval': [0.25, 0.75], 'n': 9, 'objective': 'loss', 'points': points,
        'tau_top_third': 0.125, 'interval_top_third': [-0.5, 0.5], 'n_top_third': 3,
    }  # fmt: skip
    (folder / 'correlation.json').write_text(json.dumps(found))
    (shown,) = [figure for figure in list_figures(RunFiles.open(folder)) if figure.name == 'correlation']
    assert shown.caption.startswith('9 networks')
    assert 'Negative loss on val, in both cases' in shown.caption
    for text in ('tau 0.51, 95 % interval 0.25 to 0.75;', '(n = 3): 0.12, 95 % interval -0.50 to 0.50.'):
        assert text in shown.caption


def test_hostile_names_are_escaped(copy_run):
    folder, attack = copy_run('tiny'), '<script>alert("x")</script>&'
    edit(folder / 'config.json', lambda data: data['config'].update(data={'name': attack}))
    edit(folder / 'tiny.json', lambda data: data['provenance'].update(note=attack))
    page = write_report(folder)
    assert '<script' not in page.read_text(encoding='utf-8')
    assert Page(page).text.count(attack) == 1
    assert json.dumps(attack) in Page(page).text


@pytest.mark.parametrize('point', ['supernet: begin', 'search: candidate', 'weights: begin', 'again1: begin'])
def test_unfinished_run_is_reported_as_far_as_it_is(tmp_path, point):
    def fault(reached: str) -> None:
        if reached == point:
            raise Stop

    config = load_config(HERE / 'tiny.yaml', ['supernet.recipe.epochs=1', 'search.baseline=false'])
    with pytest.raises(Stop):
        METHODS[config.method](config, tmp_path / 'run', fault=fault, quiet=True)
    names = [figure.name for figure in list_figures(RunFiles.open(tmp_path / 'run'))]
    assert (
        names
        == {
            'supernet: begin': [],
            'search: candidate': ['front', 'history', 'losses'],
            'weights: begin': ['front', 'history', 'losses'],
            'again1: begin': ['architecture', 'front', 'history', 'losses'],
        }[point]
    )
    text = Page(write_report(tmp_path / 'run')).text
    assert ('The search is not finished' in text) == (point != 'again1: begin')
    assert ('Nothing has been logged yet' in text) == (point == 'supernet: begin')


def test_damaged_files_are_left_out_and_named(copy_run):
    folder = copy_run('tiny')
    with open(folder / 'events.jsonl', 'ab') as file:
        file.write(b'[' * 3000 + b'\n{"phase": "again1", "st')
    (folder / 'comparison' / 'random2.json').write_text('{' + '"a": [' * 3000)
    text = Page(write_report(folder)).text
    assert 'events.jsonl: 2 lines are damaged and left out.' in text
    assert 'comparison/random2.json is damaged and left out.' in text
    assert '1 random network of nearly equal cost' in text
    (folder / 'tiny.json').write_text('{}')
    assert 'tiny.json is no valid entry and left out.' in Page(write_report(folder)).text


@pytest.mark.parametrize(
    ('name', 'change', 'note'),
    [
        ('search.json', lambda data: data['candidates'][1].update(macs=None), 'Figures (searches)'),
        ('search.json', lambda data: data['candidates'][1].update(score='a'), 'Figures (searches)'),
        ('search.json', lambda data: data.update(candidates=3), 'Figures (searches)'),
        ('comparison/random1.json', lambda data: data.update(val_top1=[]), 'What was found'),
        ('correlation.json', lambda data: data.update(points=3), 'Figures (correlation)'),
        ('result.json', lambda data: data['time'].update(phases={'a': 1}), 'Figures (times)'),
        ('config.json', lambda data: data['config']['search'].update(limits=[1]), 'Figures (searches)'),
    ],
    ids=range(7),
)
def test_data_of_another_kind_are_left_out(copy_run, name, change, note):
    folder = copy_run('tiny')
    points = [{'genotype': [i], 'supernet': i / 7, 'alone': i * i} for i in range(9)]
    found = {'tau': 0.5, 'interval': [0.25, 0.75], 'n': 9, 'objective': 'loss', 'points': points}
    (folder / 'correlation.json').write_text(json.dumps(found))
    edit(folder / name, change)
    assert (
        f'{note} {"are" if "Fig" in note else "is"} left out: a file is not'
        in Page(write_report(folder)).text
    )


@pytest.mark.parametrize(
    'change',
    [
        lambda data: data.update(versions=None),
        lambda data: data['config'].update(search=None),
        lambda data: data['config'].update(name='../tiny'),
        lambda data: data['config'].update(name='x' * 300),
        lambda data: data['config'].update(name=['tiny']),
    ],
    ids=range(5),
)
def test_a_damaged_config_is_refused(copy_run, change):
    folder = copy_run('tiny')
    edit(folder / 'config.json', change)
    with pytest.raises(ZooError, match=r'config\.json: is damaged'):
        write_report(folder)


def test_folders_that_are_no_runs(tmp_path, copy_run, capsys):
    assert main(['search', 'report', str(tmp_path / 'none')]) == 1
    assert capsys.readouterr().err.startswith(f'{tmp_path / "none"}: found no config.json; ')
    run = copy_run('tiny')
    assert main(['search', 'report', str(tmp_path)]) == 1
    assert 'but runs in tiny;' in capsys.readouterr().err
    edit(run / 'config.json', lambda data: data['config'].pop('method'))
    assert main(['search', 'report', str(run)]) == 1
    assert 'found a run that is no search' in capsys.readouterr().err
    (run / 'config.json').write_text('{"config": ')
    with pytest.raises(ZooError, match=r'config\.json: is damaged'):
        RunFiles.open(run)
    assert not list(tmp_path.rglob('report'))


def test_command(make_run, tmp_path, capsys):
    search_main(['report', str(make_run('tiny')), '--out', str(tmp_path / 'deep' / 'page')])
    page = tmp_path / 'deep' / 'page' / 'index.html'
    assert capsys.readouterr().out == f'{page}: written, with its figures beside it.\n'
    assert page.exists()
    with pytest.raises(SystemExit):
        search_main(['report', str(make_run('tiny')), 'seed=1'])


def test_a_folder_that_cannot_be_written_is_enough(make_run, tmp_path):
    """A report elsewhere needs no right to write in the run's folder, and no lock."""
    folder = tmp_path / 'run'
    shutil.copytree(make_run('tiny'), folder)
    for path in [folder, *folder.rglob('*')]:
        os.chmod(path, 0o555 if path.is_dir() else 0o444)
    try:
        assert write_report(folder, tmp_path / 'out').exists()
    finally:
        for path in [folder, *folder.rglob('*')]:
            os.chmod(path, 0o755)


def test_pareto_front_is_what_no_other_beats():
    rng = random.Random(0)
    for _ in range(100):
        records = [{'macs': rng.randrange(8), 'score': rng.randrange(8)} for _ in range(rng.randrange(1, 12))]
        beaten = [
            any(
                (b['macs'] <= a['macs'] and b['score'] > a['score'])
                or (b['macs'] < a['macs'] and b['score'] >= a['score'])
                for b in records
            )
            for a in records
        ]
        kept = {
            (a['macs'], a['score']) for a, is_beaten in zip(records, beaten, strict=True) if not is_beaten
        }
        assert [(r['macs'], r['score']) for r in pareto_front(records, itemgetter('score'))] == sorted(kept)


def test_best_so_far_leaves_out_bounds_and_failures():
    scores = [(None, False), (1, False), (5, True), (0, False), (2, False)]
    records = [{'score': score, **({'images': 3} if given_up else {})} for score, given_up in scores]
    assert best_so_far(records) == [(2, 1), (3, 1), (4, 1), (5, 2)]


def test_metrics_against_macs():
    def searched(**metrics: float) -> Searched:
        return Searched([{'macs': 1, 'score': 2.0, **metrics}], [], None, True, 'score: x', None)

    assert list(searched().metrics) == ['score']
    assert list(searched(top1=2.0).metrics) == ['score']
    assert list(searched(top1=3.0).metrics) == ['score', 'top1']
    assert list(searched(accuracy=3.0, top1=3.0).metrics) == ['accuracy', 'score']


def test_losses_are_grouped_by_kind_of_training():
    events = [
        {'phase': 'level1/supernet', 'step': 1, 'epoch': 0.5, 'loss': 2.0},
        {'phase': 'level1/supernet', 'step': 2, 'epoch': 1.0, 'loss': 1.0},
        {'phase': 'level1/search', 'step': 1, 'loss': 0.3, 'score': -0.3, 'macs': 1},
        {'phase': 'level1/top1', 'step': 1, 'epoch': 1.0, 'loss': 0.9},
        {'phase': 'seed2/target', 'step': 1, 'epoch': 1.0, 'loss': 0.8, 'loss_alpha': 0.7},
        {'phase': 'random3', 'step': 1, 'epoch': 1.0, 'loss': 0.6},
    ]
    assert group_losses(events) == {
        'supernets': {'level1/supernet': [(0.5, 2.0), (1.0, 1.0)]},
        'what was found, and its rivals': {'level1/top1': [(1.0, 0.9)]},
        'search on the target task': {'seed2/target': [(1.0, 0.8)], 'seed2/target (alpha)': [(1.0, 0.7)]},
        'random networks': {'random3': [(1.0, 0.6)]},
    }


def test_phases_of_a_search_by_gradients_are_joined():
    events = [{'phase': phase, 'step': step} for phase, step in (('a', 25), ('a', 30), ('b', 25), ('b', 40))]
    assert join_phases(events) == ([25, 30, 55, 70], [30])
