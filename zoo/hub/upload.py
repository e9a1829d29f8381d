"""The Hub's side of publishing: a folder becomes one commit of a repository of the same architecture."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import CommitOperationAdd, HfApi

from zoo.arch import load_arch
from zoo.entry import Entry
from zoo.errors import ZooError
from zoo.hub.fetch import explain_hub
from zoo.hub.folder import FILES
from zoo.jsonfile import clip, parse_json, read_file
from zoo.models import FAMILIES

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

__all__ = ['upload_folder']

NO_MODEL = {'.gitattributes', '.gitignore', 'LICENSE', 'LICENSE.md', 'LICENSE.txt', 'README.md'}
"""A repository that holds these alone is empty."""


def upload_folder(folder: Path, repo: str, entry: Entry) -> str:
    """Uploads the files of a published network in one commit.

    Args:
        folder: What :func:`zoo.hub.folder.write_folder` has written.
        repo: ``org/name``; made if there is none.
        entry: What it is; a repository with another architecture, or with no network, is refused.

    Returns:
        The commit: 40 hexadecimal digits.

    Raises:
        ZooError: The repository is another network's, or the Hub does not take it. What a repository held
            before is as it was; a new one is empty.
    """
    api = HfApi(library_name='searchzoo')
    try:
        api.create_repo(repo, exist_ok=True)
        info = api.model_info(repo)
        _check_same_network(api, info, entry)
        done = api.create_commit(
            repo,
            [CommitOperationAdd(name, folder / name) for name in FILES],
            commit_message=f'Publish {repo.partition("/")[2]}',
            parent_commit=info.sha,  # refused if another one has published meanwhile
        )
    except ZooError:
        raise
    except Exception as error:  # the client's are of many kinds, and of others in each of its versions
        raise ZooError(f'{repo} was not published: {_explain(error, repo)}.') from error
    return str(done.oid)


def _check_same_network(api: HfApi, info: 'ModelInfo', entry: Entry) -> None:
    """Refuses a repository that holds anything but this architecture."""
    held = {sibling.rfilename for sibling in info.siblings or ()} - NO_MODEL
    if not held:
        return
    what = f'there are other files in it ({", ".join(sorted(held)[:3])}), but no config.json'
    if 'config.json' in held:
        with tempfile.TemporaryDirectory() as folder:
            path = api.hf_hub_download(info.id, 'config.json', revision=info.sha, local_dir=folder)
            config = parse_json(read_file(path), f'config.json of {info.id}')
        if _describes(config, entry):
            return
        found = config.get('architecture') if isinstance(config, dict) else None
        what = f'it holds another network ({clip(str(found), 60)})'
    raise ZooError(f'{info.id} was not published: {what}; choose another name or tag.')


def _describes(config: Any, entry: Entry) -> bool:
    """Whether a configuration is one of this architecture."""
    if not isinstance(config, dict) or config.get('architecture') != entry.family:
        return False
    arguments = config.get('model_args')
    arch = arguments.get('arch') if isinstance(arguments, dict) else None
    try:
        return isinstance(arch, dict) and load_arch(FAMILIES[entry.family].Arch, arch) == entry.arch
    except ZooError:
        return False


def _explain(error: BaseException, repo: str) -> str:
    """Why the Hub did not take it, and what to do."""
    if isinstance(error, RuntimeError) and error.__cause__:  # the client wraps what happens in its threads
        error = error.__cause__
    status = getattr(getattr(error, 'response', None), 'status_code', None)
    organisation = repo.partition('/')[0]
    if status == 401:
        return 'the token is not valid: run `hf auth login`, or set HF_TOKEN to one that may write'
    if status == 403:
        return f'the token may not write to {organisation}: use one that may, or another organisation'
    if status == 404:
        return f'there is no {organisation} on the Hub, or the token may not see the repository'
    if status in (409, 412):
        return 'somebody else changed the repository at the same time: run the command again'
    if status is not None and status >= 500:
        return f'the server answered {status}: run the command again later'
    if status is not None or isinstance(error, ValueError):
        return clip(getattr(error, 'server_message', None) or str(error), 300).rstrip('.')
    return f'the connection to the Hub failed ({explain_hub(error)}): run the command again'
