"""Drawn scenes: coloured shapes that hide each other, on textured grounds under a sky."""

from dataclasses import dataclass

import numpy as np

__all__ = ['CLASSES', 'PALETTE', 'SPLITS', 'STUFF', 'THINGS', 'Scene', 'Segment', 'draw_scene']

THINGS = ('disc', 'square', 'triangle', 'cross')
STUFF = ('sky', 'grass', 'sand', 'water')
CLASSES = THINGS + STUFF
"""By label; COCO's category ids are one larger."""
PALETTE = (
    (220, 20, 60),
    (255, 160, 0),
    (160, 0, 220),
    (0, 0, 0),
    (140, 190, 255),
    (40, 140, 40),
    (220, 200, 120),
    (0, 70, 160),
)
"""A colour to draw each class in; the images' own colours say little about classes."""
UNLABELLED = 255
SPLITS = ('train', 'val')
MIN_VISIBLE = 24
"""Pixels that remain visible of each object ..."""
MIN_SHARE = 0.3
"""... and share of what is not outside the image."""


@dataclass(frozen=True)
class Segment:
    """One object, one crowd of objects, or all stuff of one class.

    Attributes:
        id: In the map of the scene; from 1 to 256^3 - 1.
        label: Index of its class in :data:`CLASSES`.
        crowd: Whether it is a group of objects that are not told apart.
    """

    id: int
    label: int
    crowd: bool = False


@dataclass(frozen=True)
class Scene:
    """An image and what is on it.

    Attributes:
        image: RGB, uint8 (H, W, 3).
        ids: The segment of each pixel, int64 (H, W), 0 where unlabelled.
        segments: Those that have pixels.
    """

    image: np.ndarray
    ids: np.ndarray
    segments: tuple[Segment, ...]

    def semantic(self) -> np.ndarray:
        """The label of each pixel, uint8 (H, W), 255 where unlabelled."""
        labels = np.full(self.ids.shape, UNLABELLED, np.uint8)
        for segment in self.segments:
            labels[self.ids == segment.id] = segment.label
        return labels

    def objects(self) -> list[Segment]:
        """The segments that are things, crowds too."""
        return [segment for segment in self.segments if segment.label < len(THINGS)]


