"""Differentiable search: mixed layers, masks, alternation, and a whole search that can be interrupted."""

import json
import math
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from interruptions import Recorder, Stop, read_all, read_log
from torch import nn

from search import relaxation as relaxation_module
from search.bilevel import AlphaRecipe, alternate, halve
from search.config import load_config
from search.context_autoregression import Decoder, Reconstruction, draw_masks, mask_side, reconstruction_loss
from search.data import Data
from search.frame import Frame, deepen, searched_space
from search.methods import METHODS
from search.mixed import (
    MixedLayer,
    choose,
    extract,
    find_leaders,
    mix,
    mixed_layers,
    read_alpha,
    summarise,
    write_alpha,
)
from search.problem import Problem
from search.relaxation import Relaxation
from search.run import Unrecorded
from search.spaces import FamilySpace, load_space
from search.training import Recipe
from zoo.entry import read_entry
from zoo.errors import ZooError
from zoo.models.carnet import Arch, CARNet
from zoo.registry import config_path

TINY = Path(__file__).with_name('tiny_carnet.yaml')
differentiable = METHODS['differentiable']
PAIR = ['local_k3_h4', 'non_local']
SHORT = [{'layers': 1, 'operators': PAIR}] * 5
SPACES: dict[str, dict[str, Any]] = {
    'unequal': {
        'stages': [
            {'layers': 2, 'operators': ['local_k3_h4', 'local_k5_h8', 'non_local']},
            {'layers': 1, 'operators': ['local_k7_h4']},
            *SHORT[:3],
        ]
    },
    'deep, wide': {'stages': [*SHORT, *SHORT[:3]], 'channels': 32},
    'stem': {'stages': SHORT, 'stem': 'conv'},
}


def tiny(*overrides: str) -> Any:
    return load_config(TINY, overrides)


def small_space(stages: Any = SHORT, size: int = 8, **more: Any) -> FamilySpace:
    return load_space({'family': 'carnet', 'stages': stages, **more}, (1, size, size))


def make_mixed(space: FamilySpace, seed: int = 0, **kwargs: Any) -> nn.Module:
    return mix(space, lambda arch: CARNet(arch, in_chans=1, num_classes=10), seed, **kwargs)


def disturb(net: nn.Module, seed: int = 0) -> None:
    """Norms that do something, with statistics of their own."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.3)
            module.running_var.mul_(torch.rand(module.running_var.shape, generator=generator) + 0.5)


def one_hot(space: FamilySpace, genotype: tuple[int, ...]) -> dict[str, dict[str, float]]:
    """All the weight on the genotype's candidates."""
    chosen = space.space.values(genotype)
    return {
        choice.name: {value: 1000.0 * (value == chosen[choice.name]) for value in choice.values}
        for choice in space.space.choices
    }


