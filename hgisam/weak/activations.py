"""What class activation maps are made of: a stage's feature maps, and the logit's gradient with respect to them."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from hgisam.attention import Combination
from hgisam.labels import Subtype
from hgisam.model.slice_classifier import SliceClassifier
from hgisam.weak.labeler import WeakLabeler, frozen


@dataclass(frozen=True, eq=False)
class StageActivation:
    """One stage of one forward and backward pass, float32.

    Attributes:
        features: A, what the stage gave. Of a Swin Transformer its tokens, laid on their grid; they may be negative.
        gradient: dY/dA of the hemorrhage logit Y, of each image by itself.
    """

    features: Float[Tensor, "batch channels rows cols"]
    gradient: Float[Tensor, "batch channels rows cols"]


def stage_activations(
    model: SliceClassifier,
    images: Float[Tensor, "batch channels height width"],
    stages: Sequence[int],
    target: Subtype,
) -> tuple[Float[Tensor, " batch"], list[StageActivation]]:
    """Log-odds of each image, and what happened at some of its network's stages.

    The first of these stages is the root of autograd: nothing below it is differentiated, and no parameter is.

    Args:
        model: left as it is found.
        images: values in [0, 1].
        stages: 1-based, rising; at least one.
        target: which hemorrhage.

    Raises:
        ValueError: where the network lacks the target.
    """
    kept: list[Tensor] = []

    def watch(stage: int, features: Tensor) -> Tensor:
        if stage in stages:
            features = features if features.requires_grad else features.detach().requires_grad_()
            kept.append(features)
        return features

    with frozen(model):
        logits = model.forward_watched(images, watch)
        gradients = torch.autograd.grad(model.hemorrhage_logit(logits, target).sum(), kept)
    found = [
        StageActivation(features.detach().float(), gradient.float())
        for features, gradient in zip(kept, gradients, strict=True)
    ]
    return model.log_odds(logits.detach(), target), found


def check_stages(model: SliceClassifier, stages: Sequence[int]) -> None:
    """Whether a network has these stages.

    Raises:
        ValueError: where it has not.
    """
    if max(stages) > model.n_stages:
        raise ValueError(f"expected stages of a network with {model.n_stages}; got {tuple(stages)}")


class ClassActivation(WeakLabeler):
    """A method that weighs the feature maps of a CNN's stages, or of a Swin Transformer's tokens, by their gradient."""

    combination: ClassVar[Combination] = "maximum"

    @abstractmethod
    def read_stages(self, model: SliceClassifier) -> Sequence[int]:
        """Stages (1-based, rising) whose feature maps are weighed."""

    @abstractmethod
    def weighed(self, found: StageActivation) -> Float[Tensor, "batch rows cols"]:
        """The map of one stage, at least 0."""

    def check(self, model: SliceClassifier) -> None:
        """Any network with the stages will do."""
        check_stages(model, self.read_stages(model))

    def stage_maps(
        self,
        model: SliceClassifier,
        images: Float[Tensor, "batch channels height width"],
        target: Subtype = Subtype.ANY,
    ) -> tuple[Float[Tensor, " batch"], list[Float[Tensor, "batch _ _"]]]:
        """Log-odds of each image, and each stage's map on its own grid, in the order of the stages."""
        self.check(model)
        log_odds, found = stage_activations(model, images, self.read_stages(model), target)
        return log_odds, [self.weighed(stage) for stage in found]


class OneStageActivation(ClassActivation):
    """A method that weighs the feature maps of one stage."""

    stage: int | None = Field(default=None, ge=1)
    """Stage (1-based) whose feature maps are weighted; none for the network's last, as published."""

    def read_stages(self, model: SliceClassifier) -> Sequence[int]:
        """The one that the options name, or the network's last."""
        return [self.stage or model.n_stages]
