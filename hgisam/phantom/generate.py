"""One seed, one phantom: a random patient, random bleeds, a random scan, and the exact truth beside it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from hgisam.labels import SUBTYPES, Subtype, label_value
from hgisam.phantom.anatomy import (
    FineGrid,
    Habitus,
    Pose,
    draw_brain,
    draw_head,
    paint_inside,
    paint_outside,
)
from hgisam.phantom.atlas import load_atlas, sample
from hgisam.phantom.bleeds import Density, draw_volume_ml, paint_bleed, plan_bleed
from hgisam.phantom.distractors import (
    paint_air,
    paint_calcifications,
    paint_catheter,
    paint_dark_lesions,
    paint_vessels,
)
from hgisam.phantom.scanner import Protocol, average_slices, in_view, scan, to_pixels
from hgisam.phantom.structures import Structure
from hgisam.processes import in_order, one_thread
from hgisam.volume import CTVolume

SUB_SLICE_MM = 1.6
FINE_PIXEL_MM = 0.9
"""A head is drawn on planes about SUB_SLICE_MM apart, of pixels no smaller than FINE_PIXEL_MM (or the scan's own)."""
TRUTH_FRACTION = 0.5
"""A voxel is labelled where at least this fraction of it is blood."""
POSITIVE_SLICE_MM2 = 10.0
"""A slice shows a subtype where at least this area of it is labelled."""
SUBTYPE_SHARE = (0.14, 0.28, 0.14, 0.22, 0.22)
"""How often a drawn bleed is of each of SUBTYPES."""


class PhantomOptions(BaseModel):
    """What kind of phantoms to make. Everything else about a phantom follows from its seed."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    n_slices: int = Field(default=32, ge=1, le=400)
    """Number of slices; the highest lies near the vertex."""
    slice_mm: float = Field(default=5.0, ge=0.5, le=10.0)
    """Distance between slices, which is also their thickness, in mm."""
    size_px: int = Field(default=256, ge=32, le=1024)
    """Rows and columns of a slice."""
    pixel_mm: float = Field(default=0.9, ge=0.2, le=8.0)
    """In-plane pixel size in mm."""
    bleed_probability: float = Field(default=0.55, ge=0.0, le=1.0)
    """Share of heads with at least one bleed; ignored where `kinds` is given."""
    kinds: tuple[Subtype, ...] = ()
    """The bleeds that every head has, in order; empty: drawn at random."""
    volumes_ml: tuple[float, ...] = ()
    """The volume of each of `kinds` in mL; empty: drawn at random (log-normal around 6, 0.1 to 90)."""
    faint_probability: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of bleeds that are subacute or of an anemic patient: 5 to 15 HU over the brain instead of 50 to 90 HU."""
    calcifications: bool = False
    """Give every head a calcified pineal, choroid plexus, falx and basal ganglia."""

    @model_validator(mode="after")
    def _volumes_match_kinds(self) -> Self:
        if self.volumes_ml and len(self.volumes_ml) != len(self.kinds):
            raise ValueError(
                f"expected one volume for each of {len(self.kinds)} kinds, got {len(self.volumes_ml)}; leave it empty "
                "to draw them"
            )
        if Subtype.ANY in self.kinds:
            raise ValueError("expected kinds among the five subtypes, got 'any'; leave kinds empty to draw them")
        return self


@dataclass(frozen=True)
class BleedRecord:
    """One bleed of a phantom.

    Attributes:
        requested_ml: the volume drawn or asked for.
        volume_ml: the blood's volume before the scan (sum of voxel fractions); less where it had no room.
        contrast_hu: mean HU of the blood minus the mean of this head's grey and white matter, before noise.
    """

    subtype: Subtype
    requested_ml: float
    volume_ml: float
    contrast_hu: float


@dataclass(frozen=True, eq=False)
class Phantom:
    """A synthetic scan with its truth.

    Attributes:
        ct: the scan; HU are whole numbers.
        labels: 0 no blood, k + 1 for SUBTYPES[k]; a voxel is blood where at least half of its volume is.
        bleeds: what was painted; empty for a head without hemorrhage.
    """

    ct: CTVolume
    labels: UInt8[Tensor, "depth height width"]
    bleeds: tuple[BleedRecord, ...]
    seed: int


def make_phantom(seed: int, options: PhantomOptions | None = None) -> Phantom:
    """One phantom; the same seed and options give the same voxels, on any number of processes or threads.

    Person, bleeds and scanner have random numbers of their own: with `bleed_probability=0` a seed gives the same head
    in the same scanner, without its bleeds.

    Args:
        seed: 0 or more.
        options: None for the defaults.
    """
    with one_thread():
        return _make_phantom(seed, options or PhantomOptions())


def _make_phantom(seed: int, options: PhantomOptions) -> Phantom:
    body, disease, machine = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3))
    pose, habitus = Pose.draw(body), Habitus.draw(body)
    grid, zoom, first_px, top_mm = _place_grid(body, pose, options)
    head = draw_head(body, load_atlas(), pose, habitus, grid)

    subtypes, volumes = _draw_bleeds(disease, options)
    plans = [plan_bleed(disease, head, s, v) for s, v in zip(subtypes, volumes, strict=True)]
    push = torch.stack([p.displacement_mm for p in plans]).sum(dim=0) if plans else None
    brain = draw_brain(head, push)
    hu = paint_inside(body, head, brain)
    paint_vessels(body, head, brain, hu)
    paint_dark_lesions(body, head, brain, hu)
    paint_calcifications(body, head, brain, hu, certain=options.calcifications)

    brain_hu = 0.5 * (habitus.grey_hu + habitus.white_hu)
    taken = torch.zeros_like(hu)
    fractions: dict[Subtype, Tensor] = {}
    records = []
    for plan, requested in zip(plans, volumes, strict=True):
        blood = plan.fraction(head, brain) * (1.0 - taken)
        density = Density.draw(disease, plan.subtype, brain_hu, options.faint_probability)
        paint_bleed(disease, head, brain, density, blood, plan.rim_mm, hu)
        taken = taken + blood
        fractions[plan.subtype] = fractions[plan.subtype] + blood if plan.subtype in fractions else blood
        weight = float(blood.double().sum())
        mean = float((blood.double() * hu).sum()) / weight if weight > 0 else brain_hu
        records.append(BleedRecord(plan.subtype, requested, weight * grid.voxel_ml, mean - brain_hu))
    if body.random() < 0.04:
        paint_air(body, head, brain, hu)
    if body.random() < 0.03:
        paint_catheter(body, head, brain, hu)
    brain = replace(brain, csf=brain.csf * (1.0 - taken))
    hu = paint_outside(body, head, brain, hu)

    per_slice = grid.shape[0] // options.n_slices
    protocol = Protocol.draw(machine)
    scanned = scan(
        machine,
        protocol,
        hu,
        grid,
        per_slice=per_slice,
        zoom=zoom,
        first_px=first_px,
        size_px=options.size_px,
        pixel_mm=options.pixel_mm,
    )
    labels = (
        _truth(fractions, per_slice, zoom, first_px, options.size_px)
        if fractions
        else torch.zeros(scanned.shape, dtype=torch.uint8)
    )
    labels[:, ~in_view(protocol, (options.size_px, options.size_px), options.pixel_mm)] = 0
    return Phantom(
        ct=CTVolume(hu=scanned, affine=_affine(options, top_mm), source=f"phantom {seed}"),
        labels=labels,
        bleeds=tuple(records),
        seed=seed,
    )


