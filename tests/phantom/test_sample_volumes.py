"""The five volumes that ship: small, readable, and what their README says."""

from pathlib import Path

import pytest
import torch

from hgisam.io.nifti import read_ct, read_mask
from hgisam.io.tables import read_slice_labels
from hgisam.labels import Subtype
from hgisam.plausibility import check_hu
from hgisam.volume import same_grid

SUBTYPES_OF = {
    "intraparenchymal_large": {Subtype.INTRAPARENCHYMAL, Subtype.INTRAVENTRICULAR},
    "subdural_thin": {Subtype.SUBDURAL},
    "epidural": {Subtype.EPIDURAL},
    "subarachnoid_film": {Subtype.SUBARACHNOID},
    "normal_calcified": set(),
}


def test_folder_holds_five_scans_under_five_megabytes(sample_volumes: Path) -> None:
    assert {path.name for path in sample_volumes.glob("*.nii.gz")} == {f"{name}.nii.gz" for name in SUBTYPES_OF}
    assert sum(path.stat().st_size for path in sample_volumes.rglob("*") if path.is_file()) < 5_000_000


@pytest.mark.parametrize("name", SUBTYPES_OF)
def test_scan_truth_and_table_agree(sample_volumes: Path, name: str) -> None:
    ct, _ = read_ct(sample_volumes / f"{name}.nii.gz")
    mask, _ = read_mask(sample_volumes / "truth" / f"{name}_labels.nii.gz")
    assert same_grid(ct, mask)
    assert check_hu(ct).verdict == "ok"
    rows = [row for row in read_slice_labels(sample_volumes / "slice_labels.csv") if row.file == f"{name}.nii.gz"]
    assert len(rows) == ct.hu.shape[0]
    assert {s for row in rows for s in row.subtypes} - {Subtype.ANY} == SUBTYPES_OF[name]
    positive = torch.tensor([Subtype.ANY in row.subtypes for row in sorted(rows, key=lambda r: r.slice_index)])
    areas_mm2 = mask.voxels.flatten(1).sum(dim=1) * ct.spacing_mm[1] * ct.spacing_mm[2]
    assert torch.equal(areas_mm2 >= 10, positive)


def test_readme_tells_the_volumes(sample_volumes: Path) -> None:
    readme = (sample_volumes / "README.md").read_text(encoding="utf-8")
    assert "hgisam segment sample_volumes -o out/demo" in readme
    for name in SUBTYPES_OF:
        line = next(line for line in readme.splitlines() if line.startswith(f"| {name}.nii.gz"))
        told_ml = float(line.split("|")[-2])
        mask, _ = read_mask(sample_volumes / "truth" / f"{name}_labels.nii.gz")
        assert mask.volume_ml == pytest.approx(told_ml, rel=0.3, abs=0.01)
