"""The benchmarks of speed: tiny runs of each script, and ratios of times that are known."""

import importlib
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

FOLDER = Path(__file__).resolve().parents[1] / 'benchmarks'
NAMES = (
    *('timing', 'rivals', 'inference', 'training', 'growth_picture', 'growth', 'pointwise', 'operators'),
    'summary',
)


@pytest.fixture(scope='module')
def scripts() -> Iterator[SimpleNamespace]:
    """The modules, which import each other as scripts of one folder do."""
    before = {name: sys.modules.pop(name) for name in NAMES if name in sys.modules}
    sys.path.insert(0, str(FOLDER))
    try:
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in NAMES})
    finally:
        sys.path.remove(str(FOLDER))
        for name in NAMES:
            del sys.modules[name]
        sys.modules.update(before)


def read_tables(text: str) -> list[list[dict[str, str]]]:
    """The rows of each Markdown table, by their columns; all have as many cells as the head."""
    tables: list[list[dict[str, str]]] = []
    head: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip('|').split('|')] if line.startswith('|') else []
        if not cells:
            head = []
        elif not head:
            head = cells
            tables.append([])
        elif set(line) - set('|-'):
            tables[-1].append(dict(zip(head, cells, strict=True)))
    return tables


def result(times: dict[str, dict[str, list[float]]], macs: dict[str, int]) -> dict[str, object]:
    """What a script would have found of a TrioNet with batches of 4."""
    networks = {
        name: {
            'size': [3, 224, 224],
            'macs': macs[name],
            'params': 1,
            'modes': {mode: {'ms': ms, 'held': 10**6, 'peak': 10**6} for mode, ms in modes.items()},
        }
        for name, modes in times.items()
    }
    return {'name': next(iter(times)), 'family': 'trionet', 'batch': 4, 'networks': networks}


def test_ratios_are_of_the_same_round(scripts: SimpleNamespace) -> None:
    """Rounds in which the machine was slow slow both sides: the quotients are 3, 2 and 2.5 all the same."""
    found = scripts.timing.ratio([1.0, 10.0, 4.0], [3.0, 20.0, 10.0])
    assert found == (2.5, 2.25, 2.75)
    assert scripts.timing.ratio([1.0, 10.0, 4.0], [3.0, 20.0, 10.0], 0.5) == (1.25, 1.125, 1.375)
    assert scripts.timing.ratio([2.0], [3.0]) == (1.5, 1.5, 1.5)
    with pytest.raises(ValueError, match='zip'):
        scripts.timing.ratio([1.0, 1.0], [1.0])


def test_tables_of_known_times(scripts: SimpleNamespace) -> None:
    """Ours takes 100 ms for 4 images of 1 GMAC, the rival 200 ms for 4 of 4 GMACs."""
    found = result(
        {
            'ours': {'eager': [100.0] * 3, 'bf16': [50.0] * 3, 'compile': [125.0] * 3},
            'resnet50': {'eager': [200.0] * 3, 'bf16': [100.0] * 3, 'compile': [200.0] * 3},
        },
        {'ours': 10**9, 'resnet50': 4 * 10**9},
    )
    alone, pairs = read_tables(
        '\n'.join(scripts.rivals.of_networks([found]) + scripts.rivals.of_pairs([found]))
    )
    assert (alone[0]['images/s'], alone[0]['GMAC/s'], alone[3]['GMAC/s']) == ('40.0', '40.0', '80.0')
    assert [row['times as fast as eager'] for row in alone[:3]] == [
        '',
        '2.00 (2.00 to 2.00)',
        '0.80 (0.80 to 0.80)',
    ]
    assert pairs[0]['times as fast'] == '2.00 (2.00 to 2.00)'
    assert pairs[0]['per GMAC'] == '0.50 (0.50 to 0.50)'
    aims = {row['aim']: row for row in read_tables('\n'.join(scripts.inference.of_targets([found])))[0]}
    assert aims['0.8 x resnet50 per GMAC'] | {'what': '', 'batch': ''} == {
        'what': '',
        'batch': '',
        'aim': '0.8 x resnet50 per GMAC',
        'found': '0.50 (0.50 to 0.50)',
        '': 'missed',
    }
    assert aims['bf16 gains'][''] == 'met'
    assert aims['compile gains'][''] == 'missed'


