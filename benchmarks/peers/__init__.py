"""The same networks quantized by this library and by other tools, on one engine: ``python -m benchmarks.peers``."""
