"""Files of weights, from where an entry says they are, and only if they are the ones it means.

timm takes whatever a repository or a URL holds today. Here every source of a record is tried in its order and
what comes is compared with the record's sha256. The Hub's client does its part (``HF_HUB_OFFLINE``,
``HF_ENDPOINT``, ``HF_HUB_CACHE``, locks, progress); files of URLs lie where timm and torch keep theirs, under
a name with entry, tag and digest, since that cache knows files by their names only.
"""

import os
import tempfile
import warnings
from pathlib import Path

import torch
from huggingface_hub import errors, hf_hub_download
from huggingface_hub.file_download import http_get

from zoo.entry import Entry, Source, read_entry
from zoo.errors import ZooError
from zoo.files import sha256_file
from zoo.jsonfile import clip

__all__ = [
    'ENTRY_FILE',
    'FAILURES',
    'WEIGHTS_FILE',
    'Unavailable',
    'check_digest',
    'download',
    'explain_hub',
    'fetch_entry',
    'fetch_source',
    'fetch_weights',
]

WEIGHTS_FILE = 'model.safetensors'
"""What timm and transformers look for in a repository."""
ENTRY_FILE = 'entry.json'


_OTHERS = (object, BaseException, Exception)
FAILURES: tuple[type[Exception], ...] = (
    errors.HFValidationError,
    *(base for base in errors.HfHubHTTPError.__mro__ if base not in _OTHERS),  # type: ignore[misc]
)
"""What the Hub's client raises, among it what its HTTP library does: its versions use different ones."""


class Unavailable(Exception):
    """A source gives no file, for a reason in words."""


def fetch_weights(
    entry: Entry, tag: str, folder: Path | None = None, cache_dir: Path | str | None = None
) -> Path:
    """A file of an entry's weights whose sha256 is the record's.

    Args:
        entry: The entry.
        tag: Which of its weights.
        folder: Where the entry's own files are.
        cache_dir: Where downloads are kept, by default as ``HF_HUB_CACHE`` and ``TORCH_HOME`` say.

    Returns:
        The file, on this disk. Where the record has no sha256 or no revision, a warning says so.

    Raises:
        ZooError: No source gives a file, or a file is another one; nothing is deleted then.
    """
    assert entry.weights is not None
    weights, label = entry.weights[tag], f'Weights of {entry.name}.{tag}'
    reasons = []
    for source in weights.sources:
        try:
            path = fetch_source(source, f'{entry.name}.{tag}', folder, cache_dir)
        except Unavailable as reason:
            reasons.append(f'{source.place}: {reason}')
            continue
        check_digest(path, source, label)
        if source.sha256 is None or (source.hf_hub_id and source.revision is None):
            warnings.warn(
                f'{label} from {source.place}: the entry does not pin them yet, so that other ones would not '
                f'be noticed; `searchzoo zoo verify --update {entry.name}` writes revision and sha256.',
                stacklevel=4,  # the call of timm.create_model
            )
        return path
    raise ZooError(
        f'{label} cannot be fetched: {"; ".join(reasons)}. Try again with a connection, or give a file: '
        'pretrained_cfg_overlay=dict(file=...).'
    )


def fetch_source(
    source: Source, name: str, folder: Path | None = None, cache_dir: Path | str | None = None
) -> Path:
    """The file of one source, as it is; from a cache if it is there.

    Args:
        source: The source.
        name: Entry and tag, for the cached file's name.
        folder: As for :func:`fetch_weights`.
        cache_dir: Likewise.

    Raises:
        Unavailable: There is no file to be had.
    """
    if source.hf_hub_id:
        return _fetch_from_hub(source.hf_hub_id, source.filename or WEIGHTS_FILE, source.revision, cache_dir)
    if source.url:
        cache = Path(cache_dir) if cache_dir else Path(torch.hub.get_dir()) / 'checkpoints'
        digest = f'-{source.sha256[:8]}' if source.sha256 else ''
        path = cache / f'{name}{digest}{Path(source.url.partition("?")[0]).suffix}'
        return path if path.is_file() else download(source, path)
    if source.page:
        raise Unavailable(f'download it by hand, then `searchzoo zoo convert {name.partition(".")[0]} ...`')
    path = (folder or Path()) / str(source.file)
    if not path.is_file():
        raise Unavailable(f'there is no file {path}')
    return path


