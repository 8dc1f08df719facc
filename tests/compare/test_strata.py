"""What makes a case hard, measured on the case itself."""

from pathlib import Path

import pytest
from analytic_head import draw_head

from hgisam.compare.data import ComparedCase
from hgisam.compare.strata import contrasts_hu
from hgisam.io.nifti import new_grid_for, write_ct, write_mask


def test_the_contrast_of_a_thin_bleed_is_that_of_its_blood_and_not_of_the_bone_beside_it(tmp_path: Path) -> None:
    """Blood of 60 HU in brain of 35, outlined with more of the skull than there is blood."""
    head = draw_head((10.0, 2.5, 2.5), noise_hu=0.0)
    blood = head.inside & ((head.across_mm - 25).abs() < 6) & (head.along_mm.abs() < 6)
    scan = head.with_hu(blood, 60.0)
    bone = scan.hu > 300
    write_ct(tmp_path / "p.nii.gz", scan, new_grid_for(scan))
    found = {}
    for name, reference in (("with", blood | bone), ("only", bone)):
        write_mask(tmp_path / f"{name}_mask.nii.gz", reference, new_grid_for(scan))
        case = ComparedCase(name, name, tmp_path / "p.nii.gz", tmp_path / f"{name}_mask.nii.gz")
        found |= contrasts_hu([case])
    assert bone.sum() > blood.sum()
    assert found == {"with": pytest.approx(25.0, abs=1.0)}
