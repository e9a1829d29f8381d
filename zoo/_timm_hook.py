"""Runs in every interpreter of an environment with `searchzoo zoo autoload --enable`: `zoo` follows `timm`.

The ``.pth`` file that ``zoo/autoload.py`` writes executes this file by its path, without importing `zoo`. An
interpreter that never imports timm pays for these lines only: they import nothing that was not loaded.
"""

import os
import sys
from _thread import get_ident

TYPE_CHECKING = False  # importing `typing` would cost more than all that is here
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any


class TimmFinder:
    """Leaves it to the other finders to find `timm`, and has `zoo` imported once timm's own code has run.

    It stays in ``sys.meta_path``: who asks where timm is need not import it, and removing a finder while
    another thread goes through the list would hide the next finder from that thread.
    """

    def __init__(self) -> None:
        self.asking: set[int] = set()  # threads in which other finders are asked: one may ask all in turn

    def find_spec(
        self, name: str, path: 'Any' = None, target: 'ModuleType | None' = None
    ) -> 'ModuleSpec | None':
        """Where `timm` is, with a loader that `zoo` follows; None for any other module and for a reload."""
        thread = get_ident()
        if name != 'timm' or target is not None or thread in self.asking:
            return None
        others = [finder for finder in sys.meta_path if finder is not self and hasattr(finder, 'find_spec')]
        self.asking.add(thread)
        try:
            spec = next(filter(None, (finder.find_spec(name, path) for finder in others)), None)
        finally:
            self.asking.discard(thread)
        if spec is not None:
            _follow(spec.loader)
        return spec


def _follow(loader: 'Any') -> None:
    """Lets `zoo` follow when a loader executes `timm`; the loader is then as it was."""

    def exec_module(module: 'ModuleType') -> None:
        vars(loader).pop('exec_module', None)
        execute(module)
        if module.__name__ == 'timm':  # a zip file has one loader for all its modules
            _import_zoo()

    try:
        execute = loader.exec_module
        loader.exec_module = exec_module
    except AttributeError:  # such as None, of a folder named timm without code
        return


def _import_zoo() -> None:
    """Imports `zoo`, if that is this package; any error becomes one warning."""
    from importlib.util import find_spec

    try:
        spec = find_spec('zoo')
        if spec is None or spec.origin is None:  # uninstalled, and this file is in a checkout that was left
            return
        if not os.path.exists(os.path.join(os.path.dirname(spec.origin), os.path.basename(__file__))):
            raise ImportError(f'another package has this name, {spec.origin}')
        import zoo  # noqa: F401
    except Exception as error:
        import warnings

        message = (
            f"searchzoo's models are not registered with timm, `import zoo` failed: {error!r} "
            '(`searchzoo zoo autoload --disable` ends this warning)'
        )
        try:
            warnings.warn(message, RuntimeWarning, stacklevel=3)
        except RuntimeWarning:  # a filter makes warnings errors, and `import timm` must not fail
            print(message, file=sys.stderr)


if not any(type(finder).__name__ == 'TimmFinder' for finder in sys.meta_path):  # venv reads .pth files twice
    sys.meta_path.insert(0, TimmFinder())
