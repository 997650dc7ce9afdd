"""One network with each kind of norm: what int8, pruning and 2:4 sparsity do to it, and how far pruning may go."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.zoo import norms

CLASSES = 8
SIDE = 16
STEPS = 120
KINDS = ("batch", "frozen-batch", "group", "layer", "evonorm-s0", "switchable")
RECIPES = {"int8": sv.INT8, "prune 50 %": sv.Prune(0.5), "2:4 (m4n2_1d)": sv.Prune("2:4")}
LEVELS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
LEFT_OUT = {
    "all layers": (),
    "no depthwise": ("@depthwise",),
    "no depthwise, no stem, no head": ("@depthwise", "@stem", "@output"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the network once for each kind of norm, and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="bars", choices=("bars", *DETECTORS), help="default: %(default)s")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    tables = [norm_table(options.network)]
    if options.network == "bars":
        tables.append(sparsity_table(options.out))
    text = "\n\n".join(tables) + "\n"
    (options.out / "tables.md").write_text(text, encoding="utf-8")
    print(text, end="")


def norm_table(network: str) -> str:
    """A row for each kind of norm: the score, and the drop with every layer quantized or pruned."""
    rows = []
    for kind in KINDS:
        model, task, images = trained(kind) if network == "bars" else detector(network, kind)
        wrapped = sv.wrap(model, images[:1], name=f"{network} with {kind} norms")
        calibration = wrapped.calibrate(images, sv.INT8, progress=False)
        baseline = wrapped.evaluate(task, sv.Scheme())
        cells = [] if network != "bars" else [f"{100 * baseline.value:.2f}"]
        for recipe in RECIPES.values():
            score = wrapped.evaluate(task, everywhere(wrapped, recipe), calibration=calibration).value
            cells.append(f"{100 * (baseline.value - score) if network == 'bars' else score:.2f}")
        rows.append([kind, *cells])
    if network == "bars":
        return markdown(["norm", "float, top1 (%)", *(f"{name}: drop" for name in RECIPES)], rows)
    return markdown(["norm", *(f"{name}: SQNR (dB)" for name in RECIPES)], rows)


def everywhere(wrapped: sv.Wrapped, recipe: sv.Recipe) -> sv.Scheme:
    """The recipe for every layer that can have it: 2:4 needs groups of four input channels."""
    if recipe != sv.Prune("2:4"):
        return sv.Scheme.all(recipe)
    return sv.Scheme.only(
        [layer.name for layer in wrapped.layers if layer.in_channels // layer.groups % 4 == 0], recipe
    )


def sparsity_table(out: Path) -> str:
    """A row for each level: the score with all layers pruned, and with some kinds of layers left out."""
    model, task, images = trained("batch")
    wrapped = sv.wrap(model, images[:1], name="bars")
    rows = []
    for name, recipe in {**{f"{level:.0%}": sv.Prune(level) for level in LEVELS}, "2:4": sv.Prune("2:4")}.items():
        cells = []
        for patterns in LEFT_OUT.values():
            scheme = everywhere(wrapped, recipe)
            for pattern in patterns:
                scheme = scheme.protect(pattern)
            cells.append(f"{100 * wrapped.evaluate(task, scheme).value:.2f}")
        rows.append([name, *cells])
    study = wrapped.analyze(task, [sv.Prune(level) for level in LEVELS], store=out / "levels.jsonl", progress=False)
    study.plot_levels(out / "levels.png")
    (out / "layers.md").write_text(study.to_markdown(metrics=True), encoding="utf-8")
    return markdown(["sparsity", *LEFT_OUT], rows)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def trained(kind: str) -> tuple[nn.Module, sv.Classification, Tensor]:
    """The classifier of bars with this kind of norm, trained for seconds; its task, and images to calibrate on.

    A frozen norm has the statistics that a batch norm had at the end of its training.
    """
    torch.manual_seed(0)
    model = norms.convert(classifier(), "batch" if kind == "frozen-batch" else kind).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(STEPS):
        images, labels = bars(64, seed=100 + step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    images, labels = bars(512, seed=1)
    return (
        norms.convert(model.eval(), kind).eval(),
        sv.Classification(images, labels, batch_size=64),
        bars(64, seed=2)[0],
    )


def classifier() -> nn.Module:
    """A stem, two depthwise separable blocks and a head."""

    def block(channels: int, width: int, stride: int) -> list[nn.Module]:
        depthwise = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, groups=channels, bias=False)
        pointwise = nn.Conv2d(channels, width, 1, bias=False)
        return [depthwise, nn.BatchNorm2d(channels), nn.ReLU(), pointwise, nn.BatchNorm2d(width), nn.ReLU()]

    stem = [nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES)]
    return nn.Sequential(*stem, *block(16, 32, 1), *block(32, 64, 2), *head)


def bars(count: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy images (N, 1, SIDE, SIDE) of a bright bar, at one of four angles and in one of two widths; its class."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (count,), generator=draw)
    angle = (labels % 4) * torch.pi / 4
    offset = 6 * torch.rand(count, generator=draw) - 3
    across = torch.linspace(-SIDE / 2, SIDE / 2, SIDE)
    x, y = across[None, None, :], across[None, :, None]
    distance = (x * angle.cos()[:, None, None] + y * angle.sin()[:, None, None] - offset[:, None, None]).abs()
    bright = (distance < torch.where(labels < 4, 1.0, 2.5)[:, None, None]).float()
    return (bright + 0.5 * torch.randn(bright.shape, generator=draw))[:, None], labels


def retinanet() -> nn.Module:
    """RetinaNet of torchvision over a ResNet-18, up to its raw heads."""
    from torchvision.models.detection import RetinaNet
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    settings: Mapping[str, object] = {"returned_layers": [2, 3, 4], "extra_blocks": LastLevelP6P7(256, 256)}
    return Heads(
        RetinaNet(
            resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d, **settings), 10
        )
    )


def fcos() -> nn.Module:
    """FCOS of torchvision over a ResNet-18, up to its raw heads; its towers have group norms."""
    from torchvision.models.detection import FCOS
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    settings: Mapping[str, object] = {"returned_layers": [2, 3, 4], "extra_blocks": LastLevelP6P7(256, 256)}
    return Heads(
        FCOS(resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d, **settings), 10)
    )


def efficientdet() -> nn.Module:
    """EfficientDet-D0 of effdet."""
    from effdet import create_model

    return create_model("efficientdet_d0", pretrained=False, pretrained_backbone=False, image_size=(128, 128))


def centernet() -> nn.Module:
    """CenterNet's: a ResNet-18, three upsampling stages, and heads for centres, offsets and sizes."""
    from torchvision.models import resnet18
    from torchvision.models._utils import IntermediateLayerGetter

    return CenterNet(IntermediateLayerGetter(resnet18(weights=None), {"layer4": "deepest"}))


