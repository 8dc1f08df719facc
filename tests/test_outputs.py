"""The output folder: one run at a time, and nothing of anybody else's is lost."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from hgisam.cases import Case
from hgisam.io.errors import InputError, OutputError
from hgisam.outputs import RUN_RECORD, case_claimed, claimed, refuse_overwriting, tables_held


def test_the_folder_is_made_and_left_without_a_lock(tmp_path: Path) -> None:
    with claimed(tmp_path / "new" / "out") as folder:
        assert folder.is_dir()
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is locked on Windows")
def test_a_second_run_is_turned_away_until_the_first_has_ended(tmp_path: Path) -> None:
    with claimed(tmp_path), pytest.raises(OutputError, match="another hgisam"), claimed(tmp_path):
        pass
    with claimed(tmp_path):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is locked on Windows")
def test_the_lock_of_a_run_that_was_killed_holds_nobody(tmp_path: Path) -> None:
    (tmp_path / ".hgisam.lock").write_text("left by kill -9")
    with claimed(tmp_path):
        pass


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are told by /proc")
def test_on_windows_no_file_is_removed_while_it_is_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remove = Path.unlink

    def remove_closed(path: Path, missing_ok: bool = False) -> None:
        if any(os.path.realpath(link) == os.path.realpath(path) for link in Path("/proc/self/fd").iterdir()):
            raise PermissionError(13, "The process cannot access the file because it is being used", str(path))
        remove(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", remove_closed)
    monkeypatch.setattr("hgisam.outputs.sys", SimpleNamespace(platform="win32"))
    with claimed(tmp_path) as folder, case_claimed(folder, "a", wait=False), tables_held(folder):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_folder_s_place_is_said(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(OutputError, match="out: expected a folder"), claimed(tmp_path / "out"):
        pass


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="expected"), claimed(tmp_path):
        pass


OUR_RUN = '{"versions": {"hgisam": "0.1.0"}, "planned": ["a", "a_mask"]}'


def test_no_output_replaces_an_input(tmp_path: Path) -> None:
    (tmp_path / RUN_RECORD).write_text(OUR_RUN)
    scan, mask = tmp_path / "a.nii.gz", tmp_path / "a_mask.nii.gz"
    scan.touch()
    mask.touch()
    cases = [Case("a", scan), Case("a_mask", mask)]
    with pytest.raises(InputError, match=r"a_mask\.nii\.gz: .* one of the inputs"):
        refuse_overwriting(tmp_path, cases, ["_mask.nii.gz"])


@pytest.mark.parametrize(
    ("name", "content"),
    [(RUN_RECORD, OUR_RUN), ("a.json", '{"hgisam_version": "0.1.0", "case": "a"}')],
    ids=["listed by our run", "our record of the case"],
)
def test_a_file_that_no_run_wrote_is_kept_and_one_of_ours_may_be_replaced(
    tmp_path: Path, name: str, content: str
) -> None:
    (tmp_path / "a_mask.nii.gz").write_text("drawn by hand")
    cases = [Case("a", Path("elsewhere/a.nii.gz"))]
    with pytest.raises(InputError, match="choose another output folder"):
        refuse_overwriting(tmp_path, cases, ["_mask.nii.gz"])
    refuse_overwriting(tmp_path, cases, ["_map.nii.gz"])
    (tmp_path / name).write_text(content)
    refuse_overwriting(tmp_path, cases, ["_mask.nii.gz"])


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"versions": 3}', '{"planned": ["a"]}', '{"case": "a"}'])
def test_a_record_of_another_program_gives_nothing_away(tmp_path: Path, content: str) -> None:
    (tmp_path / "a_mask.nii.gz").write_text("drawn by hand")
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=r"a_mask\.nii\.gz: .* no record says"):
        refuse_overwriting(tmp_path, [Case("a", Path("elsewhere/a.nii.gz"))], ["_mask.nii.gz"])
    (tmp_path / RUN_RECORD).write_text(content)
    with pytest.raises(InputError, match=r"run\.json: .* no record says"):
        refuse_overwriting(tmp_path, [], [])


def test_what_all_cases_share_is_kept_where_no_run_wrote_it(tmp_path: Path) -> None:
    (tmp_path / "summary.csv").write_text("a table of somebody's")
    with pytest.raises(InputError, match=r"summary\.csv"):
        refuse_overwriting(tmp_path, [], [], ["summary.csv"])
    (tmp_path / RUN_RECORD).write_text(OUR_RUN)
    refuse_overwriting(tmp_path, [], [], ["summary.csv"])


def test_a_command_s_files_are_known_by_its_own_record(tmp_path: Path) -> None:
    (tmp_path / "evaluation.csv").write_text("a table of somebody's")
    (tmp_path / RUN_RECORD).write_text(OUR_RUN)
    with pytest.raises(InputError, match=r"evaluation\.csv"):
        refuse_overwriting(tmp_path, [], [], ["evaluation.csv"], record="evaluation.json")
    (tmp_path / "evaluation.json").write_text('{"hgisam_version": "0.1.0"}')
    refuse_overwriting(tmp_path, [], [], ["evaluation.csv"], record="evaluation.json")
