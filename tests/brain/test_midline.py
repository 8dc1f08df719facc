"""The mid-sagittal line against heads whose line is known, and on a real scan turned by known angles."""

import math
from pathlib import Path

import pytest
import torch
from analytic_head import AnalyticHead, draw_head
from torch.nn import functional

from hgisam.brain import Midline, intracranial_region, is_turned_sideways, midsagittal_line
from hgisam.io.nifti import read_ct
from hgisam.volume import CTVolume, SlicePlanes


def line_of(volume: CTVolume) -> Midline:
    return midsagittal_line(volume, intracranial_region(volume))


def upper_head(angle_deg: float, offset_mm: float, offset_step_mm: float = 0.0) -> AnalyticHead:
    return draw_head((5.0, 1.0, 1.0), angle_deg, offset_mm, offset_step_mm, bottom_mm=-20.0, top_mm=60.0)


@pytest.mark.parametrize(
    ("angle_deg", "offset_mm"),
    [(-38.0, 4.3), (-26.5, -9.0), (-10.3, 0.0), (0.0, 4.3), (0.6, -9.0), (7.7, 9.0), (38.0, 0.0)],
)
def test_turn_and_offset_are_found(angle_deg: float, offset_mm: float) -> None:
    line = line_of(upper_head(angle_deg, offset_mm).ct)
    assert line.angle_deg == pytest.approx(angle_deg, abs=1.0)
    for depth in (0, 8, 15):
        assert line.offset_at_mm(depth) == pytest.approx(offset_mm, abs=1.5)


@pytest.mark.parametrize("lean_deg", [-15.0, 6.0])
def test_the_lean_of_the_head_is_found(lean_deg: float) -> None:
    step_mm = 5.0 * math.tan(math.radians(lean_deg))
    line = line_of(upper_head(8.0, -8 * step_mm, step_mm).ct)
    assert line.angle_deg == pytest.approx(8.0, abs=1.0)
    for depth in (0, 8, 15):
        assert line.offset_at_mm(depth) == pytest.approx((depth - 8) * step_mm, abs=1.5)


def test_anisotropic_pixels_are_measured_in_mm() -> None:
    head = draw_head((5.0, 0.7, 1.3), angle_deg=15.0, offset_mm=3.0, bottom_mm=-10.0, top_mm=40.0)
    line = line_of(head.ct)
    assert line.angle_deg == pytest.approx(15.0, abs=1.0)
    assert line.offset_at_mm(5) == pytest.approx(3.0, abs=1.5)


def test_a_large_one_sided_bleed_does_not_pull_the_line() -> None:
    head = upper_head(5.0, 2.0)
    bleed = head.inside & ((head.across_mm - 38) ** 2 + head.along_mm**2 + head.up_mm**2 < 25**2)
    line = line_of(head.with_hu(bleed, 75.0))
    assert line.angle_deg == pytest.approx(5.0, abs=1.5)
    assert line.offset_at_mm(8) == pytest.approx(2.0, abs=1.5)


def test_a_single_slice_has_a_line_that_does_not_lean() -> None:
    line = line_of(draw_head(angle_deg=-12.0, offset_mm=3.0, bottom_mm=22.0, top_mm=27.0).ct)
    assert line.angle_deg == pytest.approx(-12.0, abs=1.5)
    assert line.offset_mm == pytest.approx(3.0, abs=1.5)
    assert line.offset_step_mm == 0.0


def test_the_mirror_image_of_a_head_has_the_mirror_image_of_its_line() -> None:
    head = upper_head(11.0, 6.0, 0.4)
    line = line_of(head.ct)
    mirrored = line_of(CTVolume(head.ct.hu.flip(2), head.ct.affine, "mirrored"))
    assert mirrored.angle_deg == pytest.approx(-line.angle_deg, abs=0.5)
    for depth in (0, 15):
        assert mirrored.offset_at_mm(depth) == pytest.approx(-line.offset_at_mm(depth), abs=0.7)


def test_the_same_scan_has_the_same_line() -> None:
    head = upper_head(9.0, 1.0)
    region = intracranial_region(head.ct)
    assert midsagittal_line(head.ct, region) == midsagittal_line(head.ct, region)


def test_without_a_region_the_line_is_the_middle_of_the_picture() -> None:
    head = upper_head(9.0, 1.0)
    nothing = torch.zeros(head.ct.hu.shape, dtype=torch.bool)
    assert midsagittal_line(head.ct, nothing) == Midline(angle_deg=0.0, offset_mm=0.0, offset_step_mm=0.0)


def turned(volume: CTVolume, angle_deg: float) -> CTVolume:
    """A scan with square pixels, turned about the middle of the picture so that its line's angle grows."""
    cos, sin = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    theta = torch.tensor([[[cos, sin, 0.0], [-sin, cos, 0.0]]]).expand(len(volume.hu), -1, -1)
    grid = functional.affine_grid(theta, [len(volume.hu), 1, *volume.hu.shape[1:]], align_corners=False)
    hu = functional.grid_sample(volume.hu[:, None] + 1024.0, grid, align_corners=False)[:, 0] - 1024.0
    return CTVolume(hu, volume.affine, volume.source)


def test_a_real_head_turned_by_a_known_angle_has_its_line_turned_by_it(realdata: Path) -> None:
    volume, _ = read_ct(realdata / "ct_ich" / "104.nii.gz")
    angle_deg = line_of(volume).angle_deg
    for turn_deg in (-17.0, 6.4):
        assert line_of(turned(volume, turn_deg)).angle_deg - angle_deg == pytest.approx(turn_deg, abs=1.0)


def test_in_uneven_slices_the_line_leans_by_mm_and_not_by_slice() -> None:
    step_mm = 0.5
    head = draw_head(spacing_mm=(2.5, 1.0, 1.0), offset_mm=-14.0, offset_step_mm=step_mm)
    kept = [*range(22), *range(22, len(head.ct.hu), 3)]
    z = torch.tensor(kept, dtype=torch.float64) * 2.5
    affines = head.ct.affine[:3, 1:].repeat(len(kept), 1, 1)
    affines[:, 2, 2] = z
    spacing = torch.cat([torch.full((22,), 2.5), torch.full((len(kept) - 22,), 7.5)]).double()
    places = SlicePlanes(affines, spacing, spacing, ("",) * len(kept), (1,) * len(kept), regular=False, complete=True)
    uneven = CTVolume(head.ct.hu[kept], head.ct.affine, "uneven", places)
    line = midsagittal_line(uneven, head.inside[kept])
    found = [line.offset_at_mm(c) for c in uneven.slice_coordinates.tolist()]
    for index in range(4, len(kept) - 2):
        assert found[index] == pytest.approx(-14.0 + kept[index] * step_mm, abs=1.5)


@pytest.mark.parametrize(
    ("angle_deg", "sideways"), [(0.0, False), (35.0, False), (-35.0, False), (75.0, True), (90.0, True)]
)
def test_a_head_with_its_nose_to_one_side_is_found_and_one_that_is_turned_a_little_is_not(
    angle_deg: float, sideways: bool
) -> None:
    head = draw_head((10.0, 2.0, 2.0), angle_deg=angle_deg, bottom_mm=-20.0)
    assert is_turned_sideways(head.ct, head.inside) is sideways


def test_of_a_few_slices_no_turn_is_told() -> None:
    head = draw_head((10.0, 2.0, 2.0), angle_deg=90.0, bottom_mm=0.0, top_mm=40.0)
    assert not is_turned_sideways(head.ct, head.inside)
