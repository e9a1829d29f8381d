"""The training loop against plain PyTorch, and against itself after an interruption."""

import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from search.config import load_config
from search.data import Augment, Data, DataConfig, Images, train_batches
from search.phases import draw_networks
from search.problem import Problem
from search.run import Run, Unrecorded
from search.training import Recipe, autocast, bf16_supported, evaluate, learning_rate, train
from zoo.entry import Input
from zoo.errors import ZooError

SIZE = Input(size=(1, 8, 8), mean=(0.5,), std=(0.25,))
RECIPE = Recipe(
    epochs=3, batch_size=20, lr=0.01, min_lr=0.001, warmup_epochs=1, label_smoothing=0.1, bf16=False
)


class Stop(Exception):
    """What a test raises in place of an interruption."""


class Net(nn.Module):
    """Two ways to the logits, with dropout, and a tensor that only one of them uses."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.hidden = nn.Linear(64, 12)
        self.extra = nn.Linear(12, 12)
        self.dropout = nn.Dropout(0.2)
        self.table = nn.Parameter(torch.ones(3, 10))
        self.head = nn.Linear(12, 10)

    def no_weight_decay(self):
        return {'table'}

    def forward(self, x, deep=True):
        x = self.hidden(x.flatten(1)).relu()
        x = self.extra(x).relu() if deep else x
        return self.head(self.dropout(x)) + self.table.sum(0)


def digits(count: int = 60) -> Images:
    images = Data(DataConfig(), SIZE).images('train')
    images.indices = images.indices[:count]
    return images


def fit(model, folder, networks=None, recipe=RECIPE, fault=None, images=None, seconds=0.0):
    with Run(folder, {}, {'searchzoo': '1'}, seconds, fault, quiet=True) as run:
        train(
            model,
            networks or (lambda step: [model]),
            images or digits(),
            recipe,
            num_classes=10,
            phase='fit',
            label='fitting',
            seed=7,
            run=run,
        )
    return model


def plain_loop(model, networks, recipe=RECIPE):
    """What train must do, written down step by step; the parameters that decay are named by hand."""
    decays = [model.hidden.weight, model.extra.weight, model.head.weight]
    others = [p for p in model.parameters() if all(p is not d for d in decays)]
    groups = [
        {'params': decays, 'weight_decay': recipe.weight_decay},
        {'params': others, 'weight_decay': 0.0},
    ]
    optimizer = torch.optim.AdamW(groups)
    for step, (x, y) in enumerate(train_batches(digits(), 20, 7, 0, 9)):
        done = (step + 1) / 3
        if done < 1:
            lr = 0.01 * done
        else:
            lr = 0.001 + 0.009 * 0.5 * (1 + math.cos(math.pi * (done - 1) / 2))
        for group in optimizer.param_groups:
            group['lr'] = lr
        drawn = networks(step)
        sum(F.cross_entropy(network(x), y, label_smoothing=0.1) for network in drawn).div(
            len(drawn)
        ).backward()
        if recipe.clip_grad:
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_grad)
        optimizer.step()
        optimizer.zero_grad()
    return model


def assert_same(one: nn.Module, other: nn.Module, exact: bool = True) -> None:
    for (key, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b) if exact else torch.allclose(a, b, rtol=1e-4, atol=1e-6), key


@pytest.mark.parametrize('clip_grad', [None, 0.5])
def test_equals_a_plain_loop(tmp_path, clip_grad):
    recipe = RECIPE.model_copy(update={'clip_grad': clip_grad})
    ours, theirs = Net(), Net()
    for model in (ours, theirs):
        model.dropout.p = 0.0
    fit(ours, tmp_path, lambda step: [ours, partial(ours, deep=False)], recipe)
    plain_loop(theirs, lambda step: [theirs, partial(theirs, deep=False)], recipe)
    assert_same(ours, theirs, exact=False)
    assert (ours.hidden.weight - Net().hidden.weight).abs().max() > 0.01


@pytest.mark.parametrize(('opt', 'nesterov'), [('nesterov', True), ('sgd', True), ('momentum', False)])
def test_sgd_with_and_without_nesterov(tmp_path, opt, nesterov):
    recipe = RECIPE.model_copy(update={'opt': opt, 'lr': 0.1, 'min_lr': 0.1, 'warmup_epochs': 0})
    ours, theirs = Net(), Net()
    for model in (ours, theirs):
        model.dropout.p = 0.0
    fit(ours, tmp_path, recipe=recipe)
    decays = [theirs.hidden.weight, theirs.extra.weight, theirs.head.weight]
    others = [theirs.hidden.bias, theirs.extra.bias, theirs.head.bias, theirs.table]
    groups = [{'params': decays, 'weight_decay': 0.05}, {'params': others}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=nesterov)
    for x, y in train_batches(digits(), 20, 7, 0, 9):
        optimizer.zero_grad()
        F.cross_entropy(theirs(x), y, label_smoothing=0.1).backward()
        optimizer.step()
    assert_same(ours, theirs, exact=False)


class Normed(Net):
    """With statistics, which are averaged as weights are."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(64)

    def forward(self, x):
        return super().forward(self.norm(x.flatten(1))[:, :, None, None])


