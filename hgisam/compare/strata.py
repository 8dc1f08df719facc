"""What makes a case hard: kind, volume, and how far its blood stands out; and how far each method gets there."""

from collections.abc import Sequence
from dataclasses import dataclass

from hgisam.brain import BrainOptions, brain_median_hu
from hgisam.compare.data import ComparedCase
from hgisam.compare.results import Results
from hgisam.evaluate.statistics import MeanInterval, mean_interval
from hgisam.evaluate.summary import bands
from hgisam.intake import IntakeOptions, check_scan
from hgisam.io.errors import ScanRefused
from hgisam.io.nifti import read_mask_and_labels
from hgisam.refine import Components
from hgisam.volume import same_grid

CONTRAST_EDGES_HU = (15.0, 25.0)
"""Between blood that is nearly as dense as brain, blood that is told from it, and blood that leaps to the eye."""
LARGE_ML = 1.0
"""A bleed of less is a few voxels, whose Dice says little."""
DENSEST_CLOT_HU = Components().ceiling_hu
KINDS = {
    "subtype": "Subtype of the reference, against the prediction less what of it lies in the scan's other subtypes",
    "reference_ml": "Volume of the reference",
    "contrast_hu": "Contrast: median HU of the reference up to the densest clot's, minus the median of its brain",
}


@dataclass(frozen=True)
class StratumMean:
    """A method on some of the cases.

    Attributes:
        by: what cases are sorted by, a key of `KINDS`.
        name: which of them.
        method: the method's name.
        mean: of the comparison's measure.
    """

    by: str
    name: str
    method: str
    mean: MeanInterval


def contrasts_hu(cases: Sequence[ComparedCase]) -> dict[str, float]:
    """By case: by how many HU the reference's median lies above that of the brain; cases where none is known left out.

    What of a reference is denser than any clot is left out: the bone that a thin bleed is blurred with.

    Raises:
        ScanRefused: where a reference cannot be read.
    """
    found = {case.name: _contrast_hu(case) for case in cases}
    return {name: contrast_hu for name, contrast_hu in found.items() if contrast_hu is not None}


def _contrast_hu(case: ComparedCase) -> float | None:
    reference, *_ = read_mask_and_labels(case.reference)
    if not reference.voxels.any():
        return None
    try:
        checked = check_scan(case.scan, BrainOptions(), IntakeOptions())
    except ScanRefused:
        return None
    if not same_grid(checked.ct, reference):
        return None
    blood_hu = checked.ct.hu[reference.voxels]
    blood_hu = blood_hu[blood_hu <= DENSEST_CLOT_HU]
    return float(blood_hu.median()) - brain_median_hu(checked.ct, checked.region) if len(blood_hu) else None


def strata(results: Results, contrasts: dict[str, float]) -> list[StratumMean]:
    """Every working method by kind, volume and contrast of what it is to find; strata without a case left out.

    Args:
        results: of the comparison.
        contrasts: as `contrasts_hu` gives them.
    """
    measure = results.measure.name
    found = [
        StratumMean(stratum.by, stratum.name, method, stratum.means[measure])
        for method, summary in results.summaries.items()
        for stratum in summary.strata
        if stratum.by in KINDS and measure in stratum.means
    ]
    for method, values in results.values.items():
        large = [
            case for case, one in results.case_results(method).items() if one.score.overlap.reference_ml >= LARGE_ML
        ]
        found += _mean_of("reference_ml", f"all of {LARGE_ML:g} mL and over", method, large, results)
        for name, belongs in bands(CONTRAST_EDGES_HU, "HU"):
            inside = [case for case in values if case in contrasts and belongs(contrasts[case])]
            found += _mean_of("contrast_hu", name, method, inside, results)
    return found


def _mean_of(by: str, name: str, method: str, cases: Sequence[str], results: Results) -> list[StratumMean]:
    """The mean over those of the cases that have a value; nothing where none has."""
    values = results.values[method]
    inside = [case for case in cases if case in values]
    owners = [results.patients[case] for case in inside]
    return [StratumMean(by, name, method, mean_interval([values[case] for case in inside], owners))] if inside else []
