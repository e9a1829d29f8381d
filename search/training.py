"""The one training loop: for a supernet, whose sub-networks share a step, and for a network alone."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator, model_validator
from timm.data import Mixup
from timm.optim import create_optimizer_v2, list_optimizers
from timm.utils import ModelEmaV3
from torch import nn

from search.data import Augment, Images, eval_batches, train_batches
from search.distributed import average_gradients, average_values, make_accelerator
from search.run import Run, Unrecorded
from search.section import Section
from search.seeding import forked_rng
from zoo.arch import Part
from zoo.errors import ZooError
from zoo.registry import suggest

__all__ = [
    'Diverged',
    'Network',
    'Recipe',
    'autocast',
    'bf16_supported',
    'check_share',
    'device',
    'evaluate',
    'learning_rate',
    'train',
]

Network = Callable[[torch.Tensor], torch.Tensor]
"""From images (B, C, H, W) to logits (B, num_classes)."""

STEPS_BETWEEN_EVENTS = 50


class Diverged(ZooError, ArithmeticError):
    """A training whose loss is no longer a number."""


class Recipe(Part):
    """How a network is trained. The learning rate rises linearly, then falls as a cosine, step by step."""

    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]
    lr: Annotated[float, Field(gt=0)]
    min_lr: Annotated[float, Field(ge=0)] = 0.0
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    cooldown_epochs: Annotated[float, Field(ge=0)] = Field(0.0, description='the last ones, at min_lr')
    opt: str = Field(
        'adamw',
        description='an optimizer of timm.optim, such as adamw, nesterov or momentum (both 0.9); tensors '
        "of one axis and the network's no_weight_decay() do not decay",
    )
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    drop_rate: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description='dropout before the classifier')
    drop_path_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0
    clip_grad: Annotated[float, Field(gt=0)] | None = Field(None, description='largest norm of the gradient')
    bf16: bool = Field(True, description='autocast where the machine computes in bfloat16')
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description='decay of a moving average of the weights, in which the training ends; null: none'
    )
    augment: Augment | None = None
    repeats: Annotated[int, Field(ge=1, le=100)] = Field(
        1, description='times that an image stands in a batch, each augmented anew; epochs stay as long'
    )

    @field_validator('opt')
    @classmethod
    def _check_opt(cls, opt: str) -> str:
        if opt not in (known := [str(name) for name in list_optimizers()]):
            raise ValueError(f'it is no optimizer of timm{suggest(opt, known)}')
        return opt

    @model_validator(mode='after')
    def _check_mixup(self) -> 'Recipe':
        mixes = self.augment is not None and (self.augment.mixup or self.augment.cutmix)
        if mixes and self.batch_size % 2:
            raise ValueError(f'mixup and cutmix need an even batch_size, found {self.batch_size}')
        return self


def train(
    model: nn.Module,
    networks: Callable[[int], Sequence[Network]],
    images: Images,
    recipe: Recipe,
    *,
    num_classes: int,
    phase: str,
    label: str,
    seed: int,
    run: Run | Section | Unrecorded,
    num_workers: int = 0,
    penalty: Callable[[int], torch.Tensor] | None = None,
) -> None:
    """Trains in place, from the run's checkpoint of this phase if there is one.

    Several processes (see :mod:`search.distributed`) draw the same networks and share each batch: the result
    is that of one process, but for what depends on a batch as a whole, batch norm and mixup.

    Args:
        model: Owns the parameters; it is moved to the device and set to training.
        networks: What to run at a step: their mean loss is minimised. Parameters that none of them uses stay
            as they are: they have no gradient, so that neither weight decay nor momentum moves them.
        images: What to train on.
        recipe: How.
        num_classes: Width of the logits.
        phase: Name for checkpoints and events.
        label: Name for the progress bar.
        seed: Of the order of images, and of dropout per (phase, step, place in the step).
        run: Where checkpoints and events go.
        num_workers: Processes that load images.
        penalty: What is added to the loss of a step.

    Raises:
        Diverged: The loss is no longer a number.
        ZooError: The processes cannot share a batch equally.
    """
    accelerator = make_accelerator()
    device = accelerator.device
    rank, size = run.world
    check_share(recipe, size)
    model.to(device).train()
    optimizer = create_optimizer_v2(model, recipe.opt, lr=recipe.lr, weight_decay=recipe.weight_decay)
    ema = None if recipe.ema is None else ModelEmaV3(model, recipe.ema)
    mix = _mixup(recipe, num_classes)
    steps_per_epoch = len(images) // recipe.batch_size
    total = recipe.epochs * steps_per_epoch
    place = [rank] if size > 1 else []
    start = 0
    losses = torch.zeros(2, dtype=torch.float64, device=device)  # sum and number since the last event
    if (state := run.load(phase)) is not None:
        model.load_state_dict(state['model'])
        optimizer.load_state_dict(state['optimizer'])
        start, losses = state['step'], state['losses'].to(device)
        if ema is not None:
            ema.module.load_state_dict(state['ema'])

    batches = train_batches(
        images, recipe.batch_size, seed, start, total, num_workers, rank, size, recipe.repeats
    )
    with run.progress(label, total, start) as progress:
        for step, (x, target) in enumerate(batches, start):
            lr = learning_rate(recipe, (step + 1) / steps_per_epoch)
            for group in optimizer.param_groups:
                group['lr'] = lr * group.get('lr_scale', 1.0)
            x, target = x.to(device), target.to(device)
            if mix is not None:
                with forked_rng(seed, phase, step, 'mixup', *place):
                    x, target = mix(x, target)
            drawn = networks(step)
            for slot, network in enumerate(drawn):
                with (
                    forked_rng(seed, phase, step, slot, *place, device=device),
                    autocast(device, recipe.bf16),
                ):
                    loss = F.cross_entropy(network(x), target, label_smoothing=recipe.label_smoothing)
                accelerator.backward(loss / len(drawn))
                losses += torch.stack([loss.detach().double(), losses.new_ones(())])
            if penalty is not None:
                accelerator.backward(penalty(step))
            average_gradients(model.parameters(), size)
            if recipe.clip_grad is not None:
                accelerator.clip_grad_norm_(model.parameters(), recipe.clip_grad)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if ema is not None:
                ema.update(model)

            done = step + 1
            note = ''
            if done % STEPS_BETWEEN_EVENTS == 0 or done == total:
                average_values(losses, size)
                mean = _mean_loss(losses, phase, step)
                run.log(phase, done, epoch=done / steps_per_epoch, loss=mean, lr=lr)
                losses.zero_()
                note = f'loss {mean:.3f}'
            progress.update(note)
            run.reached(f'{phase}: step')
            if run.due() and done < total:
                average_values(losses, size)
                _mean_loss(losses, phase, step)
                state = {
                    'model': model.state_dict(),
                    'optimizer': optimizer.state_dict(),
                    'step': done,
                    'losses': losses,
                }
                if ema is not None:
                    state['ema'] = ema.module.state_dict()
                run.save(phase, state)
    if ema is not None:
        model.load_state_dict(ema.module.state_dict())


def check_share(recipe: Recipe, size: int) -> None:
    """Refuses batches that so many processes cannot share equally."""
    share, rest = divmod(recipe.batch_size, size)
    if rest:
        raise ZooError(f'batch_size: found {recipe.batch_size}, {size} processes cannot share it equally.')
    if share % 2 and _mixup(recipe, 2) is not None:
        raise ZooError(
            f'batch_size: found {recipe.batch_size} for {size} processes, mixup needs an even share for each.'
        )


def _mean_loss(losses: torch.Tensor, phase: str, step: int) -> float:
    total, count = losses.tolist()
    if not math.isfinite(total):
        raise Diverged(
            f'{phase}: the loss is {total} at step {step}; a lower lr, more warm-up or clip_grad can help.'
        )
    return total / max(count, 1)


def _mixup(recipe: Recipe, num_classes: int) -> Mixup | None:
    augment = recipe.augment
    if augment is None or augment.mixup == augment.cutmix == 0:
        return None
    # cross_entropy smooths the labels, mixed or not
    return Mixup(augment.mixup, augment.cutmix, label_smoothing=0.0, num_classes=num_classes)


def device() -> torch.device:
    """Where networks run: what accelerate chooses, by default a GPU if there is one."""
    return make_accelerator().device


def learning_rate(recipe: Recipe, epoch: float) -> float:
    """The rate after so many epochs: linear from 0 to lr while warming up, then a cosine down to min_lr."""
    if epoch < recipe.warmup_epochs:
        return recipe.lr * epoch / recipe.warmup_epochs
    falling = recipe.epochs - recipe.warmup_epochs - recipe.cooldown_epochs
    progress = (epoch - recipe.warmup_epochs) / max(falling, 1e-9)
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def bf16_supported(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware; elsewhere autocast only costs time."""
    if device.type == 'cuda':
        return torch.cuda.is_bf16_supported(including_emulation=False)
    checks = ('_is_avx512_bf16_supported', '_is_amx_tile_supported')
    return device.type == 'cpu' and any(getattr(torch.cpu, check, bool)() for check in checks)


def autocast(device: torch.device, bf16: bool) -> AbstractContextManager:
    """The context that a network runs in."""
    return torch.autocast(device.type, torch.bfloat16) if bf16 and bf16_supported(device) else nullcontext()


@torch.no_grad()
def evaluate(model: nn.Module, images: Images, batch_size: int, num_workers: int = 0) -> dict[str, float]:
    """Accuracy in float32, in per cent, as ``timm.create_model(...)`` gives it on these images.

    Returns:
        top1, and top5 for more than ten classes.
    """
    device = next(model.parameters()).device
    model.eval()
    correct = torch.zeros(2, dtype=torch.int64, device=device)
    num_classes = 0
    for x, labels in eval_batches(images, batch_size, num_workers):
        logits = model(x.to(device))
        num_classes = logits.shape[1]
        hits = logits.topk(min(5, num_classes)).indices == labels.to(device)[:, None]
        correct += torch.stack([hits[:, :1].sum(), hits.sum()])
    top1, top5 = (round(100 * count / len(images), 4) for count in correct.tolist())
    return {'top1': top1, 'top5': top5} if num_classes > 10 else {'top1': top1}
