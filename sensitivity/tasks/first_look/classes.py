"""What classes of pixels look like if label maps, or a model's channels, are counted otherwise than ``classes=``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sensitivity.tasks.first_look.label_mapping import some_of

Counts = npt.NDArray[np.int64]

_WRONG, _FOUND = 0.2, 0.5
"""Mean share of right pixels of a class above which nothing is said; share of a class that another answer must have."""


def classes_look_like(confusion: Counts, classes: Sequence[str]) -> str | None:
    """What is said of a model that finds the regions, but gives them other classes; None where it does not.

    Every class counts the same, whatever its size: a model that answers background everywhere is only weak.

    Args:
        confusion: (classes, classes) pixels by true class (row) and predicted one.
        classes: Name of each class.
    """
    true = np.flatnonzero(confusion.sum(axis=1) >= max(1, confusion.sum() // 1000))
    shares = confusion[true] / confusion[true].sum(axis=1, keepdims=True)
    right = float(np.mean([share[label] for share, label in zip(shares, true, strict=True)])) if len(true) else 1.0
    answers = {int(label): int(share.argmax()) for share, label in zip(shares, true, strict=True)}
    sure = {
        label: answer for label, answer in answers.items() if confusion[label, answer] > _FOUND * confusion[label].sum()
    }
    others = {label: answer for label, answer in sure.items() if answer != label}
    if right > _WRONG or len(others) < 2 or len(set(others.values())) < len(others) or len(sure) < 0.6 * len(true):
        return None
    summary = f"the true class is predicted for {right:.0%} of the pixels (mean over {len(true)} classes), but "
    for shift, labels in ((1, "lower"), (-1, "higher")):
        if all(answer - label == shift for label, answer in others.items()):
            return (
                f"{summary}label maps and model agree if predicted classes are one {labels}: one of them is counted "
                f"from another number (is 0 the background in one, and left out in the other?). Put classes= in the "
                "order of the model's channels, and give PngLabels(values=...) for label maps counted otherwise."
            )
    named = some_of({answer: label for label, answer in others.items()})
    return (
        f"{summary}every class has an answer of its own: predicted {named} ({classes[next(iter(others))]}). Put "
        "classes= in the order of the model's channels."
    )


def all_ignored(name: str, ignore_label: int, share: float, images: int) -> str:
    """What is said of label maps in which nothing but one class and ignored pixels is.

    Args:
        name: Of that class.
        ignore_label: Label of ignored pixels.
        share: Of ignored pixels.
        images: How many label maps were looked at.
    """
    return (
        f"in the label maps of the first {images} images every pixel is {name!r} or has the label {ignore_label} "
        f"({share:.0%} of the pixels), which is ignored, so that nothing else is scored. If they are masks of 0 and "
        f"{ignore_label}, read them with PngLabels(folder, values={{0: 0, {ignore_label}: 1}})."
    )


def labels_advice(unknown: Sequence[int], classes: int) -> str:
    """What to do about label maps with labels that are no class.

    Args:
        unknown: Those labels, ascending.
        classes: How many classes there are.
    """
    if list(unknown) == [classes]:
        return (
            "If labels count from 1, give PngLabels(folder, values=...) that says so: {1: 0, 2: 1} and so on, with 0 "
            "for the ignored label where 0 is no class. Otherwise set classes= or ignore_label=."
        )
    if list(unknown) == [255]:
        return "For masks of 0 and 255 give PngLabels(folder, values={0: 0, 255: 1}). Otherwise set ignore_label=255."
    return "Set classes= or ignore_label=, or say what each value stands for: PngLabels(folder, values=...)."
