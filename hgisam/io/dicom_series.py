"""DICOM files -> series of axial CT slices: which there are, what was left out, and which one is meant."""

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from hgisam.io.dicom_files import DicomFile, FileReader, dicom_files_in
from hgisam.io.dicom_geometry import LARGEST_TILT_DEG
from hgisam.io.dicom_header import LeftOut, SliceHeader, read_headers
from hgisam.io.errors import ScanRefused
from hgisam.wording import counted

SERIES_COLUMNS = ("series_uid", "description", "kernel", "slices", "thickness_mm")
"""Columns of the table from which a series is chosen."""

_SOFT_KERNELS = frozenset({"STANDARD", "STND", "STD", "STD+", "SOFT", "UA", "UB", "UC"})
_BONE_KERNELS = frozenset({"BONE", "BONEPLUS", "BONE+", "EDGE", "EDGE+", "LUNG", "ULTRA", "D", "E"})
_BONE_KERNELS |= {"YA", "YB", "YC", "YD", "YE"}
_SIEMENS = re.compile(r"[A-Z][A-Z]?(\d\d)[A-Z]?\d?(/\d)?")
_CANON = re.compile(r"FC(\d\d)")
_CANON_BONE = (range(30, 40), range(50, 60), range(80, 90))
_MANY_GROUPS = 8
_SIEMENS_SOFT_BELOW, _SIEMENS_BONE_FROM = 50, 56


@dataclass(frozen=True, eq=False)
class DicomSeries:
    """One series of axial CT slices, the lowest first.

    Attributes:
        path: the folder that holds all of it, the file, or the archive.
        slices: at least one; sorted by position along the slices' normal, never by instance number.
        problem: why the slices cannot be taken as one scan; None where they can.
        notes: what a reader of the result should know.
        left_out: what else lay with the examination and is no slice of any series.
        name: what errors and pictures call it; empty for the path's own name.
    """

    path: Path
    slices: tuple[SliceHeader, ...]
    problem: str | None = None
    notes: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    name: str = ""

    @property
    def source(self) -> str:
        """What errors and pictures call it."""
        return self.name or self.path.name or str(self.path)

    @property
    def uid(self) -> str:
        """SeriesInstanceUID; empty where the files do not say."""
        return self.slices[0].series_uid

    @property
    def study_uid(self) -> str:
        """StudyInstanceUID; empty where the files do not say."""
        return self.slices[0].study_uid

    @property
    def files(self) -> tuple[DicomFile, ...]:
        """Each file once, in the slices' order."""
        return tuple(dict.fromkeys(header.file for header in self.slices))

    @cached_property
    def left_out_reasons(self) -> dict[str, int]:
        """How many files were left out for which reason."""
        return dict(sorted(Counter(left.reason for left in self.left_out).items()))

    def row(self) -> dict[str, Any]:
        """The series in the table from which one is chosen."""
        first = self.slices[0]
        thicknesses = sorted({round(header.thickness_mm, 3) for header in self.slices if header.thickness_mm > 0})
        return {
            "series_uid": self.uid or "(none)",
            "description": first.description or None,
            "kernel": first.kernel or None,
            "slices": len(self.slices),
            "thickness_mm": " and ".join(f"{mm:g}" for mm in thicknesses[:3]) or None,
        }

    def sha256(self) -> str | None:
        """sha256 over the sorted sha256 of its files: the same wherever they lie and whatever they are called.

        None where one cannot be read.
        """
        digests = []
        try:
            with FileReader() as reader:
                for file in self.files:
                    with reader.open(file) as stream:
                        digests.append(hashlib.file_digest(stream, "sha256").digest())  # type: ignore[arg-type]
        except ScanRefused:
            return None
        return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


@dataclass(frozen=True, eq=False)
class SeriesListing:
    """What DICOM files hold.

    Attributes:
        series: those of axial CT slices, in the order of their first file.
        left_out: every file that is no slice of one of them.
    """

    series: tuple[DicomSeries, ...]
    left_out: tuple[LeftOut, ...]

    def refusal(self, source: str) -> ScanRefused:
        """The refusal of files that hold no series, naming what they hold instead."""
        reasons = Counter(left.reason for left in self.left_out)
        found = "; ".join(f"{n} x {reason}" if n > 1 else reason for reason, n in reasons.most_common(4))
        return ScanRefused(f"{source}: expected axial CT slices; got {found or 'no DICOM'}; name the scan's own series")


def find_series(paths: Iterable[Path]) -> SeriesListing:
    """The series in files, folders and archives, taken together. Headers are read, pixels are not.

    Raises:
        ScanRefused: where a folder or an archive is beyond the limits, or an archive is damaged.
    """
    headers: dict[str, dict[str, list[SliceHeader]]] = defaultdict(lambda: defaultdict(list))
    left_out: list[LeftOut] = []
    places = tuple(paths)
    with FileReader() as reader:
        for file in dict.fromkeys(file for place in places for file in dicom_files_in(place)):
            found = read_headers(reader, file)
            if isinstance(found, LeftOut):
                left_out.append(found)
                continue
            axial = [header for header in found if header.plane.tilt_deg <= LARGEST_TILT_DEG]
            if not axial:
                left_out.append(LeftOut(file, "coronal or sagittal slices"))
            elif len(axial) < len(found):
                reason = "axial and other frames in one file"
                left_out.append(LeftOut(file, reason, damaged=True, series_uid=found[0].series_uid))
            else:
                headers[found[0].study_uid][found[0].series_uid] += found
    series = []
    for examination in headers.values():
        beside = left_out
        if len(headers) > 1:
            place = _common_path([header for slices in examination.values() for header in slices])
            beside = [left for left in left_out if left.file.path.is_relative_to(place)]
        series += [_series(slices, beside) for slices in examination.values()]
    return SeriesListing(tuple(series), tuple(left_out))


