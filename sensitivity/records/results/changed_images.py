"""The images whose score a scheme changes most: small pictures with what the model says before and after."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Self, overload

from sensitivity.errors import StudyError
from sensitivity.records.arguments import check_fields
from sensitivity.records.recipes.scheme import Scheme
from sensitivity.records.storage.saved import FileKind, Saved
from sensitivity.records.units import scale_of

MOST_PICTURE_BYTES = 500_000
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG"


@dataclass(frozen=True, slots=True)
class SeenBox:
    """One box that a model found.

    Attributes:
        label: Name of the class.
        score: The model's confidence.
        corners: ``x1, y1, x2, y2`` in pixels of the original image.
    """

    label: str
    score: float
    corners: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class ImageResult:
    """What a model says about one image.

    Attributes:
        score: The task's metric of this image alone, a fraction where the unit is ``%``; None where it has none.
        answer: The class of the whole image; empty where the task has no such class.
        boxes: The boxes from a least score on, the best first.
    """

    score: float | None = None
    answer: str = ""
    boxes: tuple[SeenBox, ...] = ()


@dataclass(frozen=True, slots=True)
class ChangedImage:
    """One image before and after quantization.

    Attributes:
        position: Its place in the task.
        name: Its file, or what the task calls it.
        width: Of the original, in pixels.
        height: Likewise.
        jpeg: A small copy of it.
        before: What the model says in float.
        after: What it says quantized.
        answer: The true class of the whole image; empty where the task has no such class.
        changed_pixels: Share of pixels whose class or object is another one; None where the task knows no pixels.
        overlay: PNG, transparent but for these pixels; None likewise.

    Raises:
        StudyError: If a field is of the wrong kind, or a picture is none.
    """

    position: int
    name: str
    width: int
    height: int
    jpeg: bytes = field(repr=False)
    before: ImageResult
    after: ImageResult
    answer: str = ""
    changed_pixels: float | None = None
    overlay: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for part in (self, self.before, self.after, *self.before.boxes, *self.after.boxes):
            check_fields(part, StudyError)
        if self.width < 1 or self.height < 1:
            raise StudyError(f"an image of {self.width} x {self.height} pixels: both are 1 or more.")
        for name, picture, start in (("jpeg", self.jpeg, _JPEG), ("overlay", self.overlay, _PNG)):
            if picture is not None and (not picture.startswith(start) or len(picture) > MOST_PICTURE_BYTES):
                raise StudyError(
                    f"{name} of image {self.name!r:.60} is no such picture of at most {MOST_PICTURE_BYTES:,} bytes."
                )

    @property
    def change(self) -> float | None:
        """The score of this image quantized minus that in float; None where it has none."""
        if self.before.score is None or self.after.score is None:
            return None
        return self.after.score - self.before.score


@dataclass(frozen=True)
class ChangedImagesRecord(Sequence[ChangedImage], Saved):
    """The images that changed most, the largest change first.

    Attributes:
        model: Name of the model.
        task: Name of the task.
        metric: Its metric.
        unit: Unit of the metric; ``%`` means that scores are fractions.
        higher_is_better: Whether a larger metric is a better model.
        scheme: What was done to the layers.
        images: How many images were compared.
        least_score: Boxes are those from this score on.
        shown: The images that changed most.
    """

    _kind: ClassVar[FileKind] = FileKind("record of changed images", "ChangedImages.save")

    model: str
    task: str
    metric: str
    unit: str
    higher_is_better: bool
    scheme: Scheme
    images: int
    least_score: float
    shown: tuple[ChangedImage, ...]

    @overload
    def __getitem__(self, key: int) -> ChangedImage: ...

    @overload
    def __getitem__(self, key: slice) -> tuple[ChangedImage, ...]: ...

    def __getitem__(self, key: int | slice) -> ChangedImage | tuple[ChangedImage, ...]:
        return self.shown[key]

    def __len__(self) -> int:
        return len(self.shown)

    def __iter__(self) -> Iterator[ChangedImage]:
        return iter(self.shown)

    @property
    def scale(self) -> float:
        """What scores are multiplied by to be in the unit that people see."""
        return scale_of(self.unit)

    def to_json(self) -> dict[str, Any]:
        """Plain values that ``from_json`` turns back into an equal record; pictures as base64."""
        plain = {each.name: getattr(self, each.name) for each in fields(ChangedImagesRecord)}
        plain["scheme"] = self.scheme.to_json()
        plain["shown"] = [
            {
                **asdict(image),
                "jpeg": base64.b64encode(image.jpeg).decode("ascii"),
                "overlay": None if image.overlay is None else base64.b64encode(image.overlay).decode("ascii"),
            }
            for image in self.shown
        ]
        return self._kind.described(plain)

    @classmethod
    def _of_facts(cls, facts: dict[str, Any]) -> Self:
        facts["scheme"] = Scheme.from_json(facts["scheme"])
        facts["shown"] = tuple(map(_image, facts["shown"]))
        record = cls(**facts)
        check_fields(record, StudyError)
        return record


def _image(plain: Mapping[str, Any]) -> ChangedImage:
    pictures = {name: _bytes(name, plain.get(name)) for name in ("jpeg", "overlay")}
    results = {name: _result(plain[name]) for name in ("before", "after")}
    return ChangedImage(**{**plain, **pictures, **results})


def _result(plain: Mapping[str, Any]) -> ImageResult:
    boxes = tuple(SeenBox(**{**box, "corners": tuple(box["corners"])}) for box in plain["boxes"])
    for corner in (corner for box in boxes for corner in box.corners):
        if isinstance(corner, float) and not math.isfinite(corner):
            raise StudyError(f"a box with a corner at {corner}: give finite numbers.")
    return ImageResult(**{**plain, "boxes": boxes})


def _bytes(name: str, text: str | None) -> Any:
    if text is None:
        return None
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise StudyError(f"{name} of a changed image is no base64: {error}.") from error
