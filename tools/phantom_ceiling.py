"""How far an outline can get on synthetic heads that takes nothing for blood that is denser than any clot.

    python tools/phantom_ceiling.py -n 80 --first-seed 2000000

A phantom's labels say where blood was put, before the scanner blurred it with the bone beside it. Every outline by HU
leaves out what is denser than `Components.ceiling_hu`. Of heads that bled 1 mL or more: the share of their blood that
is so dense, and the Dice of whoever outlines all the rest without an error. The means are over heads, by the subtype of
most of a head's blood.
"""

import argparse
import os
from collections import defaultdict

from hgisam.evaluate.overlap import overlap
from hgisam.evaluate.statistics import mean_interval
from hgisam.labels import SUBTYPES
from hgisam.phantom import generate_phantoms
from hgisam.refine import Components

LEAST_ML = 1.0


def main() -> None:
    """Print a line for each subtype, and one for all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=80)
    parser.add_argument("--first-seed", type=int, default=2_000_000)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    ceiling_hu = Components().ceiling_hu
    dense: dict[str, list[float]] = defaultdict(list)
    dice: dict[str, list[float]] = defaultdict(list)
    for phantom in generate_phantoms(given.n, given.first_seed, workers=given.workers):
        blood = phantom.labels > 0
        best = overlap(blood & (phantom.ct.hu <= ceiling_hu), blood, float(phantom.ct.slice_voxel_ml[0]))
        if best.reference_ml < LEAST_ML:
            continue
        most = SUBTYPES[int(phantom.labels[blood].long().bincount().argmax()) - 1].value
        for name in (most, "all"):
            dense[name].append(1 - best.n_prediction / best.n_reference)
            dice[name].append(best.dice or 0.0)
    print(f"{'':20s} heads  denser than {ceiling_hu:g} HU  Dice of all the rest")
    for name in sorted(dense, key=lambda name: (name == "all", name)):
        share, found = mean_interval(dense[name]), mean_interval(dice[name])
        print(f"{name:20s} {found.n:5d}  {share.mean:18.3f}  {found.mean:.3f}")


if __name__ == "__main__":
    main()
