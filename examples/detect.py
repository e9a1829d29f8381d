"""Train a detector on a backbone of the zoo by a config of mmdetection's kind, and draw what it finds.

Needs mmdetection (docs/downstream.md). The data set is drawn on the spot. The few steps taken by default show
that all parts work; ``--iterations 600`` learns something, in minutes.
"""

import argparse
from pathlib import Path

from downstream.predict import predict
from downstream.runner import train
from downstream.shapes import write_shapes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--config', default='shapes/mask-rcnn_uninet_shapes', help='a shipped one, or a file')
    parser.add_argument('--iterations', type=int, default=20, help='of four images each')
    parser.add_argument('--images', type=int, default=40, help='to learn from')
    parser.add_argument('--out', type=Path, default=Path('detected'), help='a folder that does not exist yet')
    args = parser.parse_args()

    args.out.mkdir(parents=True)
    data = args.out / 'shapes'
    write_shapes(data, args.images, max(2, args.images // 10), seed=0)
    options = {
        'train_cfg.max_iters': args.iterations,
        'train_cfg.val_interval': args.iterations,
        'default_hooks.checkpoint.interval': args.iterations,
        'val_evaluator.ann_file': str(data / 'annotations/instances_val.json'),
    }
    for part in ('train', 'val', 'test'):
        options[f'{part}_dataloader.dataset.data_root'] = f'{data}/'
    options['test_evaluator.ann_file'] = options['val_evaluator.ann_file']
    train(args.config, args.out / 'run', options=options)

    checkpoint = args.out / 'run' / f'iter_{args.iterations}.pth'
    pictures = sorted((data / 'val').glob('*'))[:4]
    predict(args.config, checkpoint, pictures, args.out / 'drawn')
    print(f'{len(pictures)} pictures with what was found: {args.out / "drawn"}')


if __name__ == '__main__':
    main()
