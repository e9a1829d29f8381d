"""What fuzz.py feeds, and with what: for each target the inputs, what reads one, and a limit in seconds."""

import contextlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from unittest.mock import patch

import torch
import yaml
from conftest import restored_registry
from damage import EDITS, PIECES, YAML_PIECES, cuts, damage, edit
from hypothesis import strategies as st
from matplotlib.figure import Figure
from safetensors.torch import load_file, save

import zoo
from search.checklist import build_checklist
from search.config import load_config, parse_config
from search.methods import METHODS
from search.problem import Problem
from search.report import render, write_report
from search.report_figures import list_figures
from search.runfiles import RunFiles
from search.train import TrainConfig, load_train_config
from zoo.convert import convert
from zoo.entry import make_entry, read_entry
from zoo.jsonfile import parse_json
from zoo.models import FAMILIES

__all__ = ['TARGETS']

ROOT = Path(__file__).resolve().parents[2]
Target = tuple[st.SearchStrategy[Any], Callable[[Any], object], float]


def entry(scratch: Path) -> Target:
    """An entry's file is read, registered, and its network is made without memory for it."""
    files = sorted((Path(zoo.__file__).parent / 'entries').glob('*.json'))
    seeds = {file.stem: json.loads(file.read_bytes()) for file in files}
    path = scratch / 'entry.json'

    def check(case: tuple[str, Any, Any]) -> None:
        name, edits, changes = case
        path.write_bytes(damage(json.dumps(edit(seeds[name], edits)).encode(), changes))
        found = read_entry(path)
        text = found.to_json()
        again = make_entry(parse_json(text, 'again'), 'again')
        assert again == found
        assert again.to_json() == text
        in_chans, *img_size = found.input.size
        args = dict(num_classes=found.num_classes, in_chans=in_chans, img_size=tuple(img_size))
        FAMILIES[found.family].build(found.arch, found.family, device='meta', **args)
        with restored_registry():
            zoo.register(path)

    return st.tuples(st.sampled_from(sorted(seeds)), EDITS, cuts()), check, 10


def config(scratch: Path) -> Target:
    """A config is read; where it is one of digits, what it asks for is looked at before anything is done."""
    files = [*(ROOT / 'configs' / 'search').glob('*.yaml'), *(ROOT / 'configs' / 'train').glob('*.yaml')]
    files += [*(ROOT / 'tests' / 'search').glob('tiny*.yaml')]
    seeds = {f'{file.parent.name}/{file.stem}': yaml.safe_load(file.read_bytes()) for file in sorted(files)}
    seeds = {name: data for name, data in seeds.items() if data.get('method') != 'table'}
    path = scratch / 'config.yaml'
    keys = (
        'seed',
        'search.strategy.name',
        'data.name',
        'supernet.recipe.epochs',
        'a',
        'input',
        'space',
        '',
        'a..b',
    )
    values = st.sampled_from(
        ('1', '', '{', '[1', '.nan', '*a', '&a [*a]', '!!x', 'x: y: z', '1e3', '\ud800', '2024-01-01')
    )
    override = st.tuples(
        st.sampled_from(keys) | st.text(), st.sampled_from(('=', '', '==')), values | st.text()
    )
    overrides = st.lists(override, max_size=2)

    def check(case: tuple[str, Any, Any, bool, Any]) -> None:
        name, edits, changes, is_json, texts = case
        data = edit(seeds[name], edits)
        text = json.dumps(data) if is_json else yaml.safe_dump(data, allow_unicode=True)
        path.write_bytes(damage(text.encode('utf-8', 'surrogatepass'), changes))
        overrides = [''.join(parts) for parts in texts]
        if name.startswith('train/'):
            trained = zoo.load_entry(f'{name.removeprefix("train/").split("_")[0]}_digits')
            found: Any = load_train_config(path, trained, overrides)
            dumped = found.model_dump(mode='json')
            assert TrainConfig.model_validate_json(json.dumps(dumped)) == found
            return
        found = load_config(path, overrides)
        dumped = found.model_dump(mode='json')
        assert parse_config(dumped) == found
        json.dumps(dumped, allow_nan=False)
        if found.data.name == 'digits':
            Problem(found)

    cases = st.tuples(
        st.sampled_from(sorted(seeds)), EDITS, cuts(PIECES + YAML_PIECES), st.booleans(), overrides
    )
    return cases, check, 20


