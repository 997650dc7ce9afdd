"""Which layer gets which recipe: an ordered list of rules, later rules win."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from sensitivity.errors import RecipeError
from sensitivity.markup.elements import element, html_table
from sensitivity.markup.view import view
from sensitivity.records.arguments import check_fields, checked
from sensitivity.records.layer import Layer
from sensitivity.records.recipes.recipe import Recipe
from sensitivity.records.storage.files import load_json, write_json
from sensitivity.records.units import drop_text, scale_of

if TYPE_CHECKING:
    from sensitivity.deploy.handover.handed import Handover

EVERYTHING = "*"

Rest = Literal["fp32", "bf16", "fp16"]
"""What everything that is not quantized is computed in."""

IoType = Literal["fp32", "fp16"]
"""Type of the float inputs and outputs of a graph in half precision."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of a scheme.

    Attributes:
        pattern: Layer name, module path or pattern (see ``LayerTable.select``).
        recipe: What the layers it selects get; None keeps them in high precision.
    """

    pattern: str
    recipe: Recipe | None


@dataclass(frozen=True, repr=False)
class Scheme:
    """Which layer gets which recipe.

    A scheme is text until it meets a model: rules are patterns, resolved against the layers of the model that it is
    used on. A layer that no rule selects stays in high precision; where several select it, the last one wins.

    Attributes:
        rules: The rules, in order.
        reasons: For layers that were protected by advice: layer name to the reason in words.
        predicted_drop: Drop that the advice expects, as a fraction of the metric, or None.
        size_bytes: Bytes of all layers' parameters under this scheme, or None where nobody counted.
        rest: What everything that is not quantized is computed in; see ``with_rest``.
        keep_fp32: What of it stays in fp32 all the same.
        unit: Unit of ``predicted_drop`` for people: ``%`` means that it is a fraction, and is printed in points.
        miss_probability: Chance that the predicted drop is beyond the largest one that was asked for on other images of
            the same kind, or None where nobody asked or nothing is known of it.
        layers: The layers that it was chosen for, where a study chose them; neither compared nor saved.

    Raises:
        RecipeError: If a field is not what it should be, or ``rest`` or ``keep_fp32`` make no sense.

    Example:
        >>> from sensitivity.quantize.recipes import INT8
        >>> scheme = Scheme.all(INT8).protect("@exit")
        >>> [(rule.pattern, rule.recipe is None) for rule in scheme.rules]
        [('*', False), ('@exit', True)]
    """

    rules: tuple[Rule, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)
    predicted_drop: float | None = None
    size_bytes: int | None = None
    rest: Rest = "fp32"
    keep_fp32: tuple[str, ...] = ()
    unit: str = ""
    miss_probability: float | None = None
    layers: tuple[Layer, ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        check_fields(self, RecipeError, skip=("rest", "keep_fp32"))
        object.__setattr__(self, "rules", tuple(self.rules))
        if not isinstance(self.rest, str) or self.rest not in get_args(Rest):
            raise RecipeError(
                f"rest={self.rest!r} is no precision for layers that are not quantized. Choose fp32, bf16, fp16."
            )
        words = isinstance(self.keep_fp32, tuple) and all(isinstance(entry, str) and entry for entry in self.keep_fp32)
        if not words:
            raise RecipeError(
                f"keep_fp32={self.keep_fp32!r} must be a tuple of text: 'norms', 'attention', or paths of modules."
            )
        if self.keep_fp32 and self.rest == "fp32":
            raise RecipeError(
                f"keep_fp32={self.keep_fp32} with rest='fp32': everything is in fp32. Give rest='bf16' or 'fp16'."
            )

    def __repr__(self) -> str:
        """The rules as a table, with the reasons of those that protect."""
        wide = max((len(rule.pattern) for rule in self.rules), default=0)
        return "\n".join([self._title, *(f"  {self._line(rule, wide)}" for rule in self.rules)])

    def _repr_html_(self) -> str:
        rows = [
            (rule.pattern, rule.recipe.name if rule.recipe else "protected", self.reasons.get(rule.pattern, ""))
            for rule in self.rules
        ]
        return view(element("strong", self._title), html_table(("layers", "recipe", "reason"), rows))

    @property
    def _title(self) -> str:
        """What the scheme is about, in one line."""
        facts = [
            f"{len(self.rules) or 'no'} rule{'s' if len(self.rules) != 1 else ''}",
            *([f"{self.size_bytes} bytes"] if self.size_bytes is not None else []),
            *([f"predicted drop {self._shown_drop}"] if self.predicted_drop is not None else []),
            *([f"beyond the target with a chance of {self.shown_chance}"] if self.miss_probability is not None else []),
            *([f"the other layers in {self.rest}"] if self.rest != "fp32" else []),
            *([f"{', '.join(self.keep_fp32)} in fp32"] if self.keep_fp32 else []),
        ]
        return f"Scheme: {', '.join(facts)}"

    @property
    def _shown_drop(self) -> str:
        return drop_text(scale_of(self.unit) * (self.predicted_drop or 0.0), self.unit)

    @property
    def shown_chance(self) -> str:
        """The chance to miss the target for people, e.g. ``12 %``; empty where it is not known."""
        if self.miss_probability is None:
            return ""
        return f"{self.miss_probability:.0%}".replace("%", " %") if self.miss_probability >= 0.01 else "under 1 %"

    def _line(self, rule: Rule, wide: int) -> str:
        if rule.recipe is not None:
            return f"{rule.pattern:{wide}}  {rule.recipe.name}"
        return f"{rule.pattern:{wide}}  protected  {self.reasons.get(rule.pattern, '')}".rstrip()

    @classmethod
    @checked(RecipeError)
    def all(cls, recipe: Recipe) -> Scheme:
        """Every layer gets the recipe."""
        return cls((Rule(EVERYTHING, recipe),))

    @classmethod
    @checked(RecipeError)
    def only(cls, names: str | Iterable[str], recipe: Recipe) -> Scheme:
        """The named layers get the recipe; the others stay in high precision.

        Args:
            names: Names, module paths or patterns; in a list, those with ``!`` take away from the others.
            recipe: What they get.
        """
        return cls(tuple(Rule(name, recipe) for name in _as_list(names)))

    @checked(RecipeError)
    def protect(self, pattern: str | Iterable[str]) -> Scheme:
        """The same scheme, with the selected layers kept in high precision."""
        return self._with(Rule(each, None) for each in _as_list(pattern))

    @checked(RecipeError)
    def quantize(self, pattern: str | Iterable[str], recipe: Recipe) -> Scheme:
        """The same scheme, with the selected layers given the recipe."""
        return self._with(Rule(each, recipe) for each in _as_list(pattern))

    @checked(RecipeError)
    def with_rest(self, rest: Rest, *, keep_fp32: str | Iterable[str] = ()) -> Scheme:
        """The same scheme, with everything that is not quantized computed in this precision.

        Args:
            rest: ``fp32``, ``bf16`` or ``fp16``.
            keep_fp32: What stays in fp32 all the same: ``norms`` (LayerNorm, GroupNorm, RMSNorm and modules that act as
                one), ``attention`` (what attention modules compute besides their layers: similarities, normalizer,
                division), module paths or globs such as ``blocks.*.norm``.

        Raises:
            RecipeError: If there is no such precision, or nothing to keep because all is in fp32.

        Example:
            >>> Scheme().with_rest("fp16", keep_fp32=("norms", "attention")).keep_fp32
            ('norms', 'attention')
        """
        entries = (keep_fp32,) if isinstance(keep_fp32, str) else tuple(keep_fp32)
        return replace(self, rest=rest, keep_fp32=entries, predicted_drop=None, size_bytes=None, miss_probability=None)

    @checked(RecipeError)
    def handover(self, tool: str, layers: Sequence[Layer] | None = None) -> Handover:
        """The scheme in the words of another tool, which then calibrates and quantizes by itself.

        Args:
            tool: ``onnxruntime``, ``nncf``, ``openvino`` (NNCF on a model that OpenVINO converted, as ultralytics
                exports it), ``modelopt``, ``aimet``, ``pt2e`` (torchao) or ``tensorrt`` (an ONNX file with Q/DQ).
            layers: The layers of the model, which the rules are resolved against: ``wrapped.layers``. None takes those
                that a study chose the scheme for.

        Returns:
            Its ``settings`` are plain values, its ``code`` the lines to paste, its ``notes`` what the tool does
            otherwise.

        Raises:
            RecipeError: If the tool is not known or cannot do what the scheme says, or no layers are known.
            LayerNotFoundError: If a rule selects no layer.
        """
        if layers is None and not self.layers:
            raise RecipeError(
                "layers=None: the rules of this scheme are patterns, and nothing tells of which model. Give "
                "layers=wrapped.layers; a scheme that study.protect returned knows them."
            )
        layers = self.layers if layers is None else layers
        # Looked up when called: a scheme is read where neither torch nor the room deploy/ is needed.
        registry = import_module("sensitivity.deploy.handover.registry")
        handover: Handover = registry.hand_over(self, tool, layers)
        return handover

    def _with(self, rules: Iterable[Rule]) -> Scheme:
        """Further rules appended; what was predicted for the old rules no longer holds and is dropped."""
        return replace(self, rules=(*self.rules, *rules), predicted_drop=None, size_bytes=None, miss_probability=None)

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """The different recipes in it, in order of first use."""
        return tuple(dict.fromkeys(rule.recipe for rule in self.rules if rule.recipe is not None))

    def to_json(self) -> dict[str, Any]:
        """Plain values that ``from_json`` turns back into an equal scheme."""
        rules = [{"pattern": r.pattern, "recipe": r.recipe.to_json() if r.recipe else None} for r in self.rules]
        return {
            "rules": rules,
            "reasons": dict(self.reasons),
            "predicted_drop": self.predicted_drop,
            "size_bytes": self.size_bytes,
            "rest": self.rest,
            "keep_fp32": list(self.keep_fp32),
            "unit": self.unit,
            "miss_probability": self.miss_probability,
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Scheme:
        """The scheme that ``to_json`` described.

        Raises:
            RecipeError: If this is no scheme.
        """
        if not isinstance(plain, Mapping):
            raise RecipeError(f"not a scheme: expected rules of pattern and recipe, got {plain!r:.120}.")
        if "rules" not in plain:
            raise RecipeError(
                "not a scheme: it has no 'rules'.",
                python="Give what Scheme.to_json returns.",
                shell="Give a file that sensitivity protect --out or tune wrote.",
            )
        try:
            rules = tuple(
                Rule(r["pattern"], Recipe.from_json(r["recipe"]) if r["recipe"] else None) for r in plain["rules"]
            )
            entries = tuple(plain.get("keep_fp32", ()))
            reasons = dict(plain.get("reasons", {}))
        except RecipeError:
            raise  # a ValueError, and says more
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RecipeError(f"not a scheme: expected rules of pattern and recipe, got {plain!r:.120}.") from error
        scheme = cls(
            rules,
            reasons,
            plain.get("predicted_drop"),
            plain.get("size_bytes"),
            plain.get("rest", "fp32"),
            entries,
            plain.get("unit", ""),
            plain.get("miss_probability"),
        )
        check_fields(scheme, RecipeError)
        for rule in rules:
            check_fields(rule, RecipeError)
        return scheme

    @checked(RecipeError)
    def save(self, path: str | Path) -> None:
        """Write the scheme as JSON, in one step."""
        write_json(path, self.to_json())

    @classmethod
    @checked(RecipeError)
    def load(cls, path: str | Path) -> Scheme:
        """Read a scheme that ``save`` wrote.

        Raises:
            RecipeError: If the file is missing or holds no scheme.
        """
        return load_json(path, "a scheme", "Scheme.save or sensitivity protect --out", RecipeError, cls.from_json)


def takes_away(pattern: str) -> bool:
    """Whether a pattern, standing in a list, takes away from what the others of the list select."""
    return pattern.strip().startswith("!") and "&" not in pattern


def _as_list(names: str | Iterable[str]) -> list[str]:
    """Patterns that each mean by themselves what they meant in the list."""
    patterns = [names] if isinstance(names, str) else list(names)
    without = [pattern for pattern in patterns if takes_away(pattern)]
    positive = [pattern for pattern in patterns if pattern not in without]
    if not without:
        return positive
    return [" & ".join([pattern, *without]) for pattern in positive or [EVERYTHING]]
