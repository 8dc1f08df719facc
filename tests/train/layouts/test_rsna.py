"""RSNA-2019 as Kaggle gives it, in miniature: slices in no order, six rows each, and what is wrong in it."""

import os
from pathlib import Path

import pytest
from scan_files import write_slice

from hgisam.io.errors import ScanRefused
from hgisam.labels import Subtype
from hgisam.train.cohort import CohortRefused, Trouble
from hgisam.train.layouts import read_cohort, rsna
from hgisam.train.layouts.pseudonym import pseudonym

CORRUPT = "ID_6431af929"


def rows_of(name: str, *shown: Subtype) -> list[str]:
    """Six rows for a slice."""
    positive = {*shown, Subtype.ANY} if shown else set()
    return [f"{name}_{subtype},{int(subtype in positive)}" for subtype in Subtype]


def write_table(folder: Path, rows: list[str]) -> None:
    (folder / "stage_2_train").mkdir(parents=True, exist_ok=True)
    (folder / "stage_2_train.csv").write_text("\n".join(["ID,Label", *rows]) + "\n")


def write_scan(folder: Path, series: str, patient: str, names: list[str], encoding: str = "signed") -> None:
    """Slices from the lowest up; the k-th is of 10 k HU."""
    for k, name in enumerate(names):
        path = folder / "stage_2_train" / f"{name}.dcm"
        write_slice(path, 10.0 * k, (0.0, 0.0, 5.0 * k), patient=patient, series=series, encoding=encoding)


@pytest.fixture
def kaggle(tmp_path: Path) -> Path:
    """Two series of one patient and one of another, each in another encoding; bleeds in slices of 20 HU."""
    scans = {
        "ID_5e01": ("ID_aa11aa11", ["ID_09", "ID_03", "ID_05", "ID_01"], "signed"),
        "ID_5e02": ("ID_aa11aa11", ["ID_08", "ID_02", "ID_07"], "unsigned"),
        "ID_5e03": ("ID_bb22bb22", ["ID_04", "ID_0a", "ID_06"], "wrapped"),
    }
    rows = []
    for series, (patient, names, encoding) in scans.items():
        write_scan(tmp_path, series, patient, names, encoding)
        for k, name in enumerate(names):
            rows += rows_of(name, Subtype.SUBDURAL) if k == 2 else rows_of(name)
    write_table(tmp_path, sorted(rows))
    return tmp_path


def test_slices_are_grouped_sorted_upward_and_joined_to_their_labels(kaggle: Path) -> None:
    cohort = read_cohort(kaggle)
    assert cohort.layout == "rsna"
    assert cohort.patients == ("ID_aa11aa11", "ID_bb22bb22")
    assert [scan.name for scan in cohort.scans] == ["ID_5e01", "ID_5e02", "ID_5e03"]
    for scan in cohort.scans:
        hu = scan.load().hu[:, 0, 0]
        assert hu.tolist() == [10.0 * k for k in range(scan.n_slices)]
        assert scan.positive.tolist() == (hu == 20).tolist()
        assert scan.labels[:, 4].tolist() == (hu == 20).tolist()
        assert bool(scan.known.all())
    assert [(finding.trouble, finding.count) for finding in cohort.findings] == [(Trouble.WRAPPED, 3)]


