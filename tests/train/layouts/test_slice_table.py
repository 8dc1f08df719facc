"""NIfTI files beside slice_labels.csv: rows find their slice in any axes, and what does not fit is told."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from scan_files import write_nifti

from hgisam.io.errors import InputError
from hgisam.io.tables import SLICE_LABEL_COLUMNS
from hgisam.labels import SUBTYPES, Subtype
from hgisam.phantom import PhantomOptions, make_phantom, slice_labels
from hgisam.phantom_folder import write_phantoms
from hgisam.train.cohort import Cohort, CohortRefused, Trouble
from hgisam.train.layouts import read_cohort
from hgisam.train.layouts.pseudonym import pseudonym
from hgisam.train.splits import load_splits, make_splits

HEAD = ",".join(SLICE_LABEL_COLUMNS)
NEGATIVE, SUBDURAL = "0,0,0,0,0,0", "0,0,0,0,1,1"


def write_table(folder: Path, rows: list[str], head: str = HEAD) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "slice_labels.csv").write_text("\n".join([head, *rows]) + "\n")


def troubles(cohort: Cohort) -> dict[Trouble, int]:
    return {finding.trouble: finding.count for finding in cohort.findings}


@pytest.mark.parametrize("axes", ["LPS", "LPI", "RAS", "SPL", "IRA", "LSP"])
def test_labels_follow_their_slices_into_the_house_s_order(tmp_path: Path, axes: str) -> None:
    write_nifti(tmp_path / "a.nii.gz", [10, 50, 30, 20], axes)
    write_table(tmp_path, [f"a.nii.gz,{k},{SUBDURAL if k == 1 else NEGATIVE}" for k in (2, 0, 3, 1)])
    (scan,) = read_cohort(tmp_path).scans
    bright = scan.load().hu[:, 0, 0] == 50
    assert scan.positive.tolist() == bright.tolist()
    assert scan.labels[:, 4].tolist() == bright.tolist()
    assert scan.negative.tolist() == (~bright).tolist()


def test_everything_that_does_not_fit_is_counted(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.nii.gz", "unlabelled.nii.gz"):
        write_nifti(tmp_path / name, [1] * 20)
    (tmp_path / "damaged.nii.gz").write_bytes(b"not an image")
    rows = [f"a.nii.gz,{k},{NEGATIVE}" for k in range(20)]
    rows += [f"b.nii.gz,{k},{NEGATIVE}" for k in range(17)]
    rows += [
        f"a.nii.gz,3,{NEGATIVE}",  # again
        f"a.nii.gz,4,{SUBDURAL}",  # and differently
        "b.nii.gz,17,0,0,0,0,0,1",  # any without a subtype
        "b.nii.gz,18,0,0,0,0,1,0",  # a subtype without any
        f"b.nii.gz,20,{NEGATIVE}",  # there are 20
        f"b.nii.gz,x,{NEGATIVE}",
        "b.nii.gz,1,0,0,0,0,2,1",
        f"damaged.nii.gz,0,{NEGATIVE}",
        f"gone.nii.gz,0,{NEGATIVE}",
        f"../slice_table/a.nii.gz,0,{NEGATIVE}",
    ]
    write_table(tmp_path, rows)
    cohort = read_cohort(tmp_path)
    assert troubles(cohort) == {
        Trouble.MISSING_FILE: 2,
        Trouble.UNLABELLED_FILE: 1,
        Trouble.UNUSABLE_FILE: 1,
        Trouble.UNLABELLED_SLICE: 1,
        Trouble.OUTSIDE: 1,
        Trouble.MALFORMED: 2,
        Trouble.DUPLICATE: 1,
        Trouble.DISAGREEING: 1,
        Trouble.CONTRADICTING: 2,
    }
    a, b = cohort.scans
    assert [k for k in range(20) if not a.known[k].all()] == [4]
    assert [k for k in range(20) if not b.known[k].all()] == [17, 18, 19]
    assert "2 x a subtype where there is not any" in cohort.summary()
    assert "damaged.nii.gz: expected a NIfTI file" in cohort.summary()


def test_a_table_that_contradicts_itself_throughout_is_refused(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii.gz", [1] * 4)
    write_table(tmp_path, [f"a.nii.gz,{k},0,0,0,0,1,0" for k in range(4)])
    with pytest.raises(CohortRefused):
        read_cohort(tmp_path)


@pytest.mark.parametrize("column", ["file", "slice_index", "any"])
def test_a_table_without_a_column_is_refused(tmp_path: Path, column: str) -> None:
    write_table(tmp_path, [], ",".join(name for name in HEAD.split(",") if name != column))
    with pytest.raises(CohortRefused, match=f"missing \\['{column}'\\]"):
        read_cohort(tmp_path)


def test_whether_there_is_blood_is_label_enough(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii.gz", [1] * 3)
    write_table(tmp_path, ["a.nii.gz,0,0", "a.nii.gz,1,1", "a.nii.gz,2,"], "file,slice_index,any")
    cohort = read_cohort(tmp_path)
    (scan,) = cohort.scans
    assert scan.positive.tolist() == [False, True, False]
    assert scan.negative.tolist() == [True, False, False]
    assert scan.known.tolist() == [[True] * 6, [False] * 5 + [True], [False] * 6]  # without blood, of no subtype
    assert cohort.untold == {*SUBTYPES}
    assert "subdural: not told" in cohort.summary()
    assert troubles(cohort) == {Trouble.UNLABELLED_SLICE: 1}


@pytest.mark.parametrize("column", ["Subdural", " subdural", "subdurall", "Epidural_"])
def test_a_subtype_that_is_written_otherwise_is_refused_and_not_ignored(tmp_path: Path, column: str) -> None:
    write_nifti(tmp_path / "a.nii.gz", [1])
    write_table(tmp_path, ["a.nii.gz,0,1,1,x"], f"file,slice_index,{column},any,reader")
    with pytest.raises(CohortRefused, match=r"expected a column named (subdural|epidural); got"):
        read_cohort(tmp_path)


def test_a_subtype_that_labels_only_affirm_is_not_told_apart(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii.gz", [1] * 3)
    rows = ["a.nii.gz,0,1,,1,1", "a.nii.gz,1,,1,1,1", "a.nii.gz,2,0,0,0,0"]
    write_table(tmp_path, rows, "file,slice_index,epidural,subdural,intraparenchymal,any")
    cohort = read_cohort(tmp_path)
    assert cohort.untold == {*SUBTYPES} - {Subtype.INTRAPARENCHYMAL}  # which every slice with blood is known to show
    assert "epidural: 1 slice of 1 patient" in cohort.summary()


def test_without_blood_nothing_is_untold(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii.gz", [1] * 2)
    write_table(tmp_path, ["a.nii.gz,0,0", "a.nii.gz,1,0"], "file,slice_index,any")
    assert read_cohort(tmp_path).untold == frozenset()


def test_an_empty_cell_says_nothing_of_its_subtype_alone(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii.gz", [1] * 2)
    write_table(tmp_path, ["a.nii.gz,0,1.0,,1.0", "a.nii.gz,1,,1,"], "file,slice_index,subdural,epidural,any")
    cohort = read_cohort(tmp_path)
    (scan,) = cohort.scans
    subtypes = [{s for s, shown in zip(Subtype, row, strict=True) if shown} for row in scan.labels.tolist()]
    assert subtypes == [{Subtype.SUBDURAL, Subtype.ANY}, {Subtype.EPIDURAL, Subtype.ANY}]  # which makes any of it
    assert scan.known.sum(dim=1).tolist() == [2, 2]


def test_no_scan_with_labels_is_refused_with_what_was_found(tmp_path: Path) -> None:
    write_table(tmp_path, [f"gone.nii.gz,0,{NEGATIVE}"])
    with pytest.raises(CohortRefused, match=r"gone\.nii\.gz"):
        read_cohort(tmp_path)


def test_a_patient_column_joins_scans_of_one_patient(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii.gz", [1])
    write_nifti(tmp_path / "b.nii", [1])
    write_table(tmp_path, [f"a.nii.gz,0,{NEGATIVE},p", f"b.nii,0,{SUBDURAL}, p "], f"{HEAD},patient")
    cohort = read_cohort(tmp_path)
    assert cohort.patients == (pseudonym("p"),)
    assert cohort.patient_subtypes.tolist() == [[False, False, False, False, True, True]]
    assert [scan.name for scan in cohort.of(cohort.patients)] == ["a", "b"]


@pytest.mark.parametrize("name", ["Anna Miller", "4711", "ID_4711beef", "patient_0"])
def test_no_identifier_of_a_patient_is_kept_whatever_it_looks_like(tmp_path: Path, name: str) -> None:
    write_nifti(tmp_path / "a.nii.gz", [1])
    write_table(tmp_path, [f"a.nii.gz,0,{NEGATIVE},{name}"], f"{HEAD},patient")
    assert read_cohort(tmp_path).patients == (pseudonym(name),)


def test_splits_that_name_patients_as_the_table_does_are_refused(tmp_path: Path) -> None:
    """Versions before 0.2 wrote them so."""
    write_nifti(tmp_path / "a.nii.gz", [1])
    write_nifti(tmp_path / "b.nii.gz", [1])
    write_table(tmp_path, [f"{name}.nii.gz,0,{NEGATIVE},{name}" for name in "ab"], f"{HEAD},patient")
    cohort = read_cohort(tmp_path)
    named = Cohort(cohort.layout, tuple(replace(scan, patient=scan.name) for scan in cohort.scans))
    make_splits(named, 2, tuning_share=0).save(tmp_path / "splits.csv")
    with pytest.raises(CohortRefused, match="make the splits again"):
        load_splits(tmp_path / "splits.csv", cohort)
    splits = make_splits(cohort, 2, tuning_share=0)
    splits.save(tmp_path / "splits.csv")
    assert load_splits(tmp_path / "splits.csv", read_cohort(tmp_path)) == splits


@pytest.mark.parametrize(
    "column",
    ["Patient", "patient_id", "PatientID", "patient id", "PatientNumber", " patient", "subject", "Subject-ID"],
)
def test_a_column_of_patients_by_another_name_is_refused_and_not_ignored(tmp_path: Path, column: str) -> None:
    for name in ("a", "b"):
        write_nifti(tmp_path / f"{name}.nii.gz", [1])
    write_table(tmp_path, [f"{name}.nii.gz,0,{NEGATIVE},p" for name in "ab"], f"{HEAD},{column}")
    with pytest.raises(CohortRefused, match=f"expected a column named patient; got '{column}'; rename it"):
        read_cohort(tmp_path)


def test_beside_the_patients_columns_may_say_more_of_them(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii.gz", [1])
    head = f"{HEAD},patient,patient_age,patient_sex,inpatient,PatientID"
    write_table(tmp_path, [f"a.nii.gz,0,{NEGATIVE},p,70,f,1,q"], head)
    assert read_cohort(tmp_path).patients == (pseudonym("p"),)


@pytest.mark.parametrize("cell", [",", ",  ", ""], ids=["empty", "blank", "missing"])
def test_a_row_without_its_patient_is_refused(tmp_path: Path, cell: str) -> None:
    """Of a column half filled, a file would be another patient than its sister."""
    for name in ("a", "b"):
        write_nifti(tmp_path / f"{name}.nii.gz", [1])
    write_table(tmp_path, [f"a.nii.gz,0,{NEGATIVE},p", f"b.nii.gz,0,{NEGATIVE}{cell}"], f"{HEAD},patient")
    with pytest.raises(CohortRefused, match=r"line 3: expected the patient of b\.nii\.gz; got an empty cell"):
        read_cohort(tmp_path)


@pytest.mark.parametrize(
    ("names", "column", "said"), [("ab", False, 1), ("a", False, 0), ("ab", True, 0)], ids=["two", "one", "told"]
)
def test_files_that_count_as_a_patient_each_are_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, names: str, column: bool, said: int
) -> None:
    for name in names:
        write_nifti(tmp_path / f"{name}.nii.gz", [1, 2])
    rows = [f"{name}.nii.gz,{k},{NEGATIVE}{',p' if column else ''}" for name in names for k in (0, 1)]
    write_table(tmp_path, rows, f"{HEAD},patient" if column else HEAD)
    with caplog.at_level(logging.INFO, "hgisam"):
        read_cohort(tmp_path)
    told = "slice_labels.csv has no column patient: each of its 2 files counts as a patient of its own"
    assert caplog.messages == [told] * said


def numbered(folder: Path, **indices: Sequence[int]) -> Path:
    """Files of four slices, and a table with rows of these indices of each."""
    for name in indices:
        write_nifti(folder / f"{name}.nii.gz", [1] * 4)
    write_table(folder, [f"{name}.nii.gz,{k},{SUBDURAL}" for name, listed in indices.items() for k in listed])
    return folder


@pytest.mark.parametrize(
    "indices",
    [
        {"a": range(1, 5), "b": range(1, 5)},
        {"a": range(1, 5), "b": (2, 3), "c": (1,)},  # positive slices alone, of which one is the last
        {"a": (4,)},
        {"a": range(1, 5), "b": range(1, 5), "c": range(5)},  # with a stray row
    ],
    ids=["all", "some", "last", "stray"],
)
def test_slices_counted_from_1_are_refused_and_not_shifted(tmp_path: Path, indices: dict[str, Sequence[int]]) -> None:
    with pytest.raises(CohortRefused, match=r"slice_index to count from 0; got 4 and no 0 in a\.nii\.gz, which has 4"):
        read_cohort(numbered(tmp_path, **indices))


@pytest.mark.parametrize(
    "indices",
    [
        {"a": range(4), "b": (1, 2, 3)},
        {"a": range(4), "b": range(1, 5)},  # a file that lost a slice since, among those that did not
        {"a": range(5)},
        {"a": (1, 2), "b": (3,)},
        {"a": (2, 5)},
    ],
    ids=["incomplete", "one of two", "too many", "positive alone", "of another scan"],
)
def test_a_file_that_lacks_rows_or_has_too_many_is_no_sign_of_it(
    tmp_path: Path, indices: dict[str, Sequence[int]]
) -> None:
    cohort = read_cohort(numbered(tmp_path, **indices))
    for scan in cohort.scans:
        assert scan.positive.tolist() == [index in indices[scan.name] for index in range(4)]
    n_outside = sum(index > 3 for listed in indices.values() for index in listed)
    assert troubles(cohort).get(Trouble.OUTSIDE, 0) == n_outside


def test_a_file_of_two_patients_is_refused(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii.gz", [1, 2])
    write_table(tmp_path, [f"a.nii.gz,0,{NEGATIVE},p", f"a.nii.gz,1,{NEGATIVE},q"], f"{HEAD},patient")
    with pytest.raises(CohortRefused, match="line 3: expected one patient"):
        read_cohort(tmp_path)


def test_no_voxel_is_decoded_while_the_cohort_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        pytest.fail("voxels were decoded")

    write_nifti(tmp_path / "a.nii.gz", [1])
    write_table(tmp_path, [f"a.nii.gz,0,{NEGATIVE}"])
    monkeypatch.setattr("hgisam.io.nifti._read_voxels", never)
    assert len(read_cohort(tmp_path).scans) == 1


def test_a_file_that_lost_a_slice_since_is_refused_when_loaded(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii.gz", [1, 2])
    write_table(tmp_path, [f"a.nii.gz,{k},{NEGATIVE}" for k in (0, 1)])
    (scan,) = read_cohort(tmp_path).scans
    write_nifti(tmp_path / "a.nii.gz", [1])
    with pytest.raises(ValueError, match="expected 2 slices; got 1"):
        scan.load()


def test_phantoms_as_the_command_writes_them(tmp_path: Path) -> None:
    options = PhantomOptions(n_slices=6, slice_mm=10.0, size_px=64, pixel_mm=4.0, bleed_probability=1.0)
    phantom = make_phantom(0, options)
    write_phantoms([phantom, phantom], ["p0", "p1"], tmp_path, options=options)
    cohort = read_cohort(tmp_path)
    assert cohort.layout == "phantoms"
    assert cohort.patients == ("p0", "p1")
    for scan in cohort.scans:
        assert scan.labels.tolist() == [list(row.present.values()) for row in slice_labels(phantom)]
        reference = scan.load_reference()
        assert reference is not None
        assert reference.voxels.equal(phantom.labels > 0)
    (tmp_path / "truth" / "p0_labels.nii.gz").rename(tmp_path / "truth" / "p0_mask.nii.gz")
    assert read_cohort(tmp_path).scans[0].reference == tmp_path / "truth" / "p0_mask.nii.gz"
    (tmp_path / "truth" / "p1_labels.nii.gz").unlink()
    without = read_cohort(tmp_path)
    assert troubles(without) == {Trouble.MISSING_REFERENCE: 1}
    assert without.scans[1].load_reference() is None


def test_the_sample_volumes_are_a_cohort(sample_volumes: Path) -> None:
    cohort = read_cohort(sample_volumes)
    assert (cohort.layout, len(cohort.scans), cohort.findings) == ("phantoms", 5, ())
    for scan in cohort.scans:
        reference = scan.load_reference()
        assert reference is not None
        area_px = reference.voxels.sum(dim=(1, 2))
        assert bool((area_px[scan.positive] > 0).all())
        assert bool((area_px[scan.negative] * 0.81 < 10.0).all())


def test_a_folder_of_no_layout_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"stage_2_train\.csv and stage_2_train/"):
        read_cohort(tmp_path)
    with pytest.raises(InputError, match=r"expected a data set \(bhsd: images/ and ground truths/\)"):
        read_cohort(tmp_path, "bhsd")
    with pytest.raises(InputError, match="check the path"):
        read_cohort(tmp_path / "nowhere")


def test_the_real_scans(realdata: Path) -> None:
    cohort = read_cohort(realdata / "ct_ich")
    assert (len(cohort.scans), len(cohort.patients), cohort.findings) == (69, 69, ())
    assert sum(scan.n_slices for scan in cohort.scans) == 2084
    assert sum(int(scan.positive.sum()) for scan in cohort.scans) == 252
    assert int(cohort.patient_subtypes[:, -1].sum()) == 29
    volume = cohort.scans[0].load()
    assert len(volume.hu) == cohort.scans[0].n_slices
    assert bool((volume.slice_positions_mm.diff() > 0).all())


@pytest.mark.parametrize("content", ["file,slice_index\nGröße".encode("utf-16"), b"b" * 140_000, b"\xff"])
def test_what_is_no_table_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "slice_labels.csv").write_bytes(content)
    with pytest.raises(CohortRefused, match="expected a table in UTF-8"):
        read_cohort(tmp_path)


def test_an_index_of_thousands_of_digits_is_a_row_that_does_not_fit(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii.gz", [1])
    write_table(tmp_path, [f"a.nii.gz,0,{NEGATIVE}", f"a.nii.gz,{'9' * 5000},{NEGATIVE}"])
    assert troubles(read_cohort(tmp_path)) == {Trouble.MALFORMED: 1}


def test_a_scan_in_two_files_is_refused(tmp_path: Path) -> None:
    for name in ("a.nii", "a.nii.gz"):
        write_nifti(tmp_path / name, [1])
    write_table(tmp_path, [f"{name},0,{NEGATIVE}" for name in ("a.nii", "a.nii.gz")])
    with pytest.raises(CohortRefused, match=r"got both a\.nii and a\.nii\.gz; leave one"):
        read_cohort(tmp_path)
