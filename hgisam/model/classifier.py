"""The slice classifier of the house: a Swin Transformer, its pooled features, one linear head."""

import re
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from pydantic import model_validator
from torch import Tensor, nn

from hgisam.model.slice_classifier import HeadOptions, SliceClassifier, Watch, linear_head, pooled
from hgisam.model.swin import Attend, SwinOptions, SwinTransformer, fused_attention

MAP_STAGES = 3
"""Stages that a network must have at least: the saliency map is made of so many."""


class ClassifierOptions(HeadOptions):
    """A Swin Transformer and what its head puts out."""

    kind: Literal["swin"] = "swin"
    """Tells this network from others; weights made before there were others do not say it."""
    swin: SwinOptions = SwinOptions()
    """Geometry of the Swin Transformer."""

    @property
    def in_channels(self) -> int:
        """Channels of the input image."""
        return self.swin.in_channels

    @property
    def least_parameters(self) -> int:
        """What a network of this geometry has at least."""
        return self.swin.least_parameters

    @model_validator(mode="after")
    def _deep_enough(self) -> "ClassifierOptions":
        if len(self.swin.depths) < MAP_STAGES:
            raise ValueError(f"expected at least {MAP_STAGES} stages; got depths {self.swin.depths}")
        return self


class HemorrhageClassifier(SliceClassifier):
    """Tells how likely each image shows a hemorrhage, and what it attended to.

    Args:
        options: geometry and outputs.
        token_heads: add the linear heads that a token loss trains; they are no part of the saved weights.
    """

    options: ClassifierOptions

    def __init__(self, options: ClassifierOptions | None = None, *, token_heads: bool = False) -> None:
        super().__init__()
        self.options = options or ClassifierOptions()
        self.swin = SwinTransformer(self.options.swin)
        self.head = linear_head(self.swin.channels, self.options.outputs)
        self.token_heads = (
            nn.ModuleList(
                nn.Linear(self.options.swin.stage_channels(stage), 1) for stage in range(1, self.swin.n_stages + 1)
            )
            if token_heads
            else None
        )

    @property
    def n_stages(self) -> int:
        """Number of stages."""
        return self.swin.n_stages

    @property
    def token_sides(self) -> list[int]:
        """Tokens along a side of each stage's grid; none without token heads."""
        if self.token_heads is None:
            return []
        return [self.options.swin.grid_side(stage) for stage in range(1, self.swin.n_stages + 1)]

    def layers_above(self, name: str) -> int:
        """How many layers lie between a parameter and the answer: 0 for the heads, the stem the most.

        Args:
            name: of one of the parameters. A merging of patches belongs to the block after it.
        """
        depths = self.options.swin.depths
        within = re.match(r"swin\.layers\.(\d+)\.(?:blocks\.(\d+)|downsample)", name)
        if within:
            stage, block = int(within[1]), int(within[2] or 0)
            return sum(depths[stage:]) - block
        return 0 if name.startswith(("head.", "token_heads.", "swin.norm.")) else sum(depths) + 1

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

    def forward_watched(
        self, images: Float[Tensor, "batch channels height width"], watch: Watch
    ) -> Float[Tensor, "batch outputs"]:
        """Logits of each image. The feature maps that are watched are a stage's tokens, laid on its grid."""
        tokens = self.swin.embed(images)
        for stage in range(1, self.n_stages + 1):
            tokens = self.swin.run_stage(stage, tokens)
            features = rearrange(tokens, "b (r c) n -> b n r c", r=self.options.swin.grid_side(stage))
            tokens = rearrange(watch(stage, features), "b n r c -> b (r c) n")
        return self._answer(tokens)

    def _answer(self, tokens: Float[Tensor, "batch tokens channels"]) -> Float[Tensor, "batch outputs"]:
        """Logits of an image, in float32, from the tokens of the last stage."""
        return pooled(self.answers(tokens), self.options.pooling)

    def answers(self, tokens: Float[Tensor, "batch tokens channels"]) -> Float[Tensor, "batch tokens outputs"]:
        """The logits of each token of the last stage, in float32, which `pooling` makes one answer of."""
        per_token: Tensor = self.head(self.swin.norm(tokens)).float()
        return per_token

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
