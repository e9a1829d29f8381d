"""timm's own tests of every network, from the source distribution of the installed timm, on our entries.

timm runs 14 tests on each of its networks, and others, which are as general, on a list of some. Each of them
must run on each entry and pass. So an entry that falls out of a test shows here, as does a test that timm has
added or removed.
"""

import json
import os
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest
import timm

import zoo
from zoo.models import FAMILIES

SMALL = ('carnet_c96', 'glit_tiny', 's3_tiny', 'trionet_a', 'uninet_b0')
"""One a family for `make test`; the others are slow."""

MAPS, ANY_SIZE, RESIZED = 'maps', 'any size', 'resized'
TRAITS = {
    'carnet': {MAPS, ANY_SIZE},
    'glit': {RESIZED},
    's3': {MAPS, ANY_SIZE, RESIZED},
    'trionet': {MAPS, ANY_SIZE, RESIZED},
    'uninet': {MAPS, ANY_SIZE},
}
"""Of each family: whether ``forward_features`` gives maps, whether images of any size can be given, and
whether there is ``set_input_size``."""

OF_EVERY_NETWORK = {
    'test_model_forward': set(),
    'test_model_backward': set(),
    'test_model_default_cfgs': {MAPS},
    'test_model_load_pretrained': set(),
    'test_model_features_pretrained': {MAPS},
    'test_model_forward_torchscript': set(),
    'test_model_forward_features': {MAPS},
    'test_model_forward_intermediates_features': set(),
    'test_model_forward_intermediates': set(),
    'test_prune_intermediate_layers_contract': set(),
    'test_model_forward_fx': set(),
    'test_model_backward_fx': set(),
    'test_model_forward_fx_torchscript': set(),
}
OF_SOME_NETWORKS = {
    'test_reset_classifier_keeps_pool': {MAPS, ANY_SIZE},
    'test_features_only_grad_checkpointing_backward': {MAPS, ANY_SIZE},
    'test_feature_getter_stage_ends_torchscript': {ANY_SIZE},
    'test_prune_intermediate_layers_params_used': set(),
    'test_head_hidden_size': {ANY_SIZE},
    'test_features_only_feature_cls_class': set(),
    'test_forward_intermediates_stop_early_final_norm': {MAPS},
    'test_model_init_weights_after_to_empty': {ANY_SIZE},
    'test_headless_checkpoint_reload': set(),
    'test_relpos_non_square_checkpoint_reload': {RESIZED},
    'test_relpos_non_square_set_input_size': {RESIZED},
    'test_relpos_family_set_input_size': {RESIZED},
}
"""The traits that each test needs. timm has a list of networks for each of these: ours replaces it."""

# It wants windows to follow the image in set_input_size, and not where the network is made for that image.
FAILED_BY_SWIN = 'test_relpos_family_set_input_size'
SWIN_S3 = 'swin_s3_tiny_224'


def expected_tests(traits: set[str]) -> set[str]:
    without_maps = set() if MAPS in traits else {'test_model_default_cfgs_non_std'}
    tests = OF_EVERY_NETWORK | OF_SOME_NETWORKS
    return without_maps | {test for test, needs in tests.items() if needs <= traits}


def read_timms_tests() -> bytes:
    """tests/test_models.py of the installed timm; `make install` fetches the archive that holds it."""
    release = f'timm-{version("timm")}'
    archive = Path(sys.prefix) / 'timm-tests' / f'{release}.tar.gz'
    if not archive.is_file():
        pytest.fail(f'There is no {archive}: `make install` fetches it.', pytrace=False)
    with tarfile.open(archive) as files:
        member = files.extractfile(f'{release}/tests/test_models.py')
        assert member is not None
        return member.read()


def run_timms_tests(
    entry: str, traits: set[str], others: dict[str, str], folder: Path
) -> dict[tuple[str, str], tuple[str, str]]:
    """Runs them in a process of their own.

    Args:
        entry: An entry of the zoo.
        traits: What its family can do.
        others: Tests to run on a network of timm's as well, and which one.
        folder: An empty folder.

    Returns:
        Outcome ('passed', 'failed' or 'skipped') and message of each test and network.
    """
    listed = {test: [entry] for test, needs in OF_SOME_NETWORKS.items() if needs <= traits}
    for test, network in others.items():
        listed[test].append(network)
    task = {
        'entries': [entry],
        'without_maps': [] if MAPS in traits else [entry],
        'listed': listed,
        'weights': str(folder),
        'report': str(folder / 'report.json'),
    }
    (folder / 'test_models.py').write_bytes(read_timms_tests())
    (folder / 'pytest.ini').write_text('[pytest]\n')
    dropped = ('PYTEST', 'TORCH_', 'TIMEOUT', 'GITHUB_ACTIONS', 'COV_')  # what timm's tests or pytest heed
    env = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    env |= {'TIMM_SUITE': json.dumps(task), 'PYTHONPATH': str(Path(__file__).parent)}
    plugins = ('-p', 'timm_generic_tests', '-p', 'no:cacheprovider', '-p', 'no:timeout', '-p', 'no:xdist')
    command = [sys.executable, '-m', 'pytest', *plugins, '-W', 'ignore', '--tb=short', 'test_models.py']
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    report = json.loads((folder / 'report.json').read_text())
    assert report, done.stdout + done.stderr
    return {(test, network): (outcome, message) for test, network, outcome, message in report}


def test_every_family_is_tested() -> None:
    assert set(FAMILIES) == set(TRAITS) == {zoo.load_entry(name).family for name in SMALL}


COLOUR = [name for name in zoo.list_entries() if zoo.load_entry(name).input.size[0] == 3]
"""timm's tests give colour images."""


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    'entry',
    [name if name in SMALL else pytest.param(name, marks=pytest.mark.slow) for name in COLOUR],
)
def test_timms_tests_pass(entry: str, tmp_path: Path) -> None:
    family = zoo.load_entry(entry).family
    traits = TRAITS[family]
    assert (RESIZED in traits) == hasattr(timm.create_model(entry, device='meta'), 'set_input_size')
    assert (ANY_SIZE in traits) != timm.get_pretrained_cfg(entry).fixed_input_size

    others = {FAILED_BY_SWIN: SWIN_S3} if family == 's3' else {}
    found = run_timms_tests(entry, traits, others, tmp_path)
    same_failure = [found.pop((FAILED_BY_SWIN, network)) for network in (entry, SWIN_S3) if others]
    for outcome, message in same_failure:
        assert outcome == 'failed'
        assert 'Tensor-likes are not close' in message
    wrong = [
        f'{test}[{network}] {how}: {why}' for (test, network), (how, why) in found.items() if how != 'passed'
    ]
    assert not wrong, '\n'.join(wrong)
    assert {test for test, _ in found} == expected_tests(traits) - set(others)
