"""What one scale for all windows and slices is worth: seams, a faint second bleed, slices without blood.

    python tools/show_aggregation.py -o docs/aggregation.png

Before: every window's stages stretched to [0, 1] by themselves, blended, multiplied, stretched per slice (the published
scaling, applied to windows). After: what hgisam does (`segment.stitch_stage_maps`, `segment.aggregate`). The
head is a phantom with a large and a small bleed, enlarged so that its canvas needs several windows; every slice with
brain is mapped, no gate. Means over --heads such phantoms.
"""

import argparse
import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hgisam import Segmenter
from hgisam.attention import min_max
from hgisam.brain import BrainOptions, brain_median_hu, intracranial_region, midsagittal_line
from hgisam.labels import Subtype
from hgisam.phantom import PhantomOptions, make_phantom
from hgisam.preprocess import PreprocessOptions, SliceBatch, preprocess
from hgisam.segment import AggregationOptions, Window, WindowOptions, aggregate, plan_windows, stitch_stage_maps
from hgisam.volume import CTVolume
from hgisam.weak import SelfAttention

ENLARGED = 1.4
"""The head is taken to be this much larger in-plane, so that it outgrows the field of view."""
BLEEDS = PhantomOptions(kinds=(Subtype.INTRAPARENCHYMAL, Subtype.INTRAPARENCHYMAL), volumes_ml=(30.0, 2.0))


@dataclass(frozen=True, eq=False)
class Head:
    """A phantom on the canvas: what the network sees, and where its blood is."""

    batch: SliceBatch
    slices: list[int]
    blood: Tensor
    windows: list[Window]
    fov_px: int


def main() -> None:
    """Print the figures and write the picture of the first head."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--heads", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=3_000_000)
    given = parser.parse_args()
    segmenter = Segmenter(given.weights)
    rows: dict[str, list[dict[str, float]]] = {"before": [], "after": []}
    for index in range(given.heads):
        head = prepare(segmenter, given.first_seed + index)
        maps = {"before": published(segmenter, head), "after": together(segmenter, head)}
        for name, found in maps.items():
            rows[name].append(figures(found, head))
        if index == 0:
            draw(head, maps).save(given.output)
    print(f"{'':52s} {'before':>8s} {'after':>8s}   means over {given.heads} heads")
    for figure in rows["before"][0]:
        before, after = (statistics.fmean(row[figure] for row in rows[name]) for name in ("before", "after"))
        print(f"{figure:52s} {before:8.3f} {after:8.3f}")


def prepare(segmenter: Segmenter, seed: int) -> Head:
    """An enlarged phantom on the canvas, and its windows."""
    phantom = make_phantom(seed, BLEEDS)
    affine = phantom.ct.affine.clone()
    affine[:3, 1:3] *= ENLARGED
    ct = CTVolume(phantom.ct.hu, affine, phantom.ct.source)
    brain = BrainOptions.model_validate(segmenter.weights.metadata.brain)
    seen = PreprocessOptions.model_validate(segmenter.weights.metadata.preprocess)
    region = intracranial_region(ct, brain)
    batch = preprocess(ct, region, midsagittal_line(ct, region, brain), brain_median_hu(ct, region), seen)
    slices = torch.nonzero(batch.region.any(dim=2).any(dim=1)).flatten().tolist()
    height, width = batch.images.shape[-2:]
    windows = plan_windows((height, width), seen.fov_px, WindowOptions())
    blood = batch.to_canvas((phantom.labels > 0).float())[slices] >= 0.5
    return Head(batch, slices, blood, windows, seen.fov_px)


def together(segmenter: Segmenter, head: Head) -> Tensor:
    """hgisam's way: raw maps, blended, one scale for the scan."""
    return stitched(segmenter, head, WindowOptions(), "volume", stretch_windows=False)


def published(segmenter: Segmenter, head: Head) -> Tensor:
    """Every window and every slice stretched by itself, then blended all the same."""
    return stitched(segmenter, head, WindowOptions(), "slice", stretch_windows=True)