TENSORS: dict[str, Callable[[torch.Tensor], Any]] = {
    'nan': lambda x: x * float('nan'),
    'none': lambda x: None,
    'number': lambda x: 3,
    'list': lambda x: [x],
    'half': torch.Tensor.half,
    'int': torch.Tensor.long,
    'bool': lambda x: x > 0,
    'complex': lambda x: x.to(torch.complex64),
    'float8': lambda x: x.float().to(torch.float8_e4m3fn),
    'flat': torch.Tensor.flatten,
    'scalar': lambda x: x.flatten()[0],
    'empty': lambda x: x.flatten()[:0],
    'huge': lambda x: x.flatten()[:1].expand(2**40),
    'many axes': lambda x: x[(None,) * 20],
    'transposed': lambda x: x.transpose(0, -1) if x.ndim else x,
    'sparse': lambda x: x.to_sparse() if x.ndim else x,
    'quantized': lambda x: torch.quantize_per_tensor(x.float(), 0.1, 0, torch.quint8),
    'meta': lambda x: x.to('meta'),
    'parameter': lambda x: torch.nn.Parameter(x) if x.is_floating_point() else x,
    'string': lambda x: 'x' * 9999,
}


def checkpoint(scratch: Path) -> Target:
    """A checkpoint is converted: of the package's own layout or an official one, however it was saved."""
    seeds: dict[str, dict[str, torch.Tensor]] = {}
    for name in (f'{family}_digits' for family in FAMILIES):
        source = next(iter(zoo.load_entry(name).weights.values())).sources[0]  # type: ignore[union-attr]
        seeds[name] = load_file(Path(zoo.__file__).parent / 'entries' / str(source.file))
    for name, golden in (('glit_tiny', 'GLiT-Tiny'), ('s3_tiny', 'S3-T'), ('uninet_eccv_b1', 'UniNet-B1')):
        layout = json.loads((ROOT / 'tests' / 'golden' / f'{golden}_state_dict.json').read_text())
        seeds[name] = {key: torch.zeros(()).expand(shape) for key, shape in layout}
    target = scratch / 'out.safetensors'

    def check(case: tuple[str, Any, str, str | None, Any, Any]) -> None:
        name, edits, form, key, inner, changes = case
        tensors: dict[Any, Any] = dict(seeds[name])
        for where, action, new in edits:
            names = list(tensors)
            if not names:
                break
            at = names[where % len(names)]
            if action in TENSORS:
                with contextlib.suppress(RuntimeError, NotImplementedError):
                    small = torch.is_tensor(tensors[at]) and tensors[at].numel() < 2**30
                    tensors[at] = TENSORS[action](tensors[at]) if small else None
            elif action == 'delete':
                del tensors[at]
            else:
                tensors[new] = tensors.pop(at) if action == 'rename' else tensors[at]
        source = scratch / ('source.safetensors' if form.startswith('safetensors') else 'source.pth')
        source.write_bytes(damage(pack(tensors, form, inner), changes))
        convert(name, source, target, key)
        with torch.inference_mode():
            again = convert(name, target, scratch / 'again.safetensors').path
            found, wanted = load_file(again), load_file(target)
            assert found.keys() == wanted.keys()
            assert all(torch.equal(found[key], wanted[key]) for key in found)

    new_keys = (
        st.sampled_from((0, None, '', 'x', 'module.x', 'layers.9.x', 'a\nb', 'x' * 3000, ('a',))) | st.text()
    )
    edits = st.lists(
        st.tuples(st.integers(0, 999), st.sampled_from(('delete', 'rename', 'copy', *TENSORS)), new_keys),
        max_size=3,
    )
    forms = (
        'safetensors',
        'safetensors header',
        'plain',
        'model',
        'state_dict',
        'list',
        'module',
        'old',
        'pickle',
    )
    wrapped = st.sampled_from((None, None, None, 'model', 'x', '', 'a\nb' * 200))
    cases = st.tuples(
        st.sampled_from(sorted(seeds)),
        edits,
        st.sampled_from(forms),
        wrapped,
        st.tuples(EDITS, cuts()),
        cuts(),
    )
    return cases, check, 20  # fmt: skip


def pack(tensors: dict[Any, Any], form: str, inner: Any) -> bytes:
    """A file of tensors; ``inner`` changes what stands inside of it, with a checksum that is right."""
    edits, changes = inner
    if form.startswith('safetensors'):
        with contextlib.suppress(RuntimeError, NotImplementedError, KeyError, ValueError, UnicodeError):
            pairs = [(k, v) for k, v in tensors.items() if isinstance(k, str) and torch.is_tensor(v)]
            data = save({key: value.contiguous() for key, value in pairs})
            if form == 'safetensors':
                return data
            size = int.from_bytes(data[:8], 'little')
            header = json.dumps(edit(json.loads(data[8 : 8 + size]), edits)).encode()
            return len(header).to_bytes(8, 'little') + header + data[8 + size :]
        return b''
    wrap: Mapping[str, Callable[[Any], Any]] = {
        'model': lambda x: {'model': x, 'epoch': 3},
        'state_dict': lambda x: {'state_dict': x, 'state_dict_ema': 0},
        'list': lambda x: [x, x],
        'module': lambda x: {f'module.{key}': value for key, value in x.items()},
    }
    buffer = io.BytesIO()
    torch.save(wrap.get(form, lambda x: x)(tensors), buffer, _use_new_zipfile_serialization=form != 'old')
    if form != 'pickle':
        return buffer.getvalue()
    packed = io.BytesIO()
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(packed, 'w') as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, damage(data, changes) if name.endswith('data.pkl') else data)
    return packed.getvalue()


