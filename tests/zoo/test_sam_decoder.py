"""Prompt encoder and mask decoder against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sensitivity.zoo.sam_decoder import Attention, PromptEncoder


@pytest.fixture
def prompt_encoder() -> PromptEncoder:
    torch.manual_seed(7)
    return PromptEncoder(8, embedding_size=4, prompt_size=32, mask_channels=4)


def test_points_without_boxes_get_one_padding_point_and_with_boxes_none(prompt_encoder):
    points = (torch.rand(2, 3, 2) * 32, torch.ones(2, 3))
    alone, _ = prompt_encoder(points=points, boxes=None, masks=None)
    assert alone.shape == (2, 4, 8)
    assert torch.equal(alone[:, 3], prompt_encoder.not_a_point_embed.weight.expand(2, -1))
    boxes = torch.rand(2, 4) * 32
    both, _ = prompt_encoder(points=points, boxes=boxes, masks=None)
    only_boxes, _ = prompt_encoder(points=None, boxes=boxes, masks=None)
    assert only_boxes.shape == (2, 2, 8)
    assert torch.equal(both, torch.cat([alone[:, :3], only_boxes], dim=1))


def test_a_point_is_its_fourier_features_plus_the_embedding_of_its_label(prompt_encoder):
    sparse, _ = prompt_encoder((torch.tensor([[[7.5, 23.5]] * 3]), torch.tensor([[0, 1, -1]])), None, None)
    angles = (
        2
        * np.pi
        * (2 * np.array([8 / 32, 24 / 32]) - 1)
        @ prompt_encoder.pe_layer.state_dict()["positional_encoding_gaussian_matrix"].numpy()
    )
    fourier = torch.from_numpy(np.concatenate([np.sin(angles), np.cos(angles)])).float()
    for index in (0, 1):
        expected = fourier + prompt_encoder.point_embeddings[index].weight[0]
        torch.testing.assert_close(sparse[0, index], expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(sparse[0, 2], prompt_encoder.not_a_point_embed.weight[0])


def test_the_dense_position_of_a_pixel_is_that_of_a_point_at_its_centre(prompt_encoder):
    dense = prompt_encoder.get_dense_pe()
    assert dense.shape == (1, 8, 4, 4)
    # pixel (row 1, column 2) of the 4x4 embedding covers 8x8 pixels of the prompt frame, centred on (20, 12)
    point, _ = prompt_encoder((torch.tensor([[[19.5, 11.5]]]), torch.tensor([[1]])), None, None)
    expected = point[0, 0] - prompt_encoder.point_embeddings[1].weight[0]
    torch.testing.assert_close(dense[0, :, 1, 2], expected, atol=1e-5, rtol=1e-5)


def test_a_mask_prompt_replaces_the_no_mask_embedding(prompt_encoder):
    _, without = prompt_encoder(None, torch.rand(2, 4), None)
    assert torch.equal(without, prompt_encoder.no_mask_embed.weight.reshape(1, 8, 1, 1).expand(2, 8, 4, 4))
    sparse, dense = prompt_encoder(None, None, torch.randn(3, 1, 16, 16))
    assert sparse.shape == (3, 0, 8)
    assert dense.shape == (3, 8, 4, 4)


def test_decoder_attention_equals_scaled_dot_product_attention():
    torch.manual_seed(5)
    attention = Attention(16, heads=4, downsample=2)
    q, k, v = torch.randn(2, 3, 16), torch.randn(2, 7, 16), torch.randn(2, 7, 16)
    heads = [
        projection(x).reshape(2, -1, 4, 2).transpose(1, 2)
        for projection, x in ((attention.q_proj, q), (attention.k_proj, k), (attention.v_proj, v))
    ]
    expected = attention.out_proj(F.scaled_dot_product_attention(*heads).transpose(1, 2).reshape(2, 3, 8))
    torch.testing.assert_close(attention(q, k, v), expected)
