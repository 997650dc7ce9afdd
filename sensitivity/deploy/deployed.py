"""A deployed model: called like the model, with what was exported of it run by an engine."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sensitivity.contracts import Engine
from sensitivity.deploy.bundle.write import PartToSave, ToSave, name_rows, write_bundle
from sensitivity.deploy.doctor.saturation import can_saturate, saturates_here
from sensitivity.deploy.engine_module import DeployedPart, with_engines
from sensitivity.deploy.engines.registry import EngineKind, builds_in_half, is_registered
from sensitivity.deploy.executed import run_profiled
from sensitivity.deploy.graph.export.parts import Attempt
from sensitivity.deploy.prepare.plan import Plan
from sensitivity.errors import DisagreementWarning, EngineError
from sensitivity.records import Scheme
from sensitivity.records.arguments import checked
from sensitivity.records.results.verification import OutputCheck, VerificationRecord

if TYPE_CHECKING:
    import pandas as pd


class Deployed:
    """A model with what was exported of it run by an engine, called like the model itself.

    Other attributes are those of a copy of the model in which the exported parts are replaced, so that a model with
    methods of its own (``encode``, ``predict_masks``) still has them.

    Attributes:
        plan: What was deployed.
        parts: The exported submodules with their engines.
        attempts: What could not be exported, with the reasons.
        build: Makes an engine of the same kind of another graph of a part; also for another plan, if that is given.
        kind: Entry of the engine in the registry.
        name: Name of the engine.
        settings: The engine's own settings that it was built with.
        on_example: Each output for the example inputs against the simulation's, as it was deployed; empty for the
            simulation.
        disagreement: The one of these that is furthest from what rounding explains; None where there is none.
        verification: What ``wrapped.verify`` found last; None before it was called.
    """

    def __init__(
        self,
        plan: Plan,
        parts: Iterable[DeployedPart],
        attempts: Iterable[Attempt],
        build: Callable[..., Engine],
        kind: EngineKind,
        *,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.plan = plan
        self.build = build
        self.kind = kind
        self.settings = dict(settings or {})
        self.on_example: tuple[OutputCheck, ...] = ()
        self.disagreement: OutputCheck | None = None
        self.verification: VerificationRecord | None = None
        self.parts = tuple(parts)
        self.attempts = tuple(attempts)
        self.name = self.parts[0].engine.name
        self._model = with_engines(plan.model, self.parts)

    def in_fp32(self) -> Deployed:
        """The same engines, with non-quantized layers in fp32 for all that is simulated or built from now on."""
        plan = self.plan.in_fp32()
        return Deployed(
            plan, self.parts, self.attempts, partial(self.build, as_planned=plan), self.kind, settings=self.settings
        )

    @property
    def scheme(self) -> Scheme:
        """What was asked for; ``plan.left_out`` says what of it was not done."""
        return self.plan.scheme

    @functools.cached_property
    def saturating(self) -> tuple[str, ...]:
        """Layers whose sums of 8-bit products can be cut off by this engine on this machine, in execution order.

        Empty where the engine adds in full, which is tried on one convolution, once in a process, and where all weights
        have 7 bits. A function that makes an engine is not tried: it is called with the model's graphs alone.
        """
        if not is_registered(self.kind):
            return ()
        wide = tuple(layer.name for layer in self.plan.quantized if can_saturate(self.plan, layer))
        return wide if wide and saturates_here(self.kind) else ()

    @property
    def engines(self) -> tuple[Engine, ...]:
        """The engines, one for each part."""
        return tuple(part.engine for part in self.parts)

    @property
    def engine(self) -> Engine:
        """The engine.

        Raises:
            EngineError: If there are several.
        """
        if len(self.parts) != 1:
            raise EngineError(f"this model runs on {len(self.parts)} engines, one for each part: see .engines.")
        return self.parts[0].engine

    @checked(EngineError)
    def save(
        self, folder: str | Path, *, verification: VerificationRecord | None = None, licence: str | None = None
    ) -> tuple[Path, ...]:
        """Write all that is needed to run this elsewhere, and what it was made of; ``sv.load_deployment`` reads it.

        The folder gets the ONNX graphs, the built engines where the engine keeps files (``wrapped.deploy(...,
        load=folder)`` then builds nothing), the scheme, the calibration, a table of names (torch module, ONNX node,
        engine), versions, the hash of every file, and a card, ``README.md``.

        Args:
            folder: Where; made if it is missing.
            verification: What ``wrapped.verify`` returned for this deployment, for the card.
            licence: Licence of the weights, for the card.

        Returns:
            The files.

        Raises:
            EngineError: If this is the simulation, which no file holds, the licence is blank, or a file cannot be
                written.
        """
        if self.kind.is_simulation:
            raise EngineError(f"{self.name!r} is the simulation: it runs the model, and no file holds it.")
        if licence is not None and not licence.strip():
            raise EngineError(
                f"licence={licence!r} is blank. Give the licence of the weights, e.g. licence='Apache-2.0', or leave "
                "it out if you do not know it."
            )
        keyword = self.plan.scheme.rest != "fp32" and not self.kind.capabilities.runs_written_types
        settings = self.settings | ({"rest": self.plan.scheme.rest} if keyword else {})
        deployment = ToSave(
            self.plan,
            self.kind.name,
            self._parts_to_save(),
            self.parts[0].io,
            builds_in_half(self.kind, self.plan.scheme),
            settings,
            verification,
            "" if verification is None else str(verification),
            licence,
        )
        return write_bundle(Path(folder), deployment)

    @property
    def export_log(self) -> str:
        """What the exporters printed and warned of, those that failed first; empty where they printed nothing."""
        spoke = [(attempt.part, attempt.exporter, attempt.printed) for attempt in self.attempts]
        spoke += [(part.path, part.part.exporter, part.part.printed) for part in self.parts]
        return "\n".join(
            f"{path or 'the whole model'} ({exporter}):\n{printed.rstrip()}"
            for path, exporter, printed in spoke
            if printed
        )

    def names(self) -> pd.DataFrame:
        """One row for each node of a layer: layer, torch module, part, ONNX node, engine's name, precision, recipe.

        The engine's name is empty where the engine does not tell what became of a node.
        """
        import pandas as pd

        return pd.DataFrame(name_rows(self.plan, self._parts_to_save()))

    def _parts_to_save(self) -> tuple[PartToSave, ...]:
        return tuple(PartToSave(part.path, part.graph, part.engine, part.qdq.nodes) for part in self.parts)

    @checked(EngineError)
    def profile(self, *, repeats: int = 20) -> dict[str, float]:
        """Seconds that each layer takes on the engine, by layer name, on the inputs it was exported with.

        An operation that runs several layers counts for each of them in equal shares. An engine that waits between
        layers while it profiles takes longer in all than one run does.

        Args:
            repeats: Runs that are timed, where the engine has a profiler of its own.

        Raises:
            EngineError: If the engine does not tell the time of single layers, or ``repeats`` is not positive.
        """
        if repeats < 1:
            raise EngineError(f"repeats={repeats}: it must be 1 or more.")
        seconds: dict[str, float] = defaultdict(float)
        for part in self.parts:
            arrays = part.arrays_of(part.part.example)
            executed = run_profiled(part.engine, arrays, part.qdq.nodes, repeats=repeats)
            for layer, own_seconds in executed.seconds().items():
                seconds[layer] += own_seconds
        return dict(seconds)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the model returns for these arguments.

        Raises:
            EngineError: If the arguments are not of the form and size that was exported.
        """
        with torch.no_grad():
            return self._model(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_model" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.__dict__["_model"], name)

    @property
    def _seen_quantized(self) -> str:
        """How many of the planned layers the engine ran as planned, where that was looked at."""
        if self.verification is None:
            return "not verified yet"
        checks = [check for check in self.verification.layers if check.layer in self.plan.recipes]
        untold = sum(check.executed is None for check in checks)
        text = f"verify saw {sum(check.executed == check.planned for check in checks)} of them do so"
        return f"{text}, and the engine tells nothing of {untold}" if untold else text

    def __repr__(self) -> str:
        part_paths = ", ".join(part.path or "the whole model" for part in self.parts)
        lines = [
            f"Deployed({self.plan.layers.model} on {self.name}: {part_paths}; {len(self.plan.recipes)} of "
            f"{len(self.plan.layers)} layers planned to run quantized; {self._seen_quantized})"
        ]
        lines += [f"left in float: {name}: {reason}" for name, reason in self.plan.left_out.items()]
        lines += [f"not exported: {attempt}" for attempt in self.attempts]
        trouble = describe_trouble(self)
        lines += [f"{trouble.text} {trouble.python}"] if trouble is not None else []
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why an engine computes something else than was simulated, or can, and what to do, for people.

    Attributes:
        category: Class of the warning.
        text: What is wrong, and how far off the outputs are.
        python: What to do, in Python.
        shell: What to do, on the command line.
    """

    category: type[Warning]
    text: str
    python: str
    shell: str


def describe_trouble(deployed: Deployed) -> Trouble | None:
    """What people must know before they rely on this engine, with its cause if that is known; None if all is well."""
    wrong, name = deployed.disagreement, deployed.name
    if deployed.saturating:
        text = (
            f"on this machine large sums of 8-bit products saturate in {name}: {len(deployed.saturating)} of "
            f"{len(deployed.plan.layers)} layers can compute something else than was simulated.{_measured(wrong)} "
            "Quantize with weights in 7 bits:"
        )
        shell = 'a --recipe file whose weights have "format": "int7".'
        return Trouble(UserWarning, text, f"sv.recipe_for({name!r}).", shell)
    if wrong is None:
        return None
    text = (
        f"{name} computes something else than was simulated.{_measured(wrong)} Rounding does not explain that. Do not "
        "rely on this engine before you know why:"
    )
    names_layers = "names the layers that disagree."
    return Trouble(
        DisagreementWarning, text, f"wrapped.verify(deployed) {names_layers}", f"`sensitivity verify` {names_layers}"
    )


def _measured(check: OutputCheck | None) -> str:
    if check is None:
        return ""
    return (
        f" For the example inputs {check.described} agrees with the simulation to {check.sqnr_db:.1f} dB, and the "
        f"simulation with float to {check.simulation_sqnr_db:.1f} dB."
    )
