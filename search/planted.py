"""Two small data sets that are known to need local texture, or distant parts: does a search see which?

Both have two classes of grey images of 8 x 36 pixels with noise, as many images of each class.

``planted_texture`` needs local texture and nothing else. Of the blocks of 4 x 4 pixels about half hold a
bright diagonal line of three pixels; the class says whether it falls or rises. Blocks are independent of each
other and of where they are, so that they can be shuffled; any single pixel has the same distribution in both
classes.

``planted_relation`` needs distant parts and nothing else. At the left end and at the right end, at random
places, there is a patch of stripes, level or upright; the class says whether both are of one kind. In each
class either end has each kind equally often, so that what a window shows has the same distribution in both
classes as long as it cannot hold pixels of both ends. Nor does it help to add up logits of such windows: of
all such sums a constant has the least expected cross-entropy. For exchanging the kinds at both ends keeps the
class, the loss is convex, and a sum averaged over that exchange says the same of equal and unequal kinds.
"""

from functools import cache
from typing import Literal

import numpy as np
from PIL import Image

from search.seeding import derive_seed

__all__ = ['GAP', 'HEIGHT', 'PLANTED', 'WIDTH', 'draw', 'load_planted', 'planted_indices']

PLANTED = ('planted_texture', 'planted_relation')
SIZES = {'train': 512, 'val': 256, 'test': 256}
HEIGHT, WIDTH = 8, 36
SIDE = 4
"""Of a block of texture and of a patch of stripes."""
ZONE = 5
"""Width of each end of the image in which a patch of stripes may lie."""
GAP = WIDTH - 2 * ZONE
"""Columns between the ends: a window of one more cannot hold pixels of both."""
GREY, CONTRAST, NOISE = 128, 80, 12
FILLED = 0.5
"""Share of blocks that hold a line."""


@cache
def load_planted(name: str, seed: int) -> list[tuple[Image.Image, int]]:
    """All images and labels: those for train, then val, then test. The same on every machine.

    Args:
        name: One of :data:`PLANTED`.
        seed: Of what is random.
    """
    rng = np.random.Generator(np.random.PCG64(derive_seed(name, seed)))
    found = []
    for index in range(sum(SIZES.values())):
        pixels = GREY + CONTRAST * draw(name, index % 2, rng) + NOISE * rng.standard_normal((HEIGHT, WIDTH))
        found.append((Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)), index % 2))
    return found


def planted_indices(role: Literal['train', 'val', 'test']) -> range:
    """The fixed split: 512 images for train, 256 for val, 256 for test."""
    before = {'train': 0, 'val': SIZES['train'], 'test': SIZES['train'] + SIZES['val']}[role]
    return range(before, before + SIZES[role])


def draw(name: str, label: int, rng: np.random.Generator) -> np.ndarray:
    """An image without noise: int64 [HEIGHT, WIDTH] of -1, 0 and 1."""
    return (draw_texture if name == 'planted_texture' else draw_relation)(label, rng)


def draw_texture(label: int, rng: np.random.Generator) -> np.ndarray:
    """Falling diagonals for class 0, rising ones for class 1; blocks begin anywhere, and wrap around."""
    blocks = [[draw_block(label, rng) for _ in range(WIDTH // SIDE)] for _ in range(HEIGHT // SIDE)]
    return np.roll(np.block(blocks), rng.integers(SIDE, size=2), (0, 1))


def draw_block(label: int, rng: np.random.Generator) -> np.ndarray:
    """A block: a line of three pixels at one of four places, or nothing."""
    line = np.eye(3, dtype=np.int64)
    block = np.zeros((SIDE, SIDE), np.int64)
    top, left = rng.integers(SIDE - 2, size=2)
    if rng.random() < FILLED:
        block[top : top + 3, left : left + 3] = line[:, ::-1] if label else line
    return block


def draw_relation(label: int, rng: np.random.Generator) -> np.ndarray:
    """Patches of one kind for class 0, of two kinds for class 1."""
    image = np.zeros((HEIGHT, WIDTH), np.int64)
    kind = int(rng.integers(2))
    for start, upright in ((0, kind), (WIDTH - ZONE, kind ^ label)):
        top = int(rng.integers(HEIGHT - SIDE + 1))
        left = start + int(rng.integers(ZONE - SIDE + 1))
        image[top : top + SIDE, left : left + SIDE] = draw_stripes(upright, rng)
    return image


def draw_stripes(upright: int, rng: np.random.Generator) -> np.ndarray:
    """A patch: bright and dark lines in turn, one pixel wide."""
    sign = 1 - 2 * rng.integers(2)
    lines = np.tile(sign * (-1) ** np.arange(SIDE), (SIDE, 1))
    return lines if upright else lines.T