def draw_scene(seed: int, split: str, index: int, sizes: tuple[int, int] = (96, 160)) -> Scene:
    """One image of a data set; the arguments are those of :func:`downstream.shapes.write_shapes`."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    height, width = (int(side) for side in rng.integers(sizes[0], sizes[1], 2, endpoint=True))
    canvas = _Canvas(height, width, rng)
    canvas.add_background()
    if index == 0:
        canvas.add_crowd()
    if index != 1:
        for _ in range(rng.integers(2, 8)):
            canvas.add_object()
    return canvas.finish()


class _Canvas:
    """A scene in the making, drawn from back to front."""

    def __init__(self, height: int, width: int, rng: np.random.Generator):
        self.rng = rng
        self.y, self.x = np.mgrid[:height, :width].astype(np.float64)
        self.image = np.zeros((height, width, 3))
        self.ids = np.zeros((height, width), np.int64)
        self.segments: list[Segment] = []
        self.areas: dict[int, int] = {}
        """Of the objects and crowds, hidden parts included."""

    def add_background(self) -> None:
        """A sky, one or two grounds, and sometimes something without label."""
        rng, (height, width) = self.rng, self.ids.shape
        wave = 0.04 * height * np.sin(self.x * rng.uniform(0.05, 0.15) + rng.uniform(0, 6))
        ground = (
            self.y > rng.uniform(0.25, 0.55) * height + rng.uniform(-0.15, 0.15) * (self.x - width / 2) + wave
        )
        first, second = rng.choice(range(1, len(STUFF)), 2, replace=False)
        border = rng.uniform(0.3, 0.7) * width if rng.random() < 0.5 else width
        left = self.x + rng.uniform(-0.5, 0.5) * (self.y - height) < border
        for stuff, mask in [(0, ~ground), (first, ground & left), (second, ground & ~left)]:
            self._draw(mask, self._texture(STUFF[stuff]), len(THINGS) + int(stuff))
        if rng.random() < 0.3:
            y, x, radius = rng.uniform(0, height), rng.uniform(0, width), 0.1 * min(height, width)
            blot = ((self.y - y) / radius) ** 2 + ((self.x - x) / radius / 2) ** 2 < 1
            self.image[blot] = 128 + rng.normal(0, 30, (blot.sum(), 1))
            self.ids[blot] = 0

    def add_crowd(self) -> None:
        """Many small discs, one segment."""
        rng, (height, width) = self.rng, self.ids.shape
        y, x = rng.uniform(0.3, 0.7) * height, rng.uniform(0.3, 0.7) * width
        mask = np.zeros(self.ids.shape, bool)
        colours = np.zeros(self.image.shape)
        for _ in range(30):
            side = 0.15 * min(height, width)
            disc = np.hypot(self.y - rng.normal(y, side), self.x - rng.normal(x, side)) < rng.uniform(3, 5)
            colours[disc] = self._colour()
            mask |= disc
        self._draw(mask, colours, THINGS.index('disc'), crowd=True)

    def add_object(self) -> None:
        """A shape where it leaves enough of all others visible; none if a few attempts find no such place."""
        rng, (height, width) = self.rng, self.ids.shape
        for _ in range(20):
            label = int(rng.integers(len(THINGS)))
            centre = rng.uniform(0, height), rng.uniform(0, width)
            radius = rng.uniform(0.08, 0.24) * min(height, width)
            mask = self._shape(THINGS[label], centre, radius, rng.uniform(0, 2 * np.pi))
            if self._fits(mask):
                shade = 1 + 0.3 * ((self.y - centre[0]) + (self.x - centre[1])) / radius / 2
                self._draw(mask, self._colour() * shade[..., None], label, outline=True)
                return

    def finish(self) -> Scene:
        noisy = self.image + self.rng.normal(0, 6, self.image.shape)
        kept = tuple(segment for segment in self.segments if (self.ids == segment.id).any())
        return Scene(noisy.round().clip(0, 255).astype(np.uint8), self.ids, kept)

    def _draw(
        self, mask: np.ndarray, colours: np.ndarray, label: int, crowd: bool = False, outline: bool = False
    ) -> None:
        if outline:
            inner = np.pad(mask, 1)
            inner = inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
            colours = np.where(inner[..., None], colours, 0.4 * colours)
        number = sum(segment.label == label for segment in self.segments)
        segment = Segment(1009 * (100 * (label + 1) + number), label, crowd)
        self.image[mask] = colours[mask]
        self.ids[mask] = segment.id
        self.segments.append(segment)
        if label < len(THINGS):
            self.areas[segment.id] = int(mask.sum())

    def _shape(self, name: str, centre: tuple[float, float], radius: float, angle: float) -> np.ndarray:
        """Whether a pixel's middle is inside a shape."""
        down, right = self.y - centre[0], self.x - centre[1]
        u = np.abs(np.cos(angle) * right + np.sin(angle) * down)
        v = np.abs(np.cos(angle) * down - np.sin(angle) * right)
        if name == 'disc':
            return np.hypot(u, v) < radius
        if name == 'square':
            return np.maximum(u, v) < 0.8 * radius
        if name == 'cross':
            return (np.maximum(u, v) < radius) & (np.minimum(u, v) < radius / 3)
        sides = [np.cos(a) * right + np.sin(a) * down for a in angle + 2 * np.pi / 3 * np.arange(3)]
        return np.max(sides, axis=0) < 0.6 * radius

    def _fits(self, mask: np.ndarray) -> bool:
        """Whether all objects keep enough pixels, and centres that differ (Panoptic-DeepLab needs those)."""
        if mask.sum() < MIN_VISIBLE:
            return False
        ids = np.where(mask, 0, self.ids)
        centres = {_rounded_centre(mask)}
        for segment, area in self.areas.items():
            visible = ids == segment
            if visible.sum() < max(MIN_VISIBLE, MIN_SHARE * area):
                return False
            centres.add(_rounded_centre(visible))
        return len(centres) == len(self.areas) + 1

    def _texture(self, name: str) -> np.ndarray:
        """Colours (H, W, 3) of a ground or the sky."""
        rng, shape = self.rng, self.ids.shape
        tint = rng.normal(0, 12, 3)
        if name == 'sky':
            cloud = np.sin(self.x * rng.uniform(0.03, 0.08) + 2 * np.sin(self.y * 0.08 + rng.uniform(0, 6)))
            return np.array([140, 180, 230]) + tint + (0.4 * self.y + 20 * cloud)[..., None]
        if name == 'grass':
            blades = rng.normal(0, 30, (1, shape[1])) + rng.normal(0, 25, shape)
            return np.array([80, 140, 50]) + tint + blades[..., None]
        if name == 'sand':
            grains = -60 * (rng.random(shape) < 0.08)
            return np.array([210, 185, 120]) + tint + grains[..., None]
        waves = 28 * np.sin(self.y * rng.uniform(0.6, 0.9) + 1.5 * np.sin(self.x * 0.12 + rng.uniform(0, 6)))
        return np.array([40, 100, 160]) + tint + waves[..., None]

    def _colour(self) -> np.ndarray:
        """A random colour, never pale."""
        colour = self.rng.permutation([0.0, self.rng.random(), 1.0])
        return 30 + self.rng.uniform(150, 225) * colour


def _rounded_centre(mask: np.ndarray) -> tuple[int, int]:
    y, x = mask.nonzero()
    return int(y.mean() + 0.5), int(x.mean() + 0.5)
