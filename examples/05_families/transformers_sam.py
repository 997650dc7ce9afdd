"""transformers: SAM, small and with random weights.

For trained ones: ``SamModel.from_pretrained(name)`` and ``processor=AutoProcessor.from_pretrained(name)``; the task
gives it the annotated boxes, or with ``prompts="points"`` clicks.
"""

import sys

from transformers import SamConfig, SamModel

import sensitivity as sv

vision = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_dim": 32}
connected = sv.connect(SamModel(SamConfig(vision_config=vision)))
wrapped, task = sv.wrap(connected.model, connected.example_inputs), connected.task(*sys.argv[1:], limit=1)
study = wrapped.analyze(task, sv.INT8, layers="vision_encoder.neck:*:*", calibration=task)
print(study.table().dropna(subset="score")[["name", "status", "score", "drop"]])
