"""The bundled searches of digits, whole: as they are, and killed and continued."""

import os
import subprocess

import pytest
import timm
from interruptions import kill, make_command, read_all, read_log

import zoo
from search.config import load_config
from search.data import Data
from search.training import evaluate
from zoo.entry import read_entry
from zoo.registry import config_path

KILLED_IN = {
    'trionet': ('supernet', 'retrain'),
    'glit': ('level1/search', 'level2/supernet'),
    's3': ('iteration1/errors', 'supernet'),
    'carnet': ('seed1/self_supervised', 'seed1/target'),
    'uninet': ('search', 'top2'),
}


@pytest.mark.slow
@pytest.mark.parametrize('family', KILLED_IN)
def test_killed_and_continued(family, tmp_path):
    name, environment = f'{family}_digits', os.environ | {'OMP_NUM_THREADS': '1'}
    config, whole, broken = config_path(f'search/{name}.yaml'), tmp_path / 'whole', tmp_path / 'broken'
    done = subprocess.run(
        make_command(config, whole), check=True, capture_output=True, text=True, env=environment
    )
    assert f'Found {name}, a network of family {family}' in done.stdout
    command = make_command(config, broken, 'checkpoint_seconds=1')
    for phase in KILLED_IN[family]:
        kill(command, broken, phase)
    subprocess.run(command, check=True, capture_output=True, env=environment)
    assert read_all(broken) == read_all(whole)
    assert read_log(broken) == read_log(whole)

    weights = whole / f'{name}.safetensors'
    assert weights.stat().st_size <= 300_000
    entry = read_entry(whole / f'{name}.json')
    stated = entry.weights['digits'].metrics['test_top1']
    assert stated >= 97
    model = timm.create_model(zoo.register(whole / f'{name}.json'), pretrained=True)
    settings = load_config(config)
    assert evaluate(model, Data(settings.data, settings.input).images('test'), 256)['top1'] == stated
