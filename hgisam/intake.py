"""A scan on its way in: read, judged, and its brain found, or refused in one line.

`hgisam check` stops here; segment and classify go on from here.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from hgisam.brain import (
    BrainOptions,
    VolumeDoubt,
    coverage_doubts,
    intracranial_region,
    is_out_of_order,
    is_turned_sideways,
    noise_hu,
)
from hgisam.io.dicom import only_series, read_dicom
from hgisam.io.dicom_files import kind_of_file
from hgisam.io.dicom_series import DicomSeries, kernel_kind
from hgisam.io.errors import ScanRefused
from hgisam.io.nifti import NiftiGrid, ct_from_array, ct_from_image, new_grid_for, read_ct
from hgisam.io.nifti_header import MAX_VOXELS, Choice, Form
from hgisam.plausibility import Plausibility, check_hu, with_noise
from hgisam.volume import CTVolume

Scan = str | Path | DicomSeries | CTVolume | nib.spatialimages.SpatialImage | tuple[ArrayLike, ArrayLike]
"""What can be taken in: a NIfTI file; a DICOM file, folder or zip archive with one series; one series of
`hgisam.io.dicom_series.find_series`; a volume that was read already; a nibabel image; an array of HU with its affine
(voxel index -> RAS+ mm)."""

USUAL_THICKNESS_MM = (1.0, 10.0)
"""Thinner slices are noise for the most part; in thicker ones a thin bleed is averaged away."""

BRAINLESS = (
    "expected brain inside a skull; got no slice with any, so nothing can be measured; check what is in the scan"
)
OUT_OF_ORDER = (
    "neighbouring slices are less alike than they would be in another order: are they stored out of order? Then"
    " positions and volumes are wrong, and so is all that rests on neighbours"
)
TURNED = "the head is wider than long, and alike in front and back: does the file say rightly where left and right are?"


class IntakeOptions(BaseModel):
    """How scans are taken in."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    hu_offset: float = 0.0
    """Added to the file's values before anything else, for files that are known to be off, such as -1024."""
    allow_gaps: bool = False
    """Whether a DICOM series with missing slices is taken; its volume is then a lower bound."""
    max_voxels: int = Field(default=MAX_VOXELS, ge=1)
    """A scan whose header states more is refused before memory is taken for it."""
    volume: int | None = Field(default=None, ge=0)
    """Which volume to take of a NIfTI file that holds several, from 0."""
    prefer: Form | None = None
    """Which to believe where the geometries that a NIfTI header states are at odds."""


class Aspect(StrEnum):
    """What a doubt is about."""

    SERIES = "series"
    READING = "reading"
    HU = "hu"
    COVERAGE = "coverage"
    KERNEL = "kernel"
    THICKNESS = "thickness"


@dataclass(frozen=True)
class Doubt:
    """What whoever uses a scan should know.

    Attributes:
        aspect: the series and what lay beside it; reading, which is files and geometry; and so on.
        text: a clause or two.
        volume: what follows from it for a volume in mL; None where nothing does.
    """

    aspect: Aspect
    text: str
    volume: VolumeDoubt | None = None


class ImplausibleScan(ScanRefused):
    """A scan whose numbers are not the HU of a head, or in which no brain is found.

    Attributes:
        plausibility: the verdict and what it rests on.
        aspect: what is wrong.
    """

    def __init__(self, source: str, plausibility: Plausibility, aspect: Aspect) -> None:
        super().__init__(f"{source}: {'; '.join(plausibility.reasons)}")
        self.plausibility = plausibility
        self.aspect = aspect


