r"""Six networks, int8, by this library and by its peers: same weights, same calibration images, same engine.

    python -m benchmarks.peers DATA --work FOLDER [--nets fastestdet ...] [--peers NNCF ...] [--views 20]

DATA holds ``weights/`` and ``tiny_coco/``. Each peer gets an environment of its own in FOLDER/environments, which is
made here. Ranges are measured on the 50 images of the train split; the score is that of random views of the 50 images
of the val split, 20 of each. All networks run on OpenVINO, on one thread, in fp32 where they are not quantized. A
network that OpenVINO computes wrongly is scored on ONNX Runtime, and its row says so. Where sums of 8-bit products
saturate on this CPU, such a network is scored on OpenVINO all the same; its row has the SQNR on both.

What was quantized, predicted and scored stays in FOLDER and is not computed again. Prints the table in Markdown. A peer
that fails has a row with its reason. So has one whose graph OpenVINO does not survive; that is scored on ONNX Runtime.
``CPU seconds`` are those from the float network to the quantized one, ``lines`` those of user code, counted by hand in
``workers/``.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from pathlib import Path

import torch

import sensitivity as sv
from benchmarks.peers.bench import OPENVINO, Bench
from benchmarks.peers.environments import PEERS
from benchmarks.peers.own_process import Row
from benchmarks.peers.rows import our_row, peer_row, table
from benchmarks.real_nets import real_nets
from sensitivity.deploy.doctor.saturation import saturates_here


def own_schemes(bench: Bench, *, saturates: bool) -> Iterator[tuple[str, Callable[[], tuple[sv.Wrapped, sv.Scheme]]]]:
    """What this library offers: name, and what makes the scheme and gives the network that it is for."""
    for name in ("INT8_MINMAX", "INT8", "INT8_AFFINE"):
        yield f"sensitivity {name}", partial(everywhere, bench, partial(getattr, sv, name))
    yield "sensitivity recipe_for", partial(everywhere, bench, partial(sv.recipe_for, "openvino"))
    if saturates:
        yield "sensitivity recipe_for, 8 bits depthwise", partial(eight_bits_depthwise, bench)
        yield "sensitivity recipe_for, compensated", partial(everywhere, bench, compensated)
    yield "sensitivity tune", partial(tuned, bench)


def everywhere(bench: Bench, recipe: Callable[[], sv.Recipe]) -> tuple[sv.Wrapped, sv.Scheme]:
    """One recipe for all layers."""
    return bench.wrapped, sv.Scheme.all(recipe())


def compensated() -> sv.Recipe:
    """Weights in 7 bits whose rounding is compensated, with corrected biases: what ``tune`` tries as well."""
    return sv.recipe_for("openvino").cured(rounding="compensated", bias_correction=True)


def eight_bits_depthwise(bench: Bench) -> tuple[sv.Wrapped, sv.Scheme]:
    """OpenVINO's depthwise convolutions do not saturate where others do: they may keep weights in 8 bits."""
    wrapped, scheme = everywhere(bench, partial(sv.recipe_for, "openvino"))
    return wrapped, scheme.quantize("@depthwise", sv.INT8_AFFINE)


def tuned(bench: Bench) -> tuple[sv.Wrapped, sv.Scheme]:
    """The scheme of ``tune`` for the target, scored on the val split itself, as NNCF's accuracy control is."""
    task = bench.net.split(bench.data, "val")
    target = 100 * bench.max_drop
    result = bench.wrapped.tune(task, max_drop=target, engine="openvino", calibration=bench.calibration)
    return bench.wrapped.equalized() if result.equalized else bench.wrapped, result.scheme


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="folder for environments and results")
    parser.add_argument("--nets", nargs="+", choices=real_nets(), default=list(real_nets()))
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument(
        "--without", nargs="*", default=[], help='ways to leave out, such as "AIMET AdaRound, 2000 steps"'
    )
    parser.add_argument("--views", type=int, default=20, help="of each image (default: %(default)s, 1,000 in all)")
    parser.add_argument("--max-drop", type=float, default=0.005, help="for ways with a target, a fraction")
    parser.add_argument(
        "--limit-s", type=int, default=3600, help="CPU seconds for one way of a peer (default: %(default)s)"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    saturates = bool(saturates_here("openvino"))
    rows = []
    for name in arguments.nets:
        bench = Bench(name, arguments.data, arguments.work, arguments.views, arguments.max_drop)
        bench.prepare()
        rows.append(bench.row("fp32", bench.float_file, {"seconds": 0.0, "lines": 0}))
        ways: list[tuple[str, Callable[[], Row]]] = [
            (label, partial(our_row, bench, label, make)) for label, make in own_schemes(bench, saturates=saturates)
        ]
        for peer in map(PEERS.__getitem__, arguments.peers):
            ways += [
                (f"{peer.name} {variant}", partial(peer_row, bench, peer, variant, arguments.limit_s))
                for variant in peer.ways(saturates=saturates)
            ]
        for label, make_row in ways:
            if label not in arguments.without:
                rows.append(make_row())
                print(table(rows[-1:]).splitlines()[-1], flush=True)
    print(f"\n{date.today()}, {platform.machine()} {cpu()}, one thread, {OPENVINO}\n")
    print(table(rows))


def cpu() -> str:
    """Who made the CPU, and the instructions that its int8 sums are made with."""
    file = Path("/proc/cpuinfo")
    if not file.exists():
        return platform.processor()
    lines = file.read_text(encoding="utf-8").splitlines()
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    known = [name for flag, name in (("vnni", "VNNI"), ("amx_int8", "AMX")) if flag in facts.get("flags", "")]
    return f"{facts.get('vendor_id', 'CPU')} with {' and '.join(known) or 'AVX2'}"


if __name__ == "__main__":
    main()
