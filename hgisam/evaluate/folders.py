"""Folders of predicted and reference masks -> scores per scan, in several processes, and what could not be compared."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from hgisam.cases import own_record, safe_name
from hgisam.evaluate.pairs import Pair, pair_masks
from hgisam.evaluate.scores import ScanScore, score_masks
from hgisam.evaluate.summary import Summary, summarise
from hgisam.io.errors import InputError, ScanRefused
from hgisam.io.nifti import read_mask, read_mask_and_labels
from hgisam.io.nifti_header import Choice, Form
from hgisam.labels import SUBTYPES
from hgisam.processes import in_order, one_thread
from hgisam.progress import case_progress
from hgisam.volume import MaskVolume, corners_apart_mm, same_grid

log = logging.getLogger(__name__)

PAIRS_PER_WORKER = 8
"""A further process pays from about so many pairs on."""

UNEVEN = 0.01
"""Slices are uneven where the record states a spacing that differs from the grid's step by more than this share."""

_LABELS = ("_labels.nii.gz", "_labels.nii")
_N_VALUES = 10
"""So many of a file's values are told, lowest first."""
_N_FILES = 5
"""So many files are named in a sentence."""


@dataclass(frozen=True)
class EvaluationReport:
    """What came of comparing two folders.

    Attributes:
        scans: the scores, by case name.
        refused: pairs that could not be compared: (case, why).
        without_reference: cases with a prediction only.
        without_prediction: cases with a reference only.
        by_patient: whether it was said whose scan each is; else each counts as another patient's.
        without_subtypes: references that hold a value which stands for no subtype, so that neither they nor those named
            alike tell any though they seem to: (file's name, its values above 0).
    """

    scans: tuple[ScanScore, ...]
    refused: tuple[tuple[str, str], ...]
    without_reference: tuple[str, ...]
    without_prediction: tuple[str, ...]
    by_patient: bool = False
    without_subtypes: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every mask found was compared."""
        return not (self.refused or self.without_reference or self.without_prediction)

    @cached_property
    def summary(self) -> Summary:
        """The numbers over all scans; references without a scored prediction are told of as missing."""
        return summarise(self.scans, n_missing=len(self.without_prediction) + len(self.refused))


@dataclass(frozen=True)
class ReferenceValues:
    """What a reference's name and values tell of subtypes.

    Attributes:
        name: of the file.
        others: where one of its values above 0 stands for no subtype, all of them, at most _N_VALUES.
        has_several: whether it holds several values above 0, or a subtype other than the first, so that it is no mask
            of zeros and one other value.
    """

    name: str
    others: tuple[int, ...]
    has_several: bool

    @classmethod
    def of(
        cls, reference: Path, labels: UInt8[Tensor, "depth height width"] | None, others: tuple[int, ...]
    ) -> "ReferenceValues":
        """Of a file that `read_mask_and_labels` has read."""
        has_several = len(others) > 1 if labels is None else bool((labels > 1).any())
        return cls(reference.name, others[:_N_VALUES], has_several)

    @property
    def named_labels(self) -> bool:
        """Whether the name says that the values are subtypes."""
        return self.name.endswith(_LABELS)


@dataclass(frozen=True)
class ScoredPair:
    """What one process makes of one pair.

    Attributes:
        scan: the scores; None where the pair was refused.
        reason: why; None where it was not.
        reference: what it tells of subtypes; None where the pair was refused.
    """

    scan: ScanScore | None
    reason: str | None = None
    reference: ReferenceValues | None = None


def evaluate_folders(
    predictions: Path,
    references: Path,
    patients: Mapping[str, str] | None = None,
    *,
    form: Form | None = None,
    workers: int = 1,
    show_progress: bool = False,
) -> EvaluationReport:
    """Compare predicted with reference masks, paired by case name; in both, any value above 0 is hemorrhage.

    References tell subtypes where they are named `CASE_labels`, or any of those named otherwise holds a value above 1;
    in both cases where all that are named alike hold values of `hgisam.labels` only. Where one holds another, a warning
    names it and none of them tells a subtype.

    Args:
        predictions: a folder of `CASE_mask.nii.gz`, or one file. A record `CASE.json` beside it gives probabilities,
            and of DICOM the spacing of each slice, by which volumes are measured, as in the record.
        references: a folder of `CASE_mask.nii.gz`, `CASE_labels.nii.gz` or `CASE.nii.gz`, or one file.
        patients: whose scan each case is, names compared as by `pair_masks`; None: each is another patient's.
        form: which geometry to believe where those of a NIfTI header are at odds; None: such a pair is refused.
        workers: at most so many processes; fewer for few pairs. The result is the same for any number.
        show_progress: whether to draw a progress bar on the terminal.

    Returns:
        The scores; pairs that cannot be compared and cases without a partner are listed in it.

    Raises:
        ScanRefused: where nothing could be compared: no pairs, or the only pair is unreadable or on two grids.
        InputError: where `patients` lacks a case, or gives one, spelt in two ways, to two patients.
    """
    pairing = pair_masks(predictions, references)
    cases = [pair.case for pair in pairing.pairs]
    owners = None if patients is None else _by_safe_name(patients)
    lacking = [case for case in cases if owners is not None and safe_name(case) not in owners]
    if lacking:
        raise InputError(f"expected a patient for each case; got none for {len(lacking)}, such as {lacking[0]!r}")
    one_thread = partial(_score_with_one_thread, alone=len(cases) == 1, form=form)
    workers = min(workers, math.ceil(len(cases) / PAIRS_PER_WORKER))
    with case_progress(len(cases), show=show_progress) as begin:
        found = []
        for case, scored in zip(cases, in_order(one_thread, pairing.pairs, workers), strict=True):
            begin(case)
            found.append(scored)
            for warning in () if scored.scan is None else scored.scan.warnings:
                log.warning("%s: %s", case, warning)
    told = [one.reference for one in found if one.reference is not None]
    hindered = {named: hindering(told, named_labels=named) for named in (True, False)}
    scans = [
        replace(
            one.scan,
            patient=one.scan.case if owners is None else owners[safe_name(one.scan.case)],
            subtypes=one.scan.subtypes if hindered[one.reference.named_labels] == () else (),
        )
        for one in found
        if one.scan is not None and one.reference is not None
    ]
    refused = [(case, one.reason) for case, one in zip(cases, found, strict=True) if one.reason is not None]
    without_subtypes = tuple(each for files in hindered.values() for each in files or ())
    if without_subtypes:
        log.warning("%s", _untold_text(without_subtypes))
    return EvaluationReport(
        tuple(scans),
        tuple(refused),
        pairing.without_reference,
        pairing.without_prediction,
        by_patient=patients is not None,
        without_subtypes=without_subtypes,
    )


def _by_safe_name(patients: Mapping[str, str]) -> dict[str, str]:
    """Whose scan each case is, by the case's name as `hgisam segment` makes it."""
    spelt: dict[str, str] = {}
    for case in patients:
        first = spelt.setdefault(safe_name(case), case)
        if patients[first] != patients[case]:
            raise InputError(f"expected one patient for each case; got two for {first!r} and {case!r}; rename one")
    return {name: patients[case] for name, case in spelt.items()}


