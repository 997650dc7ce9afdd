"""What ``drive.py`` and the tests both know."""

MODEL = b"an ONNX model: the mock does not read it"
