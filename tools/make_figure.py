"""Make the README's figure: the four slices of a sample volume in which most blood was found, small enough for a page.

python tools/make_figure.py                    # writes docs/figure.png
"""

import argparse
import io
from pathlib import Path

import torch
from PIL import Image

from hgisam import Segmenter
from hgisam.io.atomic import atomic_write
from hgisam.pipeline import SegmentationResult
from hgisam.preview import render_preview
from hgisam.volume import CTVolume

N_SLICES = 4
WIDTH_PX = 1200


def main() -> None:
    """Segment the scan and write the figure."""
    parser = argparse.ArgumentParser(description="Make the README's figure from a sample volume.")
    parser.add_argument("scan", nargs="?", type=Path, default=Path("sample_volumes/intraparenchymal_large.nii.gz"))
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/figure.png"))
    arguments = parser.parse_args()
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.open(io.BytesIO(figure(Segmenter().segment(arguments.scan))))
    height_px = round(picture.height * WIDTH_PX / picture.width)
    small = picture.resize((WIDTH_PX, height_px), Image.Resampling.LANCZOS)
    with atomic_write(arguments.output) as file:
        small.save(file, format="PNG", optimize=True)
    print(f"{arguments.output}: {small.width} x {small.height} px, {arguments.output.stat().st_size / 1e3:.0f} kB")


def figure(result: SegmentationResult) -> bytes:
    """A preview of the slices with the largest area of mask, as PNG."""
    mask = result.mask_volume.voxels
    chosen = mask.flatten(1).sum(dim=1).topk(min(N_SLICES, len(mask))).indices.sort().values
    depth = len(mask)
    backwards = result.grid.orientation.flips[0]
    in_file = torch.arange(depth - 1, -1, -1) if backwards else torch.arange(depth)
    return render_preview(
        CTVolume(result.ct.hu[chosen], result.ct.affine, result.ct.source),
        mask[chosen],
        result.saliency_house[chosen],
        torch.from_numpy(result.slice_probabilities.copy())[in_file[chosen]],
        title=result.ct.source,
        volume_ml=result.volume_ml,
        probability=result.probability,
        slice_indices=in_file[chosen].tolist(),
        operating_point=result.operating_point,
    )


if __name__ == "__main__":
    main()