def score_pair(pair: Pair, form: Form | None = None) -> ScoredPair:
    """Compare one case's two masks; for `form` see `evaluate_folders`.

    Raises:
        ScanRefused: where one cannot be read, they lie on different grids, or the prediction's own record says that
            nothing was measured, so that its empty mask is no answer.
    """
    record = own_record(pair.prediction.with_name(f"{pair.case}.json"))
    if record.get("volume_ml", 0.0) is None:
        raise ScanRefused(f"{pair.case}: expected a mask that was measured; got none: {record.get('volume_reason')}")
    choice = Choice(form=form)
    prediction, prediction_grid = read_mask(pair.prediction, choice=choice)
    reference, labels, values, reference_grid = read_mask_and_labels(pair.reference, choice=choice)
    if not same_grid(prediction, reference):
        grids, advice = f"{_grid_text(prediction)} and {_grid_text(reference)}", "resample one of them"
        if prediction.voxels.shape == reference.voxels.shape:
            grids += f", in another place or direction, {corners_apart_mm(prediction, reference):.2f} mm apart at most"
            advice = "if both were drawn on one scan, copy its header to both, else resample one of them"
        raise ScanRefused(f"{pair.case}: expected both masks on one grid; got {grids}; {advice}")
    upside_down = prediction_grid.orientation.flips[0]
    spacing_mm = _recorded_spacing_mm(record, len(reference.voxels), upside_down=upside_down)
    slice_ml = None if spacing_mm is None else _pixel_mm2(reference) * spacing_mm / 1000.0
    scan = score_masks(pair.case, prediction, reference, labels, upside_down=upside_down, slice_ml=slice_ml)
    warnings = dict.fromkeys([*prediction_grid.warnings, *reference_grid.warnings])
    if spacing_mm is not None and bool(((spacing_mm / scan.slice_mm - 1).abs() > UNEVEN).any()):
        said = (
            f"slices are uneven: volumes take the spacing of each, {spacing_mm.min():.2f} to {spacing_mm.max():.2f} mm,"
            f" from the record beside the prediction; distances in mm take the grid's step of {scan.slice_mm:.2f} mm"
        )
        warnings |= {said: None}
    scan = replace(scan, warnings=tuple(warnings))
    return ScoredPair(
        scan=with_probabilities(scan, record),
        reference=ReferenceValues.of(pair.reference, labels, values),
    )


