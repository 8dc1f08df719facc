"""Grad-CAM: feature maps weighted with their mean gradient."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hgisam.weak.activations import OneStageActivation, StageActivation


class GradCam(OneStageActivation):
    """Gradient-weighted class activation map of one stage, of a CNN or of a Swin Transformer's tokens.

    Source: Selvaraju et al., Grad-CAM, ICCV 2017 (arXiv 1610.02391).
    """

    method: Literal["grad_cam"] = "grad_cam"
    """Tells this method from others."""

    def weighed(self, found: StageActivation) -> Float[Tensor, "batch rows cols"]:
        """As `grad_cam`."""
        return grad_cam(found)


def grad_cam(found: StageActivation) -> Float[Tensor, "batch rows cols"]:
    """L = ReLU(sum_k w_k A_k), with w_k the mean over places of dY/dA_k.

    Source: arXiv 1610.02391, equations 1 and 2.
    """
    weights = found.gradient.mean(dim=(2, 3))
    return torch.einsum("bk,bkrc->brc", weights, found.features).relu()
