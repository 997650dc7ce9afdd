"""EfficientViT-SAM against the published models' facts, reference values and independent re-derivations."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from sensitivity.errors import ModelError
from sensitivity.zoo.efficientvit_blocks import LiteMLA
from sensitivity.zoo.efficientvit_sam import CONFIGS, PIXEL_MEAN, PIXEL_STD, EfficientViTSam, build

PUBLISHED = ("l0", "l1", "l2", "xl0", "xl1")


@pytest.fixture(params=PUBLISHED)
def published(request: pytest.FixtureRequest, shared_data: Path) -> tuple[EfficientViTSam, dict[str, Any]]:
    """A model on the meta device and the facts computed from the official model of the same name."""
    facts = json.loads((shared_data / "efficientvit_sam" / f"{request.param}.json").read_text())
    return build(request.param, device="meta"), facts


def outputs_of(model: EfficientViTSam, kind: type[nn.Module]) -> list[tuple[str, nn.Module, Tensor, Tensor]]:
    """Name, module, input and output of every call of a kind of module in the encoder, in execution order."""
    calls: list[tuple[str, nn.Module, Tensor, Tensor]] = []

    def recorder(name: str) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
        return lambda module, inputs, output: calls.append((name, module, inputs[0], output))

    handles = [
        module.register_forward_hook(recorder(name))
        for name, module in model.named_modules()
        if isinstance(module, kind)
    ]
    size = model.config.image_size
    model.encode(torch.empty(1, 3, size, size, device="meta"))
    for handle in handles:
        handle.remove()
    return calls


# --- architecture ------------------------------------------------------------------------------------------------


def test_state_dict_has_the_published_keys_shapes_and_types_in_the_published_order(published):
    model, facts = published
    entries = [(key, list(tensor.shape), str(tensor.dtype)) for key, tensor in model.state_dict().items()]
    assert entries == [(key, value["shape"], f"torch.{value['dtype']}") for key, value in facts["state_dict"].items()]


def test_parameter_counts_are_the_published_ones(published):
    model, facts = published
    counted = {
        "total": model,
        "image_encoder": model.image_encoder,
        "backbone": model.image_encoder.backbone,
        "neck": model.image_encoder.neck,
        "prompt_encoder": model.prompt_encoder,
        "mask_decoder": model.mask_decoder,
    }
    for part, module in counted.items():
        assert sum(parameter.numel() for parameter in module.parameters()) == facts["params"][part], part


def test_convolutions_run_in_the_published_order_with_the_published_shapes_and_costs(published):
    model, facts = published
    assert model.config.image_size == facts["image_size"]
    ran = [
        {
            "module": name,
            "in_channels": conv.in_channels,
            "out_channels": conv.out_channels,
            "kernel": conv.kernel_size[0],
            "stride": conv.stride[0],
            "padding": conv.padding[0],
            "groups": conv.groups,
            "bias": conv.bias is not None,
            "in_shape": list(taken.shape),
            "out_shape": list(output.shape),
            "macs": output.numel() * conv.in_channels // conv.groups * conv.kernel_size[0] * conv.kernel_size[1],
        }
        for name, conv, taken, output in outputs_of(model, nn.Conv2d)
    ]
    assert ran == [{key: conv[key] for key in ran[0]} for conv in facts["conv_layers"]]
    assert sum(conv["macs"] for conv in ran) == facts["macs"]["image_encoder_conv"]


def test_norms_and_activations_follow_the_published_convolutions(published):
    model, facts = published
    modules = dict(model.named_modules())
    for conv in facts["conv_layers"]:
        layer = modules[conv["module"].rpartition(".")[0]]
        norm, act = getattr(layer, "norm", None), getattr(layer, "act", None)
        assert (norm is not None) == (conv["norm"] == "BatchNorm2d"), conv["module"]
        assert (act is not None) == (conv["act"] == "GELU(tanh)"), conv["module"]
        assert norm is None or isinstance(norm, nn.BatchNorm2d)
        assert act is None or act.approximate == "tanh"


def test_activation_tensors_have_the_published_sizes(published):
    model, facts = published
    ran = [(list(output.shape), output.numel()) for _, _, _, output in outputs_of(model, nn.GELU)]
    assert ran == [(activation["shape"], activation["numel"]) for activation in facts["activations"]]


def test_attention_has_the_published_heads_and_tokens(published):
    model, facts = published
    ran = [
        {
            "module": name,
            "dim": attention.head_channels,
            "heads_incl_scales": 2 * taken.shape[1] // attention.head_channels,
            "tokens": taken.shape[-1] * taken.shape[-2],
            "scales": len(attention.aggreg),
        }
        for name, attention, taken, _ in outputs_of(model, LiteMLA)
    ]
    assert ran == [{key: attention[key] for key in ran[0]} for attention in facts["attention"]]


def test_embeddings_and_masks_have_the_published_shapes_on_the_meta_device(published):
    model, facts = published
    size = model.config.image_size
    embedding = model.encode(torch.empty(1, 3, size, size, device="meta"))
    assert list(embedding.shape) == facts["embedding_shape"]
    predicted = model.predict_masks(embedding, boxes=torch.empty(2, 4, device="meta"), original_size=(48, 64))
    assert [tuple(tensor.shape) for tensor in predicted] == [(2, 3, 48, 64), (2, 3), (2, 3, 256, 256)]


def test_every_norm_has_the_epsilon_of_the_published_weights():
    norms = (nn.BatchNorm2d, nn.LayerNorm)
    epsilons = {(type(m).__name__, m.eps) for m in build("l0", device="meta").modules() if isinstance(m, norms)}
    assert epsilons == {("BatchNorm2d", 1e-6), ("LayerNorm", 1e-6), ("LayerNorm2d", 1e-6)}


def test_the_tiny_model_has_all_block_types_and_fits_in_two_megabytes(tiny):
    assert sum(parameter.numel() for parameter in tiny.parameters()) <= 450_000
    kinds = {type(module).__name__ for module in tiny.image_encoder.modules()}
    assert kinds >= {"ResBlock", "FusedMBConv", "MBConv", "LiteMLA", "AttentionBlock", "UpSample"}
    assert len(tiny.image_encoder.neck.input_ops) == 3
    assert tiny.config.image_size == 128


def test_the_image_size_of_a_config_can_be_changed():
    model = EfficientViTSam(dataclasses.replace(CONFIGS["tiny"], image_size=64)).eval()
    image = np.zeros((32, 64, 3), dtype=np.uint8)
    assert model.preprocess(image).shape == (1, 3, 64, 64)
    assert model.encode(model.preprocess(image)).shape == (1, 64, 16, 16)


def test_an_unknown_name_is_answered_with_the_choices():
    with pytest.raises(ModelError, match=r"no EfficientViT-SAM is called 'l3'.*'l0', 'l1', 'l2', 'xl0', 'xl1', 'tiny'"):
        build("l3")


# --- numbers -----------------------------------------------------------------------------------------------------


def weights_by_formula(template: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights that need no random generator, so that they are the same in any program and version."""
    state = {}
    for index, (key, tensor) in enumerate(template.items()):
        steps = np.arange(1, tensor.numel() + 1) * (0.37 + 0.011 * (index % 13)) + index
        wave = torch.from_numpy(np.sin(steps)).reshape(tensor.shape).float()
        if key.endswith("num_batches_tracked"):
            wave = torch.tensor(0)
        elif key.endswith("running_var") or (tensor.ndim == 1 and key.endswith("weight")):
            wave = 1 + 0.4 * wave
        elif tensor.ndim == 1:
            wave = 0.2 * wave
        elif not ("embed" in key or "token" in key.split(".")[1] or "gaussian" in key):
            wave = wave * (4.0 if "mask_decoder" in key else 1.5) / tensor[0].numel() ** 0.5
        state[key] = wave
    return state


