"""Grad-CAM++: feature maps weighted with their positive gradients, each place by how much it matters alone."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hgisam.weak.activations import OneStageActivation, StageActivation

_VANISHES = 1e-6
"""A denominator that its two terms cancel to less than this share says nothing: its place gets no weight."""


class GradCamPlusPlus(OneStageActivation):
    """Grad-CAM++ of one stage, of a CNN or of a Swin Transformer's tokens: kinder to several lesions in one image.

    Source: Chattopadhyay et al., Grad-CAM++, WACV 2018 (arXiv 1710.11063).
    """

    method: Literal["grad_cam_plus_plus"] = "grad_cam_plus_plus"
    """Tells this method from others."""

    def weighed(self, found: StageActivation) -> Float[Tensor, "batch rows cols"]:
        """As `grad_cam_plus_plus`."""
        return grad_cam_plus_plus(found)


def grad_cam_plus_plus(found: StageActivation) -> Float[Tensor, "batch rows cols"]:
    """L = ReLU(sum_k w_k A_k), with w_k = sum_ij alpha_kij ReLU(g_kij) and g = dY/dA, where

    alpha_kij = g_kij^2 / (2 g_kij^2 + sum_ab A_kab g_kij^3), 0 where g_kij is or where the denominator vanishes.

    Source: arXiv 1710.11063, equations 5, 10 and 19. The score's exponential there is a factor common to all places of
    an image; it is left out, so that a sure slice does not drown the others of its scan.
    """
    features, gradient = found.features.double(), found.gradient.double()
    square = 2 * gradient.square()
    cube = features.sum(dim=(2, 3), keepdim=True) * gradient.pow(3)
    denominator = square + cube
    sound = denominator.abs() > _VANISHES * (square + cube.abs())
    alpha = torch.where(sound, gradient.square() / torch.where(sound, denominator, 1.0), 0.0)
    weights = (alpha * gradient.relu()).sum(dim=(2, 3))
    return torch.einsum("bk,bkrc->brc", weights, features).relu().float()