@dataclass(frozen=True, eq=False)
class CheckedScan:
    """A scan that may be worked on.

    Attributes:
        ct: the scan, in house axes.
        grid: the input's own grid.
        series: the DICOM series that it was; None for any other input.
        region: its intracranial region, never empty.
        plausibility: verdict on the Hounsfield units, noise among them.
        doubts: what is not as it should be; empty where all is well.
    """

    ct: CTVolume
    grid: NiftiGrid
    series: DicomSeries | None
    region: Bool[Tensor, "depth height width"]
    plausibility: Plausibility
    doubts: tuple[Doubt, ...]

    @property
    def verdict(self) -> Literal["ok", "warning"]:
        """Whether there are doubts. A scan that is refused never becomes one of these."""
        return "warning" if self.doubts else "ok"

    @property
    def warnings(self) -> tuple[str, ...]:
        """The doubts in words."""
        return tuple(doubt.text for doubt in self.doubts)

    def facts(self) -> dict[str, dict[str, Any]]:
        """What was found, by aspect, as values for JSON. No text of a DICOM header but known kernels and its UID."""
        slices, series = self.ct.slices, self.series
        depth_mm = None if bool(self.ct.slice_voxel_ml.isnan().any()) else round(self.ct.spacing_mm[0], 4)
        gaps = None if slices is None or len(slices.affines) < 2 else slices.distances_mm.diff()
        kernel = "" if series is None else series.slices[0].kernel
        thickness = [] if slices is None else sorted({round(mm, 3) for mm in slices.thickness_mm.tolist() if mm > 0})
        return {
            Aspect.SERIES: {}
            if series is None
            else {"uid": series.uid, "n_files": len(series.files), "left_out": series.left_out_reasons},
            Aspect.READING: {
                "shape": list(self.ct.hu.shape),
                "spacing_mm": [depth_mm, *(round(mm, 4) for mm in self.ct.spacing_mm[1:])],
                "tilt_deg": round(_tilt_deg(self.ct), 2),
                "gaps_mm": None if gaps is None else [round(float(gaps.min()), 3), round(float(gaps.max()), 3)],
                "even": slices is None or slices.regular,
                "complete": slices is None or slices.complete,
            },
            Aspect.HU: {"verdict": self.plausibility.verdict, "figures": self.plausibility.figures},
            Aspect.COVERAGE: {
                "n_slices_with_brain": int(self.region.flatten(1).any(dim=1).sum()),
                "intracranial_ml": _region_ml(self.ct, self.region),
            },
            Aspect.KERNEL: {"kind": kernel_kind(kernel), "name": kernel if kernel_kind(kernel) else None},
            Aspect.THICKNESS: {"nominal_mm": thickness},
        }


class Stopwatch:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def copy(self) -> "Stopwatch":
        """One that goes on from here by itself."""
        other = Stopwatch()
        other.seconds |= self.seconds
        return other

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Count the block's time to a stage."""
        start = time.perf_counter()
        yield
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.perf_counter() - start, 4)


def check_scan(
    scan: Scan, brain: BrainOptions, options: IntakeOptions, timings: Stopwatch | None = None
) -> CheckedScan:
    """Read a scan and say what is wrong with it.

    Args:
        scan: what to read.
        brain: how the intracranial region is found.
        options: how the scan is taken in.
        timings: gets the seconds of the stages read, check and brain.

    Raises:
        ScanRefused: where the scan cannot be read, or its geometry cannot be trusted.
        ImplausibleScan: where its numbers are not the HU of a head, or no brain is found: a mask of nothing would pass
            for one without blood.
    """
    timings = timings or Stopwatch()
    with timings.of("read"):
        series = _series_of(scan)
        ct, grid = _open(scan if series is None else series, options)
    with timings.of("check"):
        plausibility = check_hu(ct)
        if plausibility.verdict == "refused":
            raise ImplausibleScan(ct.source, plausibility, Aspect.HU)
    with timings.of("brain"):
        region = intracranial_region(ct, brain)
    if not region.any():
        raise ImplausibleScan(ct.source, Plausibility("refused", (BRAINLESS,), plausibility.figures), Aspect.COVERAGE)
    with timings.of("check"):
        plausibility = with_noise(plausibility, noise_hu(ct, region))
        out_of_order, turned = is_out_of_order(ct), is_turned_sideways(ct, region, brain)
    doubts = [
        Doubt(Aspect.SERIES if series is not None and text in series.notes else Aspect.READING, text)
        for text in grid.warnings
    ]
    if out_of_order:
        doubts.append(Doubt(Aspect.READING, OUT_OF_ORDER, VolumeDoubt.UNSURE))
    if turned:
        doubts.append(Doubt(Aspect.READING, TURNED))
    if options.hu_offset:
        doubts.append(Doubt(Aspect.HU, f"{options.hu_offset:+g} HU were added to every voxel, as was asked for"))
    doubts += [Doubt(Aspect.HU, text) for text in plausibility.reasons]
    doubts += [Doubt(Aspect.COVERAGE, found.text, found.volume) for found in coverage_doubts(ct, region, brain)]
    doubts += _image_doubts(ct, series)
    return CheckedScan(ct, grid, series, region, plausibility, tuple(doubts))


