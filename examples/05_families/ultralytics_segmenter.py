"""ultralytics: YOLO11 for instances with random weights. For trained ones: ``YOLO("yolo11n-seg.pt")``."""

import sys

from ultralytics import YOLO

import sensitivity as sv

connected = sv.connect(YOLO("yolo11n-seg.yaml"), image_size=320)
wrapped = sv.wrap(connected.model, connected.example_inputs)
task = connected.task(*sys.argv[1:], limit=2)
study = wrapped.analyze(task, sv.INT8, layers="@stem", calibration=task)
print(study.table().dropna(subset="score")[["name", "status", "score", "drop"]])
