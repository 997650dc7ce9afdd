"""Optional packages: imported when needed, and named with the extra that brings them when absent."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from sensitivity.errors import MissingPackageError, how_to_install


def need(package: str, extra: str) -> ModuleType:
    """The module of an optional package.

    Args:
        package: Name to import.
        extra: Extra of this library that brings it.

    Raises:
        MissingPackageError: If it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise MissingPackageError(
            f"the package {package!r} is needed for this and cannot be imported ({error}). {how_to_install(extra)}"
        ) from error
