"""What a cohort says of itself: who is in it, what they show, and what was wrong with the rest."""

from pathlib import Path

import pytest
import torch

from hgisam.labels import Subtype
from hgisam.train.cohort import N_EXAMPLES, Cohort, Findings, LabelledScan, NiftiFile, Trouble


def scan(name: str, patient: str, shown: list[bool], known: list[bool] | None = None) -> LabelledScan:
    """A scan whose slices show any hemorrhage or none, or of which nothing is known."""
    labels = torch.zeros(len(shown), len(Subtype), dtype=torch.bool)
    labels[:, 5] = torch.tensor(shown)
    certain = torch.tensor(known or [True] * len(shown))[:, None].expand(-1, len(Subtype)).clone()
    return LabelledScan(name, patient, NiftiFile(Path(f"{name}.nii")), labels & certain, certain)


@pytest.fixture
def cohort() -> Cohort:
    """Three scans of two patients."""
    scans = (scan("a", "p", [False, True]), scan("b", "q", [False]), scan("c", "p", [False, False], [True, False]))
    return Cohort("drawn", scans)


def test_a_slice_is_positive_negative_or_unknown(cohort: Cohort) -> None:
    assert cohort.scans[0].positive.tolist() == [False, True]
    assert cohort.scans[0].negative.tolist() == [True, False]
    assert cohort.scans[2].negative.tolist() == [True, False]
    assert cohort.scans[2].positive.tolist() == [False, False]


def test_a_patient_shows_what_any_of_their_scans_shows(cohort: Cohort) -> None:
    assert cohort.patients == ("p", "q")
    assert cohort.patient_subtypes[:, 5].tolist() == [True, False]
    assert [found.name for found in cohort.of(["p"])] == ["a", "c"]


def test_a_stranger_is_an_error(cohort: Cohort) -> None:
    with pytest.raises(ValueError, match="1 others, nobody first"):
        cohort.of(["p", "nobody"])


def test_the_summary_counts_what_is_known(cohort: Cohort) -> None:
    first, *rest = cohort.summary().splitlines()
    assert first == "drawn: 3 scans of 2 patients, 5 slices: 1 positive, 3 negative, 1 unknown"
    assert rest[-1] == "any: 1 slice of 1 patient"


@pytest.mark.parametrize(
    "changed",
    [
        scan("b", "q", [True]),
        scan("b", "p", [False]),
        scan("b", "q", [False], [False]),
        scan("b", "q", [False, False]),
    ],
    ids=["label", "patient", "known", "slices"],
)
def test_the_hash_is_of_patients_and_labels(cohort: Cohort, changed: LabelledScan) -> None:
    a, b, c = cohort.scans
    assert Cohort("elsewhere", (a, b, c)).sha256 == cohort.sha256
    assert Cohort("drawn", (a, changed, c)).sha256 != cohort.sha256


def test_scans_are_sorted_and_named_once(cohort: Cohort) -> None:
    a, b, _ = cohort.scans
    for scans in ((b, a), (a, a)):
        with pytest.raises(ValueError, match="each name once"):
            Cohort("drawn", scans)


def test_findings_count_all_and_show_a_few() -> None:
    findings = Findings()
    for number in range(1200):
        findings.add(Trouble.MALFORMED, f"line {number}")
    (found,) = findings.found()
    assert found.count == 1200
    assert found.examples == tuple(f"line {number}" for number in range(N_EXAMPLES))
    assert str(found).startswith("1,200 x a row that cannot be read: ignored (line 0;")
    assert str(found).endswith("...)")
