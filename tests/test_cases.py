"""Which scans the inputs stand for, and names that can never leave the output folder or meet one another."""

import zipfile
from pathlib import Path

import pytest
from dicom_writer import write_series
from hypothesis import given
from hypothesis import strategies as st

from hgisam.cases import MAX_NAME_BYTES, SeriesChoiceNeeded, find_cases, safe_name
from hgisam.io.errors import InputError, ScanRefused
from hgisam.io.nifti import read_ct


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names(*inputs: Path) -> list[str]:
    return [case.name for case in find_cases(inputs)]


def test_a_folder_stands_for_the_scans_directly_in_it_in_order(tmp_path: Path) -> None:
    touch(tmp_path / "b.nii", tmp_path / "a.nii.gz", tmp_path / "C.NII.GZ", tmp_path / "deeper" / "d.nii.gz")
    touch(tmp_path / "notes.txt", tmp_path / ".hidden.nii.gz")
    assert names(tmp_path) == ["C", "a", "b"]


def test_hgisam_own_masks_and_maps_are_no_scans_but_others_are(tmp_path: Path) -> None:
    touch(tmp_path / "a.nii.gz", tmp_path / "a_mask.nii.gz", tmp_path / "a_map.nii.gz")
    (tmp_path / "a.json").write_text('{"hgisam_version": "0.1.0"}')
    touch(tmp_path / "b_map.nii.gz")  # no record b.json beside it: somebody's scan
    touch(tmp_path / "c_mask.nii.gz")
    (tmp_path / "c.json").write_text('{"Modality": "CT"}')  # a converter's
    assert names(tmp_path) == ["a", "b_map", "c_mask"]
    assert names(tmp_path / "a_mask.nii.gz") == ["a_mask"]  # named outright, it is taken


def test_a_broken_link_is_a_case_that_will_be_refused_not_one_that_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "away.nii.gz").symlink_to(tmp_path / "unmounted" / "scan.nii.gz")
    (tmp_path / "folder.nii.gz").mkdir()
    touch(tmp_path / "here.nii.gz")
    assert names(tmp_path) == ["away", "here"]


def test_the_stem_names_the_case_and_keeps_inner_dots(tmp_path: Path) -> None:
    touch(tmp_path / "sub-1.ses-2.nii.gz", tmp_path / "plain.nii", tmp_path / "odd.dcm", tmp_path / "none")
    assert names(*sorted(tmp_path.iterdir())) == ["none", "odd", "plain", "sub-1.ses-2"]


def test_two_inputs_with_one_stem_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    touch(tmp_path / "first/scan.nii.gz", tmp_path / "second/scan.nii", tmp_path / "second/other.nii.gz")
    assert names(tmp_path / "first", tmp_path / "second") == ["first_scan", "other", "second_scan"]


def test_names_stay_unique_where_folders_are_alike_or_letters_differ_in_case_only(tmp_path: Path) -> None:
    touch(tmp_path / "x/d/scan.nii.gz", tmp_path / "y/d/scan.nii.gz", tmp_path / "z/d_scan.nii.gz")
    found = names(tmp_path / "x/d", tmp_path / "y/d", tmp_path / "z")
    assert found == ["d_scan", "d_scan_2", "d_scan_3"]
    touch(tmp_path / "case/Scan.nii.gz", tmp_path / "case/sCAN.nii")
    assert len({name.casefold() for name in names(tmp_path / "case")}) == 2


def test_a_file_reached_twice_is_one_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "a.nii.gz")
    monkeypatch.chdir(tmp_path)
    cases = find_cases([Path("a.nii.gz"), tmp_path, Path("../") / tmp_path.name / "a.nii.gz"])
    assert [case.path for case in cases] == [Path("a.nii.gz")]


def test_a_link_is_named_by_itself_and_not_by_what_it_leads_to(tmp_path: Path) -> None:
    touch(tmp_path / "secret" / "a_name.nii.gz")
    (tmp_path / "case_7.nii.gz").symlink_to(tmp_path / "secret" / "a_name.nii.gz")
    assert names(tmp_path / "case_7.nii.gz") == ["case_7"]


