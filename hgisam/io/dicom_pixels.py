"""A DICOM slice's pixels as Hounsfield units: decoded, told from padding, rescaled by the slice's own numbers."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.utils import pixel_array

from hgisam.io.dicom_files import DicomFile, FileReader
from hgisam.io.dicom_header import SliceHeader, quiet_pydicom, transfer_syntax
from hgisam.io.errors import ScanRefused
from hgisam.volume import HIGHEST_HU, LOWEST_HU

CODECS_EXTRA = "pip install 'hgisam[codecs]'"
"""What makes compressed files readable where it is not there yet."""

_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
_JPEG_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_RUST_PANIC = "PanicException"
"""What a decoder in Rust raises where it would read beyond its input. It is no Exception, and no module exports it."""

SOFT_TISSUE_HU = (-300.0, 300.0)
"""Numbers that may be brain, blood or what lies about them are never taken for padding, whatever a header says."""

Stored = NDArray[np.integer[Any]]
_WRAP = 4096.0
_J2K_MAGIC, _J2K_BOX = b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  "


@contextmanager
def _refusing_damage(file: DicomFile) -> Iterator[None]:
    """Turn whatever pydicom raises on a hostile file into a refusal of it."""
    try:
        with quiet_pydicom():
            yield
    except ScanRefused:
        raise
    except Exception as error:
        raise _damaged(file, error) from error


class SliceReader:
    """Gives the HU of slices; a file with many frames is read once for those that follow each other.

    Attributes:
        padding_in_tissue_hu: what a header called padding though it lies within SOFT_TISSUE_HU, so that it was taken
            as measured; None where none did.
    """

    def __init__(self, reader: FileReader, hu_offset: float = 0.0) -> None:
        self.padding_in_tissue_hu: float | None = None
        self._reader = reader
        self._hu_offset = hu_offset
        self._file: DicomFile | None = None
        self._dataset = Dataset()
        self._compressed = False

    def hu(self, header: SliceHeader) -> NDArray[np.float32]:
        """Float32 HU [rows, columns] within LOWEST_HU..HIGHEST_HU; padding outside of SOFT_TISSUE_HU is air.

        Raises:
            ScanRefused: where the file has changed since its header was read, is damaged, needs a decoder that is not
                there, or holds numbers that its header does not allow.
        """
        if header.file != self._file:
            self._load(header.file)
        stored = self._stored(header)
        with _refusing_damage(header.file):  # pydicom makes values of a header's bytes as they are asked for
            air = self._padding(stored, header)
            hu = self._rescaled(_signed(stored, self._dataset, ~air, header), header)
        hu[air] = LOWEST_HU
        return np.clip(hu, LOWEST_HU, HIGHEST_HU, out=hu)

    def _padding(self, stored: Stored, header: SliceHeader) -> NDArray[np.bool_]:
        """Where a slice holds no measurement, as far as that can be told from tissue."""
        ends = _padding_ends(stored.dtype, self._dataset)
        if ends is None:
            return np.zeros(stored.shape, dtype=bool)
        low_hu, high_hu = sorted(self._rescaled(np.array(ends), header).tolist())
        if low_hu <= SOFT_TISSUE_HU[1] and high_hu >= SOFT_TISSUE_HU[0]:
            self.padding_in_tissue_hu = float(np.clip(low_hu, *SOFT_TISSUE_HU))
            return np.zeros(stored.shape, dtype=bool)
        return np.asarray((stored >= ends[0]) & (stored <= ends[1]))

    def _rescaled(self, stored: Stored, header: SliceHeader) -> NDArray[np.float32]:
        """HU of numbers of a slice, as they are: not held to any range."""
        hu = stored.astype(np.float32)
        hu *= np.float32(header.slope)
        hu += np.float32(header.intercept + self._hu_offset)
        if header.wrapped and not self._hu_offset:  # an offset says that the numbers are off in another way
            hu = unwrapped(hu)
        return hu

    def _load(self, file: DicomFile) -> None:
        with _refusing_damage(file), self._reader.open(file) as stream:
            syntax = transfer_syntax(stream)
            self._dataset = pydicom.dcmread(stream, force=True)
            if not syntax:
                self._dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
            self._compressed = self._dataset.file_meta.TransferSyntaxUID.is_compressed
        self._file = file

    def _stored(self, header: SliceHeader) -> Stored:
        """The numbers as the file has them, [rows, columns]."""
        dataset, file = self._dataset, header.file
        rows, columns = header.plane.shape
        if (dataset.get("Rows"), dataset.get("Columns")) != header.plane.shape:
            raise ScanRefused(f"{file}: expected {rows} x {columns} px; got others; it has changed")
        if "PixelData" not in dataset:
            raise ScanRefused(f"{file}: expected its pixels; got none; the file is truncated: copy it again")
        try:
            with quiet_pydicom():
                if self._compressed:
                    self._check_codestream(header)
                stored = pixel_array(dataset, index=header.frame, raw=True, correct_unused_bits=False)
        except ScanRefused:
            raise
        except BaseException as error:  # a decoder raises anything on a hostile file
            if not isinstance(error, Exception) and type(error).__name__ != _RUST_PANIC:
                raise
            if self._compressed and not _has_codecs():
                syntax = dataset.file_meta.TransferSyntaxUID.name
                raise ScanRefused(
                    f"{file}: expected a decoder for {syntax}; got none installed; {CODECS_EXTRA}"
                ) from error
            raise _damaged(file, error) from error
        if stored.shape != header.plane.shape or stored.dtype.kind not in "ui":
            raise ScanRefused(f"{file}: expected whole numbers, {rows} x {columns}; got {stored.dtype} {stored.shape}")
        return stored

    def _check_codestream(self, header: SliceHeader) -> None:
        """Refuse a compressed picture of another size than the header's before a decoder makes room for it."""
        rows, columns = header.plane.shape
        n_frames = int(self._dataset.get("NumberOfFrames") or 1)
        codestream = get_frame(self._dataset.PixelData, header.frame, number_of_frames=n_frames)
        size = codestream_size(codestream)
        if size is not None and size != header.plane.shape:
            raise ScanRefused(
                f"{header.file}: expected a picture of {rows} x {columns}; got one of {size[0]} x"
                f" {size[1]} inside; the header and the picture contradict each other"
            )


