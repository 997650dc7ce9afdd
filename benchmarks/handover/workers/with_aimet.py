"""AIMET's simulation of the torch module."""

from __future__ import annotations

from importlib.metadata import version

from job import Job, answer


def work(job: Job) -> tuple[list[str], str]:
    from nets import batches, net

    simulation = job.pasted(model=net(job.net), batches=batches(job.net))["simulation"]
    layers = []
    for path, module in simulation.model.named_modules():
        parameters, inputs = (getattr(module, f"{part}_quantizers", {}) for part in ("param", "input"))
        if not parameters or parameters["weight"] is None or inputs[0] is None:
            continue
        if parameters["weight"].is_initialized() and inputs[0].is_initialized():
            layers.append(path)
    return layers, version("aimet-torch")


if __name__ == "__main__":
    answer(work)