@pytest.mark.parametrize(
    ('spread', 'verdict'),
    [
        ((1.2, 1.16, 1.3), 'met'),
        ((1.2, 1.1, 1.3), 'met, within the spread'),
        ((1.1, 1.0, 1.2), 'missed, within the spread'),
        ((1.1, 1.0, 1.14), 'missed'),
    ],
)
def test_verdict(scripts: SimpleNamespace, spread: tuple[float, float, float], verdict: str) -> None:
    assert scripts.inference.judge(scripts.timing.Spread(*spread), 1.15) == verdict


@pytest.mark.parametrize('order', [1.5, 2.0])
def test_terms_of_macs(scripts: SimpleNamespace, order: float) -> None:
    points = [{'value': s, 'macs': round(5 * s**2 + 0.25 * s ** (2 * order))} for s in (64, 128, 256)]
    found = scripts.growth.fit(points, order)
    assert found['terms'] == pytest.approx([5, 0.25], rel=1e-3)
    assert found['error'] < 1e-5


@pytest.mark.parametrize('name', ['carnet', 'glit', 's3', 'trionet', 'uninet'])
def test_order_of_a_family(scripts: SimpleNamespace, name: str) -> None:
    """Two terms meet the counted MACs of the family's network, but for windows that do not fill the map."""
    from zoo.profile import build_meta, profile
    from zoo.registry import load_entry

    entry = load_entry(next(n for n in scripts.growth.NETWORKS if n.startswith(name)))
    sides = (448, 896, 1792) if name == 's3' else (256, 512, 1024)
    points = [
        {'value': side, 'macs': profile(build_meta(entry, (3, side, side)), (3, side, side)).macs}
        for side in sides
    ]
    assert scripts.growth.fit(points, scripts.growth.ORDERS[name][0])['error'] < 0.01


@pytest.mark.parametrize(('script', 'entry'), [('inference', 'glit_digits'), ('training', 'uninet_digits')])
def test_comparison_with_timm(
    scripts: SimpleNamespace, tmp_path: Path, script: str, entry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts.timing, 'TURN', 1e-6)
    files = {'json': tmp_path / 'new' / 'found.json', 'markdown': tmp_path / 'new' / 'found.md'}
    arguments = ['--models', entry[:-1] + '*', '--modes', 'eager', 'channels_last+bf16', '--batch-sizes', '2']
    arguments += ['--repeats', '2', '--json', str(files['json']), '--markdown', str(files['markdown'])]
    module: ModuleType = getattr(scripts, script)
    module.main(arguments)

    (found,) = json.loads(files['json'].read_text())['results']
    assert found['name'] == entry
    assert len(found['networks']) == 2
    for network in found['networks'].values():
        for of_mode in network['modes'].values():
            assert len(of_mode['ms']) == 2
            assert min(of_mode['ms']) > 0
            assert 0 < of_mode['held'] < 10**8
            assert 0 <= of_mode['peak'] < 10**8
    alone, pairs, *_ = read_tables(files['markdown'].read_text())
    assert [row['mode'] for row in alone] == ['eager', 'channels_last+bf16'] * 2
    assert {row['network'] for row in pairs} == {entry}
    assert all(math.isfinite(float(row['times the memory'])) for row in pairs)