@pytest.mark.parametrize("inputs", [[], ["missing.nii.gz"], ["empty"]])
def test_nothing_to_work_on_is_said_in_one_line(tmp_path: Path, inputs: list[str]) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"expected .*; got .*; ") as error:
        find_cases([tmp_path / name for name in inputs])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("CT_070-a.b", "CT_070-a.b"),
        ("..", "scan"),
        ("", "scan"),
        ("***", "scan"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("-rf", "rf"),
        (".hidden", "hidden"),
        ("two words\nand a line", "two_words_and_a_line"),
        ("run", "scan_run"),
        ("Summary", "scan_Summary"),
        ("nul.1", "scan_nul.1"),
        ("Schädel", "Schädel"),
    ],
)
def test_safe_names(name: str, safe: str) -> None:
    assert safe_name(name) == safe


@given(st.text(max_size=400))
def test_a_safe_name_is_a_plain_visible_short_file_name(name: str) -> None:
    safe = safe_name(name)
    assert Path(safe).name == safe
    assert not safe.startswith((".", "-"))
    assert safe.isprintable()
    assert 0 < len(safe.encode()) <= MAX_NAME_BYTES
    assert safe_name(safe) == safe
    assert safe.casefold() not in {"run", "summary"}


# ---- DICOM


POSITIONS = [0.0, 5.0, 10.0]


def test_a_folder_of_dicom_however_deep_is_one_case_named_by_it(tmp_path: Path) -> None:
    write_series(tmp_path / "patient.7" / "DICOM" / "S1", POSITIONS)
    (case,) = find_cases([tmp_path / "patient.7"])
    assert (case.name, case.path) == ("patient.7", tmp_path / "patient.7")
    assert case.series is not None
    assert case.scan is case.series
    assert len(case.series.slices) == 3


def test_an_archive_is_a_case_named_by_itself(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "head 7.zip", "w") as archive:
        for path in write_series(tmp_path / "in", POSITIONS):
            archive.write(path, f"x/{path.name}")
    (case,) = find_cases([tmp_path / "head 7.zip"])
    assert case.name == "head_7"
    assert case.series is not None


def test_files_named_one_by_one_are_the_scan_that_they_make(tmp_path: Path) -> None:
    files = write_series(tmp_path / "head", POSITIONS)
    (case,) = find_cases(files)
    assert (case.name, case.path) == ("head", tmp_path / "head")
    (single,) = find_cases(files[:1])
    assert single.name == files[0].stem


def test_every_examination_in_a_folder_is_a_case(tmp_path: Path) -> None:
    for patient in ("b", "a"):
        write_series(tmp_path / patient / "DICOM", POSITIONS, StudyInstanceUID=f"1.{ord(patient)}")
    assert names(tmp_path) == ["a_DICOM", "b_DICOM"]
    for number in (3, 4):
        write_series(tmp_path / "flat", POSITIONS, StudyInstanceUID=f"1.{number}", SeriesInstanceUID=f"1.{number}.1")
    first, second = names(tmp_path / "flat")
    assert first.endswith("_flat")
    assert second == f"{first}_2"


def test_of_two_series_of_one_examination_none_is_guessed_until_one_is_named(tmp_path: Path) -> None:
    for uid, kernel in (("1.5", "H31s"), ("1.6", "H31s"), ("1.7", "H60s")):
        write_series(tmp_path, POSITIONS, SeriesInstanceUID=uid, ConvolutionKernel=kernel)
    with pytest.raises(SeriesChoiceNeeded, match="got 3; choose with --series-uid") as choice:
        find_cases([tmp_path])
    assert [row["series_uid"] for row in choice.value.rows] == ["1.5", "1.6", "1.7"]
    assert {(row["examination"], row["input"]) for row in choice.value.rows} == {(1, str(tmp_path))}
    (chosen,) = find_cases([tmp_path], ["1.6"])
    assert chosen.series is not None
    assert (chosen.series.uid, chosen.name) == ("1.6", safe_name(tmp_path.name))
    both = find_cases([tmp_path], ["1.6", "1.7"])
    assert {case.series.uid for case in both if case.series} == {"1.6", "1.7"}
    assert len({case.name for case in both}) == 2
    with pytest.raises(InputError, match=r"expected the series 1\.8"):
        find_cases([tmp_path], ["1.6", "1.8"])


