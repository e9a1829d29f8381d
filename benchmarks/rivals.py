"""The entries beside timm's models of like cost and use: what `inference.py` and `training.py` share."""

import argparse
import fnmatch
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from timing import Step, add_files, describe_machine, markdown_table, peak, race, ratio, save
from torch import nn
from tqdm import tqdm

from zoo.errors import ZooError
from zoo.jsonfile import clip
from zoo.profile import profile
from zoo.registry import list_entries, load_entry, suggest

MOST_MACS = 5e9
"""Of the entries that are measured if none are named."""
RIVALS = {
    'carnet': ('deit_tiny_patch16_224', 'resnet50'),
    'glit': ('deit_tiny_patch16_224', 'deit_small_patch16_224'),
    's3': ('swin_tiny_patch4_window7_224', 'convnext_tiny'),
    'trionet': ('resnet50',),
    'uninet': ('efficientnet_b0', 'efficientnet_b3'),
}
"""timm's models of like cost and use, at their own image size; for S3 also the same network of timm."""
SMALL_RIVALS = {'glit': 'test_vit', 's3': 'test_convnext', 'uninet': 'test_efficientnet'}
"""For grey images, at the same size: networks that timm tests itself with; ``test_resnet`` for the others."""


class Network(NamedTuple):
    """A network with random weights: its name, the images it takes (C, H, W), and arguments that it needs."""

    name: str
    size: tuple[int, int, int]
    kwargs: dict[str, Any]

    def create(self, **kwargs: Any) -> nn.Module:
        torch.manual_seed(0)
        model: nn.Module = timm.create_model(self.name, **self.kwargs, **kwargs)
        return model


def choose(patterns: Sequence[str]) -> list[str]:
    """Entries that match one of the patterns; without any, those of at most 5 GMACs."""
    names = list_entries()
    if not patterns:
        return [name for name in names if load_entry(name).measured.macs <= MOST_MACS]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise ZooError(f'No entry matches {pattern!r}{suggest(pattern, names)}.')
    return [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]


def contestants(name: str) -> list[Network]:
    """An entry and what it is compared with."""
    entry = load_entry(name)
    size = entry.input.size
    found = [Network(name, size, {})]
    if size[0] == 1:
        rival = SMALL_RIVALS.get(entry.family, 'test_resnet')
        kwargs = {'in_chans': 1, 'num_classes': entry.num_classes}
        return [*found, Network(rival, size, kwargs | ({'img_size': size[1]} if 'vit' in rival else {}))]
    same = f'swin_{name}_224'
    for rival in [same] * timm.is_model(same) + [*RIVALS[entry.family]]:
        found.append(Network(rival, timm.get_pretrained_cfg(rival).input_size, {}))
    return found


