"""Synthetic bleeds painted into slices of real scans that hold none: what they look like is known to the pixel.

Everything works on prepared slices (HU relative to the scan's brain median, on the network's canvas), one slice at a
time, so that no two batches show the same blood.

Deviation: these are not the phantoms' bleeds, which are drawn into a head whose tissues are known, over all of its
slices at once and on a finer grid, in seconds: of a patient only HU are known, and a batch has to be painted in
milliseconds.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.ndimage import distance_transform_edt, gaussian_filter, zoom
from torch import Tensor

from hgisam.labels import Subtype

Plane = NDArray[np.float32]

CSF_HU = -9.0
"""Relative HU below which a smoothed pixel counts as fluid: sulci and cisterns are partly brain."""
VENTRICLE_DEPTH_MM = 18.0
"""Fluid this deep is taken for ventricle, fluid nearer the skull for sulci, fissures and cisterns."""
SKULL_HU = 55.0
"""Relative HU above which a pixel is skull, its partial volume or a calcification, and stays as it is."""
LEAST_DEPTH_MM = 12.0
"""Brain that is nowhere so deep is too little to paint a distractor into."""
COVERED = 0.5
"""A pixel is labelled where blood fills at least this share of it."""


class PaintingOptions(BaseModel):
    """Which bleeds to paint. Ranges are drawn from uniformly; `easy` is where training starts, `hard` where it ends."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    shares: dict[Subtype, float] = Field(
        default={
            Subtype.EPIDURAL: 0.14,
            Subtype.INTRAPARENCHYMAL: 0.34,
            Subtype.INTRAVENTRICULAR: 0.12,
            Subtype.SUBARACHNOID: 0.18,
            Subtype.SUBDURAL: 0.22,
        }
    )
    """How often each subtype is tried; one that finds no room becomes intraparenchymal."""
    radius_mm: tuple[float, float] = (3.0, 22.0)
    """Least and largest size of a bleed: the radius of a clot, half the reach of a film, a crescent or a lens."""
    easy_radius_mm: float = Field(default=12.0, gt=0)
    """Least size at the start."""
    contrast_hu: tuple[float, float] = (10.0, 45.0)
    """Blood over the brain median."""
    easy_contrast_hu: float = Field(default=24.0, gt=0)
    """Least contrast at the start."""
    blur_mm: tuple[float, float] = (0.5, 1.1)
    """Standard deviation of the blood's edge: the scanner's own."""
    min_mm2: float = Field(default=15.0, gt=0)
    """A slice in which less blood than this finds room stays as it is."""


@dataclass(frozen=True, eq=False)
class PaintedSlice:
    """A slice with one bleed painted in.

    Attributes:
        relative_hu: HU minus the scan's brain median.
        blood: where the bleed is.
        subtype: what it is.
    """

    relative_hu: Float[Tensor, "height width"]
    blood: Bool[Tensor, "height width"]
    subtype: Subtype


def paint_slice(
    relative_hu: Float[Tensor, "height width"],
    region: Bool[Tensor, "height width"],
    spacing_mm: float,
    difficulty: float,
    options: PaintingOptions,
    rng: np.random.Generator,
) -> PaintedSlice | None:
    """A slice with one bleed painted in; None where the slice has no room for it.

    Args:
        relative_hu: HU minus the scan's brain median.
        region: the intracranial region.
        spacing_mm: side of a pixel.
        difficulty: 0 for large and bright bleeds only, 1 for the whole range.
        options: which bleeds.
        rng: the source of all chance.
    """
    inside = region.numpy()
    depth_mm = distance_transform_edt(inside, sampling=spacing_mm).astype(np.float32)
    if depth_mm.max() < 2.0 * options.radius_mm[0]:
        return None
    hu = relative_hu.numpy()
    least_radius = options.easy_radius_mm + difficulty * (options.radius_mm[0] - options.easy_radius_mm)
    radius_mm = math.exp(rng.uniform(math.log(least_radius), math.log(options.radius_mm[1])))
    least_contrast = options.easy_contrast_hu + difficulty * (options.contrast_hu[0] - options.easy_contrast_hu)
    contrast_hu = float(rng.uniform(least_contrast, options.contrast_hu[1]))
    kinds = list(options.shares)
    shares = np.array([options.shares[kind] for kind in kinds])
    kind = kinds[int(rng.choice(len(kinds), p=shares / shares.sum()))]
    smooth_hu = gaussian_filter(hu, 1.0 / spacing_mm)
    shape = _shape(kind, inside, depth_mm, smooth_hu, radius_mm, spacing_mm, rng)
    if shape is None or _area_mm2(shape, spacing_mm) < options.min_mm2:
        shape = _clot(inside, depth_mm, min(radius_mm, 0.6 * float(depth_mm.max())), spacing_mm, rng)
        kind = Subtype.INTRAPARENCHYMAL
    blur_px = float(rng.uniform(*options.blur_mm)) / spacing_mm
    blood = gaussian_filter(shape, blur_px)
    if _area_mm2(blood, spacing_mm) < options.min_mm2:
        return None
    painted = hu.copy()
    if kind is Subtype.INTRAPARENCHYMAL and rng.random() < 0.7:
        painted -= _edema_hu(shape, inside, spacing_mm, rng) * (hu < SKULL_HU)
    uneven = 1.0 + float(rng.uniform(0.0, 0.15)) * _noise(rng, hu.shape, 6.0 / spacing_mm)
    tissue = inside & (painted < SKULL_HU)
    under = gaussian_filter(painted * tissue, 2.5 / spacing_mm)
    under /= np.maximum(gaussian_filter(tissue.astype(np.float32), 2.5 / spacing_mm), 0.05)
    painted += blood * tissue * np.maximum(contrast_hu * uneven - under, 0.0)
    return PaintedSlice(torch.from_numpy(painted.astype(np.float32)), torch.from_numpy(blood >= COVERED) & region, kind)


