"""A whole search among networks with batch norm: operators are drawn, statistics calibrated, weights kept."""

import json
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F

import zoo
from search.config import load_config
from search.methods import one_shot
from search.problem import Problem
from zoo.entry import read_entry

TINY = Path(__file__).with_name('tiny_trionet.yaml')


@pytest.fixture(scope='module')
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('trionet')
    one_shot(load_config(TINY), folder, quiet=True)
    return folder


def test_the_emitted_network_has_the_candidate_s_score(whole):
    found = json.loads((whole / 'search.json').read_text())
    problem = Problem(load_config(TINY))
    model = timm.create_model(zoo.register(whole / 'tiny_trionet.json'), pretrained=True).eval()
    x, labels = problem.data.images('val').tensors()
    with torch.no_grad():
        loss = F.cross_entropy(model(x), labels).item()
    assert found['best']['score'] == pytest.approx(-loss, rel=1e-5)
    assert found['best']['score'] == max(c['score'] for c in found['candidates'])
    assert all(candidate['macs'] <= 950_000 for candidate in found['candidates'])
    entry = read_entry(whole / 'tiny_trionet.json')
    assert entry.arch == problem.space.decode(tuple(found['best']['genotype']))


def test_calibration_reads_whole_batches_of_training_images():
    problem = Problem(load_config(TINY))
    assert [len(x) for x in problem.calibration()] == [256, 256]
    again = Problem(load_config(TINY)).calibration()
    assert all(torch.equal(a, b) for a, b in zip(problem.calibration(), again, strict=True))
    small = Problem(load_config(TINY, ['search.calibration_images=100000', 'search.batch_size=500']))
    assert [len(x) for x in small.calibration()] == [500, 500]


def test_a_step_s_networks_share_their_operators(whole, tmp_path, monkeypatch):
    """Sandwich within drawn operators: largest, smallest and two random ones."""
    from search.supernet import Supernet

    drawn = []
    original = Supernet.forward

    def forward(self, arch, *args, **kwargs):
        if self.training:
            drawn.append(arch)
        return original(self, arch, *args, **kwargs)

    monkeypatch.setattr(Supernet, 'forward', forward)
    one_shot(load_config(TINY, ['search.evaluations=1']), tmp_path, quiet=True)
    assert (tmp_path / 'supernet.safetensors').read_bytes() == (whole / 'supernet.safetensors').read_bytes()
    steps: list[list] = [[]]
    for arch in drawn:  # a step begins with its largest network
        if len(steps[-1]) == 4:
            steps.append([])
        steps[-1].append(arch)
    assert len(steps) == 4
    for step in steps:
        operators = [[[block.operator for block in stage] for stage in arch.stages] for arch in step]
        for names in operators[1:]:
            for all_blocks, blocks in zip(operators[0], names, strict=True):
                assert blocks == all_blocks[: len(blocks)]
    assert len({str([[b.operator for b in s] for s in step[0].stages]) for step in steps}) > 1
