"""Text to layers: names, module paths and patterns such as ``stage4:x:2``, ``@exit & neck:*:*``, ``!@depthwise``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from sensitivity.errors import LayerNotFoundError, RecipeError
from sensitivity.records import Layer, Recipe, Scheme
from sensitivity.records.recipes.scheme import EVERYTHING, takes_away

FLAGS = (
    "exit",
    "attention-pointwise",
    "depthwise",
    "stem",
    "output",
    "no-norm",
    "no-activation",
    "shared",
    "computed-weight",
    "dynamic-kernel",
    "batched-weight",
)
KINDS = ("independent", "res", "fmb", "mb", "csp", "att")
ROLES = (
    "stem",
    "conv",
    "linear",
    "expand",
    "depthwise",
    "exit",
    "gate",
    "position",
    "qkv",
    "scale-depthwise",
    "scale-pointwise",
    "proj",
    "shortcut",
    "neck",
    "output",
)
KNOWN = frozenset(
    {f"@{flag}" for flag in FLAGS} | {f"@kind={kind}" for kind in KINDS} | {f"@role={role}" for role in ROLES}
)
WILDCARDS = frozenset({"any", "all", "x", "*"})
BUT = "all_but_"
_RANGE = re.compile(r"(\d+)-(\d+)")
_LAST_NUMBER = re.compile(r"(\d+)$")


def select(layers: Sequence[Layer], pattern: str | Iterable[str], *, model: str = "") -> list[Layer]:
    """The layers that a pattern, or any of several patterns, selects.

    A pattern is one of

    - a layer name or a module path; the path of a container selects all layers in it;
    - ``stage:block:layer``, each field a name, a number, a list ``1,2``, a range ``0-3``, a glob ``back*``,
      ``any``/``all``/``x``/``*`` or ``all_but_neck``; a number in the stage field is the number its name ends in;
    - the same with a model prefix in front, ``L0:1,2:any:1``;
    - ``@flag``, ``@kind=mb`` or ``@role=exit``;
    - ``!`` before any of these (all others), or several joined by ``&`` (in all of them).

    In a list, a pattern of one term with ``!`` takes away from what the others select, wherever it stands:
    ``["stage4:*:*", "@stem", "!@depthwise"]``; a list of nothing else starts from all layers. So ``["!@depthwise",
    "!neck"]`` leaves out both.

    Args:
        layers: All layers of the model.
        pattern: One pattern, or several: a layer is selected that any of them selects and none takes away.
        model: Name of the model, for patterns with a model prefix.

    Returns:
        The selected layers in the order of ``layers``.

    Raises:
        LayerNotFoundError: If no pattern is given, one selects nothing, or what stands behind a ``!`` is not there to
            be left out. A known flag, kind or role that this model has none of may be left out of any model.
    """
    patterns = [pattern] if isinstance(pattern, str) else list(pattern)
    if not patterns:
        raise LayerNotFoundError("no pattern was given, so there is no layer to select. '*' selects all layers.")
    without = [entry for entry in patterns if takes_away(entry)]
    chosen: set[str] = set()
    for entry in [entry for entry in patterns if entry not in without] or [EVERYTHING] * bool(without):
        matches = _found(entry, layers, model)
        if not matches:
            raise _nothing(entry, layers, model)
        chosen |= matches
    for entry in without:
        chosen &= _found(entry, layers, model)
    if without and not chosen:
        raise LayerNotFoundError(f"nothing is left of {', '.join(map(repr, patterns))}: every layer is taken away.")
    return [layer for layer in layers if layer.name in chosen]


def _found(pattern: str, layers: Sequence[Layer], model: str) -> set[str]:
    """Names of the layers that one pattern selects."""
    terms = [term.strip() for term in pattern.split("&")]
    for term in terms:
        inner = term.lstrip("!")
        if inner != term and inner not in KNOWN and not any(_term(inner, layer, model) for layer in layers):
            raise _nothing(inner, layers, model)
    return {layer.name for layer in layers if all(_term(term, layer, model) for term in terms)}


def resolve(scheme: Scheme, layers: Sequence[Layer], *, model: str = "") -> Mapping[str, Recipe]:
    """What each layer gets under a scheme; layers that stay in high precision are left out.

    Raises:
        LayerNotFoundError: If a rule of the scheme selects no layer.
        RecipeError: If this is no scheme.
    """
    if not isinstance(scheme, Scheme):
        raise RecipeError(f"{scheme!r:.80} is no scheme. Give one, e.g. sv.Scheme.all(sv.INT8).")
    chosen: dict[str, Recipe | None] = {}
    for rule in scheme.rules:
        for layer in select(layers, rule.pattern, model=model):
            chosen[layer.name] = rule.recipe
    return {layer.name: recipe for layer in layers if (recipe := chosen.get(layer.name)) is not None}


def _term(term: str, layer: Layer, model: str) -> bool:
    term = term.strip()
    if term.startswith("!"):
        return not _term(term[1:], layer, model)
    if term.startswith("@"):
        return _property(term[1:], layer)
    if term in WILDCARDS or term == layer.name:
        return True
    if ":" not in term:
        return layer.module == term or layer.module.startswith(term + ".") or fnmatchcase(layer.module, term)
    fields = term.split(":")
    if len(fields) == 4:
        if not _field(fields[0].lower(), model.lower()):
            return False
        fields = fields[1:]
    own = (layer.stage, str(layer.block), str(layer.index))
    return len(fields) == 3 and all(_field(field, value) for field, value in zip(fields, own, strict=True))


def _property(text: str, layer: Layer) -> bool:
    key, equals, value = text.partition("=")
    if not equals:
        return key in layer.flags
    return key in {"kind", "role"} and getattr(layer, key) == value


def _field(field: str, value: str) -> bool:
    return any(_alternative(alternative.strip(), value) for alternative in field.split(","))


def _alternative(text: str, value: str) -> bool:
    if text in WILDCARDS:
        return True
    if text.startswith(BUT):
        return not _alternative(text.removeprefix(BUT), value)
    last = _LAST_NUMBER.search(value)
    bounds = _RANGE.fullmatch(text)
    if bounds:
        return last is not None and int(bounds[1]) <= int(last[1]) <= int(bounds[2])
    if text.isdigit():
        return last is not None and int(text) == int(last[1])
    return fnmatchcase(value, text)


def _nothing(pattern: str, layers: Sequence[Layer], model: str) -> LayerNotFoundError:
    """The error for a pattern that selects nothing."""
    flags = sorted({f"@{flag}" for layer in layers for flag in layer.flags})
    properties = sorted({f"@{key}={getattr(layer, key)}" for layer in layers for key in ("kind", "role")})
    words = [*(layer.name for layer in layers), *(layer.module for layer in layers), *flags, *properties]
    near = get_close_matches(pattern.lstrip("!"), words, n=3, cutoff=0.4) or words[:3]
    model_text = f" in {model}" if model else ""
    subject = "layer named" if ":" in pattern and "&" not in pattern else "layer matches"
    nearest = ", ".join(repr(word) for word in near)
    return LayerNotFoundError(
        f"no {subject} {pattern!r}{model_text}. Nearest: {nearest}.",
        python=f"wrapped.layers lists all {len(layers)}.",
        shell=f"sensitivity layers MODEL lists all {len(layers)}.",
    )