def test_growth(scripts: SimpleNamespace, tmp_path: Path) -> None:
    """Of two sides the second takes too long; the picture and the files are written all the same."""
    arguments = ['--parts', 'size', 'batch', '--models', 's3_digits', '--sides', '32', '64', '--seconds', '0']
    arguments += ['--batch-sizes', '1', '--repeats', '2']
    for option in ('json', 'markdown', 'png'):
        arguments += [f'--{option}', str(tmp_path / f'growth.{option}')]
    scripts.growth.main(arguments)

    found = json.loads((tmp_path / 'growth.json').read_text())
    first, second = found['size']['s3_digits']['points']
    assert (first['value'], len(first['ms'])) == (32, 2)
    assert 'ms' not in second
    assert '--seconds' in second['left_out']
    sizes, batches = read_tables((tmp_path / 'growth.markdown').read_text())
    assert [row['side'] for row in sizes] == ['32', '64']
    assert [row['batch'] for row in batches] == ['1']
    assert (tmp_path / 'growth.png').read_bytes().startswith(b'\x89PNG')


def test_mistakes_are_explained(scripts: SimpleNamespace, tmp_path: Path) -> None:
    for arguments, text in (
        (['--models', 's3_tinny'], "No entry matches 's3_tinny' (did you mean s3_tiny"),
        (['--models', 's3_digits', '--modes', 'eagre'], "--modes: found 'eagre'"),
    ):
        with pytest.raises(SystemExit) as stop:
            scripts.training.main(
                [*arguments, '--json', str(tmp_path / 'a'), '--markdown', str(tmp_path / 'b')]
            )
        assert text in str(stop.value)
    assert not any(tmp_path.iterdir())


def test_pages_have_what_was_measured(scripts: SimpleNamespace) -> None:
    for page in scripts.summary.TABLES:
        text = (FOLDER.parent / 'docs' / page).read_text(encoding='utf-8')
        assert text == scripts.summary.render(page, text), 'python benchmarks/summary.py'


def test_pointwise_layers(scripts: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each product that oneDNN computes has a row."""
    monkeypatch.setattr(scripts.timing, 'TURN', 1e-3)
    arguments = ['--models', 'glit_digits', 'trionet_digits', '--batch-sizes', '8', '--repeats', '2']
    scripts.pointwise.main(
        [*arguments, '--json', str(tmp_path / 'a.json'), '--markdown', str(tmp_path / 'a.md')]
    )
    networks, *products = read_tables((tmp_path / 'a.md').read_text())
    assert [row['network'] for row in networks] == ['glit_digits', 'trionet_digits']
    found = json.loads((tmp_path / 'a.json').read_text())['results']
    assert sum(len(result['products']) for result in found) == sum(map(len, products)) > 0
    assert all(row['batch'] == '8' for table in products for row in table)


@pytest.mark.parametrize(
    ('name', 'kind'),
    [
        ('mkldnn::_linear_pointwise', 'products'),
        ('aten::linear', 'products'),
        ('aten::scaled_dot_product_attention', 'attention'),
        ('searchzoo::local_attention', 'attention'),
        ('aten::conv2d', 'convolutions'),
        ('aten::batch_norm', 'norms'),
        ('aten::hardsigmoid_', 'activations'),
        ('aten::max_pool2d', 'pooling'),
        ('aten::contiguous', 'copies'),
        ('aten::add', 'rest'),
    ],
)
def test_kinds_of_operators(scripts: SimpleNamespace, name: str, kind: str) -> None:
    assert scripts.operators.kind_of(name) == kind


def test_time_by_operators(scripts: SimpleNamespace, tmp_path: Path) -> None:
    arguments = ['--models', 'uninet_digits', '--batch-sizes', '2', '--repeats', '2']
    files = {kind: tmp_path / f'operators.{kind}' for kind in ('json', 'markdown')}
    scripts.operators.main([*arguments, *(f'--{kind}={path}' for kind, path in files.items())])
    [result] = json.loads(files['json'].read_text())['results']
    assert len(result['ms']) == 2
    assert min(result['inside'][kind] for kind in ('products', 'convolutions', 'norms', 'activations')) > 0
    [[row]] = read_tables(files['markdown'].read_text())
    percents = [int(row[column]) for column in (*result['inside'], 'outside')]
    assert sum(percents) >= 100 - len(percents)
