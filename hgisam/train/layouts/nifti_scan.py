"""One NIfTI file and the labels of its slices -> a labelled scan in the house's order of slices."""

from collections.abc import Callable
from pathlib import Path

import torch

from hgisam.io.errors import ScanRefused
from hgisam.io.nifti import NiftiGrid, read_grid
from hgisam.train.cohort import CohortRefused, Findings, LabelledScan, NiftiFile, Trouble
from hgisam.train.layouts.label_table import as_rows

SUFFIXES = (".nii.gz", ".nii")
"""What a NIfTI file's name ends with."""


def stem(name: str) -> str:
    """A NIfTI file's name without its suffix."""
    for suffix in SUFFIXES:
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name


def nifti_files(folder: Path) -> dict[str, Path]:
    """The NIfTI files of a folder by name, sorted; hidden ones left out. Empty where there is no such folder.

    Raises:
        CohortRefused: where a scan lies there both as .nii and as .nii.gz, since nobody can say which is meant.
    """
    if not folder.is_dir():
        return {}
    found = {path.name: path for path in folder.iterdir() if path.name.endswith(SUFFIXES) and path.name[0] != "."}
    twice = sorted(name for name in found if f"{name}.gz" in found)
    if twice:
        raise CohortRefused(
            f"{folder.name}: expected one file for each scan; got both {twice[0]} and {twice[0]}.gz"
            f"{f', and {len(twice) - 1} more such pairs' if len(twice) > 1 else ''}; leave one"
        )
    return dict(sorted(found.items()))


def labelled_nifti(
    path: Path,
    patient: str,
    labels_of: Callable[[int], tuple[int, int] | None],
    findings: Findings,
    *,
    reference: Path | None = None,
    slice_axis: int | None = None,
) -> LabelledScan | None:
    """A scan from its header and labels, or None where it is left out, which is noted.

    Args:
        path: the file; its header is read, no voxel.
        patient: whose scan it is.
        labels_of: given a slice's index along the file's own slice axis, its labels and known labels as bits.
        findings: where trouble is noted.
        reference: a mask of the blood.
        slice_axis: the file's axis that the labels' index counts along; None for the one nearest to Superior.
    """
    try:
        grid = read_grid(path)
    except ScanRefused as error:
        findings.add(Trouble.UNUSABLE_FILE, str(error))
        return None
    if slice_axis is not None and grid.slice_axis != slice_axis:
        findings.add(Trouble.UNUSABLE_FILE, f"{path.name}: slices run along axis {grid.slice_axis}, not {slice_axis}")
        return None
    labels, known = [], []
    for index in range(grid.shape[grid.slice_axis]):
        found = labels_of(index)
        if found is None:
            findings.add(Trouble.UNLABELLED_SLICE, f"{path.name} slice {index}")
        labels.append(found[0] if found else 0)
        known.append(found[1] if found else 0)
    if not any(known):
        findings.add(Trouble.UNLABELLED_FILE, path.name)
        return None
    if reference is not None and not _is_on(grid, reference, findings):
        reference = None
    rows = as_rows(labels), as_rows(known)
    if grid.orientation.flips[0]:
        rows = torch.flip(rows[0], dims=(0,)), torch.flip(rows[1], dims=(0,))
    return LabelledScan(stem(path.name), patient, NiftiFile(path), *rows, reference=reference)


def _is_on(grid: NiftiGrid, reference: Path, findings: Findings) -> bool:
    """Whether a mask's header says that its voxels are those of the grid, one by one."""
    try:
        other = read_grid(reference)
    except ScanRefused as error:
        findings.add(Trouble.UNUSABLE_REFERENCE, str(error))
        return False
    if (other.shape, other.orientation) == (grid.shape, grid.orientation):
        return True
    findings.add(Trouble.UNUSABLE_REFERENCE, f"{reference.name}: {other.shape} or other axes, not {grid.shape}")
    return False
