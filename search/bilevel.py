"""Weights and architecture parameters in alternation, on two halves of the training images
(Zhou et al., arXiv 2111.07139, Eq. 2 and 3, Sec. III-D; after DARTS, in its first order).

Each step takes one gradient of the weights on the first half, then one of the architecture parameters on the
other half, as though the weights were already the best ones for them.
"""

import math
import random
from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from timm.optim import create_optimizer_v2
from torch import nn

from search.data import Images, train_batches
from search.distributed import average_gradients, average_values, make_accelerator
from search.mixed import mixed_layers, read_alpha, summarise
from search.run import Run, Unrecorded
from search.section import Section
from search.seeding import derive_seed, forked_rng
from search.training import Diverged, Recipe, autocast, check_share, learning_rate
from zoo.arch import Part

__all__ = ['AlphaRecipe', 'Loss', 'alternate', 'halve']

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Of images (B, C, H, W) and their labels (B,); what it draws comes from torch's global generators."""
STEPS_BETWEEN_EVENTS = 25
SIDES = 'weights', 'alpha'
"""What is optimised: the weights w, and the architecture parameters."""


class AlphaRecipe(Part):
    """How the architecture parameters are trained: by Adam, whose decay is a part of the gradient."""

    lr: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)] = 1e-3
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.5, 0.999)


def halve(images: Images, seed: int) -> tuple[Images, Images]:
    """Two halves of equal size, drawn at random (paper, Sec. IV-B1); of an odd number one is left out."""
    order = random.Random(seed).sample(list(images.indices), len(images))
    size = len(order) // 2
    first, second = (
        Images(
            images.source,
            sorted(order[i * size : (i + 1) * size]),
            images.transform,
            images.mode,
            None if images.seed is None else derive_seed(images.seed, side),
        )
        for i, side in enumerate(SIDES)
    )
    return first, second


def alternate(
    model: nn.Module,
    loss: Loss,
    halves: tuple[Images, Images],
    recipe: Recipe,
    alpha: AlphaRecipe,
    *,
    phase: str,
    label: str,
    seed: int,
    run: Run | Section | Unrecorded,
    num_workers: int = 0,
) -> dict[str, float]:
    """Optimises in place, from the run's checkpoint of this phase if there is one.

    Args:
        model: Owns the weights and, in its mixed layers, the architecture parameters.
        loss: Runs the model.
        halves: Images that teach the weights, and as many that teach the architecture parameters.
        recipe: How the weights are trained; the epochs, the batches and the autocast of both.
        alpha: How the architecture parameters are trained.
        phase: As label, seed, run and num_workers, see :func:`search.training.train`.

    Returns:
        Mean losses of the steps since the last but one event: ``loss`` of the weights and ``loss_alpha``.

    Raises:
        Diverged: A loss is no longer a number.
        ZooError: The processes cannot share a batch equally.
    """
    accelerator = make_accelerator()
    device = accelerator.device
    rank, size = run.world
    check_share(recipe, size)
    model.to(device).train()
    alphas = list(dict.fromkeys(layer.alpha for layer in mixed_layers(model).values()))
    weights = [p for p in model.parameters() if not any(p is a for a in alphas)]
    _learn(weights, alphas)
    optimizers = (
        create_optimizer_v2(model, recipe.opt, lr=recipe.lr, weight_decay=recipe.weight_decay),
        torch.optim.Adam(alphas, alpha.lr, alpha.betas, weight_decay=alpha.weight_decay),
    )
    steps_per_epoch = len(halves[0]) // recipe.batch_size
    total = recipe.epochs * steps_per_epoch
    place = [rank] if size > 1 else []
    start = 0
    losses = torch.zeros(3, dtype=torch.float64, device=device)  # of both sides and steps, since an event
    if (state := run.load(phase)) is not None:
        model.load_state_dict(state['model'])
        for optimizer, saved in zip(optimizers, state['optimizers'], strict=True):
            optimizer.load_state_dict(saved)
        start, losses = state['step'], state['losses'].to(device)

    loaders = [
        train_batches(
            images, recipe.batch_size, derive_seed(seed, side), start, total, num_workers, rank, size
        )
        for images, side in zip(halves, SIDES, strict=True)
    ]
    with run.progress(label, total, start) as progress:
        for step, batches in enumerate(zip(*loaders, strict=True), start):
            lr = learning_rate(recipe, (step + 1) / steps_per_epoch)
            for group in optimizers[0].param_groups:
                group['lr'] = lr * group.get('lr_scale', 1.0)
            for slot, ((x, target), optimizer) in enumerate(zip(batches, optimizers, strict=True)):
                learners, others = (alphas, weights) if slot else (weights, alphas)
                _learn(learners, others)
                with (
                    forked_rng(seed, phase, step, slot, *place, device=device),
                    autocast(device, recipe.bf16),
                ):
                    value = loss(x.to(device), target.to(device))
                accelerator.backward(value)
                losses[slot] += value.detach().double()
                average_gradients(learners, size)
                if recipe.clip_grad is not None and not slot:
                    accelerator.clip_grad_norm_(weights, recipe.clip_grad)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            losses[2] += 1

            done = step + 1
            note = ''
            if done % STEPS_BETWEEN_EVENTS == 0 or done == total:
                average_values(losses, size)
                means = _mean_losses(losses, phase, step)
                run.log(
                    phase, done, epoch=done / steps_per_epoch, lr=lr, **means, **summarise(read_alpha(model))
                )
                losses.zero_()
                note = f'loss {means["loss"]:.3f}'
            progress.update(note)
            run.reached(f'{phase}: step')
            if run.due() and done < total:
                average_values(losses, size)
                _mean_losses(losses, phase, step)
                state = {
                    'model': model.state_dict(),
                    'optimizers': [optimizer.state_dict() for optimizer in optimizers],
                    'step': done,
                    'losses': losses,
                }
                run.save(phase, state)
    return means


def _learn(learners: list[nn.Parameter], others: list[nn.Parameter]) -> None:
    """Gradients of the ones only."""
    for parameter in learners:
        parameter.requires_grad_(True)
    for parameter in others:
        parameter.requires_grad_(False)


def _mean_losses(losses: torch.Tensor, phase: str, step: int) -> dict[str, float]:
    of_weights, of_alpha, count = losses.tolist()
    if not math.isfinite(of_weights + of_alpha):
        raise Diverged(
            f'{phase}: the loss is {of_weights + of_alpha} at step {step}; a lower lr, more warm-up or '
            'clip_grad can help.'
        )
    return {'loss': of_weights / max(count, 1), 'loss_alpha': of_alpha / max(count, 1)}
