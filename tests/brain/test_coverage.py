"""What is missing from a scan is said."""

import pytest
import torch

from hgisam.brain import coverage_doubts
from hgisam.volume import CTVolume


def ball(spacing_mm: float = 5.0, depth: int = 40) -> tuple[CTVolume, torch.Tensor]:
    """A brain of 150 mm in a volume of 64 x 64 pixels of 3 mm, its slices 5 mm apart where nothing else is said."""
    d, h, w = torch.meshgrid(*(torch.arange(float(n)) for n in (depth, 64, 64)), indexing="ij")
    region = torch.hypot(5.0 * (d - (depth - 1) / 2), 3.0 * torch.hypot(h - 31.5, w - 31.5)) < 75.0
    affine = torch.diag(torch.tensor([spacing_mm, 3.0, 3.0, 1.0], dtype=torch.float64))
    return CTVolume(torch.where(region, 35.0, -1000.0), affine, "ball"), region


def test_a_whole_brain_raises_no_doubt() -> None:
    assert coverage_doubts(*ball()) == ()


def test_no_brain_raises_no_doubt() -> None:
    ct, region = ball()
    assert coverage_doubts(ct, torch.zeros_like(region)) == ()


@pytest.mark.parametrize(("spacing_mm", "said"), [(0.5, "mm high"), (9.0, "mm high"), (20.0, "20 mm apart")])
def test_a_slice_spacing_that_makes_no_brain_is_doubted(spacing_mm: float, said: str) -> None:
    assert said in " ".join(coverage_doubts(*ball(spacing_mm)))


def test_a_scan_that_ends_within_the_brain_measures_a_lower_bound() -> None:
    ct, region = ball()
    top_missing = CTVolume(ct.hu[:20], ct.affine, ct.source)
    (said,) = coverage_doubts(top_missing, region[:20])
    assert "at its top: a volume is a lower bound" in said


def test_empty_slices_within_the_brain_are_counted() -> None:
    ct, region = ball()
    hu, region = ct.hu.clone(), region.clone()
    hu[18:21], region[18:21] = -1000.0, False
    (said,) = coverage_doubts(CTVolume(hu, ct.affine, ct.source), region)
    assert said.startswith("3 slices within the brain are empty")


def test_a_brain_that_the_picture_cuts_is_doubted() -> None:
    ct, region = ball()
    (said,) = coverage_doubts(CTVolume(ct.hu[:, :, 20:], ct.affine, ct.source), region[:, :, 20:])
    assert "edge cuts the brain" in said
