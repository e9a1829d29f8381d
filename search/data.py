"""One door to data: scikit-learn's digits, and every name that ``timm.data.create_dataset`` takes.

A data set has three roles: ``train`` teaches weights, ``val`` chooses between candidates, ``test`` is read
once, for the final figure. A fourth, ``recheck``, can be cut from val: no search sees it, and it shows how
much of what the best candidates have scored was luck. Images are addressed by (epoch, index), and their
augmentation is seeded by that, so that a run sees the same bytes whatever the number of workers and wherever
it was interrupted.
"""

import signal
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from timm.data import create_transform
from timm.data.auto_augment import AugmentOp, AugMixAugment, AutoAugment, RandAugment, posterize
from timm.data.transforms import str_to_interp_mode
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from search.planted import PLANTED, planted_indices
from search.seeding import derive_seed, forked_rng, seed_all
from search.sources import (
    EMBEDDED,
    DataConfig,
    Role,
    carve,
    check_config,
    digits_indices,
    open_split,
    read_labels,
)
from zoo.arch import Part
from zoo.entry import Input
from zoo.errors import ZooError

__all__ = ['Augment', 'Data', 'DataConfig', 'Images', 'Role', 'eval_batches', 'train_batches']

Probability = Annotated[float, Field(ge=0, le=1)]


class Augment(Part):
    """Random changes of training images, in timm's words and with timm's transforms."""

    scale: tuple[Probability, Probability] = (0.08, 1.0)
    ratio: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.75, 1.3333333333333333)
    pad: Annotated[int, Field(ge=0)] | None = Field(
        None, description='in place of scale and ratio: resize, add so many black pixels on each side, crop'
    )
    hflip: Probability = 0.5
    color_jitter: Annotated[float, Field(ge=0)] = 0.0
    auto_augment: str | None = None
    re_prob: Probability = Field(0.0, description='random erasing')
    mixup: Annotated[float, Field(ge=0)] = Field(0.0, description='alpha')
    cutmix: Annotated[float, Field(ge=0)] = Field(0.0, description='alpha')


