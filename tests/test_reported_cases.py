"""Faults that users of such tools reported, and the test that holds the right value of each.

The first test keeps the table true; those below it are for cases that no other file holds.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.errors import AnnotationError, CalibrationError
from sensitivity.quantize.calibration import Point

TESTS = Path(__file__).parent

CASES: dict[str, tuple[str, ...]] = {
    "01 float masks of attention": (
        "perturb/test_operands.py::test_a_mask_of_attention_is_no_operand",
        "perturb/test_attention_forms.py::test_the_whole_network_in_int8_is_that_of_plain_layers",
    ),
    "02 padding masks of an encoder": (
        "perturb/test_operands.py::test_a_padding_mask_is_no_operand",
        "test_reported_cases.py::test_a_padding_mask_that_an_encoder_makes_a_float_is_no_operand",
    ),
    "03 LSTM, GRU and their cells": (
        "perturb/test_operands.py::test_a_recurrent_weight_multiplies_the_hidden_state",
        "layers/trace/test_recurrent.py::test_each_weight_of_an_lstm_is_a_layer_with_the_input_that_it_multiplies",
        "deploy/test_recurrent.py::test_every_product_of_a_recurrent_layer_runs_in_int8_as_it_is_simulated",
    ),
    "04 weights stored as (in, out)": (
        "perturb/test_operands.py::test_scales_count_the_outputs_however_a_weight_is_stored",
        "deploy/test_operands.py::test_exactly_the_operands_are_quantized_in_the_graph",
    ),
    "07 images of 16 and 32 bits, bombs, broken files": (
        "tasks/images/test_pixels.py::test_images_of_16_and_32_bits_fill_256_levels",
        "tasks/images/test_pixels.py::test_a_decompression_bomb_is_refused_before_it_is_decoded",
        "tasks/images/test_pixels.py::test_broken_files_raise_nothing_but_an_image_error",
    ),
    "08 shapes of annotations and results": (
        "tasks/test_malformed_annotations.py::test_a_segmentation_that_cannot_be_scored_is_refused_where_it_stands",
        "tasks/test_malformed_annotations.py::test_a_record_with_a_wrong_value_is_refused_by_name",
        "tasks/test_malformed_annotations.py::test_a_result_with_a_wrong_value_is_refused_where_it_stands",
        "tasks/test_malformed_annotations.py::test_whole_floats_mean_the_same_as_ints",
    ),
    "09 polygons and RLE that are not finite, huge or too long": (
        "tasks/test_malformed_annotations.py::test_a_segmentation_that_cannot_be_scored_is_refused_where_it_stands",
    ),
    "11 compiled models": (
        "layers/trace/test_leaks.py::test_compiled_models_are_refused_with_what_to_do",
        "layers/dataflow/test_left_out.py::test_a_part_that_torch_jit_compiled_is_left_out_and_the_others_are_measured",
    ),
    "12 dtypes, inference mode and the meta device": (
        "tasks/test_coco.py::test_outputs_of_any_dtype_score_alike_and_may_require_gradients",
        "test_reported_cases.py::test_a_model_made_in_inference_mode_is_measured_as_any_other",
        "perturb/state/test_state.py::test_a_model_on_the_meta_device_is_wrapped_and_refused_where_numbers_are_needed",
    ),
    "15 channels of semantic segmentation": (
        "tasks/test_semantic.py::test_one_channel_is_two_classes_from_a_threshold_on",
        "tasks/test_semantic.py::test_scores_of_too_few_channels_are_refused",
    ),
    "17 images to calibrate on, layers in lists, weights that are buffers": (
        "test_reported_cases.py::test_images_of_another_form_are_refused_with_what_to_give",
        "perturb/calibration/test_images.py::test_every_call_refuses_the_same_in_the_same_words",
        "layers/dataflow/test_sites.py::test_layers_in_plain_lists_and_weights_that_are_buffers_are_named_with_the_reason",
    ),
    "18 category ids as text": (
        "tasks/test_malformed_annotations.py::test_a_record_with_a_wrong_value_is_refused_by_name",
        "tasks/test_malformed_annotations.py::test_ids_of_any_sign_and_size_score_as_others_do",
    ),
    "24, 26 even kernels with padding='same'": (
        "deploy/verify/test_layers.py::test_even_kernels_that_keep_the_size_are_compared_as_a_whole",
    ),
    "28 computed weights": (
        "perturb/test_operands.py::test_a_computed_weight_is_quantized_as_computed",
        "deploy/test_operands.py::test_a_computed_weight_is_exported_as_computed",
    ),
    "31 nested tensors of a padded encoder": (
        "perturb/test_operands.py::test_an_encoder_that_leaves_padding_out_gives_zeros_there_when_it_is_quantized",
        "perturb/test_attention_forms.py::test_the_whole_network_in_int8_is_that_of_plain_layers",
    ),
    "34 buffers that a pass writes to": (
        "perturb/state/test_state.py::test_every_variant_starts_from_the_same_state_and_nothing_is_left",
    ),
    "35 masks of a data set through the public task": (
        "tasks/test_malformed_annotations.py::test_a_broken_segmentation_is_found_when_masks_are_asked_for_later",
        "test_reported_cases.py::test_the_public_task_refuses_masks_that_cannot_be_scored_and_scores_the_others",
    ),
    "40 attention with other keys or values": (
        "perturb/test_operands.py::test_query_key_and_value_have_ranges_of_their_own",
        "perturb/test_attention_forms.py::test_the_whole_network_in_int8_is_that_of_plain_layers",
        "deploy/test_operands.py::test_cross_attention_is_deployed_and_verified",
    ),
    "41 views of one element": (
        "test_reported_cases.py::test_a_view_of_one_element_is_replayed",
        "perturb/state/test_state.py::test_a_view_of_one_element_with_a_wide_stride_is_content_like_any_other",
    ),
    "42 tensors cached in the first pass": (
        "layers/trace/test_leaks.py::test_tensors_cached_in_the_first_pass_have_their_real_content",
        "layers/trace/test_leaks.py::test_a_tensor_cached_where_no_state_is_looked_at_is_given_its_real_content",
    ),
}
"""Number and kind of the case to the tests that fail if it comes back."""


@pytest.mark.parametrize("case", CASES)
def test_every_reported_case_has_a_test(case: str) -> None:
    for address in CASES[case]:
        file, _, name = address.partition("::")
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, address


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()


def test_a_model_made_in_inference_mode_is_measured_as_any_other() -> None:
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        made_inside = network()
    studies = []
    for model in (network(), made_inside):
        wrapped = sv.wrap(model, images[:1])
        wrapped.calibrate(images, sv.INT8)
        studies.append(wrapped.analyze(sv.FeatureFidelity(images), sv.INT8, progress=False))
    scores = [[row.score for row in study.measurements] for study in studies]
    assert scores[0] == scores[1]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), r"failed on uint8 \(1, 3, 8, 8\).* Convert the images to"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.float64), r"failed on float64 .* Convert the images to torch\.float32"),
        (torch.zeros(2, 8, 8, 3), r"look like \(N, H, W, 3\): give images\.permute\(0, 3, 1, 2\)"),
        ([(torch.zeros(4), torch.zeros(4, 3, 8, 8))], r"item 0 has the shape \(4,\), where the model takes float32"),
        (torch.zeros(0, 3, 8, 8), "no image was given to calibrate with"),
    ],
    ids=["bytes", "doubles", "channels last", "label first", "none"],
)
def test_images_of_another_form_are_refused_with_what_to_give(images: object, message: str) -> None:
    wrapped = sv.wrap(network(), torch.zeros(1, 3, 8, 8))
    with pytest.raises(CalibrationError, match=message):
        wrapped.calibrate(images, sv.INT8)


@torch.no_grad()
def test_a_padding_mask_that_an_encoder_makes_a_float_is_no_operand() -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

        def forward(self, x: Tensor, padding: Tensor) -> Tensor:
            return self.encoder(x, src_key_padding_mask=padding)

    torch.manual_seed(0)
    model, x, padding = Padded().eval(), torch.randn(4, 5, 8), torch.zeros(4, 5, dtype=torch.bool)
    padding[:, 3:] = True
    recipe = sv.Recipe("activations", activations=sv.QuantSpec("int8", observer="minmax"))
    wrapped = sv.wrap(model, (x, padding))
    name = wrapped.layers["encoder.layers.0.self_attn"].name
    calibration = wrapped.calibrate([(x, padding)], recipe)
    limits = calibration.ranges[Point(name, "input", 0)]
    assert (limits.low, limits.high) == ((float(x.min()),), (float(x.max()),))
    scale = float(x.abs().max()) / 127
    attention, quantized = (
        model.encoder.layers[0].self_attn,
        torch.fake_quantize_per_tensor_affine(x, scale, 0, -128, 127),
    )
    masked = {"key_padding_mask": padding, "need_weights": False}
    expected = attention(*3 * [quantized], **masked)[0]
    seen: list[Tensor] = []
    with wrapped.quantized(sv.Scheme.only([name], recipe)) as changed:
        handle = attention.register_forward_hook(lambda _, __, output: seen.append(output[0]))
        changed(x, padding)
        handle.remove()
    torch.testing.assert_close(seen[0][:, :3], expected[:, :3])


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[8, 8, 24, float("nan"), 24, 24, 8, 24]], "a polygon with something that is no finite number"),
        (
            {"size": [48, 64], "counts": [5, 100000]},
            "an RLE whose counts add up to 100005 pixels, but its image has 3072",
        ),
        ({"size": [64, 48], "counts": [0, 3072]}, r"an RLE of the \(height, width\) \[64, 48\], but its image has"),
        ([[8, 8, 24, 8, 24, 24, 8, 24]], None),
    ],
    ids=["NaN", "too long", "turned", "sound"],
)
def test_the_public_task_refuses_masks_that_cannot_be_scored_and_scores_the_others(
    segmentation: object, message: str | None, tmp_path: Path
) -> None:
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [8, 8, 16, 16], "area": 256, "iscrowd": 0}
    plain = {
        "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}],
        "categories": [{"id": 1, "name": "x"}],
        "annotations": [annotation | {"segmentation": segmentation}],
    }

    def adapter(*_: object) -> list[dict[str, Tensor]]:
        mask = torch.zeros(1, 48, 64, dtype=torch.bool)
        mask[:, 8:24, 8:24] = True
        return [{"masks": mask, "scores": torch.tensor([0.9]), "labels": torch.tensor([0])}]

    def score() -> float:
        Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
        annotations, resize = tmp_path / "annotations.json", sv.Resize(height=32, width=32)
        annotations.write_text(json.dumps(plain), encoding="utf-8")
        task = sv.CocoDetection(tmp_path, annotations, adapter=adapter, iou_type="segm", preprocess=resize)
        return sv.wrap(network(), torch.zeros(1, 3, 32, 32)).evaluate(task).value

    if message is None:
        assert score() == pytest.approx(1)
    else:
        with pytest.raises(AnnotationError, match=f"annotation 1 of .* has {message}"):
            score()


class FirstOfSix(nn.Module):
    """With one image its result has one element and the stride of six."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0]


class ReadsAView(nn.Module):
    """A layer that reads a view of one element."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6))
        self.first, self.last = FirstOfSix(), nn.Linear(1, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(x)
        return self.last(self.first(features)[:, None]), features


def test_a_view_of_one_element_is_replayed() -> None:
    torch.manual_seed(0)
    wrapped = sv.wrap(ReadsAView().eval(), torch.randn(1, 3, 8, 8))
    task = sv.FeatureFidelity(torch.randn(4, 3, 8, 8), batch_size=1)
    study = wrapped.analyze(task, sv.INT8_WEIGHTS, progress=False)
    in_full = wrapped.analyze(task, sv.INT8_WEIGHTS, replay=False, progress=False)
    assert study.notes == ()
    assert [row.score for row in study.measurements] == [row.score for row in in_full.measurements]
