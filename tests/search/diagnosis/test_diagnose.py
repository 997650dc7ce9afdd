"""A diagnosis names the cause that was built into a layer, and its cure is what replaying that cure gives."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.contracts import EngineCapabilities
from sensitivity.deploy.engines import registry
from sensitivity.deploy.engines.ort_engine import OrtEngine
from sensitivity.errors import CalibrationError, ExportError, LayerNotFoundError, ModelError, StudyError
from sensitivity.records.results.diagnosis import DamageCause
from sensitivity.search.diagnosis.treatments import treatments_of

MINMAX = sv.Recipe("minmax", weights=sv.QuantSpec("int8", "per-channel"), activations=sv.QuantSpec("int8"))
ACTIVATIONS = sv.Recipe("activations", activations=sv.QuantSpec("int8"))


class Ailing(nn.Module):
    """Pointwise layers of normal values, but for the fourth: its input is made ill, and its output well again."""

    def __init__(self, illness: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.illness = illness
        self.layers = nn.ModuleList(nn.Conv2d(8, 8, 1, bias=False) for _ in range(7))
        for layer in self.layers:
            nn.init.orthogonal_(layer.weight.view(8, 8))
        weight = self.layers[3].weight.data
        self.scales = torch.ones(1, 8, 1, 1)
        if illness == "uneven":
            self.scales[0, 0] = 20.0
            weight /= self.scales
        self.offset = 3.0 * weight.sum((1, 2, 3)).view(1, 8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        for number, layer in enumerate(self.layers):
            x = self.treated(layer, x) if number == 3 else layer(x)
        return x

    def treated(self, layer: nn.Module, x: Tensor) -> Tensor:
        if self.illness == "outliers":
            spike = torch.zeros_like(x)
            spike[:, 0, 0, 0] = 100.0
            out: Tensor = layer(x + spike) * (spike.sum(1, keepdim=True) == 0.0)
        elif self.illness == "one-sided":
            out = layer(x + 3.0) - self.offset
        else:
            out = layer(x * self.scales)
        return out


def images() -> Tensor:
    return torch.randn(4, 8, 48, 48, generator=torch.Generator().manual_seed(1)).clamp(-3, 3)


def wrapped_with(illness: str) -> sv.Wrapped:
    return sv.wrap(Ailing(illness).eval(), images()[:1], name=illness)


def sqnr_db(wrapped: sv.Wrapped, layer: str, recipe: sv.Recipe, *, equalized: bool = False) -> float:
    if equalized:
        wrapped = wrapped.equalized()
        wrapped.calibrate(images(), recipe)
    with torch.no_grad():
        expected = wrapped.model(images()).double()
        with wrapped.quantized(sv.Scheme.only(layer, recipe)) as model:
            noise = (model(images()).double() - expected).square().sum()
    return float(10 * torch.log10(expected.square().sum() / noise))


@pytest.mark.parametrize(
    ("illness", "cause", "recipe"),
    [
        ("outliers", DamageCause.OUTLIERS, MINMAX),
        ("one-sided", DamageCause.ONE_SIDED, ACTIVATIONS),
        ("uneven", DamageCause.UNEVEN_CHANNELS, MINMAX),
    ],
)
def test_the_cause_that_was_built_in_is_found_and_its_cure_is_what_replaying_it_gives(
    illness: str, cause: DamageCause, recipe: sv.Recipe
) -> None:
    wrapped = wrapped_with(illness)
    diagnosis = wrapped.diagnose(images(), recipe)
    sick = min(diagnosis, key=lambda finding: finding.output_db)
    assert wrapped.layers[sick.layer].module == "layers.3"
    assert sick.cause == cause
    assert sick.output_db == pytest.approx(sqnr_db(wrapped, sick.layer, recipe), abs=1e-4)
    if sick.cure is not None:
        replayed = sqnr_db(wrapped, sick.layer, sick.cure, equalized=sick.equalized)
        assert sick.cured_db == pytest.approx(replayed, abs=1e-4)
        assert sick.cured_db > sick.output_db
    assert [finding.layer for finding in diagnosis] == [layer.name for layer in wrapped.layers]


def test_channels_of_other_sizes_are_cured_by_the_equalized_copy() -> None:
    sick = wrapped_with("uneven").diagnose(images(), MINMAX).hurt[0]
    assert sick.equalized
    assert sick.cure is not None
    assert sick.cure.renamed("minmax") == MINMAX
    assert sick.cured_db is not None
    assert sick.cured_db > sick.output_db + 10.0
    thesis = wrapped_with("uneven").diagnose(images(), sv.THESIS).hurt
    assert not any(finding.equalized for finding in thesis)  # there norms are not folded, and the copy has none


def test_a_model_that_cannot_be_equalized_is_diagnosed_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ExportError("it cannot be copied")

    monkeypatch.setattr("sensitivity.search.diagnosis.diagnose.equalized_copy", refuse)
    diagnosis = wrapped_with("uneven").diagnose(images(), MINMAX)
    assert "equalization was not tried: it cannot be copied" in diagnosis.notes
    assert not diagnosis.hurt[0].equalized


@pytest.mark.parametrize(("half", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_a_layer_in_half_precision_is_what_casting_its_tensors_gives(half: str, dtype: torch.dtype) -> None:
    wrapped = wrapped_with("outliers")
    sick = wrapped.diagnose(images(), MINMAX).hurt[0]
    module = wrapped.model.get_submodule("layers.3")

    def cast(tensor: Tensor) -> Tensor:
        return tensor.to(dtype).float()

    with torch.no_grad():
        expected = wrapped.model(images()).double()
        hooks = [
            module.register_forward_pre_hook(lambda _, args: (cast(args[0]),)),
            module.register_forward_hook(lambda _, __, output: cast(output)),
        ]
        weight = module.weight.data.clone()
        module.weight.data = cast(weight)
        noise = (wrapped.model(images()).double() - expected).square().sum()
        module.weight.data = weight
        for hook in hooks:
            hook.remove()
    by_hand = float(10 * torch.log10(expected.square().sum() / noise))
    assert sick.half_db[half] == pytest.approx(by_hand, abs=0.1)
    assert sick.half_db[half] > sick.output_db + 10.0


class Saturating(OrtEngine):
    """A stand-in for a CPU without VNNI: outputs are wrong by a constant where a weight has a code beyond 64."""

    def __init__(self, graph: bytes, **settings: Any) -> None:
        super().__init__(graph, **settings)
        tensors = map(numpy_helper.to_array, onnx.load_from_string(graph).graph.initializer)
        self._wrong = any(tensor.dtype == "int8" and abs(tensor.astype(int)).max(initial=0) > 64 for tensor in tensors)

    def run(self, *inputs: Any) -> tuple[Any, ...]:
        return tuple(output + 0.5 * self._wrong for output in super().run(*inputs))


def test_what_saturating_sums_cost_is_a_cause_that_weights_in_seven_bits_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_KINDS", dict(registry._KINDS))
    sv.register_engine("narrow", Saturating, capabilities=EngineCapabilities(saturates=True))
    wrapped = sv.wrap(Ailing("none").eval(), images()[:1])
    simulated = wrapped.diagnose(images(), MINMAX)
    diagnosis = wrapped.diagnose(images(), MINMAX, engine="narrow", enough_db=30.0)
    with torch.no_grad():
        expected = wrapped.model(images()).double()
        deployed = wrapped.deploy(sv.Scheme.only(diagnosis[0].layer, MINMAX), "narrow")
        noise = (torch.cat([deployed(image[None]) for image in images()]).double() - expected).square().sum()
    on_engine = float(10 * torch.log10(expected.square().sum() / noise))
    assert len(diagnosis.hurt) == len(wrapped.layers)
    assert diagnosis[0].output_db == pytest.approx(on_engine, abs=1e-3)
    for finding in diagnosis:
        assert finding.cause == DamageCause.SATURATION
        assert finding.cure is not None
        assert finding.cure.weights is not None
        assert finding.cure.weights.format == "int7"
        seven_bits = sqnr_db(wrapped, finding.layer, replace(finding.cure, name="seven"))
        assert finding.cured_db == pytest.approx(seven_bits, abs=1e-4)
        assert finding.causes[finding.cause] == pytest.approx(seven_bits - finding.output_db, abs=1e-4)
    exact = wrapped.diagnose(images(), MINMAX, engine="onnxruntime")
    assert [finding.output_db for finding in exact] == [finding.output_db for finding in simulated]
    assert not any(DamageCause.SATURATION in finding.causes for finding in exact)


def test_rounded_weights_are_named_where_they_do_the_damage() -> None:
    recipe = sv.Recipe("coarse", weights=sv.QuantSpec("int3", "per-channel"), activations=sv.QuantSpec("int8"))
    diagnosis = wrapped_with("none").diagnose(images(), recipe)
    treated = [finding for finding in diagnosis if finding.causes]
    assert treated
    assert {finding.cause for finding in treated} == {DamageCause.WEIGHTS}


def test_a_zero_point_cures_a_one_sided_range_and_float_is_needed_by_none() -> None:
    wrapped = wrapped_with("one-sided")
    before = min(finding.output_db for finding in wrapped.diagnose(images(), ACTIVATIONS))
    diagnosis = wrapped.diagnose(images(), ACTIVATIONS, enough_db=before + 4.0)
    sick = diagnosis.hurt[0]
    assert sick.cured_db is not None
    assert sick.cured_db > before + 4.0  # steps of little more than half the length
    assert sick.cure is not None
    assert sick.cure.activations is not None
    assert (sick.cure.activations.format, sick.cure.activations.symmetric) == ("uint8", False)
    assert diagnosis.needs_float == ()


def test_a_layer_whose_cure_leaves_more_damage_than_all_others_needs_float() -> None:
    diagnosis = wrapped_with("uneven").diagnose(images(), MINMAX)
    sick = diagnosis.hurt[0]
    others = sum(10 ** (-(f.cured_db or f.output_db) / 10) for f in diagnosis if f is not sick)
    assert 10 ** (-(sick.cured_db or sick.output_db) / 10) > others
    assert diagnosis.needs_float == (sick.layer,)
    assert sick.enough_in_half(diagnosis.enough_db) == "bf16"
    assert f"by SQNR only float saves it, bf16 is enough: {sick.half_db['bf16']:.1f} dB" in repr(diagnosis)
    assert sick.enough_in_half(200.0) is None


def test_the_shares_of_the_damage_add_up_to_all_of_it() -> None:
    diagnosis = wrapped_with("outliers").diagnose(images(), MINMAX)
    assert sum(map(diagnosis.share_of, diagnosis)) == pytest.approx(1.0)
    assert diagnosis.share_of(diagnosis.hurt[0]) > 0.9


def test_no_layer_counts_as_hurt_below_a_line_that_none_is_below() -> None:
    wrapped = wrapped_with("outliers")
    diagnosis = wrapped.diagnose(images(), MINMAX, enough_db=-200.0)
    assert diagnosis.hurt == ()
    assert diagnosis.enough_db == -200.0
    assert len(wrapped.diagnose(images(), MINMAX, enough_db=200.0).hurt) == len(wrapped.layers)


def test_only_the_layers_asked_for_are_looked_at() -> None:
    wrapped = wrapped_with("outliers")
    name = wrapped.layers[2].name
    assert [finding.layer for finding in wrapped.diagnose(images(), MINMAX, layers=name)] == [name]


def test_ranges_at_hand_leave_out_what_they_do_not_serve_and_say_so() -> None:
    wrapped = wrapped_with("outliers")
    diagnosis = wrapped.diagnose(images(), MINMAX, calibration=wrapped.calibrate(images(), MINMAX))
    assert DamageCause.OUTLIERS not in diagnosis.hurt[0].causes
    assert DamageCause.WEIGHTS in diagnosis.hurt[0].causes
    assert "not tried, as no ranges are at hand" in diagnosis.notes[0]
    assert "minmax, percentile" in diagnosis.notes[0]


def test_a_generator_of_images_serves_calibration_and_diagnosis() -> None:
    batches = list(torch.split(images(), 2))
    wrapped = wrapped_with("outliers")
    assert wrapped.diagnose((batch for batch in batches), MINMAX) == wrapped.diagnose(batches, MINMAX)


def test_every_cure_keeps_the_bits_and_every_treatment_has_another_digest() -> None:
    for recipe in (MINMAX, sv.INT4_WEIGHTS, sv.INT8_ACTIVATIONS, sv.FP8):
        treatments = treatments_of(recipe)
        digests = [recipe.digest, *(treatment.recipe.digest for treatment in treatments)]
        assert len(set(digests)) == len(digests)
        assert all(t.recipe.weight_bits == recipe.weight_bits for t in treatments if t.is_cure)


def test_a_diagnosis_is_a_sequence_that_survives_saving_and_pickling(tmp_path: Path) -> None:
    diagnosis = wrapped_with("outliers").diagnose(images(), MINMAX)
    assert diagnosis[diagnosis[3].layer] is diagnosis[3]
    assert diagnosis[1:3] == diagnosis.findings[1:3]
    diagnosis.save(tmp_path / "diagnosis.json")
    assert sv.Diagnosis.load(tmp_path / "diagnosis.json") == diagnosis
    assert pickle.loads(pickle.dumps(diagnosis)) == diagnosis
    with pytest.raises(LayerNotFoundError, match="no finding of a layer named 'nose'"):
        diagnosis["nose"]
    plain: dict[str, Any] = json.loads((tmp_path / "diagnosis.json").read_text())
    for wrong in ({**plain, "schema": 9}, {key: plain[key] for key in plain if key != "recipe"}, [1]):
        with pytest.raises(StudyError, match=r"not a complete diagnosis|not a diagnosis|diagnosis of schema 9"):
            sv.Diagnosis.from_json(wrong)  # type: ignore[arg-type]


def test_table_and_picture_show_every_layer_and_an_arrow_for_every_cure(tmp_path: Path) -> None:
    diagnosis = wrapped_with("outliers").diagnose(images(), MINMAX)
    table = diagnosis.table()
    assert list(table["layer"]) == [finding.layer for finding in diagnosis]
    assert table["share"].sum() == pytest.approx(1.0)
    picture = diagnosis.plot(tmp_path / "cures.png", label=1)
    axes = picture.axes[0]
    damages = [line for line in axes.lines if line.get_gid() == "damage"]
    assert [line.get_ydata()[0] for line in damages] == [finding.output_db for finding in diagnosis]  # type: ignore[index]
    arrows = [text for text in axes.texts if text.get_gid() == "cure"]
    assert [arrow.xy[1] for arrow in arrows] == [f.cured_db for f in diagnosis if f.cured_db is not None]  # type: ignore[attr-defined]
    assert (tmp_path / "cures.png").stat().st_size > 0
    with pytest.raises(StudyError, match="cannot save a figure"):
        diagnosis.plot(tmp_path / "cures.txt")


def test_the_values_of_a_layer_tell_the_illness_that_was_built_in_and_cost_one_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrapped = wrapped_with("outliers")
    passes: list[object] = []
    wrapped.model.register_forward_hook(lambda *_: passes.append(None))
    diagnosis = wrapped.diagnose(images(), MINMAX, enough_db=-200.0)
    with_values = len(passes)
    monkeypatch.setattr(
        "sensitivity.search.diagnosis.diagnose._with_distributions", lambda _, __, ___, findings, ____: findings
    )
    bare = wrapped.diagnose(images(), MINMAX, enough_db=-200.0)
    batches = with_values - (len(passes) - with_values)
    assert batches == 4  # one pass of each image
    sick, well = diagnosis[3], diagnosis[2]
    assert sick.inputs is not None
    assert well.inputs is not None
    read: list[Tensor] = []
    wrapped.model.get_submodule("layers.3").register_forward_pre_hook(lambda _, args: read.append(args[0].detach()))
    wrapped.model(images())
    assert (sick.inputs.low, sick.inputs.high) == pytest.approx((float(read[0].min()), float(read[0].max())), rel=1e-5)
    assert sick.inputs.covered is not None
    assert sick.inputs.covered[1] == pytest.approx(sick.inputs.high)
    assert sick.inputs.most_within < 0.05 * sick.inputs.high
    assert well.inputs.most_within > 0.5 * well.inputs.high
    assert sick.weights is not None
    assert sick.weights.high == float(wrapped.model.get_submodule("layers.3").weight.detach().max())  # type: ignore[arg-type]
    assert [replace(finding, inputs=None, weights=None) for finding in diagnosis] == list(bare)


def test_what_cannot_be_diagnosed_is_said() -> None:
    wrapped = wrapped_with("none")
    for recipe in (MINMAX, sv.INT8_WEIGHTS):
        with pytest.raises(CalibrationError, match="no image was given to diagnose on"):
            wrapped.diagnose([], recipe)
    with pytest.raises(LayerNotFoundError, match="'nose'"):
        wrapped.diagnose(images(), MINMAX, layers="nose")

    class Silent(Ailing):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).argmax(1)

    with pytest.raises(ModelError, match="the model returns no floating-point tensor"):
        sv.wrap(Silent("none").eval(), images()[:1]).diagnose(images(), MINMAX)


def test_a_shifted_mean_is_named_and_a_corrected_bias_cures_it() -> None:
    """Values of one sign, rounded down by weights that are all too small: the errors add up to a constant."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Conv2d(8, 8, 1, bias=False) for _ in range(3)))
    for layer in model:
        nn.init.orthogonal_(layer.weight.view(8, 8))  # type: ignore[union-attr,arg-type]
    inputs = 5.0 + 0.1 * torch.randn(4, 8, 8, 8, generator=torch.Generator().manual_seed(1))
    recipe = sv.Recipe("coarse", weights=sv.QuantSpec("int4", "per-channel"))
    diagnosis = sv.wrap(model.eval(), inputs[:1]).diagnose(inputs, recipe, enough_db=100.0)
    first = diagnosis[0]
    assert first.cause == DamageCause.BIAS_SHIFT
    assert first.causes[DamageCause.BIAS_SHIFT] > 20.0
    assert first.cure is not None
    assert first.cure.bias_correction


def test_progress_is_told_of_calibration_and_of_every_layer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sensitivity.progress.LINE_EVERY_S", 0.0)
    wrapped = wrapped_with("outliers")
    wrapped.diagnose(images(), progress=False)
    assert capsys.readouterr().err == ""
    wrapped.diagnose(images())
    lines = capsys.readouterr().err.splitlines()
    assert "1 of 4 after 0 s: calibration" in lines
    assert {layer.name for layer in wrapped.layers} <= {line.rpartition(" ")[2] for line in lines}
