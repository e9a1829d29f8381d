"""A small space trained to a table: what stands in it, where it is interrupted, what it is good for."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from interruptions import Recorder, Stop

from search.config import load_config
from search.correlation import correlate
from search.methods import METHODS
from search.problem import Problem
from search.run import Unrecorded
from search.seeding import derive_seed
from search.table import read_header, read_rows
from search.tabulate import alone_config, list_networks, tabulate
from zoo.console import main
from zoo.errors import ZooError

HERE = Path(__file__).parent
SMALL = ['retrain.epochs=1', 'search.limits.macs=[2e4, 5e4]']


def tiny(*overrides: str):
    return load_config(HERE / 'tiny.yaml', [*SMALL, *overrides])


@pytest.fixture(scope='module')
def table(tmp_path_factory) -> Path:
    return tabulate(tiny(), tmp_path_factory.mktemp('table'), 8, 3, 2, quiet=True)


def test_header_and_rows(table):
    header, *rows = [json.loads(line) for line in gzip.decompress(table.read_bytes()).splitlines()]
    about = header['table']
    assert (about['architectures'], about['repeated'], about['seeds']) == (8, 3, 2)
    assert about == read_header(table)
    assert len(rows) == 8
    assert sum('again' in row for row in rows) == 3
    problem = Problem(alone_config(tiny()))
    for row in rows:
        genotype = problem.space.space.genotype(row['values'])
        assert 2e4 <= problem.cost(genotype).macs <= 5e4
        assert 0 <= row['metrics']['top1'] <= 100


def test_metrics_are_those_of_a_training(table):
    problem = Problem(alone_config(tiny()))
    genotype, row = next(
        (genotype, row) for genotype, row in read_rows(table, problem.space.space).items() if row.again
    )
    images, labels = problem.data.images('val').tensors()
    for seed, metrics in ((3, row.metrics), (4, row.again[0])):
        seeded = Problem(problem.config.model_copy(update={'seed': seed}))
        phase = f'proxy{derive_seed(*genotype)}'
        arch, recipe = problem.space.decode(genotype), problem.config.retrain
        model = seeded.train_alone(arch, recipe, phase, '', Unrecorded()).eval()
        with torch.no_grad():
            logits = model(images)
        assert metrics['loss'] == pytest.approx(
            float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-2
        )


def test_all_networks_are_listed_once():
    problem = Problem(alone_config(tiny('search.limits={}')))
    listed = [problem.space.decode(genotype) for genotype in list_networks(problem, None)]
    everything = {problem.space.decode(genotype) for genotype in problem.space.space.enumerate()}
    assert set(listed) == everything
    assert len(listed) == len(everything)


def test_drawn_are_different_ones_within_limits():
    problem = Problem(alone_config(tiny()))
    decode = problem.space.decode
    everything = {decode(genotype) for genotype in list_networks(problem, None)}
    drawn = [decode(genotype) for genotype in list_networks(problem, len(everything))]
    assert len(drawn) == len(everything) == 8
    assert set(drawn) == everything
    assert {decode(genotype) for genotype in list_networks(problem, 3)} < everything


def test_interrupted_it_ends_in_the_same_bytes(table, tmp_path):
    config = tiny('checkpoint_seconds=0')
    stops = 0
    for _ in range(100):
        try:
            tabulate(config, tmp_path, 8, 3, 2, fault=Recorder(7), quiet=True)
            break
        except Stop:
            stops += 1
    assert stops >= 4
    assert (tmp_path / 'table.jsonl.gz').read_bytes() == table.read_bytes()


def test_workers_change_nothing(table, tmp_path):
    path = tabulate(tiny('search.workers={processes: 2}'), tmp_path, 8, 3, 2, quiet=True)
    assert path.read_bytes() == table.read_bytes()


def test_it_can_be_searched(table, tmp_path):
    """The whole of a small space: what is found is the best of the table."""
    allowed = ['restrict={stage1.depth: [1], stage1.embed_dim: [8]}', 'search.limits={}']
    path = tabulate(tiny(*allowed), tmp_path / 'table', quiet=True)
    scores = f'{{kind: table, file: {path}, metric: loss, minimize: true}}'
    config = tiny(*allowed, 'supernet=null', 'compare=null', f'search.evaluator={scores}', 'name=searched')
    METHODS[config.method](config, tmp_path / 'run', quiet=True)
    found = json.loads((tmp_path / 'run' / 'search.json').read_bytes())['best']
    rows = read_rows(path, Problem(config).space.space)
    assert found['score'] == -min(row.metrics['loss'] for row in rows.values())


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['retrain=null', 'weights=inherit', 'compare=null'], 'retrain: found none'),
        (['--architectures', '100000'], 'architectures: found 100000, only'),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, capsys, args, message):
    command = ['search', 'tabulate', str(HERE / 'tiny.yaml'), '--out', str(tmp_path / 'run')]
    assert main([*command, *args]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count('\n') == 1


def test_a_space_that_is_too_large():
    config = load_config(HERE.parents[1] / 'configs/search/trionet_digits.yaml')
    with pytest.raises(ZooError, match='at most 1,000,000 can be listed'):
        list_networks(Problem(alone_config(config)), None)


def test_a_table_of_another_space(table, tmp_path):
    config = load_config(HERE / 'tiny_trionet.yaml')
    METHODS[config.method](config, tmp_path, quiet=True)
    with pytest.raises(ZooError, match=r'table\.jsonl\.gz:2'):
        correlate(tmp_path, table=table, quiet=True)
