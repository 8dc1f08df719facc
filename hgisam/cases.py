"""Inputs as typed -> named cases: which scans a folder or an archive gives, and for each a name that is safe in the
output folder.
"""

import json
import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hgisam.io.dicom_files import kind_of_file
from hgisam.io.errors import InputError, ScanRefused
from hgisam.limits import read_whole

if TYPE_CHECKING:
    from hgisam.io.dicom_series import DicomSeries

log = logging.getLogger(__name__)

MAX_NAME_BYTES = 180
"""Longest case name in UTF-8 bytes: leaves room for `_preview.png` below the usual limit of 255."""

MAX_RECORD_BYTES = 50_000_000
"""No record is as large as this."""

_SUFFIXES = (".nii.gz", ".nii")
_OWN_OUTPUT = re.compile(r"(?P<case>.+)_(mask|map)\.nii\.gz")
_RUN_FILES = ("run", "summary", "evaluation")
_WINDOWS_DEVICES = ("con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(10)))
_RESERVED = frozenset((*_RUN_FILES, *_WINDOWS_DEVICES))


class SeriesChoiceNeeded(InputError):
    """Of one examination or of several, more than one DICOM series could be meant.

    Attributes:
        rows: the series to choose from; columns `examination` (a number from 1), `input`, and those of
            `hgisam.io.dicom_series.SERIES_COLUMNS`.
    """

    def __init__(self, undecided: Sequence["_Undecided"]) -> None:
        """Of at least one examination."""
        places = [place for place, _ in undecided]
        if len(undecided) == 1:
            found = f"{places[0]}: expected one series of axial CT slices; got {len(undecided[0][1])}"
        else:
            found = f"expected one series of axial CT slices in each examination; got several in {len(undecided)}"
        super().__init__(f"{found}; choose with --series-uid")
        self.rows = tuple(
            {"examination": number, "input": str(place), **series.row()}
            for number, (place, candidates) in enumerate(undecided, start=1)
            for series in candidates
        )


@dataclass(frozen=True)
class Case:
    """One scan to work on.

    Attributes:
        name: begins the name of every output of this scan; unique in a run, also where upper and lower case are one.
        path: the file, archive or folder, as it was given on the command line (relative stays relative).
        series: what is meant of a path that holds DICOM; None for any other file.
    """

    name: str
    path: Path
    series: "DicomSeries | None" = None

    @property
    def scan(self) -> "Path | DicomSeries":
        """What is to be read."""
        return self.path if self.series is None else self.series


@dataclass(frozen=True)
class Shard:
    """Which share of the cases one of several processes takes: the `number`th of `of`, from 1."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Of a text such as `2/5`.

        Raises:
            InputError: where it is none.
        """
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
        number, of = (int(part) for part in found.groups()) if found else (0, 0)
        if not 1 <= number <= of:
            raise InputError(f"expected a shard such as 2/5, from 1/5 to 5/5; got {text!r}; check --shard")
        return cls(number, of)

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def part(self, cases: Sequence[Case]) -> tuple[Case, ...]:
        """Every `of`th case. The shards of one list have each case once; where there are few, some have none."""
        return tuple(cases[self.number - 1 :: self.of])


_Found = tuple[Path, "DicomSeries | None"]
"""A scan and where it is."""

_Undecided = tuple[Path, Sequence["DicomSeries"]]
"""The series of an examination, any of which could be meant, and where they are."""


def find_cases(inputs: Sequence[Path], series_uids: Collection[str] = ()) -> tuple[Case, ...]:
    """The scans that the inputs stand for, each with a name of its own.

    A file stands for itself. A folder stands for every `.nii` and `.nii.gz` directly in it, sorted by name; hidden
    files are left out, and so are masks and maps that lie beside a hgisam record of their own case. A file that is
    reached twice is one case. Two files with one stem are told apart by their folders' names, then by a number.

    A folder without NIfTI files directly in it, and a zip archive, stand for the DICOM in them, however deep; DICOM
    files that are named one by one are taken together. Each examination (StudyInstanceUID) among them is a case if it
    has one series of axial CT slices, or one with a soft kernel beside others with bone kernels.

    Args:
        inputs: files and folders.
        series_uids: of an examination that has any of these series, take them and no others; the choice of other
            examinations stays as it is without.

    Returns:
        At least one case.

    Raises:
        InputError: where an input does not exist or cannot be listed, a folder holds no scan, there is no input, or a
            series is not there.
        SeriesChoiceNeeded: where more than one series of an examination could be meant; it names all such.
    """
    found: list[_Found] = []
    undecided: list[_Undecided] = []
    single_files: list[Path] = []
    for given in inputs:
        kind = _kind_of(given)
        if kind == "dicom":
            single_files.append(given)
        elif kind == "zip" or (kind == "folder" and not _has_nifti(given)):
            decided, open_ones = _dicom_scans([given], series_uids)
            found, undecided = found + decided, undecided + open_ones
        else:
            found += [(path, None) for path in ([given] if kind == "other" else _scans_in(given))]
    if single_files:
        decided, open_ones = _dicom_scans(single_files, series_uids)
        found, undecided = found + decided, undecided + open_ones
    missing = set(series_uids) - {series.uid for _, series in found if series is not None}
    if missing:
        raise InputError(f"expected the series {sorted(missing)[0]}; got inputs without it; check --series-uid")
    if undecided:
        raise SeriesChoiceNeeded(undecided)
    scans: dict[tuple[str, tuple[str, str] | None], _Found] = {}
    for path, series in found:
        uids = None if series is None else (series.study_uid, series.uid)  # equal or blanked in two studies, at times
        scans.setdefault((os.path.realpath(path), uids), (path, series))
    if not scans:
        raise InputError("expected at least one file or folder; got none; name a scan")
    distinct = tuple(scans.values())
    names = _unique_names([path for path, _ in distinct])
    return tuple(
        Case(name, path, series and replace(series, name=name))
        for name, (path, series) in zip(names, distinct, strict=True)
    )


def safe_name(name: str) -> str:
    """A name that may begin a file's name on any system and never leaves its folder.

    Anything but letters, digits, `.`, `_` and `-` becomes `_`; dots and dashes at the ends go; a reserved name (`run`,
    `summary`, `con`, ...) gets `scan_` in front. Applying it twice changes nothing more.

    Args:
        name: any text, such as the stem of a file.

    Returns:
        A name of at most `MAX_NAME_BYTES` bytes; 'scan' where no letter or digit is left.
    """
    cleaned = re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", name)).strip(".-")
    if not cleaned.strip("_.-"):
        return "scan"
    if cleaned.split(".")[0].casefold() in _RESERVED:
        cleaned = f"scan_{cleaned}"
    return cleaned.encode()[:MAX_NAME_BYTES].decode(errors="ignore").rstrip(".-")


def own_record(path: Path) -> dict[str, Any]:
    """What a JSON record that hgisam wrote holds; empty where the file is absent, unreadable or another program's."""
    try:
        found = json.loads(read_whole(path, MAX_RECORD_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    versions = found.get("versions")  # a run's record; others state the version themselves
    ours = "hgisam_version" in found or (isinstance(versions, dict) and "hgisam" in versions)
    return found if ours else {}


def _kind_of(given: Path) -> str:
    """What one input is: `folder`, or a file that is `dicom`, `zip` or `other`."""
    try:
        if given.is_dir():
            return "folder"
        if given.is_file():
            return kind_of_file(given)
    except OSError as error:
        raise InputError(f"{given}: expected a readable input; got '{error.strerror}'; check access") from error
    raise InputError(f"{given}: expected a file or a folder; got nothing of that name; check the spelling")


def _has_nifti(folder: Path) -> bool:
    try:
        return any(_is_nifti(path) for path in folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: expected a readable input; got '{error.strerror}'; check access") from error


def _is_nifti(path: Path) -> bool:
    """Whether a path is a NIfTI file by its name. A broken link is one that cannot be read, and is listed as one."""
    named = not path.name.startswith(".") and path.name.lower().endswith(_SUFFIXES)
    return named and (path.is_file() or not path.exists())


def _dicom_scans(places: Sequence[Path], series_uids: Collection[str]) -> tuple[list[_Found], list[_Undecided]]:
    """The series that is meant of each examination in the places, and those examinations of which it cannot be told.

    Places that hold no series are left for the reader to refuse.
    """
    from hgisam.io.dicom_series import DicomSeries, choose_series, find_series

    try:
        listing = find_series(places)
    except ScanRefused:
        return [(place, None) for place in places], []
    is_folder = places[0].is_dir()
    if is_folder and not listing.series and not listing.left_out:
        raise InputError(
            f"{places[0]}: expected .nii or .nii.gz files directly in this folder, or DICOM files in it or below; got"
            " none; name the folder with them"
        )
    if not listing.series:
        return [(place, None) for place in places], []
    for left in listing.left_out:
        loud = left.damaged or not is_folder
        log.log(logging.WARNING if loud else logging.INFO, "%s: left out; %s", left.file, left.reason)
    examinations: dict[str, list[DicomSeries]] = {}
    for series in listing.series:
        examinations.setdefault(series.study_uid, []).append(series)
    chosen: list[DicomSeries] = []
    undecided: list[_Undecided] = []
    for candidates in examinations.values():
        named = [series for series in candidates if series.uid in series_uids]
        one = None if named else choose_series(candidates)
        if not named and one is None:
            undecided.append((places[0] if len(places) == 1 else candidates[0].path, candidates))
        chosen += named if one is None else [one]
    alone = len(chosen) == len(places) == 1
    return [(places[0] if alone else series.path, series) for series in chosen], undecided


def _scans_in(folder: Path) -> list[Path]:
    """The NIfTI files directly in a folder that are scans."""
    scans = []
    others_are_dicom = False
    for path in sorted(folder.iterdir()):
        if not _is_nifti(path):
            others_are_dicom = others_are_dicom or (path.is_file() and kind_of_file(path) == "dicom")
            continue
        own = _OWN_OUTPUT.fullmatch(path.name)
        if own and own_record(folder / f"{own['case']}.json"):
            log.info("%s: left out; hgisam wrote it", path)
            continue
        scans.append(path)
    if not scans:
        raise InputError(
            f"{folder}: expected .nii or .nii.gz files directly in this folder; got only masks and maps that hgisam"
            " wrote; name the folder with the scans"
        )
    if others_are_dicom:
        log.warning("%s: its NIfTI files are taken, its DICOM files are not; keep those in another folder", folder)
    return scans


def _stem(path: Path) -> str:
    """The file's name without `.nii.gz`, `.nii` or whatever one suffix it has; folders and hidden files keep theirs."""
    if path.is_dir():
        return Path(os.path.abspath(path)).name  # noqa: PTH100 - resolve() would follow the link's name away
    lower = path.name.lower()
    suffix = next((s for s in _SUFFIXES if lower.endswith(s) and lower != s), path.suffix)
    return path.name[: len(path.name) - len(suffix)]


def _unique_names(paths: Sequence[Path]) -> list[str]:
    """One safe name per path, in order: the stem; where shared, folder and stem; where still shared, a number."""
    stems = [safe_name(_stem(path)) for path in paths]
    shared = Counter(stem.casefold() for stem in stems)
    names: dict[str, str] = {}
    for stem, path in zip(stems, paths, strict=True):
        folder = Path(os.path.abspath(path)).parent.name  # noqa: PTH100 - resolve() would follow the link's name away
        name = safe_name(f"{folder}_{_stem(path)}") if shared[stem.casefold()] > 1 else stem
        candidate, number = name, 1
        while candidate.casefold() in names:
            number += 1
            candidate = f"{name}_{number}"
        names[candidate.casefold()] = candidate
    return list(names.values())
