"""What each step of the outline is worth: every candidate on the same maps, one row each.

    python tools/refinement_ablation.py --for judging --phantoms 20 --normal 4 --patients 20 \\
        --data ../shared/realdata/ct_ich --cache CACHE

Two sets with exact truth, and no mask of a patient in either. Phantoms that bled, and others that did not. And real
scans whose slices are labelled to hold no blood (CT-ICH): one bleed is painted into each, as for training, and grown
into the slices beside it; and the same scans as they are. `--for choosing` takes phantoms of seeds from 410 and every
other patient, on which settings may be chosen; `--for judging` seeds from 2,000,000 and the patients between.

Weights that have learned from these very patients say nothing of painted bleeds: `--out-of-fold FOLDER...` looks at
each patient with the network of the fold that had not seen them (tools/cross_validate.py), at phantoms with
`--weights`.

The network looks at a head once; every row outlines the same map. What it saw is kept in the cache, so that a table is
soon made again; a cache is of one edition of weights, and of one map. A scan that the gate closes counts as Dice 0 in
every row. Intervals are 95 % bootstrap intervals over heads; a gain is over the row that is named, head by head.
Seconds are of CPU, per scan.
"""

import argparse
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import torch
from ablation_heads import Compared, Head, add_arguments, heads, shown, with_compared
from evaluate_on_labels import segmenters
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import apply_hysteresis_threshold
from skimage.morphology import h_maxima
from skimage.segmentation import watershed

from hgisam import Segmenter
from hgisam.brain import midsagittal_line
from hgisam.evaluate.overlap import overlap
from hgisam.evaluate.statistics import mean_interval
from hgisam.pipeline import SegmentOptions
from hgisam.preview import Outline, render_outlines
from hgisam.refine import Components, MappedScan, RandomWalk, Refiner, Threshold, refine, remove_small_components
from hgisam.refine.pieces import chosen_components, ranks, split_at_necks
from hgisam.volume import CTVolume

DEFAULT = "components"
WHOLE = "whole components"
"""Without an edge of their own, or what is blurred with the skull."""
EDGED = "their own edge"
"""The default without what is blurred with the skull."""
OURS = Components()
FEW_VOXELS = 20
"""Of fewer, no mixture of Gaussians is learned."""
Mask = NDArray[np.bool_]
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Look:
    """A head as the network saw it.

    Attributes:
        kind: phantom or painted, which bled; normal or unpainted, which did not.
    """

    kind: str
    name: str
    ct: CTVolume
    region: torch.Tensor
    saliency: torch.Tensor
    median_hu: float
    reference: torch.Tensor

    @cached_property
    def scan(self) -> MappedScan:
        """The whole of it, as methods see it."""
        return MappedScan(
            saliency=self.saliency,
            hu=self.ct.hu,
            region=self.region,
            median_hu=self.median_hu,
            threshold=0.0,
            spacing_mm=self.ct.spacing_mm[1:],
            distances_mm=self.ct.slice_distances_mm,
        )

    @property
    def excess_hu(self) -> NDArray[np.float32]:
        """HU over what is normal there; -inf where unknown."""
        return OURS.excess_hu(self.scan).numpy()


@dataclass(frozen=True)
class Row(Compared):
    """A candidate: the row that it is compared with, and the way from a look and the weights' threshold to a mask."""

    outline: Callable[[Look, float], torch.Tensor]


def by(method: Refiner) -> Callable[[Look, float], torch.Tensor]:
    """A method of the package."""

    def outlined(look: Look, threshold: float) -> torch.Tensor:
        return refine(look.saliency, look.ct, look.region, look.median_hu, threshold, method).voxels

    return outlined


def whole(**options: float) -> Components:
    """The default's kind of components without what was added to it, but for these options."""
    without = {"edge_mm": 0.0, "min_mean": 0.0, "faint_split_mm": 0.0, "skull_mm": 0.0}
    return Components.model_validate(without | options)


def of(candidate: Callable[[Look], Mask]) -> Callable[[Look, float], torch.Tensor]:
    """A candidate that is no method of the package, without its small components."""

    def outlined(look: Look, threshold: float) -> torch.Tensor:
        mask = torch.from_numpy(np.ascontiguousarray(candidate(look)))
        return remove_small_components(mask, 1000.0 * look.ct.slice_voxel_ml, OURS.min_component_mm3)

    return outlined


