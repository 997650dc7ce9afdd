"""Whether what is to be verified was made of this model, with the weights that it has now."""

from __future__ import annotations

from torch import nn

from sensitivity.deploy.deployed import Deployed
from sensitivity.errors import EngineError, StudyError
from sensitivity.layers.table import LayerTable
from sensitivity.records import StudyRecord
from sensitivity.weights import modules_digest, weights_digest


def check_deployed(deployed: object, model: nn.Module, name: str) -> None:
    """Refuse what was not deployed of a model as it is now.

    Args:
        deployed: What ``deploy`` returned.
        model: The model.
        name: Its name, for the message.

    Raises:
        EngineError: If it is something else, or was made of other weights or modules.
    """
    if not isinstance(deployed, Deployed):
        raise EngineError(
            f"verify() takes what wrapped.deploy(scheme, engine) returned, not {type(deployed).__name__}: "
            f"deployed={deployed!r:.80}."
        )
    if deployed.plan.basis.digest != weights_digest(model):
        raise EngineError(
            f"{deployed.plan.layers.model} on {deployed.name} was not made of {name} as it is now: its weights are "
            "others. Deploy again, and verify that."
        )
    if deployed.plan.basis.modules != modules_digest(model):
        raise EngineError(
            f"{deployed.plan.layers.model} on {deployed.name} was not made of {name} as it is now: its modules are "
            "others. Wrap it again, deploy, and verify that."
        )


def check_study(study: StudyRecord, model: nn.Module, layers: LayerTable) -> None:
    """Refuse a study of other layers or other weights than a model has now.

    Raises:
        StudyError: If it is one.
    """
    if [layer.name for layer in study.layers] != layers.names:
        raise StudyError(f"the study is of {study.model}, whose layers are not those of {layers.model}.")
    measured, current = study.info.weights, weights_digest(model)
    if measured not in (None, current):
        raise StudyError(
            f"the study was made with other weights or buffers (digest {measured}) than {layers.model} has now "
            f"({current}). Load those, or analyze the model as it is."
        )
