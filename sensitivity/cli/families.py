"""``FAMILY:NAME`` as a MODEL: a network that a package makes by its name, with the family's preprocessing."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sensitivity.errors import MissingPackageError, ModelError, how_to_install

if TYPE_CHECKING:
    from sensitivity.tasks.connect import ConnectedModel

Made = tuple[Any, dict[str, Any]]
"""A network, and the settings that ``sv.connect`` needs to connect it."""


def names_family(text: str) -> bool:
    """Whether a MODEL is of the form ``FAMILY:NAME``."""
    family, colon, name = text.partition(":")
    return bool(colon and name) and family in _MAKERS


def connected_family(text: str, *, trained: bool) -> ConnectedModel:
    """The network of a ``FAMILY:NAME``, connected.

    Args:
        text: What the command line names.
        trained: Load the weights that the package offers for the name; False leaves them random.

    Raises:
        ModelError: If the family has no such network, or its weights cannot be loaded.
        MissingPackageError: If the family's package is not installed.
    """
    from sensitivity.tasks.connect import connect

    family, _, name = text.partition(":")
    try:
        model, settings = _MAKERS[family](name, trained)
    except ModuleNotFoundError as error:
        raise MissingPackageError(f"MODEL {text!r} needs {error.name!r}. {how_to_install(family)}") from error
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"MODEL {text!r}: {family} cannot make it: {type(error).__name__}: {error}. Where its weights cannot be "
            "downloaded, give --random-weights, or name a function of yours, package.module:callable."
        ) from error
    return connect(model, family=family, **settings)


def _torchvision(name: str, trained: bool) -> Made:
    from torchvision import models  # type: ignore[import-not-found]

    if name not in models.list_models():
        raise _unknown("torchvision", name, models.list_models())
    weights = models.get_model_weights(name).DEFAULT
    builder = inspect.signature(models.get_model_builder(name))
    backbone = {} if trained or "weights_backbone" not in builder.parameters else {"weights_backbone": None}
    return models.get_model(name, weights=weights if trained else None, **backbone), {"weights": weights}


def _timm(name: str, trained: bool) -> Made:
    import timm  # type: ignore[import-not-found]

    if not timm.is_model(name.partition(".")[0]):
        raise _unknown("timm", name, timm.list_models())
    return timm.create_model(name, pretrained=trained), {}


def _ultralytics(name: str, trained: bool) -> Made:
    from ultralytics import YOLO  # type: ignore[import-not-found]

    return YOLO(name if trained else str(Path(name).with_suffix(".yaml"))), {}


def _transformers(name: str, trained: bool) -> Made:
    import transformers  # type: ignore[import-not-found]

    config = transformers.AutoConfig.from_pretrained(name)
    kind = getattr(transformers, (config.architectures or ["AutoModel"])[0])
    processor = transformers.AutoImageProcessor.from_pretrained(name)
    return kind.from_pretrained(name) if trained else kind(config), {"processor": processor}


def _effdet(name: str, trained: bool) -> Made:
    import effdet  # type: ignore[import-not-found]

    return effdet.create_model(name, bench_task="", pretrained=trained, pretrained_backbone=False), {}


def _smp(name: str, trained: bool) -> Made:
    import segmentation_models_pytorch as smp  # type: ignore[import-not-found]

    if not trained:
        raise ModelError(
            f"MODEL 'smp:{name}': smp reads architecture and weights from one place; leave out --random-weights."
        )
    return smp.from_pretrained(name), {}


def _unknown(family: str, name: str, names: list[str]) -> ModelError:
    near = get_close_matches(name, names, n=3)
    hint = f" Nearest: {', '.join(near)}." if near else ""
    return ModelError(f"MODEL '{family}:{name}': {family} has no such network.{hint}")


_MAKERS: dict[str, Callable[[str, bool], Made]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "ultralytics": _ultralytics,
    "transformers": _transformers,
    "effdet": _effdet,
    "smp": _smp,
}
FAMILIES = tuple(_MAKERS)
