"""A search and a verification made by hand, no model behind them."""

from __future__ import annotations

from sensitivity.records import QuantSpec, Recipe, Scheme, Score
from sensitivity.records.results.tuned import EngineScore, Goal, Step, StepKind, TunedRecord
from sensitivity.records.results.verification import LayerCheck, LayerStatus, OutputCheck, VerificationRecord

INT8 = Recipe("INT8", weights=QuantSpec(granularity="per-channel"), activations=QuantSpec())
LAYERS = tuple(f"stage{stage}:0:{place}" for stage in range(5) for place in range(2))

TUNED = TunedRecord(
    model="TinyNet",
    task="generated scenes",
    metric="miou",
    unit="%",
    higher_is_better=True,
    layers=LAYERS,
    goal=Goal(max_drop=1.0),
    baseline=Score(0.785, {}, "miou", "%", 50),
    scheme=Scheme.all(INT8).protect("stage2:0:0"),
    score=Score(0.778, {}, "miou", "%", 50),
    drop=0.007,
    drop_low=0.004,
    drop_high=0.009,
    size_bytes=11_000,
    met=True,
    steps=(
        Step(StepKind.CANDIDATE, "INT8 for all layers", (), "INT8", 0.60, 0.185, 0.17, 0.20, 50, None, 8_000, 0, False),
        Step(
            StepKind.CANDIDATE, "int8-affine for all layers", (), "int8-affine", 0.71, 0.075, 0.06, 0.09, 50, 0.11,
            8_000, 0, False, True, 2.0,
        ),
        Step(StepKind.CURE, "bias correction", ("stage3:0:0",), "INT8", None, None, reason="NaN in the output"),
        Step(
            StepKind.PROTECT, "stage2:0:0 back in float", ("stage2:0:0",), "", 0.778, 0.007, 0.004, 0.009, 50, 0.068,
            11_000, 1, True, True, 1.5,
        ),
    ),
    engine=EngineScore("openvino", 0.777, 0.004, 0.008, 9),
    passes=6.5,
    seconds=12.0,
)  # fmt: skip

CHECKS = tuple(
    LayerCheck(
        name, f"net.{name}", "int8", "int8", LayerStatus.VERIFIED, time_s=1e-4 * (place + 1), codes=10_000,
        code_steps=int(place > 2), code_share=1e-5 * place if place > 2 else 0.0,
    )
    for place, name in enumerate(LAYERS[:8])
)  # fmt: skip
VERIFICATION = VerificationRecord(
    model="TinyNet",
    engine="openvino",
    layers=(
        *CHECKS,
        LayerCheck(LAYERS[8], "net.d", "int8", "int8", LayerStatus.DISAGREES, "other codes", 2e-4, 10_000, 9, 0.02),
        LayerCheck(LAYERS[9], "net.e", "fp32", "fp32", LayerStatus.IN_FLOAT),
    ),
    output_sqnr_db=30.0,
    simulation_sqnr_db=20.0,
    outputs=(OutputCheck("", 1000, 30.0, 20.0),),
    latency_int8_s=0.004,
    latency_fp32_s=0.008,
)
