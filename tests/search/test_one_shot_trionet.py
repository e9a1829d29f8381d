"""A whole search among networks with batch norm: operators are drawn, statistics calibrated, weights kept."""

import json
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import zoo
from search.config import load_config
from search.methods import one_shot
from search.phases import draw_networks, penalize_largest, train_supernet
from search.problem import Problem
from search.run import Unrecorded
from search.sharing import share
from zoo.entry import read_entry
from zoo.errors import ZooError

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


class TestDecayOfTheLargest:
    CHANGES = ('supernet.decay=largest', 'supernet.recipe.weight_decay=0.25')

    def test_gradient_is_the_decay_of_the_slices(self):
        problem = Problem(load_config(TINY, self.CHANGES))
        supernet = problem.make_supernet()
        for step in range(3):
            supernet.zero_grad(set_to_none=True)
            penalize_largest(problem, supernet, step).backward()
            drawn = draw_networks(problem, supernet, step)
            largest = drawn[0].args[0]
            touched = 0
            expected = {key: torch.zeros_like(value) for key, value in supernet.store.items()}
            subnet = supernet.subnet(largest)
            for name, tensor in supernet.tensors(largest).items():
                part = subnet.parts[name]
                if tensor.ndim > 1 and name not in subnet.module.no_weight_decay():
                    touched += tensor.numel()
                    marks = torch.zeros_like(expected[part.stored], requires_grad=True)
                    share(marks, part.shape, part.layouts).sum().backward()
                    expected[part.stored] += 0.25 * marks.grad * supernet.store[part.stored].detach()
            found = {k: torch.zeros_like(v) if v.grad is None else v.grad for k, v in supernet.store.items()}
            for key, value in expected.items():
                assert torch.allclose(found[key], value, atol=1e-7), key
            assert sum(int((g != 0).sum()) for g in found.values()) <= touched
            untouched = [key for key, value in supernet.store.items() if value.grad is None]
            assert untouched, 'operators that were not drawn are left alone'

    def test_the_optimizer_itself_decays_nothing(self, tmp_path, monkeypatch):
        from search import phases

        recipes = []
        monkeypatch.setattr(phases, 'save', lambda tensors: b'')
        monkeypatch.setattr(Problem, 'train', lambda *args: recipes.append((args[3], args[-1])))
        train_supernet(Problem(load_config(TINY, self.CHANGES)), Unrecorded())
        train_supernet(Problem(load_config(TINY, ['supernet.recipe.weight_decay=0.25'])), Unrecorded())
        (largest, penalty), (all_tensors, none) = recipes
        assert largest.weight_decay == 0.0
        assert penalty is not None
        assert all_tensors.weight_decay == 0.25
        assert none is None

    def test_it_needs_the_largest(self):
        with pytest.raises(ZooError, match='decay: largest needs largest: true'):
            load_config(TINY, [*self.CHANGES, 'supernet.largest=false'])


@pytest.mark.parametrize(
    ('changes', 'operators'),
    [
        (('supernet.sampling=uniform',), None),  # no Hierarchical Sampling
        (('space.multi_head_sharing=false',), None),
        (('supernet.largest=false', 'supernet.smallest=false', 'supernet.random=1'), None),  # no sandwich
        (('supernet.images=300',), None),
        (('search.strategy={name: random}', 'search.evaluations=1'), None),  # a random network
        (('restrict={stage1.block1.operator: [conv], stage4.block1.operator: [axial]}',), ('conv', 'axial')),
    ],
)
def test_ablations_are_switches(whole, tmp_path, changes, operators):
    one_shot(load_config(TINY, ['search.evaluations=2', *changes]), tmp_path, quiet=True)
    entry = read_entry(tmp_path / 'tiny_trionet.json')
    assert (tmp_path / 'supernet.safetensors').read_bytes() != (
        whole / 'supernet.safetensors'
    ).read_bytes() or ('evaluations' in changes[-1])
    if operators:
        assert (entry.arch.stages[0][0].operator, entry.arch.stages[3][0].operator) == operators


def test_weights_of_the_supernet_are_trained_further(whole, tmp_path):
    """As on the paper's small data sets."""
    recipe = '{epochs: 1, batch_size: 357, lr: 1e-30, warmup_epochs: 0, weight_decay: 0, opt: sgd}'
    one_shot(load_config(TINY, ['weights=fine_tune', f'retrain={recipe}']), tmp_path, quiet=True)
    inherited, tuned = (load_file(folder / 'tiny_trionet.safetensors') for folder in (whole, tmp_path))
    assert inherited.keys() == tuned.keys()
    for key, value in inherited.items():  # of such a small step only the statistics change
        if 'running' in key:
            assert not torch.equal(value, tuned[key])
        elif 'num_batches' not in key:
            assert torch.allclose(value, tuned[key], rtol=0, atol=1e-25), key
    note = json.loads((tmp_path / 'tiny_trionet.json').read_text())['weights']['digits']['note']
    assert note.startswith(
        'Taken from the supernet, which was trained on the train split, and trained further'
    )


def test_the_best_of_several_retrained_is_kept(tmp_path):
    changes = (
        'weights=retrain',
        'top=3',
        'retrain={epochs: 1, batch_size: 119, lr: 0.01, warmup_epochs: 0.5}',
    )
    result = one_shot(load_config(TINY, changes), tmp_path, quiet=True)
    problem = Problem(load_config(TINY, changes))
    records = json.loads((tmp_path / 'search.json').read_text())['candidates']
    best = sorted(records, key=lambda record: -record['score'])[:3]
    x, labels = problem.data.images('val').tensors()
    losses = []
    for i, record in enumerate(best, 1):
        model = problem.build(problem.space.decode(tuple(record['genotype'])))
        model.load_state_dict(load_file(tmp_path / f'top/top{i}.safetensors'))
        with torch.no_grad():
            losses.append(F.cross_entropy(model.eval()(x), labels).item())
        known = json.loads((tmp_path / f'top/top{i}.json').read_text())
        assert -known['score'] == pytest.approx(losses[-1], rel=1e-5)
    chosen = losses.index(min(losses))
    assert list(result.best['genotype']) == best[chosen]['genotype']
    kept = (tmp_path / 'tiny_trionet.safetensors').read_bytes()
    assert kept == (tmp_path / f'top/top{chosen + 1}.safetensors').read_bytes()
    assert (
        json.loads((tmp_path / 'tiny_trionet.json').read_text())['provenance']['cost']['retrain_steps'] == 27
    )


@pytest.mark.parametrize(
    ('restrict', 'message'),
    [
        ('{stage9.depth: [1]}', "^restrict: Space 'trionet': found choice 'stage9.depth'"),
        ('{stage1.block1.operator: [dense]}', "^restrict: Choice 'stage1.block1.operator': found 'dense'"),
    ],
)
def test_a_restriction_that_cannot_be_is_named(restrict, message):
    with pytest.raises(ZooError, match=message):
        Problem(load_config(TINY, [f'restrict={restrict}']))


def test_fewer_images_than_a_batch_are_refused_at_once():
    with pytest.raises(ZooError, match='found 256, at most the 50 training images'):
        Problem(load_config(TINY, ['supernet.images=50']))
