"""LayerCAM: every place of a feature map weighted with its own gradient, so that early, fine stages can be read too."""

from collections.abc import Sequence
from typing import Literal, Self

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from hgisam.model.slice_classifier import SliceClassifier
from hgisam.weak.activations import ClassActivation, StageActivation


class LayerCam(ClassActivation):
    """LayerCAM of some stages, fused by their maximum; of a CNN or of a Swin Transformer's tokens.

    Source: Jiang et al., LayerCAM, IEEE TIP 2021 (doi 10.1109/TIP.2021.3089943).
    """

    method: Literal["layer_cam"] = "layer_cam"
    """Tells this method from others."""
    stages: tuple[int, ...] = Field(default=(2, 3, 4), min_length=1)
    """Stages (1-based) whose maps are fused. That the first is left out is our choice; its worth was not measured."""

    @model_validator(mode="after")
    def _stages_are_sound(self) -> Self:
        if min(self.stages) < 1 or list(self.stages) != sorted(set(self.stages)):
            raise ValueError(f"expected stages from 1 upwards, each once, in order; got {self.stages}")
        return self

    def read_stages(self, model: SliceClassifier) -> Sequence[int]:
        """Those that the options name."""
        return self.stages

    def weighed(self, found: StageActivation) -> Float[Tensor, "batch rows cols"]:
        """As `layer_cam`."""
        return layer_cam(found)


def layer_cam(found: StageActivation) -> Float[Tensor, "batch rows cols"]:
    """M_ij = ReLU(sum_k ReLU(dY/dA_kij) A_kij).

    Source: doi 10.1109/TIP.2021.3089943, equations 6 to 8.
    """
    return torch.einsum("bkrc,bkrc->brc", found.gradient.relu(), found.features).relu()