class Reached(Exception):
    """A run has come far enough."""


class Fault:
    """Stops a run when it passes a point for the second time, or ('') has computed anything."""

    def __init__(self, point: str):
        self.point, self.times = point, 0

    def __call__(self, point: str) -> None:
        self.times += point == self.point
        if self.times == 2 or not (self.point or point.endswith(': begin')):
            raise Reached


def run(scratch: Path) -> Target:
    """A run with damaged files is reported, summed up and continued, until it would compute something."""
    seeds = {}
    short = ('supernet.recipe.epochs=1', 'retrain.epochs=1', 'search.evaluations=6')
    more = {
        'tiny': short,
        'tiny_glit': ('search.evaluations=4', 'top=1'),
        'tiny_s3_space': (*short[:1], 'compare=null'),
        'tiny_carnet': ('search.seeds=1',),
    }
    for name, overrides in more.items():
        found = load_config(ROOT / 'tests' / 'search' / f'{name}.yaml', overrides)
        METHODS[found.method](found, scratch / name, quiet=True)
        seeds[name] = found
        if name == 'tiny':
            for point in ('supernet: step', 'search: candidate'):
                found = found.model_copy(update={'checkpoint_seconds': 0.0})
                with contextlib.suppress(Reached):
                    METHODS[found.method](found, scratch / point, quiet=True, fault=Fault(point))
                seeds[point] = found
        points = [{'genotype': [i], 'supernet': i / 7, 'alone': i * i} for i in range(9)]
        ranks = {'tau': 0.5, 'interval': [0.2, 0.7], 'n': 9, 'objective': 'loss', 'points': points}
        (scratch / name / 'correlation.json').write_text(json.dumps(ranks))
    buffer = io.BytesIO()
    Figure().savefig(buffer)
    png = buffer.getvalue()
    files = {
        name: sorted(
            str(path.relative_to(scratch / name))
            for path in (scratch / name).rglob('*')
            if path.is_file() and path.name != '.lock' and 'tensorboard' not in path.parts
        )
        for name in seeds
    }
    folder = scratch / 'damaged'

    def check(case: tuple[str, Any, str]) -> None:
        name, changed, action = case
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(scratch / name, folder)
        for where, edits, changes, is_gone in changed:
            path = folder / files[name][where % len(files[name])]
            if is_gone:
                path.unlink(missing_ok=True)
            elif path.is_file():
                path.write_bytes(damage(edit_file(path, edits), changes))
        if action == 'report':
            write_report(folder)
        elif action == 'page':
            opened = RunFiles.open(folder)
            render(opened, [])
        elif action == 'figures':
            with patch.object(Figure, 'savefig', lambda figure, file, **kwargs: file.write(png)):
                list_figures(RunFiles.open(folder))
        elif action == 'checklist':
            build_checklist(folder)
        else:
            with contextlib.suppress(Reached):
                METHODS[seeds[name].method](seeds[name], folder, quiet=True, fault=Fault(''))

    changes = st.tuples(st.integers(0, 99), EDITS, cuts(), st.integers(0, 9).map(lambda i: i == 9))
    actions = st.sampled_from(
        ('page', 'page', 'figures', 'figures', 'checklist', *('continue',) * 4, 'report')
    )
    cases = st.tuples(st.sampled_from(sorted(seeds)), st.lists(changes, min_size=1, max_size=2), actions)
    return cases, check, 60


def edit_file(path: Path, edits: Any) -> bytes:
    """A file of a run with other data: JSON, JSON lines, or what torch has saved."""
    data = path.read_bytes()
    with contextlib.suppress(ValueError, TypeError, UnpicklingError, RuntimeError, EOFError):
        if path.suffix == '.json':
            return json.dumps(edit(json.loads(data), edits)).encode()
        if path.suffix == '.jsonl':
            lines = edit([json.loads(line) for line in data.splitlines()], edits)
            return ''.join(json.dumps(line) + '\n' for line in lines).encode()
        found = torch.load(path, weights_only=True) if path.name == 'checkpoint.pt' else {'state': 0}
        if found['state'] is None:
            buffer = io.BytesIO()
            torch.save(edit(found, edits), buffer)
            return buffer.getvalue()
    return data


TARGETS: dict[str, Callable[[Path], Target]] = {
    'entry': entry,
    'config': config,
    'checkpoint': checkpoint,
    'run': run,
}
