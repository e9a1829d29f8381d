"""The planted tasks are what they say, and the searches of their configs choose operators accordingly."""

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ImageChops

from search import planted
from search.config import load_config
from search.data import Data, DataConfig
from search.methods import METHODS
from search.planner import make_plan
from search.planted import GAP, HEIGHT, PLANTED, SIDE, WIDTH, draw_block, draw_relation, draw_texture
from search.problem import Problem
from search.relaxation import Relaxation
from zoo.entry import Input
from zoo.errors import ZooError

CONFIGS = Path(__file__).parents[2] / 'configs' / 'search'
GREY = Input(size=(1, HEIGHT, WIDTH), mean=(0.5,), std=(0.15,))


class Script:
    """A generator whose outcomes are given; it notes among how many each was chosen."""

    def __init__(self, outcomes: tuple[int, ...]):
        self.outcomes, self.sizes = iter(outcomes), []

    def integers(self, high: int, size: int = 1):
        found = [self._next(high) for _ in range(size)]
        return np.array(found) if size > 1 else found[0]

    def random(self) -> float:
        """Of a half that is chosen, or not."""
        return 0.25 + 0.5 * self._next(2)

    def _next(self, high: int) -> int:
        self.sizes.append(high)
        return next(self.outcomes, 0)


def outcomes_of(draw, label: int) -> Iterator[np.ndarray]:
    """What a function draws for each of its equally likely outcomes."""
    first = Script(())
    draw(label, first)
    for outcomes in itertools.product(*map(range, first.sizes)):
        yield draw(label, Script(outcomes))


def counts(images: list[np.ndarray]) -> Counter[bytes]:
    return Counter(image.tobytes() for image in images)


@pytest.fixture(scope='module')
def images() -> list[list[np.ndarray]]:
    """All images of the relation without noise, of both classes."""
    return [list(outcomes_of(draw_relation, label)) for label in (0, 1)]


class TestRelation:
    def test_every_window_below_the_gap_is_equally_likely_in_both_classes(self, images):
        for left in range(WIDTH - GAP):
            same, different = (counts([x[:, left : left + GAP + 1] for x in of]) for of in images)
            assert same == different

    def test_whole_images_tell_the_class(self, images):
        same, different = map(counts, images)
        assert sum(same.values()) == sum(different.values()) == 800
        assert not same.keys() & different.keys()

    def test_the_ends_are_of_one_kind_in_class_0_only(self, images):
        def is_upright(end: np.ndarray) -> bool:
            return bool((end == 0).all(0).sum() + SIDE == end.shape[1] and abs(end.sum(0)).max() == SIDE)

        for label, of in enumerate(images):
            for x in of:
                left, right = x[:, : planted.ZONE], x[:, -planted.ZONE :]
                assert (is_upright(left) != is_upright(right)) == label


