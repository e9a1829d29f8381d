"""Memory of a supernet against its tensors and the activations of one sub-network.

    python benchmarks/memory.py [--space s3] [--size 224] [--batch 8] [--archs 3]

Each measurement is the peak of the resident memory of a process of its own, less what it was before anything
was built. Of the stand-alone network of a random architecture: a training step (forward and backward), and an
evaluation; its tensors taken off, that leaves its activations. Of the supernet: the same step and evaluation
of the same architecture. Printed is

    supernet's peak / (1.1 x tensors + activations)

where a training step's tensors are the stored ones and the gradients of those that the sub-network touches,
and an evaluation's are the stored ones. At most 1 is the aim.
"""

import argparse
import json
import random
import subprocess
import sys

import torch
import torch.nn.functional as F

from search.growth import weighed
from search.spaces import load_space
from search.supernet import Supernet
from zoo.models import FAMILIES


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--space', default='s3')
    parser.add_argument('--size', type=int, default=224)
    parser.add_argument('--batch', type=int, default=8)
    parser.add_argument('--archs', type=int, default=3)
    parser.add_argument('--measure', nargs=3, metavar=('WHAT', 'MODE', 'ARCH'), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        what, mode, number = args.measure
        print(json.dumps(measure(args.space, args.size, args.batch, what, mode, int(number))))
        return

    def run(what: str, mode: str, number: int) -> dict[str, int]:
        command = [sys.executable, __file__, '--space', args.space, '--size', str(args.size)]
        command += ['--batch', str(args.batch), '--measure', what, mode, str(number)]
        found: dict[str, int] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        return found

    for mode in ('train', 'eval'):
        for number in range(args.archs):
            alone, shared = run('alone', mode, number), run('supernet', mode, number)
            activations = alone['peak'] - alone['tensors'] - alone['gradients']
            tensors = shared['tensors'] + shared['gradients']
            ratio = shared['peak'] / (1.1 * tensors + activations)
            print(
                f'{args.space} {mode} {number}: supernet {shared["peak"] / 1e6:.0f} MB; tensors '
                f'{shared["tensors"] / 1e6:.0f}, gradients {shared["gradients"] / 1e6:.0f}, activations '
                f'{activations / 1e6:.0f} MB: ratio {ratio:.2f}',
                flush=True,
            )


def measure(space: str, size: int, batch: int, what: str, mode: str, number: int) -> dict[str, int]:
    """Bytes of the peak, of the parameters and of their gradients."""
    family_space = load_space(space, (3, size, size))
    arch = family_space.decode(family_space.space.sample(random.Random(number)))
    images, labels = torch.randn(batch, 3, size, size), torch.arange(batch)
    F.cross_entropy(torch.nn.Linear(8, 8)(torch.randn(8, 8)), torch.arange(8)).backward()  # loads libraries
    with weighed() as before:
        pass
    base = before().host
    with weighed() as peak:
        owner: torch.nn.Module
        if what == 'supernet':
            owner = supernet = Supernet(family_space, 1000)

            def network(x: torch.Tensor) -> torch.Tensor:
                if mode == 'train':
                    return supernet(arch, x)
                tensors = supernet.tensors(arch, contiguous=True)
                return supernet(arch, x, tensors | supernet.calibrate(arch, [x], tensors))
        else:
            family = FAMILIES[family_space.family]
            owner = network = family.build(arch, family_space.family, img_size=(size, size))
        owner.train(mode == 'train')
        if mode == 'train':
            F.cross_entropy(network(images), labels).backward()
        else:
            with torch.no_grad():
                network(images)
    parameters = list(owner.parameters())
    return {
        'peak': peak().host - base,
        'tensors': sum(p.nbytes for p in parameters),
        'gradients': sum(p.grad.nbytes for p in parameters if p.grad is not None),
    }


if __name__ == '__main__':
    main()
