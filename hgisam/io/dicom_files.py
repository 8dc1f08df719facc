"""Where DICOM comes from: files, folders within folders, and zip archives, read in memory and within limits.

Nothing is ever unpacked to disk, so no name in an archive can lead anywhere. Light to import: no numpy, no pydicom.
"""

import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BufferedReader, BytesIO, FileIO
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from hgisam.io.errors import ScanRefused
from hgisam.limits import open_regular

MAX_FILES = 200_000
"""The most files that a folder or an archive may hold."""

MAX_FILE_BYTES = 2 * 2**30
"""The largest file that is read: 4096 frames of 512 x 512 in 16 bit."""

MAX_UNPACKED_BYTES = 8 * 2**30
MAX_SHRINKAGE = 100
"""An archive may unpack to this many times its own size. CT shrinks to a half or a third; only traps shrink more."""

MAX_READS, READS_OF_A_FILE = 250_000, 3_000
"""What all files that one reader opens may take beyond what each of them may, two or three for each element of a
header. A slice has about 200 elements, an object of 2000 frames 80,000."""

_SMALL_ARCHIVE_BYTES = 64 * 2**20
_MAX_DIRECTORY_BYTES = 32 * 2**20
_PREAMBLE, _MAGIC = 128, b"DICM"
_ZIP_MAGIC = b"PK\x03\x04"
_HEADLESS = tuple(b"\x08\x00" + element for element in (b"\x00\x00", b"\x01\x00", b"\x05\x00", b"\x08\x00"))
_METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}
_UNREADABLE = (OSError, EOFError, RuntimeError, struct.error, zipfile.BadZipFile, zlib.error, ValueError)
"""What `zipfile` raises for damage, encryption and methods that it does not know."""


@dataclass(frozen=True)
class DicomFile:
    """One file that may hold DICOM.

    Attributes:
        path: the file, or the archive that it is in.
        member: its name in the archive; None outside of one.
    """

    path: Path
    member: str | None = None

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}:{self.member}"


def is_dicom(head: bytes) -> bool:
    """Whether a file's first 132 bytes are DICOM's, with the preamble or, as some archives export it, without."""
    return head[_PREAMBLE : _PREAMBLE + 4] == _MAGIC or head[:4] in _HEADLESS


def kind_of_file(path: Path) -> str:
    """`dicom`, `zip`, or `other` by a file's first bytes, not by its name; `other` where it cannot be read."""
    try:
        if not path.is_file():
            return "other"
        with path.open("rb") as file:
            head = file.read(_PREAMBLE + 4)
    except OSError:
        return "other"
    return "dicom" if is_dicom(head) else "zip" if head[:4] == _ZIP_MAGIC else "other"


def dicom_files_in(path: Path) -> list[DicomFile]:
    """Every DICOM file of a folder and the folders in it, of an archive, or the file itself, sorted by name.

    Links to folders are not followed; hidden files and what is neither a file nor DICOM by its first bytes are passed
    over.

    Raises:
        ScanRefused: where there are more than MAX_FILES, or an archive is damaged, encrypted or a trap.
    """
    if path.is_dir():
        return [DicomFile(file) for file in _walk(path) if kind_of_file(file) == "dicom"]
    if kind_of_file(path) == "zip":
        with FileReader() as reader:
            return [DicomFile(path, name) for name in reader.dicom_members(path)]
    return [DicomFile(path)]


def _walk(folder: Path) -> Iterator[Path]:
    """Its files, folder by folder. No call within a call for a folder within a folder: they may be thousands deep."""
    n_found = 0
    waiting = [folder]
    while waiting:
        parent = waiting.pop()
        folders: list[Path] = []
        files: list[Path] = []
        try:
            with os.scandir(parent) as entries:
                for entry in entries:
                    n_found += 1
                    if n_found > MAX_FILES:
                        raise ScanRefused(
                            f"{folder}: expected at most {MAX_FILES:,} files; got more; name the scan's own folder"
                        )
                    if not entry.name.startswith("."):
                        (folders if entry.is_dir(follow_symlinks=False) else files).append(Path(entry))
        except OSError as error:
            raise ScanRefused(f"{parent}: expected a readable folder; got '{error.strerror}'; check access") from error
        yield from (path for path in sorted(files) if path.is_file())
        waiting += sorted(folders, reverse=True)


