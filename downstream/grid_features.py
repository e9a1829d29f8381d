"""Grid features of a folder of images, for visual question answering: one map of a network for each image.

S3's paper (arXiv 2111.14725, Table 4) measures its networks so, with settings "aligned with SOHO", whose code
(researchmm/soho) resizes images to a short side of 600 pixels and a long one of at most 1000, keeps their
ratio, pads them by zeros to multiples of 32 and takes the last map. That is done here. Ours, since the paper
is silent: the network's final norm is applied, which the classifier saw too; pictures are turned as their
EXIF data says; and the network is one trained for classification, without further training.

A question's model is no part of this package. What it reads is one file for each image, in the same folders::

    train2014/COCO_train2014_000000000009.jpg
    OUT/train2014/COCO_train2014_000000000009.safetensors    features: (C, H, W), float16 or float32
    OUT/grid_features.json                                   the network, its weights, the preprocessing

>>> from safetensors.torch import load_file
>>> features = load_file('OUT/train2014/COCO_train2014_000000000009.safetensors')['features']
"""

import argparse
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from timm.data import resolve_data_config
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import functional as transforms
from tqdm import tqdm

from downstream.network import check_index, create_network, pad_image, sketch_network
from zoo.convert import save_weights
from zoo.errors import ZooError
from zoo.files import write_atomic
from zoo.jsonfile import clip, format_json, parse_json, read_file

__all__ = ['SETTINGS', 'extract_grid_features', 'parse_size', 'run']

SETTINGS = 'grid_features.json'
"""The file in a folder of features that says how they were made."""
SHORT, LONG = 600, 1000
"""The sides of SOHO's images, in pixels; with another short side the long one's limit grows in proportion."""
MOST = 4096
DTYPES = {'float16': torch.float16, 'float32': torch.float32}
WAITING = 8
"""So many batches' images are kept at most, while others of the same size are looked for."""

Size = int | tuple[int, int]


def extract_grid_features(
    name: str,
    folder: Path | str,
    out: Path | str,
    *,
    size: Size = SHORT,
    index: int = -1,
    batch_size: int = 1,
    weights: Path | str | None = None,
    dtype: str = 'float16',
    num_workers: int = 0,
    quiet: bool = False,
) -> int:
    """Writes a feature map of every image of a folder, but for those that are written already.

    It may be killed at any time: the same call continues. Every file is whole or missing.

    Args:
        name: An entry (``s3_tiny``, or ``s3_tiny.<tag>`` for those weights of it), the .json file of one,
            ``hf-hub:org/name``, or any model of timm.
        folder: Images, also in folders in it. Files whose names begin with a dot are left out.
        out: Where the features go, beside ``grid_features.json``.
        size: The images' short side in pixels, where the long one is limited to 5/3 of it; or height and
            width, to which they are stretched.
        index: Which of the network's feature maps, negative from the end.
        batch_size: Images at once, of one size after padding. With more than one the last bits may depend on
            which come together.
        weights: A file to take instead of the published weights.
        dtype: ``float16`` or ``float32``, as stored; the network computes in float32.
        num_workers: Processes that load images.
        quiet: Whether to show no progress bar.

    Returns:
        How many were written, of all that the folder has.

    Raises:
        ZooError: An argument is wrong, weights are not to be had, ``out`` holds features of other settings,
            or images cannot be read; in that last case all others are written first.
    """
    _check(size, batch_size, dtype)
    folder, out = Path(folder), Path(out)
    images = find_images(folder)
    network = _Network(name, index, weights, size)
    _claim(out, {**network.describe(), 'size': size, 'dtype': dtype})
    missing = [image for image in images if not _target(out, image).exists()]
    source = _Images(folder, missing, size, network.config)
    loader = DataLoader(source, batch_size=None, num_workers=num_workers, generator=torch.Generator())
    faults: list[str] = []
    done = len(images) - len(missing)
    with tqdm(total=len(images), initial=done, unit='image', disable=quiet) as bar:
        for batch in _batches(loader, network, batch_size, faults):
            maps = network([image for image, _ in batch])
            for features, (_, about) in zip(maps, batch, strict=True):
                _save(_target(out, about['image']), features, about, dtype)
            bar.update(len(batch))
    if faults:
        raise ZooError(
            f'{folder}: {len(faults)} of {len(images)} images cannot be read, first {faults[0]}; features of '
            f'the others are in {out}.'
        )
    return len(missing)