@pytest.mark.slow
def test_l0_gives_the_values_of_the_reference_programs():
    """The constants are of mit-han-lab/efficientvit's encoder and segment-anything 1.0's decoder, in float32."""
    model = build("l0", device="meta")
    model.load_state_dict(weights_by_formula(model.state_dict()), assign=True)
    image = torch.from_numpy(np.sin(np.arange(3 * 512 * 512) * 0.013)).reshape(1, 3, 512, 512).float()
    embedding = model.encode(image)
    boxes = torch.tensor([[50.0, 100, 350, 325], [150, 20, 210, 500]])
    masks, iou, low_res = model.predict_masks(embedding, boxes=boxes, original_size=(512, 512))

    def close(output: Tensor, reference: list[Any]) -> None:
        torch.testing.assert_close(output, torch.tensor(reference), atol=2e-4, rtol=2e-4)

    close(embedding[0, ::63, 21, 40], [0.163883, -0.502481, 0.981419, -1.206362, 0.267780])
    close(masks[:, :, 100, 200], [[0.17060, -0.54839, -1.34722], [0.16657, -0.54319, -1.33217]])
    close(masks[:, :, 400, 60], [[0.196885, -0.690405, -1.526537], [0.201743, -0.687270, -1.533118]])
    close(low_res[:, :, 77, 200], [[-0.151311, -0.514412, -0.764951], [-0.155212, -0.537463, -0.806449]])
    close(iou, [[0.178893, 2.944408, 3.866785], [0.172120, 2.934787, 3.860575]])