def _draw_bleeds(rng: np.random.Generator, options: PhantomOptions) -> tuple[list[Subtype], list[float]]:
    if options.kinds:
        volumes = list(options.volumes_ml) or [draw_volume_ml(rng) for _ in options.kinds]
        return list(options.kinds), volumes
    if rng.random() >= options.bleed_probability:
        return [], []
    count = 1 + int(rng.choice(4, p=[0.55, 0.28, 0.12, 0.05]))
    subtypes = [SUBTYPES[int(i)] for i in rng.choice(len(SUBTYPES), size=count, p=SUBTYPE_SHARE)]
    return subtypes, [draw_volume_ml(rng) for _ in subtypes]


def _place_grid(
    rng: np.random.Generator, pose: Pose, options: PhantomOptions
) -> tuple[FineGrid, int, tuple[int, int], float]:
    """The fine grid: slices down from the vertex, pixels of the field of view where the head is."""
    atlas = load_atlas()
    pixel, size = options.pixel_mm, options.size_px
    half = size * pixel / 2
    reach = max(half, 60.0)
    coarse = FineGrid((40, 40, 40), (reach, reach, -160.0), (8.0, 2 * reach / 39, 2 * reach / 39))
    points = coarse.lattice(8.0)
    skin = sample(atlas.structures[Structure.SKIN][None], atlas.structure_grid, pose.to_template(points))[0]
    found = skin > -6.0
    tops = points[2, :, 0, 0][found.flatten(1).any(dim=1)]
    top = float(tops.max()) + float(rng.uniform(-6.0, 6.0))
    per_slice = max(2, round(options.slice_mm / SUB_SLICE_MM))
    step = options.slice_mm / per_slice
    lowest = top - options.n_slices * options.slice_mm + step / 2

    zoom = max(1, round(FINE_PIXEL_MM / pixel))
    wide = found[points[2, :, 0, 0] > lowest - 8.0]
    rows = points[1, 0, :, 0][wide.any(dim=0).any(dim=1)]
    columns = points[0, 0, 0, :][wide.any(dim=0).any(dim=0)]
    first, count = [], []
    for positions in (rows, columns):
        low = int(np.clip((half - float(positions.max()) - 8.0) / pixel, 0, size - zoom))
        high = int(np.clip((half - float(positions.min()) + 8.0) / pixel, low + zoom, size))
        first.append(low)
        count.append((high - low) // zoom)
    fine = pixel * zoom
    grid = FineGrid(
        shape=(options.n_slices * per_slice, count[0], count[1]),
        first_mm=(half - first[1] * pixel - fine / 2, half - first[0] * pixel - fine / 2, lowest),
        step_mm=(step, fine, fine),
    )
    return grid, zoom, (first[0], first[1]), top


def _affine(options: PhantomOptions, top_mm: float) -> Float[Tensor, "4 4"]:
    """House index to RAS+ mm: the middle of the field of view is x = y = 0, the highest slice ends at `top_mm`."""
    affine = torch.zeros(4, 4, dtype=torch.float64)
    edge = (options.size_px - 1) * options.pixel_mm / 2
    affine[2, 0] = options.slice_mm
    affine[1, 1] = -options.pixel_mm
    affine[0, 2] = -options.pixel_mm
    affine[:, 3] = torch.tensor([edge, edge, top_mm - (options.n_slices - 0.5) * options.slice_mm, 1.0])
    return affine


def _truth(
    fractions: dict[Subtype, Tensor], per_slice: int, zoom: int, first_px: tuple[int, int], size_px: int
) -> UInt8[Tensor, "depth height width"]:
    """A voxel belongs to the subtype with the largest share of it, where blood fills at least half of the voxel."""
    shares = torch.stack(
        [to_pixels(average_slices(f, per_slice), zoom, first_px, size_px, 0.0) for f in fractions.values()]
    )
    values = torch.tensor([label_value(subtype) for subtype in fractions], dtype=torch.uint8)
    return torch.where(shares.sum(dim=0) < TRUTH_FRACTION, 0, values[shares.argmax(dim=0)])


@dataclass(frozen=True)
class SliceLabels:
    """Which subtypes one slice shows.

    Attributes:
        slice_index: 0 is the lowest slice.
        present: one truth per subtype of `Subtype`, `any` last.
    """

    slice_index: int
    position_mm: float
    present: dict[Subtype, bool]


def slice_labels(phantom: Phantom, min_mm2: float = POSITIVE_SLICE_MM2) -> list[SliceLabels]:
    """Each slice's labels: a subtype is present where its labelled area is at least `min_mm2`.

    `any` is present where the area of all subtypes together is. A head without blood gives rows without a truth.
    """
    _, row_mm, column_mm = phantom.ct.spacing_mm
    rows = []
    for index, position in enumerate(phantom.ct.slice_positions_mm.tolist()):
        counts = torch.bincount(phantom.labels[index].flatten().long(), minlength=len(SUBTYPES) + 1)
        area = counts.double() * row_mm * column_mm
        present = {s: bool(area[label_value(s)] >= min_mm2) for s in SUBTYPES}
        present[Subtype.ANY] = bool(area[1:].sum() >= min_mm2)
        rows.append(SliceLabels(index, position, present))
    return rows


def generate_phantoms(
    n: int, seed: int, options: PhantomOptions | None = None, *, workers: int = 1
) -> Iterator[Phantom]:
    """Phantoms of the seeds seed, seed + 1, ..., in order; `workers` processes make them, ahead of the reader.

    Raises:
        ValueError: where n is negative or there is no worker.
    """
    if n < 0 or workers < 1:
        raise ValueError(f"generate_phantoms: expected n >= 0 and workers >= 1; got n {n}, workers {workers}")
    if workers == 1:
        yield from (make_phantom(seed + i, options) for i in range(n))
        return
    make = partial(_make_packed, options=options or PhantomOptions())
    yield from map(_unpack, in_order(make, range(seed, seed + n), workers))


@dataclass(frozen=True)
class _Packed:
    """A phantom on its way between processes: plain arrays, so that no shared memory handles pile up."""

    hu: NDArray[np.int16]
    labels: NDArray[np.uint8]
    affine: NDArray[np.float64]
    source: str
    bleeds: tuple[BleedRecord, ...]
    seed: int


def _make_packed(seed: int, options: PhantomOptions) -> _Packed:
    made = make_phantom(seed, options)
    hu = made.ct.hu.numpy().astype(np.int16)
    return _Packed(hu, made.labels.numpy(), made.ct.affine.numpy(), made.ct.source, made.bleeds, seed)


def _unpack(packed: _Packed) -> Phantom:
    ct = CTVolume(
        hu=torch.from_numpy(packed.hu.astype(np.float32)), affine=torch.from_numpy(packed.affine), source=packed.source
    )
    return Phantom(ct=ct, labels=torch.from_numpy(packed.labels), bleeds=packed.bleeds, seed=packed.seed)
