"""The study that a user holds: the record of what was measured, with its tables, figures and advice.

Opening one needs no torch; pandas and matplotlib are imported when a table or a figure is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from sensitivity.advise.flags import flags
from sensitivity.advise.protect import protect
from sensitivity.advise.verdicts import images_needed, stored_tolerance, verdicts
from sensitivity.errors import StudyError
from sensitivity.records import Scheme, Signals, StudyRecord
from sensitivity.records.arguments import checked
from sensitivity.records.results.changed_images import ChangedImagesRecord
from sensitivity.records.results.diagnosis import DiagnosisRecord
from sensitivity.records.results.latency import Latency, with_latency
from sensitivity.records.results.signals import with_signals
from sensitivity.records.results.study import RecipeLike
from sensitivity.records.results.tuned import TunedRecord
from sensitivity.records.results.verdict import Verdict
from sensitivity.records.results.verification import VerificationRecord
from sensitivity.records.storage.files import write_text
from sensitivity.report.tables.text import Extract, latex, markdown, rst, summary
from sensitivity.report.thesis import read_thesis as read_thesis_record
from sensitivity.study.pairs import recipes_of_both
from sensitivity.study.reading import read, size_curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


class Study(StudyRecord):
    """All measurements of one model on one task, and what they say.

    Every method that takes ``recipe`` takes its name or the recipe itself; None means the only one, or all of them
    where several can be shown side by side. ``tolerance`` is the largest drop that does not matter, in points where the
    unit is ``%``; None takes that of ``with_tolerance`` or of ``stop=``, else 0.1 points.
    """

    @classmethod
    @checked(StudyError)
    def of(cls, record: StudyRecord) -> Self:
        """The same measurements as a study."""
        return cls(**{field.name: getattr(record, field.name) for field in fields(StudyRecord)})

    @checked(StudyError)
    def with_signals(self, *signals: Signals) -> Self:
        """The same study with what ``wrapped.signals`` or ``wrapped.screen`` found, shown by ``table`` and ``flags``.

        Args:
            signals: Of this study's model and recipes, in any number; later ones replace earlier ones of the same name.

        Raises:
            StudyError: If they are of another recipe or model, or all layers but one were perturbed.
        """
        study = self
        for by_layer in signals:
            study = with_signals(study, by_layer)
        return study

    @checked(StudyError)
    def with_latency(self, latency: Latency) -> Self:
        """The same study with what ``wrapped.latency`` measured, for ``protect(latency_s=...)`` and ``pareto``.

        Raises:
            StudyError: If it is of another recipe or of other layers.
        """
        return with_latency(self, latency)

    @checked(StudyError)
    def table(self, recipe: RecipeLike | None = None) -> DataFrame:
        """One row for each layer in execution order, in percent and points; see ``report.tables.table.frame``.

        Raises:
            StudyError: If the recipe is unknown.
        """
        from sensitivity.report.tables.table import frame

        return frame(read(self), recipe)

    @checked(StudyError)
    def compare(
        self,
        other: StudyRecord,
        *,
        recipe: RecipeLike | None = None,
        other_recipe: RecipeLike | None = None,
        names: tuple[str, str] | None = None,
    ) -> DataFrame:
        """Drops and ranks side by side, with their rank correlation in ``attrs``; see ``report.tables.table.compare``.

        Args:
            other: Another study, e.g. of the same model with another recipe, task or calibration.
            recipe: Recipe of this study; None where it has only one.
            other_recipe: Recipe of the other one; None where it has only one.
            names: What the two are called: ``("a", "b")`` has the columns ``drop_a``, ``drop_b``, ``rank_a`` and
                ``rank_b`` in the place of ``drop``, ``drop_other``, ``rank`` and ``rank_other``.

        Raises:
            StudyError: If a recipe is unknown, or left out where a study has several, or the names are the same.
        """
        from sensitivity.report.tables.table import compare, with_study_names

        recipes = recipes_of_both(self, other, recipe, other_recipe)
        frame = compare(self, other, recipe=recipes[0], other_recipe=recipes[1])
        return frame if names is None else with_study_names(frame, names)

    @checked(StudyError)
    def plot_comparison(
        self,
        other: StudyRecord,
        path: str | Path | None = None,
        *,
        recipe: RecipeLike | None = None,
        other_recipe: RecipeLike | None = None,
        names: tuple[str, str] = ("this study", "the other study"),
        label: int = 5,
    ) -> Figure:
        """The drop of every layer against that in another study; see ``report.figures.comparison``.

        Args:
            other: Another study.
            path: Where to save it, ``.png``, ``.svg`` or ``.pdf``; None does not save.
            recipe: Recipe of this study; None where it has only one.
            other_recipe: Recipe of the other one; None where it has only one.
            names: What the two are called on the axes.
            label: How many of the worst layers to label.

        Raises:
            StudyError: If a recipe is unknown, or left out where a study has several, no layer was measured in both,
                or the file's ending is unknown.
        """
        from sensitivity.report.figures.comparison import comparison

        recipes = recipes_of_both(self, other, recipe, other_recipe)
        picture = comparison(self, other, recipes, names=names, label=label)
        if path is not None:
            picture.write(path)
        return picture

    @checked(StudyError)
    def plot(self, path: str | Path | None = None, *, recipe: RecipeLike | None = None, label: int = 5) -> Figure:
        """Every layer's score as a dip below the baseline; see ``report.figures.dips.dips``.

        Args:
            path: Where to save it, ``.png``, ``.svg`` or ``.pdf``; None does not save.
            recipe: One recipe; None draws all below each other.
            label: How many of the worst layers to label.

        Raises:
            StudyError: If the recipe or the file's ending is unknown, or nothing was measured.
        """
        from sensitivity.report.figures.dips import dips

        picture = dips(read(self), recipe=recipe, label=label)
        if path is not None:
            picture.write(path)
        return picture

    @checked(StudyError)
    def plot_levels(self, path: str | Path | None = None, *, recipes: Sequence[RecipeLike] | None = None) -> Figure:
        """Every layer's drop under every recipe as a map, e.g. of a sparsity sweep; see ``report.figures.levels``.

        Args:
            path: Where to save it, ``.png``, ``.svg`` or ``.pdf``; None does not save.
            recipes: The recipes or their names from top to bottom; None for all.

        Raises:
            StudyError: If a recipe or the file's ending is unknown, or nothing was measured.
        """
        from sensitivity.report.figures.levels import levels

        picture = levels(read(self), recipes=recipes)
        if path is not None:
            picture.write(path)
        return picture

    @checked(StudyError)
    def with_tolerance(self, tolerance: float) -> Self:
        """The same study with another tolerance for its verdicts, in tables, pictures and advice.

        Args:
            tolerance: Largest drop that does not matter, in points where the unit is ``%``.

        Raises:
            StudyError: If it is negative or not a finite number.
        """
        stored_tolerance(self, tolerance)
        return replace(self, info=replace(self.info, tolerance=float(tolerance)))

    @checked(StudyError)
    def verdicts(self, recipe: RecipeLike | None = None, *, tolerance: float | None = None) -> dict[str, Verdict]:
        """Every measured layer's verdict, as text: ``dip``, ``harmless`` or ``undecided``; see ``advise.verdicts``.

        A ``dip`` has an interval above the tolerance, a ``harmless`` drop one within it, and an ``undecided`` drop
        neither: ``images_needed`` says about how many images would decide it. A study that has no intervals at all
        compares the drops themselves. Layers that failed, were skipped or not measured are left out.

        Args:
            recipe: The recipe or its name; None where there is only one.
            tolerance: Largest drop that does not matter, in points where the unit is ``%``.

        Raises:
            StudyError: If the recipe is unknown or left out where there are several, or the tolerance is negative.
        """
        return verdicts(self, tolerance=tolerance, recipe=recipe)

    @checked(StudyError)
    def images_needed(
        self, recipe: RecipeLike | None = None, *, tolerance: float | None = None
    ) -> dict[str, int | None]:
        """For every undecided layer, about how many images would decide it; see ``advise.verdicts.images_needed``.

        None stands for a layer whose drop is so near the tolerance that the number would be beyond all reach, or that
        has no interval.

        Args:
            recipe: The recipe or its name; None where there is only one.
            tolerance: Largest drop that does not matter, in points where the unit is ``%``.

        Raises:
            StudyError: If the recipe is unknown or left out where there are several, or the tolerance is negative.
        """
        return images_needed(self, tolerance=tolerance, recipe=recipe)

    @checked(StudyError)
    def flags(self, tolerance: float | None = None, *, recipe: RecipeLike | None = None) -> dict[str, frozenset[str]]:
        """Every layer's structural flags, with ``dip`` where that is its verdict; see ``advise.flags.flags``.

        Args:
            tolerance: Largest drop that does not matter, in points where the unit is ``%``.
            recipe: The recipe or its name; None where there is only one.

        Raises:
            StudyError: If the recipe is unknown or left out where there are several, or the tolerance is negative.
        """
        return flags(self, tolerance=tolerance, recipe=recipe)

    @checked(StudyError)
    def protect(
        self,
        *,
        top: int | None = None,
        max_drop: float | None = None,
        size_bytes: int | None = None,
        latency_s: float | None = None,
        recipe: RecipeLike | None = None,
    ) -> Scheme:
        """A scheme that quantizes all layers but those that hurt most; see ``advise.protect.protect``.

        The predicted drop adds up single drops, which real models do not: evaluate the scheme before relying on it.

        Args:
            top: Protect this many of the worst layers.
            max_drop: Protect until the predicted drop is at most this, in points where the unit is ``%``.
            size_bytes: Protect what fits when all layers' parameters may take this many bytes.
            latency_s: Protect what fits when one run may take this many seconds; needs ``with_latency``.
            recipe: The recipe or its name; None where there is only one.

        Raises:
            StudyError: If not exactly one criterion is given, it cannot be met, or times are needed and not there.
        """
        return protect(self, top=top, max_drop=max_drop, size_bytes=size_bytes, latency_s=latency_s, recipe=recipe)

    @checked(StudyError)
    def to_html(
        self,
        path: str | Path,
        *,
        recipe: RecipeLike | None = None,
        diagnosis: DiagnosisRecord | None = None,
        tuned: TunedRecord | None = None,
        verification: VerificationRecord | None = None,
        changed_images: ChangedImagesRecord | None = None,
        other: StudyRecord | None = None,
        other_recipe: RecipeLike | None = None,
    ) -> None:
        """Write one self-contained interactive page, which asks the network for nothing.

        It has the finding in words, every layer as a dip that tells about itself, a table that sorts and searches, the
        network by stage, accuracy against size, and how the study was made.

        Args:
            path: Where to.
            recipe: One recipe; None shows all.
            diagnosis: What ``wrapped.diagnose`` found: cause and cure of each layer that is hurt.
            tuned: What ``wrapped.tune`` found: the path of the search and the schemes that it measured.
            verification: What ``wrapped.verify`` found: agreement and latency.
            changed_images: What ``wrapped.changed_images`` found: the images that a scheme changes most.
            other: Another study to compare with; its drops are set against those of ``recipe``.
            other_recipe: The recipe of ``other``; None where it has only one.

        Raises:
            StudyError: If a recipe is unknown, nothing was measured, or ``other`` is given and it is not said which of
                several recipes to compare.
        """
        from sensitivity.report.page.comparison import Comparison
        from sensitivity.report.page.study_page import Beside, study_page

        comparison = None
        if other is not None:
            comparison = Comparison.of(self, other, recipe, other_recipe)
        beside = Beside(diagnosis, tuned, verification, comparison, size_curves(self), changed_images)
        write_text(path, study_page(read(self), recipe, beside))

    @checked(StudyError)
    def to_markdown(
        self,
        *,
        recipe: RecipeLike | None = None,
        metrics: bool = False,
        top: int | None = None,
        caption: str | bool = False,
    ) -> str:
        """The layers as a table in GitHub's markdown.

        Args:
            recipe: One recipe; None for all, told apart by a column of their own.
            metrics: Show what papers on detectors print: every metric of the task (of COCO's twelve, mAP first), the
                drop in points and in percent of the baseline, parameters, FLOPs and, where there are times, seconds.
            top: So many layers with the largest drops, the worst first; None for all in execution order.
            caption: Text above the table; True for one that says what was measured, False for none.

        Raises:
            StudyError: If the recipe is unknown, or ``top`` is below 1.
        """
        return markdown(read(self), Extract(recipe, metrics, top, caption))

    @checked(StudyError)
    def to_latex(
        self,
        *,
        recipe: RecipeLike | None = None,
        metrics: bool = False,
        top: int | None = None,
        caption: str | bool = False,
    ) -> str:
        """The layers as a LaTeX ``longtable`` with ``booktabs`` rules.

        Args and errors are those of ``to_markdown``.
        """
        return latex(read(self), Extract(recipe, metrics, top, caption))

    @checked(StudyError)
    def to_rst(
        self,
        *,
        recipe: RecipeLike | None = None,
        metrics: bool = False,
        top: int | None = None,
        caption: str | bool = False,
    ) -> str:
        """The layers as a reStructuredText ``list-table``.

        Args and errors are those of ``to_markdown``.
        """
        return rst(read(self), Extract(recipe, metrics, top, caption))

    def __repr__(self) -> str:
        return summary(read(self))

    def _repr_html_(self) -> str:
        from sensitivity.report.html import fragment

        return fragment(read(self))


@checked(StudyError)
def read_thesis(path: str | Path) -> Study:
    """One of the thesis's layer tables as a study; see ``report.thesis.read_thesis``.

    Args:
        path: The comma-separated file.

    Raises:
        StudyError: If the file is missing or not such a table.
    """
    return Study.of(read_thesis_record(path))
