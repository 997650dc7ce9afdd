"""Arguments and options that several commands take: each is declared once, with its type and its help."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Literal

from sensitivity.cli.recipes import HELP, recipe
from sensitivity.deploy.engines.registry import engine_names

FORM = "package.module:callable or path.py:callable"
DATASET = "dataset:IMAGES[:LABELS]"
PICTURES = (".png", ".svg", ".pdf")
SIZES = {"": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def add_model(parser: argparse.ArgumentParser, *, device: bool = True) -> None:
    """Add MODEL, and the options that say how it is made: --input, --connector, --random-weights, --device."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help=f"{FORM} that returns a torch module, or (module, example inputs); or FAMILY:NAME, such as "
        "torchvision:resnet50, ultralytics:yolo11n.pt or timm:vit_tiny_patch16_224",
    )
    parser.add_argument(
        "--input",
        action="append",
        type=shape,
        metavar="1x3x224x224",
        help="shape of an example input, where MODEL returns none; once for each input",
    )
    parser.add_argument(
        "--connector",
        metavar="FAMILY",
        help="the family that MODEL's network belongs to, where its class does not tell: how images are prepared",
    )
    parser.add_argument(
        "--random-weights",
        action="store_true",
        help="of FAMILY:NAME, take the architecture without its trained weights, which may have to be downloaded",
    )
    if device:
        parser.add_argument(
            "--device", metavar="DEVICE", help="run MODEL there: cpu, cuda, cuda:1 ... (default: as made)"
        )


