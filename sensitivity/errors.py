"""Every error this library raises, as one family tree.

::

    SensitivityError
    ├── ModelError
    │   ├── LayerNotFoundError      (also a LookupError)
    │   ├── TracingError
    │   ├── ModelInUseError
    │   └── NotRestoredError
    ├── RecipeError                 (also a ValueError)
    ├── CalibrationError
    ├── TaskError
    │   ├── AnnotationError
    │   ├── ImageError
    │   └── PredictionError
    ├── StoreError
    │   ├── StoreConflictError
    │   └── StoreFormatError
    ├── ExecutorError
    ├── StudyError
    ├── ExportError
    ├── EngineError
    │   ├── EngineBuildError
    │   └── PrecisionNotHonouredError
    └── MissingPackageError         (also an ImportError)

Beside the tree stand ``SuspiciousPredictionsWarning``, ``NotReachedWarning`` and ``DisagreementWarning`` (each a
``UserWarning``), which nothing raises.

A message says what is wrong, what was given, what was expected or is nearest, and what to do next.
"""

from __future__ import annotations

import sys
import warnings


class SensitivityError(Exception):
    """Base of all errors raised by this library; catch it to catch them all.

    Args:
        *message: What is wrong, what was given, and what is expected.
        python: The sentences behind it, where what to do next differs: what to write in Python.
        shell: The same for the command line, which has no objects and other names for arguments.

    Attributes:
        in_shell: The message with the words of the command line.
    """

    def __init__(self, *message: object, python: str = "", shell: str = "") -> None:
        text = " ".join(map(str, message))
        super().__init__(*([f"{text} {python}".strip()] if python or shell else message))
        self.in_shell = f"{text} {shell}".strip() if python or shell else str(self)


class ModelError(SensitivityError):
    """The model, or a layer of it, cannot be used as asked."""


class LayerNotFoundError(ModelError, LookupError):
    """No layer has this name, path or pattern."""


class TracingError(ModelError):
    """The model could not be run, or its data flow could not be followed, with the example inputs."""


class ModelInUseError(ModelError):
    """The model is perturbed now, by what is around this call, or another thread measures it."""


class NotRestoredError(ModelError):
    """The model is not bit for bit as it was before it was perturbed."""


class RecipeError(SensitivityError, ValueError):
    """A recipe or scheme makes no sense, or does not fit the layer it is given to."""


class CalibrationError(SensitivityError):
    """Activation ranges are missing, empty or not finite."""


class TaskError(SensitivityError):
    """The data or the predictions of a task are not usable."""


class AnnotationError(TaskError):
    """An annotation file does not hold what its format promises."""


class ImageError(TaskError):
    """An image is missing or cannot be decoded."""


class PredictionError(TaskError):
    """A model's predictions do not have the form that the task scores."""


class StoreError(SensitivityError):
    """A store cannot be read or written."""


class StoreConflictError(StoreError):
    """The store belongs to other weights, data, recipe or settings, or another process is writing to it."""


class StoreFormatError(StoreError):
    """The file is not a store of this library, or of a newer version of it."""


class ExecutorError(SensitivityError):
    """Work that was sent elsewhere was lost, or cannot be sent."""


class StudyError(SensitivityError):
    """A study cannot answer the question, or the file is no study."""


class ExportError(SensitivityError):
    """The model, or a part of it, could not be exported."""


class EngineError(SensitivityError):
    """An engine cannot run here, or failed while running."""


class EngineBuildError(EngineError):
    """The engine could not be built from the exported model."""


class PrecisionNotHonouredError(EngineError):
    """The engine ran a layer in another precision than the scheme asked for."""


class MissingPackageError(SensitivityError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""


def how_to_install(extra: str) -> str:
    """The sentence that ends a message about a missing package.

    The library is installed from its sources, where pip needs no name: the name ``sensitivity`` on the package index
    belongs to another project.

    Args:
        extra: Extra of this library that brings the package.
    """
    return f"Install it from the folder with this library's sources: pip install -e '.[{extra}]'."


class SuspiciousPredictionsWarning(UserWarning):
    """An unperturbed model's predictions look as if an adapter were wrong; the text says what they look like."""


class NotReachedWarning(UserWarning):
    """A scheme quantizes layers that no calibration image reached: they stay in float; the text names them."""


class DisagreementWarning(UserWarning):
    """A deployed engine's outputs for the example inputs are not what is simulated; the text says by how much."""


def warn_caller(message: str, category: type[Warning] = UserWarning, *, python: str = "", shell: str = "") -> None:
    """Warn at the line outside this library that led here, since that is the line that a reader knows.

    Args:
        message: What is told.
        category: Class of the warning.
        python: The sentences behind it, where what to do next differs: what to write in Python.
        shell: The same for the command line.
    """
    warning = category(f"{message} {python}".strip())
    warning.in_shell = f"{message} {shell}".strip()  # type: ignore[attr-defined]
    level, frame = 2, sys._getframe(1)
    inside = {__package__, "contextlib"}  # a ``with`` of the caller enters what this library wrote through contextlib
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in inside:
        level, frame = level + 1, frame.f_back
    warnings.warn(warning, stacklevel=level)
