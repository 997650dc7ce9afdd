"""What is tried with one model, step by step; a step that fails is a cell with its reason, and the others go on."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

import sensitivity as sv
from tests.matrix.entries import Entry, Subject
from tests.matrix.outputs import OutputBits

SWEPT = 4
"""Layers that are swept in each model."""


@dataclass
class Row:
    """What was found out about a model; None where it was not tried.

    Attributes:
        family: Where it comes from.
        name: Its name there.
        layers: Layers that were found.
        called: Convolutions and linear layers that ran in the example pass, by a count that is not ours.
        missed: How many of them are no layer.
        unique: Whether all names differ.
        swept: Layers that were measured, of ``SWEPT``.
        replay_equal: Whether a sweep without replay gave the same bits.
        finite: Whether the whole model in int8 gives finite outputs.
        deployed: Layers that the engine's graph holds quantized.
        verified: Layers of these whose codes on the engine agree with the simulation.
        seconds: All of it.
        gigabytes: Largest memory of the process.
        reasons: Step to the reason why it failed.
    """

    family: str
    name: str
    layers: int | None = None
    called: int | None = None
    missed: int | None = None
    unique: bool | None = None
    swept: int | None = None
    replay_equal: bool | None = None
    finite: bool | None = None
    deployed: int | None = None
    verified: int | None = None
    seconds: float = 0.0
    gigabytes: float = 0.0
    reasons: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As a plain dict."""
        return asdict(self)


def attempt(entry: Entry, report: Callable[[Row], None], *, deploy: bool = True) -> Row:
    """Try everything with one model.

    Args:
        entry: The model.
        report: Called after every step, so that what was found is known also where the next step ends the process.
        deploy: Whether it is deployed and verified, too.
    """
    row = Row(entry.family, entry.name)
    started = time.perf_counter()
    for step in _steps(entry, row, deploy=deploy):
        try:
            step()
        except Exception as error:  # noqa: BLE001 - whatever a model does wrong belongs into its row
            row.reasons[step.__name__] = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            if step.__name__ in ("made", "wrapped"):
                break
        finally:
            row.seconds = round(time.perf_counter() - started, 1)
            row.gigabytes = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
            report(row)
    return row


def _steps(entry: Entry, row: Row, *, deploy: bool) -> Iterator[Callable[[], None]]:
    built: dict[str, Any] = {}
    recipe = sv.recipe_for("openvino") if deploy else sv.INT8

    def made() -> None:
        built["subject"] = entry.make()

    def wrapped() -> None:
        subject: Subject = built["subject"]
        called = modules_that_run(subject.model, subject.inputs[0])
        layers = built["wrapped"] = sv.wrap(subject.model, subject.inputs[0], name=entry.name)
        names = [layer.name for layer in layers.layers]
        row.layers, row.called, row.unique = len(names), len(called), len(set(names)) == len(names)
        row.missed = len(called - {layer.module for layer in layers.layers})
        if row.missed:
            row.reasons["layers"] = f"no layer: {sorted(called - {layer.module for layer in layers.layers})[0]}"

    def swept() -> None:
        names = [layer.name for layer in built["wrapped"].layers]
        chosen = [names[round(place * (len(names) - 1) / (SWEPT - 1))] for place in range(SWEPT)]
        chosen = list(dict.fromkeys(chosen))
        task = OutputBits(built["subject"].inputs[:2])
        studies = [
            built["wrapped"].analyze(
                task, sv.INT8_WEIGHTS, layers=chosen, intervals=False, workers=None, replay=replay, progress=False
            )
            for replay in (True, False)
        ]
        kinds = [
            [(measurement.layer, measurement.status, measurement.score) for measurement in study.measurements]
            for study in studies
        ]
        row.swept = sum(measurement.status == "measured" for measurement in studies[0].measurements)
        row.replay_equal = kinds[0] == kinds[1]
        failed = [measurement for measurement in studies[0].measurements if measurement.status != "measured"]
        if failed:
            row.reasons["swept"] = f"{failed[0].layer}: {failed[0].reason}"[:300]

    def quantized() -> None:
        task = OutputBits(built["subject"].inputs[:1])
        calibration = built["wrapped"].calibrate(list(built["subject"].inputs), recipe, progress=False)
        score = built["wrapped"].evaluate(task, sv.Scheme.all(recipe), calibration=calibration)
        row.finite = score.metrics["finite"] == 1

    def deployed() -> None:
        built["deployed"] = built["wrapped"].deploy(sv.Scheme.all(recipe), "openvino", parts=built["subject"].parts)
        plan = built["deployed"].plan
        row.deployed = len(plan.quantized)
        if plan.left_out:
            name, reason = next(iter(plan.left_out.items()))
            row.reasons["deployed"] = f"{len(plan.left_out)} in float; {name}: {reason}"[:300]

    def verified() -> None:
        if "deployed" not in built:
            return
        verification = built["wrapped"].verify(built["deployed"], progress=False)
        row.verified = sum(check.status == "verified" for check in verification.layers)
        others = [check for check in verification.layers if check.status not in ("verified", "not quantized")]
        if others:
            row.reasons["verified"] = f"{others[0].layer}: {others[0].status}"[:300]

    yield from (made, wrapped, swept, quantized)
    if deploy:
        yield from (deployed, verified)


def modules_that_run(model: nn.Module, inputs: Any) -> set[str]:
    """Paths of the convolutions and linear layers that a forward pass calls, counted by hooks of our own."""
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    called: set[str] = set()
    paths = {module: path for path, module in model.named_modules() if isinstance(module, kinds)}
    hooks = [module.register_forward_hook(lambda ran, *_: called.add(paths[ran])) for module in paths]
    try:
        with torch.no_grad():
            model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return called