def hindering(
    references: Sequence[ReferenceValues], *, named_labels: bool
) -> tuple[tuple[str, tuple[int, ...]], ...] | None:
    """Of the references that are named so, those with a value that is no subtype: (name, its values above 0).

    Returns:
        Empty where all of them tell subtypes; None where none means to.
    """
    alike = [reference for reference in references if reference.named_labels == named_labels]
    if not named_labels and not any(reference.has_several for reference in alike):
        return None
    return tuple((reference.name, reference.others) for reference in alike if reference.others)


def _untold_text(without_subtypes: Sequence[tuple[str, tuple[int, ...]]]) -> str:
    told = [f"{', '.join(map(str, values))} in {name}" for name, values in without_subtypes[:_N_FILES]]
    more = f"; and in {len(without_subtypes) - _N_FILES} more" if len(without_subtypes) > _N_FILES else ""
    return (
        f"no subtypes: expected values from 0 to {len(SUBTYPES)} in all references that are named alike; got"
        f" {'; '.join(told)}{more}; correct them"
    )


def _recorded_spacing_mm(
    record: Mapping[str, Any], n_slices: int, *, upside_down: bool
) -> Float[Tensor, " depth"] | None:
    """The length that each slice stands for, by the record of `hgisam segment`; None where it says none, as of NIfTI.

    Args:
        record: may be empty.
        n_slices: of the mask.
        upside_down: whether the file counts slices from the highest.
    """
    rows = record.get("slices")
    found = {
        row.get("slice_index"): row.get("spacing_mm")
        for row in (rows if isinstance(rows, list) else [])
        if isinstance(row, dict) and isinstance(row.get("slice_index"), int)
    }
    known = [found.get(index) for index in range(n_slices)]
    if len(found) != n_slices or not all(isinstance(mm, float) and 0 < mm < math.inf for mm in known):
        return None
    spacing_mm = torch.tensor(known, dtype=torch.float64)
    return spacing_mm.flip(0) if upside_down else spacing_mm


def _pixel_mm2(mask: MaskVolume) -> float:
    down, right = mask.affine[:3, 1], mask.affine[:3, 2]
    return float(torch.linalg.vector_norm(torch.linalg.cross(down, right)))


def _score_with_one_thread(pair: Pair, *, alone: bool, form: Form | None) -> ScoredPair:
    """`score_pair`, with a refusal as a result unless it is of the only pair."""
    try:
        with one_thread():
            return score_pair(pair, form)
    except ScanRefused as error:
        if alone:
            raise
        return ScoredPair(None, str(error))


def with_probabilities(scan: ScanScore, record: Mapping[str, Any]) -> ScanScore:
    """The scan with what the record of `hgisam segment` or `classify` says of it and of its slices."""
    if "probability" not in record:
        return scan
    rows = record.get("slices")
    by_index = {
        row.get("slice_index"): row.get("probability_any")
        for row in (rows if isinstance(rows, list) else [])
        if isinstance(row, dict) and isinstance(row.get("slice_index"), int)
    }
    known: list[Any] = [by_index.get(found.slice_index) for found in scan.slices]
    if len(by_index) != len(known) or not all(map(is_probability, [*known, record["probability"]])):
        unread = "the record beside the prediction has no probability for each slice: none was taken from it"
        return replace(scan, warnings=(*scan.warnings, unread))
    point = record.get("operating_point")
    slices = [replace(found, probability=float(p)) for found, p in zip(scan.slices, known, strict=True)]
    return replace(
        scan,
        probability=float(record["probability"]),
        operating_point=point if is_probability(point) else None,
        slices=tuple(slices),
    )


def is_probability(value: object) -> bool:
    """Whether what a record holds is a number in [0, 1]."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _grid_text(mask: MaskVolume) -> str:
    voxels = " x ".join(str(n) for n in reversed(mask.voxels.shape))
    return f"{voxels} voxels of {' x '.join(f'{mm:.3g}' for mm in reversed(mask.spacing_mm))} mm ({mask.source})"
