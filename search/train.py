"""Training of an entry's architecture, from scratch or from given weights: no search, but the same runs.

The architecture and its provenance stay as they are; the weights say how they were trained.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any

import timm
import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import load

from search.config import TaskConfig, check_config, read_config
from search.emit import describe_file, list_roles, measure, tag_of, weights_bytes
from search.problem import check_name, versions
from search.run import Run
from search.seeding import forked_rng
from search.task import Task
from search.training import Recipe
from zoo.entry import Entry, Name, Tag, make_entry
from zoo.errors import ZooError
from zoo.files import sha256_file
from zoo.jsonfile import shorten
from zoo.profile import Profile, profile
from zoo.registry import list_entries, load_entry, register

__all__ = ['TrainConfig', 'Training', 'find_entry', 'load_train_config', 'train_entry']


class TrainConfig(TaskConfig):
    """How an entry's architecture is trained, and on what."""

    name: Name | None = Field(None, description="of the new entry; null: the entry's and the tag")
    tag: Tag | None = Field(None, description="of the new weights; null: the data set's name")
    recipe: Recipe
    batch_size: Annotated[int, Field(ge=1)] = Field(256, description='images that are evaluated at once')
    init: str | None = Field(
        None,
        description="weights to start from: the tag of some of the entry's, or a safetensors file of the "
        'same architecture; a classifier of another number of classes is left out. null: random ones',
    )


def find_entry(name: str) -> Entry:
    """A bundled entry by its name, or an entry's file, which is registered with timm.

    Raises:
        ZooError: There is none, or its file is faulty.
    """
    is_file = name.endswith('.json') or Path(name).is_file()
    return load_entry(register(name) if is_file else name)


def load_train_config(path: Path | str, entry: Entry, overrides: Sequence[str] = ()) -> TrainConfig:
    """Reads a config (see :func:`search.config.load_config`); its ``input`` holds changes of the entry's."""
    data = read_config(path, overrides)
    changes = data.get('input') or {}
    if not isinstance(changes, dict):
        raise ZooError(f'{path}: $.input: found {shorten(changes)}, keys are needed, such as size.')
    data['input'] = entry.input.model_dump(mode='json') | changes
    return check_config(data, str(path), TrainConfig)