def choose_series(candidates: Sequence[DicomSeries]) -> DicomSeries | None:
    """The one that is meant: the only one, or the only one with a soft kernel beside others of bone; else None."""
    if len(candidates) == 1:
        return candidates[0]
    kinds = [kernel_kind(series.slices[0].kernel) for series in candidates]
    if kinds.count("soft") != 1 or kinds.count("bone") != len(kinds) - 1:
        return None
    soft = candidates[kinds.index("soft")]
    note = f"of {len(candidates)} series, the one with the soft kernel ({soft.slices[0].kernel}) was taken"
    return replace(soft, notes=(*soft.notes, note))


def kernel_kind(kernel: str) -> str | None:
    """`soft` or `bone` for the reconstruction kernels of four makers, None for any other.

    Source: the makers' conformance statements and manuals: Siemens H31s or Hr38f (the number is the sharpness),
    GE STANDARD or BONEPLUS, Philips UB or YC, Canon FC21 or FC81.
    """
    name = kernel.upper().split(" ")[0]
    if name in _SOFT_KERNELS or name in _BONE_KERNELS:
        return "soft" if name in _SOFT_KERNELS else "bone"
    canon = _CANON.fullmatch(name)
    if canon:
        return "bone" if any(int(canon[1]) in numbers for numbers in _CANON_BONE) else "soft"
    siemens = _SIEMENS.fullmatch(name)
    if siemens and int(siemens[1]) < _SIEMENS_SOFT_BELOW:
        return "soft"
    return "bone" if siemens and int(siemens[1]) >= _SIEMENS_BONE_FROM else None


def _series(slices: list[SliceHeader], left_out: list[LeftOut]) -> DicomSeries:
    """One series, sorted, with what is wrong with it and what lay beside it."""
    normal = slices[0].plane.normal
    ordered = tuple(sorted(slices, key=lambda header: (float(normal @ header.position), str(header.file))))
    damaged = [left for left in left_out if left.damaged and left.series_uid == slices[0].series_uid != ""]
    problem = None
    if damaged:
        problem = f"expected {len(slices) + len(damaged)} whole files; got {len(damaged)} damaged: {damaged[0].reason}"
    patients = {header.patient for header in slices if header.patient}
    if len(patients) > 1:
        problem = f"expected slices of one patient in the series; got {len(patients)}; keep each in its own folder"
    n_unstated = sum(not header.hu_stated for header in slices)
    if 0 < n_unstated < len(slices):
        problem = (
            "expected a rescale slope and intercept in every slice of the series, or in none; got"
            f" {n_unstated} of {len(slices)} without, whose HU cannot be told; export the series again"
        )
    groups = _groups(slices)
    if len(groups) > 1:
        found = " and ".join(_described(group) for group in groups[:3])
        problem = f"expected slices of one kind in the series; got {found}; keep each kind in a folder of its own"
    notes: list[str] = []
    unplaced = sum(left.damaged and not left.series_uid for left in left_out)
    if unplaced:
        notes.append(f"{counted(unplaced, 'DICOM file')} beside the scan cannot be read: part of it may be there")
    stated = max((header.stated_count or 0 for header in slices), default=0)
    n_files = len({header.file for header in slices})
    if stated > n_files:
        here = counted(n_files, "is", "are")
        notes.append(f"the series states {stated:,} images, and {here} here: some may be missing")
    return DicomSeries(_common_path(ordered), ordered, problem, tuple(notes), tuple(left_out))


def _groups(slices: list[SliceHeader]) -> list[list[SliceHeader]]:
    """The slices apart by matrix, image type, pixel spacing and orientation, the largest group first.

    More than _MANY_GROUPS are not told apart further: that is no scan.
    """
    groups: list[list[SliceHeader]] = []
    for header in slices:
        for group in groups:
            if _alike(group[0], header) or len(groups) > _MANY_GROUPS:
                group.append(header)
                break
        else:
            groups.append([header])
    return sorted(groups, key=len, reverse=True)


def _alike(first: SliceHeader, other: SliceHeader) -> bool:
    return first.image_type == other.image_type and first.plane.agrees_with(other.plane)


def _described(group: list[SliceHeader]) -> str:
    first, plane = group[0], group[0].plane
    kind = "/".join(first.image_type) or "no image type"
    return (
        f"{len(group)} of {plane.rows} x {plane.columns} px of {plane.spacing_mm[1]:.3g} mm, tilted by"
        f" {plane.tilt_deg:.1f} degrees ({kind})"
    )


def _common_path(slices: Sequence[SliceHeader]) -> Path:
    """The file or archive where there is one, else the deepest folder that holds all the slices."""
    files = {header.file for header in slices}
    paths = {file.path for file in files}
    if len(paths) == 1:
        return paths.pop()
    folders = [path.parent for path in paths]
    if len({folder.is_absolute() for folder in folders}) > 1:
        folders = [folder.absolute() for folder in folders]
    return Path(os.path.commonpath([str(folder) for folder in folders]))
