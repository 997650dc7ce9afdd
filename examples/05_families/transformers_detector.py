"""transformers: YOLOS, small and with random weights.

For trained ones: ``AutoModelForObjectDetection.from_pretrained(name)`` and
``processor=AutoImageProcessor.from_pretrained(name)``.
"""

import sys

from transformers import YolosConfig, YolosForObjectDetection, YolosImageProcessor

import sensitivity as sv

model = YolosForObjectDetection(YolosConfig(hidden_size=32, num_attention_heads=2, intermediate_size=32, num_labels=90))
connected = sv.connect(model, processor=YolosImageProcessor(size={"height": 128, "width": 128}))
wrapped, task = sv.wrap(model, connected.example_inputs), connected.task(*sys.argv[1:], limit=2)
study = wrapped.analyze(task, sv.INT8, layers="@stem", calibration=task)
print(study.table().dropna(subset="score")[["name", "status", "score", "drop"]])
