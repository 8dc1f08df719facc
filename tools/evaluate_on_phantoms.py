"""How well the weights do on phantoms of seeds that nobody has seen: detection, and masks from end to end.

    python tools/evaluate_on_phantoms.py -n 40 --first-seed 1000000

Every phantom goes through the whole pipeline (gate, map, refinement) as a scan would. Intervals are 95 % bootstrap
intervals over phantoms, the unit of every mean; for the AUCs whole phantoms are resampled.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from hgisam import Segmenter
from hgisam.config import load_settings
from hgisam.evaluate.detection import auc
from hgisam.evaluate.overlap import Overlap, overlap
from hgisam.evaluate.statistics import figure_interval, mean_interval
from hgisam.phantom import Phantom, PhantomOptions, generate_phantoms
from hgisam.phantom.generate import POSITIVE_SLICE_MM2
from hgisam.pipeline import SegmentationResult
from hgisam.refine import Threshold, refine

LARGE_MM2 = 100.0
"""A second figure leaves slices with less blood than this aside, which a reader misses too."""


Figure = tuple[float, float | None, float | None, int]
"""Value, ends of its interval, and n."""


@dataclass(frozen=True, eq=False)
class Judged:
    """One phantom's outcome: slices, and masks by refinement method."""

    probabilities: torch.Tensor
    labels: torch.Tensor
    clear: torch.Tensor
    large: torch.Tensor
    gated: torch.Tensor
    scan_probability: float
    bleed_ml: float
    masks: dict[str, Overlap]


def main() -> None:
    """Print one table and, with --json, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=40)
    parser.add_argument("--first-seed", type=int, default=1_000_000)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--config", type=Path, help="a recipe with `segment`")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    segmenter = Segmenter(given.weights, options=load_settings(given.config).segment)
    phantoms = generate_phantoms(given.n, given.first_seed, PhantomOptions(), workers=given.workers)
    judged = [judge(segmenter, phantom) for phantom in phantoms]
    figures = summarise(judged)
    for name, (value, low, high, n) in figures.items():
        interval = "" if low is None or high is None else f"  [{low:.3f}, {high:.3f}]"
        print(f"{name:58s} {value:7.3f}{interval}  n={n}")
    print("Research use only, not a medical device.")
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2))


def judge(segmenter: Segmenter, phantom: Phantom) -> Judged:
    """Run the pipeline once; the threshold method re-uses the same map."""
    result = segmenter.segment((phantom.ct.hu.numpy(), phantom.ct.affine.numpy()))
    _, dy, dx = phantom.ct.spacing_mm
    blood_mm2 = (phantom.labels > 0).sum(dim=(1, 2)) * dy * dx
    reference = phantom.labels > 0
    masks = {
        "shipped": overlap(result.mask_volume.voxels, reference, result.mask_volume.voxel_ml),
        "threshold only": overlap(threshold_only(segmenter, result), reference, result.mask_volume.voxel_ml),
    }
    return Judged(
        probabilities=torch.from_numpy(result.slice_probabilities),
        labels=blood_mm2 >= POSITIVE_SLICE_MM2,
        clear=(blood_mm2 >= POSITIVE_SLICE_MM2) | (blood_mm2 == 0),
        large=(blood_mm2 >= LARGE_MM2) | (blood_mm2 == 0),
        gated=torch.from_numpy(result.slice_gated),
        scan_probability=result.probability or 0.0,
        bleed_ml=masks["shipped"].reference_ml,
        masks=masks,
    )


def threshold_only(segmenter: Segmenter, result: SegmentationResult) -> torch.Tensor:
    """The mask of the same map cut at the weights' threshold, without a look at HU."""
    region = torch.ones_like(result.mask_volume.voxels)
    return refine(result.saliency_house, result.ct, region, 0.0, segmenter.threshold, Threshold()).voxels


def summarise(judged: list[Judged]) -> dict[str, Figure]:
    """Every figure as value, interval, and the number of phantoms (or slices, for sensitivity) behind it."""
    figures: dict[str, Figure] = {
        "slice AUC": resampled(judged, lambda js: slice_auc(js, [j.clear for j in js])),
        "slice AUC, positive slices with 1 cm2 of blood or more": resampled(
            judged, lambda js: slice_auc(js, [j.large for j in js])
        ),
        "scan AUC": resampled(judged, scan_auc),
        "gate: sensitivity for slices": resampled(judged, lambda js: share_gated(js, positive=True)),
        "gate: specificity for slices": resampled(judged, lambda js: 1 - share_gated(js, positive=False)),
    }
    bled = [j for j in judged if j.bleed_ml > 0]
    large = [j for j in bled if j.bleed_ml >= 1.0]
    normal = [j for j in judged if j.bleed_ml == 0]
    for method in ("shipped", "threshold only"):
        figures[f"volume Dice, {method} mask, heads that bled"] = mean([j.masks[method].dice or 0.0 for j in bled])
        figures[f"volume Dice, {method} mask, 1 ml and over"] = mean([j.masks[method].dice or 0.0 for j in large])
        figures[f"|volume difference| in ml, {method} mask, heads that bled"] = mean(
            [abs(j.masks[method].difference_ml) for j in bled]
        )
        figures[f"false-positive ml, {method} mask, normal heads"] = mean(
            [j.masks[method].prediction_ml for j in normal]
        )
    return figures


def mean(values: list[float]) -> Figure:
    """Mean with its bootstrap interval."""
    found = mean_interval(values)
    return (float("nan") if found.mean is None else found.mean), found.low, found.high, found.n


def resampled(judged: list[Judged], figure: Callable[[Sequence[Judged]], float]) -> Figure:
    """A figure of many phantoms with its interval."""
    return *figure_interval(judged, figure, lambda j: j.bleed_ml > 0), len(judged)


def slice_auc(judged: Sequence[Judged], shown: Sequence[torch.Tensor]) -> float:
    """Over the slices shown of each head."""
    pairs = list(zip(judged, shown, strict=True))
    return auc(torch.cat([j.probabilities[s] for j, s in pairs]), torch.cat([j.labels[s] for j, s in pairs]))


def scan_auc(judged: Sequence[Judged]) -> float:
    """Over heads."""
    return auc(torch.tensor([j.scan_probability for j in judged]), torch.tensor([j.bleed_ml > 0 for j in judged]))


def share_gated(judged: Sequence[Judged], *, positive: bool) -> float:
    """Share of the positive, or of the clear negative, slices that pass the gate."""
    chosen = [j.gated[j.clear & (j.labels == positive)] for j in judged]
    return float(torch.cat(chosen).float().mean())


if __name__ == "__main__":
    main()