class TestMixedNetwork:
    @pytest.mark.parametrize('name', SPACES)
    @pytest.mark.parametrize('training', [False, True])
    def test_with_all_weight_on_one_candidate_it_is_the_stand_alone_network(self, name, training):
        size = 32 if name == 'stem' else 8
        space = small_space(size=size, **SPACES[name])
        space = space.restrict({space.space.choices[-1].name: ['non_local']})
        mixed = make_mixed(space)
        disturb(mixed)
        x = torch.randn(3, 1, size, size, generator=torch.Generator().manual_seed(1))
        rng = random.Random(0)
        for _ in range(3):
            genotype = space.space.sample(rng)
            write_alpha(mixed, one_hot(space, genotype))
            alone = CARNet(space.decode(genotype), in_chans=1, num_classes=10)
            alone.load_state_dict(extract(space, mixed, genotype))
            assert torch.equal(mixed.train(training)(x), alone.train(training)(x))
            assert choose(space.space, read_alpha(mixed)) == genotype

    def test_a_layer_is_the_sum_of_its_candidates_by_softmax(self):
        space = small_space([{'layers': 1, 'operators': ['local_k3_h4', 'local_k5_h4', 'non_local']}] * 5)
        layer = make_mixed(space).get_submodule('stages.2.blocks.0').eval()
        layer.alpha.data = torch.tensor([0.5, -1.0, 2.0])
        x = torch.randn(2, 16, 4, 4)
        exponentials = [math.exp(value) for value in (0.5, -1.0, 2.0)]
        expected = sum(e * block(x) for e, block in zip(exponentials, layer.candidates, strict=True))
        torch.testing.assert_close(layer(x), expected / sum(exponentials))

    def test_candidates_share_nothing_and_begin_as_the_zoos_networks(self):
        space = small_space()
        mixed = make_mixed(space)
        assert len({p.data_ptr() for p in mixed.parameters()}) == len(list(mixed.parameters()))
        assert all(torch.equal(layer.alpha, torch.zeros(2)) for layer in mixed_layers(mixed).values())
        first, second = mixed_layers(mixed)['stage1.layer1.operator'].candidates
        assert not torch.equal(first.reduce.weight, second.reduce.weight)
        assert (type(first.attn).__name__, type(second.attn).__name__) == (
            'LocalAttention',
            'NonLocalAttention',
        )

    def test_a_layer_with_one_candidate_is_that_candidate(self):
        space = small_space().restrict({'stage2.layer1.operator': ['non_local']})
        mixed = make_mixed(space)
        assert 'stage2.layer1.operator' not in mixed_layers(mixed)
        assert len(mixed_layers(mixed)) == 4
        assert type(mixed.stages[2].blocks[0]).__name__ == 'Block'

    def test_gradient_of_alpha_is_that_of_finite_differences(self):
        space = small_space([{'layers': 1, 'operators': ['local_k3_h4', 'local_k5_h4', 'non_local']}] * 5)
        mixed = make_mixed(space).double().train()
        generator = torch.Generator().manual_seed(3)
        x = torch.randn(8, 1, 8, 8, dtype=torch.float64, generator=generator)
        target = torch.randint(10, (8,), generator=generator)
        layers = mixed_layers(mixed)
        for layer in layers.values():
            layer.alpha.data.copy_(torch.randn(3, generator=generator))

        def loss() -> torch.Tensor:
            return nn.functional.cross_entropy(mixed(x), target)

        loss().backward()
        for name in ('stage1.layer1.operator', 'stage4.layer1.operator'):
            alpha = layers[name].alpha
            for i in range(3):
                sides = []
                for change in (1e-5, -2e-5):
                    alpha.data[i] += change
                    sides.append(loss().item())
                alpha.data[i] += 1e-5
                assert alpha.grad[i].item() == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-4, abs=1e-9)

    def test_alpha_is_read_and_written_to_the_last_bit(self):
        space = small_space()
        mixed, other = make_mixed(space), make_mixed(space, 1)
        for layer in mixed_layers(mixed).values():
            nn.init.normal_(layer.alpha)
        write_alpha(other, json.loads(json.dumps(read_alpha(mixed))))
        for name, layer in mixed_layers(other).items():
            assert torch.equal(layer.alpha, mixed_layers(mixed)[name].alpha)

    def test_summary(self):
        found = summarise({'a': {'x': 0.0, 'y': math.log(3)}})
        assert found['weight/a/x'] == pytest.approx(0.25)
        assert found['weight/a/y'] == pytest.approx(0.75)
        assert found['entropy/a'] == pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75))
        assert found['margin/a'] == pytest.approx(0.5)


