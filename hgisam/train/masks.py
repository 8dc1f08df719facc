"""What an outline costs a segmenter in training, and how well it covers the reference: on the network's canvas."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from hgisam.evaluate.overlap import Overlap, overlap
from hgisam.io.tables import write_csv
from hgisam.model.supervised import MaskNetwork
from hgisam.preprocess import PreprocessOptions
from hgisam.supervised import StackOptions, voxel_probabilities
from hgisam.train.crops import MaskBatch
from hgisam.train.loop import Costs, Objective
from hgisam.train.prepared import HU_STEP, PreparedScan, PreparedScans
from hgisam.train.processes import shared_out

THRESHOLD = 0.5
"""Probability from which a voxel counts as blood."""

_COLUMNS = ("patient", "scan", "n_reference", "n_prediction", "n_both", "dice", "iou", "sensitivity", "precision")


class MaskLossOptions(BaseModel):
    """What a segmenter's training makes small: Dice and cross-entropy, from logits, where the mask is certain."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    dice_weight: float = Field(default=1.0, ge=0)
    """Of 1 - soft Dice over all pixels that pass the network together."""
    cross_entropy_weight: float = Field(default=1.0, gt=0)
    """Of the mean binary cross-entropy of a pixel."""
    cross_entropy_power: float = Field(default=0.0, ge=0, le=1)
    """The q of the generalised cross-entropy, which trusts a wrong label the less the surer the network is of it: 0 is
    cross-entropy itself, 1 the mean absolute error. For masks that are known to be wrong in places; keep dice_weight
    above 0 then, since rare blood looks like wrong labels too."""


def soft_dice_loss(
    logits: Float[Tensor, "batch ..."],
    blood: Bool[Tensor, "batch ..."],
    certain: Bool[Tensor, "batch ..."] | None = None,
) -> Float[Tensor, ""]:
    """1 - Dice of probabilities with the mask, over all pixels of the batch together, or over those that are certain.

    Images without blood count too, by what is said to be blood in them. A batch without any blood costs near 1.

    Source: Milletari et al. 2016, arXiv 1606.04797, with plain sums below, as MONAI's DiceLoss.
    """
    from monai.losses.dice import DiceLoss  # slow to import

    if certain is not None:  # a probability of 0 where there is no blood adds to no sum
        logits, blood = logits.masked_fill(~certain, -torch.inf), blood & certain
    loss: Tensor = DiceLoss(sigmoid=True, batch=True)(logits[:, None], blood[:, None].float())
    return loss


def pixel_loss(
    logits: Float[Tensor, "batch ..."],
    blood: Bool[Tensor, "batch ..."],
    certain: Bool[Tensor, "batch ..."] | None = None,
    power: float = 0.0,
) -> Float[Tensor, ""]:
    """Mean generalised cross-entropy (1 - p^q) / q of pixels, or of those that are certain; 0 where none is.

    Args:
        logits: of blood.
        blood: the mask; p is the probability that the network gives to what it says.
        certain: where it counts; None for everywhere.
        power: q in [0, 1]; 0 stands for the limit, -log p.

    Source: Zhang and Sabuncu 2018, arXiv 1805.07836, equation 6.
    """
    if certain is None and not power:
        return binary_cross_entropy_with_logits(logits, blood.float())
    if power:
        costs = -torch.expm1(power * logsigmoid(torch.where(blood, logits, -logits))) / power
    else:
        costs = binary_cross_entropy_with_logits(logits, blood.float(), reduction="none")
    if certain is None:
        return costs.mean()
    return (costs * certain).sum() / certain.sum().clamp_min(1)


