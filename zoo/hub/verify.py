"""Whether weights are still where entries say, and still the same: for a weekly job, and before a release."""

import argparse
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import get_hf_file_metadata, hf_hub_url

from zoo.entry import Entry, Source
from zoo.errors import ZooError
from zoo.files import sha256_file, write_atomic
from zoo.hub.fetch import (
    FAILURES,
    WEIGHTS_FILE,
    Unavailable,
    check_digest,
    download,
    explain_hub,
    fetch_source,
)
from zoo.registry import entry_file, list_entries, load_entry, register

__all__ = ['Finding', 'add_parser', 'verify']


@dataclass(frozen=True)
class Finding:
    """What became of one source.

    Attributes:
        label: Entry and tag.
        source: The source, with what was found out where the record says nothing.
        holds: The file is there and has the recorded sha256; None where only people can look.
        text: That in words.
    """

    label: str
    source: Source
    holds: bool | None
    text: str


def add_parser(commands: Any) -> None:
    """Adds the command."""
    command = commands.add_parser(
        'verify',
        help="check every link and digest of entries' weights",
        description='Asks the Hub for revision and sha256 of its files, downloads those of URLs, and '
        'compares with the entries. The exit code is 1 unless all hold.',
        epilog='example: searchzoo zoo verify --all',
    )
    command.add_argument(
        'names', nargs='*', metavar='NAME', help="a name, or the path of an entry's .json file"
    )
    command.add_argument('--all', action='store_true', help='all entries that are known')
    command.add_argument(
        '--update', action='store_true', help='write revisions, digests and sizes where an entry has none'
    )
    command.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    if bool(args.names) == args.all:
        raise ZooError('verify: either names of entries or --all is needed.')
    names = [register(name) if name.endswith('.json') else name for name in args.names] or list_entries()
    findings = [finding for name in names for finding in _verify_entry(name, args.update)]
    for finding in findings:
        state = {True: 'holds', False: 'FAILS', None: 'by hand'}[finding.holds]
        print(f'{state:8}{finding.label:28}{finding.source.place}: {finding.text}')
    failed = sum(finding.holds is False for finding in findings)
    print(f'{len(findings)} sources, {failed or "none"} of which fail{"s" if failed == 1 else ""}')
    return int(failed > 0)


def _verify_entry(name: str, update: bool) -> list[Finding]:
    entry = load_entry(name)
    path = entry_file(name)
    findings = verify(entry, path.parent, update)
    if update:
        found = iter(findings)
        weights = {
            tag: record.model_copy(update={'sources': tuple(next(found).source for _ in record.sources)})
            for tag, record in (entry.weights or {}).items()
        }
        if weights != (entry.weights or {}):
            write_atomic(path, entry.model_copy(update={'weights': weights}).to_json().encode())
            register(path)
    return findings


def verify(entry: Entry, folder: Path, update: bool = False) -> list[Finding]:
    """Looks at every source of an entry's weights; nothing is kept or changed.

    Args:
        entry: The entry.
        folder: Where its own files are.
        update: Whether to take what is found for what the record does not say.

    Returns:
        One finding a source, in the entry's order.
    """
    findings = []
    for tag, weights in (entry.weights or {}).items():
        for source in weights.sources:
            label = f'{entry.name}.{tag}'
            try:
                found = _look(source, label, folder)
            except (Unavailable, ZooError) as error:
                findings.append(Finding(label, source, False, str(error).rstrip('.')))
                continue
            if found is None:
                findings.append(Finding(label, source, None, 'a page, which only people can look at'))
            elif found == source or update:
                revision = f', revision {found.revision}' if found.revision else ''
                text = f'sha256 {found.sha256}, {found.size:,} bytes{revision}'
                findings.append(Finding(label, found, True, text))
            else:
                lacking = [key for key in ('revision', 'sha256', 'size') if getattr(source, key) is None]
                text = f'there, but its {" and ".join(lacking)} are not recorded; --update writes them'
                findings.append(Finding(label, source, False, text))
    return findings


def _look(source: Source, label: str, folder: Path) -> Source | None:
    """The source with all that is known about its file today; None if only people can fetch it.

    Raises:
        Unavailable: There is no file.
        ZooError: It is not the recorded one.
    """
    if source.page:
        return None
    if source.hf_hub_id:
        return _look_at_hub(source, label)
    with tempfile.TemporaryDirectory() as temporary:  # a URL's file may be cached, and its link be dead
        path = (
            download(source, Path(temporary) / label) if source.url else fetch_source(source, label, folder)
        )
        check_digest(path, source, label)
        return source.model_copy(update={'sha256': sha256_file(path), 'size': path.stat().st_size})


def _look_at_hub(source: Source, label: str) -> Source:
    """As the Hub describes its file: of large files, as weights are, it tells the sha256."""
    url = hf_hub_url(str(source.hf_hub_id), source.filename or WEIGHTS_FILE, revision=source.revision)
    try:
        about = get_hf_file_metadata(url)
    except FAILURES as error:
        raise Unavailable(explain_hub(error)) from None
    digest = about.etag or ''
    if not re.fullmatch('[0-9a-f]{64}', digest):
        pinned = source.model_copy(update={'revision': about.commit_hash})
        path = fetch_source(pinned, label)
        digest = sha256_file(path)
    if source.sha256 and digest != source.sha256:
        raise ZooError(f'has the sha256 {digest} today, the entry says {source.sha256}')
    found = {'revision': source.revision or about.commit_hash, 'sha256': digest, 'size': about.size}
    if source.size and about.size != source.size:
        raise ZooError(f'has {about.size} bytes today, the entry says {source.size}')
    return source.model_copy(update=found)
