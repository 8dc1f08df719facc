"""Folders of predicted and reference masks -> scores per scan, and their summary with every n stated."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hgisam.cases import own_record
from hgisam.evaluate.overlap import Overlap, overlap, overlap_by_slice
from hgisam.evaluate.pairs import Pair, pair_masks
from hgisam.evaluate.statistics import MeanInterval, mean_interval
from hgisam.io.errors import ScanRefused
from hgisam.io.nifti import read_mask
from hgisam.volume import MaskVolume, same_grid


@dataclass(frozen=True)
class ScanScore:
    """One scan's prediction against its reference.

    Attributes:
        case: the scan's name.
        overlap: over the whole volume.
        slices: slice by slice, the lowest first.
        warnings: what the readers of the two masks had to put up with.
    """

    case: str
    overlap: Overlap
    slices: tuple[Overlap, ...]
    warnings: tuple[str, ...] = ()

    @property
    def positive(self) -> bool:
        """Whether the reference holds hemorrhage."""
        return self.overlap.n_reference > 0


@dataclass(frozen=True)
class Summary:
    """All scans in a few numbers, each over the scans that it is defined for, and none that flatters.

    Attributes:
        n: scans scored.
        n_positive: of them, with hemorrhage in the reference.
        n_normal: of them, without.
        n_undefined: of them, both masks empty, so that Dice is undefined.
        n_missed: positive scans in which nothing was predicted or nothing of it hit: Dice 0.
        n_false_positive: normal scans in which something was predicted.
        n_positive_slices: slices with hemorrhage in the reference.
        dice: over positive scans; a miss counts as 0.
        iou: over positive scans; a miss counts as 0.
        sensitivity: over positive scans, by voxels.
        precision: over scans with a prediction, by voxels.
        difference_ml: prediction minus reference, over all scans.
        absolute_difference_ml: its size, over all scans.
        false_positive_ml: volume predicted, over normal scans.
        slice_dice: mean over slices that the reference calls positive, as published results have it: false positives
            on other slices cost nothing. None where there is no such slice.
    """

    n: int
    n_positive: int
    n_normal: int
    n_undefined: int
    n_missed: int
    n_false_positive: int
    n_positive_slices: int
    dice: MeanInterval
    iou: MeanInterval
    sensitivity: MeanInterval
    precision: MeanInterval
    difference_ml: MeanInterval
    absolute_difference_ml: MeanInterval
    false_positive_ml: MeanInterval
    slice_dice: float | None


@dataclass(frozen=True)
class EvaluationReport:
    """What came of comparing two folders.

    Attributes:
        scans: the scores, by case name.
        refused: pairs that could not be compared: (case, why).
        without_reference: cases with a prediction only.
        without_prediction: cases with a reference only.
    """

    scans: tuple[ScanScore, ...]
    refused: tuple[tuple[str, str], ...]
    without_reference: tuple[str, ...]
    without_prediction: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether every mask found was compared."""
        return not (self.refused or self.without_reference or self.without_prediction)

    @cached_property
    def summary(self) -> Summary:
        """The numbers over all scans."""
        return summarise(self.scans)


def evaluate_folders(predictions: Path, references: Path) -> EvaluationReport:
    """Compare predicted with reference masks, paired by case name; in both, any value above 0 is hemorrhage.

    Args:
        predictions: a folder of `CASE_mask.nii.gz`, or one file.
        references: a folder of `CASE_mask.nii.gz`, `CASE_labels.nii.gz` or `CASE.nii.gz`, or one file.

    Returns:
        The scores; pairs that cannot be compared and cases without a partner are listed in it.

    Raises:
        ScanRefused: where nothing could be compared: no pairs, or the only pair is unreadable or on two grids.
    """
    pairing = pair_masks(predictions, references)
    scans, refused = [], []
    for pair in pairing.pairs:
        try:
            scans.append(score_pair(pair))
        except ScanRefused as error:
            if len(pairing.pairs) == 1:
                raise
            refused.append((pair.case, str(error)))
    return EvaluationReport(tuple(scans), tuple(refused), pairing.without_reference, pairing.without_prediction)


def score_pair(pair: Pair) -> ScanScore:
    """Compare one case's two masks.

    Raises:
        ScanRefused: where one cannot be read, they lie on different grids, or the prediction's own record says that
            nothing was measured, so that its empty mask is no answer.
    """
    _check_measured(pair)
    prediction, prediction_grid = read_mask(pair.prediction)
    reference, reference_grid = read_mask(pair.reference)
    if not same_grid(prediction, reference):
        grids = f"{_grid_text(prediction)} and {_grid_text(reference)}"
        elsewhere = ", in another place or direction" if prediction.voxels.shape == reference.voxels.shape else ""
        raise ScanRefused(f"{pair.case}: expected both masks on one grid; got {grids}{elsewhere}; resample one of them")
    return ScanScore(
        case=pair.case,
        overlap=overlap(prediction.voxels, reference.voxels, reference.voxel_ml),
        slices=overlap_by_slice(prediction.voxels, reference.voxels, reference.voxel_ml),
        warnings=(*prediction_grid.warnings, *reference_grid.warnings),
    )


def _check_measured(pair: Pair) -> None:
    record = own_record(pair.prediction.with_name(f"{pair.case}.json"))
    if record.get("volume_ml", 0.0) is None:
        raise ScanRefused(f"{pair.case}: expected a mask that was measured; got none: {record.get('volume_reason')}")


def summarise(scans: tuple[ScanScore, ...]) -> Summary:
    """The numbers over all scans. With none, every n is 0 and every mean None."""
    overlaps = [scan.overlap for scan in scans]
    positive = [found for found in overlaps if found.n_reference]
    normal = [found for found in overlaps if not found.n_reference]
    positive_slices = [found for scan in scans for found in scan.slices if found.n_reference]
    slice_dices = _defined(found.dice for found in positive_slices)
    return Summary(
        n=len(scans),
        n_positive=len(positive),
        n_normal=len(normal),
        n_undefined=sum(found.dice is None for found in overlaps),
        n_missed=sum(found.n_both == 0 for found in positive),
        n_false_positive=sum(found.n_prediction > 0 for found in normal),
        n_positive_slices=len(positive_slices),
        dice=mean_interval(_defined(found.dice for found in positive)),
        iou=mean_interval(_defined(found.iou for found in positive)),
        sensitivity=mean_interval(_defined(found.sensitivity for found in positive)),
        precision=mean_interval(_defined(found.precision for found in overlaps)),
        difference_ml=mean_interval([found.difference_ml for found in overlaps]),
        absolute_difference_ml=mean_interval([abs(found.difference_ml) for found in overlaps]),
        false_positive_ml=mean_interval([found.prediction_ml for found in normal]),
        slice_dice=sum(slice_dices) / len(slice_dices) if slice_dices else None,
    )


def _defined(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _grid_text(mask: MaskVolume) -> str:
    voxels = " x ".join(str(n) for n in reversed(mask.voxels.shape))
    return f"{voxels} voxels of {' x '.join(f'{mm:.3g}' for mm in reversed(mask.spacing_mm))} mm ({mask.source})"