class Images(Dataset):
    """Some images of a data set through a transform, by (epoch, index), as (Tensor[C, H, W], label)."""

    def __init__(
        self,
        source: Any,
        indices: Sequence[int],
        transform: Any,
        mode: str,
        seed: int | None,
        kept: dict[int, tuple[torch.Tensor, int]] | None = None,
    ):
        """
        Args:
            source: Gives (PIL image, label) by index.
            indices: Which of them.
            transform: From PIL image to tensor.
            mode: PIL mode, 'L' or 'RGB'.
            seed: Of a random transform; None for one that is not random.
            kept: What was transformed before, not at random, by its place in the source; None to keep none.
        """
        self.source = source
        self.indices = indices
        self.transform = transform
        self.mode = mode
        self.seed = seed
        self.kept = kept

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, int]:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> list[tuple[torch.Tensor, int]]:
        """A batch, for DataLoader: saving and restoring the generators takes longer than seeding them."""
        places = [self.indices[index] for _, index in keys]
        if self.kept is not None and all(place in self.kept for place in places):
            return [self.kept[place] for place in places]
        found = []
        with forked_rng():
            for epoch, index in keys:
                image, label = self.source[self.indices[index]]
                if self.seed is not None:
                    seed_all(self.seed, 'augment', epoch, index)
                found.append((self.transform(image.convert(self.mode)), int(label)))
        if self.kept is not None:
            self.kept.update(zip(places, found, strict=True))
        return found

    def tensors(self, batch_size: int = 256, num_workers: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """All images (N, C, H, W), float32, and labels (N,) at once."""
        batches = list(eval_batches(self, batch_size, num_workers))
        return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


class Data:
    """A data set by role. Nothing of a split is read before its role is asked for."""

    def __init__(self, config: DataConfig, image: Input):
        """
        Args:
            config: The data set.
            image: Size and preprocessing; one or three channels.

        Raises:
            ZooError: The name is unknown, or roles share a split.
        """
        if image.size[0] not in (1, 3):
            raise ZooError(f'input.size: found {image.size[0]} channels, data sets give 1 (grey) or 3 (RGB).')
        check_config(config)
        self.config = config
        self.input = image
        self._sources: dict[str, Any] = {}
        self._carved: dict[str, list[int]] | None = None
        self._kept: dict[int, tuple[torch.Tensor, int]] = {}

    def images(self, role: Role, augment: Augment | None = None, seed: int | None = None) -> Images:
        """The images of a role, unchanged or, with ``augment`` and ``seed``, randomly changed."""
        source, indices = self._select(role)
        if not indices:
            raise ZooError(f'data: {self._label()} has no images for {role}.')
        mode = 'L' if self.input.size[0] == 1 else 'RGB'
        fixed = augment is None
        kept = self._kept if fixed and self.config.name in EMBEDDED else None
        return Images(source, indices, self._transform(augment), mode, None if fixed else seed, kept)

    def has(self, role: Role) -> bool:
        """Whether any images play this role."""
        return len(self._select(role)[1]) > 0

    @cached_property
    def num_classes(self) -> int:
        """Classes of the training split, numbered from 0."""
        return max(read_labels(self._source('train'), self._label())) + 1

    def _label(self) -> str:
        return f'{self.config.name!r}' + (f' in {self.config.root}' if self.config.root else '')

    def _select(self, role: Role) -> tuple[Any, Sequence[int]]:
        if role == 'val' or role == 'recheck':
            source, indices = self._select_whole('val')
            return source, self._cut(source, indices)[role]
        return self._select_whole(role)

    def _cut(self, source: Any, indices: Sequence[int]) -> dict[str, Sequence[int]]:
        """The whole of val, divided into what a search sees and what it does not."""
        size = self.config.recheck_size
        if not size or not indices:
            return {'val': indices, 'recheck': []}
        count = round(size * len(indices)) if size < 1 else int(size)
        labels = read_labels(source, self._label())
        seed = derive_seed(self.config.split_seed, 'recheck')
        val, recheck = carve(indices, labels, count, seed, 'val')
        return {'val': val, 'recheck': recheck}

    def _select_whole(self, role: Literal['train', 'val', 'test']) -> tuple[Any, Sequence[int]]:
        if self.config.name == 'digits':
            return self._source('train'), digits_indices(role, self._source('train'))
        if self.config.name in PLANTED:
            return self._source('train'), planted_indices(role)
        own = {'val': self.config.val, 'test': self.config.test}.get(role)
        if own is not None:
            source = self._source(role)
            if max(read_labels(source, self._label())) >= self.num_classes:
                raise ZooError(f'data: {self._label()}: {role} has classes that train does not have.')
            return source, range(len(source))
        return self._source('train'), self._carve()[role]

    def _carve(self) -> dict[str, list[int]]:
        """Indices into the train split by role; what is not carved for val or test stays train."""
        if self._carved is None:
            labels = read_labels(self._source('train'), self._label())
            rest = list(range(len(labels)))
            carved: dict[str, list[int]] = {}
            for role, split, size in (
                ('test', self.config.test, self.config.test_size),
                ('val', self.config.val, self.config.val_size),
            ):
                if split is None and size == 0:
                    carved[role] = []
                elif split is None:
                    count = round(size * len(labels)) if size < 1 else int(size)
                    rest, carved[role] = carve(rest, labels, count, derive_seed(self.config.split_seed, role))
            self._carved = {'train': rest, **carved}
        return self._carved

    def _source(self, role: Role) -> Any:
        split = getattr(self.config, role)
        if split not in self._sources:
            self._sources[split] = open_split(self.config, split)
        return self._sources[split]

    def _transform(self, augment: Augment | None) -> Any:
        image = self.input
        args: dict[str, Any] = dict(
            input_size=image.size, interpolation=image.interpolation, mean=image.mean, std=image.std
        )
        if augment is None:
            return create_transform(**args, crop_pct=image.crop_pct, crop_mode=image.crop_mode)
        args |= augment.model_dump(exclude={'mixup', 'cutmix', 'pad'})
        try:
            transform = create_transform(**args, is_training=True, re_mode='pixel')
        except (AssertionError, KeyError, ValueError, IndexError) as error:
            reason = f'{type(error).__name__} {error}'.strip()
            raise ZooError(f'augment: timm does not take {augment.auto_augment!r}: {reason}.') from None
        _keep_posterize(transform)
        if augment.pad is not None:
            size = image.size[1:]
            resize = transforms.Resize(size, str_to_interp_mode(image.interpolation))
            transform.transforms[:1] = [resize, transforms.RandomCrop(size, augment.pad)]
        return transform


def _keep_posterize(transform: transforms.Compose) -> None:
    """Lets timm's policies of augmentation keep no bit of an image, as they do at times: it becomes black.

    So it did when the papers' networks were trained; Pillow 13 refuses.
    """
    ops: list[AugmentOp] = []
    for part in transform.transforms:
        if isinstance(part, (RandAugment, AugMixAugment)):
            ops += part.ops
        elif isinstance(part, AutoAugment):
            ops += [op for policy in part.policy for op in policy]
    for op in ops:
        if op.aug_fn is posterize:
            op.aug_fn = _posterize


def _posterize(image: Image.Image, bits: int, **options: Any) -> Image.Image:
    return posterize(image, bits, **options) if bits else Image.new(image.mode, image.size)


class _TrainKeys:
    """The (epoch, index) keys of each step's batch; a step's depend on nothing but the seed and the step."""

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        start: int,
        stop: int,
        rank: int,
        processes: int,
        repeats: int,
    ):
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.start, self.stop, self.repeats = start, stop, repeats
        share = batch_size // processes
        self.share = slice(rank * share, (rank + 1) * share)

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        steps_per_epoch = self.size // self.batch_size
        order: list[int] = []
        order_epoch = -1
        for step in range(self.start, self.stop):
            epoch, i = divmod(step, steps_per_epoch)
            if epoch != order_epoch:
                rng = np.random.Generator(np.random.PCG64(derive_seed(self.seed, 'order', epoch)))
                order, order_epoch = np.argsort(rng.random(self.size), kind='stable').tolist(), epoch
            places = range(i * self.batch_size, (i + 1) * self.batch_size)[self.share]
            copies = (divmod(place, self.repeats) for place in places)
            yield [(epoch * self.repeats + copy, order[place]) for place, copy in copies]


