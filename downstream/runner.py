"""Training and testing by MMEngine's Runner, from configs that are shipped or the user's own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import RUNNERS
from mmengine.runner import Runner, find_latest_checkpoint
from torch import nn

from downstream import runner_checkpoints as _runner_checkpoints  # noqa: F401  (registers how they are read)
from downstream.checkpoints import fit_checkpoint, read_tensors
from downstream.config_errors import explained
from downstream.data_checks import check_data, open_dataset
from downstream.model_checks import check_channels, check_classes
from downstream.repeatable import RepeatableHook
from zoo.errors import ZooError
from zoo.registry import config_path

__all__ = [
    'build',
    'find_config',
    'load_config',
    'load_weights',
    'show',
    'test',
    'train',
    'without_pretrained',
]

LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')


def find_config(name: str | Path) -> Path:
    """The file of a config: the user's, else a shipped one of that name.

    Args:
        name: A path, or what a shipped config is called below ``configs/``, with or without ``.py``:
            ``shapes/mask-rcnn_uninet_shapes``.

    Raises:
        ZooError: There is neither; near names are suggested.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    relative = str(name)
    return config_path(relative if relative.endswith('.py') else f'{relative}.py')


def load_config(
    name: str | Path, options: Mapping[str, Any] | None = None, work_dir: Path | str | None = None
) -> Config:
    """Reads a config, and those that it inherits from.

    A config is Python, which MMEngine runs: read none that you would not run.

    Args:
        name: As for :func:`find_config`.
        options: Values to change, by dotted name: ``{'train_cfg.max_iters': 10}``.
        work_dir: Where a run writes. By default the config's own, else ``work_dirs/<its name>``.

    Raises:
        ZooError: There is no such config, it fails, a package that it needs is missing, or a value cannot be
            changed so.
    """
    path = find_config(name)
    with explained(str(name), Exception):  # it is code, of which anything can be expected
        config = Config.fromfile(path)
    with explained(f'{name}, with the given values', (KeyError, TypeError, IndexError, AttributeError)):
        config.merge_from_dict(dict(options or {}))
    config.work_dir = str(work_dir or config.get('work_dir') or Path('work_dirs', path.stem))
    return config


def show(name: str | Path, options: Mapping[str, Any] | None = None) -> str:
    """The whole config as text: all that it inherits, with the changed values."""
    return str(load_config(name, options).pretty_text)


def train(
    name: str | Path,
    work_dir: Path | str | None = None,
    resume: bool = False,
    options: Mapping[str, Any] | None = None,
    launcher: str = 'none',
) -> Runner:
    """Trains a model, with checkpoints and a log in its folder.

    With ``randomness=dict(seed=...)`` a run that was interrupted and resumed gives the weights of one that
    was not, if it is counted by iterations (``IterBasedTrainLoop``), draws images by ``InfiniteSampler`` and
    loads them in its own process (``num_workers=0``).

    Args:
        name: As for :func:`find_config`.
        work_dir: As for :func:`load_config`.
        resume: Continue from the last checkpoint of the folder, if it has one.
        options: As for :func:`load_config`.
        launcher: What has started the processes that train together: none, pytorch, slurm, mpi.

    Returns:
        The runner, when it is done.

    Raises:
        ZooError: The config, its data or the checkpoint to resume from are not what is needed.
    """
    config = load_config(name, options, work_dir)
    config.resume = resume or config.get('resume', False)
    _adapt(config, launcher)
    check_data(config, ('train', 'val'))
    runner = build(config, name)
    dataset = open_dataset(runner, config, 'train')
    if config.get('val_dataloader'):
        open_dataset(runner, config, 'val')
    check_classes(_bare(runner.model), getattr(dataset, 'metainfo', {}))
    last = config.get('load_from') or find_latest_checkpoint(config.work_dir) if config.resume else None
    if last:
        load_weights(_bare(runner.model), last)
    runner.register_hook(RepeatableHook(), priority='LOWEST')
    runner.train()
    return runner


