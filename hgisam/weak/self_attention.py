"""Saliency from a Swin Transformer's own attention: HGI-SAM (2023) and Swin-SAM (2022) are settings of one class."""

from dataclasses import replace
from typing import ClassVar, Literal, Self

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from hgisam.attention import Combination, lay_on_grid, pair_product, token_map
from hgisam.labels import Subtype
from hgisam.model.classifier import HemorrhageClassifier
from hgisam.model.recorder import AttentionRecorder, BlockAttention, GradientOf
from hgisam.model.slice_classifier import SliceClassifier
from hgisam.model.swin import BlockGrid
from hgisam.weak.activations import check_stages
from hgisam.weak.labeler import WeakLabeler, frozen


class SelfAttention(WeakLabeler):
    """Hierarchical combination of windowed self-attention; each head weighs as much as the logit depends on it.

    One forward pass, and one backward pass that records a few numbers per token. The defaults go beyond HGI-SAM in that
    they count only attention that raises the logit, pair by pair; `gradient_of` scores is HGI-SAM as published. Without
    `gradient_of` and with all four stages it is Swin-SAM, which needs no backward pass.

    Source: Rasoulian, Salari, Xiao: HGI-SAM, MELBA 2023:012, arXiv 2304.04902; Swin-SAM is its predecessor. What the
    default is worth: tools/map_ablation.py.
    """

    combination: ClassVar[Combination] = "product"

    method: Literal["self_attention"] = "self_attention"
    """Tells this method from others."""
    gradient_of: GradientOf | None = "positive_weights"
    """What the logit is differentiated by to weigh heads: attention before softmax (the authors' code) or after (their
    figure), each head by the norm; none weighs all heads alike (Swin-SAM). `positive_weights` weighs no heads: only
    attention that raises the logit counts, by so much (Chefer et al., arXiv 2103.15679, equation 5)."""
    stages: tuple[int, ...] = Field(default=(1, 2, 3), min_length=1)
    """Stages (1-based) whose maps are combined. HGI-SAM leaves out the last, Swin-SAM takes all."""
    roll_unshifted: bool = False
    """Roll every second block back by half a window even where it did not shift, as Swin-SAM's code does with its last
    stage; its published maps need this, better ones do not."""

    @model_validator(mode="after")
    def _stages_are_sound(self) -> Self:
        if min(self.stages) < 1 or list(self.stages) != sorted(set(self.stages)):
            raise ValueError(f"expected stages from 1 upwards, each once, in order; got {self.stages}")
        return self

    def check(self, model: SliceClassifier) -> None:
        """A network with attention, and the stages."""
        if not isinstance(model, HemorrhageClassifier):
            raise ValueError(f"expected a Swin Transformer, for its attention; got a {type(model).__name__}")
        check_stages(model, self.stages)

    def stage_maps(
        self,
        model: SliceClassifier,
        images: Float[Tensor, "batch channels height width"],
        target: Subtype = Subtype.ANY,
    ) -> tuple[Float[Tensor, " batch"], list[Float[Tensor, "batch _ _"]]]:
        """Log-odds of each image, and each stage's raw map on its own token grid, in the order of `stages`.

        Raw maps are at least 0 and comparable between images: nothing is stretched. They grow with the square of the
        gradients.

        Args:
            model: left as it is found.
            images: values in [0, 1]; each is treated by itself.
            target: which hemorrhage.

        Raises:
            ValueError: where the network has no attention, lacks one of the stages, has stages of uneven depth, or
                lacks the target.
        """
        self.check(model)
        recorder = AttentionRecorder(self.stages, self.gradient_of)
        with frozen(model):
            logits = model(images, attend=recorder)
            if self.gradient_of is not None:
                recorder.differentiate(model.hemorrhage_logit(logits, target))
        maps = [
            pair_product([self._block_map(block) for block in recorder.blocks if block.grid.stage == stage])
            for stage in self.stages
        ]
        return model.log_odds(logits.detach(), target), maps

    def _block_map(self, block: BlockAttention) -> Float[Tensor, "batch rows cols"]:
        if block.relevance is not None:
            return lay_on_grid(block.relevance, self._grid(block.grid))
        norms = block.gradient_norms
        weights = torch.ones_like(block.key_means[..., 0]) if norms is None else norms
        return lay_on_grid(token_map(block.key_means, weights), self._grid(block.grid))

    def _grid(self, grid: BlockGrid) -> BlockGrid:
        if self.roll_unshifted and grid.block % 2:
            return replace(grid, shift=grid.window // 2)
        return grid


HGI_SAM = SelfAttention(gradient_of="scores")
"""Head-wise gradient-infused self-attention maps (2023)."""

SWIN_SAM = SelfAttention(gradient_of=None, stages=(1, 2, 3, 4))
"""Self-attention maps of all four stages without gradients (2022), each block rolled back by its true shift."""

SWIN_SAM_AS_PUBLISHED = SelfAttention(gradient_of=None, stages=(1, 2, 3, 4), roll_unshifted=True)
"""Swin-SAM with the published code's roll of the last stage, which does not shift."""