def carry_over(
    beside_hu: Float[Tensor, "beside height width"],
    change_hu: Float[Tensor, "height width"],
    rng: np.random.Generator,
) -> Float[Tensor, "beside height width"]:
    """Neighbours of a slice with their part of what was painted into it: else only one channel would show a bleed.

    Each side goes on by a share of its own between nothing and all, and fades farther out.

    Args:
        beside_hu: the neighbours as `hgisam.preprocess.neighbour_rows` has them: nearest first, below then above.
        change_hu: the painted slice minus what it was.
        rng: the source of all chance.
    """
    shares = rng.random((len(beside_hu) // 2, 2)).cumprod(axis=0).ravel()
    return beside_hu + torch.from_numpy(shares.astype(np.float32))[:, None, None] * change_hu


def paint_distractor(
    relative_hu: Float[Tensor, "height width"],
    region: Bool[Tensor, "height width"],
    spacing_mm: float,
    rng: np.random.Generator,
) -> Float[Tensor, "height width"]:
    """A slice with something dense painted in that is no blood: what networks without blood to see take for it.

    Calcium in the pineal gland or the choroid plexus, a dense falx, tentorium or sinus, or the skull's partial volume.
    A slice with hardly any brain comes back as it is.

    Args:
        relative_hu: HU minus the scan's brain median.
        region: the intracranial region; its mid-sagittal line is taken to run along the columns.
        spacing_mm: side of a pixel.
        rng: the source of all chance.
    """
    inside = region.numpy()
    depth_mm = distance_transform_edt(inside, sampling=spacing_mm).astype(np.float32)
    if depth_mm.max() < LEAST_DEPTH_MM:
        return relative_hu
    rows, columns = np.indices(inside.shape, dtype=np.float32)
    middle_row, middle_column = np.argwhere(inside).mean(axis=0)
    along_mm, off_mm = (rows - middle_row) * spacing_mm, (columns - middle_column) * spacing_mm
    half_length_mm = 0.5 * spacing_mm * float(np.ptp(np.flatnonzero(inside.any(axis=1))))
    off_mm = off_mm + float(rng.uniform(-1.5, 1.5)) + float(rng.normal(0.0, 0.03)) * along_mm
    kind = rng.choice(["calcium", "falx", "tentorium", "sinus", "rim"])
    if kind == "calcium":
        contrast_hu = float(rng.uniform(30.0, 200.0))
        share = np.zeros(inside.shape, dtype=np.float32)
        lateral_mm = float(rng.choice([0.0, 1.0])) * float(rng.uniform(8.0, 30.0))
        at_mm = float(rng.uniform(-0.1, 0.5)) * half_length_mm
        for side in (-1.0, 1.0):
            size_mm = float(rng.uniform(0.8, 3.0))
            away_mm = np.hypot(along_mm - at_mm + rng.normal(0.0, 2.0), off_mm - side * lateral_mm)
            share = np.maximum(share, (away_mm < size_mm).astype(np.float32))
    elif kind == "falx":
        contrast_hu = float(rng.uniform(8.0, 35.0))
        start, end = sorted(rng.uniform(-1.0, 1.0, 2))
        width_mm = float(rng.uniform(0.6, 2.0))
        share = np.exp(-0.5 * (off_mm / width_mm) ** 2)
        share *= (along_mm > start * half_length_mm) & (along_mm < end * half_length_mm)
    elif kind == "tentorium":
        contrast_hu = float(rng.uniform(8.0, 35.0))
        slope, at_mm = float(rng.uniform(0.3, 1.5)), float(rng.uniform(0.0, 0.6)) * half_length_mm
        reach_mm, width_mm = float(rng.uniform(15.0, 50.0)), float(rng.uniform(0.7, 2.2))
        away_mm = np.abs(along_mm - at_mm - slope * np.abs(off_mm)) / math.hypot(1.0, slope)
        share = np.exp(-0.5 * (away_mm / width_mm) ** 2) * (np.abs(off_mm) < reach_mm)
    elif kind == "sinus":
        contrast_hu = float(rng.uniform(8.0, 30.0))
        end_mm = half_length_mm * float(rng.choice([-1.0, 1.0], p=[0.2, 0.8])) * float(rng.uniform(0.85, 1.0))
        share = (np.hypot(along_mm - end_mm, off_mm) < float(rng.uniform(3.0, 7.0))).astype(np.float32)
    else:
        contrast_hu = float(rng.uniform(10.0, 50.0))
        edge = np.argwhere(inside & (depth_mm <= 1.5 * spacing_mm))
        row, column = edge[int(rng.integers(len(edge)))]
        away_mm = spacing_mm * np.hypot(rows - row, columns - column)
        share = np.exp(-depth_mm / float(rng.uniform(0.8, 2.0))) * (away_mm < float(rng.uniform(15.0, 50.0)))
    hu = relative_hu.numpy()
    blurred = gaussian_filter(share.astype(np.float32), float(rng.uniform(0.5, 0.9)) / spacing_mm)
    tissue = inside & (hu < SKULL_HU)
    painted = hu + blurred * tissue * np.maximum(contrast_hu - gaussian_filter(hu, 1.5 / spacing_mm), 0.0)
    return torch.from_numpy(painted.astype(np.float32))


def _shape(
    kind: Subtype,
    inside: NDArray[np.bool_],
    depth_mm: Plane,
    smooth_hu: Plane,
    radius_mm: float,
    spacing_mm: float,
    rng: np.random.Generator,
) -> Plane | None:
    """The share of each pixel that is blood, before the scanner's blur; None where there is no place for it."""
    match kind:
        case Subtype.SUBDURAL:
            thickness_mm = float(rng.uniform(3.0, 6.0)) + 0.25 * radius_mm
            return _along_skull(inside, depth_mm, thickness_mm, 2.6 * radius_mm, 0.5, spacing_mm, rng)
        case Subtype.EPIDURAL:
            thickness_mm = float(rng.uniform(0.5, 0.9)) * radius_mm
            return _along_skull(inside, depth_mm, thickness_mm, 1.3 * radius_mm, 1.0, spacing_mm, rng)
        case Subtype.SUBARACHNOID:
            fluid = (smooth_hu < CSF_HU) & (depth_mm > 1.5) & (depth_mm < VENTRICLE_DEPTH_MM)
            return _in_fluid(fluid, smooth_hu, 1.6 * radius_mm, spacing_mm, rng)
        case Subtype.INTRAVENTRICULAR:
            fluid = (smooth_hu < 1.5 * CSF_HU) & (depth_mm > VENTRICLE_DEPTH_MM)
            return _in_fluid(fluid, smooth_hu, 1.6 * radius_mm, spacing_mm, rng)
        case _:
            return _clot(inside, depth_mm, radius_mm, spacing_mm, rng)


def _clot(
    inside: NDArray[np.bool_], depth_mm: Plane, radius_mm: float, spacing_mm: float, rng: np.random.Generator
) -> Plane:
    """A ragged union of ellipses in the brain."""
    room = np.argwhere(depth_mm > min(3.0 + 0.7 * radius_mm, 0.9 * float(depth_mm.max())))
    row, column = room[int(rng.integers(len(room)))]
    rows, columns = (np.arange(size, dtype=np.float32) for size in inside.shape)
    field = np.full(inside.shape, -np.inf, dtype=np.float32)
    for number in range(1 + int(rng.integers(0, 4))):
        size = radius_mm if number == 0 else radius_mm * float(rng.uniform(0.3, 0.7))
        away = np.zeros(2) if number == 0 else rng.normal(0.0, 0.7 * radius_mm, 2)
        y = ((rows - row) * spacing_mm - away[0])[:, None]
        x = ((columns - column) * spacing_mm - away[1])[None, :]
        angle, stretch = float(rng.uniform(0.0, math.pi)), float(np.exp(rng.normal(0.0, 0.25)))
        along = (y * math.cos(angle) + x * math.sin(angle)) / stretch
        across = (x * math.cos(angle) - y * math.sin(angle)) * stretch
        field = np.maximum(field, size - np.hypot(along, across))
    field += 0.3 * radius_mm * float(rng.uniform(0.3, 1.0)) * _noise(rng, inside.shape, 0.4 * radius_mm / spacing_mm)
    return ((field > 0.0) & (depth_mm > 1.5)).astype(np.float32)


def _along_skull(
    inside: NDArray[np.bool_],
    depth_mm: Plane,
    thickness_mm: float,
    reach_mm: float,
    steepness: float,
    spacing_mm: float,
    rng: np.random.Generator,
) -> Plane | None:
    """Blood under the skull about one point of it: a crescent (steepness 0.5) or a lens (1)."""
    edge = np.argwhere(inside & (depth_mm <= 1.5 * spacing_mm))
    if len(edge) == 0:
        return None
    row, column = edge[int(rng.integers(len(edge)))]
    middle = np.argwhere(inside).mean(axis=0)
    rows, columns = np.indices(inside.shape, dtype=np.float32)
    away_mm = spacing_mm * np.hypot(rows - row, columns - column)
    own_side = (columns - middle[1]) * np.sign(column - middle[1] + 1e-6) > 2.0 / spacing_mm
    profile = np.clip(1.0 - (away_mm / reach_mm) ** 2 + 0.15 * _noise(rng, inside.shape, 8.0 / spacing_mm), 0.0, 1.0)
    limit_mm = thickness_mm * profile**steepness
    shape: Plane = (inside & own_side & (depth_mm > 0.8) & (depth_mm < limit_mm)).astype(np.float32)
    return shape


def _in_fluid(
    fluid: NDArray[np.bool_], smooth_hu: Plane, reach_mm: float, spacing_mm: float, rng: np.random.Generator
) -> Plane | None:
    """Blood that replaces fluid around one point of it, as far as it is fluid."""
    places = np.argwhere(fluid)
    if len(places) * spacing_mm**2 < 15.0:
        return None
    row, column = places[int(rng.integers(len(places)))]
    rows, columns = np.indices(fluid.shape, dtype=np.float32)
    away_mm = spacing_mm * np.hypot(rows - row, columns - column)
    fullness = np.clip(smooth_hu / (2.5 * CSF_HU), 0.0, 1.0)
    limit_mm = reach_mm * (1.0 + 0.3 * _noise(rng, fluid.shape, 6.0 / spacing_mm))
    share: Plane = np.sqrt(fluid * (away_mm < limit_mm) * fullness).astype(np.float32)
    return share


def _edema_hu(shape: Plane, inside: NDArray[np.bool_], spacing_mm: float, rng: np.random.Generator) -> Plane:
    """How much darker the brain around a clot is."""
    width_mm = float(rng.uniform(2.0, 10.0))
    outside_mm = distance_transform_edt(shape < COVERED, sampling=spacing_mm)
    rim = np.clip(1.0 - outside_mm / width_mm, 0.0, 1.0) * (shape < COVERED) * inside
    edema: Plane = (float(rng.uniform(3.0, 12.0)) * gaussian_filter(rim, 1.0 / spacing_mm)).astype(np.float32)
    return edema


def _area_mm2(share: Plane, spacing_mm: float) -> float:
    return float((share >= COVERED).sum()) * spacing_mm**2


def _noise(rng: np.random.Generator, shape: tuple[int, ...], scale_px: float) -> Plane:
    """Smooth noise of about unit size that changes over scale_px."""
    nodes = [max(4, math.ceil(size / max(scale_px, 1.0)) + 3) for size in shape]
    coarse = rng.standard_normal(nodes).astype(np.float32)
    fine: Plane = zoom(coarse, [size / n for size, n in zip(shape, nodes, strict=True)], order=1)
    return fine[: shape[0], : shape[1]]
