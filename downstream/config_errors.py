"""MMEngine's errors about a config, in one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager

from zoo.errors import ZooError
from zoo.jsonfile import clip

__all__ = ['explained']

BUILD_ERRORS = (
    KeyError,
    TypeError,
    ValueError,
    AssertionError,
    AttributeError,
    ImportError,
    FileNotFoundError,
)
"""What registries and constructors raise for a part that is not known, or an argument that is wrong."""


@contextmanager
def explained(
    subject: str, kinds: type[Exception] | tuple[type[Exception], ...] = BUILD_ERRORS
) -> Iterator[None]:
    """Says what MMEngine's errors say of a config in one sentence."""
    try:
        yield
    except kinds as error:
        raise ZooError(f'{subject}: {_describe(error)}.') from error


def _describe(error: BaseException) -> str:
    """The first cause, as it is what the user wrote; MMEngine wraps it once for each part around it."""
    cause: BaseException | None = error
    chain = []
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    own = next((link for link in chain if isinstance(link, ZooError)), None)
    missing = next((link for link in chain if isinstance(link, ModuleNotFoundError)), None)
    if own is None and missing is not None:
        text = clip(str(missing)).rstrip('.')
        return f'{text}: `searchzoo downstream doctor` shows what is installed and what to install'
    if own is not None:
        return clip(str(own)).rstrip('.')
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return clip(f'{type(error).__name__}: {text}').rstrip('.')
