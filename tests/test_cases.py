"""Which scans the inputs stand for, and names that can never leave the output folder or meet one another."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hgisam.cases import MAX_NAME_BYTES, InputError, find_cases, safe_name


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
