"""Where the advice room and the report room meet: a study with what is advised, ready to be shown."""

from __future__ import annotations

from sensitivity.advise.flags import flags
from sensitivity.advise.protect import costs
from sensitivity.advise.rank import ONE_AT_A_TIME, rank_agreement, worst_first
from sensitivity.advise.size import saved_bytes
from sensitivity.advise.verdicts import images_needed, stored_tolerance, verdicts
from sensitivity.records import StudyRecord
from sensitivity.report.reading import Reading


def read(study: StudyRecord) -> Reading:
    """The study with what the advice room finds in it, ready to be shown by the report room.

    The two rooms do not know each other: this is where they meet.
    """
    recipes = tuple(study.recipes)
    return Reading(
        study,
        flags={name: flags(study, recipe=name) for name in recipes},
        verdicts={name: verdicts(study, recipe=name) for name in recipes},
        images_needed={name: images_needed(study, recipe=name) for name in recipes},
        worst_first={name: worst_first(study, name) for name in recipes},
        saved_bytes={name: saved_bytes(study, name) for name in recipes},
        tolerance=stored_tolerance(study, None),
        agreement={name: rank_agreement(study, name) for name in recipes},
    )


def size_curves(study: StudyRecord) -> dict[str, list[tuple[float, float]]]:
    """For each recipe the bytes and predicted drops of ``protect``; nothing where a drop is of all layers but one."""
    if study.direction != ONE_AT_A_TIME:
        return {}
    curves = {name: costs(study, name, "size") for name in study.recipes}
    return {name: curve for name, curve in curves.items() if curve}
