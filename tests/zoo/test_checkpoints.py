"""Weights in files: read back exactly, and refused with a reason."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch

from sensitivity.errors import ModelError, SensitivityError
from sensitivity.zoo.efficientvit_sam import load


@pytest.mark.parametrize("form", ["safetensors", "torch", "nested"])
def test_loading_gives_back_the_weights_that_were_saved(tiny, form, tmp_path):
    if form == "safetensors":
        path = tmp_path / "tiny.safetensors"
        safetensors.torch.save_file(tiny.state_dict(), path)
    else:
        path = tmp_path / "tiny.pt"
        torch.save({"state_dict": tiny.state_dict()} if form == "nested" else tiny.state_dict(), path)
    loaded = load("tiny", checkpoint=path)
    assert not loaded.training
    for (key, restored), original in zip(loaded.state_dict().items(), tiny.state_dict().values(), strict=True):
        assert torch.equal(restored, original), key
    image = torch.randn(1, 3, 128, 128)
    assert torch.equal(loaded.encode(image), tiny.encode(image))


def test_half_precision_weights_are_loaded_as_float32(tiny, tmp_path):
    path = tmp_path / "tiny.safetensors"
    safetensors.torch.save_file(tiny.half().state_dict(), path)
    assert path.stat().st_size < 2 * 2**20
    loaded = load("tiny", checkpoint=str(path))
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert torch.equal(loaded.prompt_encoder.no_mask_embed.weight, tiny.prompt_encoder.no_mask_embed.weight.float())


def test_loading_draws_no_random_numbers(tiny, tmp_path):
    torch.save(tiny.state_dict(), tmp_path / "tiny.pt")
    before = torch.get_rng_state()
    load("tiny", checkpoint=tmp_path / "tiny.pt")
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_of_another_model_are_refused_with_its_name(tiny, tmp_path):
    torch.save(tiny.state_dict(), tmp_path / "t.pt")
    with pytest.raises(
        ModelError, match=r"not hold the weights of 'l0': .*missing: .*mis-shaped: .*use load\('tiny', "
    ):
        load("l0", checkpoint=tmp_path / "t.pt")


def test_incomplete_weights_are_refused_with_the_keys_that_do_not_fit(tiny, tmp_path):
    state = tiny.state_dict()
    removed = state.pop("image_encoder.norm.bias")
    state["image_encoder.norm.weight"] = removed[:5]
    torch.save({**state, "stranger": removed}, tmp_path / "t.pt")
    with pytest.raises(SensitivityError) as caught:
        load("tiny", checkpoint=tmp_path / "t.pt")
    message = str(caught.value)
    assert "1 missing: image_encoder.norm.bias; 1 unexpected: stranger" in message
    assert "1 mis-shaped: image_encoder.norm.weight (5,) for (64,)" in message
    assert "No other model of this library is nearer" in message
    with pytest.raises(ModelError, match=r"'tiny' is nearer, with 3 keys that do not fit"):
        load("l0", checkpoint=tmp_path / "t.pt")


@pytest.mark.parametrize("name", ["broken.pt", "broken.safetensors", "empty.pt"])
def test_a_damaged_file_is_refused(name, tmp_path):
    (tmp_path / name).write_bytes(b"" if name.startswith("empty") else b"this is no checkpoint")
    with pytest.raises(ModelError, match=rf"cannot read .*{name}' as a checkpoint"):
        load("tiny", checkpoint=tmp_path / name)


def test_a_truncated_file_is_refused(tiny, tmp_path):
    path = tmp_path / "cut.pt"
    torch.save(tiny.state_dict(), path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ModelError, match=r"cannot read .*cut\.pt' as a checkpoint"):
        load("tiny", checkpoint=path)


def test_a_pickled_model_is_refused_without_running_it(tiny, tmp_path):
    torch.save(tiny, tmp_path / "whole.pt")
    with pytest.raises(ModelError, match=r"cannot read .*whole\.pt' as a checkpoint"):
        load("tiny", checkpoint=tmp_path / "whole.pt")


@pytest.mark.parametrize(("content", "described"), [([1, 2], "a list"), ({"epoch": 3}, r"a dict with 'epoch' \(int\)")])
def test_a_file_without_a_state_dict_is_refused(content, described, tmp_path):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ModelError, match=rf"other\.pt' holds {described}, expected a state dict"):
        load("tiny", checkpoint=tmp_path / "other.pt")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"no checkpoint file at .*absent\.pt'"):
        load("tiny", checkpoint=tmp_path / "absent.pt")
