"""A connector: what puts around a network what its family puts around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor, nn


class Purpose(StrEnum):
    """What a network does with an image."""

    DETECTION = "detection"
    INSTANCES = "instance segmentation"
    KEYPOINTS = "keypoints"
    SEMANTIC = "semantic segmentation"
    PROMPTED = "prompted segmentation"
    CLASSIFICATION = "classification"


@dataclass(frozen=True, eq=False)
class Prompts:
    """What is pointed at in one image: P boxes or P clicks; the other is None.

    Attributes:
        boxes: (P, 4) float64 ``x1, y1, x2, y2`` in original pixels.
        points: (P, 2) float64 ``x, y`` in original pixels, each on the object wanted.
    """

    boxes: npt.NDArray[np.float64] | None = None
    points: npt.NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.boxes if self.boxes is not None else self.points if self.points is not None else ())

    def chunks(self, count: int) -> Iterator[Prompts]:
        """The same prompts, at most so many at a time."""
        for start in range(0, len(self), count):
            part = slice(start, start + count)
            yield Prompts(
                boxes=None if self.boxes is None else self.boxes[part],
                points=None if self.points is None else self.points[part],
            )


@dataclass(frozen=True, kw_only=True)
class Connected:
    """A network with what its family puts around it; what a ``Connector`` returns.

    Attributes:
        family: Name of the family, such as ``torchvision``.
        purpose: What it does with an image.
        model: The network, in evaluation mode, from preprocessed batches to raw outputs; what is wrapped.
        example_inputs: One image as ``preprocess`` makes it, of noise: (1, C, h, w).
        preprocess: Makes a float32 tensor (C, h, w) of an image (H, W, 3) uint8 RGB, as the family does.
        adapter: Makes predictions of the model's raw outputs and original sizes, with the family's post-processing;
            None where the outputs are logits of classes; a SAM's is the ``segment`` of ``PromptedMasks``.
        classes: Name of each label from 0 on, where the family knows them; None for names that a label file must bring.
        first_label: The label of the first class: 1 where 0 is the background.
        last_label: The label of the last class, where the family knows it.
        batch_size: Images in a batch: 1 where ``preprocess`` keeps their sizes.
        parts: Where the raw heads end: paths of the submodules in front of the post-processing that ``model`` itself
            does, for ``wrapped.deploy(parts=...)``. An engine then runs these, and the model goes on from their
            outputs. None where the whole model can be exported, as its outputs are raw and ``adapter`` does the rest.
        naming: Names layers by the family's own division, for ``sv.wrap(naming=...)``: the backbone, neck and head of
            a YOLO, say. None where the module paths tell it.
    """

    family: str
    purpose: Purpose
    model: nn.Module
    example_inputs: Tensor
    preprocess: Callable[[Any], Tensor]
    adapter: Callable[..., Any] | None = None
    classes: tuple[str, ...] | None = None
    first_label: int = 0
    last_label: int | None = None
    batch_size: int = 1
    parts: tuple[str, ...] | None = None
    naming: Callable[[Sequence[str]], Sequence[tuple[str, int] | None]] | None = None

    def labels_in(self, categories: Sequence[Mapping[str, Any]]) -> dict[int, int]:
        """Category id of each label in a COCO annotation file with these categories.

        By name, where the network knows the names of all of the file's categories. Otherwise a label that counts from 1
        up to the file's largest id is an id itself, as in networks that were trained on ids with gaps; and if neither,
        labels count the ids in ascending order.
        """
        ids = {str(category.get("name")): int(category["id"]) for category in categories}
        if self.classes and set(ids) <= set(self.classes):
            return {label: ids[name] for label, name in enumerate(self.classes) if name in ids}
        ordered = sorted(int(category["id"]) for category in categories)
        if self.first_label == 1 and self.last_label == ordered[-1]:
            return {number: number for number in ordered}
        return dict(enumerate(ordered, self.first_label))


@runtime_checkable
class Connector(Protocol):
    """What puts around a network what its family puts around it: a function that ``register_connector`` knows.

    Its keyword parameters are the family's settings, which ``sv.connect`` hands on. It changes nothing of the network
    but its mode, and imports the family's package inside itself only. ``testing.connectors.ConnectorSuite`` checks what
    it returns.
    """

    def __call__(self, model: Any, /, *args: Any, **settings: Any) -> Connected:
        """Connect a network.

        Args:
            model: A network of the family.
            args: None; every setting has a name.
            settings: The family's own.

        Raises:
            ModelError: If the network is none that this connector knows.
            TaskError: If a setting is out of range.
        """
