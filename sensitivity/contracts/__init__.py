"""What outsiders may bring: a task, a store, an executor, an engine, an observer, a connector."""

from sensitivity.contracts.connector import Connected, Connector, Prompts, Purpose
from sensitivity.contracts.engine import (
    Engine,
    EngineCapabilities,
    EngineLayer,
    FormatChange,
    ProfilesLayers,
    RunsGraph,
    SavesItself,
)
from sensitivity.contracts.observer import Observer, RangesRows
from sensitivity.contracts.sweep import Executor, SharesOnce, Store
from sensitivity.contracts.task import (
    Batch,
    Condenses,
    LeavesOut,
    LooksAtPredictions,
    MeanOfInstances,
    MeanOverKinds,
    NeedsReference,
    ScoresPart,
    Seen,
    ShownImage,
    ShowsImages,
    StaysInProcess,
    Task,
)

__all__ = [
    "Batch",
    "Condenses",
    "Connected",
    "Connector",
    "Engine",
    "EngineCapabilities",
    "EngineLayer",
    "Executor",
    "FormatChange",
    "LeavesOut",
    "LooksAtPredictions",
    "MeanOfInstances",
    "MeanOverKinds",
    "NeedsReference",
    "Observer",
    "ProfilesLayers",
    "Prompts",
    "Purpose",
    "RangesRows",
    "RunsGraph",
    "SavesItself",
    "ScoresPart",
    "Seen",
    "SharesOnce",
    "ShownImage",
    "ShowsImages",
    "StaysInProcess",
    "Store",
    "Task",
]
