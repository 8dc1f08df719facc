"""Files appear whole or not at all."""

import errno
import os
import stat
from pathlib import Path

import pytest

from hgisam.io.atomic import atomic_write, make_output_folder, output_folder
from hgisam.io.errors import OutputError


def refuse(code: int):  # type: ignore[no-untyped-def]
    def refusing(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return refusing


def test_a_written_file_replaces_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    with atomic_write(target) as file:
        file.write(b"new")
        assert target.read_bytes() == b"old", "nobody may see half a file"
    assert target.read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("step", ["fsync", "open"])
def test_a_full_or_closed_disk_is_said_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, step: str
) -> None:
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    monkeypatch.setattr(os, step, refuse(code))
    with pytest.raises(OutputError, match=f"a.bin: .*{os.strerror(code).lower()}"), atomic_write(target) as file:
        file.write(b"new")
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]
    assert target.read_bytes() == b"old"


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, MemoryError])
def test_whatever_stops_the_writing_leaves_nothing_behind(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), atomic_write(tmp_path / "a.bin") as file:
        file.write(b"half")
        raise error
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no such file"), atomic_write(tmp_path / "none" / "a.bin") as file:
        file.write(b"")


def test_a_symbolic_link_is_replaced_and_what_it_points_to_is_untouched(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside.bin", tmp_path / "out"
    outside.write_bytes(b"precious")
    folder.mkdir()
    (folder / "a.bin").symlink_to(outside)
    with atomic_write(folder / "a.bin") as file:
        file.write(b"new")
    assert outside.read_bytes() == b"precious"
    assert not (folder / "a.bin").is_symlink()
    assert (folder / "a.bin").read_bytes() == b"new"


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
def test_files_get_the_mode_that_the_user_s_umask_asks_for(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "a.bin") as file:
            file.write(b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.bin").stat().st_mode) == 0o640


def test_an_output_folder_is_made_with_those_above_it(tmp_path: Path) -> None:
    assert make_output_folder(tmp_path / "a" / "b").is_dir()
    assert make_output_folder(tmp_path / "a" / "b").is_dir()


def test_a_file_in_the_folder_s_place_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(OutputError, match="expected a folder"):
        make_output_folder(tmp_path / "a")
    with pytest.raises(OutputError, match="expected a folder"):
        make_output_folder(tmp_path / "a" / "b")


@pytest.mark.parametrize("holds", [False, True])
@pytest.mark.parametrize("was_there", [False, True])
def test_where_the_work_fails_only_a_folder_that_is_new_and_empty_goes(
    tmp_path: Path, was_there: bool, holds: bool
) -> None:
    folder = tmp_path / "a" / "b"
    if was_there:
        folder.mkdir(parents=True)

    def work() -> None:
        with output_folder(folder):
            if holds:
                (folder / "result").write_bytes(b"")
            raise ValueError("the work failed")

    with pytest.raises(ValueError, match="the work failed"):
        work()
    assert folder.exists() == (was_there or holds)
    assert tmp_path.joinpath("a").exists() == (was_there or holds)


def test_a_name_that_no_file_can_have_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="expected a folder for the outputs"), output_folder(tmp_path / ("a" * 300)):
        pass