@dataclass(frozen=True)
class Training(Task):
    """A config and an entry, with what follows. Making one refuses what cannot work; nothing is written."""

    config: TrainConfig
    entry: Entry

    def __post_init__(self) -> None:
        if len(self.name) > 64:
            raise ZooError(f'name: found {self.name!r} by default, at most 64 letters are allowed; give one.')
        check_name(self.name, self.family)
        if self.name in list_entries() and load_entry(self.name).arch != self.entry.arch:
            raise ZooError(
                f'name: found {self.name!r}, which is the name of another architecture; choose another one.'
            )
        recipe = self.config.recipe
        self.train_images(recipe, 0)
        for role in list_roles(self):
            self.data.images(role)
        self.measured  # noqa: B018
        self.initial  # noqa: B018

    @property
    def name(self) -> str:
        return self.config.name or f'{self.entry.name}_{self.tag}'

    @property
    def tag(self) -> str:
        """Of the weights."""
        return self.config.tag or tag_of(self.config.data.name)

    @property
    def family(self) -> str:
        return self.entry.family

    @property
    def batch_size(self) -> int:
        return self.config.batch_size

    @cached_property
    def measured(self) -> Profile:
        """Params and MACs."""
        try:
            return profile(self.build(self.entry.arch, device='meta'), self.config.input.size)
        except AssertionError as error:
            raise ZooError(f'input.size: found {self.config.input.size}: {error}') from None

    @cached_property
    def initial(self) -> dict[str, torch.Tensor] | None:
        """The state dict that the training starts from, loaded by timm; None for random values."""
        init = self.config.init
        if init is None:
            return None
        name, overlay = self.entry.name, None
        if init in (self.entry.weights or {}):
            name = f'{name}.{init}'
        else:
            overlay = {'file': init, 'num_classes': _count_classes(init, self.family, self.data.num_classes)}
        in_chans, *img_size = self.config.input.size
        with forked_rng(self.config.seed, 'init'):
            model = timm.create_model(
                name,
                pretrained=True,
                pretrained_cfg_overlay=overlay,
                in_chans=in_chans,
                img_size=tuple(img_size),
                num_classes=self.data.num_classes,
            )
        return model.state_dict()

    @cached_property
    def decisive(self) -> dict[str, Any]:
        """What decides the result: the config's part of it, and the architecture."""
        data = self.config.decisive() | {'name': self.name, 'tag': self.tag, 'entry': self.entry.name}
        if (init := self.config.init) is not None and init not in (self.entry.weights or {}):
            data['init'] = {'sha256': sha256_file(init)}
        return data

    def train_weights(self, run: Run) -> bytes:
        """The trained network's safetensors file."""
        label = f'training {self.name}'
        model = self.train_alone(self.entry.arch, self.config.recipe, 'training', label, run, self.initial)
        return weights_bytes(self, self.entry.arch, model.state_dict())

    def entry_bytes(self, weights: bytes, commit: str | None) -> bytes:
        """The new entry's file: the old one's architecture and provenance, other input, classes and weights.

        Args:
            weights: The safetensors file beside the entry.
            commit: Of the code.
        """
        arch = self.entry.arch
        training = {'config': self.decisive, 'steps': self.num_steps(self.config.recipe), 'commit': commit}
        record = {
            'sources': [describe_file(self.name, weights)],
            'data': f'{self.config.data.name}: {len(self.data.images("train"))} images of its train split',
            'metrics': measure(self, arch, load(weights)) or None,
            'evaluation': self._describe_evaluation(),
            'training': {key: value for key, value in training.items() if value is not None},
            'note': self._describe(),
        }
        entry = {
            'schema': 1,
            'name': self.name,
            'family': self.family,
            'num_classes': self.data.num_classes,
            'arch': arch.model_dump(mode='json'),
            'input': self.config.input.model_dump(mode='json'),
            'measured': {'params': self.measured.params, 'macs': self.measured.macs},
            'weights': {self.tag: record},
            'provenance': self.entry.provenance.model_dump(mode='json', exclude_none=True),
        }
        return make_entry(entry).to_json().encode()

    def _describe(self) -> str:
        recipe, start = self.config.recipe, self.decisive['init']
        begun = 'from scratch'
        if start is not None:
            begun = (
                f'from weights {start} of {self.entry.name}'
                if isinstance(start, str)
                else 'from other weights'
            )
        average = f' These are moving averages of the weights (decay {recipe.ema}).' if recipe.ema else ''
        return f'Trained {begun}.{average}'

    def _describe_evaluation(self) -> str:
        sizes = ' and '.join(f'{len(self.data.images(role))} images ({role})' for role in list_roles(self))
        return f'Accuracies in per cent, float32, on {sizes}.' if sizes else 'Its accuracy was not measured.'


def train_entry(
    config: TrainConfig,
    entry: Entry,
    folder: Path | str,
    *,
    fault: Callable[[str], None] | None = None,
    quiet: bool = False,
) -> Path:
    """Trains an entry's architecture in a folder, or continues there.

    Args:
        config: How.
        entry: Of which the architecture is taken.
        folder: See :class:`search.run.Run`, as for the other arguments.

    Returns:
        The new entry's file; its weights lie beside it.

    Raises:
        ZooError: The config cannot work, or the folder is of another run.
        Interrupted: The user asked to stop; the same call continues.
    """
    training = Training(config, entry)
    whole = training.decisive | {'arch': entry.arch.model_dump(mode='json')}
    name = training.name
    with Run(folder, whole, versions(), config.checkpoint_seconds, fault, quiet) as run:
        compute = partial(training.train_weights, run)
        weights = run.phase('weights', f'{name}.safetensors', compute, together=True)
        commit = run.versions.get('commit')
        run.phase('entry', f'{name}.json', partial(training.entry_bytes, weights, commit))
        return run.folder / f'{name}.json'


def _count_classes(file: str, family: str, default: int) -> int:
    """How many classes the classifier of a file's network tells apart; the default if it has none.

    Raises:
        ZooError: The file cannot be read.
    """
    classifier = timm.get_pretrained_cfg(family).classifier  # type: ignore[union-attr]
    try:
        with safe_open(file, 'pt') as tensors:
            name, names = f'{classifier}.weight', list(tensors.keys())
            return int(tensors.get_slice(name).get_shape()[0]) if name in names else default
    except (OSError, SafetensorError) as error:
        reason = str(error).strip().split('\n')[0]
        raise ZooError(f'init: {file} is no safetensors file that can be read: {reason}.') from None
