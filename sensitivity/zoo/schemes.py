"""The mixed-precision schemes of the thesis for EfficientViT-SAM, by name.

Source: Bengtsson, "Simulated Quantization of EfficientViT-SAM" (repository joelbengs/Simulated-Quantization-of-
EfficientViT-SAM), whose published lists of layers kept in FP16 these select.
"""

from __future__ import annotations

from collections.abc import Mapping

from sensitivity.errors import RecipeError
from sensitivity.quantize.recipes import INT8
from sensitivity.records import Recipe, Scheme

MBCONV = ("@kind=mb", "@kind=att & @role=expand", "@kind=att & @role=depthwise", "@kind=att & @role=exit")
MBCONV_DEPTHWISE = ("@kind=mb & @role=depthwise", "@kind=att & @role=depthwise")
MBCONV_EXIT = ("@kind=mb & @role=exit", "@kind=att & @role=exit")
NECK = ("neck:*:*",)

KEPT: Mapping[str, tuple[str, ...]] = {
    "full-int8": (),
    "mix-dwsc": (*MBCONV_DEPTHWISE, *MBCONV_EXIT),
    "mix-mbc-neck": (*MBCONV, *NECK),
}
"""What each scheme keeps in high precision. MBConvs inside attention blocks count as MBConvs."""


def thesis_scheme(name: str, recipe: Recipe = INT8) -> Scheme:
    """A scheme of the thesis.

    Args:
        name: ``full-int8``; ``mix-dwsc`` (depthwise and exit convolutions of MBConvs kept in high precision); or
            ``mix-mbc-neck`` (whole MBConvs and the neck kept).
        recipe: What the other layers get.

    Raises:
        RecipeError: If the name is unknown.
    """
    if name not in KEPT:
        raise RecipeError(f"no scheme {name!r} in the thesis. Choose one of: {', '.join(KEPT)}.")
    return Scheme.all(recipe).protect(KEPT[name])
