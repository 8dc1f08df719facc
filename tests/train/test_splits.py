"""Splits by patient: nobody on two sides, everybody in their place, each subtype in its share, and never of another
cohort."""

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hgisam.labels import Subtype
from hgisam.train.cohort import Cohort, CohortRefused, LabelledScan, NiftiFile
from hgisam.train.layouts import read_cohort
from hgisam.train.splits import Role, deal, load_splits, make_splits


def cohort_of(patients: Sequence[int], scans_each: int = 1) -> Cohort:
    """One patient for each number, whose bits are the five subtypes that every other slice shows."""
    scans = []
    for number, bits in enumerate(patients):
        labels = torch.zeros(4, len(Subtype), dtype=torch.bool)
        shown = torch.tensor([bool(bits >> k & 1) for k in range(5)])
        labels[::2, :5] = shown
        labels[::2, 5] = shown.any()
        for k in range(scans_each):
            name = f"scan_{number:04d}_{k}"
            scans.append(LabelledScan(name, f"p{number:04d}", NiftiFile(Path(name)), labels, torch.ones_like(labels)))
    return Cohort("drawn", tuple(scans))


PATIENTS = st.lists(st.integers(0, 31), min_size=12, max_size=60)


@settings(max_examples=40)
@given(PATIENTS, st.integers(1, 6), st.sampled_from([0.0, 0.1, 0.3]), st.integers(0, 3))
def test_nobody_is_on_two_sides_and_sizes_are_equal(
    patients: list[int], n_folds: int, tuning_share: float, seed: int
) -> None:
    cohort = cohort_of(patients, scans_each=2)
    splits = make_splits(cohort, n_folds, tuning_share, seed)
    tested = Counter[str]()
    for fold in splits.folds:
        sides = [fold.patients(role) for role in Role]
        assert sum(map(len, sides)) == len(cohort.patients)
        assert frozenset.union(*sides) == set(cohort.patients)
        scans = [{scan.name for scan in fold.scans(cohort, role)} for role in Role]
        assert sum(map(len, scans)) == len(cohort.scans)
        assert all({scan.patient for scan in fold.scans(cohort, role)} == fold.patients(role) for role in Role)
        n_rest = len(cohort.patients) - len(fold.patients(Role.TEST))
        n_tuning = len(fold.patients(Role.TUNING))
        assert n_tuning == 0 if tuning_share == 0 else abs(n_tuning - max(1, tuning_share * n_rest)) < 1
        assert fold.patients(Role.TRAIN)
        tested.update(fold.patients(Role.TEST))
    if n_folds == 1:
        assert not tested
    else:
        assert tested == Counter(cohort.patients)
        sizes = [len(fold.patients(Role.TEST)) for fold in splits.folds]
        assert max(sizes) - min(sizes) <= 1


@settings(max_examples=40)
@given(PATIENTS, st.integers(0, 3))
def test_the_same_seed_deals_the_same(patients: list[int], seed: int) -> None:
    assert make_splits(cohort_of(patients), 4, seed=seed) == make_splits(cohort_of(patients), 4, seed=seed)


def test_another_seed_deals_otherwise() -> None:
    cohort = cohort_of(range(32))
    assert make_splits(cohort, seed=0) != make_splits(cohort, seed=1)


@given(st.lists(st.booleans(), min_size=5, max_size=80), st.integers(2, 5), st.integers(0, 5))
def test_one_label_is_spread_as_evenly_as_whole_cases_can_be(labels: list[bool], n_groups: int, seed: int) -> None:
    found = deal(np.array(labels)[:, None], [1 / n_groups] * n_groups, np.random.default_rng(seed))
    counts = [int(np.array(labels)[found == k].sum()) for k in range(n_groups)]
    assert max(counts) - min(counts) <= 1


@given(st.lists(st.integers(0, 31), min_size=1, max_size=60), st.integers(0, 5))
def test_groups_take_their_share_of_cases(bits: list[int], seed: int) -> None:
    labels = np.array([[bool(number >> k & 1) for k in range(5)] for number in bits])
    shares = [0.2, 0.5, 0.3]
    found = deal(labels, shares, np.random.default_rng(seed))
    sizes = [int((found == k).sum()) for k in range(3)]
    assert sum(sizes) == len(bits)
    assert all(abs(size - share * len(bits)) < 1 for size, share in zip(sizes, shares, strict=True))


def test_six_labels_of_a_thousand_are_spread_within_two_cases() -> None:
    random = np.random.default_rng(0)
    labels = random.random((1000, 6)) < [0.02, 0.1, 0.08, 0.1, 0.1, 0.4]
    found = deal(labels, [0.2] * 5, random)
    counts = np.array([labels[found == k].sum(axis=0) for k in range(5)])
    assert bool((counts.max(axis=0) - counts.min(axis=0) <= 2).all())


def test_splits_come_back_from_their_file(tmp_path: Path) -> None:
    cohort = cohort_of(range(32))
    splits = make_splits(cohort, 3)
    splits.save(tmp_path / "splits.csv")
    assert load_splits(tmp_path / "splits.csv", cohort) == splits
    with (tmp_path / "splits.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["patient", "fold_0", "fold_1", "fold_2", "cohort_sha256"]
    assert [row["patient"] for row in rows] == list(cohort.patients)
    assert {row["fold_1"] for row in rows} == {"train", "tuning", "test"}


@pytest.mark.parametrize("other", [range(31), [*range(31), 30]], ids=["a patient fewer", "one label changed"])
def test_splits_of_another_cohort_are_refused(tmp_path: Path, other: Sequence[int]) -> None:
    make_splits(cohort_of(range(32))).save(tmp_path / "splits.csv")
    with pytest.raises(CohortRefused, match="the scans or labels have changed"):
        load_splits(tmp_path / "splits.csv", cohort_of(other))


@pytest.mark.parametrize(
    ("old", "new"),
    [("p0003,", "p0004,"), ("p0003,", "x,"), (",train,", ",teach,"), ("fold_1", "fold_9"), ("patient", "who")],
)
def test_a_table_that_was_changed_by_hand_is_refused(tmp_path: Path, old: str, new: str) -> None:
    cohort = cohort_of(range(32))
    path = tmp_path / "splits.csv"
    make_splits(cohort).save(path)
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(CohortRefused, match=r"splits\.csv: expected"):
        load_splits(path, cohort)


@pytest.mark.parametrize(("n_patients", "n_folds", "share"), [(3, 4, 0.1), (3, 0, 0.1), (3, 3, 1.0), (2, 2, 0.5)])
def test_folds_that_cannot_be_dealt_are_an_error(n_patients: int, n_folds: int, share: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        make_splits(cohort_of(range(n_patients)), n_folds, share)


def test_real_patients_are_split_with_their_subtypes(realdata: Path) -> None:
    cohort = read_cohort(realdata / "ct_ich")
    rows = {patient: row for row, patient in enumerate(cohort.patients)}
    splits = make_splits(cohort, 5, 0.15, seed=0)
    shown = torch.stack(
        [cohort.patient_subtypes[[rows[p] for p in fold.patients(Role.TEST)]].sum(dim=0) for fold in splits.folds]
    )
    assert shown.sum(dim=0).tolist() == [19, 13, 4, 5, 3, 29]
    assert bool((shown.amax(dim=0) - shown.amin(dim=0) <= 1).all())
