"""A deployment as a folder: saved, read back, run without torch, and refused where a file is another."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from torch import nn

import sensitivity as sv
from sensitivity.deploy.bundle.external_data import check_self_contained
from sensitivity.deploy.bundle.manifest import MANIFEST, Manifest
from sensitivity.deploy.deployed import Deployed
from sensitivity.errors import EngineError
from tests.deploy.nets import SAFE, images

X = images(1, seed=3, side=16)


@cache
def wrapped() -> sv.Wrapped:
    torch.manual_seed(0)
    made = sv.wrap(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval(), X, name="two convolutions")
    made.calibrate([images(4, seed=1, side=16)], SAFE.recipes[0])
    return made


@cache
def deployed(engine: str = "onnxruntime", rest: Any = "fp32", io: Any = "fp32") -> Deployed:
    return wrapped().deploy(SAFE.with_rest(rest), engine, io=io, threads=1)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    deployed().save(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_what_is_loaded_computes_what_was_saved(engine: str, tmp_path: Path) -> None:
    files = deployed(engine).save(tmp_path / "deep" / "saved")
    assert all(file.is_file() for file in files)
    loaded = sv.load_deployment(tmp_path / "deep" / "saved")
    (output,) = loaded(X.numpy())
    np.testing.assert_array_equal(output, deployed(engine)(X).numpy())
    assert loaded.scheme == deployed(engine).scheme
    assert loaded.manifest.settings == {"threads": 1}
    assert loaded.engines[""].name == engine


@pytest.mark.parametrize("io", ["fp32", "fp16"])
def test_a_rest_in_fp16_comes_back_as_such(io: str, tmp_path: Path) -> None:
    original = deployed("onnxruntime", "fp16", io)
    original.save(tmp_path)
    loaded = sv.load_deployment(tmp_path)
    (output,) = loaded(X.numpy())
    assert output.dtype == np.float32
    np.testing.assert_array_equal(output, original(X).numpy())
    assert loaded.manifest.parts[0].inputs[0].dtype == {"fp32": "float32", "fp16": "float16"}[io]
    with pytest.raises(EngineError, match=r"these graphs are in fp16, and openvino would compute them in fp32"):
        sv.load_deployment(tmp_path, engine="openvino")


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_it_runs_where_torch_cannot_be_imported(engine: str, tmp_path: Path) -> None:
    deployed(engine).save(tmp_path / "saved")
    np.save(tmp_path / "x.npy", X.numpy())
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "import numpy as np, sensitivity as sv\n"
        f"loaded = sv.load_deployment({str(tmp_path / 'saved')!r})\n"
        f"np.save({str(tmp_path / 'y.npy')!r}, loaded(np.load({str(tmp_path / 'x.npy')!r}))[0])\n"
        "assert loaded.scheme and loaded.names and not loaded.verification\n"
        "try:\n    import torch\nexcept ImportError:\n    print('no torch')\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ran.stdout.strip() == "no torch", ran.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), deployed(engine)(X).numpy())


@pytest.mark.parametrize("name", ["model.onnx", "scheme.json", "names.csv", "calibration-0.safetensors", "README.md"])
def test_a_file_with_other_content_is_refused(name: str, saved: Path) -> None:
    with (saved / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(EngineError, match=rf"{name} is not the file that this deployment was saved with: its sha256"):
        sv.load_deployment(saved)


def test_a_file_that_is_missing_is_named(saved: Path) -> None:
    (saved / "model.onnx").unlink()
    with pytest.raises(EngineError, match=r"model\.onnx belongs to this deployment and cannot be read"):
        sv.load_deployment(saved)


def test_a_manifest_that_was_changed_is_refused(saved: Path) -> None:
    plain = json.loads((saved / MANIFEST).read_text(encoding="utf-8"))
    plain["engine"] = "openvino"
    (saved / MANIFEST).write_text(json.dumps(plain), encoding="utf-8")
    with pytest.raises(EngineError, match=r"deployment\.json is not as deployed\.save wrote it"):
        sv.load_deployment(saved)


def test_a_manifest_that_names_files_elsewhere_is_not_trusted(saved: Path) -> None:
    manifest = Manifest.load(saved)
    replace(manifest, files={"../elsewhere": "0" * 64}).save(saved)
    with pytest.raises(EngineError, match=r"names '\.\./elsewhere', which lies outside of its folder"):
        sv.load_deployment(saved)


@pytest.mark.parametrize("name", ["../elsewhere.onnx", "/elsewhere.onnx", "unlisted.onnx"])
@pytest.mark.parametrize("field", ["onnx", "engine"])
def test_a_part_whose_file_has_no_hash_is_not_read(field: str, name: str, saved: Path) -> None:
    manifest = Manifest.load(saved)
    shutil.copy(saved / "model.onnx", saved / "unlisted.onnx")
    part: Any = replace(manifest.parts[0], **{field: name})
    replace(manifest, parts=(part,)).save(saved)
    with pytest.raises(EngineError, match=rf"names '.*{Path(name).name}' as a part and has no hash of it"):
        sv.load_deployment(saved)


@pytest.mark.parametrize("times", [0, 2])
def test_a_manifest_without_parts_or_with_one_twice_is_refused(times: int, saved: Path) -> None:
    manifest = Manifest.load(saved)
    replace(manifest, parts=manifest.parts * times).save(saved)
    with pytest.raises(EngineError, match=r"has the parts \[.*\]; expected one or more different ones"):
        sv.load_deployment(saved)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes on this system")
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(saved: Path) -> None:
    (saved / "names.csv").unlink()
    os.mkfifo(saved / "names.csv")
    with pytest.raises(EngineError, match=r"names\.csv belongs to this deployment and cannot be read: it is a pipe"):
        sv.load_deployment(saved)


def test_settings_that_an_engine_does_not_take_are_refused(saved: Path) -> None:
    replace(Manifest.load(saved), settings={"colour": "red"}).save(saved)
    with pytest.raises(EngineError, match=r"has settings that onnxruntime does not take: \{'colour': 'red'\}"):
        sv.load_deployment(saved)


def test_names_that_are_no_text_are_refused(saved: Path) -> None:
    loaded = sv.load_deployment(saved)
    (saved / "names.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(EngineError, match=r"names\.csv is no table of names"):
        _ = loaded.names


def with_weights_elsewhere(graph: bytes) -> bytes:
    """The same graph with its first weight in a file of its own, named as ONNX does it."""
    model = onnx.load_model_from_string(graph)
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="weights.bin")
    return model.SerializeToString()


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("has_onnx", [True, False])
def test_weights_in_other_files_are_not_read(
    has_onnx: bool, engine: str, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = with_weights_elsewhere((saved / "model.onnx").read_bytes())
    (saved / "model.onnx").write_bytes(graph)
    plain = json.loads((saved / MANIFEST).read_text(encoding="utf-8"))
    plain["files"]["model.onnx"] = hashlib.sha256(graph).hexdigest()
    plain.pop("digest")
    Manifest.from_json(plain).save(saved)
    monkeypatch.chdir(tmp_path)
    Path("weights.bin").write_bytes(bytes(10_000))
    if not has_onnx:
        monkeypatch.setattr("sensitivity.deploy.bundle.external_data.find_spec", lambda _: None)
    with pytest.raises(EngineError, match=r"model\.onnx holds a graph whose weights lie in other files"):
        sv.load_deployment(saved, engine=engine)


def test_a_graph_that_has_a_location_in_a_name_is_read(saved: Path) -> None:
    graph = onnx.load_model(saved / "model.onnx")
    graph.doc_string = "location"
    check_self_contained(graph.SerializeToString(), "model.onnx")


@pytest.mark.parametrize("plain", [{}, {"schema": 9}, {"schema": 1}])
def test_a_manifest_of_something_else_is_refused(plain: dict[str, Any]) -> None:
    with pytest.raises(EngineError, match=r"not the manifest of a deployment|this version reads 1"):
        Manifest.from_json(plain)


def test_a_manifest_comes_back_from_json(saved: Path) -> None:
    manifest = Manifest.load(saved)
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest
    with pytest.raises(EngineError, match=r"nothing holds no deployment: there is no deployment\.json in it"):
        sv.load_deployment(saved / "nothing")


def test_names_lead_from_torch_to_onnx_to_the_engine(tmp_path: Path) -> None:
    names = deployed("openvino").names()
    assert isinstance(names, pd.DataFrame)
    assert names[["module", "node"]].to_numpy().tolist() == [["0", "0"], ["2", "2"]]
    assert list(names["layer"]) == wrapped().layers.names
    assert set(names["precision"]) == {"int8"}
    assert all(names["engine"])
    deployed("openvino").save(tmp_path)
    assert sv.load_deployment(tmp_path).names == names.to_dict("records")


def test_the_card_tells_verification_latency_and_licence(tmp_path: Path) -> None:
    verification = wrapped().verify(deployed())
    deployed().save(tmp_path, verification=verification, licence="Apache-2.0, trained by us")
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert card.startswith("# two convolutions on onnxruntime\n\n2 of 2 layers are quantized.")
    for words in (
        str(verification),
        "Apache-2.0, trained by us",
        "ms in fp32 on the same engine",
        "safe int8",
        "1 x 3 x 16 x 16",
    ):
        assert words in card
    loaded = sv.load_deployment(tmp_path)
    assert loaded.verification is not None
    assert loaded.verification.to_json() == verification.to_json()
    assert loaded.manifest.licence == "Apache-2.0, trained by us"


@pytest.mark.parametrize("licence", ["", " \n"])
def test_a_blank_licence_is_refused_before_anything_is_written(tmp_path: Path, licence: str) -> None:
    with pytest.raises(EngineError, match=r"licence='.*' is blank\. Give the licence of the weights"):
        deployed().save(tmp_path / "card", licence=licence)
    assert not (tmp_path / "card").exists()


def test_the_card_says_what_nobody_told(saved: Path) -> None:
    card = (saved / "README.md").read_text(encoding="utf-8")
    assert "This deployment was saved without a verification." in card
    assert "Nobody told: ask whoever trained them" in card


def test_a_part_is_run_by_its_path(tmp_path: Path) -> None:
    parts = wrapped().deploy(SAFE, "onnxruntime", parts=["0"])
    parts.save(tmp_path)
    loaded = sv.load_deployment(tmp_path)
    with torch.no_grad():
        wanted = parts.plan.model.get_submodule("0")(X)
    assert loaded(X.numpy(), part="0")[0].shape == tuple(wanted.shape)
    with pytest.raises(EngineError, match=r"part='' is not in this deployment\. It has '0'"):
        loaded(X.numpy())
    assert "two convolutions on onnxruntime: 0; 1 of 2 layers" in repr(loaded)


def test_another_engine_may_run_it_and_the_simulation_may_not(saved: Path, tmp_path: Path) -> None:
    other = sv.load_deployment(saved, engine="openvino")
    assert other.engines[""].name == "openvino"
    np.testing.assert_allclose(other(X.numpy())[0], deployed()(X).numpy(), atol=0.05)
    with pytest.raises(EngineError, match="'torch', the simulation, runs the model and no graph"):
        sv.load_deployment(saved, engine="torch")
    with pytest.raises(EngineError, match="'torch' is the simulation: it runs the model, and no file holds it"):
        wrapped().deploy(SAFE, "torch").save(tmp_path)


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(EngineError, match=r"file cannot be written"):
        deployed().save(tmp_path / "file")


def test_a_copied_folder_still_loads(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "copy")
    assert sv.load_deployment(tmp_path / "copy").manifest == sv.load_deployment(saved).manifest


def test_a_deployment_takes_the_place_of_another_and_leaves_other_files(saved: Path) -> None:
    (saved / "mine.txt").write_text("kept", encoding="utf-8")
    (saved / "unlisted.onnx").write_bytes(b"kept")
    wrapped().deploy(sv.Scheme(), "onnxruntime", threads=1).save(saved)
    names = {path.name for path in saved.iterdir()}
    assert names == {"mine.txt", "unlisted.onnx", MANIFEST, "README.md", "model.onnx", "names.csv", "scheme.json"}
    assert sv.load_deployment(saved).manifest.quantized == 0


def test_files_of_a_deployment_that_was_changed_are_not_taken_away(saved: Path) -> None:
    (saved / "calibration-0.safetensors").write_bytes(b"changed by somebody")
    wrapped().deploy(sv.Scheme(), "onnxruntime", threads=1).save(saved)
    assert (saved / "calibration-0.safetensors").read_bytes() == b"changed by somebody"
    assert sv.load_deployment(saved).manifest.quantized == 0
