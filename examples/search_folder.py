"""Search an architecture for a folder of images, from Python: the same as ``searchzoo search run CONFIG``.

Draws such a folder if there is none. It takes seconds and is worth as little: docs/own_data.md says more.
"""

import argparse
from pathlib import Path
from random import Random

from PIL import Image, ImageDraw

from search.config import parse_config
from search.methods import METHODS

STAGE = {'depth': [1, 2], 'window_size': [2, 4], 'num_heads': [1], 'mlp_ratio': [1, 2]}
RECIPE = {'epochs': 4, 'batch_size': 24, 'lr': 1e-2, 'augment': {'scale': [0.7, 1.0]}}
CONFIG = {
    'name': 'my_images',
    'input': {'size': [3, 32, 32], 'mean': [0.485, 0.456, 0.406], 'std': [0.229, 0.224, 0.225]},
    'data': {'name': 'folder', 'val': None, 'val_size': 0.2, 'test': None, 'test_size': 0.2},
    'space': {'family': 's3', 'stages': [STAGE | {'embed_dim': [8, 16]}, STAGE | {'embed_dim': [16, 24]}]},
    'supernet': {'recipe': RECIPE},
    'search': {
        'strategy': {'name': 'evolution', 'population': 6, 'parents': 3, 'mutation': 3, 'crossover': 3},
        'evaluations': 12,
        'limits': {'macs': [0, 1_000_000]},
        'objective': 'loss',
    },
    'retrain': RECIPE | {'epochs': 10},
}


def draw_images(folder: Path, count: int = 40) -> None:
    """One sub-folder for each of three shapes, with images of 40 x 40 pixels."""
    rng = Random(0)
    for shape in ('ellipse', 'rectangle', 'arc'):
        (folder / shape).mkdir(parents=True)
        for i in range(count):
            image = Image.new('RGB', (40, 40), tuple(rng.randrange(100) for _ in 'rgb'))
            x, y, size = rng.randrange(2, 16), rng.randrange(2, 16), rng.randrange(12, 24)
            args = ((x, y, x + size, y + size), 0, 200) if shape == 'arc' else ((x, y, x + size, y + size),)
            getattr(ImageDraw.Draw(image), shape)(*args, tuple(rng.randrange(120, 256) for _ in 'rgb'))
            image.save(folder / shape / f'{i}.png')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--images', type=Path, default=Path('images'), help='one sub-folder for each class')
    parser.add_argument('--out', type=Path, default=Path('runs/my_images'), help='continued if it exists')
    args = parser.parse_args()
    if not args.images.exists():
        draw_images(args.images)
    config = parse_config({**CONFIG, 'data': {**CONFIG['data'], 'root': str(args.images)}})
    result = METHODS[config.method](config, args.out)
    print(f'{result.entry}: {result.best["macs"]:,} MACs, {result.again[0]["val_top1"]:.1f} % on val')


if __name__ == '__main__':
    main()
