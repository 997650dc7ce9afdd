"""torchvision: LR-ASPP with random weights.

For trained ones: ``weights="DEFAULT"`` in the place of both ``None``, and
``sv.connect(model, weights=LRASPP_MobileNet_V3_Large_Weights.DEFAULT)``, which knows the names of the classes.
"""

import sys

from torchvision.models.segmentation import lraspp_mobilenet_v3_large

import sensitivity as sv

connected = sv.connect(lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3))
wrapped = sv.wrap(connected.model, connected.example_inputs)
task = connected.task(*sys.argv[1:], limit=2, classes=("dark", "grey", "bright"))
study = wrapped.analyze(task, sv.INT8, layers="@stem", calibration=task)
print(study.table().dropna(subset="score")[["name", "status", "score", "drop"]])