def up_to_the_skull(candidate: Callable[[Look], Mask]) -> Callable[[Look, float], torch.Tensor]:
    """A candidate with what of its blood is blurred with the skull, as by default."""
    return of(lambda look: OURS.up_to_the_skull(look.scan, torch.from_numpy(candidate(look))).numpy())


def chosen(look: Look, excess_hu: NDArray[np.float32]) -> Mask:
    """Components of an excess, ranked as by default."""
    return OURS.outlined(look.scan, torch.from_numpy(excess_hu)) > 0


def dense(rim_mm: float) -> Callable[[Look], Mask]:
    """All that is dense, whatever the map says within a slice."""
    return lambda look: Components(rim_mm=rim_mm).excess_hu(look.scan).numpy() >= OURS.contrast_hu


def gated(rim_mm: float) -> Callable[[Look, float], torch.Tensor]:
    """What the map shows at its threshold, where it is dense too: each voxel by itself."""

    def outlined(look: Look, threshold: float) -> torch.Tensor:
        return of(lambda seen: (seen.saliency >= threshold).numpy() & dense(rim_mm)(seen))(look, threshold)

    return outlined


def hysteresis(look: Look) -> Mask:
    """What is denser by 8 HU and touches, in 3D, what is denser by 16: whole components, ranked as by default.

    Source: Canny 1986, as in scikit-image.
    """
    grown = apply_hysteresis_threshold(look.excess_hu, 8.0, 16.0)
    pieces = split_at_necks(torch.from_numpy(grown), look.scan.spacing_mm, 0.0)
    return chosen_components(pieces, ranks(pieces, look.saliency.numpy(), min_mean=0.0), OURS.min_share) > 0


def by_sums(look: Look) -> Mask:
    """Whole components that gather a tenth of what the one gathers that gathers most."""
    pieces = split_at_necks(torch.from_numpy(look.excess_hu >= OURS.contrast_hu), look.scan.spacing_mm, 0.0)
    sums = np.bincount(pieces.ravel(), weights=look.saliency.numpy().ravel().astype(np.float64))
    sums[0] = 0.0
    return np.asarray(((sums > 0) & (sums >= 0.1 * sums.max()))[pieces])


def flooded(look: Look) -> Mask:
    """Components that touch are cut by a watershed of their depth in mm, in 3D; basins less than 1 mm deep are one, and
    a component that is nowhere so deep stays whole.

    Source: Meyer 1994, as in scikit-image.
    """
    is_dense = look.excess_hu >= OURS.contrast_hu
    depth_mm = ndimage.distance_transform_edt(np.pad(is_dense, 1), sampling=look.ct.spacing_mm)[1:-1, 1:-1, 1:-1]
    touching = ndimage.generate_binary_structure(3, 2)
    markers, _ = ndimage.label(h_maxima(depth_mm, 1.0), touching)
    pieces = watershed(-depth_mm, markers, connectivity=touching, mask=is_dense).astype(np.int64)
    thin, _ = ndimage.label(is_dense & (pieces == 0), touching)
    pieces = np.where(thin > 0, thin + pieces.max(), pieces)
    return chosen_components(pieces, ranks(pieces, look.saliency.numpy(), min_mean=0.0), OURS.min_share) > 0


