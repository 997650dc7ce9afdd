"""timm: a ResNet with random weights. For trained ones: ``timm.create_model(name, pretrained=True)``."""

import sys

import timm

import sensitivity as sv

connected = sv.connect(timm.create_model("resnet10t", pretrained=False, num_classes=4))
wrapped = sv.wrap(connected.model, connected.example_inputs)
task = connected.task(*sys.argv[1:])
study = wrapped.analyze(task, sv.INT8, layers="@stem", calibration=task)
print(study.table().dropna(subset="score")[["name", "status", "score", "drop"]])
