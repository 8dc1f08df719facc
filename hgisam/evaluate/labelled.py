"""What was said of scans, held against the labels of their slices: for those who have no reference masks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from hgisam.evaluate.detection import Detection
from hgisam.evaluate.scored import ScoredSlices, scan_detection, slice_detection
from hgisam.evaluate.statistics import MeanInterval, mean_interval
from hgisam.evaluate.summary import shared_operating_point
from hgisam.labels import ANY_COLUMN, SUBTYPES, Subtype


@dataclass(frozen=True, eq=False)
class LabelledAnswer:
    """One scan: what is known of its slices, and what was said of them. All rows are of the lowest slice first.

    Attributes:
        case: the scan's name among the outputs.
        patient: whose scan it is.
        slice_index: of each slice, in the scan's own file.
        labels: which of `hgisam.labels.Subtype` each slice shows; False where unknown.
        known: of which that is known.
        probabilities: of any hemorrhage, by slice, in [0, 1].
        probability: of the scan.
        operating_point: from which probability on a slice or a scan is a finding; None where none is on record.
        mask_ml: of the mask, by slice; None where no mask was measured.
    """

    case: str
    patient: str
    slice_index: Int64[Tensor, " slices"]
    labels: Bool[Tensor, "slices 6"]
    known: Bool[Tensor, "slices 6"]
    probabilities: Float64[Tensor, " slices"]
    probability: float
    operating_point: float | None
    mask_ml: Float64[Tensor, " slices"] | None

    @property
    def positive(self) -> Bool[Tensor, " slices"]:
        """Slices known to show any hemorrhage."""
        return self.labels[:, ANY_COLUMN]

    @property
    def negative(self) -> Bool[Tensor, " slices"]:
        """Slices known to show none. One that is neither is unknown."""
        return self.known[:, ANY_COLUMN] & ~self.positive

    @property
    def bled(self) -> bool | None:
        """Whether any slice is known to be positive; None where none is, and not all are known."""
        return True if self.positive.any() else (False if self.negative.all() else None)

    @property
    def ml_in_negative_slices(self) -> float | None:
        """mL of the mask in slices known not to bleed; None without a mask, or where unknown slices hold some of it."""
        if self.mask_ml is None or bool(self.mask_ml[~(self.positive | self.negative)].any()):
            return None
        return float(self.mask_ml[self.negative].sum())

    @property
    def found(self) -> Bool[Tensor, " slices"] | None:
        """Slices at or above the operating point; None without one."""
        return None if self.operating_point is None else self.probabilities >= self.operating_point


@dataclass(frozen=True)
class MaskMeasure:
    """Something that slice labels can say of masks, averaged over slices or scans.

    Attributes:
        name: its key in tables and records.
        title: for people, with what it is over.
        values: of a scan with a mask, one for each slice or scan that it is over.
        form: how it is written.
    """

    name: str
    title: str
    values: Callable[[LabelledAnswer, Float64[Tensor, " slices"]], list[float]]
    form: str = "{:.3f}"


def _of_slices(outlined: Bool[Tensor, " slices"], over: Bool[Tensor, " slices"]) -> list[float]:
    shares: list[float] = outlined[over].double().tolist()
    return shares


MASK_MEASURES = (
    MaskMeasure("slice_sensitivity", "Positive slices with a prediction", lambda s, ml: _of_slices(ml > 0, s.positive)),
    MaskMeasure("slice_specificity", "Negative slices without", lambda s, ml: _of_slices(ml == 0, s.negative)),
    MaskMeasure(
        "scan_sensitivity", "Positive scans with a prediction", lambda s, ml: [float(ml.sum() > 0)] if s.bled else []
    ),
    MaskMeasure(
        "scan_specificity",
        "Normal scans without",
        lambda s, ml: [float(ml.sum() == 0)] if s.bled is False else [],
    ),
    MaskMeasure(
        "positive_ml",
        "Predicted in positive scans, mL",
        lambda s, ml: [float(ml.sum())] if s.bled else [],
        "{:.2f}",
    ),
    MaskMeasure(
        "positive_ml_in_negative_slices",
        "Of that, in slices without, mL",
        lambda s, _: [s.ml_in_negative_slices] if s.bled and s.ml_in_negative_slices is not None else [],
        "{:.2f}",
    ),
    MaskMeasure(
        "false_positive_ml",
        "False positive on normals, mL",
        lambda s, ml: [float(ml.sum())] if s.bled is False else [],
        "{:.2f}",
    ),
)
"""Labels tell in which slices there is blood, not how much: the first four and the last two are what can be wrong."""


@dataclass(frozen=True)
class LabelledDetection:
    """How well one kind of hemorrhage is told from none at all, by the probability of any.

    Attributes:
        target: a subtype, or any.
        slices: by the probability of each slice.
        scans: by the probability of each scan.
    """

    target: Subtype
    slices: Detection
    scans: Detection


@dataclass(frozen=True)
class LabelledSummary:
    """All scans.

    Attributes:
        n: scans with labels and an answer.
        n_missing: further scans with labels, which are in no number here: they have no answer, or none that fits.
        n_patients: whose they are.
        n_positive: of the scans, with a slice known to bleed.
        n_normal: of them, all slices known not to bleed. The others are unknown.
        n_slices: of all scans.
        n_positive_slices: of them, known to bleed.
        n_negative_slices: of them, known not to. The others are unknown.
        detection: of any hemorrhage, then of each subtype that a slice shows.
        n_without_masks: scans that take no part in `masks`.
        masks: by the name of each of MASK_MEASURES; empty where no scan has a mask.
    """

    n: int
    n_missing: int
    n_patients: int
    n_positive: int
    n_normal: int
    n_slices: int
    n_positive_slices: int
    n_negative_slices: int
    detection: tuple[LabelledDetection, ...]
    n_without_masks: int
    masks: dict[str, MeanInterval]


@dataclass(frozen=True)
class LabelledReport:
    """What came of holding a folder of records against labels.

    Attributes:
        scans: by case name.
        refused: scans whose record cannot be held against their labels: (case, why).
        without_reference: cases with a record only.
        without_prediction: scans with labels only.
        layout: of the labelled data set.
        by_patient: whether the labels say whose scan each is; else each counts as another patient's.
        findings: what is wrong with its labels, a sentence each.
        lost: of these, those that leave labelled scans out: their files are not there, or cannot be read.
        origins: which commands, versions, weights and settings the records state, each once.
    """

    scans: tuple[LabelledAnswer, ...]
    refused: tuple[tuple[str, str], ...]
    without_reference: tuple[str, ...]
    without_prediction: tuple[str, ...]
    layout: str
    by_patient: bool = False
    findings: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    origins: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every scan was compared."""
        return not (self.refused or self.without_reference or self.without_prediction or self.lost)

    @cached_property
    def summary(self) -> LabelledSummary:
        """The numbers over all scans; those without an answer are told of as missing."""
        return summarise_labelled(self.scans, n_missing=len(self.without_prediction) + len(self.refused))


