"""Random changes keep what must be kept, and each goes as far as its range says."""

import math

import pytest
import torch
from scipy.special import erf, erfinv
from still import STILL

from hgisam.train.augment import AugmentOptions, SliceChanger
from hgisam.train.batches import TrainingBatch
from hgisam.train.losses import token_shares

SEEDS = range(60)


def a_slice_with_blood() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    hu = torch.zeros(64, 64)
    hu[20:40, 36:50] = 40.0
    region = torch.zeros(64, 64, dtype=torch.bool)
    region[4:60, 8:56] = True
    return hu, region, hu > 20


def test_with_all_ranges_zero_nothing_changes() -> None:
    hu, region, blood = a_slice_with_blood()
    moved = SliceChanger(STILL, 1.0)(hu, region, blood, 0)
    torch.testing.assert_close(moved[0], hu, atol=1e-3, rtol=0)
    assert torch.equal(moved[1], region)
    assert torch.equal(moved[2], blood)


def test_a_certain_flip_exchanges_left_and_right_of_all_three() -> None:
    hu, region, blood = a_slice_with_blood()
    options = STILL.model_copy(update={"flip_probability": 1.0})
    moved = SliceChanger(options, 1.0)(hu, region, blood, 0)
    torch.testing.assert_close(moved[0], hu.flip(1), atol=1e-3, rtol=0)
    assert torch.equal(moved[1], region.flip(1))
    assert torch.equal(moved[2], blood.flip(1))


def test_blood_stays_on_the_bright_pixels_however_the_slice_moves() -> None:
    hu, region, blood = a_slice_with_blood()
    change = SliceChanger(AugmentOptions(gain=0, offset_hu=0, noise_hu=0, blur_px=0), 1.0)
    for seed in range(4):
        moved_hu, _, moved_blood = change(hu, region, blood, seed)
        assert moved_blood.any()
        assert float(((moved_hu > 20) == moved_blood).float().mean()) > 0.995


def test_tokens_are_told_of_blood_where_it_has_gone() -> None:
    """Each of 8 x 8 tokens is told the share of its 8 x 8 pixels that are bright in the picture it belongs to."""
    change = SliceChanger(AugmentOptions(shift_mm=(16.0, 16.0), gain=0, offset_hu=0, noise_hu=0, blur_px=0), 2.0)
    hu, region, blood = a_slice_with_blood()
    unchanged = blood.reshape(8, 8, 8, 8).float().mean(dim=(1, 3))
    for seed in range(8):
        moved_hu, _, moved_blood = change(hu, region, blood, seed)
        nothing = torch.zeros(1, 6, dtype=torch.bool)
        traced = torch.ones(1, dtype=torch.bool)
        batch = TrainingBatch(moved_hu[None, None], nothing, nothing, moved_blood[None], traced)
        told, _ = token_shares(batch, 8)
        bright = (moved_hu >= 20).reshape(8, 8, 8, 8).float().mean(dim=(1, 3))
        torch.testing.assert_close(told[0], bright, atol=2 / 64, rtol=0)
        assert not torch.allclose(told[0], unchanged, atol=4 / 64)


def moved_spots(spacing_mm: float, **ranges: object) -> list[tuple[float, float]]:
    """Where a spot 20 px above and 12 px to the right of the centre lies then, in px from there, for each of SEEDS.

    Blood and region lie in the spot and must go along with it, to half a pixel since they are not gray.
    """
    change = SliceChanger(STILL.model_copy(update=ranges), spacing_mm)
    offsets = torch.arange(81.0) - 40
    rows, columns = torch.meshgrid(offsets, offsets, indexing="ij")
    hu = 40.0 * torch.exp(-((rows + 20) ** 2 + (columns - 12) ** 2) / (2 * 3.0**2))
    found = []
    for seed in SEEDS:
        changed = change(hu, hu > 20, hu > 20, seed)
        spots = [
            (float((rows * weight).sum() / weight.sum()), float((columns * weight).sum() / weight.sum()))
            for weight in (plane.float() for plane in changed)
        ]
        for other in spots[1:]:
            assert other == pytest.approx(spots[0], abs=0.5)
        found.append(spots[0])
    return found


