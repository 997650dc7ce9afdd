"""All layers of a model, as a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, overload

from sensitivity.errors import LayerNotFoundError
from sensitivity.layers.select import select
from sensitivity.markup.elements import Markup, breakable, element, html_table, listed
from sensitivity.markup.view import view
from sensitivity.records import Layer, SkippedModule
from sensitivity.records.arguments import checked

if TYPE_CHECKING:
    import pandas as pd

SHOWN_ROWS = 200
OPENED_ROWS = 40
_VIEWED = ("name", "module", "kind", "role", "traits", "norm", "activation", "calls", "parameters", "macs")


class LayerTable(Sequence[Layer]):
    """The layers of a model in execution order.

    Attributes:
        model: Name of the model.
        skipped: Modules with a weight that are no layer here, each with its reason.
    """

    def __init__(self, layers: Iterable[Layer], *, model: str, skipped: Iterable[SkippedModule] = ()) -> None:
        self._layers = tuple(layers)
        self.model = model
        self.skipped = tuple(skipped)

    @overload
    def __getitem__(self, key: int | str) -> Layer: ...

    @overload
    def __getitem__(self, key: slice) -> LayerTable: ...

    @checked(LayerNotFoundError)
    def __getitem__(self, key: int | str | slice) -> Layer | LayerTable:
        """A layer by position, name or module path; a table by slice.

        Raises:
            LayerNotFoundError: If no layer has this name or path.
        """
        if isinstance(key, slice):
            return self._part(self._layers[key])
        if isinstance(key, str):
            exact = [layer for layer in self._layers if key in (layer.name, layer.module)]
            return exact[0] if exact else select(self._layers, f"{key}", model=self.model)[0]
        return self._layers[key]

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self._layers)

    def __contains__(self, key: object) -> bool:
        return key in self._layers or any(key in (layer.name, layer.module) for layer in self._layers)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LayerTable) and self._layers == other._layers

    def __hash__(self) -> int:
        return hash(self._layers)

    @property
    def names(self) -> list[str]:
        """Names in execution order."""
        return [layer.name for layer in self._layers]

    @checked(LayerNotFoundError)
    def select(self, pattern: str | Iterable[str]) -> LayerTable:
        """The layers that a pattern selects, or any of several; see ``sensitivity.layers.select.select``.

        Raises:
            LayerNotFoundError: If a pattern selects nothing.
        """
        return self._part(select(self._layers, pattern, model=self.model))

    def to_frame(self) -> pd.DataFrame:
        """One row a layer, one column an attribute; the flags as text under ``traits``, since frames have ``flags``."""
        import pandas as pd

        rows = [layer.to_json() | {"traits": " ".join(sorted(layer.flags))} for layer in self._layers]
        columns = ["traits" if name == "flags" else name for name in Layer.__dataclass_fields__]
        return pd.DataFrame(rows, columns=columns)

    def _part(self, layers: Iterable[Layer]) -> LayerTable:
        return LayerTable(layers, model=self.model)

    def __repr__(self) -> str:
        lines = [f"{len(self)} layers of {self.model}"]
        if self._layers:
            lines += _columns([_row(layer) for layer in self._layers[:SHOWN_ROWS]])
        if len(self) > SHOWN_ROWS:
            lines.append(f"... and {len(self) - SHOWN_ROWS} more")
        lines += [f"not a layer: {module.module or 'the model'}: {module.reason}" for module in self.skipped]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return _view(self)


def _view(layers: LayerTable) -> str:
    """The layers by stage, each stage to be opened and shut; small models have all of them open."""
    stages: dict[str, list[Layer]] = {}
    for layer in layers:
        stages.setdefault(layer.stage, []).append(layer)
    parts = [_stage_view(name, part, opened=len(layers) <= OPENED_ROWS) for name, part in stages.items()]
    skipped = listed(f"not a layer: {module.module or 'the model'}: {module.reason}" for module in layers.skipped)
    return view(element("strong", f"{len(layers)} layers of {layers.model}"), *parts, skipped)


def _stage_view(name: str, layers: Sequence[Layer], *, opened: bool) -> Markup:
    rows = [
        (
            *(layer.name, breakable(layer.module), layer.kind, layer.role, " ".join(sorted(layer.flags))),
            *(layer.norm or "", layer.activation or "", str(layer.calls), f"{layer.parameters:,}"),
            "" if layer.macs is None else f"{layer.macs:,}",
        )
        for layer in layers
    ]
    parameters = sum(layer.parameters for layer in layers)
    counted = "1 layer" if len(layers) == 1 else f"{len(layers)} layers"
    return element(
        "details",
        element("summary", f"{name}: {counted}, {parameters:,} parameters"),
        html_table(_VIEWED, rows, numeric=(*[False] * 7, *[True] * 3)),
        open=opened,
    )


def _row(layer: Layer) -> tuple[str, ...]:
    shape = f"{layer.in_channels}->{layer.out_channels}"
    shape += f" k{layer.kernel_size[0]}" if layer.kernel_size else ""
    shape += f" g{layer.groups}" if layer.groups > 1 else ""
    follows = " ".join(part for part in (layer.norm, layer.activation) if part)
    calls = f" x{layer.calls}" if layer.calls > 1 else ""
    return layer.name, layer.kind, layer.role, layer.conv_type + calls, shape, follows, " ".join(sorted(layer.flags))


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
