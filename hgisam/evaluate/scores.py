"""One scan's prediction against its reference: as a volume, slice by slice, lesion by lesion, subtype by subtype."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from hgisam.evaluate.lesions import LesionScore, match_lesions
from hgisam.evaluate.overlap import Overlap, overlap
from hgisam.evaluate.surface import SurfaceScore, measure_surfaces
from hgisam.labels import SUBTYPES, Subtype, label_value
from hgisam.volume import MaskVolume


@dataclass(frozen=True)
class SliceScore:
    """One slice.

    Attributes:
        slice_index: from 0 along the prediction file's slice axis, as records of `hgisam segment` count.
        overlap: of the two masks in it.
        surface: of their outlines in it.
        probability: that it holds hemorrhage, from the record beside the prediction; None where there is none.
    """

    slice_index: int
    overlap: Overlap
    surface: SurfaceScore
    probability: float | None = None


@dataclass(frozen=True)
class SubtypeScore:
    """One subtype that the reference holds, against the prediction less what of it lies in other subtypes.

    A prediction does not say which subtype it means. So blood of another subtype is no error here, but a false alarm
    is one for every subtype of the scan.

    Attributes:
        subtype: which.
        overlap: over the whole volume.
        surface: of the volume.
        lesions: of this subtype, and of the prediction less the others.
    """

    subtype: Subtype
    overlap: Overlap
    surface: SurfaceScore
    lesions: LesionScore


@dataclass(frozen=True)
class ScanScore:
    """One scan.

    Attributes:
        case: the scan's name.
        patient: whose it is.
        overlap: over the whole volume.
        surface: of the volume.
        lesions: of both masks.
        slices: slice by slice, the lowest first.
        subtypes: those of the reference, in the order of SUBTYPES; empty where it does not tell them.
        voxel_ml: volume of a voxel of the grid, on average where slices are uneven.
        slice_mm: distance from one slice to the next, square to the slices, likewise.
        probability: that the scan holds hemorrhage, from the record beside the prediction; None where there is none.
        operating_point: the slice probability that counts as blood, from the same record.
        warnings: what the readers of the two masks had to put up with.
        failed: whether no mask was made, so that the empty one that is scored is no answer.
    """

    case: str
    patient: str
    overlap: Overlap
    surface: SurfaceScore
    lesions: LesionScore
    slices: tuple[SliceScore, ...]
    subtypes: tuple[SubtypeScore, ...]
    voxel_ml: float
    slice_mm: float
    probability: float | None = None
    operating_point: float | None = None
    warnings: tuple[str, ...] = ()
    failed: bool = False

    @property
    def volume_known(self) -> bool:
        """Whether the predicted volume is an answer: not that of a failure on a normal scan, which no volume is worse
        than."""
        return self.positive or not self.failed

    @property
    def positive(self) -> bool:
        """Whether the reference holds hemorrhage."""
        return self.overlap.n_reference > 0

    @property
    def positive_slices(self) -> tuple[SliceScore, ...]:
        """Slices in which the reference holds hemorrhage."""
        return tuple(found for found in self.slices if found.overlap.n_reference)


def score_masks(
    case: str,
    prediction: MaskVolume,
    reference: MaskVolume,
    labels: UInt8[Tensor, "depth height width"] | None = None,
    *,
    upside_down: bool = False,
    slice_ml: Float[Tensor, " depth"] | None = None,
) -> ScanScore:
    """Compare two masks on one grid.

    Args:
        case: the scan's name; taken for the patient's too.
        prediction: the mask to judge.
        reference: the mask to judge it by.
        labels: which subtype each voxel of the reference is; None where that is unknown.
        upside_down: whether the file counts slices from the highest.
        slice_ml: volume of a voxel of each slice, where they are uneven; None takes that of the grid for all. Distances
            are those of the grid in either case.
    """
    axes_mm = reference.affine[:3, :3]
    n_slices = len(reference.voxels)
    voxel_ml = reference.voxel_ml if slice_ml is None else slice_ml
    slices = [
        SliceScore(
            slice_index=n_slices - 1 - index if upside_down else index,
            overlap=overlap(predicted, referenced, reference.voxel_ml if slice_ml is None else float(slice_ml[index])),
            surface=measure_surfaces(predicted, referenced, axes_mm[:, 1:]),
        )
        for index, (predicted, referenced) in enumerate(zip(prediction.voxels, reference.voxels, strict=True))
    ]
    pixel_mm2 = float(torch.linalg.vector_norm(torch.linalg.cross(axes_mm[:, 1], axes_mm[:, 2])))
    scan = ScanScore(
        case=case,
        patient=case,
        overlap=overlap(prediction.voxels, reference.voxels, voxel_ml),
        surface=measure_surfaces(prediction.voxels, reference.voxels, axes_mm),
        lesions=match_lesions(prediction.voxels, reference.voxels, voxel_ml),
        slices=tuple(slices),
        subtypes=(),
        voxel_ml=reference.voxel_ml,
        slice_mm=reference.voxel_ml * 1000 / pixel_mm2,
    )
    if labels is None:
        return scan
    return replace(scan, subtypes=_by_subtype(scan, prediction, reference, labels, voxel_ml))


def _by_subtype(
    scan: ScanScore,
    prediction: MaskVolume,
    reference: MaskVolume,
    labels: UInt8[Tensor, "depth height width"],
    voxel_ml: float | Float[Tensor, " depth"],
) -> tuple[SubtypeScore, ...]:
    counts = torch.bincount(labels.flatten(), minlength=len(SUBTYPES) + 1)
    present = [subtype for subtype in SUBTYPES if counts[label_value(subtype)]]
    if len(present) == 1:
        return (SubtypeScore(present[0], scan.overlap, scan.surface, scan.lesions),)
    scores = []
    for subtype in present:
        wanted = labels == label_value(subtype)
        rest = prediction.voxels & (wanted | (labels == 0))
        scores.append(
            SubtypeScore(
                subtype=subtype,
                overlap=overlap(rest, wanted, voxel_ml),
                surface=measure_surfaces(rest, wanted, reference.affine[:3, :3]),
                lesions=match_lesions(rest, wanted, voxel_ml),
            )
        )
    return tuple(scores)
