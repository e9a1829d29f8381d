"""``searchzoo downstream doctor``, on this environment and on environments that were spoilt."""

import base64
import hashlib
import sys
from pathlib import Path

import pytest

from downstream.doctor import Finding, diagnose
from zoo.console import main


class Site:
    """A folder of packages in front of the environment's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(self, distribution: str, version: str, files: dict[str, str]) -> None:
        info = self.folder / f'{distribution.replace("-", "_")}-{version}.dist-info'
        info.mkdir()
        (info / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n')
        record = [f'{info.name}/METADATA,,', f'{info.name}/RECORD,,']
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()
            record.append(f'{name},sha256={digest},{len(text)}')
        (info / 'RECORD').write_text('\n'.join(record) + '\n')


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    return Site(tmp_path)


def check(*names: str) -> dict[str, Finding]:
    """The first findings, up to the last of these names; later ones take a process each."""
    findings: dict[str, Finding] = {}
    for finding in diagnose():
        findings[finding.what] = finding
        if findings.keys() >= {*names}:
            return findings
    raise AssertionError(f'{names} not among {[*findings]}')


def test_everything_works_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['downstream', 'doctor']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 11
    assert all(' works ' in line for line in lines)
    assert lines[-3].endswith('nms and roi_align on cpu') or lines[-3].endswith('on cpu and cuda')


def test_two_distributions_of_one_module_are_told(site: Site) -> None:
    site.install('mmcv-lite', '2.1.0', {'mmcv/__init__.py': ''})
    finding = check('mmcv')['mmcv']
    assert finding.works is False
    assert finding.found == 'mmcv-lite and onedl-mmcv both install it, over each other'
    assert 'pip uninstall -y mmcv-lite onedl-mmcv' in finding.mend


def test_files_that_another_package_has_overwritten_are_told(site: Site) -> None:
    site.install('onedl-mmengine', '0.10.12', {'mmengine/a.py': 'a = 1', 'mmengine/b.py': 'b = 1'})
    (site.folder / 'mmengine' / 'a.py').write_text('a = 2')
    (site.folder / 'mmengine' / 'b.py').unlink()
    finding = check('mmengine')['mmengine']
    assert finding.works is False
    assert finding.found.endswith('2 files are not its own, mmengine/a.py for one')
    assert "pip install --force-reinstall --no-deps 'onedl-mmengine==0.10.12'" in finding.mend


def test_operators_that_fail_when_they_are_called_are_told(site: Site) -> None:
    """As those do that were compiled for another torch, and those of a crash in compiled code."""
    broken = 'def nms(*args):\n    raise RuntimeError("nms_impl: implementation for device cpu not found")\n'
    site.install(
        'onedl-mmcv', '2.3.6', {'mmcv/__init__.py': '', 'mmcv/ops/__init__.py': broken + 'roi_align = nms\n'}
    )
    finding = check('mmcv', "mmcv's operators")["mmcv's operators"]
    assert finding.works is False
    assert 'nms_impl: implementation for device cpu not found' in finding.found
    assert "--no-build-isolation 'onedl-mmcv==2.3.6'" in finding.mend
    (site.folder / 'mmcv' / 'ops' / '__init__.py').write_text('import os\nos.kill(os.getpid(), 11)\n')
    assert check("mmcv's operators")["mmcv's operators"].found == 'the process ended with code -11'


def test_what_is_not_installed_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = Site(tmp_path)
    for name in ('torch', 'timm'):
        bare.install(name, '1', {})
    monkeypatch.setattr(sys, 'path', [str(tmp_path)])
    assert main(['downstream', 'doctor']) == 0
    printed = capsys.readouterr().out
    assert "mmdet                     not installed\n    pip install 'searchzoo[mm]'\n" in printed
