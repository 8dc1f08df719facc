"""Grad-CAM: feature maps weighted with their mean gradient."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from hgisam.attention import Combination
from hgisam.labels import Subtype
from hgisam.model.slice_classifier import SliceClassifier
from hgisam.weak.activations import StageActivation, check_stages, stage_activations
from hgisam.weak.labeler import WeakLabeler


class GradCam(WeakLabeler):
    """Gradient-weighted class activation map of one stage, of a CNN or of a Swin Transformer's tokens.

    Source: Selvaraju et al., Grad-CAM, ICCV 2017 (arXiv 1610.02391).
    """

    combination: ClassVar[Combination] = "maximum"

    method: Literal["grad_cam"] = "grad_cam"
    """Tells this method from others."""
    stage: int | None = Field(default=None, ge=1)
    """Stage (1-based) whose feature maps are weighted; none for the network's last, as published."""

    def check(self, model: SliceClassifier) -> None:
        """Any network with the stage will do."""
        check_stages(model, [self.stage or model.n_stages])

    def stage_maps(
        self,
        model: SliceClassifier,
        images: Float[Tensor, "batch channels height width"],
        target: Subtype = Subtype.ANY,
    ) -> tuple[Float[Tensor, " batch"], list[Float[Tensor, "batch _ _"]]]:
        """Log-odds of each image, and the map on the stage's own grid."""
        self.check(model)
        log_odds, (found,) = stage_activations(model, images, [self.stage or model.n_stages], target)
        return log_odds, [grad_cam(found)]


def grad_cam(found: StageActivation) -> Float[Tensor, "batch rows cols"]:
    """L = ReLU(sum_k w_k A_k), with w_k the mean over places of dY/dA_k.

    Source: arXiv 1610.02391, equations 1 and 2.
    """
    weights = found.gradient.mean(dim=(2, 3))
    return torch.einsum("bk,bkrc->brc", weights, found.features).relu()