class FileReader:
    """Opens files within limits; an archive is opened once for all that is read from it."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._archives: dict[Path, zipfile.ZipFile] = {}
        self._reads_left = MAX_READS

    def __enter__(self) -> "FileReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @contextmanager
    def open(self, file: DicomFile) -> Iterator[BinaryIO]:
        """A file's bytes as a stream that can be sought in.

        Raises:
            ScanRefused: where it cannot be read, is damaged, or holds more than MAX_FILE_BYTES.
        """
        try:
            if file.member is not None:
                content = self._read_member(self._archive(file.path), file, None)
                yield _Metered(BytesIO(content), len(content), self._spender(file))
                return
            with FileIO(open_regular(file.path)) as raw:
                n_bytes = os.fstat(raw.fileno()).st_size
                if n_bytes > MAX_FILE_BYTES:
                    raise _too_large(str(file), n_bytes)
                yield _Metered(raw, n_bytes, self._spender(file))
        except ScanRefused:
            raise
        except _UNREADABLE as error:
            raise _unreadable(str(file), error) from error

    def _spender(self, file: DicomFile) -> Callable[[], None]:
        """What counts the reads of one file, and refuses it once there are none left."""
        self._reads_left = max(self._reads_left, 0) + READS_OF_A_FILE

        def spend() -> None:
            self._reads_left -= 1
            if self._reads_left < 0:
                raise ScanRefused(f"{file}: expected the header of a scan; got hundreds of thousands of elements")

        return spend

    def dicom_members(self, path: Path) -> list[str]:
        """The names of an archive's DICOM files, sorted; a link in an archive is but a short text and none of them.

        Raises:
            ScanRefused: as `dicom_files_in`.
        """
        archive = self._archive(path)
        found = []
        for info in archive.infolist():
            hidden = PurePosixPath(info.filename).name.startswith(".") or info.filename.startswith("__MACOSX/")
            if hidden or not info.filename or info.is_dir():
                continue
            try:
                head = self._read_member(archive, DicomFile(path, info.filename), _PREAMBLE + 4)
            except ScanRefused:
                raise
            except _UNREADABLE as error:
                raise _unreadable(f"{path}:{info.filename}", error) from error
            if is_dicom(head):
                found.append(info.filename)
        if len(set(found)) < len(found):
            raise ScanRefused(f"{path}: expected each name once; got one twice; which file is meant cannot be told")
        return sorted(found)

    def _read_member(self, archive: zipfile.ZipFile, file: DicomFile, n_bytes: int | None) -> bytes:
        """A member's bytes: never more than the archive's directory states, and checked by their CRC to the end."""
        info = archive.getinfo(str(file.member))
        if info.file_size > MAX_FILE_BYTES:
            raise _too_large(str(file), info.file_size)
        with archive.open(info) as stream:
            return stream.read(info.file_size if n_bytes is None else n_bytes)

    def _archive(self, path: Path) -> zipfile.ZipFile:
        if path not in self._archives:
            try:
                stream = self._open.enter_context(_ShortReads(path))
                archive = self._open.enter_context(zipfile.ZipFile(stream))
            except ScanRefused:
                raise
            except _UNREADABLE as error:
                raise _unreadable(str(path), error) from error
            _check_archive(path, archive)
            self._archives[path] = archive
        return self._archives[path]


class _Metered(BufferedReader):
    """A stream whose reads are bounded in size and in number.

    An element may claim 4 GiB, and room is made for as much as is asked for; a file of zeros is a header of millions
    of empty elements, each of which takes a reader some microseconds.
    """

    def __init__(self, raw: FileIO | BytesIO, n_bytes: int, spend: Callable[[], None]) -> None:
        super().__init__(raw)
        self._n_bytes, self._spend = n_bytes, spend

    @property
    def name(self) -> str:
        """Empty: pydicom asks every buffered stream for it, and a member of an archive has none."""
        return ""

    def read(self, size: int | None = -1, /) -> bytes:
        self._spend()
        left = max(0, self._n_bytes - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


class _ShortReads(FileIO):
    """A file that gives no more than a bounded number of bytes at once: `zipfile` reads a whole directory in one go."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MAX_DIRECTORY_BYTES:
            raise ScanRefused(
                f"{self.name}: expected an archive's directory of at most {_MAX_DIRECTORY_BYTES:,} bytes; got"
                f" {size:,}; unpack it and name the folder"
            )
        return super().read(size) or b""


def _check_archive(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse an archive by what its directory states, before anything is unpacked."""
    members = archive.infolist()
    other = next((info for info in members if info.compress_type not in _METHODS), None)
    if other is not None:  # the header of LZMA alone can ask for 4 GiB
        raise ScanRefused(
            f"{path}: expected members that are {' or '.join(_METHODS.values())}; got one by method"
            f" {other.compress_type}; unpack it and name the folder"
        )
    if len(members) > MAX_FILES:
        raise ScanRefused(f"{path}: expected at most {MAX_FILES:,} files; got {len(members):,}; name a smaller archive")
    unpacked = sum(info.file_size for info in members)
    most = max(_SMALL_ARCHIVE_BYTES, min(MAX_UNPACKED_BYTES, MAX_SHRINKAGE * path.stat().st_size))
    if unpacked > most:
        raise ScanRefused(
            f"{path}: expected an archive that unpacks to at most {most:,} bytes; got one that states {unpacked:,}; if"
            " that is true, unpack it and name the folder"
        )


def _too_large(source: str, n_bytes: int) -> ScanRefused:
    return ScanRefused(f"{source}: expected at most {MAX_FILE_BYTES:,} bytes; got {n_bytes:,}; this is no head CT")


def _unreadable(source: str, error: Exception) -> ScanRefused:
    if isinstance(error, zipfile.BadZipFile | RuntimeError):  # whose texts name members, which are named after patients
        packed = "a damaged archive" if isinstance(error, zipfile.BadZipFile) else "an encrypted or unknown archive"
        return ScanRefused(f"{source}: expected a readable file; got {packed}; copy it again, or unpack it")
    reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
    return ScanRefused(f"{source}: expected a readable file; got '{reason}'; copy it again")
