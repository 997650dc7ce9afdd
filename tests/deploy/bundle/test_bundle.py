"""A deployment as a folder: saved, read back, run without torch, and refused where a file is another."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import sensitivity as sv
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