DETECTORS = {"retinanet": retinanet, "fcos": fcos, "efficientdet": efficientdet, "centernet": centernet}


class Heads(nn.Module):
    """A one-stage detector of torchvision up to its raw heads."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = detector.backbone, detector.head

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Raw scores and boxes of all levels."""
        return self.head(list(self.backbone(x).values()))


class CenterNet(nn.Module):
    """Heat maps of object centres at a quarter of the input.

    Source: Zhou et al., "Objects as Points" (2019), section 5 and figure 6 b, with plain transposed convolutions.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        stages = []
        for channels, width in ((512, 256), (256, 128), (128, 64)):
            up = nn.ConvTranspose2d(channels, width, 4, stride=2, padding=1, bias=False)
            stages += [up, nn.BatchNorm2d(width), nn.ReLU()]
        self.up = nn.Sequential(*stages)
        outputs = {"centres": 10, "offsets": 2, "sizes": 2}
        self.heads = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, count, 1))
                for name, count in outputs.items()
            }
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps of all heads."""
        [deepest] = self.backbone(x).values()
        shared = self.up(deepest)
        return {name: head(shared) for name, head in self.heads.items()}


def detector(network: str, kind: str) -> tuple[nn.Module, sv.FeatureFidelity, Tensor]:
    """A detector with random weights and this kind of norm; outputs are compared, in dB.

    Batch norms get the statistics of the images: with those they are made with, deep features fade. Biases are set to
    zero: that of a classifier is the same large number everywhere, in which noise would vanish.
    """
    torch.manual_seed(0)
    images = torch.rand(4, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    made = DETECTORS[network]()
    for module in made.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.zeros_(module.bias)
    model = norms.convert(made, "batch" if kind == "frozen-batch" else kind).train()
    with torch.no_grad():
        for _ in range(10):
            model(images)
    return norms.convert(model.eval(), kind).eval(), sv.FeatureFidelity(images, batch_size=1), images


if __name__ == "__main__":
    main()
