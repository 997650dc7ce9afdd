"""Find which layers of a vision model break when it is quantized or pruned, with the task's own metric.

>>> import sensitivity as sv
>>> sv.INT8.placement
'deploy'

Names are resolved when first used, so that importing this package, or opening a saved study, loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "wrap": "wrapped",
    "verify": "wrapped",
    "Verification": "verification",
    "Gates": "records.results.verification",
    "Wrapped": "wrapped",
    "Diagnosis": "diagnosis",
    "ChangedImages": "changed_images",
    "Study": "study",
    "Tuned": "tuned",
    "read_thesis": "study",
    "pareto": "tradeoff",
    "Layer": "records",
    "Recipe": "records",
    "QuantSpec": "records",
    "NumberFormat": "records.recipes.formats",
    "register_format": "records.recipes.formats",
    "register_observer": "records.recipes.observers",
    "Scheme": "records",
    "Score": "records",
    "INT8": "quantize.recipes",
    "INT8_MINMAX": "quantize.recipes",
    "INT8_AFFINE": "quantize.recipes",
    "INT8_WEIGHTS": "quantize.recipes",
    "INT8_ACTIVATIONS": "quantize.recipes",
    "INT4_WEIGHTS": "quantize.recipes",
    "FP8": "quantize.recipes",
    "THESIS": "quantize.recipes",
    "Prune": "quantize.recipes",
    "Calibration": "quantize.calibration",
    "Confidence": "sweep.stopping.race",
    "Sweep": "sweep.settings",
    "ray_executor": "sweep.passes.ray_workers",
    "connect": "tasks.connect",
    "register_connector": "tasks.connectors.registry",
    "register_engine": "deploy.engines.registry",
    "recipe_for": "deploy.doctor.recipe_for",
    "load_deployment": "deploy.bundle.load",
    "CocoDetection": "tasks.coco",
    "CocoKeypoints": "tasks.keypoints",
    "Lvis": "tasks.lvis",
    "PromptedMasks": "tasks.prompted",
    "SemanticSegmentation": "tasks.semantic",
    "Classification": "tasks.classification",
    "LoaderTask": "tasks.loader",
    "FeatureFidelity": "tasks.fidelity",
    "callback_task": "tasks.callback",
    "Resize": "tasks.datasets",
    "SensitivityError": "errors",
}

__all__ = [
    "FP8",
    "INT4_WEIGHTS",
    "INT8",
    "INT8_ACTIVATIONS",
    "INT8_AFFINE",
    "INT8_MINMAX",
    "INT8_WEIGHTS",
    "THESIS",
    "Calibration",
    "ChangedImages",
    "Classification",
    "CocoDetection",
    "CocoKeypoints",
    "Confidence",
    "Diagnosis",
    "FeatureFidelity",
    "Gates",
    "Layer",
    "LoaderTask",
    "Lvis",
    "NumberFormat",
    "PromptedMasks",
    "Prune",
    "QuantSpec",
    "Recipe",
    "Resize",
    "Scheme",
    "Score",
    "SemanticSegmentation",
    "SensitivityError",
    "Study",
    "Sweep",
    "Tuned",
    "Verification",
    "Wrapped",
    "__version__",
    "callback_task",
    "connect",
    "load_deployment",
    "pareto",
    "ray_executor",
    "read_thesis",
    "recipe_for",
    "register_connector",
    "register_engine",
    "register_format",
    "register_observer",
    "verify",
    "wrap",
]

if TYPE_CHECKING:
    from sensitivity.changed_images import ChangedImages
    from sensitivity.deploy.bundle.load import load_deployment
    from sensitivity.deploy.doctor.recipe_for import recipe_for
    from sensitivity.deploy.engines.registry import register_engine
    from sensitivity.diagnosis import Diagnosis
    from sensitivity.errors import SensitivityError
    from sensitivity.quantize.calibration import Calibration
    from sensitivity.quantize.recipes import (
        FP8,
        INT4_WEIGHTS,
        INT8,
        INT8_ACTIVATIONS,
        INT8_AFFINE,
        INT8_MINMAX,
        INT8_WEIGHTS,
        THESIS,
        Prune,
    )
    from sensitivity.records import Layer, QuantSpec, Recipe, Scheme, Score
    from sensitivity.records.recipes.formats import NumberFormat, register_format
    from sensitivity.records.recipes.observers import register_observer
    from sensitivity.records.results.verification import Gates
    from sensitivity.study import Study, read_thesis
    from sensitivity.sweep.passes.ray_workers import ray_executor
    from sensitivity.sweep.settings import Sweep
    from sensitivity.sweep.stopping.race import Confidence
    from sensitivity.tasks.callback import callback_task
    from sensitivity.tasks.classification import Classification
    from sensitivity.tasks.coco import CocoDetection
    from sensitivity.tasks.connect import connect
    from sensitivity.tasks.connectors.registry import register_connector
    from sensitivity.tasks.datasets import Resize
    from sensitivity.tasks.fidelity import FeatureFidelity
    from sensitivity.tasks.keypoints import CocoKeypoints
    from sensitivity.tasks.loader import LoaderTask
    from sensitivity.tasks.lvis import Lvis
    from sensitivity.tasks.prompted import PromptedMasks
    from sensitivity.tasks.semantic import SemanticSegmentation
    from sensitivity.tradeoff import pareto
    from sensitivity.tuned import Tuned
    from sensitivity.verification import Verification
    from sensitivity.wrapped import Wrapped, verify, wrap


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sensitivity' has no attribute {name!r}")
    value = getattr(import_module(f"sensitivity.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
