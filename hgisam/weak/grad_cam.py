"""Grad-CAM: feature maps weighted with their mean gradient."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from hgisam.model.slice_classifier import SliceClassifier
from hgisam.weak.activations import ClassActivation, StageActivation


class GradCam(ClassActivation):
    """Gradient-weighted class activation map of one stage, of a CNN or of a Swin Transformer's tokens.

    Source: Selvaraju et al., Grad-CAM, ICCV 2017 (arXiv 1610.02391).
    """

    method: Literal["grad_cam"] = "grad_cam"
    """Tells this method from others."""
    stage: int | None = Field(default=None, ge=1)
    """Stage (1-based) whose feature maps are weighted; none for the network's last, as published."""

    def read_stages(self, model: SliceClassifier) -> Sequence[int]:
        """The one that the options name, or the network's last."""
        return [self.stage or model.n_stages]

    def weighed(self, found: StageActivation) -> Float[Tensor, "batch rows cols"]:
        """As `grad_cam`."""
        return grad_cam(found)


def grad_cam(found: StageActivation) -> Float[Tensor, "batch rows cols"]:
    """L = ReLU(sum_k w_k A_k), with w_k the mean over places of dY/dA_k.

    Source: arXiv 1610.02391, equations 1 and 2.
    """
    weights = found.gradient.mean(dim=(2, 3))
    return torch.einsum("bk,bkrc->brc", weights, found.features).relu()
