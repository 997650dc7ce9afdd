"""Bias correction: the mean error of each output channel, taken out of the bias."""

from __future__ import annotations

import torch
from torch import Tensor

from sensitivity.quantize.cures.patches import Geometry, filters_of
from sensitivity.quantize.cures.statistics import InputStatistics


@torch.no_grad()
def bias_correction(weight: Tensor, quantized: Tensor, inputs: InputStatistics, geometry: Geometry) -> Tensor:
    """What has to be added to the bias so that quantization leaves the mean of every output channel as it was.

    The output is linear in the patches of its input, so the mean output with a weight ``W`` is ``W`` times the mean
    patch: the correction is ``W m - Q (m + e)``, with the mean patch ``m`` and the mean error ``e`` that quantizing the
    activations makes of it.

    Args:
        weight: The weight in float; not changed.
        quantized: What is multiplied instead, of the same shape.
        inputs: Statistics of the layer's own float inputs.
        geometry: How the layer slides over them.

    Returns:
        float64 (out channels,), on the weight's device.

    Source:
        Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction", section 4.2, with
        the mean of the inputs measured (its appendix D) and the error of the activations besides.
    """
    mean = torch.from_numpy(inputs.mean).to(weight.device)
    quantized_mean = mean if inputs.shift is None else mean + torch.from_numpy(inputs.shift).to(weight.device)
    before, after = (filters_of(tensor.double(), geometry) for tensor in (weight, quantized))
    correction = torch.einsum("gok,gk->go", before, mean) - torch.einsum("gok,gk->go", after, quantized_mean)
    return correction.flatten()
