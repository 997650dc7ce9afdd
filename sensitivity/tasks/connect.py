"""A network of a known family, ready to be wrapped and scored."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sensitivity.contracts import Connected, Purpose, Task
from sensitivity.errors import TaskError
from sensitivity.records.arguments import checked
from sensitivity.tasks.classification import Classification
from sensitivity.tasks.coco import CocoDetection
from sensitivity.tasks.connectors.registry import surroundings
from sensitivity.tasks.keypoints import CocoKeypoints
from sensitivity.tasks.prompted import PromptedMasks
from sensitivity.tasks.semantic import SemanticSegmentation


@dataclass(frozen=True, kw_only=True)
class ConnectedModel(Connected):
    """A network with what its family puts around it; what ``sv.connect`` returns. Attributes: see ``Connected``.

    ::

        connected = sv.connect(model)
        wrapped = sv.wrap(connected.model, connected.example_inputs)
        task = connected.task("val2017", "instances_val2017.json")
    """

    def task(self, images: str | Path, labels: str | Path | None = None, **settings: Any) -> Task:
        """The task that scores this network on a data set.

        Args:
            images: Folder of the images; for classification, a folder of class folders.
            labels: COCO annotation file, for detection, instances, keypoints and prompted masks; folder of label maps,
                for semantic segmentation.
            settings: More of the task's own, such as ``limit`` or ``batch_size``.

        Returns:
            ``sv.CocoDetection``, ``sv.CocoKeypoints``, ``sv.PromptedMasks``, ``sv.SemanticSegmentation`` or
            ``sv.Classification``.

        Raises:
            TaskError: If ``labels`` is missing, or a setting is unknown.
            SensitivityError: As the task does.
        """
        if self.purpose in (Purpose.DETECTION, Purpose.INSTANCES, Purpose.KEYPOINTS):
            if labels is None:
                raise TaskError(f"labels= is missing: {self.purpose} is scored against a COCO annotation file.")
            if self.purpose is Purpose.KEYPOINTS:
                return CocoKeypoints(images, labels, **({"model": self} | settings))
            kind = "bbox" if self.purpose is Purpose.DETECTION else "segm"
            chosen: dict[str, Any] = {"model": self, "iou_type": kind} | settings
            return CocoDetection(images, labels, **chosen)
        if self.purpose is Purpose.PROMPTED:
            if labels is None:
                raise TaskError("labels= is missing: prompted masks are scored against a COCO annotation file.")
            return PromptedMasks(images, labels, **({"segment": self.adapter} | settings))
        settings = {"preprocess": self.preprocess, "adapter": self.adapter, "batch_size": self.batch_size} | settings
        if self.purpose is Purpose.CLASSIFICATION:
            return Classification(images, **settings)
        if labels is None:
            raise TaskError("labels= is missing: semantic segmentation is scored against a folder of label maps.")
        if self.classes is None and "classes" not in settings:
            raise TaskError(
                python="classes= is missing: this network does not know the names of its classes. Give the names in "
                "the order of the outputs, e.g. classes=['road', 'sky'].",
                shell="this network does not know the names of its classes. Name a function as TASK that returns a "
                "sv.SemanticSegmentation with classes=, the names in the order of the outputs.",
            )
        named: dict[str, Any] = {"classes": self.classes} | settings
        return SemanticSegmentation(images, labels, **named)


@checked(TaskError)
def connect(model: Any, *, family: str | None = None, **settings: Any) -> ConnectedModel:
    """The preprocessing, post-processing and labels that the family of a network uses, found by its class or by name.

    Args:
        model: A network of torchvision, ultralytics (also its ``YOLO`` object), transformers, effdet,
            segmentation_models_pytorch (``smp``) or timm, with its weights; put into evaluation mode.
        family: One of these names; None finds it by the class of the network.
        settings: The family's own: torchvision ``weights`` (whose transforms are used), transformers ``processor``,
            ultralytics ``image_size``, smp ``image_size`` and ``classes``.

    Returns:
        The network with all that a task needs; ``connected.task(...)`` makes one.

    Raises:
        TaskError: If the family is unknown, or has no such setting.
        ModelError: If the network is none that this family's connector knows.
        MissingPackageError: If the family's package is not installed.
    """
    around = surroundings(model, family=family, **settings)
    return ConnectedModel(**{part.name: getattr(around, part.name) for part in fields(around)})
