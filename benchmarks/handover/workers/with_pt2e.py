"""PyTorch 2 export quantization, of torchao."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from job import Job, answer


def work(job: Job) -> tuple[list[str], str]:
    from nets import batches, net

    quantized = job.pasted(model=net(job.net), batches=batches(job.net))["quantized"]
    layers = []
    for node in quantized.graph.nodes:
        products = getattr(node.target, "_opname", "").startswith(("conv", "linear"))
        if products and all(_is_dequantized(source) for source in node.args[:2]):
            stack = [entry[0] for entry in (node.meta.get("nn_module_stack") or {}).values()]
            layers.append(stack[-1].removeprefix("L['self']").strip(".").split("@")[0])
    return layers, version("torchao")


def _is_dequantized(node: Any) -> bool:
    return "dequantize" in str(getattr(node, "target", ""))


if __name__ == "__main__":
    answer(work)
