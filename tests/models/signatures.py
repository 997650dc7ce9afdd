"""What models are given and what they return."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .case import Case, ExpectedLayer, conv_norm_act, image, layer


@dataclass
class Detections:
    """Outputs as a plain dataclass with one empty field."""

    classes: Tensor
    boxes: Tensor
    masks: Tensor | None = None


class NamedDetections(NamedTuple):
    """Outputs as a named tuple."""

    classes: Tensor
    boxes: Tensor


@dataclass
class ModelOutput(OrderedDict[str, Any]):
    """Outputs as transformers has them: a dataclass that is an ordered dict of the fields that are not None."""

    classes: Tensor | None = None
    boxes: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value is not None:
                self[entry.name] = value


Pack = Callable[[Tensor, Tensor], Any]


class TwoHeads(nn.Module):
    """A stem, two heads, and any container around their outputs."""

    def __init__(self, pack: Pack) -> None:
        super().__init__()
        self.pack = pack
        self.stem = conv_norm_act(3, 6)
        self.classes = nn.Conv2d(6, 4, 1)
        self.boxes = nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        return self.pack(self.classes(x), self.boxes(x))


TWO_HEADS = (
    layer("stem.conv", "BatchNorm2d", "ReLU", "stem"),
    layer("classes", None, None, "output", role="output"),
    layer("boxes", None, None, "output", role="output"),
)

PACKS: dict[str, Pack] = {
    "list": lambda a, b: [a, b],
    "dict": lambda a, b: {"classes": a, "meta": {"version": 3, "name": "two heads"}, "boxes": b},
    "nested_tuple": lambda a, b: ((a, (None, (b,))), "label", 1.0),
    "list_of_dicts": lambda a, b: [{"scores": score, "boxes": box} for score, box in zip(a, b, strict=True)],
    "dataclass": lambda a, b: Detections(a, b),
    "named_tuple": lambda a, b: NamedDetections(a, b),
    "model_output": lambda a, b: ModelOutput(classes=a, boxes=b),
    "model_output_nested": lambda a, b: ModelOutput(classes=a, hidden_states=(b,)),
    "views": lambda a, b: torch.cat([a.flatten(2), b.flatten(2)], 1).permute(0, 2, 1).contiguous(),
    "set_of_one": lambda a, b: {a + b},
}


class DictInput(nn.Module):
    """Takes one dict, as collated batches come."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Conv2d(3, 4, 1)
        self.depth = nn.Conv2d(1, 4, 1)

    def forward(self, batch: dict[str, Any]) -> Tensor:
        return torch.cat([self.image(batch["image"]), self.depth(batch["more"]["depth"])], 1)


class SeveralInputs(nn.Module):
    """Tensors by position and by name, an optional one, and settings that are no tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Conv2d(3, 4, 1)
        self.prompt = nn.Linear(2, 4)
        self.mask = nn.Conv2d(1, 4, 1)
        self.head = nn.Conv2d(4, 1, 1)

    def forward(
        self, image: Tensor, prompt: Tensor, mask: Tensor | None = None, *, scale: float = 1.0, relu: bool = True
    ) -> Tensor:
        x = self.image(image) * scale + self.prompt(prompt)[:, :, None, None]
        if mask is not None:
            x = x + self.mask(mask)
        return self.head(torch.relu(x) if relu else x)


class ListInput(nn.Module):
    """Takes a list of images of unequal sizes, as torchvision's detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.fc = nn.Linear(4, 2)

    def forward(self, images: list[Tensor]) -> Tensor:
        sides = torch.tensor([x.shape[-1] for x in images])
        batch = images[0].new_zeros(len(images), 3, int(sides.max()), int(sides.max()))
        for slot, x in zip(batch, images, strict=True):
            slot[:, : x.shape[1], : x.shape[2]].copy_((x - 0.5) / 0.25)
        return self.fc(torch.relu(self.conv(batch)).mean((2, 3)))


class PassesInputOn(nn.Module):
    """Returns the very tensor it was given beside its result."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"input": x, "view": x[:, :1], "result": self.conv(x)}


class ChangesInput(nn.Module):
    """Normalises its input in place: the caller's tensor is not the model's to keep."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.sub_(0.5).div_(0.25))


class TwoInputs(nn.Module):
    """One branch sees the full image, the other a smaller one; integer tokens choose a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.large = conv_norm_act(3, 4, stride=2)
        self.small = conv_norm_act(3, 4)
        self.words = nn.Embedding(10, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, large: Tensor, small: Tensor, tokens: Tensor) -> Tensor:
        pixels = (self.large(large) + self.small(small)).mean((2, 3))
        return self.head(pixels * self.words(tokens).mean(1))


def without_mask() -> tuple[ExpectedLayer, ...]:
    return (
        layer("image", None, None, "stem"),
        layer("prompt", None, None, "stem"),
        layer("head", None, None, "output"),
    )


CASES = (
    *(Case(f"returns_{name}", partial(TwoHeads, pack), image(8), TWO_HEADS) for name, pack in PACKS.items()),
    Case(
        "takes_dict",
        DictInput,
        lambda: ({"image": torch.randn(1, 3, 8, 8), "more": {"depth": torch.randn(1, 1, 8, 8), "id": "a"}},),
        (layer("image", None, None, "stem output"), layer("depth", None, None, "stem output")),
    ),
    Case(
        "takes_keywords",
        SeveralInputs,
        lambda: {"prompt": torch.randn(1, 2), "image": torch.randn(1, 3, 8, 8), "mask": None, "scale": 0.5},
        without_mask(),
        skipped={"mask": "never called"},
    ),
    Case(
        "takes_none",
        SeveralInputs,
        lambda: (torch.randn(1, 3, 8, 8), torch.randn(1, 2), None),
        without_mask(),
        skipped={"mask": "never called"},
    ),
    Case(
        "takes_optional",
        SeveralInputs,
        lambda: (torch.randn(1, 3, 8, 8), torch.randn(1, 2), torch.randn(1, 1, 8, 8)),
        (
            layer("image", None, None, "stem"),
            layer("prompt", None, None, "stem"),
            # the add joins three inputs, none of which is a shortcut of another
            layer("mask", None, None, "stem"),
            layer("head", None, None, "output"),
        ),
    ),
    Case(
        "takes_list",
        ListInput,
        lambda: [torch.rand(3, 8, 6), torch.rand(3, 6, 8)],
        (layer("conv", None, "ReLU", "stem"), layer("fc", None, None, "output")),
    ),
    Case("passes_input_on", PassesInputOn, image(8), (layer("conv", None, None, "stem output"),)),
    Case("changes_input", ChangesInput, image(8), (layer("conv", None, None, "stem output"),)),
    Case(
        "two_images_and_tokens",
        TwoInputs,
        lambda: (torch.randn(1, 3, 16, 16), torch.randn(1, 3, 8, 8), torch.tensor([[1, 2, 3]])),
        (
            layer("large.conv", "BatchNorm2d", "ReLU", "stem"),
            layer("small.conv", "BatchNorm2d", "ReLU", "stem"),
            layer("head", None, None, "output"),
        ),
    ),
)
