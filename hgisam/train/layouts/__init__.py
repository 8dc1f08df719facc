"""Data sets as they are published -> a cohort. One file per layout, one function for all."""

from pathlib import Path
from typing import Literal, get_args

from hgisam.io.errors import InputError
from hgisam.train.cohort import Cohort, CohortRefused, Findings, LabelledScan, Trouble, sorted_scans
from hgisam.train.layouts import bhsd, physionet, rsna, slice_table

LayoutName = Literal["slice_labels", "phantoms", "rsna", "physionet", "bhsd"]
"""How a folder of scans and labels is laid out."""

MAX_CONTRADICTING = 0.1
"""A table of which more than this share of slices contradicts itself is not the table that we take it for."""

_MARKS: dict[LayoutName, tuple[str, ...]] = {
    "rsna": (rsna.TABLE, f"{rsna.SLICES}/"),
    "physionet": (physionet.TABLE, f"{physionet.SCANS}/"),
    "bhsd": (f"{bhsd.SCANS}/", f"{bhsd.TRUTHS[0]}/"),
    "phantoms": (slice_table.TABLE, f"{slice_table.TRUTH}/"),
    "slice_labels": (slice_table.TABLE,),
}
"""What a folder of each layout must hold; the first layout of which all is there is taken."""


def read_cohort(
    folder: Path,
    layout: LayoutName | Literal["auto"] = "auto",
    *,
    workers: int = 1,
    index: Path | None = None,
) -> Cohort:
    """Read a data set's labels, patients and headers. No voxel of a scan is decoded.

    Everything is joined by name, number or identifier, never by order. What does not fit is left out or unknown, and
    counted in the cohort's findings, so that all of it is seen before training starts.

    Args:
        folder: the data set, as it is unpacked.
        layout: its layout; `auto` tells it by what lies in the folder.
        workers: processes that read DICOM headers (`rsna` only).
        index: a file that keeps what DICOM headers said (`rsna` only), so that a million of them are read once.

    Raises:
        InputError: where the folder is of no layout, or not of the one asked for.
        CohortRefused: where a table is not of its layout, more than MAX_CONTRADICTING of it contradicts itself, or no
            scan with labels is left.
    """
    found = _layout_of(folder, layout)
    findings = Findings()
    scans: list[LabelledScan]
    if found == "rsna":
        scans = list(rsna.read_rsna(folder, findings, workers=workers, index=index))
    elif found == "physionet":
        scans = list(physionet.read_physionet(folder, findings))
    elif found == "bhsd":
        scans = list(bhsd.read_bhsd(folder, findings))
    else:
        scans = list(slice_table.read_slice_table(folder, findings, with_truth=found == "phantoms"))
    cohort = Cohort(found, sorted_scans(scans), findings.found())
    _check(cohort, folder)
    return cohort


def is_layout(folder: Path) -> bool:
    """Whether a folder is a data set that `read_cohort` reads, by what lies in it."""
    return any(all(_is_there(folder, mark) for mark in marks) for marks in _MARKS.values())


def _layout_of(folder: Path, asked: LayoutName | Literal["auto"]) -> LayoutName:
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder with scans and labels; got none; check the path")
    candidates = get_args(LayoutName) if asked == "auto" else (asked,)
    for layout, marks in _MARKS.items():
        if layout in candidates and all(_is_there(folder, mark) for mark in marks):
            return layout
    wanted = "; ".join(f"{layout}: {' and '.join(_MARKS[layout])}" for layout in _MARKS if layout in candidates)
    raise InputError(
        f"{folder}: expected a data set ({wanted}); got none of that; check the folder, or name its layout"
    )


def _is_there(folder: Path, mark: str) -> bool:
    if mark == f"{bhsd.TRUTHS[0]}/":
        return any((folder / name).is_dir() for name in bhsd.TRUTHS)
    return (folder / mark).is_dir() if mark.endswith("/") else (folder / mark).is_file()


def _check(cohort: Cohort, folder: Path) -> None:
    counts = {finding.trouble: finding.count for finding in cohort.findings}
    if not cohort.scans:
        found = " ".join(map(str, cohort.findings)) or "nothing"
        raise CohortRefused(f"{folder.name}: expected at least one scan with labels; found {found}")
    n_slices = sum(scan.n_slices for scan in cohort.scans)
    n_bad = counts.get(Trouble.CONTRADICTING, 0) + counts.get(Trouble.DISAGREEING, 0)
    if n_bad > MAX_CONTRADICTING * n_slices:
        raise CohortRefused(
            f"{folder.name}: expected labels that agree with each other; got {n_bad:,} of {n_slices:,} slices with"
            f" labels that do not ({'; '.join(map(str, cohort.findings))}); give the data set's own table"
        )