@pytest.mark.parametrize("spacing_mm", [1.0, 2.0])
def test_shifts_reach_as_many_millimetres_as_they_may(spacing_mm: float) -> None:
    found = moved_spots(spacing_mm, shift_mm=(8.0, 3.0))
    for axis, (limit_mm, place_px) in enumerate(((8.0, -20.0), (3.0, 12.0))):
        shifts_mm = [(spot[axis] - place_px) * spacing_mm for spot in found]
        assert max(map(abs, shifts_mm)) <= limit_mm + 0.02
        assert min(shifts_mm) < -0.8 * limit_mm
        assert max(shifts_mm) > 0.8 * limit_mm


def test_rotations_turn_about_the_centre_by_as_many_degrees_as_they_may() -> None:
    found = moved_spots(2.0, rotation_deg=5.0)
    turned = [math.degrees(math.atan2(row, column) - math.atan2(-20, 12)) for row, column in found]
    assert [math.hypot(*spot) for spot in found] == pytest.approx([math.hypot(20, 12)] * len(found), abs=0.05)
    assert max(map(abs, turned)) <= 5.05
    assert min(turned) < -4.0
    assert max(turned) > 4.0


def test_rows_and_columns_are_stretched_apart() -> None:
    """By 1 / (1 + s) for s up to the range: where a pixel is taken from is drawn."""
    found = moved_spots(2.0, scale=0.12)
    drawn = [(-20 / row - 1, 12 / column - 1) for row, column in found]
    for axis in (0, 1):
        along = [pair[axis] for pair in drawn]
        assert max(map(abs, along)) <= 0.122
        assert min(along) < -0.09
        assert max(along) > 0.09
    assert max(abs(row - column) for row, column in drawn) > 0.1


def test_contrast_changes_by_one_factor_about_the_brain_median() -> None:
    hu, mask = torch.linspace(-40, 80, 64 * 64).reshape(64, 64), torch.ones(64, 64, dtype=torch.bool)
    change = SliceChanger(STILL.model_copy(update={"gain": 0.15}), 1.0)
    factors = []
    for seed in SEEDS:
        changed, region, blood = change(hu, mask, hu > 20, seed)
        factors.append(float((changed * hu).sum() / (hu * hu).sum()))
        torch.testing.assert_close(changed, factors[-1] * hu, atol=1e-3, rtol=0)
        assert torch.equal(region, mask)
        assert torch.equal(blood, hu > 20)
    assert 0.85 <= min(factors) < 0.88
    assert 1.12 < max(factors) <= 1.15


def test_all_hu_are_shifted_alike() -> None:
    hu, region, blood = a_slice_with_blood()
    change = SliceChanger(STILL.model_copy(update={"offset_hu": 3.0}), 1.0)
    shifts = []
    for seed in SEEDS:
        changed = change(hu, region, blood, seed)
        shifts.append(float((changed[0] - hu).mean()))
        torch.testing.assert_close(changed[0], hu + shifts[-1], atol=1e-3, rtol=0)
        assert torch.equal(changed[1], region)
        assert torch.equal(changed[2], blood)
    assert -3.0 <= min(shifts) < -2.4
    assert 2.4 < max(shifts) <= 3.0


def test_a_blur_is_a_gaussian_of_at_most_its_range() -> None:
    """Of a bright pixel its column keeps erf(1/2s), s in units of the deviation times root two, and the next column
    gets half of what erf(3/2s) is more: the Gaussian integrated over a pixel.
    """
    hu, mask = torch.zeros(65, 65), torch.ones(65, 65, dtype=torch.bool)
    hu[32, 32] = 1000.0
    change = SliceChanger(STILL.model_copy(update={"blur_px": 1.0}), 1.0)
    deviations = []
    for seed in SEEDS:
        columns = change(hu, mask, mask, seed)[0].sum(dim=0) / 1000.0
        assert float(columns.sum()) == pytest.approx(1.0, abs=1e-3)
        scale = 0.5 / erfinv(min(float(columns[32]), 1 - 1e-9))
        assert float(columns[33]) == pytest.approx((erf(1.5 / scale) - erf(0.5 / scale)) / 2, abs=2e-3)
        assert float(columns[31]) == pytest.approx(float(columns[33]), abs=1e-5)
        deviations.append(scale / math.sqrt(2))
    assert max(deviations) == pytest.approx(0.9, abs=0.1)
    assert min(deviations) < 0.4


