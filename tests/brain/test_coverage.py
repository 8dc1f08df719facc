"""What is missing from a scan is said."""

import re

import numpy as np
import pytest
import torch
from analytic_head import draw_head

from hgisam.brain import BrainOptions, VolumeDoubt, coverage_doubts, intracranial_region
from hgisam.volume import CTVolume


def ball(spacing_mm: float = 5.0, depth: int = 40) -> tuple[CTVolume, torch.Tensor]:
    """A brain of 150 mm in 9 mm of bone, of 64 x 64 pixels of 3 mm, its slices 5 mm apart if nothing else is said."""
    d, h, w = torch.meshgrid(*(torch.arange(float(n)) for n in (depth, 64, 64)), indexing="ij")
    region = torch.hypot(5.0 * (d - (depth - 1) / 2), 3.0 * torch.hypot(h - 31.5, w - 31.5)) < 75.0
    affine = torch.diag(torch.tensor([spacing_mm, 3.0, 3.0, 1.0], dtype=torch.float64))
    hu = torch.where(region, 35.0, -1000.0)
    shell = torch.hypot(5.0 * (d - (depth - 1) / 2), 3.0 * torch.hypot(h - 31.5, w - 31.5)) < 84.0
    return CTVolume(torch.where(shell & ~region, 900.0, hu), affine, "ball"), region


def test_a_whole_brain_raises_no_doubt() -> None:
    assert coverage_doubts(*ball()) == ()


def test_no_brain_raises_no_doubt() -> None:
    ct, region = ball()
    assert coverage_doubts(ct, torch.zeros_like(region)) == ()


@pytest.mark.parametrize(("spacing_mm", "said"), [(0.5, "mm high"), (9.0, "mm high"), (20.0, "20 mm apart")])
def test_a_slice_spacing_that_makes_no_brain_is_doubted(spacing_mm: float, said: str) -> None:
    assert said in " ".join(doubt.text for doubt in coverage_doubts(*ball(spacing_mm)))


@pytest.mark.parametrize("scale", [0.5, 0.6, 1.15, 1.2])
def test_a_pixel_size_that_makes_no_brain_is_doubted(scale: float) -> None:
    """A ball of 150 mm shows 177 cm2."""
    ct, region = ball()
    affine = ct.affine @ torch.diag(torch.tensor([1.0, scale, scale, 1.0], dtype=torch.float64))
    said = coverage_doubts(CTVolume(ct.hu, affine, ct.source), region)
    if scale in {0.6, 1.15}:  # 64 and 234 cm2
        assert said == ()
    else:
        (doubt,) = said
        area_cm2 = int(re.search(r"largest slice has (\d+) cm2, .* is the pixel size wrong", doubt.text)[1])
        assert doubt.volume is VolumeDoubt.UNSURE
        assert area_cm2 == pytest.approx(np.pi * (7.5 * scale) ** 2, rel=0.01)


def test_a_scan_that_ends_within_the_brain_measures_a_lower_bound() -> None:
    ct, region = ball()
    top_missing = CTVolume(ct.hu[:20], ct.affine, ct.source)
    (said,) = coverage_doubts(top_missing, region[:20])
    assert "at its top: a volume is a lower bound" in said.text
    assert said.volume is VolumeDoubt.LOWER_BOUND


@pytest.mark.parametrize("filling", [-1000.0, 0.0])
def test_empty_slices_within_the_brain_are_counted(filling: float) -> None:
    ct, region = ball()
    hu, region = ct.hu.clone(), region.clone()
    hu[18:21], region[18:21] = filling, False
    (said,) = coverage_doubts(CTVolume(hu, ct.affine, ct.source), region)
    assert said.text.startswith("3 slices within the head are empty")
    assert said.volume is VolumeDoubt.LOWER_BOUND


@pytest.mark.parametrize("filling", [-1000.0, 0.0])
def test_a_scan_that_ends_within_the_brain_is_known_though_its_end_is_filled_up(filling: float) -> None:
    ct, region = ball()
    hu, region = ct.hu.clone(), region.clone()
    hu[20:], region[20:] = filling, False
    (said,) = coverage_doubts(CTVolume(hu, ct.affine, ct.source), region)
    assert "at its top: a volume is a lower bound" in said.text


def test_slices_of_nothing_part_no_head() -> None:
    """What is found above and below an empty slice is what is found without it."""
    head = draw_head(bottom_mm=-40.0, top_mm=60.0)
    whole = intracranial_region(head.ct)
    middle = len(whole) // 2
    for filling in (-1000.0, 0.0):
        hu = head.ct.hu.clone()
        hu[middle] = filling
        region = intracranial_region(CTVolume(hu, head.ct.affine, "a gap"))
        assert not region[middle].any()
        others = [index for index in range(len(whole)) if index != middle]
        assert torch.equal(region[others].flatten(1).any(1), whole[others].flatten(1).any(1))
        assert int(region[others].sum()) > 0.97 * int(whole[others].sum())


@pytest.mark.parametrize("filled_up", [False, True])
def test_a_brain_that_the_picture_cuts_is_doubted_and_a_whole_one_in_a_tight_picture_is_not(filled_up: bool) -> None:
    """Cut a third into the head from its right; filled up with air again, or not."""
    head = draw_head(bottom_mm=-20.0, top_mm=40.0)
    columns = head.ct.hu.amax(dim=(0, 1)) > -500
    first, last = int(columns.nonzero()[0]), int(columns.nonzero()[-1])
    assert _cut(head.ct.hu[:, :, first:last], head.ct) == []
    start = first + (last - first) // 3
    hu = head.ct.hu.clone()
    hu[:, :, :start] = -1000.0
    (said,) = _cut(hu if filled_up else hu[:, :, start:], head.ct)
    n_slices = len(hu)
    assert said == f"the picture ends within the brain in {n_slices} slices: a volume is a lower bound"


def test_what_is_bone_and_what_is_air_is_for_the_options_to_say() -> None:
    """To options by which the skull of 900 HU is as good as air, nothing closes the brain in."""
    said = coverage_doubts(*ball(), BrainOptions(bone_hu=1000.0, head_hu=950.0))
    assert any("picture ends within the brain" in doubt.text for doubt in said)


def _cut(hu: torch.Tensor, like: CTVolume) -> list[str]:
    scan = CTVolume(hu.contiguous(), like.affine, "a part")
    doubts = coverage_doubts(scan, intracranial_region(scan))
    return [doubt.text for doubt in doubts if "picture ends" in doubt.text]


def test_slices_that_were_not_taken_axially_are_doubted() -> None:
    """Sagittal slices 5 mm apart of a scan of 0.7 mm: in axial planes, its pixels are 0.7 x 5 mm."""
    ct, region = ball()
    affine = torch.diag(torch.tensor([5.0, 0.7, 5.0, 1.0], dtype=torch.float64))
    said = coverage_doubts(CTVolume(ct.hu, affine, "sagittal"), region)
    assert any("0.7 x 5 mm in axial planes: the scan was sliced in another direction" in doubt.text for doubt in said)


def test_metal_is_told_from_bone() -> None:
    ct, region = ball()
    for hu_of_it, expected in ((2000.0, 0), (3071.0, 1)):
        hu = ct.hu.clone()
        hu[19:22, 30:33, 30:33] = hu_of_it
        said = coverage_doubts(CTVolume(hu, ct.affine, ct.source), region)
        assert sum("metal in 3 slices" in doubt.text for doubt in said) == expected
