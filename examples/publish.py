"""Make the folder that would be published of a network: weights, entry, model card, picture.

By default of a network that this package found. ``searchzoo zoo publish`` without ``--dry-run`` uploads.
"""

import argparse
from pathlib import Path

import timm

from zoo.hub.publish import publish
from zoo.registry import entry_file, load_entry


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--entry', type=Path, default=entry_file('s3_digits'), help="an entry's file")
    parser.add_argument('--weights', type=Path, help="by default those beside the entry's file")
    parser.add_argument('--repo', default='my-org/s3_digits.digits', help='ORG/NAME.TAG')
    parser.add_argument('--license', help="the weights' licence, where the entry has none")
    parser.add_argument('--out', type=Path, default=Path('to_publish'), help='a folder that does not exist')
    args = parser.parse_args()

    weights = args.weights or next(args.entry.parent.glob(f'{args.entry.stem}.*safetensors'))
    publish(str(args.entry), weights, args.repo, license=args.license, dry_run=args.out)
    for path in sorted(args.out.iterdir()):
        print(f'{path}: {path.stat().st_size:,} bytes')

    model = timm.create_model(
        f'local-dir:{args.out}', pretrained=True
    )  # as anyone would load it from the Hub
    params = sum(parameter.numel() for parameter in model.parameters())
    assert params == load_entry(args.entry.stem).measured.params
    print(f'loads as a network of {params:,} params')


if __name__ == '__main__':
    main()