def test_one_seed_gives_one_result_and_another_another() -> None:
    change, given = SliceChanger(AugmentOptions(), 1.0), a_slice_with_blood()
    first, other, again = (change(*given, seed)[0] for seed in (5, 6, 5))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_a_slice_and_its_twin_are_changed_alike() -> None:
    hu, region, blood = a_slice_with_blood()
    change = SliceChanger(AugmentOptions(blur_px=0), 1.0)
    bled, before = change(hu, region, blood, 9), change(torch.zeros_like(hu), region, torch.zeros_like(blood), 9)
    assert torch.equal(bled[1], before[1])
    far_from_blood = torch.ones_like(blood)
    rows, columns = torch.nonzero(bled[0] - before[0] > 1e-3, as_tuple=True)
    far_from_blood[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = False
    torch.testing.assert_close(bled[0][far_from_blood], before[0][far_from_blood], atol=1e-3, rtol=0)


def test_noise_has_the_drawn_strength() -> None:
    flat, mask = torch.zeros(64, 64), torch.ones(64, 64, dtype=torch.bool)
    change = SliceChanger(STILL.model_copy(update={"noise_hu": 4.0}), 1.0)
    strengths = torch.stack([change(flat, mask, mask, seed)[0].std() for seed in range(100)])
    assert float(strengths.max()) <= 4.3
    assert float(strengths.mean()) == pytest.approx(2.0, abs=0.4)


@pytest.mark.parametrize("spacing_mm", [1.0, 2.0])
def test_holes_are_cut_to_the_brain_median_and_nowhere_else(spacing_mm: float) -> None:
    hu, mask = torch.full((64, 64), 30.0), torch.ones(64, 64, dtype=torch.bool)
    options = STILL.model_copy(update={"dropout_holes": 1, "dropout_mm": 10.0})
    changed, region, _ = SliceChanger(options, spacing_mm)(hu, mask, mask, 3)
    holes = changed.abs() < 1e-3
    assert int(holes.sum()) == (10.0 / spacing_mm) ** 2
    torch.testing.assert_close(changed[~holes], hu[~holes], atol=1e-3, rtol=0)
    assert torch.equal(region, mask)


def test_blood_under_a_hole_is_not_taught() -> None:
    """All pixels are blood of 30 HU over the brain median but those of the holes; slices together have the same."""
    hu, mask = torch.full((3, 64, 64), 30.0), torch.ones(3, 64, 64, dtype=torch.bool)
    change = SliceChanger(STILL.model_copy(update={"dropout_holes": 4, "dropout_mm": 12.0}), 1.0)
    for seed in range(10):
        changed, region, blood = change(hu, mask, mask, seed)
        assert torch.equal(blood, changed > 15)
        assert 144 <= int((~blood[0]).sum()) <= 4 * 144
        assert torch.equal(blood, blood[:1].expand_as(blood))
        assert torch.equal(region, mask)


def test_holes_lie_alike_in_a_slice_and_its_twin() -> None:
    hu, region, blood = a_slice_with_blood()
    change = SliceChanger(STILL.model_copy(update={"dropout_holes": 4}), 1.0)
    plain = torch.full_like(hu, 5.0)
    bled, before = change(plain + hu, region, blood, 2), change(plain, region, torch.zeros_like(blood), 2)
    assert torch.equal(bled[0].abs() < 1e-3, before[0].abs() < 1e-3)
