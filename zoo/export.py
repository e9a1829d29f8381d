"""Networks as files for other programs: ONNX, torch's exported programs (pt2), TorchScript.

How each is made stands here once. A file appears under its name only after it has been read back, as its
users will read it, and has computed what the network computes in Python.
"""

import io
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ZooError
from zoo.jsonfile import clip
from zoo.models.s3 import S3

__all__ = [
    'FORMATS',
    'TOLERANCE',
    'Agreement',
    'capture',
    'explain',
    'export_network',
    'free_stride',
    'import_onnx',
    'read',
    'write',
]

FORMATS = {'onnx': '.onnx', 'pt2': '.pt2', 'torchscript': '.pt'}
"""The ending of each format's files, by which they are told apart."""
TOLERANCE = 3e-4
"""Largest difference allowed, as a share of the outputs' root mean square."""
METADATA = 'searchzoo'
"""Where a file holds its JSON text: key of ONNX's metadata_props, name of an extra file in the others."""

Size = tuple[int, int]
Shape = tuple[int, int, int, int]
Network = Callable[[Tensor], Tensor]
Captured = torch.export.ExportedProgram | torch.jit.ScriptModule


@dataclass(frozen=True)
class Agreement:
    """How far a file's outputs are from the network's on some random images.

    Attributes:
        shape: Of the images, (B, C, H, W).
        difference: The largest, as a share of the outputs' root mean square.
    """

    shape: Shape
    difference: float


def export_network(
    model: nn.Module, path: Path | str, size: Size, dynamic: bool = False, info: dict[str, Any] | None = None
) -> list[Agreement]:
    """Writes a network to a file that agrees with it. Otherwise no file is made, and an older one stays.

    The number of images is always free: programs that serve a network collect what comes in, and it costs
    nothing.

    Args:
        model: Made by timm, in evaluation mode, on the CPU in float32. Image Tensor[B, C, H, W] -> Tensor.
        path: The file, with the ending of its format (:data:`FORMATS`).
        size: (height, width) of the images.
        dynamic: Height and width are free as well: any multiples of the network's stride.
        info: What the file holds beside the network, for JSON.

    Returns:
        What was compared: several numbers of images; with ``dynamic`` several sizes, also ones that are not
        square.

    Raises:
        ZooError: The network does not take ``size`` or has no free size, torch cannot export it, or the file
            computes something else.
        ModuleNotFoundError: A package that ONNX needs is missing.
    """
    from tqdm import tqdm

    path = Path(path)
    if path.suffix not in FORMATS.values():
        raise ZooError(f'Found {path.name}, one of the endings {", ".join(FORMATS.values())} is needed.')
    if path.suffix == FORMATS['onnx']:
        import_onnx()
    stride = free_stride(model, path.suffix, size) if dynamic else 0
    shapes = compared_shapes(model, size, stride)
    folder = tempfile.TemporaryDirectory(dir=path.parent, prefix=f'.{path.stem[:64]}-')
    bar = tqdm(total=2 + len(shapes), desc='trace', unit='step', leave=False, disable=None)
    with bar, folder as place, quiet(), torch.no_grad():
        with explain(f'The network does not take images of {size[0]}x{size[1]} pixels'):
            expected = [model(make_images(shape)) for shape in shapes]
        part = Path(place) / path.name
        with explain(f'torch cannot export the network to {path.name}'):
            # primes: maps that are no multiples of windows, nor smaller, get no branch of their own
            example = (11 * stride, 13 * stride) if dynamic else size
            captured = capture(model, path.suffix, example, dynamic)
            _advance(bar, 'write')
            write(captured, part, info or {})
            _advance(bar, 'compare')
        with explain(f'{path.name} was not written, since it cannot be read back'):
            found = read(part)
        agreements = []
        for shape, outputs in zip(shapes, expected, strict=True):
            agreements.append(agree(found, shape, outputs, path.name))
            _advance(bar, 'compare')
        with part.open('rb+') as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    return agreements


def free_stride(model: nn.Module, ending: str, size: Size) -> int:
    """What height and width are multiples of in a file of free size.

    Args:
        model: The network.
        ending: Of the file.
        size: A (height, width) that it is for.

    Raises:
        ZooError: The network or the format has no free size, or ``size`` is no such multiple.
    """
    known: Any = model
    if known.pretrained_cfg['fixed_input_size']:
        raise ZooError(
            'The image size is a part of this network (of its position embedding, say): leave out --dynamic, '
            'the number of images is free without it.'
        )
    if isinstance(model, S3) and ending == FORMATS['pt2']:
        raise ZooError(
            'The windows of S3 depend on the image size, of which a pt2 file would refuse most: choose '
            'another --format, or leave out --dynamic.'
        )
    stride: int = known.feature_info[-1]['reduction']
    if any(side % stride or side < 2 * stride for side in size):
        raise ZooError(
            f'Found {size[0]}x{size[1]} pixels, --dynamic needs multiples of {stride} from {2 * stride} on: '
            'choose another --size.'
        )
    return stride


