"""Files, folders and archives as places of DICOM: what is taken, what never is, and where it stops."""

import os
import zipfile
from pathlib import Path

import pytest
from dicom_writer import ct_slice, pattern, save, write_series

from hgisam.io import dicom_files
from hgisam.io.dicom import read_dicom
from hgisam.io.dicom_files import DicomFile, FileReader, dicom_files_in, kind_of_file
from hgisam.io.errors import ScanRefused
from hgisam.limits import MAX_LINE
from hgisam.records import recorded_reason

EVEN = [0.0, 5.0, 10.0]


def zipped(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.fixture
def slices(tmp_path: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in write_series(tmp_path / "slices", EVEN)}


def test_files_are_told_by_their_first_bytes(tmp_path: Path, slices: dict[str, bytes]) -> None:
    (tmp_path / "no_suffix").write_bytes(next(iter(slices.values())))
    (tmp_path / "text.dcm").write_text("DICM")
    zipped(tmp_path / "zip.dat", slices)
    assert [kind_of_file(tmp_path / name) for name in ("no_suffix", "text.dcm", "zip.dat", "absent")] == [
        "dicom", "other", "zip", "other",
    ]  # fmt: skip


def test_a_folder_is_walked_and_what_is_no_file_passed_over(tmp_path: Path, slices: dict[str, bytes]) -> None:
    data = next(iter(slices.values()))
    root = tmp_path / "root"
    for name in ("b/2", "a/deep/er/1", ".hidden/3", "c/.4", "c/5.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"text" if name.endswith("txt") else data)
    os.mkfifo(root / "pipe.dcm")
    assert [str(file.path.relative_to(root)) for file in dicom_files_in(root)] == ["a/deep/er/1", "b/2"]


def test_an_archive_is_the_scan_in_it_wherever_its_names_lead(tmp_path: Path, slices: dict[str, bytes]) -> None:
    names = ["../../escape.dcm", "/etc/absolute.dcm", "C:\\windows\\x.dcm"]
    members = dict(zip(names, slices.values(), strict=True)) | {
        "notes.txt": b"text",
        "__MACOSX/._x": b"\x08\x00\x05\x00",
    }
    before = sorted(tmp_path.rglob("*"))
    archive = zipped(tmp_path / "scan.zip", members)
    ct, _ = read_dicom(archive)
    from_folder, _ = read_dicom(tmp_path / "slices")
    assert (ct.hu == from_folder.hu).all()
    assert ct.source == "scan.zip"
    assert sorted(tmp_path.rglob("*")) == sorted([*before, archive])


def test_a_link_in_an_archive_is_but_a_text(tmp_path: Path, slices: dict[str, bytes]) -> None:
    path = zipped(tmp_path / "scan.zip", slices)
    link = zipfile.ZipInfo("link.dcm")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    assert len(dicom_files_in(path)) == 3


def test_an_archive_that_shrinks_more_than_any_scan_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = zipped(tmp_path / "bomb.zip", {"a.dcm": bytes(70 * 2**20)})
    monkeypatch.delattr(dicom_files.FileReader, "_read_member")
    with pytest.raises(ScanRefused, match="unpacks to at most 67,108,864 bytes; got one that states 73,400,320"):
        dicom_files_in(path)


def test_an_archive_that_states_less_than_it_holds_gives_no_more(tmp_path: Path, slices: dict[str, bytes]) -> None:
    path = zipped(tmp_path / "liar.zip", {"a.dcm": next(iter(slices.values())) + bytes(2**20)})
    data = path.read_bytes()
    stated = data.rindex(b"PK\x01\x02") + 24
    path.write_bytes(data[:stated] + (2000).to_bytes(4, "little") + data[stated + 4 :])
    with pytest.raises(ScanRefused, match="expected"):
        read_dicom(path)


@pytest.mark.parametrize("name", ["MAX_FILES", "MAX_FILE_BYTES", "_MAX_DIRECTORY_BYTES"])
def test_limits_of_an_archive_hold_before_anything_is_unpacked(
    tmp_path: Path, slices: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = zipped(tmp_path / "scan.zip", slices)
    monkeypatch.setattr(dicom_files, name, 2)
    with pytest.raises(ScanRefused, match=r"at most 2 (files|bytes)"):
        dicom_files_in(path)


@pytest.mark.parametrize("name", ["MAX_FILES", "MAX_FILE_BYTES"])
def test_limits_of_a_folder_hold(
    tmp_path: Path, slices: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(dicom_files, name, 2)
    with pytest.raises(ScanRefused, match="expected at most 2"):
        read_dicom(tmp_path / "slices")


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty directory"])
def test_a_damaged_archive_is_refused(tmp_path: Path, slices: dict[str, bytes], damage: str) -> None:
    path = zipped(tmp_path / "scan.zip", {f"DOE_JOHN/{name}": b for name, b in slices.items()}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    if damage == "cut":
        del data[len(data) // 2 :]
    elif damage == "flipped":
        data[data.index(b"DICM") + 700] ^= 1
    else:
        data = data[:4]
    path.write_bytes(data)
    with pytest.raises(ScanRefused) as refusal:
        read_dicom(path)
    assert "\n" not in str(refusal.value)
    assert "DOE_JOHN" not in recorded_reason(str(refusal.value), path)


def test_two_members_of_one_name_are_refused(tmp_path: Path, slices: dict[str, bytes]) -> None:
    path = zipped(tmp_path / "scan.zip", slices)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr(next(iter(slices)), next(iter(slices.values())))
    with pytest.raises(ScanRefused, match="each name once"):
        dicom_files_in(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o000)
    with pytest.raises(ScanRefused, match="readable folder"):
        dicom_files_in(tmp_path)


def test_a_pipe_in_place_of_a_file_is_refused_not_waited_for(tmp_path: Path) -> None:
    path = save(ct_slice(pattern()), tmp_path / "slice.dcm")
    with FileReader() as reader, reader.open(DicomFile(path)) as stream:
        assert stream.read(132)[128:] == b"DICM"
    with (
        FileReader() as reader,
        pytest.raises(ScanRefused, match="pipe or a device"),
        reader.open(DicomFile(Path("/dev/zero"))),
    ):
        pytest.fail("a device was opened")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_archive_by_a_method_whose_header_may_ask_for_gigabytes_is_refused(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("a.dcm", b"x" * 1000)
    with pytest.raises(ScanRefused, match=r"expected members that are stored or deflated; got one by method [0-9]+; "):
        dicom_files_in(tmp_path / "a.zip")


def test_a_name_in_an_archive_is_shown_and_not_obeyed(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a\nb\x1b[2J" + "n" * 5000, b"x" * 1000)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[30] ^= 1  # the name before the member is no longer the directory's
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(ScanRefused) as refusal:
        dicom_files_in(tmp_path / "a.zip")
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) <= MAX_LINE


def test_folders_thousands_deep_are_walked(tmp_path: Path, slices: dict[str, bytes]) -> None:
    """Deeper than Python calls functions within functions."""
    levels = [tmp_path]
    for _ in range(1200):
        levels.append(levels[-1] / "d")
        levels[-1].mkdir()
    (levels[-1] / "x.dcm").write_bytes(next(iter(slices.values())))
    try:
        assert [file.path for file in dicom_files_in(levels[1])] == [levels[-1] / "x.dcm"]
    finally:  # shutil.rmtree calls itself for each level
        (levels[-1] / "x.dcm").unlink()
        for level in reversed(levels[1:]):
            level.rmdir()


def test_folders_count_as_files_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hgisam.io.dicom_files.MAX_FILES", 3)
    for name in "abcd":
        (tmp_path / name).mkdir()
    with pytest.raises(ScanRefused, match="at most 3 files"):
        dicom_files_in(tmp_path)


def test_a_member_without_a_name_is_passed_over(tmp_path: Path, slices: dict[str, bytes]) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(zipfile.ZipInfo(""), b"x")
        archive.writestr("a.dcm", next(iter(slices.values())))
    assert [file.member for file in dicom_files_in(tmp_path / "a.zip")] == ["a.dcm"]
