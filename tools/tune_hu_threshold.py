"""Which contrast and outline suit a HU threshold without any network, by volume Dice on phantoms: the source of
configs/hu_threshold.yaml, of its method's default and of configs/hu_components.yaml.

    python tools/tune_hu_threshold.py -n 10 --first-seed 400

Either everything at or above the contrast is blood (`threshold`), or whole components are, compared near the skull with
what is normal at that depth (`components`), as for maps. The heads are those that tune_refinement.py tunes on. The
second figure of a line is the mean volume of the masks on as many heads that did not bleed. Masks of patients choose
nothing here, and no reported figure comes from these seeds.
"""

import argparse
import statistics
from pathlib import Path

from hgisam import Segmenter
from hgisam.config import load_settings
from hgisam.evaluate.overlap import overlap
from hgisam.phantom import PhantomOptions, generate_phantoms
from hgisam.pipeline import SegmentationResult
from hgisam.refine import Components, Threshold, refine
from hgisam.volume import MaskVolume
from hgisam.weak import AT_CONTRAST, HuThreshold

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "hu_threshold.yaml"
CANDIDATES = [
    *(("threshold", contrast_hu) for contrast_hu in (12.0, 16.0, 20.0, 25.0, 30.0, 35.0, 40.0)),
    *(("components", contrast_hu) for contrast_hu in (10.0, 12.0, 16.0, 20.0, 25.0)),
]
"""Method of the outline, and HU over the brain median."""


def main() -> None:
    """Print the contrasts in order of their mean Dice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=400)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    segmenter = Segmenter(options=load_settings(CONFIG).segment)
    dice: dict[tuple[str, float], list[float]] = {candidate: [] for candidate in CANDIDATES}
    false_ml: dict[tuple[str, float], list[float]] = {candidate: [] for candidate in CANDIDATES}
    for bleed_probability in (1.0, 0.0):
        kind = PhantomOptions(bleed_probability=bleed_probability)
        for phantom in generate_phantoms(given.n, given.first_seed, kind, workers=given.workers):
            result = segmenter.segment((phantom.ct.hu.numpy(), phantom.ct.affine.numpy()))
            for candidate in CANDIDATES:
                mask = outlined(result, *candidate)
                if phantom.bleeds:
                    dice[candidate].append(overlap(mask.voxels, phantom.labels > 0, mask.voxel_ml).dice or 0.0)
                else:
                    false_ml[candidate].append(mask.volume_ml)
    for candidate in sorted(CANDIDATES, key=lambda candidate: -statistics.fmean(dice[candidate])):
        means = statistics.fmean(dice[candidate]), statistics.fmean(false_ml[candidate])
        print(f"{means[0]:.3f}  {means[1]:6.1f} ml  {candidate[0]:10s}  contrast_hu {candidate[1]}")
    print(f"mean volume Dice of {given.n} phantoms that bled; mean ml of {given.n} that did not")


def outlined(result: SegmentationResult, method: str, contrast_hu: float) -> MaskVolume:
    """The mask of the same scan by another outline or at another contrast."""
    median_hu = result.brain_median_hu
    method_options = HuThreshold(contrast_hu=contrast_hu)
    saliency = method_options(result.ct.hu, result.region, median_hu, result.ct.spacing_mm[1:])
    outline = Threshold() if method == "threshold" else Components(contrast_hu=contrast_hu)
    return refine(saliency, result.ct, result.region, median_hu, AT_CONTRAST, outline)


if __name__ == "__main__":
    main()
