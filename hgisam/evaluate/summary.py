"""Many scans in a few numbers, each over the scans that it is defined for, and none that flatters."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch

from hgisam.evaluate.agreement import (
    IntraclassCorrelation,
    LimitsOfAgreement,
    intraclass_correlation,
    limits_of_agreement,
)
from hgisam.evaluate.detection import Detection, detection
from hgisam.evaluate.scores import ScanScore, SliceScore, SubtypeScore
from hgisam.evaluate.statistics import MeanInterval, mean_interval
from hgisam.labels import SUBTYPES

VOLUME_EDGES_ML = (0.1, 1.0, 10.0, 30.0)
"""Between the strata of volume; from 30 mL on few patients recover (Broderick et al., Stroke 24:987, 1993)."""
THICKNESS_EDGES_MM = (2.0, 4.0)
"""Between thin, middle and thick slices."""


Scored = ScanScore | SubtypeScore
"""What a measure is taken of."""


@dataclass(frozen=True)
class Measure:
    """Something that is averaged over scans.

    Attributes:
        name: its key in tables and records.
        title: for people, with the scans that it is over.
        value: of a scan; None where it is undefined.
        over: whether a scan is one of those.
        form: how it is written.
    """

    name: str
    title: str
    value: Callable[[Scored], float | None]
    over: Callable[[Scored], bool]
    form: str = "{:.3f}"


def _any(_: Scored) -> bool:
    return True


def _positive(scored: Scored) -> bool:
    return scored.overlap.n_reference > 0


def _normal(scored: Scored) -> bool:
    return scored.overlap.n_reference == 0


def _answered(scored: Scored) -> bool:
    return scored.overlap.n_reference > 0 and scored.overlap.n_prediction > 0


def _volume_known(scored: Scored) -> bool:
    return isinstance(scored, SubtypeScore) or scored.volume_known


def _difference_ml(scored: Scored) -> float | None:
    return scored.overlap.difference_ml if _volume_known(scored) else None


def _absolute_difference_ml(scored: Scored) -> float | None:
    return abs(scored.overlap.difference_ml) if _volume_known(scored) else None


def _prediction_ml(scored: Scored) -> float | None:
    return scored.overlap.prediction_ml if _volume_known(scored) else None


MEASURES = (
    Measure("dice", "Dice, positive scans", lambda s: s.overlap.dice, _positive),
    Measure("dice_all", "Dice, all scans (false alarm: 0)", lambda s: s.overlap.dice, _any),
    Measure("iou", "IoU, positive scans", lambda s: s.overlap.iou, _positive),
    Measure("sensitivity", "Sensitivity, positive scans", lambda s: s.overlap.sensitivity, _positive),
    Measure("precision", "Precision, scans with a prediction", lambda s: s.overlap.precision, _any),
    Measure("hd95_mm", "HD95 in mm, positive scans", lambda s: s.surface.hd95_mm, _positive, "{:.1f}"),
    Measure("hd95_answered_mm", "HD95 in mm, of these not empty", lambda s: s.surface.hd95_mm, _answered, "{:.1f}"),
    Measure("assd_mm", "ASSD in mm, positive scans", lambda s: s.surface.assd_mm, _positive, "{:.2f}"),
    Measure("assd_answered_mm", "ASSD in mm, of these not empty", lambda s: s.surface.assd_mm, _answered, "{:.2f}"),
    Measure("nsd_1mm", "NSD at 1 mm, positive scans", lambda s: s.surface.nsd_1mm, _positive),
    Measure("nsd_2mm", "NSD at 2 mm, positive scans", lambda s: s.surface.nsd_2mm, _positive),
    Measure("lesion_f1", "Lesion F1, positive scans", lambda s: s.lesions.f1, _positive),
    Measure("lesion_sensitivity", "Lesion sensitivity, positive scans", lambda s: s.lesions.sensitivity, _positive),
    Measure("lesion_precision", "Lesion precision, scans with a prediction", lambda s: s.lesions.precision, _any),
    Measure("difference_ml", "Volume difference, mL", _difference_ml, _any, "{:+.2f}"),
    Measure("absolute_difference_ml", "Absolute volume difference, mL", _absolute_difference_ml, _any, "{:.2f}"),
    Measure("false_positive_ml", "False positive on normals, mL", _prediction_ml, _normal, "{:.2f}"),
)
"""Each over the scans that its title names. A complete miss counts in all of them: 0, or the grid's diagonal; only the
two "not empty" leave it out. What is undefined (both masks empty; nothing predicted, for a precision; volumes of a
failure on a normal scan) is counted."""

PUBLISHED_DICE = "positive_slices_only_dice"
"""The Dice of published results: over positive slices, so that false alarms on other slices cost nothing."""


@dataclass(frozen=True)
class Stratum:
    """Some of the scans, and their means.

    Attributes:
        by: what they are sorted by: `subtype`, `reference_ml` (positive scans) or `slice_mm`.
        name: which stratum.
        n: how many scans.
        means: by the name of each of MEASURES; those over no scan are left out.
    """

    by: str
    name: str
    n: int
    means: dict[str, MeanInterval]


@dataclass(frozen=True)
class LesionSizes:
    """Lesions of one size.

    Attributes:
        name: the size.
        found: share of the reference's lesions of this size that are found.
        right: share of the predicted lesions of this size that are right.
    """

    name: str
    found: MeanInterval
    right: MeanInterval


@dataclass(frozen=True)
class VolumeAgreement:
    """Predicted against reference volumes. Where a patient has several scans, neither has an interval: both of those
    that are known take scans for independent.

    Attributes:
        limits: of prediction minus reference, in mL.
        icc: of both.
    """

    limits: LimitsOfAgreement
    icc: IntraclassCorrelation


@dataclass(frozen=True)
class Summary:
    """All scans.

    Attributes:
        n: scans scored.
        n_missing: further cases with a reference, which are in no number here: they have no prediction, or none that
            could be compared.
        n_patients: whose they are.
        n_positive: of the scans, with hemorrhage in the reference.
        n_normal: of them, without.
        n_undefined: of them, both masks empty, so that Dice is undefined.
        n_missed: positive scans in which nothing of the prediction hit: Dice 0.
        n_unanswered: of these, in which nothing was predicted at all.
        n_false_positive: normal scans in which something was predicted.
        n_slices: of all scans.
        n_positive_slices: of them, with hemorrhage in the reference.
        means: by the name of each of MEASURES.
        positive_slices_only_dice: see PUBLISHED_DICE; the mean is over slices, its interval over patients.
        slice_sensitivity: share of the positive slices in which anything was predicted.
        slice_specificity: share of the other slices in which nothing was; a failure counts as wrong.
        scan_sensitivity: the same of scans.
        scan_specificity: the same of scans.
        scan_detection: of probabilities of scans, as far as they are known; None where none is. A failure takes part as
            the worst answer: 0 with hemorrhage, 1 without.
        slice_detection: the same of slices.
        n_without_probabilities: scans that take part in neither.
        volume_all: agreement of volumes over all scans.
        volume_positive: over positive scans.
        lesions_by_size: smallest first; sizes without a lesion are left out.
        strata: means by subtype, volume and slice thickness.
    """

    n: int
    n_missing: int
    n_patients: int
    n_positive: int
    n_normal: int
    n_undefined: int
    n_missed: int
    n_unanswered: int
    n_false_positive: int
    n_slices: int
    n_positive_slices: int
    means: dict[str, MeanInterval]
    positive_slices_only_dice: MeanInterval
    slice_sensitivity: MeanInterval
    slice_specificity: MeanInterval
    scan_sensitivity: MeanInterval
    scan_specificity: MeanInterval
    scan_detection: Detection | None
    slice_detection: Detection | None
    n_without_probabilities: int
    volume_all: VolumeAgreement
    volume_positive: VolumeAgreement
    lesions_by_size: tuple[LesionSizes, ...]
    strata: tuple[Stratum, ...]


def summarise(scans: Sequence[ScanScore], n_missing: int = 0) -> Summary:
    """The numbers over all scans. With none, every n is 0 and every mean None.

    Args:
        scans: those that were scored.
        n_missing: how many more have a reference. They are told of, and not counted in.
    """
    positive = [scan for scan in scans if scan.positive]
    normal = [scan for scan in scans if not scan.positive]
    slices = [(found, scan) for scan in scans for found in scan.slices]
    positive_slices = [(found, scan.patient) for found, scan in slices if found.overlap.n_reference]
    negative_slices = [(found, scan) for found, scan in slices if not found.overlap.n_reference]
    known = [scan for scan in scans if scan.probability is not None]
    known += [_answered_wrongly(scan) for scan in scans if scan.failed and known]
    return Summary(
        n=len(scans),
        n_missing=n_missing,
        n_patients=len({scan.patient for scan in scans}),
        n_positive=len(positive),
        n_normal=len(normal),
        n_undefined=sum(scan.overlap.dice is None for scan in scans),
        n_missed=sum(scan.overlap.n_both == 0 for scan in positive),
        n_unanswered=sum(scan.overlap.n_prediction == 0 for scan in positive),
        n_false_positive=sum(scan.overlap.n_prediction > 0 for scan in normal),
        n_slices=len(slices),
        n_positive_slices=len(positive_slices),
        means=_means([(scan, scan.patient) for scan in scans]),
        positive_slices_only_dice=_mean((found.overlap.dice, patient) for found, patient in positive_slices),
        slice_sensitivity=_mean((float(found.overlap.n_prediction > 0), p) for found, p in positive_slices),
        slice_specificity=_mean((_specific(found, scan), scan.patient) for found, scan in negative_slices),
        scan_sensitivity=_mean((float(scan.overlap.n_prediction > 0), scan.patient) for scan in positive),
        scan_specificity=_mean((_specific(scan, scan), scan.patient) for scan in normal),
        scan_detection=_scan_detection(known),
        slice_detection=_slice_detection(known),
        n_without_probabilities=len(scans) - len(known),
        volume_all=_volume_agreement(scans),
        volume_positive=_volume_agreement(positive),
        lesions_by_size=_lesions_by_size(scans),
        strata=(*_by_subtype(scans), *_by_volume(positive), *_by_thickness(scans)),
    )


def bands(edges: Sequence[float], unit: str) -> list[tuple[str, Callable[[float], bool]]]:
    """The strata that edges bound, each with a test for what belongs in it: at or above its lower edge."""

    def between(low: float, high: float) -> Callable[[float], bool]:
        return lambda value: low <= value < high

    lows, highs = (float("-inf"), *edges), (*edges, float("inf"))
    names = [
        f"under {edges[0]:g} {unit}",
        *(f"{low:g} to {high:g} {unit}" for low, high in pairwise(edges)),
        f"{edges[-1]:g} {unit} and over",
    ]
    return [(name, between(low, high)) for name, low, high in zip(names, lows, highs, strict=True)]


def _specific(found: ScanScore | SliceScore, scan: ScanScore) -> float:
    """1 where nothing was predicted in a scan or a slice of it, 0 where something was, or the scan failed."""
    return float(found.overlap.n_prediction == 0 and not scan.failed)


def _answered_wrongly(scan: ScanScore) -> ScanScore:
    """A scan with the worst probabilities that there are, for itself and each of its slices."""
    slices = tuple(replace(found, probability=float(not found.overlap.n_reference)) for found in scan.slices)
    return replace(scan, probability=float(not scan.positive), slices=slices)


def _mean(pairs: Iterable[tuple[float | None, str]]) -> MeanInterval:
    """Of values, each with the patient whose it is."""
    found = list(pairs)
    return mean_interval([value for value, _ in found], [patient for _, patient in found])


def _means(scored: Sequence[tuple[Scored, str]]) -> dict[str, MeanInterval]:
    return {m.name: _mean((m.value(s), patient) for s, patient in scored if m.over(s)) for m in MEASURES}


def _stratum(by: str, name: str, scored: Sequence[tuple[Scored, str]]) -> Stratum:
    means = {measure: found for measure, found in _means(scored).items() if found.n + found.n_undefined}
    return Stratum(by, name, len(scored), means)


def _by_subtype(scans: Sequence[ScanScore]) -> list[Stratum]:
    strata = []
    for subtype in SUBTYPES:
        of_subtype = [(found, scan.patient) for scan in scans for found in scan.subtypes if found.subtype is subtype]
        if of_subtype:
            strata.append(_stratum("subtype", subtype, of_subtype))
    return strata


def _by_volume(positive: Sequence[ScanScore]) -> list[Stratum]:
    return _banded("reference_ml", positive, lambda scan: scan.overlap.reference_ml, bands(VOLUME_EDGES_ML, "mL"))


def _by_thickness(scans: Sequence[ScanScore]) -> list[Stratum]:
    return _banded("slice_mm", scans, lambda scan: scan.slice_mm, bands(THICKNESS_EDGES_MM, "mm"))


def _banded(
    by: str,
    scans: Sequence[ScanScore],
    value: Callable[[ScanScore], float],
    wanted: Sequence[tuple[str, Callable[[float], bool]]],
) -> list[Stratum]:
    strata = []
    for name, belongs in wanted:
        inside = [(scan, scan.patient) for scan in scans if belongs(round(value(scan), 6))]
        if inside:
            strata.append(_stratum(by, name, inside))
    return strata


def _lesions_by_size(scans: Sequence[ScanScore]) -> tuple[LesionSizes, ...]:
    found: list[list[tuple[float, float, str]]] = [[], []]
    for scan in scans:
        for side, lesions in zip(found, (scan.lesions.reference, scan.lesions.prediction), strict=True):
            pairs = zip(lesions.volumes_ml, lesions.covered, strict=True)
            side += [(volume_ml, float(covered), scan.patient) for volume_ml, covered in pairs]
    sizes = []
    for name, belongs in bands(VOLUME_EDGES_ML, "mL"):
        means = [_mean((share, patient) for ml, share, patient in side if belongs(round(ml, 6))) for side in found]
        if means[0].n or means[1].n:
            sizes.append(LesionSizes(name, means[0], means[1]))
    return tuple(sizes)


def _volume_agreement(all_scans: Sequence[ScanScore]) -> VolumeAgreement:
    scans = [scan for scan in all_scans if scan.volume_known]
    volumes = torch.tensor([[s.overlap.prediction_ml, s.overlap.reference_ml] for s in scans]).double().reshape(-1, 2)
    limits = limits_of_agreement([scan.overlap.difference_ml for scan in scans])
    icc = intraclass_correlation(volumes.numpy())
    if len({scan.patient for scan in scans}) == len(scans):
        return VolumeAgreement(limits, icc)
    reason = icc.reason or "patients have several scans, which are no independent cases"
    return VolumeAgreement(replace(limits, margin=None), replace(icc, low=None, high=None, reason=reason))


def _scan_detection(known: Sequence[ScanScore]) -> Detection | None:
    if not known:
        return None
    point, why_not = shared_operating_point({scan.operating_point for scan in known if not scan.failed})
    return detection(
        torch.tensor([scan.probability for scan in known], dtype=torch.float64),
        torch.tensor([scan.positive for scan in known]),
        [scan.patient for scan in known],
        point,
        why_no_point=why_not,
    )


def _slice_detection(known: Sequence[ScanScore]) -> Detection | None:
    slices = [(found, scan.patient) for scan in known for found in scan.slices if found.probability is not None]
    if not slices:
        return None
    point, why_not = shared_operating_point({scan.operating_point for scan in known if not scan.failed})
    return detection(
        torch.tensor([found.probability for found, _ in slices], dtype=torch.float64),
        torch.tensor([found.overlap.n_reference > 0 for found, _ in slices]),
        [patient for _, patient in slices],
        point,
        why_no_point=why_not,
    )


def shared_operating_point(points: Collection[float | None]) -> tuple[float | None, str]:
    """The operating point of all records, or None and why they share none.

    Args:
        points: what each of them states; None where it states none.
    """
    stated = {*points} - {None}
    if not stated:
        return None, "no operating point on record"
    if len(stated) > 1:
        return None, "several operating points"
    return (None, "no operating point on record of some scans") if None in points else (stated.pop(), "")
