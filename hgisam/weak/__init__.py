"""Weak-label methods: what learned from slice labels, or from nothing, tells where the blood is. One file per method.

A method with a network is its frozen options plus `check` and `stage_maps`, behind the interface `WeakLabeler`. To add
one: a file, a member of `WeakMethod`, and a YAML in configs/, with which the contract test takes it up.
"""

from typing import Annotated, Any

from pydantic import Discriminator, Tag

from hgisam.weak.grad_cam import GradCam
from hgisam.weak.grad_cam_plus_plus import GradCamPlusPlus
from hgisam.weak.hu_threshold import AT_CONTRAST, HuThreshold
from hgisam.weak.labeler import SaliencyMaps, WeakLabeler, frozen
from hgisam.weak.layer_cam import LayerCam
from hgisam.weak.rollout import GradientRollout
from hgisam.weak.self_attention import HGI_SAM, SWIN_SAM, SWIN_SAM_AS_PUBLISHED, SelfAttention


def _method(options: Any) -> str:
    """The method that settings name; HGI-SAM's where they name none."""
    default = "self_attention"
    return str(options.get("method", default) if isinstance(options, dict) else getattr(options, "method", default))


WeakMethod = Annotated[
    Annotated[SelfAttention, Tag("self_attention")]
    | Annotated[GradCam, Tag("grad_cam")]
    | Annotated[GradCamPlusPlus, Tag("grad_cam_plus_plus")]
    | Annotated[LayerCam, Tag("layer_cam")]
    | Annotated[GradientRollout, Tag("gradient_rollout")]
    | Annotated[HuThreshold, Tag("hu_threshold")],
    Discriminator(_method),
]
"""The options of any method, told apart by `method`."""

__all__ = [
    "AT_CONTRAST",
    "HGI_SAM",
    "SWIN_SAM",
    "SWIN_SAM_AS_PUBLISHED",
    "GradCam",
    "GradCamPlusPlus",
    "GradientRollout",
    "HuThreshold",
    "LayerCam",
    "SaliencyMaps",
    "SelfAttention",
    "WeakLabeler",
    "WeakMethod",
    "frozen",
]
