"""What a message says of half precision can be written as it stands: in Python, and in the file of a scheme."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import sensitivity as sv
from sensitivity.deploy.engines.registry import check_rest, kind_of
from sensitivity.deploy.prepare.rest_in_words import in_file, in_python
from sensitivity.errors import ExportError


@pytest.mark.parametrize("modules", [(), ("norms", "head.0")])
def test_both_words_give_the_same_scheme(modules: tuple[str, ...]) -> None:
    scheme = sv.Scheme.all(sv.INT8)
    in_words = eval(in_python("fp16", modules), {"scheme": scheme})
    plain = scheme.to_json() | json.loads(f"{{{in_file('fp16', modules)}}}")
    assert in_words == sv.Scheme.from_json(plain) == scheme.with_rest("fp16", keep_fp32=modules)


def test_the_command_line_is_not_told_of_python() -> None:
    with pytest.raises(ExportError, match=r"or choose what is written: scheme\.with_rest\('fp32'\)\.$") as refused:
        check_rest(kind_of("onnxruntime"), sv.Scheme().with_rest("bf16"))
    assert refused.value.in_shell.endswith('or choose what is written: "rest": "fp32" in the file of the scheme.')


class Large(nn.Module):
    """Holds more than fp16 can in its own forward, or in a module."""

    def __init__(self, module: nn.Module | None) -> None:
        super().__init__()
        self.conv, self.inner = nn.Conv2d(3, 4, 1), module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv(x)
        return y + 1e6 * y - 1e6 * y if self.inner is None else self.inner(y)


class Times(nn.Module):
    """Its outputs are large."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 1e6 * x


@pytest.mark.parametrize(
    ("module", "words"),
    [(Times(), '"rest": "fp16", "keep_fp32": ["inner"] in the file'), (None, '"rest": "bf16" in the file of the sch')],
)
def test_what_overflows_is_cured_in_the_words_of_the_command_line(module: nn.Module | None, words: str) -> None:
    torch.manual_seed(0)
    wrapped = sv.wrap(Large(module).eval(), torch.ones(1, 3, 4, 4))
    with pytest.raises(ExportError, match=r"the largest number of fp16 is 65504.*scheme\.with_rest\(") as refused:
        wrapped.deploy(sv.Scheme().with_rest("fp16"), "onnxruntime", calibration=[torch.ones(1, 3, 4, 4)])
    assert words in refused.value.in_shell
    assert "with_rest" not in refused.value.in_shell
