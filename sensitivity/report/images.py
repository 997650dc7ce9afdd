"""Images that a scheme changes, in words and as drawings over small pictures."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

from sensitivity.markup.elements import Markup, element, joined
from sensitivity.markup.view import view
from sensitivity.records.results.changed_images import ChangedImage, ChangedImagesRecord, ImageResult, SeenBox
from sensitivity.records.units import after_drop, after_score
from sensitivity.report.box_changes import BoxChanges, box_changes

NAMED = 6
"""So many boxes that were lost or are new are named."""

GROWTH = 26.0
"""Letters that a picture is wide: how large labels are written."""


def title(record: ChangedImagesRecord) -> str:
    """Which images these are."""
    compared = f"{record.model} on {record.task}"
    recipes = " and ".join(recipe.name for recipe in record.scheme.recipes)
    quantized = f"quantized with {recipes}" if recipes else "left in float"
    if not record.shown:
        return (
            f"{compared}, {quantized}: the {record.metric} of none of {record.images:,} images, each by itself, changes"
        )
    shown = f"{len(record.shown)} of {record.images:,} images"
    return f"{compared}, {quantized}: the {shown} whose own {record.metric} changes most"


def sentence(record: ChangedImagesRecord, image: ChangedImage) -> str:
    """What changes in one image."""
    parts = [_score(record, image)]
    if image.before.answer or image.after.answer:
        true = f" (true: {image.answer})" if image.answer else ""
        parts.append(f"answer {image.before.answer}, then {image.after.answer}{true}")
    if image.changed_pixels is not None:
        parts.append(f"{image.changed_pixels:.1%} of the pixels get another class or object")
    if image.before.boxes or image.after.boxes:
        parts += _boxes(record, image)
    return f"{image.name}: {'; '.join(parts)}"


def _score(record: ChangedImagesRecord, image: ChangedImage) -> str:
    before, after = (_shown(record, result) for result in (image.before, image.after))
    unit = after_score(record.unit)
    change = "" if image.change is None else f" ({image.change * record.scale:+.1f}{after_drop(record.unit)})"
    return f"{record.metric} of this image {before}{unit}, then {after}{unit}{change}"


def _shown(record: ChangedImagesRecord, result: ImageResult) -> str:
    return "unknown" if result.score is None else f"{result.score * record.scale:.1f}"


def _boxes(record: ChangedImagesRecord, image: ChangedImage) -> list[str]:
    changes = box_changes(image.before.boxes, image.after.boxes)
    counts = [len(result.boxes) for result in (image.before, image.after)]
    noun = "box" if counts[0] == 1 else "boxes"
    parts = [f"{counts[0]} {noun} with a score of {record.least_score:g} or more, then {counts[1]}"]
    for words, boxes in (("lost", changes.lost), ("new", changes.new)):
        if boxes:
            named = ", ".join(f"{box.label} {box.score:.2f}" for box in boxes[:NAMED])
            more = f" and {len(boxes) - NAMED} more" if len(boxes) > NAMED else ""
            parts.append(f"{words}: {named}{more}")
    return parts


def summary(record: ChangedImagesRecord) -> str:
    """The same as lines of text."""
    return "\n".join([title(record), *(f"  {sentence(record, image)}" for image in record.shown)])


def fragment(record: ChangedImagesRecord) -> str:
    """The same as a part of a page, with the pictures."""
    return view(element("strong", title(record)), figures(record))


def figures(record: ChangedImagesRecord) -> Markup:
    """Every image twice, in float and quantized, with what the model says drawn over it."""
    return joined(*(_figure(record, image) for image in record.shown))


def _figure(record: ChangedImagesRecord, image: ChangedImage) -> Markup:
    changes = box_changes(image.before.boxes, image.after.boxes)
    name = f"image-{hashlib.sha256(image.jpeg).hexdigest()[:16]}"
    data = f"data:image/jpeg;base64,{base64.b64encode(image.jpeg).decode('ascii')}"
    size = {"width": str(image.width), "height": str(image.height)}
    first = element("image", id=name, href=data, preserveAspectRatio="none", **size)
    overlay = [] if image.overlay is None else [_overlay(image.overlay, size)]
    before, after = _before(changes, image), _after(changes, image)
    panels = [
        _panel(image, "in float", [first, *before]),
        _panel(image, "quantized", [element("use", href=f"#{name}"), *overlay, *after]),
    ]
    return element(
        "figure",
        element("div", *panels, class_="pair"),
        element("figcaption", sentence(record, image)),
        class_="changed",
    )


def _panel(image: ChangedImage, words: str, content: Sequence[Markup]) -> Markup:
    drawing = element(
        "svg", *content, viewBox=f"0 0 {image.width} {image.height}", preserveAspectRatio="xMinYMin", role="img",
        aria_label=f"{image.name} {words}",
    )  # fmt: skip
    return element("div", element("div", words, class_="quiet"), drawing)


def _overlay(overlay: bytes, size: dict[str, str]) -> Markup:
    data = f"data:image/png;base64,{base64.b64encode(overlay).decode('ascii')}"
    return element("image", href=data, preserveAspectRatio="none", class_="overlay", **size)


def _before(changes: BoxChanges, image: ChangedImage) -> list[Markup]:
    """The boxes of the first panel: those that stay, and on top of them those that are lost."""
    drawn = [_box(box, image, "same", f"{box.label} {box.score:.2f}") for box, _ in changes.pairs]
    return drawn + [_box(box, image, "lost", f"lost: {box.label} {box.score:.2f}") for box in changes.lost]


def _after(changes: BoxChanges, image: ChangedImage) -> list[Markup]:
    drawn = [_box(box, image, "same", f"{box.label} {box.score:.2f}") for _, box in changes.pairs]
    return drawn + [_box(box, image, "new", f"new: {box.label} {box.score:.2f}") for box in changes.new]


def _box(box: SeenBox, image: ChangedImage, look: str, words: str) -> Markup:
    """A box and its label, which stays inside the picture."""
    left, top, right, bottom = box.corners
    height = max(image.width, image.height) / GROWTH
    sides = {
        "x": f"{left:g}", "y": f"{top:g}",
        "width": f"{max(0.0, right - left):g}", "height": f"{max(0.0, bottom - top):g}",
    }  # fmt: skip
    at = {"x": f"{max(0.0, left):g}", "y": f"{max(height, top - height / 4):g}", "font_size": f"{height:g}"}
    if left > image.width / 2:
        at |= {"x": f"{min(float(image.width), right):g}", "text_anchor": "end"}
    return element(
        "g",
        element("rect", class_="under", **sides),
        element("rect", **sides),
        element("text", words, **at),
        class_=look,
    )