def test(
    name: str | Path,
    checkpoint: Path | str,
    work_dir: Path | str | None = None,  # noqa: PT028
    options: Mapping[str, Any] | None = None,  # noqa: PT028
    launcher: str = 'none',  # noqa: PT028
    tta: bool = False,  # noqa: PT028
) -> dict[str, float]:
    """Evaluates a model on the test data of its config.

    Args:
        name: As for :func:`find_config`.
        checkpoint: Of the whole model: a Runner's ``.pth``, or any name of :mod:`downstream.checkpoints`.
        work_dir: As for :func:`load_config`.
        options: As for :func:`load_config`.
        launcher: As for :func:`train`.
        tta: Average over the changed images of the config's ``tta_pipeline``, such as scales and flips.

    Returns:
        The evaluators' metrics.

    Raises:
        ZooError: The config or its data are not what is needed, or the checkpoint is that of another model.
    """
    config = load_config(name, options, work_dir)
    config.resume, config.load_from = False, None
    _adapt(config, launcher)
    without_pretrained(config)
    check_data(config, ('test',))
    if tta:
        _average(config, name)
    runner = build(config, name)
    load_weights(_bare(runner.model), checkpoint)
    open_dataset(runner, config, 'test')
    return dict(runner.test())


def build(config: Config, name: str | Path) -> Runner:
    """A runner, with its model.

    Raises:
        ZooError: The config has a part that is not known or cannot be made.
    """
    with explained(str(name)):
        runner = RUNNERS.build(config) if 'runner_type' in config else Runner.from_cfg(config)
    check_channels(_bare(runner.model))
    return runner


def load_weights(model: nn.Module, checkpoint: Path | str) -> None:
    """Loads a checkpoint into a whole model, all of it.

    Raises:
        ZooError: It is missing, or that of another model.
    """
    fault = f'{checkpoint} is not a checkpoint of this model'
    tensors = fit_checkpoint(read_tensors(str(checkpoint)), model, set(), set(), fault)
    model.load_state_dict(tensors, strict=False)  # counters of batches may be missing


def without_pretrained(config: Config) -> None:
    """Keeps the backbone from fetching weights, which those of a checkpoint will replace."""
    backbone = config.model.get('backbone') or {}
    if backbone.get('pretrained'):
        backbone['pretrained'] = None


def _average(config: Config, name: str | Path) -> None:
    """Puts ``tta_model`` around the model, and ``tta_pipeline`` in the test's place, as OpenMMLab's tools."""
    for key in ('tta_model', 'tta_pipeline'):
        if key not in config:
            raise ZooError(f'{name} has no {key}, which a test with --tta needs.')
    dataset = config.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    dataset.pipeline = config.tta_pipeline
    config.model = {**config.tta_model, 'module': config.model}


def _adapt(config: Config, launcher: str) -> None:
    """Brings a config to the machine: processes that train together, and one without mixed precision."""
    if launcher not in LAUNCHERS:
        raise ZooError(f'There is no launcher {launcher!r}, known are {", ".join(LAUNCHERS)}.')
    config.launcher = launcher
    if get_device() not in ('cpu', 'mps'):
        return
    if launcher != 'none':
        config.merge_from_dict({'env_cfg': {'dist_cfg': {'backend': 'gloo'}}})
    wrapper = config.get('optim_wrapper') or {}
    if wrapper.get('type') == 'AmpOptimWrapper':
        print_log('There is no GPU: trains in float32, without the mixed precision of AmpOptimWrapper.')
        wrapper['type'] = 'OptimWrapper'
        for key in ('loss_scale', 'dtype', 'use_fsdp'):
            wrapper.pop(key, None)


def _bare(model: Any) -> nn.Module:
    return model.module if is_model_wrapper(model) or isinstance(model, BaseTTAModel) else model
