"""Whether what is installed for detection and segmentation works: ``searchzoo downstream doctor``.

The forks that this package names (onedl-mmengine, onedl-mmcv, onedl-mmdetection, onedl-mmsegmentation) and
the official packages install modules of the same names. Either set works; with both installed, one has
overwritten files of the other.
"""

import base64
import csv
import hashlib
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

__all__ = ['Finding', 'diagnose', 'run_doctor']

MODULES = ('mmengine', 'mmcv', 'mmseg', 'mmdet')
"""Of the stack, each built on those before it (mmseg and mmdet on mmcv)."""
REQUIREMENTS = {
    'mmengine': 'searchzoo[retrieval]',
    'mmcv': 'searchzoo[seg]',
    'mmseg': 'searchzoo[seg]',
    'mmdet': 'searchzoo[mm]',
    'pytorch_metric_learning': 'searchzoo[retrieval]',
}

OPERATORS = """
import torch
from mmcv.ops import nms, roi_align
devices = ['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu']
for device in devices:
    boxes = torch.tensor([[0, 0, 4, 4], [0, 0, 4, 4]], dtype=torch.float32, device=device)
    kept = nms(boxes, torch.tensor([0.5, 0.9], device=device), 0.5)[1].tolist()
    assert kept == [1], f'nms kept {kept} of two equal boxes, [1] is right'
    image = torch.arange(16.0, device=device).view(1, 1, 4, 4).requires_grad_()
    whole = roi_align(image, torch.tensor([[0.0, 0, 0, 4, 4]], device=device), 1, 1.0, 0, 'avg', True)
    assert whole.item() == 7.5, f'roi_align gave {whole.item()} for a mean of 7.5'
    whole.sum().backward()
print(' and '.join(devices))
"""
"""Runs compiled operators: those of another torch can be imported, and fail when they are called."""

BACKBONE = """
import torch
import downstream.backbone
from {module}.registry import MODELS
from {module}.utils import register_all_modules
register_all_modules()
net = MODELS.build(dict(type='ZooBackbone', name='uninet_digits', in_channels=3)).eval()
assert len(net(torch.zeros(1, 3, 33, 40))) == len(net.channels)
"""


class Finding(NamedTuple):
    """What one check found.

    Attributes:
        what: That was checked.
        works: None where it is not installed.
        found: In a few words.
        mend: What to do, if anything.
    """

    what: str
    works: bool | None
    found: str
    mend: str = ''


def run_doctor() -> int:
    """Prints what was found and how to mend it; returns exit code 1 if something that is installed fails."""
    state = {True: 'works', False: 'FAILS', None: 'not installed'}
    findings = []
    for finding in diagnose():
        print(f'{finding.what:26}{state[finding.works]:15}{finding.found}'.rstrip(), flush=True)
        if finding.mend:
            print(''.join(f'    {line}\n' for line in finding.mend.splitlines()), end='')
        findings.append(finding)
    return int(any(finding.works is False for finding in findings))


def diagnose() -> Iterator[Finding]:
    """Checks one part after another."""
    yield Finding('python', True, sys.version.split()[0])
    for module in ('torch', 'timm'):
        yield Finding(module, True, metadata.version(module))
    owners = _owners()
    sound = {}
    for module in (*MODULES, 'pytorch_metric_learning'):
        finding = _check_files(module, owners[module])
        sound[module] = finding.works
        yield finding
    if sound['mmcv'] is not None:
        yield _check_operators(owners['mmcv'][0], needed=sound['mmdet'] is not None)
    for module in ('mmseg', 'mmdet'):
        if sound[module] is not None:
            yield _check_backbone(module)


def _owners() -> dict[str, list[str]]:
    """The distributions that bring each module.

    ``packages_distributions`` of Python 3.10 knows only those with a top_level.txt; the others tell by their
    RECORD.
    """
    known = metadata.packages_distributions()
    owners = {module: {*known.get(module, ())} for module in (*MODULES, 'pytorch_metric_learning')}
    for distribution in metadata.distributions():
        record = f'\n{distribution.read_text("RECORD") or ""}'
        for module, found in owners.items():
            if f'\n{module}/' in record:
                found.add(distribution.metadata['Name'])
    return {module: sorted(found) for module, found in owners.items()}


def _check_files(module: str, owners: list[str]) -> Finding:
    """That one distribution brings the module, and that its files are those that it has installed."""
    if not owners:
        return Finding(module, None, '', f"pip install '{REQUIREMENTS[module]}'")
    if len(owners) > 1:
        names = ' '.join(owners)
        mend = f"pip uninstall -y {names}\npip install '{REQUIREMENTS[module]}'"
        return Finding(module, False, f'{" and ".join(owners)} both install it, over each other', mend)
    (owner,) = owners
    found = f'{metadata.version(owner)}, of {owner}'
    changed = _changed_files(owner, module)
    if changed:
        found += f': {len(changed)} files are not its own, {changed[0]} for one'
        version = metadata.version(owner)
        return Finding(module, False, found, f"pip install --force-reinstall --no-deps '{owner}=={version}'")
    return Finding(module, True, found)


def _changed_files(distribution: str, module: str) -> list[str]:
    """Files of the module that are missing or differ from what the distribution has recorded.

    Its RECORD is read here, since ``metadata.files`` leaves out missing files from Python 3.12 on.
    """
    installed = metadata.distribution(distribution)
    changed = []
    for name, recorded, _ in csv.reader((installed.read_text('RECORD') or '').splitlines()):
        if not name.startswith(f'{module}/') or not recorded:
            continue
        mode, _, wanted = recorded.partition('=')
        try:
            digest = hashlib.new(mode, Path(str(installed.locate_file(name))).read_bytes()).digest()
        except OSError:
            digest = b''
        if base64.urlsafe_b64encode(digest).rstrip(b'=').decode() != wanted:
            changed.append(name)
    return changed


def _check_operators(owner: str, needed: bool) -> Finding:
    """That mmcv's compiled operators run, not only that they can be imported."""
    error, printed = _run(OPERATORS)
    what = "mmcv's operators"
    if error is None:
        return Finding(what, True, f'nms and roi_align on {printed}')
    version = metadata.version(owner)
    name = 'mmcv' if owner == 'mmcv-lite' else owner
    mend = (
        'Detection and panoptic segmentation need them, compiled for this torch:\n'
        'pip install -U ninja psutil numpy wheel setuptools\n'
        f"MAX_JOBS=4 pip wheel --no-cache-dir --no-deps --no-build-isolation '{name}=={version}' -w wheels\n"
        f'pip uninstall -y {owner}\n'
        f'pip install --no-deps wheels/{name.replace("-", "_")}-*.whl'
    )
    return Finding(what, False if needed else None, error, mend)


def _check_backbone(module: str) -> Finding:
    """That the package registers its models, and finds the zoo's backbone among them."""
    error, _ = _run(BACKBONE.format(module=module))
    what = f'a backbone in {module}'
    if error is None:
        return Finding(what, True, 'ZooBackbone')
    mend = ''
    if 'pkg_resources' in error:
        mend = "pip install 'setuptools<82'"
    elif '_ext' in error:
        mend = f"{module} needs mmcv's operators, see above"
    return Finding(what, False, error, mend)


def _run(code: str) -> tuple[str | None, str]:
    """The last line of its error, and of what it printed; in a process of its own, which may crash."""
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True)
    printed = done.stdout.strip().splitlines()
    if done.returncode == 0:
        return None, printed[-1] if printed else ''
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f'the process ended with code {done.returncode}', ''
