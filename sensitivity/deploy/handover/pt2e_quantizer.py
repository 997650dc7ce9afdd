"""PyTorch 2 export quantization (torchao): a ``Quantizer`` that annotates the nodes of the scheme's layers."""

from __future__ import annotations

from sensitivity.deploy.handover.handed import Handover
from sensitivity.deploy.handover.module_quantizers import quantizers_of_layers
from sensitivity.deploy.handover.placed import Placed

TOOL = "PT2E"
_CODE = '''\
import torch
from torchao.quantization.pt2e import MinMaxObserver, PerChannelMinMaxObserver
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, Quantizer


def spec_of(part):
    per_channel = part.get("axis") is not None
    kind = "per_channel" if per_channel else "per_tensor"
    scheme = getattr(torch, f"{kind}_{'symmetric' if part['symmetric'] else 'affine'}")
    observer = PerChannelMinMaxObserver if per_channel else MinMaxObserver
    return QuantizationSpec(
        dtype=getattr(torch, part["dtype"]),
        observer_or_fake_quant_ctr=observer.with_args(eps=2**-24),
        quant_min=part["smallest"],
        quant_max=part["largest"],
        qscheme=scheme,
        ch_axis=part.get("axis"),
    )


class SchemeQuantizer(Quantizer):
    """Annotates the input and the weight of the layers in the settings, and nothing else."""

    def annotate(self, model):
        for node in model.graph.nodes:
            stack = [entry[0] for entry in (node.meta.get("nn_module_stack") or {}).values()]
            path = stack[-1].removeprefix("L['self']").strip(".").split("@")[0] if stack else None
            operator = getattr(node.target, "_opname", "")
            if path in settings["layers"] and operator.startswith(("conv", "linear")):
                layer = settings["layers"][path]
                inputs = {node.args[0]: layer["input"], node.args[1]: layer["weight"]}
                specs = {source: spec_of(part) for source, part in inputs.items() if part is not None}
                node.meta["quantization_annotation"] = QuantizationAnnotation(specs, _annotated=True)
        return model

    def validate(self, model):
        pass


prepared = prepare_pt2e(torch.export.export(model, (batches[0],)).module(), SchemeQuantizer())
for batch in batches:
    prepared(batch)
quantized = convert_pt2e(prepared)'''


def handed_over(placed: Placed) -> Handover:
    """The scheme as annotations of the exported graph.

    Raises:
        RecipeError: If PT2E cannot do what a recipe says, or the scheme quantizes nothing.
    """
    return Handover.of(
        placed,
        "pt2e",
        {"layers": quantizers_of_layers(placed, TOOL)},
        _CODE,
        (
            "PT2E calibrates by itself: the ranges are not those of this library's calibration.",
            "PT2E folds a batch norm behind a convolution into it by itself.",
        ),
    )