class TestTied:
    def test_stages_1_3_5_and_2_4_share_alpha_alone(self):
        space = small_space()
        leaders = find_leaders(space)
        assert {name[5]: leader[5] for name, leader in leaders.items()} == dict(
            zip('12345', '12121', strict=True)
        )
        mixed = make_mixed(space, leaders=leaders)
        layers = list(mixed_layers(mixed).values())
        assert layers[0].alpha is layers[2].alpha is layers[4].alpha
        assert layers[1].alpha is layers[3].alpha is not layers[0].alpha
        assert layers[0].candidates[0].reduce.weight is not layers[2].candidates[0].reduce.weight

    def test_of_eight_stages_those_of_equal_stride(self):
        leaders = find_leaders(small_space([*SHORT, *SHORT[:3]]))
        assert ''.join(leader[5] for leader in leaders.values()) == '11311311'

    def test_other_candidates_cannot_be_tied(self):
        with pytest.raises(ZooError, match=r'search.tied: found candidates .* of stage5.layer1.operator'):
            Relaxation(Problem(tiny('search.tied=true')))

    def test_the_result_repeats_itself(self, monkeypatch):
        """Whatever moves the architecture parameters, here another one in each layer."""
        space = '[' + ', '.join(['{layers: 2, operators: [local_k3_h4, non_local, local_k5_h4]}'] * 5) + ']'
        config = tiny('search.tied=true', 'search.self_supervised=null', f'space.stages={space}')
        relaxation = Relaxation(Problem(config))

        def move(model, *args, **kwargs):
            for i, layer in enumerate(mixed_layers(model).values()):
                layer.alpha.data[i % 3] += i
            return {}

        monkeypatch.setattr(relaxation_module, 'alternate', move)
        alpha = json.loads(relaxation.classify(config.search.target, None, Unrecorded(), 1))['alpha']
        operators = relaxation.space.decode(choose(relaxation.space.space, alpha)).operators
        assert operators[0] == operators[2] == operators[4]
        assert operators[1] == operators[3] != operators[0]