def grab_cut(look: Look) -> Mask:
    """GrabCut within 6 mm of the default's mask, slice by slice: two mixtures of Gaussians of smoothed HU and the cut
    between them that costs least, five times over. (With the map as a colour too it takes in a ring of brain.)

    Source: Rother, Kolmogorov, Blake 2004, as in OpenCV.
    """
    excess_hu = look.excess_hu
    mask = chosen(look, excess_hu)
    known = np.isfinite(excess_hu)
    for index in np.flatnonzero(mask.sum(axis=(1, 2)) >= FEW_VOXELS):
        away_mm = ndimage.distance_transform_edt(~mask[index], sampling=look.scan.spacing_mm)
        hu = np.where(known[index], excess_hu[index], 0.0).clip(-20, 60)
        image = np.repeat(np.round((hu + 20) * (255 / 80)).astype(np.uint8)[..., None], 3, axis=-1)
        state = np.where(mask[index], cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
        state[~known[index] | (away_mm > 6.0)] = cv2.GC_BGD
        if not (state == cv2.GC_PR_FGD).any():
            continue
        cv2.setRNGSeed(0)
        cv2.grabCut(image, state, (0, 0, 0, 0), np.zeros((1, 65)), np.zeros((1, 65)), 5, cv2.GC_INIT_WITH_MASK)
        mask[index] = (state == cv2.GC_FGD) | (state == cv2.GC_PR_FGD)
    return mask


def least_variance(look: Look) -> Mask:
    """The contrast that splits the HU under the map into the two most even classes, at least the default's.

    Source: UM-CAM's rule; Otsu 1979.
    """
    excess_hu = look.excess_hu
    hot = (look.saliency >= 0.3 * look.saliency.max()).numpy() & np.isfinite(excess_hu)
    values = excess_hu[hot]
    cuts = [cut for cut in np.arange(OURS.contrast_hu, 40.0, 0.5) if 20 <= (values >= cut).sum() <= len(values) - 20]
    if not cuts:
        return chosen(look, excess_hu)
    within = [sum(len(part) * part.var() for part in (values[values < cut], values[values >= cut])) for cut in cuts]
    return (
        Components(contrast_hu=float(cuts[int(np.argmin(within))])).outlined(look.scan, torch.from_numpy(excess_hu)) > 0
    )


def off_midline_mm(look: Look) -> tuple[Floats, float, Floats, Floats]:
    """Signed distance of every voxel from the mid-sagittal line, the line's angle, and the picture's mm (y, x)."""
    line = midsagittal_line(look.ct, look.region)
    _, height, width = look.ct.hu.shape
    dy, dx = look.scan.spacing_mm
    y, x = (np.arange(height) - (height - 1) / 2)[:, None] * dy, (np.arange(width) - (width - 1) / 2)[None] * dx
    angle = math.radians(line.angle_deg)
    offsets = [line.offset_at_mm(float(coordinate)) for coordinate in look.ct.slice_coordinates]
    across = x * math.cos(angle) + y * math.sin(angle)
    return np.stack([across - offset for offset in offsets]), angle, y, x


def mirrored(look: Look) -> Mask:
    """Half the excess of the other side, blurred by 2 mm, is taken off."""
    excess_hu = look.excess_hu
    dy, dx = look.scan.spacing_mm
    shown = ndimage.gaussian_filter(np.where(np.isfinite(excess_hu), excess_hu.clip(0, 60), 0), (0, 2 / dy, 2 / dx))
    off_mm, angle, y, x = off_midline_mm(look)
    other = np.empty_like(shown)
    for index, plane in enumerate(shown):
        rows = (y - 2 * off_mm[index] * math.sin(angle)) / dy + (plane.shape[0] - 1) / 2
        columns = (x - 2 * off_mm[index] * math.cos(angle)) / dx + (plane.shape[1] - 1) / 2
        other[index] = ndimage.map_coordinates(plane, [rows, columns], order=1)
    return chosen(look, (excess_hu - 0.5 * other).astype(np.float32))


def without_midline_sheets(look: Look) -> Mask:
    """Within 5 mm of the midline, what is thinner than 5 mm in its slice is falx or sinus."""
    return without_sheets(look, np.abs(off_midline_mm(look)[0]) <= 5.0)


def without_deep_sheets(look: Look) -> Mask:
    """The same of what lies 10 mm and more below the region's outline, wherever: falx or tentorium, and no crescent."""
    region = look.region.numpy()
    depth_mm = [ndimage.distance_transform_edt(np.pad(plane, 1), sampling=look.scan.spacing_mm) for plane in region]
    return without_sheets(look, np.stack(depth_mm)[:, 1:-1, 1:-1] >= 10.0)


def without_sheets(look: Look, where: Mask) -> Mask:
    """The default without what is dense there and thinner than 5 mm in its slice."""
    excess_hu = look.excess_hu
    spacing_mm = look.scan.spacing_mm
    is_dense = excess_hu >= OURS.contrast_hu
    for index in np.flatnonzero((is_dense & where).any(axis=(1, 2))):
        deep = ndimage.distance_transform_edt(np.pad(is_dense[index], 1), sampling=spacing_mm)[1:-1, 1:-1] > 2.5
        thick = ndimage.distance_transform_edt(~deep, sampling=spacing_mm) <= 2.5 if deep.any() else deep
        excess_hu[index][is_dense[index] & where[index] & ~thick] = -np.inf
    return chosen(look, excess_hu)


def crescent(look: Look) -> Mask:
    """Blood along the skull reaches the inner table and is as thick as its neighbours: from the middle of each slice, a
    ray's blood within 15 mm of the outline is filled out to it, with the thickness smoothed over 9 degrees."""
    excess_hu = look.excess_hu
    mask = chosen(look, excess_hu)
    spacing_mm = look.scan.spacing_mm
    region = look.region.numpy()
    for index in np.flatnonzero(mask.any(axis=(1, 2))):
        depth_mm = ndimage.distance_transform_edt(np.pad(region[index], 1), sampling=spacing_mm)[1:-1, 1:-1]
        under = mask[index] & (depth_mm <= 15.0)
        if not (under & (depth_mm <= 4.0)).any():
            continue
        middle = np.argwhere(region[index]).mean(axis=0)
        rows, columns = np.indices(under.shape)
        ray = np.degrees(np.arctan2(rows - middle[0], columns - middle[1])).astype(int) % 360
        thickness_mm = np.zeros(360)
        np.maximum.at(thickness_mm, ray[under], depth_mm[under])
        touches = np.bincount(ray[under & (depth_mm <= 4.0)], minlength=360) > 0
        smooth = ndimage.median_filter(np.where(touches, thickness_mm, 0.0), 9, mode="wrap")
        fills = region[index] & (depth_mm <= smooth[ray]) & (excess_hu[index] >= 0.5 * OURS.contrast_hu)
        mask[index] |= fills
    return mask


def crf(look: Look) -> Mask:
    """Dense CRF over voxels within 6 mm of the default's mask, in 3D: mean field on a bilateral grid of place and HU.

    Source: Kraehenbuehl and Koltun 2011; Paris and Durand 2006 for the grid. Deviation: both kernels are normalised.
    """
    excess_hu = look.excess_hu
    mask = chosen(look, excess_hu)
    if not mask.any():
        return mask
    spacing_mm = look.ct.spacing_mm
    known = np.isfinite(excess_hu)
    taking_part = known & (ndimage.distance_transform_edt(~mask, sampling=spacing_mm) <= 6.0)
    belief = np.clip((excess_hu[taking_part] - OURS.contrast_hu) / 4.0, -3.0, 3.0)
    belief[(excess_hu >= OURS.contrast_hu)[taking_part] & ~mask[taking_part]] = -3.0
    unary = torch.from_numpy(belief.astype(np.float32))
    places = np.argwhere(taking_part) * spacing_mm / 6.0
    hu = excess_hu[taking_part].clip(-20, 60)[:, None] / 8.0
    where = torch.from_numpy(np.concatenate([places, hu], axis=1).astype(np.float32))
    where = where - where.amin(dim=0) + 1.0
    below = where.floor().long()
    share = where - below
    size = [int(n) + 3 for n in below.amax(dim=0)]
    corners = []
    for corner in np.ndindex(2, 2, 2, 2):
        weight = torch.stack([share[:, i] if up else 1 - share[:, i] for i, up in enumerate(corner)]).prod(dim=0)
        index = torch.from_numpy(np.ravel_multi_index((below.numpy() + corner).T, size))
        corners.append((index, weight))

    def bilateral(values: torch.Tensor) -> torch.Tensor:
        grid = torch.zeros(math.prod(size))
        for index, weight in corners:
            grid.index_add_(0, index, weight * values)
        blurred = ndimage.gaussian_filter(grid.reshape(size).numpy(), 0.9, mode="constant", truncate=3.0)
        flat = torch.from_numpy(blurred).flatten()
        return torch.stack([weight * flat[index] for index, weight in corners]).sum(dim=0)

    def smooth(values: torch.Tensor) -> torch.Tensor:
        volume = np.zeros(mask.shape, dtype=np.float32)
        volume[taking_part] = values.numpy()
        blurred = ndimage.gaussian_filter(volume, [1.5 / mm for mm in spacing_mm], mode="constant")
        return torch.from_numpy(blurred[taking_part])

    ones = torch.ones(len(unary))
    by_hu, by_place = bilateral(ones), smooth(ones)
    blood = unary.sigmoid()
    for _ in range(5):
        sign = 2 * blood - 1
        blood = (unary + bilateral(sign) / by_hu + smooth(sign) / by_place).sigmoid()
    found = np.zeros_like(mask)
    found[taking_part] = (blood > 0.5).numpy()
    return found


ROWS = {
    "threshold": Row(None, by(Threshold())),
    "threshold and HU gate": Row("threshold", gated(0.0)),
    "gate that knows the rim": Row("threshold and HU gate", gated(OURS.rim_mm)),
    "dense tissue, no map": Row("threshold", of(dense(0.0))),
    "the rim known, no map": Row("dense tissue, no map", of(dense(OURS.rim_mm))),
    "ranked by sums alone": Row("the rim known, no map", of(by_sums)),
    WHOLE: Row("ranked by sums alone", by(whole())),
    "the rim not known": Row(WHOLE, by(whole(rim_mm=0))),
    "hysteresis 16 -> 8 HU": Row(WHOLE, of(hysteresis)),
    "contrast 16, edge at 10 HU": Row(WHOLE, by(whole(contrast_hu=16, edge_mm=3, edge_share=0, edge_hu=10))),
    "edge at half contrast": Row(WHOLE, by(whole(edge_mm=2, edge_share=0.5))),
    "faint pieces left out": Row(WHOLE, by(whole(min_mean=OURS.min_mean))),
    "cut at necks": Row(WHOLE, by(whole(split_mm=1.5))),
    "cut by a watershed": Row(WHOLE, of(flooded)),
    EDGED: Row(WHOLE, by(Components(skull_mm=0))),
    DEFAULT: Row(EDGED, by(OURS)),
    "cut at necks, own edge": Row(DEFAULT, by(Components(split_mm=1.5))),
    "cut at wide necks, own edge": Row(DEFAULT, by(Components(split_mm=3))),
    "faint ones not cut": Row(DEFAULT, by(Components(faint_split_mm=0))),
    "faint ones cut at wide necks": Row(DEFAULT, by(Components(faint_split_mm=3))),
    "contrast by least variance": Row(DEFAULT, up_to_the_skull(least_variance)),
    "left minus right": Row(DEFAULT, up_to_the_skull(mirrored)),
    "midline sheets left out": Row(DEFAULT, up_to_the_skull(without_midline_sheets)),
    "deep sheets left out": Row(DEFAULT, up_to_the_skull(without_deep_sheets)),
    "crescent filled": Row(DEFAULT, up_to_the_skull(crescent)),
    "random walk": Row(DEFAULT, by(RandomWalk())),
    "random walk, whole start": Row(DEFAULT, by(RandomWalk(start=whole(skull_mm=OURS.skull_mm)))),
    "random walk, hot seeds": Row(DEFAULT, by(RandomWalk(seed_share=0.5))),
    "dense CRF": Row(DEFAULT, up_to_the_skull(crf)),
    "GrabCut": Row(DEFAULT, up_to_the_skull(grab_cut)),
}


def main() -> None:
    """Print a table for each of the two sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--weights", type=Path)
    parser.add_argument(
        "--out-of-fold", type=Path, nargs="+", default=(), metavar="FOLDER", help="trainings fold_0, fold_1, ..."
    )
    parser.add_argument("--pictures", type=Path, help="a folder for the default's outlines beside a row's")
    parser.add_argument("--row", default=WHOLE, choices=tuple(ROWS), help="that row")
    parser.add_argument("--rows", nargs="*", choices=tuple(ROWS), help="these only, and what they are compared with")
    given = parser.parse_args()
    drawn = (DEFAULT, given.row) if given.pictures else ()
    names = with_compared([*given.rows, *drawn] if given.rows else (), ROWS)
    given.cache.mkdir(parents=True, exist_ok=True)
    threshold = Segmenter(given.weights).threshold
    dice: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    ml: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    bled_ml: dict[str, list[float]] = defaultdict(list)
    seconds: dict[str, list[float]] = defaultdict(list)
    for look in looks(given):
        bled = bool(look.reference.any())
        if bled:
            bled_ml[look.kind].append(float(look.reference.sum()) * look.ct.slice_voxel_ml[0].item())
        masks: dict[str, torch.Tensor] = {}
        for name in names:
            row = ROWS[name]
            started = time.process_time()
            mask = masks[name] = row.outline(look, threshold)
            seconds[name].append(time.process_time() - started)
            found = overlap(mask, look.reference, look.ct.slice_voxel_ml[0].item())
            if bled:
                dice[look.kind][name].append(found.dice or 0.0)
            else:
                ml[look.kind][name].append(found.prediction_ml)
        if given.pictures:
            draw(look, masks, given.row, given.pictures)
    for bled_kind, other in (("phantom", "normal"), ("painted", "unpainted")):
        if bled_ml[bled_kind]:
            print_table(bled_kind, dice[bled_kind], bled_ml[bled_kind], other, ml[other], seconds)


def draw(look: Look, masks: dict[str, torch.Tensor], row: str, folder: Path) -> None:
    """The slice with the most blood, or else with the most mask: the truth, the default's outline and a row's."""
    folder.mkdir(parents=True, exist_ok=True)
    shown_masks = {"truth": look.reference, DEFAULT: masks[DEFAULT], row: masks[row]}
    areas = next((m for m in shown_masks.values() if m.any()), look.region).sum(dim=(1, 2))
    index = int(areas.argmax())
    outlines = [Outline(name, mask[index]) for name, mask in shown_masks.items()]
    picture = render_outlines(look.ct, index, outlines, title=f"{look.kind} {look.name}, slice {index}")
    (folder / f"{look.kind}_{look.name}.png").write_bytes(picture)


def print_table(
    kind: str,
    dice: dict[str, list[float]],
    bled_ml: list[float],
    other: str,
    ml: dict[str, list[float]],
    seconds: dict[str, list[float]],
) -> None:
    """One set: a line for each row."""
    large = [volume >= 1.0 for volume in bled_ml]
    n_other = len(next(iter(ml.values()), []))
    print(f"{kind}: {len(bled_ml)} heads that bled, {sum(large)} of them 1 ml or more; {other}: {n_other} that did not")
    print(f"{'':28s} {'Dice':>21s} {'1 ml+':>6s} {'false ml':>8s} {'gain':>24s}  {'over':22s} {'s':>5s}")
    for name, values in dice.items():
        row = ROWS[name]
        over = [] if row.against is None else [a - b for a, b in zip(values, dice[row.against], strict=True)]
        false_ml = f"{np.mean(ml[name]):8.2f}" if n_other else f"{'-':>8s}"
        of_large = np.mean([value for value, is_large in zip(values, large, strict=True) if is_large])
        gain = shown(mean_interval(over), "+") if over else ""
        spent = f"{np.mean(seconds[name]):5.2f}"
        print(f"{name:28s} {shown(mean_interval(values)):>21s} {of_large:6.3f} {false_ml} {gain:>24s}  "
              f"{row.against or '':22s} {spent}")  # fmt: skip
    print()


def looks(given: argparse.Namespace) -> Iterator[Look]:
    """All heads of a purpose, from the cache where they are in it."""
    with TemporaryDirectory() as scratch:
        whole = Segmenter(given.weights)
        of_patient = segmenters(given.weights, given.out_of_fold, Path(scratch), SegmentOptions())
        for head in heads(given.purpose, given.phantoms, given.normal, given.patients, given.data):
            yield kept(given.cache, head, whole if head.patient is None else of_patient(head.patient))


def kept(cache: Path, head: Head, segmenter: Segmenter) -> Look:
    """A look from the cache, put there where it is not."""
    kind, name = head.kind, head.name
    path = cache / f"{kind}_{name}.npz"
    if not path.exists():
        look = look_at(segmenter, head)
        fields = {key: getattr(look, key).numpy() for key in ("region", "saliency", "reference")}
        np.savez_compressed(path, hu=look.ct.hu.numpy(), affine=look.ct.affine.numpy(), median=look.median_hu, **fields)
    found = np.load(path, allow_pickle=False)
    arrays = {key: torch.from_numpy(found[key]) for key in ("hu", "affine", "region", "saliency", "reference")}
    ct = CTVolume(arrays["hu"], arrays["affine"], f"{kind} {name}")
    return Look(kind, name, ct, arrays["region"], arrays["saliency"], float(found["median"]), arrays["reference"])


def look_at(segmenter: Segmenter, head: Head) -> Look:
    """The network's map of one head."""
    ct, reference = head.make()
    result = segmenter.segment((ct.hu.numpy(), ct.affine.numpy()))
    saliency = result.saliency_house
    return Look(head.kind, head.name, result.ct, result.region, saliency, result.brain_median_hu, reference)


if __name__ == "__main__":
    main()