def train_batches(
    images: Images,
    batch_size: int,
    seed: int,
    start: int,
    stop: int,
    num_workers: int = 0,
    rank: int = 0,
    processes: int = 1,
    repeats: int = 1,
) -> DataLoader:
    """Batches of steps ``start`` to ``stop``, shuffled anew each epoch, without its incomplete last one.

    Repeated augmentation (arXiv 1902.05509), as in DeiT: an epoch has as many batches as without, of fewer
    images, drawn anew, each so many times in a row and augmented differently.

    Args:
        images: What to train on.
        batch_size: Images of a step.
        seed: Of the order.
        start: First step, counted from the beginning of the training.
        stop: Step after the last one.
        num_workers: Processes that load; the batches do not depend on it.
        rank: Which part of each batch this process gets.
        processes: Into how many parts batches are divided.
        repeats: Times that an image occurs.

    Raises:
        ZooError: There are fewer images than a batch has.
    """
    if len(images) < batch_size:
        raise ZooError(
            f'batch_size: found {batch_size}, at most the {len(images)} training images are allowed.'
        )
    keys = _TrainKeys(len(images), batch_size, seed, start, stop, rank, processes, repeats)
    return DataLoader(images, batch_sampler=keys, **_loader_args(num_workers))  # type: ignore[arg-type]


def eval_batches(images: Images, batch_size: int, num_workers: int = 0) -> DataLoader:
    """All images once, in order."""
    keys = [
        [(0, i) for i in range(first, min(first + batch_size, len(images)))]
        for first in range(0, len(images), batch_size)
    ]
    return DataLoader(images, batch_sampler=keys, **_loader_args(num_workers))  # type: ignore[arg-type]


def _loader_args(num_workers: int) -> dict[str, Any]:
    # a generator of its own, so that a loader does not advance torch's global one
    return dict(num_workers=num_workers, generator=torch.Generator(), worker_init_fn=_ignore_signals)


def _ignore_signals(_: int) -> None:
    """Ctrl-C, and often SIGTERM, reach every process; the main one decides when the workers end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