def test_ends_in_the_moving_average(tmp_path):
    """A step leaves 0.9 of the average and adds 0.1 of the weights; it begins with the initial ones."""
    seen = []

    def networks(step):
        seen.append({key: value.double() for key, value in raw.state_dict().items()})
        return [raw]

    raw, averaged = Normed(), Normed()
    fit(raw, tmp_path / 'raw', networks)
    seen.append({key: value.double() for key, value in raw.state_dict().items()})
    fit(averaged, tmp_path / 'averaged', recipe=RECIPE.model_copy(update={'ema': 0.9}))
    for key, value in averaged.state_dict().items():
        if value.is_floating_point():
            expected = seen[0][key] * 0.9**9
            for step, weights in enumerate(seen[1:], 1):
                expected = expected + 0.1 * 0.9 ** (9 - step) * weights[key]
            torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-7, msg=key)
            assert not torch.equal(value.double(), seen[-1][key])
        else:
            assert value == seen[-1][key]


def test_a_tensor_that_no_network_of_a_step_uses_does_not_move(tmp_path):
    seen = []

    def networks(step):
        seen.append(model.extra.weight.detach().clone())
        return [partial(model, deep=step < 4)]

    model = Net()
    fit(model, tmp_path, networks)
    after = [*seen[1:], model.extra.weight.detach()]
    assert all(not torch.equal(seen[0], moved) for moved in after[:4])
    assert all(torch.equal(after[3], still) for still in after[4:])


MIXED = RECIPE.model_copy(
    update={'augment': Augment(scale=(0.5, 1.0), mixup=0.8, cutmix=1.0), 'clip_grad': 1.0}
)


def augmented() -> Images:
    images = Data(DataConfig(), SIZE).images('train', MIXED.augment, 5)
    images.indices = images.indices[:60]
    return images


def both(model):
    return lambda step: [model, partial(model, deep=step % 3 == 0)]


@pytest.fixture(scope='module')
def whole(tmp_path_factory) -> Net:
    model = Net()
    return fit(model, tmp_path_factory.mktemp('whole'), both(model), MIXED, images=augmented())


def fit_in_two(folder, stop_after, recipe=MIXED) -> Net:
    """A training that was interrupted after so many steps."""
    saved = []

    def fault(point):
        saved.append(point)
        if saved.count('fit: saved') == stop_after:
            raise Stop

    first, second = Net(), Net()
    with pytest.raises(Stop):
        fit(first, folder, both(first), recipe, fault, augmented())
    torch.manual_seed(99)
    return fit(second, folder, both(second), recipe, images=augmented())


@pytest.mark.parametrize('stop_after', range(1, 9))
def test_continues_exactly_after_any_step(tmp_path, whole, stop_after):
    assert_same(whole, fit_in_two(tmp_path, stop_after))


@pytest.mark.parametrize('stop_after', [1, 4, 8])
def test_the_average_and_repeated_images_continue_exactly(tmp_path, whole, stop_after):
    recipe = MIXED.model_copy(update={'ema': 0.8, 'repeats': 3, 'opt': 'nesterov', 'cooldown_epochs': 1})
    model = Net()
    fit(model, tmp_path / 'whole', both(model), recipe, images=augmented())
    assert_same(model, fit_in_two(tmp_path / 'parts', stop_after, recipe))
    assert not torch.equal(model.head.weight, whole.head.weight)


def test_does_not_depend_on_the_global_generators_nor_change_them(tmp_path, whole):
    torch.manual_seed(123)
    np.random.seed(5)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    model = Net()
    torch.set_rng_state(before[0])
    fit(model, tmp_path, both(model), MIXED, images=augmented(), seconds=1e9)
    assert_same(whole, model)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002


def test_dropout_differs_from_place_to_place_in_a_step(tmp_path):
    model, masks = Net(), []

    def network(x):
        masks.append(F.dropout(torch.ones(50), 0.5))
        return model(x)

    fit(model, tmp_path, lambda step: [network, network])
    assert len({tuple(mask.tolist()) for mask in masks}) == len(masks) == 18


