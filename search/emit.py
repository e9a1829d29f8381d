"""What a search leaves behind: the weights and the entry that timm builds the found network from.

Both are the same bytes for the same run: no times, no paths, and a single key in the weights' metadata.
"""

import hashlib
import json
import re
from typing import Any

import torch
from safetensors.torch import load, save

from search.config import RunConfig
from search.data import Role
from search.problem import Problem
from search.space import Genotype
from search.task import Task
from search.training import device, evaluate
from zoo.arch import Arch
from zoo.entry import make_entry
from zoo.profile import profile

__all__ = [
    'describe_file',
    'describe_search',
    'entry_bytes',
    'list_roles',
    'measure',
    'tag_of',
    'weights_bytes',
]

HOW = {
    'retrain': 'Trained from scratch on the train split.',
    'inherit': 'Taken from the supernet, which was trained on the train split; not trained further.',
    'fine_tune': 'Taken from the supernet, which was trained on the train split, and trained further on it.',
}


def describe_search(problem: Problem) -> str:
    """The sentence of an entry on a search by a strategy."""
    search = problem.search_config
    judged = {
        'supernet': 'with the weights of a supernet',
        'proxy': 'after a short training from scratch',
        'table': 'by a table',
    }[search.evaluator.kind]
    return (
        f'Found by {search.strategy.get("name")} among {problem.space.space.size():.4g} architectures, '
        f'scored on {len(problem.data.images("val"))} held-out images {judged}.'
    )


def weights_bytes(task: Task, arch: Arch, tensors: dict[str, torch.Tensor]) -> bytes:
    """The safetensors file of a network: its state dict, and in the metadata what is needed to build it."""
    about = {
        'name': task.name,
        'family': task.family,
        'arch': arch.model_dump(mode='json'),
        'num_classes': task.data.num_classes,
        'input': task.config.input.model_dump(mode='json'),
    }
    # with several keys their order would vary from process to process
    metadata = {'searchzoo': json.dumps(about, sort_keys=True)}
    return save({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, metadata)


def list_roles(task: Task) -> list[Role]:
    """What a result is measured on: val where there is one, and test if the config asks for it."""
    roles: dict[Role, bool] = {'val': task.data.has('val'), 'test': task.config.test}
    return [role for role, wanted in roles.items() if wanted]


def measure(task: Task, arch: Arch, weights: dict[str, torch.Tensor]) -> dict[str, float]:
    """Accuracy on val and, if the config asks for it, on test, which is read here for the first time."""
    model = task.build(arch).to(device())
    model.load_state_dict(weights)
    num_workers = task.config.data.num_workers
    return {
        f'{role}_{metric}': value
        for role in list_roles(task)
        for metric, value in evaluate(model, task.data.images(role), task.batch_size, num_workers).items()
    }


def describe_file(name: str, weights: bytes) -> dict[str, Any]:
    """The source of weights that lie beside an entry."""
    digest = hashlib.sha256(weights).hexdigest()
    return {'file': f'{name}.safetensors', 'sha256': digest, 'size': len(weights)}


def tag_of(data_name: str) -> str:
    """The tag of weights that were trained on a data set."""
    return re.sub(r'[^a-z0-9]+', '_', data_name.lower()).strip('_')[:64]


def entry_bytes(
    problem: Problem,
    genotype: Genotype,
    weights: bytes,
    cost: dict[str, Any],
    commit: str | None,
    how: str,
    asked: RunConfig | None = None,
) -> bytes:
    """The entry's file.

    Args:
        problem: What was searched.
        genotype: What was found.
        weights: The safetensors file beside the entry.
        cost: What the search took, in steps and evaluations.
        commit: Of the code.
        how: A sentence on how it was found.
        asked: The run's config, where that is not the problem's.
    """
    config = problem.config
    arch = problem.space.decode(genotype)
    model = problem.build(arch, device='meta')
    measured = profile(model, config.input.size)
    data_name = config.data.name
    metrics = measure(problem, arch, load(weights))
    sizes = {role: len(problem.data.images(role)) for role in ['train', *list_roles(problem)]}
    tested = f' and {sizes["test"]} that were read only after all choices (test)' if config.test else ''
    record = {
        'sources': [describe_file(config.name, weights)],
        'data': f'{data_name}: {sizes["train"]} images of its train split',
        'metrics': metrics,
        'evaluation': f'Accuracies in per cent, float32, on {sizes["val"]} images held out to choose by '
        f'(val){tested}.',
        'note': HOW[config.weights],
    }
    decisive = config.decisive()
    provenance = {
        'kind': 'searched',
        'note': how,
        'config': asked.decisive() if asked else decisive,
        'seed': (asked or config).seed,
        'commit': commit,
        'space': config.space,
        'cost': cost,
    }
    entry = {
        'schema': 1,
        'name': config.name,
        'family': problem.space.family,
        'num_classes': problem.data.num_classes,
        'arch': arch.model_dump(mode='json'),
        'input': decisive['input'],
        'measured': {'params': measured.params, 'macs': measured.macs},
        'weights': {tag_of(data_name): record},
        'provenance': {key: value for key, value in provenance.items() if value is not None},
    }
    return make_entry(entry).to_json().encode()