class TestTexture:
    def test_single_pixels_are_alike_in_both_classes(self):
        for label in (0, 1):
            of_blocks = sum(outcomes_of(draw_block, label))
            shifts = itertools.product(range(SIDE), repeat=2)
            anywhere = sum(np.roll(of_blocks, shift, (0, 1)) for shift in shifts)
            assert (anywhere == anywhere[0, 0]).all()

    def test_shuffled_blocks_are_an_image_of_the_same_class(self):
        kinds = [{block.tobytes() for block in outcomes_of(draw_block, label)} for label in (0, 1)]
        empty = np.zeros((SIDE, SIDE), np.int64).tobytes()
        assert kinds[0] & kinds[1] == {empty}
        rng = np.random.default_rng(0)
        for label in [0, 1] * 20:
            image = draw_texture(label, rng)
            rows, columns = HEIGHT // SIDE, WIDTH // SIDE
            classes = set()
            for shift in itertools.product(range(SIDE), repeat=2):
                tiles = np.roll(image, [-s for s in shift], (0, 1)).reshape(rows, SIDE, columns, SIDE)
                blocks = tiles.swapaxes(1, 2).reshape(rows * columns, SIDE, SIDE)
                shuffled = rng.permutation(blocks)
                fitting = {c for c in (0, 1) if all(x.tobytes() in kinds[c] for x in shuffled)}
                classes |= fitting
            assert classes == {label}

    def test_blocks_do_not_depend_on_each_other(self):
        first = Script(())
        draw_texture(0, first)
        block = Script(())
        draw_block(0, block)
        assert first.sizes == block.sizes * (HEIGHT * WIDTH // SIDE**2) + [SIDE, SIDE]


class TestData:
    @pytest.mark.parametrize('name', PLANTED)
    def test_splits_are_fixed_balanced_and_distinct(self, name):
        data = Data(DataConfig(name=name), GREY)
        seen = set()
        for role, size in (('train', 512), ('val', 256), ('test', 256)):
            images = data.images(role)
            x, labels = images.tensors()
            assert x.shape == (size, 1, HEIGHT, WIDTH)
            assert labels.bincount().tolist() == [size // 2] * 2
            seen |= {image.numpy().tobytes() for image in x}
        assert len(seen) == 1024
        assert data.num_classes == 2

    @pytest.mark.parametrize('name', PLANTED)
    def test_images_follow_from_the_seed_of_the_split(self, name):
        def first(seed: int):
            planted.load_planted.cache_clear()
            return Data(DataConfig(name=name, split_seed=seed), GREY).images('train').source[0][0]

        assert ImageChops.difference(first(0), first(0)).getbbox() is None
        assert ImageChops.difference(first(0), first(1)).getbbox() is not None

    def test_a_misspelt_name_is_answered_with_the_right_one(self):
        with pytest.raises(ZooError, match="'planted_relation'"):
            Data(DataConfig(name='planted_relations'), GREY)


def reach(model: torch.nn.Module, x: torch.Tensor) -> bool:
    """Whether any position of the last map sees both ends."""
    x = x.requires_grad_()
    features = model.eval().forward_features(x)
    ends = planted.ZONE * x.shape[3] // WIDTH
    for position in range(features.shape[3]):
        (seen,) = torch.autograd.grad(features[..., position].abs().sum(), x, retain_graph=True)
        columns = seen.abs().sum((0, 1, 2)) > 0
        if columns[:ends].any() and columns[-ends:].any():
            return True
    return False


class TestConfigs:
    @pytest.mark.parametrize('name', PLANTED)
    @pytest.mark.parametrize('method', ['trionet', 'carnet'])
    def test_configs_load_and_fit_the_data(self, method, name):
        problem = Problem(load_config(CONFIGS / f'planted_{method}.yaml', [f'data.name={name}']))
        assert problem.data.num_classes == 2
        images = problem.data.images('train').tensors()[0]
        assert images.std() > 0.5
        if method == 'carnet':
            assert Relaxation(problem).space.space.size() == 2

    @pytest.mark.parametrize('method', ['trionet', 'carnet'])
    def test_configs_can_be_planned(self, method):
        plan = make_plan(load_config(CONFIGS / f'planted_{method}.yaml'), seconds=0.1)
        assert plan.phases

    @pytest.mark.parametrize(
        ('method', 'operator', 'sees_both'),
        [
            ('trionet', 'conv', False),
            ('trionet', 'local', False),
            ('trionet', 'axial', True),
            ('carnet', 'local_k3_h4', False),
            ('carnet', 'non_local', True),
        ],
    )
    def test_local_networks_do_not_see_both_ends(self, method, operator, sees_both):
        problem = Problem(load_config(CONFIGS / f'planted_{method}.yaml'))
        model = problem.build(problem.space.decode(uniform(problem, operator)))
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():  # all positive: no neuron is dead, no attention sharp
            for parameter in model.double().parameters():
                parameter.uniform_(0.01, 0.1, generator=generator)
        x = torch.rand(1, *problem.config.input.size, generator=generator, dtype=torch.float64)
        assert reach(model, x) == sees_both


def uniform(problem: Problem, operator: str) -> tuple[int, ...]:
    """The largest architecture with this operator in every block that can have it."""
    space = problem.space.space
    part = space.restrict(
        {
            choice.name: next(value for value in (operator, *choice.values) if value in choice.values)
            for choice in space.choices
            if choice.name.endswith('operator')
        }
    )
    return space.genotype(part.values(part.largest()))


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'needs_axial'), [('planted_texture', False), ('planted_relation', True)])
def test_trionet_search_chooses_accordingly_in_most_seeds(name, needs_axial, tmp_path):
    right = 0
    for seed in range(3):
        config = load_config(
            CONFIGS / 'planted_trionet.yaml', [f'data.name={name}', f'seed={seed}', f'name=p{seed}']
        )
        result = METHODS['one_shot'](config, tmp_path / str(seed), quiet=True)
        values = Problem(config).space.space.values(tuple(result.best['genotype']))
        right += ('axial' in dict(values).values()) == needs_axial
    assert right >= 2