def compared_shapes(model: nn.Module, size: Size, stride: int) -> list[Shape]:
    """Of the images to compare: one to three; with a stride also larger ones, and ones of half the height."""
    channels: Any = model.in_chans
    height, width = size
    found = [(number, channels, height, width) for number in (2, 1, 3)]
    if stride:
        found.append((2, channels, height + stride, width + 2 * stride))
        found.append((1, channels, max(2 * stride, height // 2 // stride * stride), width))
    return found


def capture(model: nn.Module, ending: str, size: Size, dynamic: bool = False) -> Captured:
    """A network as torch's own program: what :func:`write` takes.

    torch.export follows the network on an example and takes the branches that this one does. Axes of length
    one are another case to it, so are sizes that are rounded on the way: pt2 files refuse what is excluded.

    Args:
        model: In evaluation mode, made with timm's ``exportable=True``.
        ending: Of the file that it is for.
        size: (height, width) of the images, or of the example only.
        dynamic: Height and width are free.
    """
    if ending == FORMATS['torchscript']:
        return torch.jit.script(model)
    channels: Any = model.in_chans
    free = dict.fromkeys((0, 2, 3) if dynamic else (0,), torch.export.Dim.DYNAMIC)
    images = make_images((2, channels, *size))
    program = torch.export.export(model, (images,), dynamic_shapes=(free,))
    for node in program.graph.nodes:
        node.meta.pop('stack_trace', None)  # it holds paths of this machine
    return program


def write(captured: Captured, path: Path, info: dict[str, Any]) -> None:
    """Writes what :func:`capture` gave for this path's ending, with ``info`` inside as JSON text."""
    text = json.dumps(info)
    if isinstance(captured, torch.jit.ScriptModule):
        torch.jit.save(captured, path, _extra_files={METADATA: text})
    elif path.suffix == FORMATS['pt2']:
        torch.export.save(captured, path, extra_files={METADATA: text})
    else:
        program = torch.onnx.export(
            captured,
            dynamo=True,
            verbose=False,
            input_names=['images'],
            output_names=['output'],
            dynamic_shapes=({0: 'batch', 2: 'height', 3: 'width'},),  # names, where they are free
        )
        assert program is not None
        program.model.metadata_props[METADATA] = text
        program.save(path, external_data=False)


def read(path: Path) -> Network:
    """A written network, run as its users run it; ONNX on the CPU."""
    if path.suffix == FORMATS['torchscript']:
        return torch.jit.load(path)
    if path.suffix == FORMATS['pt2']:
        return torch.export.load(path).module()
    onnxruntime = import_onnx()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it logs it raises as well
    session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    (given,) = session.get_inputs()

    def run(images: Tensor) -> Tensor:
        (output,) = session.run(None, {given.name: images.numpy()})
        return torch.from_numpy(output)

    return run


def import_onnx() -> Any:
    """onnxruntime, if all that ONNX needs is there."""
    import onnx  # noqa: F401
    import onnxruntime  # type: ignore[import-untyped]
    import onnxscript  # noqa: F401

    return onnxruntime


def make_images(shape: tuple[int, ...]) -> Tensor:
    """Images as they are after preprocessing, mean 0 and variance 1; always the same ones."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def agree(found: Network, shape: Shape, expected: Tensor, name: str) -> Agreement:
    """Runs a file's network on images of one shape.

    Raises:
        ZooError: It stops, or gives something else than expected.
    """
    fault = f'{name} was not written: on images of shape {list(shape)}'
    with explain(f'{fault} it stops, which another --format may not'):
        difference = compare(found(make_images(shape)), expected)
    if not difference <= TOLERANCE:
        raise ZooError(
            f"{fault} its outputs differ by {difference:.1e} of the network's root mean square, "
            f'{TOLERANCE:.0e} are allowed.'
        )
    return Agreement(shape, difference)


def compare(found: Tensor, expected: Tensor) -> float:
    """The largest difference over the root mean square of what is expected; NaN if there is any."""
    if found.shape != expected.shape:
        return float('inf')
    scale = expected.square().mean().sqrt().clamp(min=torch.finfo(expected.dtype).tiny)
    return float((found - expected).abs().max() / scale)


def _advance(bar: Any, label: str) -> None:
    bar.update()
    bar.set_description(label)


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps away what torch says on its way. What stops it is raised."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(disabled)


@contextmanager
def explain(sentence: str) -> Iterator[None]:
    """Makes one sentence of what others raise, which is of any type and may fill a screen."""
    try:
        yield
    except ZooError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:  # such as a full disk
            raise
        lines = str(error).strip().splitlines()
        reason = clip(lines[0], 300).rstrip('.') if lines else type(error).__name__
        raise ZooError(f'{sentence}: {reason}.') from error
