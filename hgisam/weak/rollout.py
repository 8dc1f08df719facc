"""Gradient-weighted attention rollout: how relevance flows from the answer through every attention to the first tokens.

Symbols: A the attention weights of a block, [windows, heads, queries, keys]; Y the hemorrhage logit; E_h the mean over
heads; R the relevance of first-stage tokens (columns) to tokens of the block (rows).
"""

import math
from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from hgisam.attention import Combination
from hgisam.labels import Subtype
from hgisam.model.classifier import HemorrhageClassifier
from hgisam.model.slice_classifier import SliceClassifier, pooled
from hgisam.model.swin import BlockGrid
from hgisam.weak.labeler import WeakLabeler, frozen


class GradientRollout(WeakLabeler):
    """Relevance propagation by attention gradients, carried over to a Swin Transformer.

    Each block's relevance is A' = E_h[ReLU(dY/dA * A)], and R <- R + A' R from R = I (the skip connection). The map is
    what the answer draws from each token of stage 1: p (R - I), where p is how much each last token counts in the
    answer.

    Source: Chefer, Gur, Wolf: Generic Attention-model Explainability, ICCV 2021 (arXiv 2103.15679), equations 5 and 6.
    Deviation, since a Swin Transformer has windows, shifts, mergings and no class token:
    - A' couples the tokens of one attention window and is zero between windows. A shifted block's windows lie where the
      block cut them: its own permutation is undone, so relevance crosses the borders of the regular blocks' windows,
      and pairs that the shift mask parts have no attention and get none.
    - Patch merging: the relevance of a merged token goes to its four children in equal parts.
    - Without a class token, p is the derivative of the pooled answer by each token's own answer: 1/N for a mean.
    - The identity is left out of the map, as the class token's row of R holds none for the patches: it is the same for
      all tokens under a mean, and would hide what attention adds.
    """

    combination: ClassVar[Combination] = "maximum"

    method: Literal["gradient_rollout"] = "gradient_rollout"
    """Tells this method from others."""

    def check(self, model: SliceClassifier) -> None:
        """A network with attention."""
        _swin(model)

    def stage_maps(
        self,
        model: SliceClassifier,
        images: Float[Tensor, "batch channels height width"],
        target: Subtype = Subtype.ANY,
    ) -> tuple[Float[Tensor, " batch"], list[Float[Tensor, "batch _ _"]]]:
        """Log-odds of each image, and its one map, on the token grid of stage 1."""
        network = _swin(model)
        attention = _KeptAttention()
        with frozen(network):
            *_, tokens = network.swin.stages(images, attention)
            answers = network.answers(tokens)
            logits = pooled(answers, network.options.pooling)
            logit = network.hemorrhage_logit(logits, target).sum()
            share, *gradients = torch.autograd.grad(logit, [answers, *attention.weights])
        relevance = [
            (weights.detach() * gradient).relu().mean(dim=2)
            for weights, gradient in zip(attention.weights, gradients, strict=True)
        ]
        last = share.sum(dim=2).to(relevance[-1].dtype)
        return network.log_odds(logits.detach(), target), [rollout(last, relevance, attention.grids)]


def rollout(
    share: Float[Tensor, "batch tokens"],
    relevance: list[Float[Tensor, "batch _windows _queries _keys"]],
    grids: list[BlockGrid],
) -> Float[Tensor, "batch rows cols"]:
    """p (R - I), from the last block to the first, so that no matrix over all tokens is ever made.

    Args:
        share: p, how much each token of the last stage counts; at least 0.
        relevance: A' of each block, in the order they ran; at least 0.
        grids: of the same blocks.
    """
    direct, moved = share, torch.zeros_like(share)
    for block, grid, earlier in _backwards(relevance, grids):
        windowed = rearrange((direct + moved)[:, grid.window_order()], "b (w t) -> b w t", w=grid.windows)
        drawn = torch.einsum("bwq,bwqk->bwk", windowed, block).flatten(1)
        moved = moved + drawn[:, grid.raster_order()]
        if earlier is not None and earlier.stage < grid.stage:
            direct, moved = _to_children(direct, grid), _to_children(moved, grid)
    return rearrange(moved, "b (r c) -> b r c", r=grids[0].rows)


def _backwards(relevance: list[Tensor], grids: list[BlockGrid]) -> Iterator[tuple[Tensor, BlockGrid, BlockGrid | None]]:
    """Each block's relevance and grid, and the grid of the block that ran before it."""
    for index in reversed(range(len(grids))):
        yield relevance[index], grids[index], grids[index - 1] if index else None


def _to_children(merged: Float[Tensor, "batch tokens"], grid: BlockGrid) -> Float[Tensor, "batch more"]:
    """A quarter of each merged token's relevance for each of its four children."""
    return repeat(merged / 4, "b (r c) -> b (r i c j)", r=grid.rows, i=2, j=2)


def _swin(model: SliceClassifier) -> HemorrhageClassifier:
    if not isinstance(model, HemorrhageClassifier):
        raise ValueError(f"expected a Swin Transformer, for its attention; got a {type(model).__name__}")
    return model


class _KeptAttention:
    """An `Attend` that keeps the attention weights of every block, in float32, inside the graph."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []
        self.grids: list[BlockGrid] = []

    def __call__(
        self,
        query: Float[Tensor, "batch windows heads tokens channels"],
        key: Float[Tensor, "batch windows heads tokens channels"],
        value: Float[Tensor, "batch windows heads tokens channels"],
        bias: Float[Tensor, "windows_or_1 heads tokens tokens"],
        grid: BlockGrid,
    ) -> Float[Tensor, "batch windows heads tokens channels"]:
        """Attend and keep. The first block's weights are the root of autograd."""
        with torch.autocast(query.device.type, enabled=False):
            scores = (query / math.sqrt(query.shape[-1])) @ key.transpose(-2, -1)
            wide = torch.promote_types(scores.dtype, torch.float32)
            weights = (scores + bias).softmax(dim=-1, dtype=wide)
            weights = weights if weights.requires_grad else weights.detach().requires_grad_()
            self.weights.append(weights)
            self.grids.append(grid)
            return weights.to(value.dtype) @ value
