"""Which observers there are, and what a recipe must know of them. One registry holds them all; no torch is needed.

An observer's class is given as itself or as a reference in the form that entry points use, ``package.module:Class``,
which is imported when the first tensor is observed. That is why a saved study opens without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from sensitivity.errors import RecipeError
from sensitivity.records.arguments import CHECKED_WHERE_USED, checked
from sensitivity.records.recipes.registry import Registry

if TYPE_CHECKING:
    from sensitivity.contracts import Observer

Granularity = Literal["per-tensor", "per-channel", "per-group"]
Setting = Literal["format", "symmetric"]
ObserverSource = str | Callable[[Any], "Observer"]
"""What makes an observer of a ``QuantSpec``: a class or function, or where it stands, as ``package.module:Class``."""


@dataclass(frozen=True, slots=True)
class ObserverKind:
    """An observer, as far as recipes and calibrations must know it.

    Attributes:
        name: Name in a ``QuantSpec``.
        source: What makes one for a ``QuantSpec``.
        granularities: Granularities of activations that it can observe.
        depends_on: Settings of a spec that change its ranges; specs that differ in others share a calibration.
        samples: Whether it can look at every n-th value alone, as ``sample_every`` says.
        integers_only: Whether it is defined for integer formats alone.
        weights: Whether it can choose the range of a weight.
        version: Of the code behind the name; part of every recipe's digest where it is not empty.
    """

    name: str
    source: ObserverSource
    granularities: tuple[Granularity, ...] = ("per-tensor",)
    depends_on: frozenset[Setting] = frozenset(get_args(Setting))
    samples: bool = False
    integers_only: bool = False
    weights: bool = True
    version: str = ""


_EXTREMES, _COUNTING = "sensitivity.quantize.extremes", "sensitivity.quantize.counting"
_OBSERVERS = Registry(
    "observer",
    "sv.register_observer(name, MyObserver)",
    (
        ObserverKind("minmax", f"{_EXTREMES}:MinMaxObserver", ("per-tensor", "per-channel"), frozenset()),
        ObserverKind("mean-minmax", f"{_EXTREMES}:MeanMinMaxObserver", ("per-tensor", "per-channel"), frozenset()),
        ObserverKind("ema", f"{_EXTREMES}:EmaObserver", depends_on=frozenset()),
        ObserverKind(
            "percentile", f"{_COUNTING}:PercentileObserver", depends_on=frozenset({"symmetric"}), samples=True
        ),
        ObserverKind("mse", f"{_COUNTING}:MseObserver", samples=True),
        ObserverKind("entropy", f"{_COUNTING}:EntropyObserver", samples=True, integers_only=True, weights=False),
    ),
)


@checked(RecipeError)
def register_observer(
    name: str,
    observer: Annotated[ObserverSource, CHECKED_WHERE_USED],
    *,
    granularities: Annotated[Granularity | Iterable[Granularity], CHECKED_WHERE_USED] = ("per-tensor",),
    depends_on: Annotated[Setting | Iterable[Setting], CHECKED_WHERE_USED] = ("format", "symmetric"),
    samples: bool = False,
    integers_only: bool = False,
    weights: bool = True,
    version: str = "",
    replace: bool = False,
) -> None:
    """Make an observer of your own known to recipes.

    ``sensitivity.testing.observers.ObserverSuite`` checks whether it keeps its promises. Results that are stored name
    the observer and not its code: give another name or version to one that computes something else.

    Args:
        name: Name in a ``QuantSpec``.
        observer: A class whose instances are ``sensitivity.contracts.Observer``; it is called with the ``QuantSpec``.
            Or a reference to it, ``package.module:Class``, which is imported when it is first used.
        granularities: Granularities of activations that it can observe; weights are observed channel by channel.
        depends_on: Settings of a spec that change its ranges, ``format`` and ``symmetric``; specs that differ in others
            share a calibration. Name both where in doubt.
        samples: It obeys ``spec.sample_every``.
        integers_only: It is defined for integer formats alone.
        weights: It can choose the range of a weight.
        version: Of its code. It is part of the digest of every recipe that names the observer, so that a store refuses
            to go on with results of another version.
        replace: Take the place of one that was registered under this name before.

    Raises:
        RecipeError: If the observer cannot be called, a setting is unknown, or the name is taken.
    """
    is_reference = isinstance(observer, str) and observer.count(":") == 1 and all(observer.split(":"))
    if not is_reference and not (callable(observer) and not isinstance(observer, str)):
        raise RecipeError(
            f"observer={observer!r:.80} is no observer. Give a class, or a reference to one as 'package.module:Class'."
        )
    kind = ObserverKind(
        name,
        observer,
        _checked("granularities", granularities, get_args(Granularity)),
        frozenset(_checked("depends_on", depends_on, get_args(Setting))),
        samples,
        integers_only,
        weights,
        version,
    )
    _OBSERVERS.add(kind, replace=replace)


def _checked(argument: str, values: Iterable[Any], choices: tuple[str, ...]) -> tuple[Any, ...]:
    """The values as a tuple; what is none of the choices is refused."""
    if not isinstance(values, (str, list, tuple, set, frozenset)):
        raise RecipeError(f"{argument}={values!r:.80}: give one of {', '.join(choices)}, or several in a list.")
    names = (values,) if isinstance(values, str) else tuple(values)
    for value in names:
        if not isinstance(value, str) or value not in choices:
            raise RecipeError(f"{argument} has {value!r}. Choose from: {', '.join(choices)}.")
    return names


def find_observer(name: str) -> ObserverKind:
    """The observer of this name.

    Raises:
        RecipeError: If there is none.
    """
    return _OBSERVERS.find(name)


def observers() -> tuple[ObserverKind, ...]:
    """All observers: ours, then those that were registered."""
    return _OBSERVERS.values


def observers_that(serve: Callable[[ObserverKind], bool]) -> str:
    """The names of all observers for which something holds, for messages: ``'minmax', 'percentile' or 'mse'``."""
    names = [repr(kind.name) for kind in observers() if serve(kind)]
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
