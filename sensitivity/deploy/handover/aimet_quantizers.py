"""AIMET: a simulation that quantizes nothing by its configuration, and a quantizer for each layer of the scheme."""

from __future__ import annotations

from sensitivity.deploy.handover.handed import Handover
from sensitivity.deploy.handover.module_quantizers import quantizers_of_layers
from sensitivity.deploy.handover.placed import Placed

TOOL = "AIMET"
_NOTHING = {
    "defaults": {
        "ops": {},
        "params": {},
        "strict_symmetric": "False",
        "unsigned_symmetric": "False",
        "per_channel_quantization": "True",
    },
    "params": {},
    "op_type": {},
    "supergroups": [],
    "model_input": {},
    "model_output": {},
}
_CODE = """\
import json
import tempfile

from aimet_torch.quantization import affine
from aimet_torch.quantsim import QuantizationSimModel

with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
    json.dump(settings["config"], file)
    file.flush()
    simulation = QuantizationSimModel(model, batches[0], config_file=file.name)
for path, layer in settings["layers"].items():
    module = simulation.model.get_submodule(path)
    if layer["input"] is not None:
        module.input_quantizers[0] = affine.QuantizeDequantize(
            (), bitwidth=layer["input"]["bits"], symmetric=layer["input"]["symmetric"]
        )
    if layer["weight"] is not None:
        axis = layer["weight"]["axis"]
        shape = [size if axis == place else 1 for place, size in enumerate(module.weight.shape)]
        module.param_quantizers["weight"] = affine.QuantizeDequantize(
            shape if axis is not None else (), bitwidth=layer["weight"]["bits"], symmetric=True
        )
simulation.compute_encodings(lambda model: [model(batch) for batch in batches])"""


def handed_over(placed: Placed) -> Handover:
    """The scheme as a configuration that quantizes nothing and the quantizers to add.

    Raises:
        RecipeError: If AIMET cannot do what a recipe says, or the scheme quantizes nothing.
    """
    return Handover.of(
        placed,
        "aimet",
        {"config": _NOTHING, "layers": quantizers_of_layers(placed, TOOL)},
        _CODE,
        (
            "AIMET calibrates by itself: the ranges are not those of this library's calibration.",
            "AIMET's symmetric weights use the code -128 as well, which the recipes of this library leave out.",
            "AIMET folds no batch norm unless it is asked to: fold_all_batch_norms does, and changes the model.",
        ),
    )