def unwrapped(hu: NDArray[np.float32]) -> NDArray[np.float32]:
    """HU that were stored without an offset in 12 unsigned bits, taken back into -1024..3071 by steps of 4096."""
    return np.asarray(np.mod(hu - LOWEST_HU, _WRAP) + LOWEST_HU, dtype=np.float32)


def codestream_size(data: bytes) -> tuple[int, int] | None:
    """Rows and columns that a JPEG, JPEG-LS or JPEG 2000 codestream states; None where it is none of them.

    Source: ITU-T T.81 B.2.2, T.87 C.2.2, T.800 A.5.1.
    """
    start = data.find(_J2K_MAGIC) if data.startswith(_J2K_BOX) else 0
    if start >= 0 and data[start : start + 4] == _J2K_MAGIC:
        right, bottom, left, top = (int.from_bytes(data[start + at : start + at + 4]) for at in (8, 12, 16, 20))
        return bottom - top, right - left
    if data[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 <= len(data):
        marker = data[at + 1]
        if data[at] != 0xFF:
            return None
        if marker in _JPEG_FRAMES:
            return int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
        if marker == 0xFF:
            at += 1
        elif marker in _JPEG_WITHOUT_LENGTH:
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return None


def _padding_ends(dtype: np.dtype[Any], dataset: Dataset) -> tuple[int, int] | None:
    """The lowest and highest stored number that mean padding: PixelPaddingValue, to PixelPaddingRangeLimit where there
    is one. None where the header states none.

    They are taken bit by bit, since the tags often have the other sign.
    """
    value, limit = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    if not isinstance(value, int):
        return None
    ends = sorted(
        _wrapped(end, dtype.itemsize * 8, dtype.kind == "i") for end in (value, limit) if isinstance(end, int)
    )
    return ends[0], ends[-1]


def _wrapped(value: int, bits: int, signed: bool) -> int:
    unsigned: int = value % 2**bits
    return unsigned - 2**bits if signed and unsigned >= 2 ** (bits - 1) else unsigned


def _signed(stored: Stored, dataset: Dataset, measured: NDArray[np.bool_], header: SliceHeader) -> Stored:
    """The numbers by their sign: a writer may leave the bits above BitsStored empty, or carry the sign into them.

    Raises:
        ScanRefused: where numbers lie above what BitsStored holds, and what they stand for is anybody's guess.
    """
    allocated, bits = stored.dtype.itemsize * 8, dataset.get("BitsStored")
    if not isinstance(bits, int) or dataset.get("HighBit", bits - 1) != bits - 1 or not 1 <= bits <= allocated:
        raise ScanRefused(
            f"{header.file}: expected the lowest 1 to {allocated} bits stored; got {bits} with the high bit"
            f" {dataset.get('HighBit')}; export it again"
        )
    values = stored[measured]
    if bits == allocated or not values.size:
        return stored
    highest = int(values.max())
    if stored.dtype.kind == "u":
        if highest >= 2**bits:
            raise ScanRefused(
                f"{header.file}: expected numbers of {bits} bits; got {highest}: drawings in the unused bits? export it"
                " again without overlays"
            )
        return stored
    if highest < 2 ** (bits - 1) or int(values.min()) < 0:
        return stored
    if highest >= 2**bits or header.intercept - header.slope < LOWEST_HU:
        raise ScanRefused(
            f"{header.file}: expected numbers of {bits} bits with a sign; got {highest}, which is below"
            f" {LOWEST_HU:.0f} HU if its highest bit is the sign; export it again"
        )
    extended: Stored = (stored << (allocated - bits)) >> (allocated - bits)
    return extended


def _has_codecs() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in ("gdcm", "openjpeg"))


def _damaged(file: DicomFile, error: BaseException) -> ScanRefused:
    reason = (str(error) or type(error).__name__).splitlines()[0][:160]
    return ScanRefused(f"{file}: expected readable pixels; got '{reason}'; copy or export the file again")
