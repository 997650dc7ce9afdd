"""Which families of networks there are; finds the family of a network, and connects it.

A family's connector is given as itself or as a reference in the form that entry points use,
``package.module:function``, which is imported when the first network of the family is connected.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any

from sensitivity.contracts import Connected, Connector
from sensitivity.errors import MissingPackageError, ModelError, TaskError, how_to_install
from sensitivity.records.arguments import CHECKED_WHERE_USED, checked
from sensitivity.records.recipes.registry import Registry

ConnectorSource = str | Connector
"""A connector, or where it stands, as ``package.module:function``."""


@dataclass(frozen=True, slots=True)
class Family:
    """A family of networks.

    Attributes:
        name: What ``sv.connect(family=)`` calls it.
        source: Its connector.
        packages: Packages that classes of its networks come from.
    """

    name: str
    source: ConnectorSource
    packages: tuple[str, ...]

    def connector(self) -> Connector:
        """The function that connects its networks."""
        if not isinstance(self.source, str):
            return self.source
        module, _, function = self.source.partition(":")
        connector: Connector = getattr(import_module(module), function)
        return connector


def _ours(name: str, package: str | None = None) -> Family:
    return Family(name, f"{__package__}.from_{name}:connect", (package or name,))


_FAMILIES = Registry(
    "family",
    "sv.register_connector(name, connect)",
    (
        _ours("torchvision"),
        _ours("ultralytics"),
        _ours("transformers"),
        _ours("effdet"),
        _ours("smp", "segmentation_models_pytorch"),
        _ours("timm"),
    ),
    error=TaskError,
)


@checked(TaskError)
def register_connector(
    family: str,
    connector: Annotated[ConnectorSource, CHECKED_WHERE_USED],
    *,
    packages: Annotated[str | Iterable[str], CHECKED_WHERE_USED] = (),
    replace: bool = False,
) -> None:
    """Make the networks of a family of your own known to ``sv.connect`` and to tasks, for as long as this process runs.

    ``sensitivity.testing.connectors.ConnectorSuite`` checks whether a connector keeps its promises.

    Args:
        family: Name of the family.
        connector: A ``sensitivity.contracts.Connector``: a function that is called with a network, and with the
            family's settings as keywords, and returns ``sensitivity.contracts.Connected``. Or a reference to it,
            ``package.module:function``, which is imported when it is first used.
        packages: Packages that classes of the networks, or their parents, come from; a network of them needs no
            ``family=``.
        replace: Take the place of one that was registered under this name before.

    Raises:
        TaskError: If the connector cannot be called, or the name or a package is taken.
    """
    is_reference = isinstance(connector, str) and connector.count(":") == 1 and all(connector.split(":"))
    if not is_reference and (isinstance(connector, str) or not callable(connector)):
        raise TaskError(
            f"connector={connector!r:.80} is no connector. Give a function, or a reference to one as "
            "'package.module:function'."
        )
    added = Family(family, connector, _package_names(packages))
    for package in added.packages:
        owner = _owner(package)
        if owner not in (None, family):
            raise TaskError(f"packages={packages!r:.80}: {package!r} belongs to the family {owner!r} already.")
    _FAMILIES.add(added, replace=replace)


def _package_names(packages: Any) -> tuple[str, ...]:
    names = (packages,) if isinstance(packages, str) else packages
    if not isinstance(names, list | tuple | set | frozenset) or not all(
        isinstance(name, str) and name.isidentifier() for name in names
    ):
        raise TaskError(f"packages={packages!r:.80}: give names of top-level packages, such as ('mydetectors',).")
    return tuple(names)


def families() -> tuple[str, ...]:
    """Names of all families: ours, then those that were registered."""
    return _FAMILIES.names


def surroundings(model: Any, *, family: str | None = None, **settings: Any) -> Connected:
    """What the family of a network puts around it; arguments and errors as of ``sv.connect``."""
    if family is not None and family not in families():
        raise TaskError(
            f"family={family!r} is unknown. Choose one of {', '.join(map(repr, families()))}, or register it with "
            "sv.register_connector."
        )
    chosen = family or family_of(model)
    if chosen is None:
        raise ModelError(
            f"model= is a {type(model).__module__}.{type(model).__qualname__}, of no family that is known here: "
            f"{', '.join(families())}. Name it, family=..., or give preprocess= and adapter= to the task yourself."
        )
    try:
        connector = _FAMILIES.find(chosen).connector()
        _check_settings(chosen, connector, settings)
        connected = connector(model, **settings)
    except ModuleNotFoundError as error:
        advice = how_to_install(chosen) if _FAMILIES.is_ours(chosen) else f"Install {error.name!r}."
        raise MissingPackageError(
            f"connecting a network of {chosen} needs the package {error.name!r}, which is not installed. {advice}"
        ) from error
    if not isinstance(connected, Connected):
        raise TaskError(
            f"the connector of {chosen} returned a {type(connected).__name__}; expected a "
            "sensitivity.contracts.Connected."
        )
    return connected


def _check_settings(family: str, connector: Connector, settings: dict[str, Any]) -> None:
    known = list(inspect.signature(connector).parameters)[1:]  # behind the network
    if unknown := [name for name in settings if name not in known]:
        raise TaskError(f"{unknown[0]}= is no setting of {family}. It has {', '.join(known) or 'none'}.")


def as_connected(model: Any) -> Connected:
    """A network with what its family puts around it, if it is not connected yet.

    Raises:
        SensitivityError: As ``sv.connect`` does.
    """
    return model if isinstance(model, Connected) else surroundings(model)


def family_of(model: Any) -> str | None:
    """The family of a network, by the package that one of its classes comes from; None for others."""
    owners = (_owner(kind.__module__.partition(".")[0]) for kind in type(model).__mro__)
    return next((owner for owner in owners if owner is not None), None)


def _owner(package: str) -> str | None:
    """The family that has this package; None if none has."""
    return next((family.name for family in _FAMILIES.values if package in family.packages), None)
