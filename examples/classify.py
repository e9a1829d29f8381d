"""Classify an image and show where the network looks: what a class token attends to in GLiT's last block.

By default a handwritten digit, by the network that this package found and trained for them. With GLiT-Tiny's
weights at hand: ``python examples/classify.py photo.jpg --model glit_tiny --weights glit_tiny.safetensors``.
"""

import argparse

import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from timm.utils import AttentionExtract

import zoo  # noqa: F401  registers the zoo's models with timm
from zoo.digits import Digits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('image', nargs='?', help='a file; by default the first digit of the test split')
    parser.add_argument('--model', default='glit_digits', help='of the family glit')
    parser.add_argument('--weights', help='a file, in place of the published weights')
    parser.add_argument('--out', default='attention.png', help='the picture that is written')
    args = parser.parse_args()

    overlay = {'file': args.weights} if args.weights else None
    model = timm.create_model(args.model, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    config = resolve_model_data_config(model)
    mode = 'RGB' if config['input_size'][0] == 3 else 'L'
    image = (Image.open(args.image) if args.image else Digits('test')[0][0]).convert(mode)
    batch = create_transform(**config)(image).unsqueeze(0)

    last = max(i for i, block in enumerate(model.blocks) if hasattr(block.attn, 'fused_attn'))
    model.blocks[last].attn.fused_attn = False  # fused attention never has its weights in memory
    extract = AttentionExtract(model, [f'blocks.{last}.attn.attn_drop'], method='hook')
    with torch.inference_mode():
        probabilities = model(batch).softmax(1)[0]
        (attention,) = extract(batch).values()  # (1, heads, tokens, tokens)
    best = probabilities.topk(3)
    for probability, label in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        print(f'class {label}: {100 * probability:.1f} %')

    patches = attention[0, :, 0, 1:].mean(0).reshape(model.patch_embed.grid_size)  # row 0: the class token
    heat = Image.fromarray((255 * patches / patches.max()).byte().numpy())
    side = 320
    picture = Image.new('RGB', (2 * side, side))
    picture.paste(image.convert('RGB').resize((side, side)), (0, 0))
    picture.paste(
        Image.merge('RGB', [heat.resize((side, side)), *2 * [Image.new('L', (side, side))]]), (side, 0)
    )
    picture.save(args.out)
    print(f'{args.out}: the image, and beside it the attention of block {last + 1}, mean of its heads')


if __name__ == '__main__':
    main()
