"""NVIDIA ModelOpt's quantizers in the torch module."""

from __future__ import annotations

from importlib.metadata import version

from job import Job, answer


def work(job: Job) -> tuple[list[str], str]:
    from nets import batches, net

    quantized = job.pasted(model=net(job.net), batches=batches(job.net))["quantized"]
    layers = []
    for path, module in quantized.named_modules():
        quantizers = [getattr(module, name, None) for name in ("weight_quantizer", "input_quantizer")]
        if all(quantizer is not None and quantizer.is_enabled for quantizer in quantizers):
            layers.append(path)
    return layers, version("nvidia-modelopt")


if __name__ == "__main__":
    answer(work)
