"""The detectors this example can run, each with what surrounds the network: its input, its boxes, its layers' names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import fastestdet
import yolo_fastest
from decode import decode_fastestdet, decode_yolo
from preprocess import FASTESTDET, YOLO_FASTEST, SquareInput
from torch import nn

Place = tuple[str, int]
NamingScheme = Callable[[Sequence[str]], Sequence[Place | None]]


@dataclass(frozen=True, kw_only=True)
class Detector:
    """All that is needed to score a network on COCO.

    Attributes:
        load: Makes the network from a safetensors file.
        preprocess: Makes its input from an image.
        decode: Makes boxes in original pixels from its raw outputs.
        naming: Makes a naming scheme for the network's layers; None for the library's own.
    """

    load: Callable[[Path], nn.Module]
    preprocess: SquareInput
    decode: Callable[..., Any]
    naming: Callable[[Any], NamingScheme] | None = None


def name_by_stage(model: yolo_fastest.YoloFastest) -> NamingScheme:
    """``stage4:0:1`` instead of ``layers:59:0``: a block that halves the map begins a stage, as in most backbones."""
    firsts = {"coarse_head": yolo_fastest.COARSE_HEAD, "fine_head": yolo_fastest.FINE_HEAD}
    places = {yolo_fastest.STEM: ("stem", 0), yolo_fastest.NECK: ("neck", 0)}
    places |= {first + offset: (head, 0) for head, first in firsts.items() for offset in range(5)}
    stage, number = 1, 0
    for block in (*model.fine_blocks, *model.coarse_blocks):
        if model.layers[str(block.expand + 1)].conv.stride == (2, 2):
            stage, number = stage + 1, 0
        places |= {block.expand + offset: (f"stage{stage}", number) for offset in range(3)}
        number += 1
    return lambda paths: [places[int(path.split(".")[1])] for path in paths]


DETECTORS = {
    "yolo-fastest-xl": Detector(
        load=partial(yolo_fastest.load, xl=True),
        preprocess=YOLO_FASTEST,
        decode=decode_yolo,
        naming=name_by_stage,
    ),
    "yolo-fastest": Detector(
        load=partial(yolo_fastest.load, xl=False),
        preprocess=YOLO_FASTEST,
        decode=decode_yolo,
        naming=name_by_stage,
    ),
    "fastestdet": Detector(load=fastestdet.load, preprocess=FASTESTDET, decode=decode_fastestdet),
}
