"""segmentation_models_pytorch: a U-Net with random weights.

For trained ones: ``smp.from_pretrained(folder)``, and the ``mean=`` and ``std=`` of
``smp.encoders.get_preprocessing_params(encoder)``.
"""

import sys

import segmentation_models_pytorch as smp

import sensitivity as sv

connected = sv.connect(smp.Unet("resnet18", encoder_weights=None, classes=3), image_size=128, classes=("a", "b", "c"))
wrapped = sv.wrap(connected.model, connected.example_inputs)
task = connected.task(*sys.argv[1:], limit=2)
study = wrapped.analyze(task, sv.INT8, layers="@stem", calibration=task)
print(study.table().dropna(subset="score")[["name", "status", "score", "drop"]])
