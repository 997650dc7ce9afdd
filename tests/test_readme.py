"""The README and the pages in docs/: what they show is executed, and what they link exists."""

from __future__ import annotations

import doctest
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import sensitivity as sv

TEST_COMMAND = "pip install -e '.[test]' && pytest"
DEMO_COMMAND = "pip install -e '.[demo]' && sensitivity demo"
PAGES = ("README.md", "docs/*.md", "examples/*/README.md")


class BrightSpot(nn.Module):
    """A detector that sees one bright square: a map of how bright every cell is."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), *[nn.Conv2d(8, 8, 1) for _ in range(10)]
        )
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.constant_(layer.weight, 1.0 / layer.weight[0].numel())
                nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> Tensor:
        brightness: Tensor = self.layers(images).mean(dim=1)
        return brightness


def decode(outputs: Tensor, sizes: Sequence[tuple[int, int]]) -> list[dict[str, Tensor]]:
    """The box around all cells of at least half the brightness of the brightest, in original pixels."""
    found = []
    for cells, (height, width) in zip(outputs, sizes, strict=True):
        rows, columns = torch.nonzero(cells >= cells.max() / 2, as_tuple=True)
        corners = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
        scale = torch.tensor([width, height, width, height]) / 320
        found.append({"boxes": (corners * scale)[None], "scores": cells.max()[None], "labels": torch.zeros(1).long()})
    return found


def write_bright_spots(folder: Path) -> None:
    """``val2017`` and ``instances_val2017.json``: black images with a white square each."""
    (folder / "val2017").mkdir()
    images, annotations = [], []
    for number in range(1, 4):
        pixels = np.zeros((80, 100, 3), np.uint8)
        pixels[20:50, 10 * number : 10 * number + 30] = 255
        Image.fromarray(pixels).save(folder / "val2017" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": 80, "width": 100})
        box = {"bbox": [10 * number, 20, 30, 30], "area": 900, "iscrowd": 0}
        annotations.append({"id": number, "image_id": number, "category_id": 1, **box})
    plain = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "square"}]}
    (folder / "instances_val2017.json").write_text(json.dumps(plain), encoding="utf-8")


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def test_the_main_job_of_the_readme_runs(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_bright_spots(tmp_path)
    monkeypatch.chdir(tmp_path)
    [block] = python_blocks(repository / "README.md")
    images = torch.rand(4, 3, 320, 320, generator=torch.Generator().manual_seed(0))
    names: dict[str, Any] = {
        "model": BrightSpot().eval(),
        "example": images[:1],
        "images": images,
        "decode": decode,
    }
    exec(compile(block, "README.md", "exec"), names)
    assert names["study"].baseline.value > 0.9
    assert names["tuned"].met
    assert names["tuned"].scheme.recipes
    assert (tmp_path / "dips.png").is_file()
    assert sv.Study.load(tmp_path / "study.json").table().equals(names["study"].table())
    printed = capsys.readouterr().out
    assert re.search(r"^BrightSpot with int8: \d+ of 11 layers are hurt", printed, re.MULTILINE), "the diagnosis"
    assert names["deployed"].name == "openvino"
    assert "on openvino: as simulated" in printed, "weights in 7 bits where sums of eight saturate"


def test_the_readme_holds_its_two_commands_once_each(repository: Path) -> None:
    lines = (repository / "README.md").read_text(encoding="utf-8").splitlines()
    assert lines.count(TEST_COMMAND) == 1
    assert lines.count(DEMO_COMMAND) == 1


def test_the_checks_run_the_test_command_that_the_readme_promises(repository: Path) -> None:
    script = repository / ".ci" / "run"
    assert os.access(script, os.X_OK)
    pattern = re.search(r'grep -E "(.+?)" README\.md', script.read_text(encoding="utf-8"))
    assert pattern is not None
    lines = (repository / "README.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if re.match(pattern[1], line)] == [TEST_COMMAND]


@pytest.mark.parametrize("page", ["layers.md", "quantization.md", "tasks.md", "sweep.md", "confidence.md", "tune.md"])
def test_the_examples_of_a_page_give_what_it_shows(repository: Path, page: str) -> None:
    failed, attempted = doctest.testfile(str(repository / "docs" / page), module_relative=False)
    assert attempted > 0
    assert failed == 0


def test_every_link_leads_somewhere(repository: Path) -> None:
    pages = [page for pattern in PAGES for page in sorted(repository.glob(pattern))]
    assert len(pages) >= 8
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.relative_to(repository)} links {target}"
