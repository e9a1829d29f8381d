"""Publishing: an entry and a file of its weights become a repository of the Hub, and the entry says so.

Everything is checked before anything is written; what is uploaded was loaded back before; and it is one
commit, whose id goes into the entry's file.
"""

import argparse
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import constants, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from zoo.convert import convert
from zoo.entry import Entry, Source, read_entry
from zoo.errors import ZooError
from zoo.files import new_folder, sha256_file, write_atomic
from zoo.hub.fetch import fetch_weights
from zoo.hub.folder import add_source, check_weights, verify_folder, write_folder
from zoo.hub.upload import upload_folder
from zoo.jsonfile import clip
from zoo.registry import entry_file, list_entries, load_entry, register

__all__ = ['add_parser', 'publish', 'publish_all']

NO_LICENSES = ('unknown', 'other', 'none')


def publish(
    entry: str,
    weights: Path | str,
    repo: str,
    license: str | None = None,
    unlicensed: bool = False,
    dry_run: Path | str | None = None,
) -> str | None:
    """Publishes a file of weights of an entry.

    Args:
        entry: A registered entry's name, or the path of an entry's .json file, which is registered.
        weights: The file: safetensors of exactly the network's tensors.
        repo: ``org/name.tag``, with the entry's name; made if there is none.
        license: An identifier, where the entry's record of that tag has none.
        unlicensed: Publish weights for which nobody gave a licence; their card says so.
        dry_run: Make this folder and nothing else.

    Returns:
        The commit; None for a folder alone.

    Raises:
        ZooError: Something is not as it has to be, or the Hub refuses; nothing is changed then.
    """
    name = register(entry) if entry.endswith('.json') else entry
    known, weights = load_entry(name), Path(weights)
    tag = _check_repo(repo, name)
    license = _choose_license(known, tag, license, unlicensed)
    tensors = check_weights(weights, known, tag)
    source = Source(hf_hub_id=repo, sha256=sha256_file(weights), size=weights.stat().st_size)
    extended = add_source(known, tag, source, license)
    target = Path(dry_run) if dry_run is not None else None
    if target is None:
        _check_rights(name)
    with _working_folder(target) as folder:
        write_folder(folder, weights, extended, tag, source)
        verify_folder(folder, known, tag, tensors)
        revision = None if target else upload_folder(folder, repo, known)
    if revision:
        _record(name, tag, source.model_copy(update={'revision': revision}), license)
    return revision


# ---- checks


def _check_repo(repo: str, name: str) -> str:
    """The tag in ``org/name.tag``."""
    match = re.fullmatch(rf'[\w.-]+/{name}\.([a-z0-9][a-z0-9_]{{0,63}})', repo, re.ASCII)
    try:
        validate_repo_id(repo)
    except HFValidationError:
        match = None
    if match is None:
        raise ZooError(f'--repo: found {clip(repo, 100)!r}, ORG/{name}.TAG is needed, a TAG such as in1k.')
    return match[1]


def _choose_license(entry: Entry, tag: str, given: str | None, unlicensed: bool) -> str | None:
    """The licence of the weights: the record's, or the given one, or none if that is meant."""
    record = (entry.weights or {}).get(tag)
    stated = record.license if record else None
    if given is not None and not re.fullmatch(r'[A-Za-z0-9][A-Za-z0-9.+-]{0,63}', given):
        raise ZooError(f'--license: found {clip(given, 100)!r}, an identifier such as apache-2.0 is needed.')
    if given is not None and given.lower() in NO_LICENSES:
        raise ZooError(f'--license: {given} is no licence; --unlicensed says that the weights have none.')
    if stated and given and stated.lower() != given.lower():
        raise ZooError(
            f'--license: found {given}, but the weights {entry.name}.{tag} have the licence {stated}.'
        )
    if stated and unlicensed:
        raise ZooError(f'--unlicensed: the weights {entry.name}.{tag} have the licence {stated}.')
    license = stated or (given.lower() if given else None)
    if license is None and not unlicensed:
        raise ZooError(
            f'{entry.name}.{tag}: no licence of the weights is known: give one with --license, or '
            '--unlicensed if those who made them gave none and you may share them nevertheless.'
        )
    return license


def _check_rights(name: str) -> None:
    """Refuses what would fail after the upload, or without a login."""
    file = entry_file(name)
    writable = os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)
    if file.is_symlink() or not writable:  # a link: a file of the Hub's cache
        raise ZooError(f'{file}: cannot be written, but its weight record has to be: publish a copy of it.')
    if constants.HF_HUB_OFFLINE:
        raise ZooError('Publishing needs the network, but HF_HUB_OFFLINE is set: unset it, or use --dry-run.')
    if not get_token():
        raise ZooError('Publishing needs a token that may write: run `hf auth login`, or set HF_TOKEN.')


@contextmanager
def _working_folder(target: Path | None) -> Iterator[Path]:
    """A folder to fill, which gets the name ``target`` when it is whole; without a target it is removed."""
    if target is None:
        with tempfile.TemporaryDirectory(prefix='searchzoo-') as name:
            yield Path(name)
        return
    with new_folder(target) as folder:
        yield folder


# ---- the entry


