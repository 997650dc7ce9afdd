"""torchvision: SSDlite with random weights. For trained ones: ``weights="DEFAULT"`` in the place of both ``None``."""

import sys

from torchvision.models.detection import ssdlite320_mobilenet_v3_large

import sensitivity as sv

connected = sv.connect(ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None))
wrapped = sv.wrap(connected.model, connected.example_inputs)
task = connected.task(*sys.argv[1:], limit=2)
study = wrapped.analyze(task, sv.INT8, layers="@stem", calibration=task)
print(study.table().dropna(subset="score")[["name", "status", "score", "drop"]])
