"""Patterns: the thesis's notation and the product's own."""

from __future__ import annotations

import pytest

import sensitivity as sv
from sensitivity.errors import LayerNotFoundError
from sensitivity.layers.select import resolve, select
from sensitivity.records import Layer


def layer(name: str, module: str, *, kind: str = "mb", role: str = "exit", flags: tuple[str, ...] = ()) -> Layer:
    return Layer(
        name, module, kind, role, frozenset(flags), None, None, 1, 0, "Conv2d", (1, 1), (1, 1), 1, 8, 8, 64, 256, 64, 8
    )


LAYERS = [
    layer("stage0:0:0", "conv1", kind="independent", role="stem", flags=("stem",)),
    layer("stage1:0:0", "layer1.0.conv1", kind="fmb", role="expand"),
    layer("stage1:1:1", "layer1.0.conv2", kind="fmb", flags=("exit",)),
    layer("stage3:0:1", "layer3.0.dw", role="depthwise", flags=("depthwise",)),
    layer("stage3:0:2", "layer3.0.pw", flags=("exit",)),
    layer("stage4:1:2", "layer4.1.scale", kind="att", role="scale-pointwise", flags=("attention-pointwise",)),
    layer("neck:3:0", "neck.middle.0", kind="fmb", role="expand"),
]


def names(pattern: str | list[str], model: str = "L0") -> list[str]:
    return [found.name for found in select(LAYERS, pattern, model=model)]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("any:all:all:all", [found.name for found in LAYERS]),
        ("*", [found.name for found in LAYERS]),
        ("L0:1,3:any:1", ["stage1:1:1", "stage3:0:1"]),
        ("stage4:x:2", ["stage4:1:2"]),
        ("any:all_but_neck:all:all", [found.name for found in LAYERS[:-1]]),
        ("0-3:*:*", [found.name for found in LAYERS[:5]]),
        ("@exit", ["stage1:1:1", "stage3:0:2"]),
        ("@kind=mb", ["stage3:0:1", "stage3:0:2"]),
        ("@role=stem", ["stage0:0:0"]),
        ("@exit & stage3:*:*", ["stage3:0:2"]),
        ("!@depthwise", [found.name for found in LAYERS if found.name != "stage3:0:1"]),
        ("!@exit & 3:x:x", ["stage3:0:1"]),
        ("neck:*:*", ["neck:3:0"]),
        ("st*3:0:1-2", ["stage3:0:1", "stage3:0:2"]),
        ("layer3.0", ["stage3:0:1", "stage3:0:2"]),
        ("layer3.0.pw", ["stage3:0:2"]),
        (["@stem", "stage4:1:2"], ["stage0:0:0", "stage4:1:2"]),
    ],
)
def test_a_pattern_selects(pattern: str | list[str], expected: list[str]) -> None:
    assert names(pattern) == expected


def test_a_module_path_is_never_matched_by_part_of_a_word() -> None:
    assert names("conv1") == ["stage0:0:0"]
    assert names("layer1") == ["stage1:0:0", "stage1:1:1"]


def test_a_pattern_for_another_model_selects_nothing_here() -> None:
    with pytest.raises(LayerNotFoundError, match="in XL1"):
        names("L0:all:all:all", model="XL1")


def test_a_typo_names_the_nearest_layers_and_what_to_do() -> None:
    with pytest.raises(
        LayerNotFoundError, match=r"no layer named 'stage3:9:2' in L0\. Nearest: .*'stage3:0:2'"
    ) as raised:
        names("stage3:9:2")
    assert "wrapped.layers lists all 7" in str(raised.value)


def test_an_unknown_flag_names_the_flags_there_are() -> None:
    with pytest.raises(LayerNotFoundError, match="@depthwise"):
        names("@deptwise")


def test_one_pattern_of_a_list_that_selects_nothing_is_an_error() -> None:
    with pytest.raises(LayerNotFoundError, match="'nothing'"):
        names(["@exit", "nothing"])


def test_later_rules_of_a_scheme_win() -> None:
    scheme = sv.Scheme.all(sv.INT8).protect("@exit").quantize("stage3:0:2", sv.INT4_WEIGHTS)
    chosen = resolve(scheme, LAYERS)
    assert "stage1:1:1" not in chosen
    assert chosen["stage3:0:2"] == sv.INT4_WEIGHTS
    assert chosen["stage0:0:0"] == sv.INT8
