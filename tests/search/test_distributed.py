"""Two processes that train together give what one process gives."""

import json
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from search.config import load_config
from search.data import Data, train_batches
from search.distributed import agree, average_gradients, world
from search.methods import METHODS, one_shot
from search.phases import draw_networks
from search.problem import Problem
from search.run import Unrecorded
from zoo.entry import read_entry

TINY = Path(__file__).with_name('tiny.yaml')
TRIONET = TINY.with_name('tiny_trionet.yaml')
CHANGES = (
    'supernet.recipe.drop_path_rate=0',
    'supernet.recipe.bf16=false',
    'retrain.drop_path_rate=0',
    'retrain.bf16=false',
    'search.evaluations=4',
    'compare=null',
)


def launch(folder: Path, *changes: str, config: Path = TINY) -> subprocess.CompletedProcess:
    """As a user does: ``--multi_gpu`` is how accelerate starts processes, on a machine without GPU, too."""
    command = [sys.executable, '-m', 'accelerate.commands.launch', '--multi_gpu', '--num_processes', '2']
    command += ['--num_machines', '1', '--mixed_precision', 'no', '--dynamo_backend', 'no']
    command += ['--main_process_port', '0']
    command += ['-m', 'search', 'run', str(config), '--out', str(folder), *changes]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((folder / 'config.json').read_text())['versions']['processes'] == '2'
    return done


def test_two_processes_train_what_one_trains(tmp_path):
    """Without batch norm, for the whole run: supernet, search, retraining."""
    done = launch(tmp_path / 'two', *CHANGES)
    assert done.stderr.count('searching: 4 networks') == 1  # the first process alone speaks
    one_shot(load_config(TINY, CHANGES), tmp_path / 'one', quiet=True)
    for file in ('supernet.safetensors', 'tiny.safetensors'):
        one, two = (load_file(tmp_path / number / file) for number in ('one', 'two'))
        assert one.keys() == two.keys()
        for key in one:
            torch.testing.assert_close(two[key], one[key], rtol=1e-4, atol=1e-5, msg=key)
    logs = [(tmp_path / number / 'events.jsonl').read_text().splitlines() for number in ('one', 'two')]
    for a, b in zip(*(map(json.loads, log) for log in logs), strict=True):
        assert (a['phase'], a['step']) == (b['phase'], b['step'])
        assert a.get('loss', 0) == pytest.approx(b.get('loss', 0), rel=1e-3)


def test_alone_nothing_is_exchanged():
    assert world() == (0, 1)
    assert agree(3) == 3
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)
    average_gradients([parameter], 1)
    assert parameter.grad.tolist() == [1, 1]


def test_processes_share_each_batch():
    config = load_config(TINY, [])
    images = Data(config.data, config.input).images('train')
    whole = [x for x, _ in train_batches(images, 64, 1, 2, 5)]
    halves = [[x for x, _ in train_batches(images, 64, 1, 2, 5, 0, rank, 2)] for rank in (0, 1)]
    for x, first, second in zip(whole, *halves, strict=True):
        assert torch.equal(torch.cat([first, second]), x)


def test_networks_with_batch_norm_train_as_one_process_that_accumulates_two_halves(tmp_path):
    changes = 'search.evaluations=1', 'supernet.recipe.bf16=false', 'supernet.recipe.opt=sgd'
    launch(tmp_path / 'two', *changes, config=TRIONET)
    problem = Problem(load_config(TRIONET, changes))
    supernet = problem.make_supernet()
    recipe = problem.config.supernet.recipe

    def halves(network, x):
        return torch.cat([network(half) for half in x.chunk(2)])

    def networks(step):
        drawn = draw_networks(problem, supernet, step)
        return [partial(halves, network) for network in drawn]

    problem.train(supernet, networks, recipe, 'supernet', '', Unrecorded())
    two = load_file(tmp_path / 'two/supernet.safetensors')
    assert two.keys() == supernet.store.keys()
    for key, value in supernet.store.items():
        torch.testing.assert_close(two[key], value.detach(), rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['glit', 's3_space', 'carnet', 'uninet'])
def test_every_method_runs_in_two_processes(name, tmp_path):
    """And logs as many candidates and steps, of which one process alone keeps the books."""
    config = TINY.with_name(f'tiny_{name}.yaml')
    launch(tmp_path / 'two', config=config)
    settings = load_config(config)
    METHODS[settings.method](settings, tmp_path / 'one', quiet=True)
    logs = [(tmp_path / number / 'events.jsonl').read_text().splitlines() for number in ('one', 'two')]
    counts = [Counter(json.loads(line)['phase'] for line in log) for log in logs]
    assert {phase: counts[0][phase] for phase in counts[0] if 'errors' not in phase} == {
        phase: counts[1][phase] for phase in counts[1] if 'errors' not in phase
    }  # the second iteration's space, and with it how many networks are different, rests on last digits
    entries = [read_entry(tmp_path / number / f'{settings.name}.json') for number in ('one', 'two')]
    assert entries[0].provenance.cost.keys() == entries[1].provenance.cost.keys()
