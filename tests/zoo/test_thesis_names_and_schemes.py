"""EfficientViT-SAM gets the thesis's names, tensors, schemes and sizes, for all five models."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import sensitivity as sv
from sensitivity.errors import RecipeError
from sensitivity.zoo import efficientvit_sam
from sensitivity.zoo.schemes import thesis_scheme

MODELS = {"l0": 69, "l1": 97, "l2": 129, "xl0": 79, "xl1": 143}
MIB = 2**20

# the fact sheet's words for roles, and ours
ROLES = {
    "stem": "stem",
    "conv1": "conv",
    "conv2": "exit",
    "spatial": "expand",
    "inverted": "expand",
    "mb_inverted": "expand",
    "depthwise": "depthwise",
    "mb_depthwise": "depthwise",
    "point": "exit",
    "mb_point": "exit",
    "qkv": "qkv",
    "aggreg_depthwise": "scale-depthwise",
    "aggreg_pointwise(scaling)": "scale-pointwise",
    "proj": "proj",
    "neck_in": "neck",
    "neck_out": "neck",
}


@pytest.fixture(scope="module", params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def wrapped(name: str) -> sv.Wrapped:
    sam = efficientvit_sam.build(name, device="meta")
    size = 512 if name.startswith("l") else 1024
    return sv.wrap(sam.image_encoder, torch.zeros(1, 3, size, size, device="meta"))


@pytest.fixture(scope="module")
def facts(name: str, shared_data: Path) -> Any:
    return json.loads((shared_data / "efficientvit_sam" / f"{name}.json").read_text())


def test_names_kinds_roles_and_costs_are_those_of_the_fact_sheet(wrapped: sv.Wrapped, facts: Any, name: str) -> None:
    assert len(wrapped.layers) == MODELS[name] == facts["n_conv"]
    for layer, fact in zip(wrapped.layers, facts["conv_layers"], strict=True):
        assert (layer.name, layer.kind, layer.role) == (fact["name"], fact["kind"], ROLES[fact["role"]])
        assert f"image_encoder.{layer.module}" == fact["module"]
        assert (layer.in_channels, layer.out_channels) == (fact["in_channels"], fact["out_channels"])
        assert (layer.kernel_size[0], layer.stride[0], layer.groups) == (fact["kernel"], fact["stride"], fact["groups"])
        assert (layer.macs, layer.parameters) == (fact["macs"], fact["weights"] + fact["biases"])
        assert layer.activation == fact["act"]


def test_activation_tensors_are_those_of_the_thesis(wrapped: sv.Wrapped, facts: Any) -> None:
    table = wrapped.activations()
    assert [(t.name, t.elements) for t in table] == [(a["name"], a["numel"]) for a in facts["activations"]]
    many = wrapped.activations(samples=100)
    assert [t.elements for t in many] == [100 * a["numel"] for a in facts["activations"]]
    marked = [line for line in repr(many).splitlines() if line.endswith("largest")]
    assert len(marked) == 1
    assert many.largest is not None
    assert marked[0].startswith(many.largest.name)
    assert f"{many.largest.elements:.2e}" in marked[0]
    assert list(many.to_frame()["elements"]) == [t.elements for t in many]


def test_flags_mark_exits_and_the_pointwise_convolutions_of_the_scaling(wrapped: sv.Wrapped, facts: Any) -> None:
    def named(*roles: str) -> list[str]:
        return [fact["name"] for fact in facts["conv_layers"] if fact["role"] in roles]

    assert wrapped.layers.select("@exit").names == named("conv2", "point", "mb_point")
    assert wrapped.layers.select("@attention-pointwise").names == named("aggreg_pointwise(scaling)")
    depthwise = named("depthwise", "mb_depthwise", "aggreg_depthwise")
    assert wrapped.layers.select("@depthwise").names == depthwise
    stage = "stage4" if facts["model"].startswith("l") else "stage5"
    scaling = [n for n in named("aggreg_pointwise(scaling)") if n.startswith(stage)]
    assert set(scaling) <= set(wrapped.layers.select(f"{stage}:x:2").names)
    neck = [fact["name"] for fact in facts["conv_layers"] if fact["name"].startswith("neck")]
    assert not set(neck) & set(wrapped.layers.select("any:all_but_neck:all:all").names)


@pytest.mark.parametrize(("scheme", "column"), [("mix-dwsc", "DWSC"), ("mix-mbc-neck", "MBC")])
def test_schemes_keep_the_layers_that_the_thesis_kept(
    wrapped: sv.Wrapped, name: str, shared_data: Path, scheme: str, column: str
) -> None:
    path = shared_data / "thesis" / "fp16_exclusions" / f"{name.upper()}_{column}.txt"
    prefixes = [line.strip().strip("/").replace("/", ".") + "." for line in path.read_text().split()]
    expected = [x.name for x in wrapped.layers if f"image_encoder.{x.module}.".startswith(tuple(prefixes))]
    patterns = [rule.pattern for rule in thesis_scheme(scheme).rules if rule.recipe is None]
    assert wrapped.layers.select(patterns).names == expected


def test_sizes_and_savings_are_those_of_the_thesis(wrapped: sv.Wrapped, name: str, shared_data: Path) -> None:
    with open(shared_data / "thesis" / "sizes_mib.csv", newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["model"].lower() == name)
    plain = wrapped.size_bytes(element_bytes=2) / MIB
    # printed in whole MiB (not always rounded the same way) and with one or two digits
    assert plain == pytest.approx(float(row["fp16_size"]), abs=1)
    for scheme, column, digits in (
        ("full-int8", "full_int8", 2),
        ("mix-dwsc", "mix_dwsc", 1),
        ("mix-mbc-neck", "mix_mbc_neck", 1),
    ):
        under = wrapped.size_bytes(thesis_scheme(scheme), element_bytes=2, biases_too=True) / MIB
        assert plain - under == pytest.approx(float(row[f"{column}_saved"]), abs=0.6 * 10**-digits)
        if digits == 1:
            assert under == pytest.approx(float(row[f"{column}_size"]), abs=1)


def test_biases_count_as_kept_in_float_unless_asked_otherwise(wrapped: sv.Wrapped) -> None:
    biases = sum(x.parameters - x.weight_bytes // 4 for x in wrapped.layers)
    scheme = thesis_scheme("full-int8")
    size_bytes = wrapped.size_bytes(scheme, element_bytes=2)
    assert size_bytes - wrapped.size_bytes(scheme, element_bytes=2, biases_too=True) == biases > 0


def test_the_whole_sam_names_the_encoder_as_the_encoder_alone_does() -> None:
    sam = efficientvit_sam.build("tiny")
    size = sam.config.image_size
    x = torch.zeros(1, 3, size, size)
    alone = sv.wrap(sam.image_encoder, x).layers
    whole = sv.wrap(sam, (x, torch.tensor([[[4.0, 4.0, 60.0, 60.0]]]))).layers
    inside = [layer for layer in whole if layer.module.startswith("image_encoder.")]
    assert [(f.name, f.kind, f.role, f.module) for f in inside] == [
        (f.name, f.kind, f.role, f"image_encoder.{f.module}") for f in alone
    ]


def python_calls(run: Callable[[], object]) -> int:
    """How many Python functions are called: what a computation costs, whatever else the machine does."""
    count = 0

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(before)
    return count


def test_naming_a_model_of_twice_the_layers_costs_twice_the_calls() -> None:
    x = torch.zeros(1, 3, 512, 512, device="meta")
    layers, calls = {}, {}
    for name in ("l0", "l2"):
        encoder = efficientvit_sam.build(name, device="meta").image_encoder
        layers[name] = len(sv.wrap(encoder, x).layers)
        calls[name] = python_calls(lambda encoder=encoder: sv.wrap(encoder, x))  # type: ignore[misc]
    growth = layers["l2"] / layers["l0"]
    assert growth > 1.8
    assert calls["l2"] / calls["l0"] < 1.4 * growth, "a cost that grows with the square of the layers"


def test_an_unknown_scheme_names_those_there_are() -> None:
    with pytest.raises(RecipeError, match=r"no scheme 'mix'.*mix-dwsc"):
        thesis_scheme("mix")