def run(args: argparse.Namespace) -> int:
    """The command ``searchzoo downstream grid-features``."""
    written = extract_grid_features(
        args.entry,
        args.folder,
        args.out,
        size=parse_size(args.size),
        index=args.index,
        batch_size=args.batch_size,
        weights=args.weights,
        dtype=args.dtype,
        num_workers=args.workers,
    )
    print(f'{args.out}: {written} files of features were written, all others were there.')
    return 0


def parse_size(text: str) -> Size:
    """A size as a command has it: ``600`` for the short side, ``448x640`` for height and width.

    Raises:
        ZooError: It is neither.
    """
    sides = text.lower().split('x')
    if len(sides) > 2 or not all(side.isascii() and side.isdecimal() for side in sides):
        raise ZooError(
            f'--size: found {clip(text, 60)!r}, a side such as 600 or HxW such as 448x640 is needed.'
        )
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))


def find_images(folder: Path) -> list[str]:
    """Paths of all images, in order, relative to the folder and with slashes.

    Raises:
        ZooError: There is no such folder, no image, or two whose features would have the same name.
    """
    if not folder.is_dir():
        raise ZooError(f'{folder}: there is no such folder of images.')
    found: dict[str, str] = {}
    for place, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            if name.startswith('.') or suffix.lower() not in IMG_EXTENSIONS:
                continue
            path = Path(place, name).relative_to(folder)
            key = path.with_name(stem).as_posix()
            if key in found:
                raise ZooError(f'{folder}: {found[key]} and {path.as_posix()} differ by their suffix only.')
            found[key] = path.as_posix()
    if not found:
        raise ZooError(f'{folder}: there are no images ({", ".join(IMG_EXTENSIONS)}).')
    return sorted(found.values())


def _check(size: Size, batch_size: int, dtype: str) -> None:
    sides = size if isinstance(size, tuple) else (size,)
    if not all(1 <= side <= MOST for side in sides):
        raise ZooError(f'size: found {"x".join(map(str, sides))}, sides of 1 to {MOST} pixels are allowed.')
    if batch_size < 1:
        raise ZooError(f'batch_size: found {batch_size}, at least one image is needed.')
    if dtype not in DTYPES:
        raise ZooError(f'dtype: found {dtype!r}, {" or ".join(DTYPES)} is needed.')


class _Network:
    """One feature map of a network with weights.

    Attributes:
        config: What images it wants, as timm says it.
    """

    def __init__(self, name: str, index: int, weights: Path | str | None, size: Size):
        self.sketch = sketch_network(name)
        self.index = check_index(index, self.sketch.strides, f'{name}: index is {index}')
        fixed = self.sketch.img_size
        if fixed and size != fixed:
            raise ZooError(f'{name} takes images of one size: --size {fixed[0]}x{fixed[1]} is needed.')
        if weights is not None and not Path(weights).is_file():
            raise ZooError(f'{weights}: there is no such file of weights.')
        overlay = {'file': str(weights), 'source': ''} if weights is not None else None
        net: Any = create_network(self.sketch, True, pretrained_cfg_overlay=overlay)
        self.architecture = net.pretrained_cfg['architecture']
        self.config = resolve_data_config(pretrained_cfg=net.pretrained_cfg)
        if self.config['input_size'][0] not in (1, 3):
            raise ZooError(f'{name} takes {self.config["input_size"][0]} channels, images have 1 or 3.')
        self.digest = _digest(net)
        net.prune_intermediate_layers([self.index])
        self.device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        self.net = net.to(self.device or 'cpu').eval()

    def describe(self) -> dict[str, Any]:
        """All of it that the features depend on."""
        return {
            'network': self.architecture,
            'weights_sha256': self.digest,
            'index': self.index,
            'channels': self.sketch.channels[self.index],
            'stride': self.sketch.strides[self.index],
            'padded_to': max(self.sketch.strides) if self.sketch.img_size is None else 1,
            **{key: self.config[key] for key in ('interpolation', 'mean', 'std')},
        }

    def __call__(self, images: list[Tensor]) -> Tensor:
        """Tensors[C, H, W] of one size -> Tensor[B, channels, H / stride, W / stride]."""
        x = torch.stack(images).to(self.device or 'cpu')
        options: dict[str, Any] = {'norm': True, 'stop_early': True, 'intermediates_only': True}
        try:
            with torch.inference_mode():
                (maps,) = self.net.forward_intermediates(x, indices=[self.index], **options)
        except (AssertionError, RuntimeError) as error:
            found = f'{len(images)} images of {x.shape[2]}x{x.shape[3]} pixels at once'
            raise ZooError(
                f'{self.sketch.name} cannot take {found}: {clip(str(error), 200).rstrip(".")}.'
            ) from error
        return maps.float().cpu()


