"""What every network of the house is: images in, logits of hemorrhage out, feature maps on the way."""

import math
from abc import ABC, abstractmethod
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from hgisam.labels import Subtype

Pooling = Literal["mean", "log_sum_exp"]


class HeadOptions(BaseModel):
    """What a classifier's head puts out, whatever network is below it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    pooling: Pooling = "mean"
    """How the places of the last stage become one answer. mean: as in Swin and ResNet. log_sum_exp: a smooth maximum,
    so that blood under one place of many is not averaged away."""
    outputs: Literal[1, 2, 6] = 1
    """Logits per image. 1: any hemorrhage (sigmoid). 2: none against any (softmax, as HGI-SAM). 6: subtypes and any,
    each by itself (sigmoid), in the order of `Subtype`."""

    @property
    def targets(self) -> tuple[Subtype, ...]:
        """What the probabilities are of, in order: all of `Subtype` with six outputs, else `any` alone."""
        return tuple(Subtype) if self.outputs == len(Subtype) else (Subtype.ANY,)


@runtime_checkable
class Watch(Protocol):
    """Someone who sees each stage's feature maps go by, and may hand on others: no hooks are needed."""

    def __call__(
        self, stage: int, features: Float[Tensor, "batch channels rows cols"]
    ) -> Float[Tensor, "batch channels rows cols"]:
        """What the next stage gets.

        Args:
            stage: 1-based.
            features: what the stage gave.
        """
        ...


class SliceClassifier(nn.Module, ABC):
    """Tells how likely each image shows a hemorrhage.

    Attributes:
        options: of the head; a network's own options add its geometry.
        token_heads: what a token loss trains, no part of the saved weights; None for a network without.
    """

    options: HeadOptions
    token_heads: nn.ModuleList | None

    @property
    @abstractmethod
    def n_stages(self) -> int:
        """Stages that `forward_watched` shows."""

    @abstractmethod
    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch outputs"]:
        """Logits of each image, whose values are in [0, 1]."""

    @abstractmethod
    def forward_watched(
        self, images: Float[Tensor, "batch channels height width"], watch: Watch
    ) -> Float[Tensor, "batch outputs"]:
        """The same, with every stage's feature maps passing through `watch`."""

    @abstractmethod
    def forward_with_tokens(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> tuple[Float[Tensor, "batch outputs"], list[Float[Tensor, "batch _rows _cols"]]]:
        """Logits of each image, and of each token of each stage: for a token loss in training.

        Raises:
            ValueError: where the classifier has no token heads.
        """

    @property
    def targets(self) -> tuple[Subtype, ...]:
        """What `probabilities` are of, in order."""
        return self.options.targets

    @property
    def token_sides(self) -> list[int]:
        """Tokens along a side of each stage's grid; none without token heads."""
        return []

    @abstractmethod
    def layers_above(self, name: str) -> int:
        """How many layers lie between a parameter and the answer: 0 for the heads, what sees the image first the most.

        Args:
            name: of one of the parameters.
        """

    def hemorrhage_logit(
        self, logits: Float[Tensor, "batch outputs"], target: Subtype = Subtype.ANY
    ) -> Float[Tensor, " batch"]:
        """The logit whose gradient makes a saliency map. With two outputs it is the second, not the difference.

        Args:
            logits: of this classifier.
            target: which hemorrhage.

        Raises:
            ValueError: for a target that this classifier does not tell apart.
        """
        if target not in self.targets:
            raise ValueError(f"expected one of the classifier's targets {[*self.targets]}; got {target!r}")
        return logits[:, -1 if target is Subtype.ANY else self.targets.index(target)]

    def log_odds(
        self, logits: Float[Tensor, "batch outputs"], target: Subtype = Subtype.ANY
    ) -> Float[Tensor, " batch"]:
        """Log-odds of a target, whose sigmoid is its probability: with two outputs, the difference of their logits.

        Raises:
            ValueError: for a target that this classifier does not tell apart.
        """
        logit = self.hemorrhage_logit(logits, target)
        return logit - logits[:, 0] if self.options.outputs == 2 else logit

    def target_log_odds(self, logits: Float[Tensor, "batch outputs"]) -> Float[Tensor, "batch targets"]:
        """Log-odds of each of `targets`.

        Args:
            logits: of this classifier.
        """
        return torch.stack([self.log_odds(logits, target) for target in self.targets], dim=1)

    def probabilities(self, logits: Float[Tensor, "batch outputs"]) -> Float[Tensor, "batch targets"]:
        """Probability in [0, 1] of each of `targets`.

        Args:
            logits: of this classifier, or divided by a temperature.
        """
        return logits.softmax(dim=1)[:, 1:] if self.options.outputs == 2 else logits.sigmoid()


def pooled(per_token: Float[Tensor, "batch tokens outputs"], pooling: Pooling) -> Float[Tensor, "batch outputs"]:
    """One answer per image from those of its tokens: their mean, or the logarithm of the mean of their exponentials."""
    if pooling == "mean":
        return per_token.mean(dim=1)
    return per_token.logsumexp(dim=1) - math.log(per_token.shape[1])


def linear_head(channels: int, outputs: int) -> nn.Linear:
    """A head that starts with small weights and no bias, like every linear layer of a Swin Transformer."""
    head = nn.Linear(channels, outputs)
    torch.nn.init.trunc_normal_(head.weight, std=0.02)
    torch.nn.init.zeros_(head.bias)
    return head
