"""Is the map of use? Bleeds are painted into slices that hold none, and the network's saliency is held against them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from hgisam.evaluate.overlap import overlap
from hgisam.labels import ANY_COLUMN
from hgisam.model.classifier import HemorrhageClassifier
from hgisam.model.slice_classifier import SliceClassifier
from hgisam.preprocess import PreprocessOptions, neighbour_rows, network_images
from hgisam.segment import AggregationOptions, aggregate
from hgisam.train.painting import PaintedSlice, PaintingOptions, carry_over, paint_slice
from hgisam.train.prepared import HU_STEP
from hgisam.train.scoring import Judge
from hgisam.weak import HGI_SAM, GradCam, WeakLabeler

THRESHOLDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
PUBLISHED_THRESHOLD = 0.05
"""Source: arXiv 2304.04902."""


@dataclass(frozen=True)
class MapQuality:
    """How well maps cover painted bleeds.

    Attributes:
        n: slices.
        dice: mean Dice of the map at the threshold that serves these slices best.
        threshold: that threshold.
        published_dice: mean Dice of the map stretched slice by slice, at the threshold that was published for HGI-SAM.
    """

    n: int
    dice: float
    threshold: float
    published_dice: float


def judge_maps(
    model: SliceClassifier,
    judges: Sequence[Judge],
    preprocessing: PreprocessOptions,
    painting: PaintingOptions,
    *,
    n: int,
    seed: int = 0,
) -> MapQuality | None:
    """Paint bleeds of all difficulties into slices without blood, and outline them by the map alone.

    Maps are HGI-SAM's, of a CNN Grad-CAM's. No human mask is looked at. Slices and bleeds are the same for every
    network that is asked about the same scans, whether it sees neighbouring slices or not.

    Args:
        model: in eval mode.
        judges: scans whose negative slices are painted into.
        preprocessing: what the network sees.
        painting: which bleeds.
        n: how many slices.
        seed: of all chance.

    Returns:
        What was found; None where no slice has room for a bleed.
    """
    method: WeakLabeler = HGI_SAM if isinstance(model, HemorrhageClassifier) else GradCam()
    random, beside_random = np.random.default_rng(seed), np.random.default_rng((seed, 1))
    negative = [
        (judge, row)
        for judge in judges
        for row, index in enumerate(judge.scan.slices)
        if judge.known[index, ANY_COLUMN] and not judge.labels[index, ANY_COLUMN]
    ]
    ours, published = [], []
    for number in random.permutation(len(negative)):
        judge, row = negative[number]
        relative, region = judge.scan.relative_hu[row].float() * HU_STEP, judge.scan.region[row]
        painted = paint_slice(relative, region, preprocessing.spacing_mm, 1.0, painting, random)
        if painted is None:
            continue
        beside = neighbour_rows(judge.scan.slices, preprocessing.neighbours)[row]
        change_hu = painted.relative_hu - relative
        beside_hu = carry_over(judge.scan.relative_hu[beside].float() * HU_STEP, change_hu, beside_random)
        beside_hu = torch.where((beside == row)[:, None, None], painted.relative_hu, beside_hu)
        images = network_images(
            painted.relative_hu[None] + judge.scan.median_hu, region[None], judge.scan.median_hu, preprocessing,
            beside_hu[None],
        )  # fmt: skip
        stages = _stage_maps(method, model, images)
        maps = [
            aggregate(stages, region[None], AggregationOptions(normalisation=kind), method.combination)[0]
            for kind in ("volume", "slice")
        ]
        ours.append([_dice(maps[0] >= threshold, painted) for threshold in THRESHOLDS])
        published.append(_dice(maps[1] >= PUBLISHED_THRESHOLD, painted))
        if len(ours) == n:
            break
    if not ours:
        return None
    means = np.mean(ours, axis=0)
    best = int(means.argmax())
    return MapQuality(len(ours), float(means[best]), THRESHOLDS[best], float(np.mean(published)))


def _stage_maps(
    method: WeakLabeler, model: SliceClassifier, images: Float[Tensor, "1 channels height width"]
) -> Float[Tensor, "1 stages height width"]:
    """Raw maps of one painted slice, each stage at full size."""
    _, stages = method.stage_maps(model, images.to(next(model.parameters()).device))
    size = images.shape[2:]
    fine = [interpolate(stage[:, None].float().cpu(), size=size, mode="bilinear")[:, 0] for stage in stages]
    return torch.stack(fine, dim=1)


def _dice(mask: Tensor, painted: PaintedSlice) -> float:
    return overlap(mask, painted.blood, 1.0).dice or 0.0
