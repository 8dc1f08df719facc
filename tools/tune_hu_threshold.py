"""Which contrast suits a HU threshold without any network, by volume Dice on phantoms: the source of its default.

    python tools/tune_hu_threshold.py -n 10 --first-seed 400

The heads are those that tune_refinement.py tunes on. The second figure of a line is the mean volume of the masks on as
many heads that did not bleed. Masks of patients choose nothing here, and no reported figure comes from these seeds.
"""

import argparse
import statistics
from pathlib import Path

from hgisam import Segmenter
from hgisam.config import load_settings
from hgisam.evaluate.overlap import overlap
from hgisam.phantom import PhantomOptions, generate_phantoms
from hgisam.pipeline import SegmentationResult
from hgisam.refine import refine
from hgisam.volume import MaskVolume
from hgisam.weak import HuThreshold

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "hu_threshold.yaml"
CONTRASTS_HU = (8.0, 10.0, 12.0, 14.0, 16.0, 18.0, 20.0, 22.0, 25.0)


def main() -> None:
    """Print the contrasts in order of their mean Dice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=400)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    segmenter = Segmenter(options=load_settings(CONFIG).segment)
    dice: dict[float, list[float]] = {contrast_hu: [] for contrast_hu in CONTRASTS_HU}
    false_ml: dict[float, list[float]] = {contrast_hu: [] for contrast_hu in CONTRASTS_HU}
    for bleed_probability in (1.0, 0.0):
        kind = PhantomOptions(bleed_probability=bleed_probability)
        for phantom in generate_phantoms(given.n, given.first_seed, kind, workers=given.workers):
            result = segmenter.segment((phantom.ct.hu.numpy(), phantom.ct.affine.numpy()))
            for contrast_hu in CONTRASTS_HU:
                mask = cut(result, contrast_hu, segmenter)
                if phantom.bleeds:
                    dice[contrast_hu].append(overlap(mask.voxels, phantom.labels > 0, mask.voxel_ml).dice or 0.0)
                else:
                    false_ml[contrast_hu].append(mask.volume_ml)
    for contrast_hu in sorted(CONTRASTS_HU, key=lambda hu: -statistics.fmean(dice[hu])):
        means = statistics.fmean(dice[contrast_hu]), statistics.fmean(false_ml[contrast_hu])
        print(f"{means[0]:.3f}  {means[1]:6.1f} ml  contrast_hu {contrast_hu}")
    print(f"mean volume Dice of {given.n} phantoms that bled; mean ml of {given.n} that did not")


def cut(result: SegmentationResult, contrast_hu: float, segmenter: Segmenter) -> MaskVolume:
    """The mask of the same scan at another contrast."""
    median_hu = result.brain_median_hu
    if median_hu is None:
        raise SystemExit(f"{result.source}: expected a head with brain; got none; mend the region first")
    saliency = HuThreshold(contrast_hu=contrast_hu)(result.ct.hu, result.region, median_hu, result.ct.spacing_mm[1:])
    options = segmenter.options.refine
    return refine(saliency, result.ct, result.region, median_hu, segmenter.threshold, options)


if __name__ == "__main__":
    main()