def as_scored(scans: Sequence[LabelledAnswer]) -> ScoredSlices:
    """The slices of scans as one table, scan by scan. All count as looked at: a record gives each a probability."""
    return ScoredSlices(
        patients=tuple(scan.patient for scan in scans for _ in scan.probabilities),
        scans=tuple(scan.case for scan in scans for _ in scan.probabilities),
        slices=torch.cat([torch.arange(len(scan.probabilities)) for scan in scans]),
        has_brain=torch.cat([torch.ones_like(scan.positive) for scan in scans]),
        labels=torch.cat([scan.labels for scan in scans]),
        known=torch.cat([scan.known for scan in scans]),
        probabilities=torch.cat([scan.probabilities for scan in scans]),
    )


def summarise_labelled(scans: Sequence[LabelledAnswer], n_missing: int = 0) -> LabelledSummary:
    """The numbers over all scans.

    Args:
        scans: at least one, each of a name of its own.
        n_missing: how many more have labels. They are told of, and not counted in.
    """
    scored = as_scored(scans)
    point, why_no_point = shared_operating_point({scan.operating_point for scan in scans})
    by_scan = {scan.case: scan.probability for scan in scans}
    shown = [Subtype.ANY, *(s for s, column in zip(SUBTYPES, scored.labels.T, strict=False) if column.any())]
    n_without_masks = sum(scan.mask_ml is None for scan in scans)
    return LabelledSummary(
        n=len(scans),
        n_missing=n_missing,
        n_patients=len({scan.patient for scan in scans}),
        n_positive=sum(scan.bled is True for scan in scans),
        n_normal=sum(scan.bled is False for scan in scans),
        n_slices=len(scored),
        n_positive_slices=int(scored.positive.sum()),
        n_negative_slices=int(scored.negative.sum()),
        detection=tuple(
            LabelledDetection(
                target,
                slice_detection(scored, target, point, why_no_point=why_no_point),
                scan_detection(scored, by_scan, target, point, why_no_point=why_no_point),
            )
            for target in shown
        ),
        n_without_masks=n_without_masks,
        masks={m.name: _mean(m, scans) for m in MASK_MEASURES} if n_without_masks < len(scans) else {},
    )


def _mean(measure: MaskMeasure, scans: Sequence[LabelledAnswer]) -> MeanInterval:
    found = [
        (value, scan.patient)
        for scan in scans
        if scan.mask_ml is not None
        for value in measure.values(scan, scan.mask_ml)
    ]
    return mean_interval([value for value, _ in found], [patient for _, patient in found])
