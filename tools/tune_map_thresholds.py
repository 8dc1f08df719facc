"""At which saliency each weak-label method's map is best cut, by volume Dice on phantoms: the thresholds of rows that
are maps alone in configs/compare_phantoms.yaml and configs/compare_bhsd.yaml, and of the weights that ship.

    python tools/tune_map_thresholds.py
    python tools/tune_map_thresholds.py --weights runs/resnet18/best.safetensors --recipes grad_cam grad_cam_plus_plus

The heads are those that choose the threshold of the weights; none of them was trained on, and no reported figure comes
from them. Masks of patients choose nothing here.
"""

import argparse
import os
import statistics
from pathlib import Path

import torch

from hgisam import Segmenter
from hgisam.config import load_settings
from hgisam.evaluate.overlap import overlap
from hgisam.phantom import Phantom, PhantomOptions, generate_phantoms
from hgisam.pipeline import SegmentationResult
from hgisam.refine import Threshold, refine

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
RECIPES = (
    "hgi_sam_without_refinement", "gradient_rollout", "grad_cam", "grad_cam_plus_plus", "layer_cam",
)  # fmt: skip
SEEDS = range(360, 372)
"""Phantoms that choose; none of them was trained on."""
THRESHOLDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def main() -> None:
    """Print each recipe's best threshold and its Dice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--recipes", nargs="*", choices=RECIPES, default=RECIPES, help="that fit the network")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    phantoms = tuning_phantoms(given.workers)
    print(f"mean volume Dice of the {len(phantoms)} phantoms that bled, of seeds {SEEDS[0]} to {SEEDS[-1]}")
    for recipe in given.recipes:
        settings = load_settings(CONFIGS / f"{recipe}.yaml", {"segment": {"refine": {"method": "threshold"}}})
        threshold, dice = best_threshold(Segmenter(given.weights, options=settings.segment), phantoms)
        print(f"{recipe:28s}  threshold {threshold:5.3f}  Dice {dice:.3f}", flush=True)


def tuning_phantoms(workers: int) -> list[Phantom]:
    """The heads that choose, those that bled."""
    made = generate_phantoms(len(SEEDS), SEEDS[0], PhantomOptions(), workers=workers)
    return [phantom for phantom in made if phantom.bleeds]


def best_threshold(segmenter: Segmenter, phantoms: list[Phantom]) -> tuple[float, float]:
    """The saliency threshold of the best mean volume Dice, and that Dice.

    Args:
        segmenter: whose outline is a threshold.
        phantoms: that bled.
    """
    dice: dict[float, list[float]] = {threshold: [] for threshold in THRESHOLDS}
    for phantom in phantoms:
        result = segmenter.segment((phantom.ct.hu.numpy(), phantom.ct.affine.numpy()))
        for threshold, found in dice.items():
            found.append(cut_dice(result, phantom, threshold))
    means = {threshold: statistics.fmean(found) for threshold, found in dice.items()}
    best = max(means, key=lambda threshold: means[threshold])
    return best, round(means[best], 4)


def cut_dice(result: SegmentationResult, phantom: Phantom, threshold: float) -> float:
    """Volume Dice of the map cut at a threshold."""
    region = torch.ones_like(phantom.labels, dtype=torch.bool)
    mask = refine(result.saliency_house, result.ct, region, 0.0, threshold, Threshold())
    return overlap(mask.voxels, phantom.labels > 0, mask.voxel_ml).dice or 0.0


if __name__ == "__main__":
    main()
