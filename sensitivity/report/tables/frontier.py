"""The best scheme at each cost as a table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from sensitivity.records import Scheme, Score, StudyRecord

if TYPE_CHECKING:
    import pandas as pd

NORMAL_95 = 1.96
"""Standard errors on each side of a 95 % interval."""


def frame(
    study: StudyRecord,
    points: Iterable[tuple[Scheme, float, float | None, Score | None]],
    against: Literal["size", "latency"],
) -> pd.DataFrame:
    """One row for each scheme: scores and drops in the unit people see; what is not known is NaN.

    Args:
        study: Where the predictions come from.
        points: Each scheme with its cost, the standard error of its predicted drop as stored, and its measured score.
        against: What the cost is: ``size`` in bytes, ``latency`` in seconds.
    """
    import pandas as pd

    nan, scale = float("nan"), study.scale
    sign = 1.0 if study.higher_is_better else -1.0
    rows = []
    for scheme, cost, error, score in points:
        drop = scheme.predicted_drop or 0.0
        spread = nan if error is None else NORMAL_95 * error
        measured = nan if score is None else score.value
        chance = scheme.miss_probability
        rows.append(
            {
                "recipe": ", ".join(recipe.name for recipe in scheme.recipes),
                "protected": len(scheme.reasons),
                "layers": ", ".join(scheme.reasons),
                "size_bytes" if against == "size" else "latency_s": cost,
                "predicted_score": scale * (study.baseline.value - sign * drop),
                "predicted_drop": scale * drop,
                "predicted_low": scale * (drop - spread),
                "predicted_high": scale * (drop + spread),
                "miss_probability": nan if chance is None else chance,
                "measured_score": scale * measured,
                "measured_drop": scale * sign * (study.baseline.value - measured),
            }
        )
    return pd.DataFrame(rows)