def test_a_series_uid_chooses_within_its_own_examination_and_drops_no_other(tmp_path: Path) -> None:
    """Folders, one of them with two examinations to choose within; all that leave a choice are named at once."""
    write_series(tmp_path / "p1", POSITIONS, StudyInstanceUID="1", SeriesInstanceUID="1.1")
    for study in ("2", "3"):
        for kernel in ("H31s", "H41s"):
            uid = f"{study}.{kernel[1:3]}"
            write_series(tmp_path / "p2", POSITIONS, StudyInstanceUID=study, SeriesInstanceUID=uid)
    for uid, kernel in (("4.1", "BONE"), ("4.2", "STANDARD")):
        write_series(tmp_path / "p4", POSITIONS, StudyInstanceUID="4", SeriesInstanceUID=uid, ConvolutionKernel=kernel)
    inputs = [tmp_path / name for name in ("p1", "p2", "p4")]
    with pytest.raises(SeriesChoiceNeeded, match="in each examination; got several in 2; choose") as choice:
        find_cases(inputs)
    assert [(row["examination"], row["series_uid"]) for row in choice.value.rows] == [
        (1, "2.31"), (1, "2.41"), (2, "3.31"), (2, "3.41")
    ]  # fmt: skip
    with pytest.raises(SeriesChoiceNeeded, match=r"p2: expected one series .*; got 2; choose") as choice:
        find_cases(inputs, ["2.41"])
    assert [row["series_uid"] for row in choice.value.rows] == ["3.31", "3.41"]
    cases = find_cases(inputs, ["2.41", "3.31"])
    assert [case.series.uid for case in cases if case.series] == ["1.1", "2.41", "3.31", "4.2"]
    cases = find_cases(inputs, ["2.41", "3.31", "4.1"])
    assert [case.series.uid for case in cases if case.series] == ["1.1", "2.41", "3.31", "4.1"]


@pytest.mark.parametrize("uid", ["1.7", None])
def test_two_examinations_with_one_series_uid_are_two_cases(tmp_path: Path, uid: str | None) -> None:
    for study in ("1.1", "1.2"):
        for path in write_series(tmp_path / study, POSITIONS, StudyInstanceUID=study, SeriesInstanceUID=uid):
            (tmp_path / "flat").mkdir(exist_ok=True)
            path.rename(tmp_path / "flat" / f"{study}_{path.name}")
    cases = find_cases([tmp_path / "flat"])
    assert [case.series.study_uid for case in cases if case.series] == ["1.1", "1.2"]
    assert len({case.name for case in cases}) == 2
    if uid is not None:
        assert len(find_cases([tmp_path / "flat"], [uid])) == 2


def test_a_soft_kernel_beside_bone_is_taken(tmp_path: Path) -> None:
    for uid, kernel in (("1.5", "BONE"), ("1.6", "STANDARD")):
        write_series(tmp_path, POSITIONS, SeriesInstanceUID=uid, ConvolutionKernel=kernel)
    (case,) = find_cases([tmp_path])
    assert case.series is not None
    assert case.series.uid == "1.6"


def test_nifti_directly_in_a_folder_is_what_it_stands_for_and_dicom_there_is_not_lost_in_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path / "a.nii.gz")
    write_series(tmp_path / "deeper", POSITIONS)
    assert names(tmp_path) == ["a"]
    assert caplog.text == ""
    write_series(tmp_path, POSITIONS)
    assert names(tmp_path) == ["a"]
    assert "its DICOM files are not" in caplog.text


def test_dicom_that_holds_no_scan_is_a_case_for_the_reader_to_refuse(tmp_path: Path) -> None:
    write_series(tmp_path / "in", POSITIONS, Modality="MR")
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 and nothing more")
    cases = find_cases([tmp_path / "in", tmp_path / "broken.zip"])
    assert [(case.name, case.series) for case in cases] == [("in", None), ("broken", None)]


def test_a_named_file_that_is_no_slice_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = write_series(tmp_path / "ct", POSITIONS)
    scout = write_series(tmp_path / "scout", [0.0], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    assert len(find_cases([*files, *scout])) == 1
    assert "left out; localizer" in caplog.text


def test_a_link_in_a_circle_is_a_case_that_will_be_refused(tmp_path: Path) -> None:
    (tmp_path / "loop.nii.gz").symlink_to(tmp_path / "loop.nii.gz")
    (case,) = find_cases([tmp_path])
    assert case.name == "loop"
    with pytest.raises(ScanRefused, match="symbolic links"):
        read_ct(case.path)
