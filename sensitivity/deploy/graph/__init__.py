"""The model as ONNX, with Q/DQ where the plan quantizes."""