class Benchmark(NamedTuple):
    """What a script measures.

    Attributes:
        script: Its file, which is started again for memory.
        modes: That it knows.
        batches: Sizes that it takes by default.
        prepare: Makes a step from a network, the parts of a mode, a batch size and a device, and says how
            many bytes it holds.
        render: Makes a text of what was found.
    """

    script: str
    modes: Sequence[str]
    batches: Sequence[int]
    prepare: Callable[[Network, set[str], int, str], tuple[Step, int]]
    render: Callable[[dict[str, Any]], str]

    def run(self, args: argparse.Namespace) -> None:
        """Measures, and writes after each entry and batch size."""
        found: dict[str, Any] = {**describe_machine(args.device), 'repeats': args.repeats, 'results': []}
        if args.weigh:
            self.weigh(*args.weigh, args.device)
            return
        for part in {part for mode in args.modes for part in mode.split('+')} - {*self.modes}:
            raise ZooError(f'--modes: found {part!r}, {", ".join(self.modes)} are known, and + joins them.')
        names = choose(args.models)
        for name, batch in tqdm([*product(names, args.batch_sizes)], Path(self.script).stem):
            found['results'].append(self.measure(name, batch, args))
            save(found, args, self.render(found))
        print(self.render(found))

    def make_parser(self, description: str | None) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        stem = Path(self.script).stem
        text = 'entries, by default all of at most 5 GMACs'
        parser.add_argument('--models', nargs='+', default=(), metavar='GLOB', help=text)
        parser.add_argument('--modes', nargs='+', default=self.modes, metavar='MODE')
        parser.add_argument('--batch-sizes', nargs='+', type=int, default=self.batches, metavar='N')
        parser.add_argument('--device', default='cpu', choices=('cpu', 'cuda'))
        parser.add_argument('--repeats', type=int, default=9, metavar='N', help='rounds that are counted')
        add_files(parser, stem)
        parser.add_argument('--weigh', nargs=3, help=argparse.SUPPRESS)
        return parser

    def measure(self, name: str, batch: int, args: argparse.Namespace) -> dict[str, Any]:
        """Times and memory of an entry and its rivals in all modes; an error where one cannot run."""
        torch._dynamo.reset()
        networks = {network.name: network for network in contestants(name)}
        result: dict[str, Any] = {'name': name, 'family': load_entry(name).family, 'batch': batch}
        result['networks'] = {network.name: describe(network) for network in networks.values()}
        steps: dict[tuple[str, str], Step] = {}
        keys = list(product(networks, args.modes))
        for key in tqdm(keys, f'{name}, batch {batch}: prepare', leave=False):
            begin, found = time.perf_counter(), result['networks'][key[0]]['modes']
            try:
                step, held = self.prepare(networks[key[0]], parts(key[1]), batch, args.device)
                step()
            except Exception as error:  # of any type, from torch or its compiler
                found[key[1]] = {'error': first_line(error)}
                continue
            steps[key] = step
            found[key[1]] = {'prepared_s': round(time.perf_counter() - begin, 2), 'held': held}
        label = f'{name}, batch {batch}: measure'
        for (network, mode), times in race(steps, args.repeats, args.device, label).items():
            result['networks'][network]['modes'][mode]['ms'] = [round(1000 * t, 4) for t in times]
        for network, mode, grown in self.peaks(name, batch, args, list(steps)):
            result['networks'][network]['modes'][mode]['peak'] = grown
        return result

    def peaks(
        self, name: str, batch: int, args: argparse.Namespace, keys: list[tuple[str, str]]
    ) -> Iterator[tuple[str, str, int]]:
        """Starts a process that calls :meth:`weigh`, and reads what it prints."""
        command = [sys.executable, self.script, '--device', args.device, '--weigh', name, str(batch)]
        environment = os.environ | {'MALLOC_MMAP_THRESHOLD_': '65536', 'OMP_NUM_THREADS': '1'}
        with subprocess.Popen(
            [*command, json.dumps(keys)], stdout=subprocess.PIPE, text=True, env=environment
        ) as process:
            assert process.stdout is not None
            for line in tqdm(process.stdout, f'{name}, batch {batch}: memory', len(keys), leave=False):
                network, mode, grown = json.loads(line)
                yield network, mode, grown

    def weigh(self, name: str, batch: str, keys: str, device: str) -> None:
        """Prints, line by line, a network, a mode and the bytes that a step takes at its peak."""
        networks = {network.name: network for network in contestants(name)}
        for network, mode in json.loads(keys):
            step, _ = self.prepare(networks[network], parts(mode), int(batch), device)
            print(json.dumps([network, mode, peak(step, device)]), flush=True)
            del step
            torch._dynamo.reset()


def parts(mode: str) -> set[str]:
    return set(mode.split('+'))


def describe(network: Network) -> dict[str, Any]:
    found = profile(network.create(device='meta'), network.size)
    return {'size': list(network.size), 'macs': found.macs, 'params': found.params, 'modes': {}}


def first_line(error: Exception) -> str:
    return clip((str(error).strip() or type(error).__name__).splitlines()[0], 120)


def of_networks(results: Sequence[dict[str, Any]]) -> list[str]:
    """A table of each network by itself: speed, memory, and what a mode gains over eager."""
    rows: list[list[object]] = []
    for result in results:
        batch = result['batch']
        for name, network in result['networks'].items():
            gmacs, eager = network['macs'] / 1e9, network['modes'].get('eager', {}).get('ms')
            for mode, of_mode in network['modes'].items():
                row = [name, f'{gmacs:.3g}', batch, mode]
                if 'ms' not in of_mode:
                    rows.append([*row, of_mode['error'], *[''] * 5])
                    continue
                median = statistics.median(of_mode['ms'])
                rate = 1000 * batch / median
                gain = str(ratio(of_mode['ms'], eager)) if eager and mode != 'eager' else ''
                memory = [f'{of_mode[k] / 1e6:,.1f}' if k in of_mode else '?' for k in ('held', 'peak')]
                rows.append([*row, f'{median:.1f}', f'{rate:.1f}', f'{rate * gmacs:.1f}', *memory, gain])
    head = (
        'network | GMACs | batch | mode | ms | images/s | GMAC/s | MB held | MB more | times as fast as eager'
    )
    return markdown_table(head, rows)


def of_pairs(results: Sequence[dict[str, Any]]) -> list[str]:
    """A table of each entry beside each rival, in the same mode."""
    rows = []
    for result in results:
        (name, ours), *others = result['networks'].items()
        for (rival, other), mode in product(others, ours['modes']):
            one, two = ours['modes'][mode], other['modes'][mode]
            if 'ms' not in one or 'ms' not in two:
                continue
            memory = (
                (one['held'] + one['peak']) / (two['held'] + two['peak'])
                if 'peak' in one and 'peak' in two
                else math.nan
            )
            per_gmac = ratio(one['ms'], two['ms'], ours['macs'] / other['macs'])
            rows.append(
                [name, rival, result['batch'], mode, ratio(one['ms'], two['ms']), per_gmac, f'{memory:.2f}']
            )
    return markdown_table(
        'network | beside | batch | mode | times as fast | per GMAC | times the memory', rows
    )
