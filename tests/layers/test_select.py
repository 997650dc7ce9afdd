"""Patterns: the thesis's notation and the product's own."""

from __future__ import annotations

import pytest

import sensitivity as sv
from sensitivity.errors import LayerNotFoundError
from sensitivity.layers.select import FLAGS, KINDS, ROLES, resolve, select
from sensitivity.records import Layer
from tests.models import CASES


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
    return [layer.name for layer in select(LAYERS, pattern, model=model)]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("any:all:all:all", [layer.name for layer in LAYERS]),
        ("*", [layer.name for layer in LAYERS]),
        ("L0:1,3:any:1", ["stage1:1:1", "stage3:0:1"]),
        ("stage4:x:2", ["stage4:1:2"]),
        ("any:all_but_neck:all:all", [layer.name for layer in LAYERS[:-1]]),
        ("0-3:*:*", [layer.name for layer in LAYERS[:5]]),
        ("@exit", ["stage1:1:1", "stage3:0:2"]),
        ("@kind=mb", ["stage3:0:1", "stage3:0:2"]),
        ("@role=stem", ["stage0:0:0"]),
        ("@exit & stage3:*:*", ["stage3:0:2"]),
        ("!@depthwise", [layer.name for layer in LAYERS if layer.name != "stage3:0:1"]),
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


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (["*", "!@depthwise"], [layer.name for layer in LAYERS if layer.name != "stage3:0:1"]),
        (["!@depthwise", "*"], [layer.name for layer in LAYERS if layer.name != "stage3:0:1"]),
        (["!@depthwise"], [layer.name for layer in LAYERS if layer.name != "stage3:0:1"]),
        (["!@depthwise", "!neck.middle", "!stage1:*:*"], ["stage0:0:0", "stage3:0:2", "stage4:1:2"]),
        (["@exit", "stage3:*:*", "!layer3.0.pw"], ["stage1:1:1", "stage3:0:1"]),
        (["@stem", "!@exit & 3:x:x"], ["stage0:0:0", "stage3:0:1"]),
        (["@kind=mb", "!@shared"], ["stage3:0:1", "stage3:0:2"]),
    ],
)
def test_in_a_list_an_exclusion_takes_away_from_the_others(pattern: list[str], expected: list[str]) -> None:
    assert names(pattern) == expected
    scheme = resolve(sv.Scheme.only(pattern, sv.INT8), LAYERS, model="L0")
    assert list(scheme) == expected


def test_an_exclusion_of_what_is_not_there_is_an_error_unless_it_is_a_known_property() -> None:
    with pytest.raises(LayerNotFoundError, match=r"no layer matches '@deptwise'.*'@depthwise'"):
        names("!@deptwise")
    with pytest.raises(LayerNotFoundError, match="no layer named 'stage9:0:0'"):
        names(["*", "!stage9:0:0"])
    with pytest.raises(LayerNotFoundError, match="'layer7'"):
        names("@exit & !layer7")
    for known in ("!@shared", "!@kind=res", "!@role=qkv"):
        assert len(names(known)) == len(LAYERS)


def test_a_list_of_which_nothing_is_left_is_an_error() -> None:
    with pytest.raises(LayerNotFoundError, match="nothing is left of '@stem', '!stage0:0:0': every layer is taken"):
        names(["@stem", "!stage0:0:0"])


@pytest.mark.parametrize("name", sorted(CASES))
def test_every_property_that_a_model_can_have_is_known(name: str) -> None:
    case = CASES[name]
    for layer in sv.wrap(case.build(), case.inputs).layers:
        assert layer.flags <= set(FLAGS)
        assert layer.kind in KINDS
        assert layer.role in ROLES


def test_an_exclusion_in_a_later_rule_leaves_the_earlier_rules_of_what_it_excludes() -> None:
    scheme = sv.Scheme.all(sv.INT8).quantize(["stage3:*:*", "!@depthwise"], sv.INT4_WEIGHTS)
    chosen = resolve(scheme, LAYERS)
    assert chosen["stage3:0:1"] == sv.INT8
    assert chosen["stage3:0:2"] == sv.INT4_WEIGHTS
    assert sv.Scheme.from_json(scheme.to_json()) == scheme


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
