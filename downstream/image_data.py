"""Labelled images for MMEngine's data loaders, by the names that ``searchzoo zoo evaluate`` knows."""

import random
from typing import Any

import numpy as np
import torch
from mmengine.registry import DATASETS, FUNCTIONS
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, default_collate
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from zoo.errors import ZooError
from zoo.images import Images, count_classes, open_images, read_labels

__all__ = ['ZooImages', 'collate_images']


@DATASETS.register_module()
class ZooImages(Dataset):
    """A data set, or some classes of it, as (uint8 Tensor[C, H, W], label); the model normalises it.

    An image is resized, whatever its shape was, and cropped; to learn from, at random and mirrored at random.

    Args:
        data: digits, cars, aircraft, cub, caltech101, flowers102, a folder with a sub-folder for each class
            (and perhaps one above these for each split), or a name of timm's.
        size: Height and width that images are resized to, in pixels.
        crop: Height and width of the part that is used; by default all.
        root: Where a data set that has a name is kept.
        split: As for :func:`zoo.images.open_images`.
        classes: The first class and the one after the last; their labels become 0, 1, ... By default all.
        training: Whether images are changed at random.
        hflip: How often they are mirrored, if so.
        mode: ``RGB`` or ``L`` (grey).
        interpolation: As PIL calls it.
        download: Whether a data set that has a name may be downloaded.

    Attributes:
        labels: Of each image.
        num_classes: How many there are.

    Raises:
        ZooError: There is no such data set, it has not these classes or fewer than two, or files are missing.
    """

    def __init__(
        self,
        data: str,
        size: int,
        crop: int | None = None,
        root: str | None = None,
        split: str | None = None,
        classes: tuple[int, int] | None = None,
        training: bool = False,
        hflip: float = 0.0,
        mode: str = 'RGB',
        interpolation: str = 'bicubic',
        download: bool = False,
    ) -> None:
        source, self.name = open_images(data, split, root, download)
        if isinstance(source, IterableDataset):
            raise ZooError(f'{self.name} can only be read in one piece, images by number are needed.')
        if not 1 <= (crop or size) <= size:
            raise ZooError(f'crop: found {crop}, 1 to {size} is possible, which images are resized to.')
        labels = read_labels(source, self.name)
        total = count_classes(source) or max(labels) + 1
        first, stop = classes or (0, total)
        if not 0 <= first < stop <= total:
            raise ZooError(f'{self.name} has {total} classes, {first} to {stop} are asked for.')
        self.num_classes = stop - first
        if self.num_classes < 2:
            raise ZooError(f'{self.name}: found one class, at least two are needed.')
        self.metainfo = {'name': self.name}  # MMEngine asks for it
        self.indices = [index for index, label in enumerate(labels) if first <= label < stop]
        self.labels = [labels[index] - first for index in self.indices]
        self.size, self.crop = size, crop or size
        self.hflip = hflip if training else 0.0
        self.training = training
        self.resample = InterpolationMode(interpolation)
        self._images = Images(source, self._transform, mode)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, int] | ZooError:
        found = self._images[self.indices[index]]
        return found if isinstance(found, ZooError) else (found[0], self.labels[index])

    def _transform(self, image: Image.Image) -> Tensor:
        image = F.resize(image, [self.size, self.size], self.resample)
        spare = self.size - self.crop
        # Python's random numbers, not PyTorch's: those are what a resumed run repeats
        top, left = (random.randint(0, spare) if self.training else spare // 2 for _ in range(2))
        image = F.crop(image, top, left, self.crop, self.crop)
        if random.random() < self.hflip:
            image = F.hflip(image)
        pixels = torch.from_numpy(np.array(image))
        return pixels.reshape(self.crop, self.crop, -1).permute(2, 0, 1).contiguous()


@FUNCTIONS.register_module()
def collate_images(items: list[Any]) -> Any:
    """A batch; or the error of an image that cannot be read, which the model raises.

    Raised in a process that loads, it would reach the user with that process's traceback.
    """
    return next((item for item in items if isinstance(item, ZooError)), None) or default_collate(items)