def _digest(net: nn.Module) -> str:
    """The sha256 of all tensors and their names, wherever they come from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        digest.update(f'{name} {tensor.dtype} {list(tensor.shape)}\n'.encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """Writes the settings into a new folder, and compares them with those of one that is not new."""
    text, file = format_json(settings), out / SETTINGS
    if not file.exists():
        if out.is_dir() and any(not path.name.startswith('.') for path in out.iterdir()):
            raise ZooError(f'{out}: there are files, but no {SETTINGS}: name a new or an empty folder.')
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(file, text.encode())
        return
    old, new = parse_json(read_file(file), str(file)), parse_json(text, SETTINGS)
    if not isinstance(old, dict):
        raise ZooError(f'{file}: found {type(old).__name__}, the settings of features are needed.')
    for key in [*new, *old]:
        if old.get(key) != new.get(key):
            raise ZooError(
                f'{out} holds features of other settings: {key} is {old.get(key)}, not {new.get(key)}; name '
                'another folder.'
            )


def _target(out: Path, image: str) -> Path:
    return (out / image).with_suffix('.safetensors')


class _Images(Dataset):
    """Images as the network takes them, by index, as [Tensor[C, H, W], what is known of it].

    One that cannot be read is given back as an error: raised in a process that loads, it would reach the
    user with that process's traceback.
    """

    def __init__(self, folder: Path, images: list[str], size: Size, config: dict[str, Any]):
        self.folder = folder
        self.images = images
        self.size = size
        self.mode = 'L' if config['input_size'][0] == 1 else 'RGB'
        self.filter = Image.Resampling[config['interpolation'].upper()]
        self.mean, self.std = config['mean'], config['std']

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]] | str:
        name = self.images[index]
        try:
            with Image.open(self.folder / name) as file:
                image = ImageOps.exif_transpose(file).convert(self.mode)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            unknown = isinstance(error, UnidentifiedImageError)  # its message is about memory
            return f'{name} ({"it is no image" if unknown else clip(str(error), 200).rstrip(".")})'
        height, width = _resized(image.height, image.width, self.size)
        about = {'image': name, 'size': [image.height, image.width], 'resized': [height, width]}
        image = image.resize((width, height), self.filter)
        return transforms.normalize(transforms.to_tensor(image), self.mean, self.std), about


def _resized(height: int, width: int, size: Size) -> tuple[int, int]:
    """Height and width of an image after resizing, one pixel at least."""
    if isinstance(size, tuple):
        return size
    short, long = sorted((height, width))
    scale = min(size / short, size * LONG / SHORT / long)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


Item = tuple[Tensor, dict[str, Any]]


def _batches(loader: Any, network: _Network, batch_size: int, faults: list[str]) -> Iterator[list[Item]]:
    """Padded images of equal size together; what could not be read goes to ``faults``."""
    waiting: dict[tuple[int, ...], list[Item]] = {}
    for item in loader:
        if isinstance(item, str):
            faults.append(item)
            continue
        image = pad_image(item[0], network.sketch)
        waiting.setdefault(tuple(image.shape), []).append((image, item[1]))
        fullest = max(waiting.values(), key=len)
        if len(fullest) == batch_size or sum(map(len, waiting.values())) == WAITING * batch_size:
            yield waiting.pop(tuple(fullest[0][0].shape))
    yield from waiting.values()


def _save(target: Path, features: Tensor, about: dict[str, Any], dtype: str) -> None:
    stored = features.to(DTYPES[dtype])
    if not torch.isfinite(stored).all():
        most = float(features.abs().max())
        raise ZooError(f'{about["image"]}: a feature is {most:g}, which {dtype} cannot hold.')
    target.parent.mkdir(parents=True, exist_ok=True)
    save_weights(target, {'features': stored}, about)