class SegmenterObjective(Objective[MaskNetwork, MaskBatch]):
    """Pixels of blood are told from others.

    Where a step is cut into parts or shared by processes, Dice is that of each part, weighed by its images.
    """

    def __init__(self, options: MaskLossOptions) -> None:
        self._options = options

    def question(self, model: MaskNetwork) -> nn.Module:
        """Logits of pixels: the network itself."""
        return model

    def costs_of(self, batch: MaskBatch, model: MaskNetwork) -> Callable[[Callable[..., Any], MaskBatch], Costs]:
        """The weighted Dice loss and cross-entropy, of a part as its share of the step's images."""
        n_images = torch.tensor(float(len(batch.images)), device=batch.images.device)
        if dist.is_initialized():
            dist.all_reduce(n_images)
        options = self._options

        def costs(ask: Callable[..., Any], part: MaskBatch) -> Costs:
            logits = ask(part.images).float()
            share = len(part.images) / n_images
            entropy = pixel_loss(logits, part.blood, part.certain, options.cross_entropy_power)
            return {
                "dice_loss": options.dice_weight * share * soft_dice_loss(logits, part.blood, part.certain),
                "cross_entropy": options.cross_entropy_weight * share * entropy,
            }

        return costs


@dataclass(frozen=True, eq=False)
class MaskJudge:
    """A scan with its reference mask that chooses or judges, and never teaches.

    Attributes:
        patient: whose it is.
        scan: its slices that show brain.
    """

    patient: str
    scan: PreparedScan


def mask_judges(prepared: PreparedScans, patients: Collection[str]) -> list[MaskJudge]:
    """The scans of some patients of a cohort."""
    return [
        MaskJudge(labelled.patient, prepared[index])
        for index, labelled in enumerate(prepared.scans)
        if labelled.patient in patients and prepared[index].has_reference
    ]


def judge_masks(
    network: MaskNetwork,
    judges: Sequence[MaskJudge],
    preprocessing: PreprocessOptions,
    stack: StackOptions,
    *,
    mirrored: bool,
    bfloat16: bool,
) -> list[Overlap]:
    """How far a network's masks cover the references, voxel by voxel of the canvas; shared by all processes.

    Args:
        network: in eval mode.
        judges: the scans.
        preprocessing: what the network sees.
        stack: how a 3D network sees slices together.
        mirrored: whether mirror images are asked too, as `hgisam segment` does.
        bfloat16: whether passes run in bfloat16.
    """

    def judged(number: int) -> Overlap:
        scan = judges[number].scan
        found = voxel_probabilities(
            network,
            scan.relative_hu.float() * HU_STEP,
            scan.region,
            torch.tensor(scan.positions_mm, dtype=torch.float64),
            scan.median_hu,
            preprocessing,
            stack,
            mirrored=mirrored,
            bfloat16=bfloat16,
        )
        return overlap(found >= THRESHOLD, scan.blood, 1.0)

    return shared_out(len(judges), judged)


def mean_dice(found: Sequence[Overlap]) -> float | None:
    """Mean Dice of the scans that bled, over their whole volumes; None where none did."""
    bled = [one.dice or 0.0 for one in found if one.n_reference]
    return sum(bled) / len(bled) if bled else None


def write_masks_judgement(path: Path, judges: Sequence[MaskJudge], found: Sequence[Overlap]) -> dict[str, object]:
    """Write a row of voxel counts and measures for each scan.

    Args:
        path: the table.
        judges: the scans.
        found: what was found of each.

    Returns:
        The figures over all of them, for the record.

    Raises:
        OutputError: where it cannot be written.
    """
    rows = [
        {"patient": judge.patient, "scan": judge.scan.name} | {name: getattr(one, name) for name in _COLUMNS[2:]}
        for judge, one in zip(judges, found, strict=True)
    ]
    write_csv(path, rows, _COLUMNS)
    clean = sum(1 for one in found if not one.n_reference and not one.n_prediction)
    n_bled = sum(1 for one in found if one.n_reference)
    return {
        "n_scans": len(found),
        "n_that_bled": n_bled,
        "mean_dice_of_those": mean_dice(found),
        "n_others": len(found) - n_bled,
        "n_others_with_an_empty_mask": clean,
    }