def check_digest(path: Path, source: Source, label: str) -> None:
    """Refuses a file that is not the one a source describes.

    Args:
        path: The file, which stays where it is.
        source: What it should be; without sha256 only its size is compared.
        label: What errors call the weights.

    Raises:
        ZooError: It is another one, with both digests.
    """
    if source.sha256 and (found := sha256_file(path)) != source.sha256:
        raise ZooError(
            f'{label}: {path} has the sha256 {found}, its entry says {source.sha256}, so it is refused; '
            'remove it, if it was downloaded, to fetch it again.'
        )
    if source.size and (size := path.stat().st_size) != source.size:
        raise ZooError(f'{label}: {path} has {size} bytes, its entry says {source.size}, so it is refused.')


def download(source: Source, path: Path) -> Path:
    """Downloads a source's URL to a file, which appears when it is whole and has the digest, or not at all.

    Raises:
        Unavailable: It cannot be downloaded.
        ZooError: It is another file.
    """
    url = str(source.url)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.', suffix='.part')
    except OSError as error:
        raise Unavailable(f'{error.filename} cannot be written: {error.strerror}') from None
    temporary = Path(name)
    try:
        with os.fdopen(handle, 'wb') as file:
            http_get(url, file, expected_size=source.size, displayed_filename=path.name)
            file.flush()
            os.fsync(file.fileno())
        check_digest(temporary, source, url)
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except FAILURES as error:
        raise Unavailable(explain_hub(error)) from None
    finally:
        temporary.unlink(missing_ok=True)
    return path


def fetch_entry(name: str) -> tuple[Entry, Path]:
    """The entry in a repository of the Hub, with its weights pinned to the commit that it was read from.

    Args:
        name: ``org/name`` or ``org/name@revision``.

    Returns:
        The entry and its file.

    Raises:
        ZooError: The repository has none, cannot be reached, or the entry is faulty.
    """
    repo, _, revision = name.partition('@')
    if repo.count('/') != 1 or not all(repo.split('/')):
        raise ZooError(f'hf-hub:{name}: the form hf-hub:org/name or hf-hub:org/name@revision is needed.')
    try:
        path = _fetch_from_hub(repo, ENTRY_FILE, revision or None, None)
    except Unavailable as reason:
        raise ZooError(f'hf-hub:{name}: its {ENTRY_FILE} cannot be fetched: {reason}.') from None
    entry = read_entry(path)
    commit = path.parent.name  # the cache has a folder for every commit
    pinned = {
        tag: weights.model_copy(
            update={'sources': tuple(_pin(source, repo, commit) for source in weights.sources)}
        )
        for tag, weights in (entry.weights or {}).items()
    }
    return entry.model_copy(update={'weights': pinned}), path


def _pin(source: Source, repo: str, commit: str) -> Source:
    own = source.hf_hub_id == repo and source.revision is None
    return source.model_copy(update={'revision': commit}) if own else source


def _fetch_from_hub(repo: str, filename: str, revision: str | None, cache_dir: Path | str | None) -> Path:
    try:
        return Path(hf_hub_download(repo, filename, revision=revision, cache_dir=cache_dir))
    except FAILURES as error:
        raise Unavailable(explain_hub(error)) from None


def explain_hub(error: BaseException) -> str:
    """In a few words, why the Hub's client gave up."""
    if isinstance(error, errors.OfflineModeIsEnabled) or isinstance(
        error.__cause__, errors.OfflineModeIsEnabled
    ):
        return 'HF_HUB_OFFLINE is set, and it is not in the cache'
    if isinstance(error, errors.LocalEntryNotFoundError):
        if getattr(error.__cause__, 'response', None) is not None:
            return explain_hub(error.__cause__)  # type: ignore[arg-type]
        return f'no connection, and it is not in the cache ({_first_line(error.__cause__ or error)})'
    if isinstance(error, errors.GatedRepoError):
        return 'access to the repository must be asked for on its page, then `hf auth login`'
    if isinstance(error, errors.RepositoryNotFoundError):
        return 'there is no such repository, or it is private and `hf auth login` is needed'
    if isinstance(error, errors.RevisionNotFoundError):
        return 'the repository has no such revision'
    if isinstance(error, errors.EntryNotFoundError):
        return 'the repository has no such file'
    response = getattr(error, 'response', None)
    if response is not None:
        login = ', `hf auth login` or another token may help' if response.status_code in (401, 403) else ''
        return f'the server answered {response.status_code}{login}'
    return _first_line(error)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return clip(lines[0] if lines else type(error).__name__, 200).rstrip('.')
