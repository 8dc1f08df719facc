"""Noise is measured as it is: white or blurred, whatever edges lie in it."""

import math
from pathlib import Path

import pytest
import torch
from analytic_head import draw_head
from torch.nn import functional

from hgisam.brain import intracranial_region, noise_hu
from hgisam.io.nifti import read_ct
from hgisam.volume import CTVolume


@pytest.mark.parametrize("noise", [0.0, 6.0, 25.0])
def test_the_noise_of_a_drawn_head_is_what_it_was_drawn_with(noise: float) -> None:
    head = draw_head((10.0, 2.0, 2.0), noise_hu=noise)
    assert noise_hu(head.ct, head.inside) == pytest.approx(noise, rel=0.06, abs=1e-3)


def test_noise_that_a_kernel_has_blurred_is_not_taken_for_less() -> None:
    """Neighbouring pixels are alike then, and their difference says little: it is 0.58 of what white noise has."""
    head = draw_head((10.0, 1.0, 1.0), noise_hu=0.0)
    white = torch.randn(head.ct.hu.shape, generator=torch.Generator().manual_seed(0))
    blurred = functional.avg_pool2d(white[:, None], 3, stride=1, padding=1)[:, 0]
    blurred *= 20.0 / blurred.std()
    found = noise_hu(CTVolume(head.ct.hu + blurred, head.ct.affine, "blurred"), head.inside)
    assert found == pytest.approx(20.0, rel=0.06)


def test_where_there_is_little_brain_nothing_is_said() -> None:
    head = draw_head((10.0, 2.0, 2.0))
    few = torch.zeros_like(head.inside)
    few[5, 50:65, 50:65] = True  # 9 cm2
    assert math.isnan(noise_hu(head.ct, few))
    assert math.isnan(noise_hu(head.ct, torch.zeros_like(few)))


def test_a_real_scan_has_the_noise_of_one_and_what_is_added_to_it(realdata: Path) -> None:
    ct, _ = read_ct(realdata / "ct_ich" / "070.nii.gz")
    region = intracranial_region(ct)
    own = noise_hu(ct, region)
    assert 3 < own < 7
    added = 25 * torch.randn(ct.hu.shape, generator=torch.Generator().manual_seed(0))
    assert noise_hu(CTVolume(ct.hu + added, ct.affine, ct.source), region) == pytest.approx(25.3, abs=0.8)