def stitched(
    segmenter: Segmenter, head: Head, options: WindowOptions, normalisation: str, *, stretch_windows: bool
) -> Tensor:
    """Saliency of every slice with brain, on the canvas."""

    def stage_maps(images: Tensor) -> tuple[Tensor, list[Tensor]]:
        log_odds, stages = SelfAttention().stage_maps(segmenter.weights.model, images)
        return log_odds, [min_max(stage) if stretch_windows else stage for stage in stages]

    stages = stitch_stage_maps(
        stage_maps, head.batch.images, head.batch.region, head.slices, head.windows, head.fov_px, 4, segmenter.device,
        options, comparable=not stretch_windows,
    )  # fmt: skip
    region = head.batch.region[head.slices]
    return aggregate(stages, region, AggregationOptions.model_validate({"normalisation": normalisation}))


def figures(saliency: Tensor, head: Head) -> dict[str, float]:
    """Numbers of one head. A ratio of 1 across edges means that no seam shows."""
    region = head.batch.region[head.slices]
    area = head.blood.sum(dim=(1, 2))
    largest = int(area.argmax())
    in_blood = saliency[head.blood].mean()
    bled, clear = area > 0, area == 0
    peaks = saliency.amax(dim=(1, 2))
    lower = torch.tensor([float(saliency[i][head.blood[i]].mean()) for i in torch.nonzero(bled).flatten()])
    return {
        "mean saliency in blood, share of the scan's highest": float(in_blood / saliency.max()),
        "the same in the slice where it is lowest": float(lower.min() / saliency.max()),
        "brightest pixel of slices without blood": float(peaks[clear].mean()),
        "saliency in blood over saliency elsewhere": float(in_blood / saliency[region & ~head.blood].mean()),
        "step across window edges over steps beside them": seam(
            saliency[largest], region[largest], head.windows, head.fov_px
        ),
    }


def seam(saliency: Tensor, region: Tensor, windows: list[Window], fov_px: int) -> float:
    """Mean absolute step of saliency across the edges of windows, over that a few pixels beside them."""
    at_edge, beside = [], []
    for plane, inside, starts in (
        (saliency, region, {top for top, _ in windows}),
        (saliency.T, region.T, {left for _, left in windows}),
    ):
        steps = (plane[1:] - plane[:-1]).abs()
        both = inside[1:] & inside[:-1]
        edges = [edge - 1 for start in starts for edge in (start, start + fov_px) if 0 < edge < len(plane)]
        for edge in edges:
            at_edge.append(steps[edge][both[edge]])
            beside += [steps[edge + off][both[edge + off]] for off in (-4, -3, 3, 4) if 0 <= edge + off < len(steps)]
    return float(torch.cat(at_edge).mean() / torch.cat(beside).mean().clamp_min(1e-9))


def draw(head: Head, maps: dict[str, Tensor]) -> Image.Image:
    """Rows: the scan with its blood in red, before, after. Columns: slices with and without blood."""
    area = head.blood.sum(dim=(1, 2))
    bled = torch.nonzero(area > 0).flatten()
    clear = torch.nonzero(area == 0).flatten()
    chosen = [int(i) for i in (*bled[:: max(1, len(bled) // 4)][:4], *clear[len(clear) // 3 :: 4][:2])]
    hu = ((head.batch.relative_hu[head.slices] + 30) / 80).clamp(0, 1)
    scan = torch.stack([hu, hu, hu], dim=-1)
    scan[head.blood] = scan[head.blood] * 0.5 + torch.tensor([0.5, 0.0, 0.0])
    pictures = [scan, *(found[..., None].expand(-1, -1, -1, 3) for found in maps.values())]
    rows = [torch.cat([picture[i] for i in chosen], dim=1) for picture in pictures]
    return Image.fromarray((torch.cat(rows).numpy() * 255).astype(np.uint8))


if __name__ == "__main__":
    main()