def test_a_loss_that_is_no_number_is_one_error(tmp_path):
    model = Net()
    with pytest.raises(ZooError, match='the loss is nan at step 0'):
        fit(model, tmp_path, lambda step: [lambda x: model(x) * math.nan])
    assert not (tmp_path / 'checkpoint.pt').exists()


def test_recipes_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match='mixup and cutmix need an even batch_size, found 15'):
        Recipe(epochs=1, batch_size=15, lr=0.1, augment=Augment(mixup=0.8))
    with pytest.raises(ValueError, match=r'no optimizer of timm \(did you mean adamw'):
        Recipe(epochs=1, batch_size=15, lr=0.1, opt='adamww')


def test_learning_rate():
    recipe = Recipe(epochs=300, batch_size=1, lr=1e-3, min_lr=1e-5, warmup_epochs=20)
    assert learning_rate(recipe, 5) == pytest.approx(2.5e-4)
    assert learning_rate(recipe, 20) == pytest.approx(1e-3)
    assert learning_rate(recipe, 160) == pytest.approx((1e-3 + 1e-5) / 2)
    assert learning_rate(recipe, 300) == pytest.approx(1e-5)
    rates = [learning_rate(recipe, epoch) for epoch in range(301)]
    assert sorted(rates[:21]) == rates[:21]
    assert sorted(rates[20:], reverse=True) == rates[20:]


def test_the_last_epochs_cool_down():
    recipe = Recipe(epochs=310, cooldown_epochs=10, batch_size=1, lr=1e-3, min_lr=1e-5, warmup_epochs=20)
    plain = Recipe(epochs=300, batch_size=1, lr=1e-3, min_lr=1e-5, warmup_epochs=20)
    for epoch in (0.5, 20, 160, 299, 300):
        assert learning_rate(recipe, epoch) == learning_rate(plain, epoch)
    assert {learning_rate(recipe, epoch) for epoch in (300, 301.5, 310)} == {1e-5}


def test_dropout_reaches_networks_and_sub_networks():
    """The supernet's sub-network drops what the zoo's own network with its weights drops."""
    overrides = ('supernet.recipe.drop_rate=0.5', 'supernet.recipe.drop_path_rate=0')
    problem = Problem(load_config(Path(__file__).with_name('tiny.yaml'), overrides))
    supernet = problem.make_supernet().train()
    arch = problem.space.decode(problem.space.space.largest())
    model = problem.build(arch, drop_rate=0.5, drop_path_rate=0.0).train()
    model.load_state_dict(supernet.extract(arch))
    x = digits_of(problem)
    torch.manual_seed(3)
    expected = model(x)
    torch.manual_seed(3)
    assert torch.equal(draw_networks(problem, supernet, 0)[0](x), expected)
    assert not torch.allclose(supernet(arch, x), expected)

    recipe = Recipe(epochs=1, batch_size=1071, lr=0.1, drop_rate=0.5)
    trained = problem.train_alone(arch, recipe, 'alone', '', Unrecorded())
    assert {module.p for module in trained.head.modules() if isinstance(module, nn.Dropout)} == {0.5}


def digits_of(problem: Problem) -> torch.Tensor:
    return torch.stack([problem.data.images('train')[0, i][0] for i in range(8)])


def test_bf16_is_used_where_the_processor_multiplies_it():
    cpuinfo = Path('/proc/cpuinfo')  # elsewhere than on Linux no processor is known to
    flags = cpuinfo.read_text().split() if cpuinfo.exists() else []
    cpu = torch.device('cpu')
    assert bf16_supported(cpu) == bool({'avx512_bf16', 'amx_tile'} & set(flags))
    with autocast(cpu, True):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if bf16_supported(cpu) else torch.float32)
    with autocast(cpu, False):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.parametrize('num_classes', [10, 12])
def test_evaluate_counts_hits(num_classes):
    images = digits(50)
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes)).train()
    x, labels = images.tensors()
    ranks = model(x).argsort(1, descending=True)
    top1 = 100 * (ranks[:, 0] == labels).sum().item() / 50
    top5 = (
        100 * sum(label in row[:5] for row, label in zip(ranks.tolist(), labels.tolist(), strict=True)) / 50
    )
    expected = {'top1': top1, 'top5': top5} if num_classes > 10 else {'top1': top1}
    assert evaluate(model, images, batch_size=16) == pytest.approx(expected)
