"""LayerCAM: every place of a feature map weighted with its own gradient, so that early, fine stages can be read too."""

from typing import ClassVar, Literal, Self

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from hgisam.attention import Combination
from hgisam.labels import Subtype
from hgisam.model.slice_classifier import SliceClassifier
from hgisam.weak.activations import StageActivation, check_stages, stage_activations
from hgisam.weak.labeler import WeakLabeler


class LayerCam(WeakLabeler):
    """LayerCAM of some stages, fused by their maximum; of a CNN or of a Swin Transformer's tokens.

    Source: Jiang et al., LayerCAM, IEEE TIP 2021 (doi 10.1109/TIP.2021.3089943).
    """

    combination: ClassVar[Combination] = "maximum"

    method: Literal["layer_cam"] = "layer_cam"
    """Tells this method from others."""
    stages: tuple[int, ...] = Field(default=(2, 3, 4), min_length=1)
    """Stages (1-based) whose maps are fused. That the first is left out is our choice; its worth was not measured."""

    @model_validator(mode="after")
    def _stages_are_sound(self) -> Self:
        if min(self.stages) < 1 or list(self.stages) != sorted(set(self.stages)):
            raise ValueError(f"expected stages from 1 upwards, each once, in order; got {self.stages}")
        return self

    def check(self, model: SliceClassifier) -> None:
        """Any network with the stages will do."""
        check_stages(model, self.stages)

    def stage_maps(
        self,
        model: SliceClassifier,
        images: Float[Tensor, "batch channels height width"],
        target: Subtype = Subtype.ANY,
    ) -> tuple[Float[Tensor, " batch"], list[Float[Tensor, "batch _ _"]]]:
        """Log-odds of each image, and each stage's map on its own grid, in the order of `stages`."""
        self.check(model)
        log_odds, found = stage_activations(model, images, self.stages, target)
        return log_odds, [layer_cam(stage) for stage in found]


def layer_cam(found: StageActivation) -> Float[Tensor, "batch rows cols"]:
    """M_ij = ReLU(sum_k ReLU(dY/dA_kij) A_kij).

    Source: doi 10.1109/TIP.2021.3089943, equations 6 to 8.
    """
    return torch.einsum("bkrc,bkrc->brc", found.gradient.relu(), found.features).relu()