def _series_of(scan: Scan) -> DicomSeries | None:
    """The DICOM series that is meant; None where the scan is none."""
    if isinstance(scan, DicomSeries):
        return scan
    if not isinstance(scan, str | Path):
        return None
    path = Path(scan)
    return only_series(path) if path.is_dir() or kind_of_file(path) in {"dicom", "zip"} else None


def _open(scan: Scan, options: IntakeOptions) -> tuple[CTVolume, NiftiGrid]:
    offset, limit = options.hu_offset, options.max_voxels
    choice = Choice(options.volume, options.prefer, picture=True)
    if isinstance(scan, DicomSeries):
        return read_dicom(scan, allow_gaps=options.allow_gaps, max_voxels=limit, hu_offset=offset)
    if isinstance(scan, str | Path):
        return read_ct(Path(scan), limit, offset, choice)
    if isinstance(scan, CTVolume):
        return replace(scan, hu=scan.hu + offset), new_grid_for(scan, "SPL")
    if isinstance(scan, tuple) and len(scan) == 2 and not isinstance(scan[0], np.ma.MaskedArray):
        return ct_from_array(np.asarray(scan[0]), np.asarray(scan[1], dtype=np.float64), "array", offset)
    if isinstance(scan, nib.spatialimages.SpatialImage):
        return ct_from_image(scan, "image", limit, offset, choice)
    got = "a masked array" if isinstance(scan, tuple) and len(scan) == 2 else type(scan).__name__
    raise TypeError(f"expected a path, a DICOM series, a volume, a nibabel image, or (array of HU, affine); got {got}")


def _image_doubts(ct: CTVolume, series: DicomSeries | None) -> Iterator[Doubt]:
    """What a DICOM series says of how its pictures were made, where that is not made for looking at brain."""
    if series is None or ct.slices is None:
        return
    kernel = series.slices[0].kernel
    if kernel_kind(kernel) == "bone":
        yield Doubt(Aspect.KERNEL, f"the kernel {kernel} is one for bone: blood is hard to tell in its noise")
    if any(header.has_contrast for header in series.slices):
        text = "a contrast medium is named: vessels are as dense as blood then, and the weights that ship never saw any"
        yield Doubt(Aspect.SERIES, text)
    if any(header.is_projection for header in series.slices):
        text = "it is a projection of several slices, such as a MIP: whatever is dense in any of them shows, so that"
        yield Doubt(Aspect.SERIES, f"{text} volumes are too large; take the slices themselves", VolumeDoubt.UNSURE)
    thin, thick = USUAL_THICKNESS_MM
    stated = ct.slices.thickness_mm[~ct.slices.thickness_mm.isnan()]
    if stated.numel() and float(stated.median()) < thin:
        text = f"slices are {float(stated.median()):g} mm thin: blood is hard to tell in their noise"
        yield Doubt(Aspect.THICKNESS, f"{text}; a series of 2.5 to 5 mm is better")
    if stated.numel() and float(stated.max()) > thick:
        yield Doubt(Aspect.THICKNESS, f"slices are up to {float(stated.max()):g} mm thick: thin bleeds vanish in them")


def _tilt_deg(ct: CTVolume) -> float:
    """How far the slices lean from the axial plane."""
    normal = torch.linalg.cross(ct.affine[:3, 1], ct.affine[:3, 2])
    return math.degrees(math.acos(min(1.0, abs(float(normal[2] / normal.norm())))))


def _region_ml(ct: CTVolume, region: Bool[Tensor, "depth height width"]) -> float | None:
    """Volume of the intracranial region; None where a slice's thickness is unknown."""
    ml = float(region.flatten(1).sum(dim=1, dtype=torch.float64) @ ct.slice_voxel_ml)
    return None if math.isnan(ml) else round(ml, 1)
