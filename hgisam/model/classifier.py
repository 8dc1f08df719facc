"""The slice classifier: a Swin Transformer, its pooled features, one linear head."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor, nn

from hgisam.labels import Subtype
from hgisam.model.swin import Attend, SwinOptions, SwinTransformer, fused_attention

Pooling = Literal["mean", "log_sum_exp"]

MAP_STAGES = 3
"""Stages that a network must have at least: the saliency map is made of so many."""


class ClassifierOptions(BaseModel):
    """A Swin Transformer and what its head puts out."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    swin: SwinOptions = SwinOptions()
    """Geometry of the Swin Transformer."""
    pooling: Pooling = "mean"
    """How the last stage's tokens become one answer. mean: as in Swin. log_sum_exp: a smooth maximum, so that blood
    under one token of many is not averaged away."""
    outputs: Literal[1, 2, 6] = 1
    """Logits per image. 1: any hemorrhage (sigmoid). 2: none against any (softmax, as HGI-SAM). 6: subtypes and any,
    each by itself (sigmoid), in the order of `Subtype`."""

    @property
    def targets(self) -> tuple[Subtype, ...]:
        """What the probabilities are of, in order: all of `Subtype` with six outputs, else `any` alone."""
        return tuple(Subtype) if self.outputs == len(Subtype) else (Subtype.ANY,)

    @model_validator(mode="after")
    def _deep_enough(self) -> "ClassifierOptions":
        if len(self.swin.depths) < MAP_STAGES:
            raise ValueError(f"expected at least {MAP_STAGES} stages; got depths {self.swin.depths}")
        return self


def pooled(per_token: Float[Tensor, "batch tokens outputs"], pooling: Pooling) -> Float[Tensor, "batch outputs"]:
    """One answer per image from those of its tokens: their mean, or the logarithm of the mean of their exponentials."""
    if pooling == "mean":
        return per_token.mean(dim=1)
    return per_token.logsumexp(dim=1) - math.log(per_token.shape[1])


class HemorrhageClassifier(nn.Module):
    """Tells how likely each image shows a hemorrhage.

    Args:
        options: geometry and outputs.
        token_heads: add the linear heads that a token loss trains; they are no part of the saved weights.
    """

    def __init__(self, options: ClassifierOptions | None = None, *, token_heads: bool = False) -> None:
        super().__init__()
        self.options = options or ClassifierOptions()
        self.swin = SwinTransformer(self.options.swin)
        self.head = nn.Linear(self.swin.channels, self.options.outputs)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.token_heads = (
            nn.ModuleList(
                nn.Linear(self.options.swin.stage_channels(stage), 1) for stage in range(1, self.swin.n_stages + 1)
            )
            if token_heads
            else None
        )

    @property
    def targets(self) -> tuple[Subtype, ...]:
        """What `probabilities` are of, in order."""
        return self.options.targets

    def forward(
        self, images: Float[Tensor, "batch channels height width"], attend: Attend = fused_attention
    ) -> Float[Tensor, "batch outputs"]:
        """Logits of each image.

        Args:
            images: values in [0, 1].
            attend: the attention of every block.
        """
        *_, last = self.swin.stages(images, attend)
        return self._answer(last)

    def _answer(self, tokens: Float[Tensor, "batch tokens channels"]) -> Float[Tensor, "batch outputs"]:
        """Logits of an image, in float32, from the tokens of the last stage."""
        return pooled(self.head(self.swin.norm(tokens)).float(), self.options.pooling)

    def forward_with_tokens(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> tuple[Float[Tensor, "batch outputs"], list[Float[Tensor, "batch _rows _cols"]]]:
        """Logits of each image, and of each token of each stage: for a token loss in training.

        Raises:
            ValueError: where the classifier was made without token heads.
        """
        if self.token_heads is None:
            raise ValueError("expected a classifier with token heads; got one without; make it with token_heads=True")
        token_logits: list[Tensor] = []
        tokens = torch.empty(0)
        for stage, (tokens, head) in enumerate(zip(self.swin.stages(images), self.token_heads, strict=True), start=1):
            side = self.options.swin.grid_side(stage)
            token_logits.append(head(tokens).float().view(-1, side, side))
        return self._answer(tokens), token_logits

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

    def probabilities(self, logits: Float[Tensor, "batch outputs"]) -> Float[Tensor, "batch targets"]:
        """Probability in [0, 1] of each of `targets`.

        Args:
            logits: of this classifier, or divided by a temperature.
        """
        return logits.softmax(dim=1)[:, 1:] if self.options.outputs == 2 else logits.sigmoid()
