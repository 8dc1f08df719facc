"""Draw the intracranial region and the mid-sagittal line on every slice of some scans, to be checked by eye.

    python tools/look_at_regions.py ../shared/realdata/ct_ich/070.nii.gz -o out/regions

writes one PNG per scan: red is the region's outline, cyan the line, yellow the slice's index.
"""

import argparse
import math
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from jaxtyping import Bool
from torch import Tensor

from hgisam.brain import Midline, brain_median_hu, intracranial_region, midsagittal_line
from hgisam.io.nifti import read_ct
from hgisam.volume import CTVolume
from hgisam.windowing import HUWindow

SHOWN = HUWindow(center_hu=40.0, width_hu=160.0)


def draw_montage(
    volume: CTVolume, region: Bool[Tensor, "depth height width"], midline: Midline, path: Path, columns: int
) -> None:
    """Write the montage of all slices as a PNG."""
    depth, height, width = volume.hu.shape
    _, dy, dx = volume.spacing_mm
    rows = math.ceil(depth / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2.4 * columns, 2.4 * rows), squeeze=False)
    angle = math.radians(midline.angle_deg)
    for index, axis in enumerate(axes.flat):
        axis.axis("off")
        if index >= depth:
            continue
        axis.imshow(volume.hu[index].numpy(), cmap="gray", vmin=SHOWN.low_hu, vmax=SHOWN.high_hu, aspect=dy / dx)
        if bool(region[index].any()):
            axis.contour(region[index].numpy(), [0.5], colors="red", linewidths=0.8)
            offset = midline.offset_at_mm(index)
            ends = [
                (offset * math.cos(angle) - s * math.sin(angle), offset * math.sin(angle) + s * math.cos(angle))
                for s in (-height * dy, height * dy)
            ]
            axis.plot(
                [(width - 1) / 2 + x / dx for x, _ in ends],
                [(height - 1) / 2 + y / dy for _, y in ends],
                color="cyan",
                linewidth=0.6,
            )
        axis.set_xlim(-0.5, width - 0.5)
        axis.set_ylim(height - 0.5, -0.5)
        axis.text(3, height * 0.08, str(index), color="yellow", fontsize=8)
    figure.subplots_adjust(0, 0, 1, 1, 0.01, 0.01)
    figure.savefig(path, dpi=60)
    plt.close(figure)


def main() -> None:
    """Draw each scan and print its region's volume, its median, its line and the time taken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", nargs="+", type=Path, help="NIfTI files")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the PNGs; made if absent")
    parser.add_argument("--columns", type=int, default=9, help="slices per row")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for path in arguments.scans:
        volume, _ = read_ct(path)
        started = time.perf_counter()
        region = intracranial_region(volume)
        region_s = time.perf_counter() - started
        midline = midsagittal_line(volume, region)
        line_s = time.perf_counter() - started - region_s
        stem = path.name.split(".")[0]
        draw_montage(volume, region, midline, arguments.output / f"{stem}.png", arguments.columns)
        spacing = math.prod(volume.spacing_mm)
        median = f"{brain_median_hu(volume, region):.1f} HU" if bool(region.any()) else "no region"
        print(
            f"{stem}: {float(region.sum()) * spacing / 1000:.0f} mL, median {median}, "
            f"turned {midline.angle_deg:.1f} deg, "
            f"region {region_s:.2f} s, line {line_s:.2f} s"
        )


if __name__ == "__main__":
    main()
