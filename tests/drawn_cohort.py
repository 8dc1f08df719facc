"""A folder of drawn heads with slice labels: coarse, small, and the same in every run."""

import csv
from pathlib import Path

import torch
from analytic_head import draw_head

from hgisam.io.nifti import new_grid_for, write_ct, write_labels
from hgisam.io.tables import SLICE_LABEL_COLUMNS

BLEED_HU = 75.0
BLED = range(6, 9)
"""The slices that bleed, in heads that do."""


def write_drawn_cohort(folder: Path, n_patients: int, *, masks: bool = False) -> Path:
    """Heads of as many patients, every second of which bleeds on one side; and `slice_labels.csv`.

    With masks, the folder is laid out as one of phantoms: the truth of every head lies in `truth/`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(n_patients):
        head = draw_head((10.0, 2.0, 2.0), offset_mm=2.0 * (number % 3))
        name, ct = f"p{number}.nii.gz", head.ct
        bled = range(0) if number % 2 else BLED
        blood = torch.zeros_like(head.inside)
        if bled:
            bleed = head.inside & ((head.across_mm - 25).abs() < 12) & (head.along_mm.abs() < 12)
            bleed[: bled.start], bleed[bled.stop :] = False, False
            ct, blood = head.with_hu(bleed, BLEED_HU), bleed
        write_ct(folder / name, ct, new_grid_for(ct))
        if masks:
            (folder / "truth").mkdir(exist_ok=True)
            write_labels(folder / "truth" / f"p{number}_labels.nii.gz", blood.to(torch.uint8), new_grid_for(ct))
        for index in range(len(ct.hu)):
            shown = int(index in bled)
            rows.append([name, index, 0, shown, 0, 0, 0, shown])
    with (folder / "slice_labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([SLICE_LABEL_COLUMNS, *rows])
    return folder