def _record(name: str, tag: str, source: Source, license: str | None) -> None:
    """Writes where the weights are into the entry's file, and registers it anew."""
    file = entry_file(name)
    try:
        changed = add_source(read_entry(file), tag, source, license)
        write_atomic(file, changed.to_json().encode())
    except (OSError, ZooError) as error:
        place = f'revision {source.revision}, sha256 {source.sha256}, size {source.size}'
        reason = clip(str(error), 200).rstrip('.')
        raise ZooError(
            f'{source.hf_hub_id} was published, but its entry cannot be written ({reason}): add the source '
            f'to it, {place}.'
        ) from None
    register(file)


# ---- all, and the command


def publish_all(
    organisation: str, unlicensed: bool = False, dry_run: Path | str | None = None
) -> list[tuple[str, str, bool]]:
    """Publishes all weights of registered entries that can be fetched, one after the other.

    Args:
        organisation: Where the repositories are: ``organisation/name.tag``.
        unlicensed: As for :func:`publish`.
        dry_run: Make the folders ``name.tag`` in this one instead, which must exist.

    Returns:
        Name and tag, what came of it, and whether that is as it should be.
    """
    rows = []
    for name in list_entries():
        for tag, record in (load_entry(name).weights or {}).items():
            label = f'{name}.{tag}'
            if record.by_hand:
                rows.append((label, 'left out: it has to be downloaded by hand', True))
                continue
            print(f'{label} ...', flush=True)
            repo = f'{organisation}/{label}'
            folder = Path(dry_run) / label if dry_run is not None else None
            try:
                commit = publish_own(name, repo, None, unlicensed, folder)
            except (ZooError, OSError) as error:
                rows.append((label, str(error), False))
            else:
                what = f'published as {repo}@{commit}' if commit else f'written to {folder}'
                rows.append((label, what, True))
    return rows


def publish_own(
    entry: str, repo: str, license: str | None, unlicensed: bool, dry_run: Path | str | None
) -> str | None:
    """Publishes an entry's own weights, converted first where they are in an official layout.

    Arguments, result and errors are those of :func:`publish`; the tag of ``repo`` says which weights.
    """
    name = register(entry) if entry.endswith('.json') else entry
    known, tag = load_entry(name), _check_repo(repo, name)
    if tag not in (known.weights or {}):
        raise ZooError(f'{name} has no weights {tag!r} of its own: --weights FILE names those to publish.')
    path = fetch_weights(known, tag, entry_file(name).parent)
    with tempfile.TemporaryDirectory(prefix='searchzoo-') as temporary:
        try:
            check_weights(path, known, tag)
        except ZooError:
            path = convert(name, path, Path(temporary) / f'{name}.safetensors').path
        return publish(name, path, repo, license, unlicensed, dry_run)


def add_parser(commands: Any) -> None:
    """Adds the command to those of ``searchzoo zoo``."""
    command = commands.add_parser(
        'publish',
        help='publish weights to the Hub',
        epilog='example: searchzoo zoo publish my_network.json --weights my_network.safetensors '
        '--repo my-org/my_network.digits --license apache-2.0 --dry-run folder',
    )
    command.add_argument(
        'name', nargs='?', metavar='ENTRY', help="a name, or the path of an entry's .json file"
    )
    command.add_argument(
        '--weights', metavar='FILE', help="safetensors in this package's layout (default: the entry's own)"
    )
    command.add_argument('--repo', metavar='ORG/NAME.TAG', help='the repository, made if there is none')
    command.add_argument('--all', action='store_true', help='publish all weights of all entries, with --org')
    command.add_argument('--org', metavar='ORG', help='with --all: publish to ORG/NAME.TAG')
    license = command.add_mutually_exclusive_group()
    license.add_argument('--license', metavar='ID', help="the weights' licence, where the entry has none")
    license.add_argument('--unlicensed', action='store_true', help='publish weights that nobody licensed')
    command.add_argument('--dry-run', metavar='FOLDER', help='only make the folder that would be uploaded')
    command.set_defaults(run=partial(_run, command))


def _run(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    single = {'ENTRY': args.name, '--weights': args.weights, '--repo': args.repo}
    if args.all:
        extra = [key for key, value in {**single, '--license': args.license}.items() if value]
        if extra or not args.org:
            parser.error(f'--all needs --org, and no {", ".join(extra or single)}')
        rows = publish_all(args.org, args.unlicensed, args.dry_run)
        width = max((len(label) for label, _, _ in rows), default=0)
        for label, what, _ in rows:
            print(f'{label:{width}}  {what}')
        return int(not all(good for _, _, good in rows))
    if args.org or not (args.name and args.repo):
        parser.error('ENTRY and --repo are needed, or --all with --org')
    how = (args.repo, args.license, args.unlicensed, args.dry_run)
    commit = publish(args.name, args.weights, *how) if args.weights else publish_own(args.name, *how)
    if commit is None:
        print(f'{args.dry_run}: written, nothing was uploaded')
        print(f"timm.create_model('local-dir:{args.dry_run}', pretrained=True)")
    else:
        print(f'{args.repo}: published, commit {commit}, which the entry names now')
        print(f"timm.create_model('hf-hub:{args.repo}', pretrained=True)")
    return 0