def add_task(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """Add TASK and --limit."""
    without = "; without one no metric" if optional else ""
    parser.add_argument(
        "task",
        nargs="?" if optional else None,
        metavar="TASK",
        help=f"{FORM} that returns a task: data and metric; or {DATASET}, files that a network of a known family is "
        f"scored on{without}",
    )
    parser.add_argument("--limit", type=count, metavar="N", help="use the first N images of TASK alone")


def add_calibration(parser: argparse.ArgumentParser) -> None:
    """Add --calibration."""
    parser.add_argument(
        "--calibration",
        metavar="IMAGES",
        help=f"{FORM} that returns preprocessed images, or a task to take them from; or {DATASET}: needed where "
        "activations are quantized",
    )


def add_layers(parser: argparse.ArgumentParser) -> None:
    """Add --layers."""
    parser.add_argument("--layers", action="append", metavar="PATTERN", help="only these layers, e.g. 'stage3:*:*'")


def add_recipes(parser: argparse.ArgumentParser, purpose: str, default: str) -> None:
    """Add --recipe, which may be given again."""
    parser.add_argument(
        "--recipe",
        action="append",
        type=recipe,
        metavar="RECIPE",
        help=f"{purpose}{HELP}; may be given again (default: {default})",
    )


def add_engine(parser: argparse.ArgumentParser, option: str, *, help: str, default: str | None = None) -> None:
    """Add an option that takes the name of an engine; ``models.check_engine`` looks at it when MODEL was imported."""
    parser.add_argument(option, metavar="ENGINE", default=default, help=f"{help}, or one that MODEL's module registers")


def add_tolerance(parser: argparse.ArgumentParser) -> None:
    """Add --tolerance."""
    parser.add_argument(
        "--tolerance",
        type=tolerance,
        metavar="POINTS",
        help="largest drop that does not matter, for the verdicts dip, harmless and undecided (default: that of the "
        "study, else 0.1 points of a metric in %%)",
    )


def add_stop(parser: argparse.ArgumentParser, help: str) -> None:
    """Add --stop."""
    parser.add_argument("--stop", action="store_true", help=help)


def add_store(parser: argparse.ArgumentParser) -> None:
    """Add --store."""
    parser.add_argument("--store", type=Path, metavar="FILE", help="keep every result here, and go on from it")


def add_workers(parser: argparse.ArgumentParser, *, default: Literal["auto"] | None) -> None:
    """Add --workers."""
    usual = "auto, every core where that is faster" if default else "in this one"
    parser.add_argument(
        "--workers", type=workers, default=default, metavar="N", help=f"run in N processes (default: {usual})"
    )


def add_file(
    parser: argparse.ArgumentParser, option: str, default: str, content: str, *, metavar: str = "FILE"
) -> None:
    """Add an option that says where a file is written, by default under this name in the current folder."""
    parser.add_argument(
        option, type=Path, default=Path(default), metavar=metavar, help=f"{content} (default: %(default)s)"
    )


def add_picture(parser: argparse.ArgumentParser, option: str, content: str, default: str | None = None) -> None:
    """Add an option that says where a picture is drawn; another ending than a picture's is a wrong command line."""
    usual = "" if default is None else " (default: %(default)s)"
    parser.add_argument(
        option,
        type=picture,
        default=None if default is None else Path(default),
        metavar="FILE",
        help=f"{content}; {', '.join(PICTURES[:-1])} or {PICTURES[-1]}{usual}",
    )


def add_table(parser: argparse.ArgumentParser, row: str) -> None:
    """Add --table, a file with a row for each of what is named."""
    parser.add_argument("--table", type=Path, metavar="FILE.csv", help=f"write every {row} as a row")


def add_imports(parser: argparse.ArgumentParser) -> None:
    """Add --import, for commands without a MODEL, whose module would register what is the user's own."""
    parser.add_argument(
        "--import",
        dest="modules",
        action="append",
        default=[],
        metavar="MODULE",
        help="package.module or path.py that registers engines, observers or number formats of your own; once for each",
    )


def add_json(parser: argparse.ArgumentParser, contents: str) -> None:
    """Add --json."""
    parser.add_argument("--json", action="store_true", help=f"print JSON: {contents}")


def add_sweep(parser: argparse.ArgumentParser) -> None:
    """Add MODEL, TASK, and the options that say what a sweep measures."""
    add_model(parser)
    add_task(parser)
    add_calibration(parser)
    add_recipes(parser, "", "int8")
    add_layers(parser)
    add_stop(parser, "give a layer no more images once its drop is decided; needs --tolerance")
    add_tolerance(parser)
    parser.add_argument("--no-intervals", action="store_true", help="score every layer once, without an interval")


def add_scheme(parser: argparse.ArgumentParser) -> None:
    """Add MODEL, SCHEME.json, --engine, --parts and --calibration."""
    add_model(parser, device=False)
    parser.add_argument("scheme", type=Path, metavar="SCHEME.json", help="what protect or tune wrote")
    add_engine(parser, "--engine", default="openvino", help=f"{', '.join(engine_names())} (default: %(default)s)")
    parser.add_argument(
        "--parts",
        nargs="+",
        action="extend",
        metavar="PATH",
        help="submodules that the engine runs, e.g. image_encoder; the others stay in PyTorch (default: the whole "
        "model, or what of it can be exported)",
    )
    add_calibration(parser)


def shape(text: str) -> tuple[int, ...]:
    """``1x3x224x224`` as numbers; commas are taken as well."""
    sizes = text.replace(",", "x").split("x")
    if not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise argparse.ArgumentTypeError(f"{text!r} is no shape like 1x3x224x224")
    return tuple(int(size) for size in sizes)


def picture(text: str) -> Path:
    """A file that a picture can be drawn into, by its ending: told before long work, not after it."""
    path = Path(text)
    if path.suffix.lower() not in PICTURES and not path.is_dir():  # a folder has a message of its own
        raise argparse.ArgumentTypeError(f"{text!r} is no picture: give a path that ends in {', '.join(PICTURES)}")
    return path


def count(text: str) -> int:
    """A number from 1 on."""
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def workers(text: str) -> int | Literal["auto"]:
    """A number of processes, or ``auto``."""
    if text == "auto":
        return "auto"
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of processes from 1 on, nor auto")
    return int(text)


def tolerance(text: str) -> float:
    """A drop that does not matter."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0.0):
        raise argparse.ArgumentTypeError(f"{text!r} is no drop like 0.5, in points where the metric is in %")
    return value


def time_above_zero(text: str) -> float:
    """A time above zero, in the unit of the option."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0.0):
        raise argparse.ArgumentTypeError(f"{text!r} is no time above zero")
    return value


def size(text: str) -> int:
    """Bytes, with an optional KiB, MiB or GiB behind the number."""
    unit = text.lstrip("0123456789.")
    try:
        return int(float(text.removesuffix(unit)) * SIZES[unit.strip()])
    except (ValueError, KeyError):
        raise argparse.ArgumentTypeError(f"{text!r} is no size like 300000, 800KiB or 20MiB") from None
