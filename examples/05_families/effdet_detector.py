"""effdet: EfficientDet-D0 with random weights.

For trained ones: ``create_model("tf_efficientdet_d0", pretrained=True)``.
"""

import sys

from effdet import create_model

import sensitivity as sv

connected = sv.connect(create_model("tf_efficientdet_d0", pretrained=False, pretrained_backbone=False))
wrapped = sv.wrap(connected.model, connected.example_inputs)
task = connected.task(*sys.argv[1:], limit=2)
study = wrapped.analyze(task, sv.INT8, layers="@stem", calibration=task)
print(study.table().dropna(subset="score")[["name", "status", "score", "drop"]])
