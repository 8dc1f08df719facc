"""Inputs as typed -> named cases: which files a folder gives, and for each a name that is safe in the output folder."""

import json
import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


class InputError(ValueError):
    """What was typed cannot be worked on as it stands; no scan was touched. Exit code 2."""


@dataclass(frozen=True)
class Case:
    """One scan to work on.

    Attributes:
        name: begins the name of every output of this scan; unique in a run, also where upper and lower case are one.
        path: the file, as it was given on the command line (relative stays relative).
    """

    name: str
    path: Path


def find_cases(inputs: Sequence[Path]) -> tuple[Case, ...]:
    """The scans that the inputs stand for, each with a name of its own.

    A file stands for itself. A folder stands for every `.nii` and `.nii.gz` directly in it, sorted by name; hidden
    files are left out, and so are masks and maps that lie beside a hgisam record of their own case. A file that is
    reached twice is one case. Two files with one stem are told apart by their folders' names, then by a number.

    Args:
        inputs: files and folders.

    Returns:
        At least one case.

    Raises:
        InputError: where an input does not exist or cannot be listed, a folder holds no scan, or there is no input.
    """
    paths: dict[Path, Path] = {}
    for given in inputs:
        for path in _files_of(given):
            paths.setdefault(path.resolve(), path)
    if not paths:
        raise InputError("expected at least one file or folder; got none; name a scan")
    files = tuple(paths.values())
    return tuple(Case(name, path) for name, path in zip(_unique_names(files), files, strict=True))


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


def is_own_record(path: Path) -> bool:
    """Whether a file is a record that hgisam wrote, and no other program's JSON of the same name."""
    return "hgisam_version" in read_record(path)


def read_record(path: Path) -> dict[str, Any]:
    """What a JSON file of ours holds; empty where it is absent, unreadable, no JSON, or anything but an object."""
    try:
        if path.stat().st_size > MAX_RECORD_BYTES:
            return {}
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _files_of(given: Path) -> list[Path]:
    """The scans that one input stands for: itself, or the files of the folder."""
    try:
        if given.is_dir():
            return _scans_in(given)
        if given.is_file():
            return [given]
    except OSError as error:
        raise InputError(f"{given}: expected a readable input; got '{error.strerror}'; check access") from error
    raise InputError(f"{given}: expected a file or a folder; got nothing of that name; check the spelling")


def _scans_in(folder: Path) -> list[Path]:
    scans = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.name.lower().endswith(_SUFFIXES):
            continue
        if path.exists() and not path.is_file():  # a broken link is a scan that cannot be read, and is listed as one
            continue
        own = _OWN_OUTPUT.fullmatch(path.name)
        if own and is_own_record(folder / f"{own['case']}.json"):
            log.info("%s: left out; hgisam wrote it", path)
            continue
        scans.append(path)
    if not scans:
        raise InputError(
            f"{folder}: expected .nii or .nii.gz files directly in this folder; got none; name the folder with them"
        )
    return scans


def _stem(path: Path) -> str:
    """The file's name without `.nii.gz`, `.nii` or whatever one suffix it has; a hidden file keeps its name."""
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
