"""From attention to saliency: head weights, token maps, stage maps, their combination. Pure tensor mathematics.

Symbols as in the paper: stage l, block b, attention window m, head h, query i, key j; scores S and weights
A = softmax(S) of a window and head; Y the hemorrhage logit.

Source: Rasoulian, Salari, Xiao: HGI-SAM, MELBA 2023:012, arXiv 2304.04902.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from hgisam.model.swin import BlockGrid

Combination = Literal["product", "maximum"]
"""How the maps of several stages become one: multiplied, as HGI-SAM does, or their maximum, as LayerCAM does."""

SATURATION = 2.0
"""Gamma of LayerCAM: stages are scaled by tanh(gamma x), so that a faint early stage is heard beside a late one."""


def token_map(
    key_means: Float[Tensor, "batch windows heads tokens"], head_weights: Float[Tensor, "batch windows heads"]
) -> Float[Tensor, "batch windows tokens"]:
    """How much the tokens of each window are attended to: a = mean over heads of w x (mean over queries of A).

    Args:
        key_means: mean over queries of the attention weights; each window's and head's sum to 1.
        head_weights: w = ||dY/dS||_F, at least 0. Without them no window would rank above another.

    Source: arXiv 2304.04902, section 2.
    """
    return torch.einsum("bwht,bwh->bwt", key_means, head_weights) / key_means.shape[2]


def lay_on_grid(tokens: Float[Tensor, "batch windows tokens"], grid: BlockGrid) -> Float[Tensor, "batch rows cols"]:
    """Put windows back where they were cut: side by side on the token grid, rolled back by the block's own shift."""
    rolled = rearrange(
        tokens, "b (r c) (i j) -> b (r i) (c j)", r=grid.rows // grid.window, i=grid.window, j=grid.window
    )
    return rolled.roll((grid.shift, grid.shift), dims=(1, 2))


def pair_product(blocks: Sequence[Float[Tensor, "batch rows cols"]]) -> Float[Tensor, "batch rows cols"]:
    """A stage's raw map: mean over its pairs of the regular block's map times the shifted block's.

    Args:
        blocks: one map per block of the stage, in the order they ran.

    Raises:
        ValueError: for an odd number of blocks, or none, which do not make pairs.
    """
    if not blocks or len(blocks) % 2:
        raise ValueError(f"expected pairs of a regular and a shifted block; got {len(blocks)} blocks; use even depths")
    products = [regular * shifted for regular, shifted in zip(blocks[::2], blocks[1::2], strict=True)]
    return torch.stack(products).mean(dim=0)


def min_max(maps: Float[Tensor, "*batch rows cols"]) -> Float[Tensor, "*batch rows cols"]:
    """Stretch each map by itself to [0, 1]. A constant map is zeros.

    Deviation: the authors' stretch runs over the whole batch, so that a slice's map depends on its batch mates, and
    gives NaN for a constant one.
    """
    low = maps.amin(dim=(-2, -1), keepdim=True)
    span = maps.amax(dim=(-2, -1), keepdim=True) - low
    return torch.where(span > 0, (maps - low) / torch.where(span > 0, span, 1.0), 0.0)


def combine_stages(
    stages: Sequence[Float[Tensor, "batch _ _"]], region: Bool[Tensor, "batch height width"]
) -> Float[Tensor, "batch height width"]:
    """One saliency map per slice as published: the product over stages of their stretched maps, stretched again.

    Args:
        stages: raw maps of the stages, coarse or fine, each at least 0; at least one.
        region: the intracranial region; its size is the map's.

    Returns:
        Values in [0, 1], 0 outside the region. A slice whose region is empty, or whose product is the same everywhere,
        is zeros.

    Source: arXiv 2304.04902, section 2.
    Deviation: stretched per slice, not per batch; an empty region is zeros, not 0/0.
    """
    size = region.shape[-2:]
    product = torch.ones(region.shape, device=region.device)
    for stage in stages:
        fine = functional.interpolate(min_max(stage.float())[:, None], size=size, mode="bilinear", align_corners=False)
        product = product * fine[:, 0]
    return min_max(product * region) * region


def fuse_stages(
    stages: Sequence[Float[Tensor, "batch _ _"]], region: Bool[Tensor, "batch height width"]
) -> Float[Tensor, "batch height width"]:
    """One saliency map per slice as the maximum over stages, each as a share of its own highest value; stretched.

    Args:
        stages: raw maps of the stages, coarse or fine, each at least 0; at least one.
        region: the intracranial region; its size is the map's.

    Returns:
        Values in [0, 1], 0 outside the region. A slice whose region is empty, or whose map is the same everywhere, is
        zeros.
    """
    size = region.shape[-2:]
    fused = torch.zeros(region.shape, device=region.device)
    for stage in stages:
        raw = stage.float()
        peak = raw.amax(dim=(-2, -1), keepdim=True)
        relative = torch.where(peak > 0, raw / torch.where(peak > 0, peak, 1.0), 0.0)
        heard = saturated(relative, len(stages))
        fine = functional.interpolate(heard[:, None], size=size, mode="bilinear", align_corners=False)
        fused = torch.maximum(fused, fine[:, 0])
    return min_max(fused * region) * region


def saturated(relative: Float[Tensor, "*shape"], n_stages: int) -> Float[Tensor, "*shape"]:
    """tanh(2 x) of a stage's share of its own highest value, where it is one of several; alone it is left as it is.

    Source: LayerCAM, doi 10.1109/TIP.2021.3089943, equation 9.
    """
    return torch.tanh(SATURATION * relative) if n_stages > 1 else relative
