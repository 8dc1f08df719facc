"""Which outline suits the maps best, by volume Dice on phantoms: the source of the defaults in `refine.Components`.

    python tools/tune_refinement.py -n 10 --first-seed 400

The second figure of a line is the mean volume of the masks on as many heads that did not bleed. Masks of patients
choose nothing here, and no reported figure comes from these seeds.
"""

import argparse
import itertools
import statistics
from pathlib import Path

from hgisam import Segmenter
from hgisam.evaluate.overlap import overlap
from hgisam.phantom import PhantomOptions, generate_phantoms
from hgisam.refine import Components, refine

GRID = {
    "contrast_hu": (10.0, 12.0, 15.0),
    "rim_mm": (0.0, 4.0, 8.0),
    "min_share": (0.2, 0.35, 0.5),
}


def main() -> None:
    """Print the settings in order of their mean Dice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=400)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--most", type=int, default=10, help="how many lines to print")
    given = parser.parse_args()
    segmenter = Segmenter(given.weights)
    rows = itertools.product(*GRID.values())
    candidates = [Components.model_validate(dict(zip(GRID, row, strict=True))) for row in rows]
    dice: dict[Components, list[float]] = {options: [] for options in candidates}
    false_ml: dict[Components, list[float]] = {options: [] for options in candidates}
    for bleed_probability in (1.0, 0.0):
        kind = PhantomOptions(bleed_probability=bleed_probability)
        for phantom in generate_phantoms(given.n, given.first_seed, kind, workers=given.workers):
            result = segmenter.segment((phantom.ct.hu.numpy(), phantom.ct.affine.numpy()))
            reference = phantom.labels > 0
            median_hu = result.brain_median_hu
            for options in candidates:
                mask = refine(result.saliency_house, result.ct, result.region, median_hu, segmenter.threshold, options)
                if phantom.bleeds:
                    dice[options].append(overlap(mask.voxels, reference, mask.voxel_ml).dice or 0.0)
                else:
                    false_ml[options].append(mask.volume_ml)
    best = sorted(dice, key=lambda options: -statistics.fmean(dice[options]))
    for options in best[: given.most]:
        settings = "  ".join(f"{key} {getattr(options, key):<4}" for key in GRID)
        print(f"{statistics.fmean(dice[options]):.3f}  {statistics.fmean(false_ml[options]):6.1f} ml  {settings}")
    print(f"mean volume Dice of {given.n} phantoms that bled, a scan that the gate closes counting as 0;")
    print(f"mean ml of {given.n} that did not")


if __name__ == "__main__":
    main()
