"""BHSD: `images/NAME.nii.gz` and `ground truths/NAME.nii.gz` with five classes, the order of which is the house's.

Source: Wu et al., arXiv 2308.11298: 1 extradural, 2 intraparenchymal, 3 intraventricular, 4 subarachnoid, 5 subdural.
The labels of a slice are the classes in its mask, so masks are decoded while the cohort is read; scans are not.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import torch

from hgisam.io.errors import ScanRefused
from hgisam.io.nifti import read_grid, read_labels
from hgisam.labels import SUBTYPES, label_value
from hgisam.train.cohort import Findings, LabelledScan, NiftiFile, Trouble
from hgisam.train.layouts.nifti_scan import nifti_files, stem

SCANS = "images"
TRUTHS = ("ground truths", "ground_truths")
"""The folder as it is published, and as tools that dislike blanks unpack it."""

_NAME = re.compile(r"(?P<patient>ID_[0-9a-f]+)_ID_[0-9a-f]+")
"""Volumes of RSNA-2019: its PatientID, then the series; two volumes can be one patient's."""


def read_bhsd(folder: Path, findings: Findings) -> Iterable[LabelledScan]:
    """Scans with masks, joined by name. A class shows in a slice from its first voxel."""
    scans = nifti_files(folder / SCANS)
    truths = next((found for name in TRUTHS if (found := nifti_files(folder / name))), {})
    for name in sorted(truths.keys() - scans.keys()):
        findings.add(Trouble.MISSING_FILE, f"{SCANS}/{name}")
    for name, path in scans.items():
        if name not in truths:
            findings.add(Trouble.UNLABELLED_FILE, name)
            continue
        try:
            scan = _labelled(path, truths[name])
        except ScanRefused as error:
            findings.add(Trouble.UNUSABLE_FILE, str(error))
        else:
            yield scan


def _labelled(path: Path, truth: Path) -> LabelledScan:
    grid = read_grid(path)
    marked, marked_grid = read_labels(truth)
    if (grid.shape, grid.orientation) != (marked_grid.shape, marked_grid.orientation):
        raise ScanRefused(
            f"{path.name}: expected a mask on its grid {grid.shape}; got {marked_grid.shape} or other axes; the mask is"
            " of another scan"
        )
    shown = [(marked == label_value(subtype)).any(dim=2).any(dim=1) for subtype in SUBTYPES]
    labels = torch.stack([*shown, torch.stack(shown).any(dim=0)], dim=1)
    name = stem(path.name)
    match = _NAME.fullmatch(name)
    patient = match["patient"] if match else name
    return LabelledScan(name, patient, NiftiFile(path), labels, torch.ones_like(labels), reference=truth)