class TestMasks:
    @given(
        size=st.tuples(st.integers(4, 40), st.integers(4, 40)),
        regions=st.integers(1, 6),
        cover=st.floats(0.05, 1.0),
        seed=st.integers(0, 2**32),
    )
    @settings(max_examples=50, deadline=None)
    def test_cover_at_most_their_share(self, size, regions, cover, seed):
        masks = draw_masks(3, size, regions, cover, torch.Generator().manual_seed(seed))
        assert masks.shape == (3, 1, *size)
        assert masks.dtype == torch.bool
        side = mask_side(size, regions, cover)
        for mask in masks:
            assert min(side, 1) * side**2 <= mask.sum() <= min(regions * side**2, cover * math.prod(size))

    def test_are_squares_anywhere_that_may_overlap(self):
        generator = torch.Generator().manual_seed(0)
        singles = draw_masks(3000, (5, 7), 1, 0.25, generator)[:, 0]
        side = mask_side((5, 7), 1, 0.25)
        places = Counter()
        for mask in singles:
            rows, cols = mask.any(1).nonzero().flatten().tolist(), mask.any(0).nonzero().flatten().tolist()
            assert mask.sum() == side**2
            assert len(rows) == len(cols) == rows[-1] - rows[0] + 1 == cols[-1] - cols[0] + 1 == side
            places[rows[0], cols[0]] += 1
        assert len(places) == (5 - side + 1) * (7 - side + 1)
        assert max(places.values()) < 1.5 * min(places.values())
        covered = draw_masks(1000, (8, 8), 4, 0.25, generator).sum((1, 2, 3))
        assert covered.max() == 16
        assert covered.min() < 16  # some overlap

    def test_are_those_of_the_generator(self):
        first, again, other = (
            draw_masks(4, (16, 16), 4, 0.25, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
        )
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_loss_is_of_the_missing_content_only(self):
        image, prediction = torch.randn(2, 3, 6, 6), torch.randn(2, 3, 6, 6, requires_grad=True)
        masks = draw_masks(2, (6, 6), 2, 0.25, torch.Generator().manual_seed(0))
        loss = reconstruction_loss(prediction, image, masks)
        errors = [
            abs(prediction[n, c, i, j].item() - image[n, c, i, j].item())
            for n, _, i, j in masks.nonzero().tolist()
            for c in range(3)
        ]
        assert loss.item() == pytest.approx(sum(errors) / len(errors))
        loss.backward()
        assert torch.equal(prediction.grad.abs() > 0, masks.expand(2, 3, 6, 6))

    def test_the_network_does_not_see_what_is_missing(self):
        model = Reconstruction(make_mixed(small_space()), 1).eval()
        x = torch.randn(2, 1, 9, 11)
        masks = draw_masks(2, (9, 11), 2, 0.25, torch.Generator().manual_seed(0))
        other = torch.where(masks, torch.randn(x.shape), x)
        assert not torch.equal(x, other)
        assert model(x, masks).shape == x.shape
        assert torch.equal(model(x, masks), model(other, masks))

    def test_decoder_doubles_the_map(self):
        decoder = Decoder(64, 3, 8)
        assert decoder(torch.randn(2, 64, 4, 4), (32, 31)).shape == (2, 3, 32, 31)


class TestAlternation:
    recipe = Recipe(epochs=1, batch_size=64, opt='momentum', lr=0.1, weight_decay=0.0, bf16=False)

    def halves(self, count: int) -> tuple[Any, Any]:
        config = tiny()
        images = Data(config.data, config.input).images('train')
        images.indices = images.indices[:count]
        return halve(images, 0)

    def test_halves_are_equal_and_disjoint(self):
        config = tiny()
        images = Data(config.data, config.input).images('train')
        first, second = halve(images, 7)
        assert len(first) == len(second) == 535
        assert not set(first.indices) & set(second.indices)
        assert set(first.indices) | set(second.indices) < set(images.indices)
        assert halve(images, 7)[0].indices == first.indices != halve(images, 8)[0].indices

    def test_a_step_by_hand(self):
        """SGD on the one half, then Adam's first step on the other, with the new weights."""
        halves = self.halves(128)
        layer = MixedLayer('a', ['x', 'y'], [nn.Linear(1, 1), nn.Linear(1, 1)])
        seen = []

        def loss(x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            seen.append({p: p.requires_grad for p in layer.parameters()})
            return (layer(x.mean((1, 2, 3))[:, None])[:, 0] - target).square().mean()

        with torch.no_grad():
            for i, block in enumerate(layer.candidates):
                block.weight.fill_(0.5 + i)
                block.bias.fill_(0.0)
        (w1, w2), b1, b2 = (0.5, 1.5), 0.0, 0.0
        xs = []
        for half in halves:
            x, target = half.tensors()
            xs.append((x.mean((1, 2, 3)).double(), target.double()))
        x, y = xs[0]
        error = 2 * ((w1 + w2) / 2 * x + (b1 + b2) / 2 - y)
        grad_w, grad_b = (error * x).mean().item() / 2, error.mean().item() / 2
        lr = 0.1 * (1 + math.cos(math.pi)) / 2  # a cosine ends at 0 after the only step
        assert lr == 0
        recipe = self.recipe.model_copy(update={'epochs': 2})
        lr = 0.1 * (1 + math.cos(math.pi / 2)) / 2
        w1, w2, b1, b2 = w1 - lr * grad_w, w2 - lr * grad_w, b1 - lr * grad_b, b2 - lr * grad_b
        x, y = xs[1]
        error = 2 * ((w1 + w2) / 2 * x + (b1 + b2) / 2 - y)
        grad_alpha = (error * (w1 - w2) * x / 4).mean().item()

        class After(Unrecorded):
            def reached(self, point: str) -> None:
                raise Stop

        alpha = AlphaRecipe(lr=0.01, weight_decay=0.0)
        with pytest.raises(Stop):
            alternate(layer, loss, halves, recipe, alpha, phase='p', label='', seed=0, run=After())
        first, second = layer.candidates
        found = [first.weight.item(), second.weight.item(), first.bias.item(), second.bias.item()]
        assert found == pytest.approx([w1, w2, b1, b2], rel=1e-5)
        step = 0.01 * grad_alpha / (abs(grad_alpha) + 1e-8)
        assert layer.alpha.tolist() == pytest.approx([-step, step], rel=1e-4)
        assert [sum(learning.values()) for learning in seen] == [4, 1]
        assert seen[1][layer.alpha]

    def test_alpha_moves_to_the_only_candidate_that_can_help(self):
        """Two candidates lose the image, the second one keeps it."""

        class Blank(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return torch.zeros_like(x)

        torch.manual_seed(0)
        layer = MixedLayer('a', ['x', 'y', 'z'], [Blank(), nn.Identity(), Blank()])
        model = nn.Sequential(layer, nn.Flatten(), nn.Linear(64, 10))

        def loss(x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return nn.functional.cross_entropy(model(x), target)

        recipe = self.recipe.model_copy(update={'epochs': 6})
        losses = alternate(
            model,
            loss,
            self.halves(1071),
            recipe,
            AlphaRecipe(lr=0.05),
            phase='p',
            label='',
            seed=0,
            run=Unrecorded(),
        )
        weights = layer.alpha.softmax(0).tolist()
        assert weights[1] > 0.8
        assert losses['loss_alpha'] < 0.7

    def test_a_loss_that_is_no_number_stops_it(self):
        layer = MixedLayer('a', ['x', 'y'], [nn.Identity(), nn.Identity()])
        layer.weight = nn.Parameter(torch.zeros(1))
        with pytest.raises(ZooError, match='p: the loss is nan'):
            alternate(
                layer,
                lambda x, target: (layer(x).mean() + layer.weight.sum()) * math.nan,
                self.halves(128),
                self.recipe,
                AlphaRecipe(lr=0.1),
                phase='p',
                label='',
                seed=0,
                run=Unrecorded(),
            )


class TestFrame:
    def test_a_small_network_is_searched_for_a_large_one(self):
        declared = {'family': 'carnet', 'channels': 96, 'stages': [*SHORT, *SHORT[:3]]}
        result = load_space(declared, (1, 8, 8)).restrict({'stage3.layer1.operator': ['non_local']})
        space = searched_space(declared, result, Frame(channels=16, stages=5), (1, 8, 8))
        arch = space.decode(space.covering(space.space)[0])
        assert isinstance(arch, Arch)
        assert (arch.channels, len(arch.operators)) == (16, 5)
        assert space.space.size() == 2**4
        genotype = (1, 0, 0, 1, 1)
        found = result.decode(deepen(genotype, space.space, result.space))
        five = space.decode(genotype).operators
        assert found.operators == tuple(five[i] for i in (0, 0, 1, 2, 2, 3, 4, 4))
        assert found.channels == 96

    def test_without_one_nothing_changes(self):
        space = small_space()
        assert searched_space(None, space, None, (1, 8, 8)) is space
        for genotype in space.space.enumerate():
            assert deepen(genotype, space.space, space.space) == genotype

    def test_the_papers_space_by_name(self):
        result = load_space('carnet', (3, 32, 32))
        space = searched_space('carnet', result, Frame(), (3, 32, 32))
        assert space.space == result.space

    def test_stages_that_cannot_be_repeated(self):
        declared = {'family': 'carnet', 'stages': [*SHORT, *SHORT[:3]]}
        result = load_space(declared, (1, 8, 8)).restrict({'stage2.layer1.operator': ['non_local']})
        with pytest.raises(ZooError, match=r'of stage2.layer1.operator, those of the searched stage1'):
            searched_space(declared, result, Frame(), (1, 8, 8))
        with pytest.raises(ZooError, match=r'search.frame.stages: found 8'):
            searched_space('carnet', load_space('carnet', (1, 32, 32)), Frame(stages=8), (1, 32, 32))

    def test_another_size_and_width_end_to_end(self, tmp_path):
        config = tiny(
            'input.size=[1, 16, 16]',
            'space.channels=32',
            'search.frame={channels: 16, input: {size: [1, 8, 8], mean: [0.3], std: [0.35]}}',
            'search.self_supervised=null',
            'search.seeds=1',
        )
        entry = read_entry(differentiable(config, tmp_path, quiet=True).entry)
        assert (entry.arch.channels, entry.input.size) == (32, (1, 16, 16))


@pytest.fixture(scope='module')
def whole(tmp_path_factory) -> tuple[Path, list[str]]:
    """An uninterrupted run and the points that it passed."""
    folder, recorder = tmp_path_factory.mktemp('whole'), Recorder()
    differentiable(tiny('checkpoint_seconds=0'), folder, fault=recorder, quiet=True)
    return folder, recorder.points


class TestRun:
    def test_every_phase_has_points(self, whole):
        for seed in (1, 2):
            for phase in ('self_supervised', 'target'):
                name = f'seed{seed}/{phase}'
                assert whole[1].count(f'{name}: step') == 4
                assert whole[1].count(f'{name}: saved') == 3
                assert whole[1].count(f'{name}: done') == 1

    def test_the_result_is_the_arg_max_of_the_best_seed(self, whole):
        folder = whole[0]
        records = json.loads((folder / 'seeds.json').read_text())
        assert [record['seed'] for record in records] == [1, 2]
        kept = [record for record in records if record['kept']]
        assert len(kept) == 1
        assert kept[0]['trained']['score'] == max(record['trained']['score'] for record in records)
        weights = (folder / f'top/result{kept[0]["seed"]}.safetensors').read_bytes()
        assert (folder / 'tiny_carnet.safetensors').read_bytes() == weights
        alpha = json.loads((folder / f'seed{kept[0]["seed"]}/target.json').read_text())['alpha']
        entry = read_entry(folder / 'tiny_carnet.json')
        for i, operators in enumerate(entry.arch.operators, 1):
            for j, operator in enumerate(operators, 1):
                row = alpha.get(f'stage{i}.layer{j}.operator', {'non_local': 0.0})
                assert operator == max(row, key=row.get)
        assert entry.provenance.cost == {
            'self_supervised_steps': 8,
            'target_steps': 8,
            'retrain_steps': 8,
            'seeds': 2,
        }
        assert entry.provenance.config == json.loads(json.dumps(tiny().decisive()))
        assert 'by reconstruction on digits, then by classification on digits' in entry.provenance.note
        assert (entry.measured.params, entry.measured.macs) == (kept[0]['params'], kept[0]['macs'])

    def test_seeds_differ(self, whole):
        first, second = (json.loads((whole[0] / f'seed{i}/target.json').read_text()) for i in (1, 2))
        assert first['alpha'] != second['alpha']

    def test_alpha_over_time_is_in_the_log(self, whole):
        events = [event for event in read_log(whole[0]) if event['phase'] == 'seed1/target']
        final = json.loads((whole[0] / 'seed1/target.json').read_text())['alpha']
        expected = summarise(final)
        assert {key: events[-1][key] for key in expected} == expected
        assert sum(key.startswith('weight/') for key in expected) == 10

    @pytest.mark.parametrize(('points_each', 'seconds', 'least'), [(9, 0, 12), (13, 1e6, 4)])
    def test_interrupted_again_and_again_it_ends_in_the_same_bytes(
        self, whole, tmp_path, points_each, seconds, least
    ):
        for piece in range(1, 100):
            torch.manual_seed(piece)
            config = tiny(f'checkpoint_seconds={seconds}')
            try:
                differentiable(config, tmp_path, fault=Recorder(points_each - 1), quiet=True)
            except Stop:
                continue
            break
        assert least <= piece < 99
        assert read_all(tmp_path) == read_all(whole[0])
        assert read_log(tmp_path) == read_log(whole[0])

    @pytest.mark.slow
    def test_interrupted_at_any_point_it_ends_in_the_same_bytes(self, whole, tmp_path):
        for place, point in enumerate(whole[1]):
            folder = tmp_path / str(place)
            with pytest.raises(Stop):
                differentiable(tiny('checkpoint_seconds=0'), folder, fault=Recorder(place), quiet=True)
            differentiable(tiny('checkpoint_seconds=0'), folder, quiet=True)
            assert read_all(folder) == read_all(whole[0]), point
            assert read_log(folder) == read_log(whole[0]), point

    def test_kill_9(self, whole, tmp_path):
        command = [sys.executable, '-m', 'search', 'run', str(TINY), '--out', str(tmp_path)]
        kill_and_continue([*command, 'checkpoint_seconds=0'], tmp_path, 'seed1/self_supervised', 2)
        assert read_all(tmp_path) == read_all(whole[0])
        assert read_log(tmp_path) == read_log(whole[0])

    def test_a_finished_run_does_nothing_again(self, whole):
        recorder = Recorder()
        differentiable(tiny(), whole[0], fault=recorder, quiet=True)
        assert recorder.points == []


def kill_and_continue(command: list[str], folder: Path, phase: str, step: int) -> None:
    """Kills a run when its checkpoint is in the middle of a phase, and runs it again."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    while True:
        assert process.poll() is None, process.stderr.read()
        if (folder / 'checkpoint.pt').exists():
            found = torch.load(folder / 'checkpoint.pt', weights_only=True)
            if found['phase'] == phase and found['state'] and found['state']['step'] >= step:
                break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(folder.glob('*.safetensors'))
    subprocess.run(command, check=True, capture_output=True)


class TestPhases:
    def test_the_second_begins_with_the_alpha_of_the_first(self, monkeypatch, tmp_path):
        """And with new weights."""
        begun = {}

        def note(model, loss, halves, recipe, alpha, *, phase, run, **kwargs):
            begun[phase] = read_alpha(model), {name: p.clone() for name, p in model.named_parameters()}
            generator = torch.Generator().manual_seed(len(begun))
            for layer in mixed_layers(model).values():
                layer.alpha.data += torch.randn(len(layer.values), generator=generator)
            begun[f'{phase}: end'] = read_alpha(model)
            return {'loss': 0.0, 'loss_alpha': 0.0}

        monkeypatch.setattr(relaxation_module, 'alternate', note)
        differentiable(tiny('search.seeds=1'), tmp_path, quiet=True)
        assert all(value == 0.0 for row in begun['self_supervised'][0].values() for value in row.values())
        assert begun['target'][0] == begun['self_supervised: end'] != begun['target: end']
        name = 'stages.1.blocks.0.candidates.0.reduce.weight'
        assert not torch.equal(begun['target'][1][name], begun['self_supervised'][1][f'encoder.{name}'])
        assert 'head.fc.weight' in begun['target'][1]
        assert not [name for name in begun['self_supervised'][1] if '.head.fc' in name]

    def test_without_the_first_the_second_begins_at_random(self, monkeypatch, tmp_path):
        found = {}

        def note(model, *args, phase, **kwargs):
            found[phase] = read_alpha(model)
            return {}

        monkeypatch.setattr(relaxation_module, 'alternate', note)
        config = tiny('search.self_supervised=null', 'search.seeds=1')
        entry = read_entry(differentiable(config, tmp_path, quiet=True).entry)
        assert list(found) == ['target']
        values = [value for row in found['target'].values() for value in row.values()]
        assert 0 < max(map(abs, values)) < 5e-3
        assert 'self_supervised_steps' not in entry.provenance.cost
        assert 'reconstruction' not in entry.provenance.note
        assert not (tmp_path / 'seed1/self_supervised.json').exists()

    def test_images_of_some_classes(self):
        config = tiny('search.self_supervised.classes=3')
        relaxation = Relaxation(Problem(config))
        first, second = relaxation.halves(config.search.self_supervised)
        labels = {
            image[1] for half in (first, second) for image in map(half.source.__getitem__, half.indices)
        }
        assert len(labels) == 3
        assert relaxation.halves(config.search.target)[0].indices != first.indices
        assert {
            half.source[index][1]
            for half in relaxation.halves(config.search.target)
            for index in half.indices
        } == set(range(10))

    def test_other_data_for_the_first(self, tmp_path):
        from PIL import Image

        for label in ('a', 'b'):
            (tmp_path / 'train' / label).mkdir(parents=True)
            for i in range(6):
                Image.new('L', (10, 10), 20 * i).save(tmp_path / 'train' / label / f'{i}.png')
        data = f'{{name: folder, root: {tmp_path}, val_size: 1}}'
        config = tiny(
            f'search.self_supervised.data={data}',
            'search.self_supervised.classes=null',
            'search.self_supervised.recipe.batch_size=5',
            'search.seeds=1',
        )
        entry = read_entry(differentiable(config, tmp_path / 'run', quiet=True).entry)
        assert 'by reconstruction on folder, then by classification on digits' in entry.provenance.note
        assert entry.provenance.cost['self_supervised_steps'] == 1
        assert str(tmp_path) not in (tmp_path / 'run/tiny_carnet.json').read_text()
        assert str(tmp_path) not in (tmp_path / 'run/config.json').read_text()

    def test_the_test_split_is_not_read_before_the_entry(self, monkeypatch, tmp_path):
        asked = []
        original = Data.images

        def images(self, role, *args, **kwargs):
            asked.append(role)
            return original(self, role, *args, **kwargs)

        monkeypatch.setattr(Data, 'images', images)
        monkeypatch.setattr(relaxation_module, 'alternate', lambda *args, **kwargs: {})

        def stop_before_the_entry(point):
            if point == 'entry: begin':
                raise Stop

        with pytest.raises(Stop):
            differentiable(tiny(), tmp_path, fault=stop_before_the_entry, quiet=True)
        assert set(asked) == {'train', 'val'}


@pytest.mark.parametrize(
    ('overrides', 'message'),
    [
        (['search.limits.macs=[1, 2e9]'], 'limits: found some, method differentiable knows no cost'),
        (['search.target.recipe.augment.mixup=0.2'], 'recipe.augment.mixup: found it'),
        (['search.target.recipe.batch_size=536'], 'batch_size: found 536, at most the 535'),
        (['space=s3', 'input={size: [3, 224, 224], mean: [0, 0, 0], std: [1, 1, 1]}'], 'found family s3'),
        (['search.self_supervised.classes=11'], 'classes: found 11, the data have 10 classes'),
        (['search.self_supervised.regions=30'], r'regions: found 30, so many pixels .* of 8 x 8'),
        (['weights=inherit'], r'\$.weights: found'),
        (['search.seeds=0'], r'\$.search.seeds: found 0'),
        (
            ['space.stages=[' + ', '.join(['{layers: 1, operators: [non_local]}'] * 5) + ']'],
            'single architecture',
        ),
        (['search.self_supervised.data={name: digitz}'], 'data.name: found'),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(overrides, message, tmp_path):
    with pytest.raises(ZooError, match=message):
        differentiable(tiny(*overrides), tmp_path / 'run', quiet=True)
    assert not (tmp_path / 'run').exists()


class TestConfigs:
    @pytest.mark.parametrize('name', ['carnet_cifar10', 'carnet_imagenet'])
    def test_have_the_papers_settings(self, name):
        config = load_config(config_path(f'search/{name}.yaml'))
        search = config.search
        first, second = search.self_supervised, search.target
        assert (first.recipe.epochs, second.recipe.epochs) == (20, 50)
        assert (first.alpha.lr, second.alpha.lr) == (3e-4, 1e-4)
        for phase in (first, second):
            assert (phase.recipe.opt, phase.recipe.lr, phase.recipe.min_lr) == ('momentum', 0.025, 0)
            assert (phase.recipe.weight_decay, phase.alpha.weight_decay) == (3e-4, 1e-3)
        assert (first.classes, first.cover, search.tied) == (100, 0.25, False)
        assert search.seeds == (4 if name == 'carnet_cifar10' else 1)
        problem_space = load_space(config.space, config.input.size)
        size = (search.frame.input or config.input).size
        space = searched_space(config.space, problem_space, search.frame, size)
        assert (space.space.size(), size) == (7**15, (3, 32, 32))
        assert space.decode(space.covering(space.space)[0]).channels == 16
        width = {'carnet_cifar10': 96, 'carnet_imagenet': 112}[name]
        assert problem_space.decode(problem_space.covering(problem_space.space)[0]).channels == width

    def test_digits_can_start(self):
        config = load_config(config_path('search/carnet_digits.yaml'))
        assert Relaxation(Problem(config)).space.space.size() == 3**5