def test_no_pixel_is_read_while_the_cohort_is(kaggle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        pytest.fail("pixels were decoded")

    monkeypatch.setattr("pydicom.dataset.Dataset.convert_pixel_data", never)
    assert len(read_cohort(kaggle).scans) == 3


def test_the_corrupt_file_is_skipped_and_its_scan_stays(kaggle: Path) -> None:
    path = kaggle / "stage_2_train" / f"{CORRUPT}.dcm"
    write_slice(path, 0.0, (0.0, 0.0, 20.0), patient="ID_aa11aa11", series="ID_5e01", Rows=512, Columns=512)
    with (kaggle / "stage_2_train.csv").open("a") as table:
        table.write("\n".join(rows_of(CORRUPT)) + "\n")
    cohort = read_cohort(kaggle)
    assert cohort.scans[0].n_slices == 4
    corrupt = next(finding for finding in cohort.findings if finding.trouble is Trouble.UNUSABLE_FILE)
    assert corrupt.count == 1
    assert CORRUPT in corrupt.examples[0]
    assert "truncated" in corrupt.examples[0]
    assert not any(finding.trouble is Trouble.MISSING_FILE for finding in cohort.findings)


def test_what_does_not_fit_is_counted(kaggle: Path) -> None:
    folder = kaggle / "stage_2_train"
    write_scan(kaggle, "ID_5e04", "ID_cc33cc33", ["ID_10"])  # no labels at all
    write_slice(folder / "ID_11.dcm", 30.0, (0.0, 0.0, 15.0), patient="ID_bb22bb22", series="ID_5e03")
    write_scan(kaggle, "ID_5e05", "ID_dd44dd44", ["ID_12"])
    write_slice(folder / "ID_13.dcm", 0.0, (1.0, 0.0, 0.0), patient="ID_dd44dd44", series="ID_5e05")  # same place
    write_scan(kaggle, "ID_5e06", "ID_ee55ee55", ["ID_14"])
    write_slice(folder / "ID_15.dcm", 0.0, (0.0, 0.0, 5.0), patient="ID_ff66ff66", series="ID_5e06")  # two patients
    write_scan(kaggle, "ID_5e07", "ID_ab77ab77", ["ID_16", "ID_17", "ID_18"])
    (folder / "ID_17.dcm").unlink()  # a gap
    write_slice(folder / "ID_19.dcm", 0.0, (0.0, 0.0, 15.0), patient="ID_ab77ab77", series="ID_5e07")
    (folder / "notes.txt").write_text("no slice")
    more = [row for k in range(12, 20) for row in rows_of(f"ID_{k}")]
    more += rows_of("ID_09")  # six rows again
    more += ["ID_03_any,1", "ID_05_epidural", "ID_05_fracture,0"]
    with (kaggle / "stage_2_train.csv").open("a") as table:
        table.write("\n".join(more) + "\n")
    cohort = read_cohort(kaggle)
    assert {finding.trouble: finding.count for finding in cohort.findings} == {
        Trouble.MISSING_FILE: 1,
        Trouble.UNLABELLED_FILE: 1,
        Trouble.UNUSABLE_FILE: 2,
        Trouble.UNLABELLED_SLICE: 1,
        Trouble.MALFORMED: 2,
        Trouble.DUPLICATE: 6,
        Trouble.DISAGREEING: 1,
        Trouble.UNEVEN: 1,
        Trouble.WRAPPED: 3,
    }
    assert [scan.name for scan in cohort.scans] == ["ID_5e01", "ID_5e02", "ID_5e03", "ID_5e07"]
    assert cohort.scans[0].known.any(dim=1).tolist() == [True, False, True, True]
    assert cohort.scans[2].known.any(dim=1).tolist() == [True, True, True, False]


def test_a_slice_whose_pixels_cannot_be_decoded_costs_that_slice(kaggle: Path, tmp_path: Path) -> None:
    """Its header is whole, so that it is in its scan; what lies beside it is read as where it is missing."""
    path = kaggle / "stage_2_train" / "ID_03.dcm"
    write_slice(path, 10.0, (0.0, 0.0, 5.0), patient="ID_aa11aa11", series="ID_5e01", HighBit=7)
    scan = read_cohort(kaggle).scans[0]
    with pytest.raises(ScanRefused, match="high bit 7"):
        scan.load()
    volume, unreadable = scan.load_readable()
    assert volume.hu[:, 0, 0].tolist() == [0.0, 20.0, 30.0]
    assert volume.slice_distances_mm.tolist() == [0.0, 10.0, 15.0]
    assert [*unreadable] == [1]
    assert unreadable[1].startswith("ID_03.dcm: expected the lowest 1 to 16 bits stored")
    for name in ("ID_09", "ID_05", "ID_01"):
        (kaggle / "stage_2_train" / f"{name}.dcm").write_bytes(b"")
    with pytest.raises(ScanRefused, match="ID_09"):
        scan.load_readable()


def test_headers_are_read_once_where_an_index_is_kept(
    kaggle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = tmp_path / "headers.csv"
    first = read_cohort(kaggle, index=index)
    read = []
    real = rsna.read_slice_header
    monkeypatch.setattr(rsna, "read_slice_header", lambda path: read.append(path.name) or real(path))
    again = read_cohort(kaggle, index=index)
    assert read == []
    assert again.sha256 == first.sha256
    assert [scan.voxels for scan in again.scans] == [scan.voxels for scan in first.scans]
    os.utime(kaggle / "stage_2_train" / "ID_03.dcm")
    read_cohort(kaggle, index=index)
    assert "ID_03.dcm" in read
    index.write_text("another,table\n1,2\n")
    assert read_cohort(kaggle, index=index).sha256 == first.sha256


def test_many_workers_read_the_same(kaggle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rsna, "_CHUNK", 4)
    alone, together = read_cohort(kaggle), read_cohort(kaggle, workers=2)
    assert alone.sha256 == together.sha256
    assert [scan.voxels for scan in alone.scans] == [scan.voxels for scan in together.scans]


def test_another_table_is_refused(kaggle: Path) -> None:
    (kaggle / "stage_2_train.csv").write_text("id,any\nID_01,0\n")
    with pytest.raises(CohortRefused, match="expected the columns ID,Label"):
        read_cohort(kaggle)


def test_a_table_in_another_encoding_is_refused(kaggle: Path) -> None:
    (kaggle / "stage_2_train.csv").write_text("ID,Label\nID_01_any,0\n", encoding="utf-16")
    with pytest.raises(CohortRefused, match="expected a table in UTF-8"):
        read_cohort(kaggle)


def test_a_slice_that_names_no_patient_is_left_out_and_counted(kaggle: Path) -> None:
    """Nobody could keep its patient on one side of a split."""
    write_scan(kaggle, "ID_5e09", "", ["ID_0f"])
    write_table(kaggle, [*rows_of("ID_0f"), *(kaggle / "stage_2_train.csv").read_text().splitlines()[1:]])
    cohort = read_cohort(kaggle)
    assert "ID_5e09" not in {scan.name for scan in cohort.scans}
    (finding,) = (found for found in cohort.findings if found.trouble is Trouble.UNUSABLE_FILE)
    assert (finding.count, "none with an identifier of its patient" in finding.examples[0]) == (1, True)


def test_identifiers_of_a_hospital_are_hashed(kaggle: Path, tmp_path: Path) -> None:
    write_scan(kaggle, "ID_5e03", "Miller 1950", ["ID_04", "ID_0a", "ID_06"])
    index = tmp_path / "index.csv"
    assert read_cohort(kaggle, index=index).patients == ("ID_aa11aa11", pseudonym("Miller 1950"))
    assert "Miller" not in index.read_text()


def test_real_slices_are_read(realdata: Path, tmp_path: Path) -> None:
    (tmp_path / "stage_2_train").symlink_to(realdata / "rsna_dicom")
    names = sorted(path.stem for path in (realdata / "rsna_dicom").glob("*.dcm"))
    (tmp_path / "stage_2_train.csv").write_text(
        "\n".join(["ID,Label", *(row for name in names for row in rows_of(name))]) + "\n"
    )
    cohort = read_cohort(tmp_path)
    assert cohort.findings == ()
    assert len(cohort.scans) == len(cohort.patients) == len(names)
    assert cohort.scans[0].load().hu.shape == (1, 512, 512)