def test_an_image_has_the_same_embedding_alone_and_in_a_batch(tiny):
    images = torch.randn(3, 3, 128, 128)
    together = tiny.encode(images)
    alone = torch.cat([tiny.encode(image[None]) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_a_batch_of_images_and_boxes_gives_what_each_image_gives_alone(tiny):
    images = torch.randn(2, 3, 128, 128)
    boxes = torch.tensor([[[5.0, 6, 70, 80], [1, 2, 30, 100]], [[50, 40, 90, 60], [0, 0, 128, 128]]])
    masks, iou = tiny(images, boxes, multimask_output=False)
    assert masks.shape == (2, 2, 1, 64, 64)
    assert iou.shape == (2, 2, 1)
    for index in range(2):
        alone = tiny.predict_masks(
            tiny.encode(images[index : index + 1]), boxes=boxes[index], original_size=(128, 128), multimask_output=False
        )
        torch.testing.assert_close(masks[index], alone.low_res, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(iou[index], alone.iou, atol=1e-5, rtol=1e-4)


def test_gradients_reach_every_parameter_that_a_box_prompt_uses(tiny):
    with torch.enable_grad():
        masks, iou = tiny.train()(torch.randn(2, 3, 128, 128), torch.rand(2, 2, 4) * 128)
        single_masks, single_iou = tiny(torch.randn(2, 3, 128, 128), torch.rand(2, 2, 4) * 128, multimask_output=False)
        (masks.square().mean() + iou.mean() + single_masks.square().mean() + single_iou.mean()).backward()
    unused = {name for name, parameter in tiny.named_parameters() if parameter.grad is None}
    of_other_prompts = ("point_embeddings.0", "point_embeddings.1", "not_a_point_embed", "mask_downscaling")
    assert all(name.startswith(tuple(f"prompt_encoder.{other}" for other in of_other_prompts)) for name in unused)


# --- prompts -----------------------------------------------------------------------------------------------------


def test_boxes_are_given_in_pixels_of_the_original_image(tiny):
    embedding = tiny.encode(torch.randn(1, 3, 128, 128))
    box = torch.tensor([[10.0, 20, 100, 70]])
    once = tiny.predict_masks(embedding, boxes=box, original_size=(96, 128))
    doubled = tiny.predict_masks(embedding, boxes=2 * box, original_size=(192, 256))
    assert torch.equal(once.low_res, doubled.low_res)
    from_numpy = tiny.predict_masks(embedding, boxes=box.numpy(), original_size=(96, 128))
    assert torch.equal(once.masks, from_numpy.masks)


def test_single_mask_output_is_another_mask_than_the_three(tiny):
    embedding = tiny.encode(torch.randn(1, 3, 128, 128))
    box = torch.tensor([[10.0, 20, 100, 70]])
    three = tiny.predict_masks(embedding, boxes=box, original_size=(128, 128))
    single = tiny.predict_masks(embedding, boxes=box, original_size=(128, 128), multimask_output=False)
    assert (three.masks.shape, single.masks.shape) == ((1, 3, 128, 128), (1, 1, 128, 128))
    assert not any(torch.equal(single.masks[:, 0], three.masks[:, index]) for index in range(3))


def test_points_and_masks_change_what_a_box_gives(tiny):
    embedding = tiny.encode(torch.randn(1, 3, 128, 128))
    box, size = torch.tensor([[10.0, 20, 100, 70]]), (128, 128)
    plain = tiny.predict_masks(embedding, boxes=box, original_size=size)
    pointed = tiny.predict_masks(
        embedding, boxes=box, points=np.array([[[30, 40]]]), labels=np.ones((1, 1)), original_size=size
    )
    masked = tiny.predict_masks(embedding, boxes=box, masks=plain.low_res[:, :1], original_size=size)
    assert not torch.equal(plain.low_res, pointed.low_res)
    assert not torch.equal(plain.low_res, masked.low_res)


def test_an_image_without_objects_gives_no_masks(tiny):
    predicted = tiny.predict_masks(
        tiny.encode(torch.randn(1, 3, 128, 128)), boxes=torch.zeros(0, 4), original_size=(30, 40)
    )
    assert [tuple(tensor.shape) for tensor in predicted] == [(0, 3, 30, 40), (0, 3), (0, 3, 64, 64)]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({}, r"was given no prompt\. Give boxes"),
        ({"points": torch.zeros(1, 1, 2)}, r"points and labels go together, was given only points"),
        ({"labels": torch.zeros(1, 1)}, r"points and labels go together, was given only labels"),
        ({"boxes": torch.zeros(4)}, r"boxes of shape \(4,\) do not fit.*Expected \(P, 4\)"),
        ({"boxes": torch.zeros(2, 5)}, r"boxes of shape \(2, 5\).*here \(2, 4\)"),
        (
            {"boxes": torch.zeros(2, 4), "masks": torch.zeros(1, 1, 64, 64)},
            r"masks of shape \(1, 1, 64, 64\).*here \(2, 1,",
        ),
        ({"masks": torch.zeros(1, 1, 32, 32)}, r"masks of shape \(1, 1, 32, 32\).*here \(1, 1, 64, 64\)"),
        ({"points": torch.zeros(1, 3, 2), "labels": torch.zeros(1, 2)}, r"labels of shape \(1, 2\).*here \(1, 3\)"),
    ],
)
def test_prompts_that_make_no_sense_are_refused(tiny, prompts, message):
    with pytest.raises(ModelError, match=message):
        tiny.predict_masks(torch.zeros(1, 64, 16, 16), original_size=(128, 128), **prompts)


def test_the_embeddings_of_two_images_are_refused(tiny):
    with pytest.raises(ModelError, match=r"embedding of one image, \(1, C, h, w\), was given \(2, 64, 16, 16\)"):
        tiny.predict_masks(torch.zeros(2, 64, 16, 16), original_size=(9, 9), boxes=torch.zeros(1, 4))


# --- geometry ----------------------------------------------------------------------------------------------------


def test_preprocessing_normalises_and_pads_right_and_below(tiny):
    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    x = tiny.preprocess(image)
    assert x.shape == (1, 3, 128, 128)
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    np.testing.assert_allclose(x[0, :, :96].permute(1, 2, 0), (image - mean) / std, atol=1e-5)
    assert torch.count_nonzero(x[0, :, 96:]) == 0
    assert torch.equal(x, tiny.preprocess(torch.from_numpy(image)))


@pytest.mark.parametrize(
    ("shape", "resized"), [((100, 300), (43, 128)), ((77, 33), (128, 55)), ((500, 500), (128, 128))]
)
def test_preprocessing_resizes_the_longest_side_with_pillows_bilinear_filter(tiny, shape, resized):
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    x = tiny.preprocess(image)[0]
    back = x * torch.tensor(PIXEL_STD).view(3, 1, 1) + torch.tensor(PIXEL_MEAN).view(3, 1, 1)
    expected = Image.fromarray(image).resize(resized[::-1], Image.Resampling.BILINEAR)
    np.testing.assert_allclose(
        back[:, : resized[0], : resized[1]].permute(1, 2, 0) * 255, np.asarray(expected), atol=1e-3
    )
    assert torch.count_nonzero(x[:, resized[0] :]) == 0
    assert torch.count_nonzero(x[:, :, resized[1] :]) == 0


@pytest.mark.parametrize(
    ("image", "description"),
    [
        (np.zeros((4, 4, 3), dtype=np.float32), r"\(4, 4, 3\) and float32"),
        (np.zeros((3, 4, 4), dtype=np.uint8), r"\(3, 4, 4\) and uint8"),
        (np.zeros((4, 4), dtype=np.uint8), r"\(4, 4\) and uint8"),
    ],
)
def test_preprocessing_refuses_what_is_no_rgb_image(tiny, image, description):
    with pytest.raises(ModelError, match=rf"RGB image of shape \(H, W, 3\) and dtype uint8, was given {description}"):
        tiny.preprocess(image)


def test_a_mask_lands_where_its_object_is_in_the_original_image(tiny):
    low_res = torch.full((1, 1, 64, 64), -10.0)
    low_res[..., 8:16, 32:48] = 10.0  # rows 16-32 and columns 64-96 of the 128 frame
    masks = tiny.postprocess_masks(low_res, (192, 256)) > 0
    rows, columns = masks[0, 0].nonzero(as_tuple=True)
    assert masks.shape == (1, 1, 192, 256)
    assert [int(rows.min()), int(rows.max()) + 1] == pytest.approx([32, 64], abs=2)
    assert [int(columns.min()), int(columns.max()) + 1] == pytest.approx([128, 192], abs=2)


def test_prompts_of_the_published_models_are_encoded_in_the_1024_frame_whatever_the_input_size():
    assert {(CONFIGS[name].image_size, CONFIGS[name].prompt_size) for name in PUBLISHED} == {(512, 1024), (1024, 1024)}
    model = EfficientViTSam(dataclasses.replace(CONFIGS["tiny"], prompt_size=1024)).eval()
    encoded: list[Tensor] = []
    model.prompt_encoder.register_forward_pre_hook(
        lambda module, args, kwargs: encoded.append(kwargs["boxes"]), with_kwargs=True
    )
    model.predict_masks(torch.zeros(1, 64, 16, 16), boxes=np.array([[10, 20, 300, 400]]), original_size=(400, 500))
    # 400 x 500 becomes 819 x 1024, rounded: x grows by 1024 / 500, y by 819 / 400
    torch.testing.assert_close(encoded[0], torch.tensor([[20.48, 40.95, 614.4, 819.0]]))
