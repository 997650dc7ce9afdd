"""What runs a graph: OpenVINO, ONNX Runtime, TensorRT, and the simulation in torch."""
